"""Records what happens in an episode while it runs, and freezes it at the end.

Steps and decisions are kept (about 200 bytes each); pictures are not: each frame goes straight into
the video encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Action, ActionChunk, Float64Array, PixelGoal, Pose
from vln_ros.evaluation.episode.metrics import EpisodeMetrics
from vln_ros.evaluation.episode.top_view import Plan, TopView
from vln_ros.evaluation.episode.video import FRAME_HEIGHT, Overlay, VideoWriter, annotate, mark_pixel
from vln_ros.reuse.accounting import ReuseStats

END_FRAMES = 8
"""At the end of a video, which say how the episode has ended: two seconds of an evaluation's."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeInfo:
    """What is known of an episode before it starts. A recording that is replayed has no goal.

    Attributes:
        episode_id: unique within the run.
        scene_id: as in the episode file; for a recording, its name.
        instruction: what the robot is told.
        goal: ``[2 or 3]`` metres, in the frame of the recorded poses, or None.
        goal_radius_m: success radius, metres; None without a goal.
        reference_path: ``[m, 2 or 3]`` metres, same frame, or None.
    """

    episode_id: str
    scene_id: str
    instruction: str
    goal: Float64Array | None = None
    goal_radius_m: float | None = None
    reference_path: Float64Array | None = None

    def __post_init__(self) -> None:
        if not self.episode_id:
            raise ValueError("episode_id is empty")
        if (self.goal is None) != (self.goal_radius_m is None):
            raise ValueError(f"episode {self.episode_id}: goal and goal_radius_m come together or not at all")


@dataclass(frozen=True, kw_only=True)
class Step:
    """The robot at one moment, and what brought it there since the step before.

    Attributes:
        stamp_ns: sensor or simulation time, nanoseconds.
        x_m, y_m, z_m, yaw_rad: pose of the base, metres and radians, *after* the action.
        action: the discrete action that was executed; None at the start and under velocity control.
        linear_m_s, angular_rad_s: velocity that was commanded; None under discrete control.
        collided: something was touched on the way here.
    """

    stamp_ns: int
    x_m: float
    y_m: float
    z_m: float
    yaw_rad: float
    action: Action | None = None
    linear_m_s: float | None = None
    angular_rad_s: float | None = None
    collided: bool = False

    @staticmethod
    def discrete(stamp_ns: int, pose: Pose, action: Action | None, collided: bool) -> Step:
        """After one discrete action; ``action=None`` for the start pose."""
        x, y, z = (float(v) for v in pose.position)
        return Step(
            stamp_ns=stamp_ns, x_m=x, y_m=y, z_m=z, yaw_rad=pose.yaw_rad, action=action, collided=collided
        )

    @staticmethod
    def continuous(
        stamp_ns: int, pose: Pose, linear_m_s: float, angular_rad_s: float, collided: bool
    ) -> Step:
        """One odometry sample under velocity control."""
        x, y, z = (float(v) for v in pose.position)
        return Step(
            stamp_ns=stamp_ns,
            x_m=x,
            y_m=y,
            z_m=z,
            yaw_rad=pose.yaw_rad,
            linear_m_s=linear_m_s,
            angular_rad_s=angular_rad_s,
            collided=collided,
        )


@dataclass(frozen=True)
class Decision:
    """One answer of the engine.

    Attributes:
        chunk: the queue it gave.
        latency_ms: from asking to answer, milliseconds, monotonic clock.
        step: index in ``EpisodeRecord.steps`` of the newest step when it arrived.
    """

    chunk: ActionChunk
    latency_ms: float
    step: int


