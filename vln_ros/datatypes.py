"""The values that cross module boundaries: poses, cameras, frames, actions and action chunks.

Conventions, everywhere in this package (REP 103 and REP 105):

* metres, radians, seconds; integer nanoseconds for stamps;
* body frames are x forward, y left, z up, and a left turn is positive;
* a camera's *optical* frame is z forward, x right, y down;
* ``a_from_b`` is the pose of frame ``b`` expressed in frame ``a``: it maps coordinates in ``b``
  to coordinates in ``a``;
* integer pixel coordinates are pixel *centres*, so the principal point of an ideal ``W x H``
  camera is ``((W - 1) / 2, (H - 1) / 2)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


def wrap_angle(angle_rad: float) -> float:
    """The same angle in ``[-pi, pi)``."""
    return (angle_rad + math.pi) % (2.0 * math.pi) - math.pi


@dataclass(frozen=True, eq=False)
class Pose:
    """A rigid transform ``parent_from_child``.

    Attributes:
        position: ``[3]`` float64, metres, origin of the child in the parent.
        orientation: ``[4]`` float64, unit quaternion ``x, y, z, w``.

    Raises:
        ValueError: a value is not finite, or the quaternion is not of unit length (within 1 %;
            smaller errors are normalised away).
    """

    position: Float64Array
    orientation: Float64Array

    def __post_init__(self) -> None:
        position = np.array(self.position, np.float64)
        orientation = np.array(self.orientation, np.float64)
        if position.shape != (3,) or orientation.shape != (4,):
            raise ValueError(
                f"a pose needs position [3] and orientation [4], got {position.shape} and {orientation.shape}"
            )
        if not (np.isfinite(position).all() and np.isfinite(orientation).all()):
            raise ValueError(f"pose is not finite: position {position}, orientation {orientation}")
        norm = float(np.linalg.norm(orientation))
        if abs(norm - 1.0) > 0.01:
            raise ValueError(f"quaternion {orientation} has length {norm:.4f}, expected 1")
        orientation /= norm
        position.setflags(write=False)
        orientation.setflags(write=False)
        object.__setattr__(self, "position", position)
        object.__setattr__(self, "orientation", orientation)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pose):
            return NotImplemented
        return bool(
            np.array_equal(self.position, other.position)
            and np.array_equal(self.orientation, other.orientation)
        )

    __hash__ = None  # type: ignore[assignment]

    @staticmethod
    def identity() -> Pose:
        return Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))

    @staticmethod
    def planar(x_m: float, y_m: float, yaw_rad: float, z_m: float = 0.0) -> Pose:
        """A pose on the floor: position and a rotation about z."""
        half = yaw_rad / 2.0
        return Pose(np.array([x_m, y_m, z_m]), np.array([0.0, 0.0, math.sin(half), math.cos(half)]))

    @staticmethod
    def from_matrix(matrix: Float64Array) -> Pose:
        """From a ``[4, 4]`` homogeneous matrix with a proper rotation."""
        m = np.asarray(matrix, np.float64)
        # Shepperd's method: pick the largest component first, so that nothing small is divided by.
        squares = np.array(
            [
                1.0 + m[0, 0] - m[1, 1] - m[2, 2],
                1.0 - m[0, 0] + m[1, 1] - m[2, 2],
                1.0 - m[0, 0] - m[1, 1] + m[2, 2],
                1.0 + m[0, 0] + m[1, 1] + m[2, 2],
            ]
        )
        i = int(squares.argmax())
        q = np.empty(4)
        q[i] = math.sqrt(max(squares[i], 0.0)) / 2.0
        d = 4.0 * q[i]
        if i == 3:
            q[:3] = (m[2, 1] - m[1, 2]) / d, (m[0, 2] - m[2, 0]) / d, (m[1, 0] - m[0, 1]) / d
        else:
            j, k = (i + 1) % 3, (i + 2) % 3
            q[3] = (m[k, j] - m[j, k]) / d
            q[j] = (m[j, i] + m[i, j]) / d
            q[k] = (m[k, i] + m[i, k]) / d
        return Pose(m[:3, 3], q)

    @cached_property
    def rotation(self) -> Float64Array:
        """``[3, 3]`` rotation matrix, parent from child."""
        x, y, z, w = self.orientation
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )

    @cached_property
    def matrix(self) -> Float64Array:
        """``[4, 4]`` homogeneous matrix, parent from child."""
        m = np.eye(4)
        m[:3, :3] = self.rotation
        m[:3, 3] = self.position
        return m

    @property
    def yaw_rad(self) -> float:
        """Heading of the child's x axis in the parent's x-y plane."""
        r = self.rotation
        return math.atan2(r[1, 0], r[0, 0])

    def inverse(self) -> Pose:
        return Pose(-self.rotation.T @ self.position, self.orientation * np.array([-1.0, -1.0, -1.0, 1.0]))

    def __matmul__(self, other: Pose) -> Pose:
        """``a_from_b @ b_from_c == a_from_c``."""
        x1, y1, z1, w1 = self.orientation
        x2, y2, z2, w2 = other.orientation
        return Pose(
            self.rotation @ other.position + self.position,
            np.array(
                [
                    w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
                    w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
                    w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
                    w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
                ]
            ),
        )

    def transform(self, points: Float64Array) -> Float64Array:
        """Points ``[..., 3]`` in the child frame to the parent frame."""
        return points @ self.rotation.T + self.position

    def interpolate(self, other: Pose, fraction: float) -> Pose:
        """Linear in position, spherical in orientation; ``fraction`` in ``[0, 1]`` from self to other."""
        a, b = self.orientation, other.orientation
        dot = float(a @ b)
        if dot < 0.0:  # the two quaternions of one rotation: take the short way round
            b, dot = -b, -dot
        angle = math.acos(min(1.0, dot))
        if angle < 1e-6:
            q = a + fraction * (b - a)
        else:
            q = (math.sin((1.0 - fraction) * angle) * a + math.sin(fraction * angle) * b) / math.sin(angle)
        return Pose(self.position + fraction * (other.position - self.position), q / np.linalg.norm(q))


@dataclass(frozen=True, eq=False)
class OdometryPose(Pose):
    """A pose as odometry tells it, with the names of its two frames: not yet the base's.

    Attributes:
        frame_id, child_frame_id: without a leading slash; empty where the message names none.
    """

    frame_id: str = ""
    child_frame_id: str = ""

    def is_of(self, base_frame: str) -> bool:
        """The child is the base or its ``base_footprint`` (REP 120: what is below it on the floor)."""
        base = base_frame.lstrip("/")
        robot, slash, _ = base.rpartition("/")
        return self.child_frame_id in (base, f"{robot}{slash}{FOOTPRINT_FRAME}")


FOOTPRINT_FRAME = "base_footprint"


@dataclass(frozen=True, eq=False)
class RangeScan:
    """One sweep of a planar laser scanner, in its own frame (x forward, y left), read by REP 117.

    Attributes:
        angles_rad: ``[N]`` direction of each ray.
        ranges_m: ``[N]`` where it ended; ``inf``: free as far as the scanner measures; ``-inf``: something
            is nearer than it can measure; NaN: it says nothing.
    """

    angles_rad: Float64Array
    ranges_m: Float64Array

    def __post_init__(self) -> None:
        if self.angles_rad.ndim != 1 or self.angles_rad.shape != self.ranges_m.shape:
            raise ValueError(f"scan has {self.angles_rad.shape} angles and {self.ranges_m.shape} ranges")

    @property
    def points(self) -> Float64Array:
        """``[M, 2]`` metres: what was hit. What is too near to be measured is not among it."""
        hit = np.isfinite(self.ranges_m)
        ranges_m, angles_rad = self.ranges_m[hit], self.angles_rad[hit]
        return np.stack([ranges_m * np.cos(angles_rad), ranges_m * np.sin(angles_rad)], 1)


@dataclass(frozen=True)
class CameraModel:
    """A rectified pinhole camera. All values in pixels; integer coordinates are pixel centres."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"camera size must be positive, got {self.width}x{self.height}")
        if not all(math.isfinite(v) for v in (self.fx, self.fy, self.cx, self.cy)):
            raise ValueError(f"camera intrinsics are not finite: {self}")
        if self.fx <= 0.0 or self.fy <= 0.0:
            raise ValueError(f"focal lengths must be positive, got {self.fx}, {self.fy}: is K filled in?")

    @staticmethod
    def from_hfov(width: int, height: int, hfov_rad: float) -> CameraModel:
        """Square pixels, principal point in the middle, horizontal field of view in radians."""
        if not 0.0 < hfov_rad < math.pi:  # NaN is not either
            raise ValueError(f"hfov_rad = {hfov_rad:g}: must be in (0, pi), of degrees math.radians(them)")
        focal = width / 2.0 / math.tan(hfov_rad / 2.0)
        return CameraModel(width, height, focal, focal, (width - 1) / 2.0, (height - 1) / 2.0)

    def resized(self, width: int, height: int) -> CameraModel:
        """The same camera after its image was resampled to another size."""
        sx, sy = width / self.width, height / self.height
        return CameraModel(
            width, height, self.fx * sx, self.fy * sy,
            (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Frame:
    """One synchronised observation.

    Attributes:
        index: number of this frame in its stream, from 0, without gaps.
        stamp_ns: the sensor's stamp of the colour image, nanoseconds.
        rgb: ``[H, W, 3]`` uint8, RGB.
        depth_m: ``[H, W]`` float32, planar depth along the optical z axis in metres; 0 where there
            is no reading. None when the robot has no depth camera. Registered to ``rgb``.
        camera: intrinsics of ``rgb``.
        odom_from_base: pose of base_link in the odometry frame at ``stamp_ns``.
        odom_from_optical: pose of the camera's optical frame in the odometry frame at ``stamp_ns``.
    """

    index: int
    stamp_ns: int
    rgb: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32] | None
    camera: CameraModel
    odom_from_base: Pose
    odom_from_optical: Pose

    def __post_init__(self) -> None:
        size = (self.camera.height, self.camera.width)
        if self.rgb.dtype != np.uint8 or self.rgb.shape != (*size, 3):
            raise ValueError(f"rgb must be uint8 {(*size, 3)}, got {self.rgb.dtype} {self.rgb.shape}")
        if self.depth_m is not None and (self.depth_m.dtype != np.float32 or self.depth_m.shape != size):
            raise ValueError(f"depth must be float32 {size}, got {self.depth_m.dtype} {self.depth_m.shape}")


class ActionKind(IntEnum):
    """The discrete actions of VLN-CE, with its numbers."""

    STOP = 0
    FORWARD = 1
    TURN_LEFT = 2
    TURN_RIGHT = 3


@dataclass(frozen=True)
class Action:
    """One motion primitive of a planar base: drive, then turn; or the explicit end of the run.

    Attributes:
        forward_m: distance along the base's x axis, metres, not negative.
        turn_rad: rotation about z, radians, left positive.
        stop: the model says that the goal is reached. A stop does not move.
    """

    forward_m: float = 0.0
    turn_rad: float = 0.0
    stop: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.forward_m) and math.isfinite(self.turn_rad)):
            raise ValueError(f"action is not finite: {self}")
        if self.forward_m < 0.0:
            raise ValueError(f"actions do not drive backwards: {self}")
        if (self.forward_m != 0.0) + (self.turn_rad != 0.0) + self.stop != 1:
            raise ValueError(f"an action is exactly one of forward, turn and stop: {self}")

    @property
    def kind(self) -> ActionKind:
        if self.stop:
            return ActionKind.STOP
        if self.forward_m > 0.0:
            return ActionKind.FORWARD
        return ActionKind.TURN_LEFT if self.turn_rad > 0.0 else ActionKind.TURN_RIGHT

    def __str__(self) -> str:
        if self.stop:
            return "stop"
        if self.forward_m > 0.0:
            return f"forward {self.forward_m * 100:.0f} cm"
        return f"{'left' if self.turn_rad > 0.0 else 'right'} {abs(math.degrees(self.turn_rad)):.0f} deg"


