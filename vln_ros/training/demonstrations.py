"""Makes demonstrations: runs of the robot with the cost-to-go of every action at every step.

The robot does what the expert says, with some noise, or repeats what the policy did (DAgger, Ross et
al., arXiv 1011.0686); what it *should* do is asked of the expert at every place that it comes to.
"""

from __future__ import annotations

import functools
import math
from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt

from vln_ros.axes import base_from_optical
from vln_ros.config import CameraConfig, ReuseConfig
from vln_ros.datatypes import ActionKind, CameraModel, Float64Array, Frame, Pose, wrap_angle
from vln_ros.geometry.correspondence import IntArray, TokenGrid, correspond
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
from vln_ros.sim.embedded.world import SceneCache, move
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.oracle.expert import Expert
from vln_ros.sim.splits import EPISODES_PER_SCENE, SPLIT_STEP, SPLITS, begin_episode
from vln_ros.training.cost_to_go import CostToGo, CostToGoOracle, after
from vln_ros.training.labels import TokenLabeller, TokenLabels, doors_ahead, named_items

BEARING_CLASSES = 24
"""Where the way goes on, in turns of 15 degrees to the left of straight ahead."""
_DISTANCE_BOUNDS_M = (0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
DISTANCE_CLASSES = len(_DISTANCE_BOUNDS_M) + 1
DOORS_CLASSES = 5
"""How many doors the way still leads through; the last class is "or more"."""
_KEPT_SCENES = 8
_DEPTH_TOLERANCE = ReuseConfig().depth_tolerance
_MOVES = (ActionKind.FORWARD, ActionKind.TURN_LEFT, ActionKind.TURN_RIGHT)


@dataclass(frozen=True)
class Task:
    """One run to make.

    Attributes:
        kind: size of the flat, a key of :data:`vln_ros.sim.embedded.flat.KINDS`.
        number: of the episode in the train split.
        noise: probability that an action is a random one instead of the expert's.
        seed: of the noise.
        policy: step of the training run whose weights drive; None follows the expert.
        executed: what the policy did, queue by queue, before the expert took over, maybe within the
            last one; None if that is not known yet.
    """

    kind: str
    number: int
    noise: float
    seed: int
    _: KW_ONLY
    policy: int | None = None
    executed: tuple[tuple[ActionKind, ...], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What all runs have in common.

    Attributes:
        camera: of the rendered images.
        extrinsics: pose of the camera's optical frame in base_link.
        grid: rows and columns of visual tokens of a frame.
        queue: actions per decision.
        max_turns: a run is cut after this many decisions.
        keep_frames: the frames between two decisions are shown too; otherwise only the newest one.
        stop_within_m: the expert stops when the goal is nearer than this.
        clearance_m: distance that the expert keeps from walls, besides the robot's own size.
        least_executed: the policy is asked again after so many actions at least, and at most after its
            whole queue; see :func:`queue_lengths`.
        finds_sources: what a frame shows is sought in the frame shown before it.
    """

    camera: CameraModel
    extrinsics: Pose
    grid: tuple[int, int]
    queue: int
    max_turns: int
    keep_frames: bool
    stop_within_m: float
    clearance_m: float
    least_executed: int
    finds_sources: bool


def queue_lengths(task: Task, rules: Rules) -> IntArray:
    """``[max_turns]``: how many actions are done of each decision's queue before the next decision.

    Each run has bounds of its own, so that some are asked after every action and some at the end of every
    queue, as robots are.
    """
    rng = np.random.default_rng([task.seed, task.number, 1])
    least = rng.integers(rules.least_executed, rules.queue, endpoint=True)
    most = rng.integers(least, rules.queue, endpoint=True)
    return rng.integers(least, most, rules.max_turns, endpoint=True)


def robot_camera(width: int, height: int) -> tuple[CameraModel, Pose]:
    """The simulator's default camera at another image size, and where it is mounted."""
    default = CameraConfig()
    camera = CameraModel.from_hfov(default.width, default.height, math.radians(default.hfov_deg))
    extrinsics = base_from_optical(
        0.0, 0.0, default.height_m, pitch_down_rad=math.radians(default.pitch_down_deg)
    )
    return camera.resized(width, height), extrinsics


@dataclass(frozen=True, eq=False)
class View:
    """A frame ``[H, W, 3]`` uint8, and what its tokens show.

    ``source`` ``[tokens]``: the token of the frame shown before that showed the same place; -1 for none.
    """

    rgb: npt.NDArray[np.uint8]
    labels: TokenLabels
    source: IntArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Decision:
    """One turn of the conversation.

    Attributes:
        views: the frames shown, the newest last.
        executed: what was done.
        expert: what would have been best at each of these moments; ``[len(executed)]``.
        costs: ``[len(executed), 4]``: how many actions each one would have cost then; see
            :class:`vln_ros.training.cost_to_go.CostToGo`.
        bearing: class of the direction of the way, now.
        distance: class of its length, now.
        doors: class of the number of doors that it leads through, from now on.
    """

    views: tuple[View, ...]
    executed: tuple[ActionKind, ...]
    expert: tuple[ActionKind, ...]
    costs: Float64Array
    bearing: int
    distance: int
    doors: int


@dataclass(frozen=True, eq=False)
class Demonstration:
    instruction: str
    decisions: tuple[Decision, ...]


@functools.lru_cache(maxsize=1)
def shared_scenes() -> SceneCache:
    """The scenes that this process made last."""
    return SceneCache(AGENT_RADIUS_M, _KEPT_SCENES)


def split_episode(split: str, kind: str, number: int) -> Episode:
    """Episode ``number`` of a split, without the expert's actions."""
    seed = SPLITS[split].first_seed + number // EPISODES_PER_SCENE
    return begin_episode(split, number, shared_scenes().get(scene_id(seed, kind)))


def demonstrate(task: Task, rules: Rules) -> Demonstration:
    """Make the run; a pure function. What ``executed`` does not tell, the expert does."""
    episode = split_episode("train", task.kind, task.number)
    scene = shared_scenes().get(episode.scene_id)
    expert = Expert(scene.walkable, episode.goal, SPLIT_STEP, rules.stop_within_m, rules.clearance_m)
    oracle = CostToGoOracle(expert, SPLIT_STEP, rules.stop_within_m, episode.goal_radius_m)
    labeller = TokenLabeller(scene.flat, named_items(scene.flat, episode.instruction), rules.grid)
    rng = np.random.default_rng([task.seed, task.number])
    lengths = queue_lengths(task, rules)
    before: Frame | None = None

    def look(pose: Pose, doors: tuple[int, ...]) -> View:
        nonlocal before
        optical = pose @ rules.extrinsics
        rgb, depth_m = scene.renderer.render(rules.camera, optical)
        labels = labeller.label(depth_m, rules.camera, optical, doors[0] if doors else None)
        frame = Frame(0, 0, rgb, depth_m, rules.camera, pose, optical)
        source = np.full(grid.count, -1)
        if rules.finds_sources and before is not None:
            source = correspond(frame, [before], grid, depth_tolerance=_DEPTH_TOLERANCE).token
        before = frame
        return View(rgb, labels, source)

    grid = TokenGrid(*rules.grid)
    already = task.executed or ()
    pose = episode.start
    path, turning = [pose], 0
    decisions: list[Decision] = []
    while len(decisions) < rules.max_turns:
        shown = path if rules.keep_frames else path[-1:]
        ways = [expert.way(p.position) for p in shown]
        doors = [doors_ahead(scene.flat, way) for way in ways]
        views = tuple(look(p, ahead) for p, ahead in zip(shown, doors, strict=True))
        start, path = pose, []
        executed: list[ActionKind] = []
        advised: list[CostToGo] = []
        own = already[len(decisions)] if len(decisions) < len(already) else None
        while len(executed) < lengths[len(decisions)] and (
            not executed or executed[-1] is not ActionKind.STOP
        ):
            advised.append(oracle.cost_to_go(pose, turning))
            if own is not None and len(executed) < len(own):
                kind = own[len(executed)]
            elif rng.random() < task.noise:
                kind = _MOVES[int(rng.integers(len(_MOVES)))]
            else:
                kind = advised[-1].kind
            executed.append(kind)
            turning = after(kind, turning)
            pose, _ = move(scene.walkable, pose, SPLIT_STEP.action(kind))
            path.append(pose)
        left = min(len(doors[-1]), DOORS_CLASSES - 1)
        best, costs = tuple(a.kind for a in advised), np.array([a.costs for a in advised])
        bearing, distance = _where(ways[-1], start)
        decisions.append(
            Decision(
                views=views,
                executed=tuple(executed),
                expert=best,
                costs=costs,
                bearing=bearing,
                distance=distance,
                doors=left,
            )
        )
        if executed[-1] is ActionKind.STOP:
            break
    return Demonstration(episode.instruction, tuple(decisions))


def _where(way: Float64Array, pose: Pose) -> tuple[int, int]:
    """Classes of the bearing and the length of the way to the goal."""
    ahead = way[1] - way[0]
    bearing = wrap_angle(math.atan2(ahead[1], ahead[0]) - pose.yaw_rad)
    length_m = float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())
    turns = round(bearing / (2 * math.pi / BEARING_CLASSES))
    return turns % BEARING_CLASSES, int(np.digitize(length_m, _DISTANCE_BOUNDS_M))
