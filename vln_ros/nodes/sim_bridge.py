"""A simulated robot: publishes what a robot publishes, takes what a robot takes, runs episodes."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from pathlib import Path

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from std_msgs.msg import String
from tqdm import tqdm
from trajectory_msgs.msg import JointTrajectory

from vln_ros.axes import base_from_optical
from vln_ros.config import BridgeConfig, ConfigError, to_flat
from vln_ros.datatypes import CameraModel
from vln_ros.evaluation.episode_run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.evaluation.metrics import summary_table
from vln_ros.evaluation.record import EpisodeRecorder
from vln_ros.evaluation.results import Protocol, RunInfo, Skip
from vln_ros.evaluation.run_folder import RunFolder
from vln_ros.evaluation.worlds import choose_episodes
from vln_ros.nodes.bridge_modes import Lockstep, RealTime
from vln_ros.nodes.robot_topics import RobotTopics
from vln_ros.nodes.running import ProcessNode, run_node
from vln_ros.ros import convert, qos
from vln_ros.ros.parameters import declare_config
from vln_ros.sim.embedded import EmbeddedWorld
from vln_ros.sim.episodes import Episode
from vln_ros.sim.plan import draw_plan

RESET_PAUSE_NS = 10_000_000_000
"""Simulated time between two episodes: the robot is carried to its next start, it does not jump there."""

ASK_AGAIN_S = 10.0
"""An instruction that nobody has answered for this long is published again."""


class SimBridge(ProcessNode):
    """See docs/nodes.md for topics and parameters.

    An episode begins with its instruction on the latched topic. Images flow once the navigator has
    answered it (with a hold under a new instruction number), so no frame of the new episode can be
    taken for one of the old.
    """

    def __init__(self) -> None:
        super().__init__("sim_bridge")
        self.config = c = declare_config(self, BridgeConfig)
        self._limits = EpisodeLimits.of(c.max_steps, c.limits, None)
        self._episodes = self._load_episodes()
        camera = CameraModel.from_hfov(c.camera.width, c.camera.height, math.radians(c.camera.hfov_deg))
        mount = base_from_optical(
            0.0, 0.0, c.camera.height_m, pitch_down_rad=math.radians(c.camera.pitch_down_deg)
        )
        self.world = EmbeddedWorld(camera, mount)
        self.topics = RobotTopics(self, c, camera)
        self._folder = None
        if c.run_folder:
            self._folder = RunFolder(Path(c.run_folder), self._run_info(), resume=bool(c.run_info))
            self._episodes = [e for e in self._episodes if not self._folder.is_done(e.episode_id)]
        self._instruction_pub = self.create_publisher(String, "instruction", qos.latched())
        self.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.commands())
        self._mode = Lockstep(self) if c.mode == "lockstep" else RealTime(self)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        period_s = 0.02 if c.mode == "lockstep" else 1.0 / (c.odometry_hz * c.realtime_factor)
        self.create_timer(period_s, self._tick, clock=self._steady)
        self._progress = tqdm(total=len(self._episodes), unit="episode", file=sys.stderr, disable=None)
        self._next = iter(self._episodes)
        self._epoch = self._instruction = 0
        self._stamp_ns = RESET_PAUSE_NS
        self._successes = 0
        self._asked_s, self._asked_again = time.monotonic(), 1
        self.run: EpisodeRun | None = None
        self.answered = False

    def _load_episodes(self) -> list[Episode]:
        c = self.config
        if not c.episodes:
            raise ConfigError("episodes is empty: name an episode file; `vln_ros scenes` writes some")
        return list(choose_episodes(Path(c.episodes), c.first_episode, c.episode_count))

    def _run_info(self) -> RunInfo:
        c = self.config
        if c.run_info:
            return RunInfo.from_tree(json.loads(Path(c.run_info).read_text("utf-8")))
        protocol = Protocol(
            "embedded", Path(c.episodes).stem.removesuffix(".json"), c.mode, self._episodes[0].goal_radius_m,
            c.step.forward_m, c.step.turn_deg, self._limits.steps, self._limits.actions,
            self._limits.turns_in_place, self._limits.questions, self._limits.as_stop,
        )  # fmt: skip
        command = tuple(shlex.split(c.command)) or tuple(sys.argv)
        return RunInfo(command, protocol, 0, to_flat(c))

    def close(self) -> None:
        self._progress.close()
        if self.run is not None:
            self.run.discard()
        if self._folder is not None:
            self._folder.finish(None, complete=self.done.result() == 0)
            self._folder.close()
        self.world.close()

    # ------------------------------------------------------------------ episodes

    def _begin(self) -> None:
        episode = next(self._next, None)
        if episode is None:
            if self._folder is not None:
                print(summary_table(self._folder.result(complete=True, frames=None).summary))
            self.done.set_result(0)
            return
        c, info = self.config, episode_info(episode)
        recorder = (
            EpisodeRecorder(info, None)
            if self._folder is None
            else self._folder.start_episode(info, video=c.video)
        )
        try:
            self.run = EpisodeRun(
                self.world,
                episode,
                start_ns=self._stamp_ns,
                step_period_ns=round(c.step_period_s * 1e9),
                limits=self._limits,
                recorder=recorder,
            )
        except ValueError as error:  # of this episode: scene or start are not as they should be
            recorder.discard()
            self.get_logger().error(f"episode {episode.episode_id} is left out: {error}")
            if self._folder is not None:
                self._folder.skip(Skip(episode.episode_id, episode.scene_id, str(error)))
            return
        self.answered = False
        self._asked_s, self._asked_again = time.monotonic(), 1
        self._instruction_pub.publish(convert.string_from_instruction(episode.instruction))

    def _end(self, run: EpisodeRun) -> None:
        self._stamp_ns = run.stamp_ns + RESET_PAUSE_NS
        if isinstance(self._mode, RealTime):
            self._mode.end(run)
        record = run.finish()
        assert record.metrics is not None  # an episode of a world has a goal
        self._successes += record.metrics.success
        if self._folder is not None:
            self._folder.add(record, draw_plan(self.world.scene.flat))
        self.run = None
        self._progress.update()
        self._progress.set_postfix_str(f"{self._successes} reached")

    def _on_queue(self, msg: JointTrajectory) -> None:
        try:
            chunk = convert.chunk_from_trajectory(msg)
        except convert.MessageError as error:
            self.get_logger().warning(str(error))
            return
        if self.run is None:
            return
        if chunk.epoch != self._epoch:  # another life of the navigator: its numbers begin anew
            self._epoch, self._instruction, self.answered = chunk.epoch, chunk.instruction, True
        elif not self.answered:
            # Any queue under a new number will do: the hold itself may have been overwritten.
            self.answered = chunk.instruction > self._instruction
            self._instruction = max(self._instruction, chunk.instruction)
        if chunk.instruction == self._instruction and chunk.actions:
            self._mode.on_queue(self.run, chunk)

    def _tick(self) -> None:
        if self.done.done() or not self.topics.heard:
            return
        if self.run is None:
            self._begin()
        elif self.run.ended is not None:
            self._end(self.run)
        elif self.answered:
            self._mode.tick(self.run)
        elif (waited_s := time.monotonic() - self._asked_s) > self.config.answer_timeout_s:
            self.give_up("the navigator did not take the instruction")
        elif waited_s > self._asked_again * ASK_AGAIN_S:
            # Its answer may have come before this process could hear it.
            self._asked_again += 1
            self._instruction_pub.publish(convert.string_from_instruction(self.run.episode.instruction))

    def give_up(self, why: str) -> None:
        """End the process: without an answer no further episode makes sense."""
        self.get_logger().error(f"{why} within {self.config.answer_timeout_s:g} s (answer_timeout_s)")
        self.done.set_result(1)


def main() -> None:
    run_node(SimBridge)


if __name__ == "__main__":
    main()