STOP = Action(stop=True)


@dataclass(frozen=True)
class Executed:
    """A primitive that was completed, not cut short, and the stamp of the odometry that showed it."""

    stamp_ns: int
    action: Action


@dataclass(frozen=True)
class StepSize:
    """What one primitive does. VLN-CE's R2R protocol: 0.25 m and 15 degrees."""

    forward_m: float
    turn_rad: float

    def action(self, kind: ActionKind) -> Action:
        if kind is ActionKind.STOP:
            return STOP
        if kind is ActionKind.FORWARD:
            return Action(forward_m=self.forward_m)
        return Action(turn_rad=self.turn_rad if kind is ActionKind.TURN_LEFT else -self.turn_rad)


def apply_action(pose: Pose, action: Action) -> Pose:
    """Where the base is after an undisturbed ``action``; a stop leaves it."""
    return pose @ Pose.planar(action.forward_m, 0.0, action.turn_rad)


@dataclass(frozen=True)
class Velocity:
    """A planar velocity in the base frame; ``lateral_m_s`` is to the left, for holonomic bases."""

    linear_m_s: float = 0.0
    angular_rad_s: float = 0.0
    lateral_m_s: float = 0.0


@dataclass(frozen=True)
class Instruction:
    """What the robot was told, and its number: the same text told twice is two instructions and two runs."""

    number: int
    text: str


