"""Mode ``manual``: each service call is one discrete action."""

from __future__ import annotations

import math
import time
from functools import partial

from std_srvs.srv import Trigger

from vln_ros.datatypes import ActionChunk, ActionKind, StepSize
from vln_ros.evaluation.episode.run import EpisodeRun
from vln_ros.nodes.sim_bridge.host import Host

STEP_SERVICES = {
    "move_forward": ActionKind.FORWARD,
    "turn_left": ActionKind.TURN_LEFT,
    "turn_right": ActionKind.TURN_RIGHT,
    "stop": ActionKind.STOP,
}
"""Names as Habitat's actions."""


class Manual:
    """The world waits, and nobody needs to listen: one service call is one discrete action."""

    alone = True

    def __init__(self, host: Host) -> None:
        self._host = host
        c = host.config.step
        self._size = StepSize(c.forward_m, math.radians(c.turn_deg))
        self._run: EpisodeRun | None = None
        self._calls = 0
        self._shown_s = time.monotonic()
        for name, kind in STEP_SERVICES.items():
            host.node.create_service(Trigger, f"~/{name}", partial(self._on_step, kind))

    def on_queue(self, run: EpisodeRun, chunk: ActionChunk) -> None:
        """A navigator may listen and answer; it does not move this robot."""

    def another_navigator(self) -> None:
        """Nothing waits for it."""

    def tick(self, run: EpisodeRun) -> None:
        """Show the start."""
        if run is not self._run:
            self._run = run
            self._show(run)

    def end(self, run: EpisodeRun) -> None:
        """Nothing is left to do."""

    def _show(self, run: EpisodeRun) -> None:
        self._host.topics.standing(run.observe())
        self._host.measures.live(run)
        self._shown_s = time.monotonic()

    def _on_step(self, kind: ActionKind, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        run = self._host.run
        response.success = False
        if error := self._host.trouble:
            response.message = error
            return response
        if run is None or run.ended is not None:
            response.message = "no episode is under way: call ~/reset, or set the parameter episode"
            return response
        lost = self._host.guard(lambda run: self._step(run, kind))
        if lost is None:
            done = run.progress
            where = f"step {done.steps}, {done.path_length_m:.2f} m travelled, {done.collisions} collisions"
            response.success = True
            response.message = where if run.ended is None else f"{where}; the episode has ended: {run.ended}"
        else:
            response.message = lost
        self._host.tick()  # an end is told before the answer
        return response

    def _step(self, run: EpisodeRun, kind: ActionKind) -> None:
        self.tick(run)
        self._calls += 1
        chunk = ActionChunk(self._calls, 0, run.stamp_ns, (self._size.action(kind),))
        run.decided(chunk, (time.monotonic() - self._shown_s) * 1e3)
        for _ in run.execute(chunk):
            self._show(run)