@dataclass(frozen=True, kw_only=True)
class EpisodeCost:
    """What an episode took besides its result. Seconds are of the monotonic clock.

    Attributes:
        load_s: making its scene ready, where another one was loaded before.
        render_s, measure_s: in the simulator: pictures, and geodesic distances with the measures.
        observe_s: the engine taking in frames.
        waited_s: the world waiting for the model in lockstep: taking in the frame that was asked about,
            and the decision. A robot would have stood still for it.
        forwards, tokens: calls of the decoder, and tokens computed by them; None where the engine has none.
        prepared: scenes that had to be loaded for it.
        figures: what else the engine counted, by name with unit; None where it does not.
        engine_cpu_s: processor time of the whole process, all threads, while the engine worked; None where
            nobody measured it.
    """

    load_s: float
    render_s: float
    measure_s: float
    observe_s: float
    waited_s: float
    forwards: int | None
    tokens: int | None
    prepared: int
    figures: dict[str, float] | None = None
    engine_cpu_s: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeRecord:
    """One finished episode.

    Attributes:
        ended: why, in a word or two ("stop", "step limit", "end of recording").
        wall_s: how long it took, seconds, monotonic clock.
        metrics: None where there is no goal to measure against.
        video_frames: frames in its video; 0 without one.
        standing_s: simulated time without a velocity commanded; None in lockstep, where time means nothing.
        cost: None where nobody counted.
        reuse: what the engine took over from earlier frames; None where it does not.
        given_up: what the engine gave up for lack of memory, in order; its decisions may differ from then on.
        filmed: for each frame of its video the index in ``steps`` of the newest step that it shows.
    """

    info: EpisodeInfo
    steps: tuple[Step, ...]
    decisions: tuple[Decision, ...]
    ended: str
    wall_s: float
    metrics: EpisodeMetrics | None
    video_frames: int
    standing_s: float | None = None
    cost: EpisodeCost | None = None
    reuse: ReuseStats | None = None
    given_up: tuple[str, ...] = ()
    filmed: tuple[int, ...] = ()

    @property
    def positions(self) -> Float64Array:
        """``[n, 3]`` metres."""
        return np.array([(s.x_m, s.y_m, s.z_m) for s in self.steps], np.float64).reshape(-1, 3)

    @property
    def answers(self) -> tuple[Decision, ...]:
        """The decisions that the engine was asked for: without the queues that only go on to a place."""
        return tuple(d for d in self.decisions if not d.chunk.goes_on)