@dataclass(frozen=True)
class PixelGoal:
    """A point in a picture that the model wants to go to: an answer beside a queue of actions.

    Attributes:
        row, column: of the picture as the camera took it, not as it was resampled for the model.
        stamp_ns: stamp of the frame whose picture this is, which may be of another camera (one that looks
            down) than the frame that the question was about.
    """

    row: int
    column: int
    stamp_ns: int

    def __post_init__(self) -> None:
        if self.row < 0 or self.column < 0:
            raise ValueError(f"a pixel goal lies in the picture, got row {self.row}, column {self.column}")

    def __str__(self) -> str:
        return f"pixel (row {self.row}, column {self.column})"


class PlaceSource(Enum):
    """What the place of a pixel goal was read off, in the words of the counters."""

    DEPTH = "depth at the pixel"
    FLOOR = "floor along the ray"
    VIEW = "free floor seen in its direction"


@dataclass(frozen=True)
class PlaceGoal:
    """A place on the floor that the robot shall drive to, in the odometry frame.

    Attributes:
        x_m, y_m: where the base's origin shall be, metres.
        stamp_ns: stamp of the frame that it was seen in.
        source: what it was read off.
        moved_m: how far it lies from what the pixel shows, where the robot does not fit (a wall, a chair).
    """

    x_m: float
    y_m: float
    stamp_ns: int
    source: PlaceSource
    moved_m: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.x_m) and math.isfinite(self.y_m)):
            raise ValueError(f"a place is not finite: {self}")

    def distance_m(self, odom_from_base: Pose) -> float:
        """As the crow flies from the base's origin."""
        x_m, y_m, _ = odom_from_base.position
        return math.hypot(self.x_m - x_m, self.y_m - y_m)

    def __str__(self) -> str:
        return f"place ({self.x_m:.2f}, {self.y_m:.2f}) m"


@dataclass(frozen=True)
class ActionChunk:
    """A queue of actions that answers one frame under one instruction.

    Attributes:
        queue: number of this queue, counted by the navigator, increasing.
        instruction: number of the instruction it answers.
        frame_stamp_ns: stamp of the newest frame that the decision saw.
        actions: in order of execution; a stop is the last one. Empty means *hold*: flush whatever
            was queued, stand still and wait.
        probabilities: the model's probability of each action given those before it; empty where
            the engine has none.
        unconstrained: what the model would have said without the grammar, where it differs; of a pixel goal
            for which something else is done, why. Else None.
        allowed: share of the model's probability that the grammar left it, at the step of this decision
            where that was least, in ``[0, 1]``; None where there is no grammar.
        held: why the model was asked and the robot holds all the same; None where it does not.
        epoch: which life of the navigator counted ``queue`` and ``instruction``: one that was restarted
            counts from 1 again. Numbers of different epochs cannot be compared.
        pixel_goal: the answer is a point in a picture.
        place: where that is on the floor; ``actions`` are the next ones toward it, if any. None where it is
            nowhere: ``actions`` are what is done instead, or none, and ``unconstrained`` or ``held`` say why.
    """

    queue: int
    instruction: int
    frame_stamp_ns: int
    actions: tuple[Action, ...]
    probabilities: tuple[float, ...] = field(default=())
    unconstrained: str | None = None
    epoch: int = 0
    allowed: float | None = None
    held: str | None = field(default=None, compare=False)  # words for a person
    pixel_goal: PixelGoal | None = None
    place: PlaceGoal | None = None

    @property
    def is_hold(self) -> bool:
        """Nothing is to be done: neither actions nor a place to drive to."""
        return not self.actions and self.place is None

    @property
    def goes_on(self) -> bool:
        """Nobody was asked: these are the next actions toward the place that an answer before has named."""
        return self.place is not None and self.pixel_goal is None

    def __post_init__(self) -> None:
        if any(a.stop for a in self.actions[:-1]):
            raise ValueError(f"stop must be the last action of a queue: {[str(a) for a in self.actions]}")
        if self.probabilities and len(self.probabilities) != len(self.actions):
            raise ValueError(f"{len(self.probabilities)} probabilities for {len(self.actions)} actions")
        shares = [*self.probabilities, *(() if self.allowed is None else (self.allowed,))]
        if not all(0.0 <= share <= 1.0 for share in shares):  # NaN is not either
            raise ValueError(f"probabilities must be in [0, 1], got {shares}")
        if self.held is not None and self.actions:
            raise ValueError(f"a queue that is held has no actions: {[str(a) for a in self.actions]}")
        if self.place is not None and self.held is not None:
            raise ValueError(f"what is held has no {self.place}: {self.held}")