class EpisodeRecorder:
    """Collects one episode. Used from one thread; ends with :meth:`finish` or :meth:`discard`."""

    def __init__(self, info: EpisodeInfo, video: VideoWriter | None) -> None:
        self.info = info
        self._video = video
        self._steps: list[Step] = []
        self._decisions: list[Decision] = []
        self._shown: tuple[int, npt.NDArray[np.uint8]] | None = None
        self._answered: npt.NDArray[np.uint8] | None = None
        self._filmed: list[int] = []
        self._top_view = None if video is None else self._view_of(None)
        self._last: tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None, Overlay] | None = None

    @property
    def films(self) -> bool:
        """There will be a video."""
        return self._video is not None

    def show_plan(self, plan: Plan | None) -> None:
        """The scene from above, for the video's map; before the first step."""
        if self._video is not None:
            self._top_view = self._view_of(plan)

    def _view_of(self, plan: Plan | None) -> TopView:
        info = self.info
        goal = None
        if info.goal is not None and info.goal_radius_m is not None:
            goal = info.goal, info.goal_radius_m
        return TopView(plan, FRAME_HEIGHT, goal, info.reference_path)

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was recorded so far, e.g. to measure it before :meth:`finish`."""
        return tuple(self._steps)

    def step(self, step: Step) -> None:
        """The robot's new state; the first one is the start pose."""
        self._steps.append(step)
        if self._top_view is not None:
            self._top_view.go(step.x_m, step.y_m, step.yaw_rad)

    def decision(self, chunk: ActionChunk, latency_ms: float) -> None:
        """The engine answered, or a queue goes on to the place that it has answered with."""
        if not chunk.goes_on:
            self._answered = self._marked(chunk.pixel_goal)
        self._decisions.append(Decision(chunk, latency_ms, max(0, len(self._steps) - 1)))

    def frame(
        self,
        rgb: npt.NDArray[np.uint8],
        depth_m: npt.NDArray[np.float32] | None,
        stamp_ns: int,
        executing: int | None,
        goal: tuple[float, float] | None = None,
    ) -> None:
        """One frame of the video; nothing happens where this episode has none.

        Args:
            rgb: ``[H, W, 3]`` uint8.
            depth_m: ``[H, W]`` float32 metres, 0 or not finite: no reading; or None.
            stamp_ns: time of the frame.
            executing: index in the newest decision's actions of the one being executed; None: none is.
            goal: row and column at which the place that is driven to would be seen; None where nobody knows.
        """
        if self._video is None or self._top_view is None:
            return
        self._shown = stamp_ns, rgb
        pixel = self._decisions[-1].chunk.pixel_goal if self._decisions else None
        if pixel is not None and pixel.stamp_ns == stamp_ns:
            goal, self._answered = (pixel.row, pixel.column), self._marked(pixel)
        start_ns = self._steps[0].stamp_ns if self._steps else stamp_ns
        overlay = Overlay(
            instruction=self.info.instruction,
            actions=self._decisions[-1].chunk.actions if self._decisions else (),
            executing=executing,
            step=max(0, len(self._steps) - 1),
            time_s=(stamp_ns - start_ns) / 1e9,
            collided=bool(self._steps) and self._steps[-1].collided,
            goal=goal,
            answered=self._answered,
            top_view=self._top_view.picture(),
        )
        self._film(annotate(rgb, depth_m, overlay))
        self._last = rgb, depth_m, overlay

    def _film(self, picture: npt.NDArray[np.uint8]) -> None:
        assert self._video is not None, "who films has a video"
        self._video.add(picture)
        self._filmed.append(max(0, len(self._steps) - 1))

    def _marked(self, pixel: PixelGoal | None) -> npt.NDArray[np.uint8] | None:
        """The newest picture with the pixel that it was answered with; None where it is another one's."""
        if pixel is None or self._shown is None or self._shown[0] != pixel.stamp_ns:
            return None
        return mark_pixel(self._shown[1], pixel.row, pixel.column)

    def finish(
        self,
        ended: str,
        wall_s: float,
        metrics: EpisodeMetrics | None,
        standing_s: float | None = None,
        cost: EpisodeCost | None = None,
        reuse: ReuseStats | None = None,
        given_up: tuple[str, ...] = (),
    ) -> EpisodeRecord:
        """Close the video and freeze the record."""
        if self._video is not None:
            self._film_end(ended, metrics)
            self._video.close()
        return EpisodeRecord(
            info=self.info,
            steps=tuple(self._steps),
            decisions=tuple(self._decisions),
            ended=ended,
            wall_s=wall_s,
            metrics=metrics,
            video_frames=len(self._filmed),
            standing_s=standing_s,
            cost=cost,
            reuse=reuse,
            given_up=given_up,
            filmed=tuple(self._filmed),
        )

    def _film_end(self, ended: str, metrics: EpisodeMetrics | None) -> None:
        """The last picture again, with how it has ended."""
        if self._top_view is None or self._last is None:
            return
        rgb, depth_m, overlay = self._last
        success = None if metrics is None else metrics.success
        end = replace(
            overlay, verdict=verdict(ended, metrics), success=success, executing=None,
            top_view=self._top_view.picture(),
        )  # fmt: skip
        picture = annotate(rgb, depth_m, end)
        for _ in range(END_FRAMES):
            self._film(picture)

    def discard(self) -> None:
        """Give the episode up: its unfinished video is removed."""
        if self._video is not None:
            self._video.discard()


def verdict(ended: str, metrics: EpisodeMetrics | None) -> str:
    """How an episode has ended, in one line for people."""
    if metrics is None:
        return f"ended: {ended}"
    error_m = metrics.navigation_error_m
    away = f"{error_m:.2f} m from the goal" if math.isfinite(error_m) else "no way leads to the goal"
    return f"{'success' if metrics.success else 'failure'}: {ended}, {away}"
