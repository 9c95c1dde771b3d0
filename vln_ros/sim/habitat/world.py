"""Shows Habitat as a :class:`vln_ros.protocols.World`, with axes turned into ours.

The world frame is Habitat's own, with REP 103's axes: ``z`` is Habitat's height ``y``, so the floor may lie
anywhere, and the base stands up to 0.1 m above the true floor, where the navigation mesh is.
"""

from __future__ import annotations

import base64
import difflib
import itertools
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vln_ros.axes import (
    BODY_FROM_OPTICAL,
    base_from_optical,
    habitat_from_pose,
    habitat_from_ros_points,
    pose_from_habitat,
    ros_from_habitat_points,
)
from vln_ros.config import ConfigError, HabitatConfig
from vln_ros.datatypes import STOP, Action, ActionKind, CameraModel, Float64Array, Pose
from vln_ros.protocols import Motion, WorldLostError
from vln_ros.sim.depth_noise import with_depth_noise
from vln_ros.sim.embedded.plan import FreeSpace
from vln_ros.sim.habitat.process import AgentState, HabitatProcess, Interpreter, RefusedError
from vln_ros.sim.oracle.follower import Tries

BoolArray = npt.NDArray[np.bool_]

PLACE_TOLERANCE_M = 0.25
"""A start this far from the navigation mesh (in the plane) is taken as it is, as habitat-lab does."""

DEATHS = 2
"""A process that has ended so often for one reason, before it was of any use, is not started again for it."""

_HEIGHT_TOLERANCE_M = 0.5
_NAMES_SHOWN = 3
_FILES_LOOKED_AT = 20000
_ACTIONS = {
    ActionKind.FORWARD: "move_forward",
    ActionKind.TURN_LEFT: "turn_left",
    ActionKind.TURN_RIGHT: "turn_right",
}


class HabitatWorld:
    """Implements :class:`vln_ros.protocols.World`. Used from one thread only.

    Args:
        camera: intrinsics of the pictures; its principal point must be in the middle, its pixels square.
        height_m, pitch_down_rad: of the camera above the agent's position, which is its base.
        config: see :class:`vln_ros.config.HabitatConfig`.
        look_down_rad: tilt of a second camera at the same place; None for none.
        cameras: take pictures; without, Habitat needs no GPU, and only ways can be asked for.

    Raises:
        ConfigError: the interpreter cannot run Habitat; the message says why.
    """

    def __init__(
        self,
        camera: CameraModel,
        height_m: float,
        pitch_down_rad: float,
        config: HabitatConfig,
        cameras: bool = True,
        depth_noise: float = 0.0,
        look_down_rad: float | None = None,
    ) -> None:
        if not config.python:
            raise ConfigError(
                "habitat.python is empty: name the interpreter of the environment that has habitat_sim, "
                "as in /home/you/miniconda3/envs/habitat/bin/python"
            )
        middle = CameraModel.from_hfov(
            camera.width, camera.height, 2 * math.atan(camera.width / 2 / camera.fx)
        )
        if not np.allclose([camera.fy, camera.cx, camera.cy], [middle.fy, middle.cx, middle.cy]):
            raise ConfigError(
                f"Habitat's cameras have square pixels and a centred principal point, got {camera}"
            )
        self._camera = camera
        self._depth_noise = depth_noise
        self._base_from_optical = base_from_optical(0.0, 0.0, height_m, pitch_down_rad=pitch_down_rad)
        self._base_from_look_down = (
            None
            if look_down_rad is None
            else base_from_optical(0.0, 0.0, height_m, pitch_down_rad=look_down_rad)
        )
        self._config = config
        self._setup = {
            "cameras": cameras,
            "gpu": config.gpu,
            "cell_height_m": config.mesh_cell_height_m,
            "sliding": config.sliding,
            "agent_radius_m": config.radius_m,
            "agent_height_m": config.height_m,
            "width": camera.width,
            "height": camera.height,
            "hfov_deg": math.degrees(2 * math.atan(camera.width / 2 / camera.fx)),
            "camera_height_m": height_m,
            "pitch_down_rad": pitch_down_rad,
            "look_down_rad": look_down_rad,
        }
        self._process: HabitatProcess | None = None
        self._scene_id: str | None = None
        self._pose: Pose | None = None
        self._shown = False  # the memory holds the picture at the present pose
        self._deaths: list[tuple[str, str]] = []  # scene and reason of loads that the process did not survive
        self._of_use = False
        self.restarts = 0
        """How often the process had to be started again."""
        self.shipped_navmesh = False
        """The navigation mesh of the scene is the file beside it."""
        self.interpreter: Interpreter = self._start().interpreter

    def _start(self) -> HabitatProcess:
        pixels = self._camera.height * self._camera.width
        self._process = HabitatProcess(self._config.python, pixels, self._config.timeout_s)
        return self._process

    @property
    def camera(self) -> CameraModel:
        return self._camera

    @property
    def base_from_optical(self) -> Pose:
        return self._base_from_optical

    @property
    def pose(self) -> Pose:
        """``world_from_base``, exact. Raises RuntimeError before :meth:`place`."""
        if self._pose is None:
            raise RuntimeError("the robot is nowhere: call place() first")
        return self._pose

    @property
    def pid(self) -> int | None:
        """Of Habitat's process; None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def timeout_s(self) -> float:
        """How long an answer may take; may be changed between two requests."""
        return self._config.timeout_s

    @timeout_s.setter
    def timeout_s(self, timeout_s: float) -> None:
        self._config = replace(self._config, timeout_s=timeout_s)
        if self._process is not None:
            self._process.timeout_s = timeout_s

    def _ask(self, request: str, **values: object) -> dict[str, Any]:
        if self._process is None:
            raise WorldLostError("Habitat's process is gone: load() starts a new one")
        try:
            return self._process.ask(request, **values)
        except WorldLostError as error:
            self._process, self._pose = None, None
            scene, self._scene_id = self._scene_id, None
            if request == "load":  # of what is about to be loaded, the caller knows
                raise
            raise WorldLostError(f"{error}\nscene: {scene or 'none'}") from error

    def load(self, scene_id: str) -> None:
        """Make ``scene_id`` the scene, and start the process again where it has died.

        Raises:
            ValueError: there is no such file, it is damaged, or Habitat cannot use it.
            ConfigError: Habitat cannot be started, or ended twice for one reason before it was of any use.
            WorldLostError: its process has ended; it is worth another try.
        """
        if scene_id == self._scene_id:
            return
        path = self.scene_path(scene_id)
        self._check_deaths(scene_id)
        if self._process is None:
            self.restarts += 1
            self._start()
        self._scene_id, self._pose, self._shown = None, None, False
        try:
            answer = self._ask(
                "load", setup=self._setup, scene=str(path), recompute_navmesh=self._config.recompute_navmesh
            )
        except WorldLostError as error:
            self._deaths.append((scene_id, str(error)))
            raise WorldLostError(f"{error}\nscene: {scene_id}") from error
        except RefusedError as error:
            self._drop()  # half a scene is loaded
            raise ValueError(
                f"Habitat cannot use {path}: {error}. A bare GLB is taken for Matterport's axes (z up); "
                "one with glTF's needs a .stage_config.json beside it, see docs/evaluate/datasets.md"
            ) from error
        if not answer["area_m2"] > 0.0:
            self._drop()
            raise ValueError(
                f"{path}: nobody can stand anywhere in it. Is z up, as Habitat takes a bare GLB, or does it "
                "need a .stage_config.json (docs/evaluate/datasets.md)? Is habitat.height_m too large?"
            )
        self.shipped_navmesh = bool(answer["shipped_navmesh"])
        self._scene_id = scene_id
        self._of_use = True
        self._deaths = [death for death in self._deaths if death[0] != scene_id]

    def _check_deaths(self, scene_id: str) -> None:
        """Raises ValueError where another try would end as the ones before did."""
        if not self._deaths:
            return
        alike = [re.sub(r"\d+", "#", reason) for scene, reason in self._deaths if scene == scene_id]
        last = self._deaths[-1][1]
        if any(alike.count(reason) >= DEATHS for reason in alike):
            raise ValueError(f"Habitat ends each time that it loads {scene_id}: {last}")
        same = re.sub(r"\d+", "#", last)
        scenes = {scene for scene, reason in self._deaths if re.sub(r"\d+", "#", reason) == same}
        if not self._of_use and len(scenes) >= DEATHS:
            raise ConfigError(f"Habitat cannot be used here, whatever the scene: {last}")

    def _drop(self) -> None:
        if self._process is not None:
            self._process.kill()
        self._process, self._scene_id, self._pose = None, None, None

    def scene_path(self, scene_id: str) -> Path:
        """The file of a scene as an episode names it. Raises ValueError: missing or damaged."""
        root = Path(self._config.scenes)
        path = root / scene_id.removeprefix("data/scene_datasets/")
        if not path.is_file():
            raise ValueError(self._missing(scene_id, root, path))
        if path.suffix == ".glb":
            check_glb(path)
        return path.resolve()

    def _missing(self, scene_id: str, root: Path, path: Path) -> str:
        if not root.is_dir():
            return f"no scene {scene_id!r}: habitat.scenes = {str(root)!r} is no folder"
        some = itertools.islice(root.rglob("*.glb"), _FILES_LOOKED_AT)
        names = {str(p.relative_to(root)) for p in some}
        near = difflib.get_close_matches(scene_id, names, _NAMES_SHOWN, cutoff=0.3)
        if not near:
            return f"no scene {scene_id!r}: {path} does not exist, and no similar GLB is below {root}"
        return f"no scene {scene_id!r}: {path} does not exist; below {root} are e.g. {', '.join(near)}"

    def place(self, pose: Pose) -> None:
        """Put the robot at ``pose``.

        On a mesh that was computed here it stands on the mesh from the beginning: the first action would put
        it there, and count that as way. On one that came with its scene it stands where the pose says.

        Raises:
            ValueError: the pose is not upright, or too far from where the robot could stand.
        """
        if pose.rotation[2, 2] < 0.999:
            raise ValueError(f"the robot stands upright, got {pose}")
        position, rotation = habitat_from_pose(pose)
        answer = self._ask(
            "place", position=position.tolist(), rotation=rotation.tolist(), reach_m=PLACE_TOLERANCE_M
        )
        snapped = ros_from_habitat_points(np.array(answer["snapped"]))
        offset = snapped - pose.position
        if not (np.hypot(*offset[:2]) < PLACE_TOLERANCE_M and abs(offset[2]) < _HEIGHT_TOLERANCE_M):
            self._pose = None
            where = ", ".join(f"{v:.3f}" for v in pose.position)
            near = ", ".join(f"{v:.3f}" for v in snapped)
            known = f"the nearest place is ({near})" if np.isfinite(snapped).all() else "nowhere near it"
            raise ValueError(
                f"a robot cannot stand at ({where}) in {self._scene_id}: {known}. "
                "If no episode of this scene fits, its axes are not Habitat's: give it a .stage_config.json"
            )
        self._take()

    def _take(self, *, shown: bool = False) -> AgentState:
        """What the last request has left."""
        assert self._process is not None
        state = self._process.state
        self._pose = pose_from_habitat(state.position, state.rotation)
        self._shown = shown
        return state

    def sensor_pose(self) -> Pose:
        """``world_from_optical`` as the simulator itself reports it; what the self-test compares."""
        answer = self._ask("state")
        body = pose_from_habitat(np.array(answer["sensor_position"]), np.array(answer["sensor_rotation"]))
        return body @ BODY_FROM_OPTICAL

    def render(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Colour ``[H, W, 3]`` uint8 and planar depth ``[H, W]`` float32 in metres (0: no reading)."""
        if self._pose is None:
            raise RuntimeError("the robot is nowhere: call place() first")
        if not self._shown:
            self._ask("render")
            self._shown = True
        return self._picture()

    @property
    def base_from_look_down(self) -> Pose | None:
        """Implements :class:`vln_ros.protocols.LooksFurtherDown`."""
        return self._base_from_look_down

    def render_look_down(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Implements :class:`vln_ros.protocols.LooksFurtherDown`."""
        if self._pose is None or self._base_from_look_down is None:
            raise RuntimeError("this robot has no second camera, or is nowhere: call place() first")
        self._ask("look_down")
        self._shown = False
        return self._picture()

    def _picture(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """What lies in the memory that is shared with Habitat's process."""
        assert self._process is not None
        rgba, depth_m = self._process.pictures(self._camera.height, self._camera.width)
        # One pass each, at memory's speed: numpy's indexing takes ten times as long.
        rgb = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
        measured = within(depth_m, self._config.depth_min_m, self._config.depth_max_m)
        return np.asarray(rgb, np.uint8), with_depth_noise(measured, self._depth_noise, self.pose)

    def step(self, action: Action) -> Motion:
        """Execute one discrete action, as Habitat's own. A stop does not move."""
        before = self.pose
        if action == STOP:
            return Motion(False, 0.0)
        amount = action.forward_m or math.degrees(abs(action.turn_rad))
        self._ask("step", name=_ACTIONS[action.kind], amount=amount)
        state = self._take(shown=True)
        return Motion(state.collided, float(np.linalg.norm(self.pose.position - before.position)))

    def drive(self, linear_m_s: float, angular_rad_s: float, duration_s: float) -> Motion:
        """Hold a planar velocity (body frame, may be backwards) for a time: an exact arc unless in the way.

        Raises:
            ValueError: a value is not finite, or the duration is negative.
        """
        values = (linear_m_s, angular_rad_s, duration_s)
        if not all(math.isfinite(v) for v in values) or duration_s < 0.0:
            raise ValueError(f"cannot drive {linear_m_s} m/s, {angular_rad_s} rad/s for {duration_s} s")
        if not self.pose or not duration_s or not (linear_m_s or angular_rad_s):
            return Motion(False, 0.0)
        self._ask("drive", linear_m_s=linear_m_s, angular_rad_s=angular_rad_s, duration_s=duration_s)
        state = self._take()
        return Motion(state.collided, state.travelled_m)

    def geodesic_distance(self, start: Float64Array, goal: Float64Array) -> float:
        """Length in metres of the shortest walkable way between two ``[3]`` points; inf if none."""
        ends = habitat_from_ros_points(np.stack([start, goal])).tolist()
        return float(self._ask("distance", start=ends[0], goal=ends[1])["distance_m"])

    def way(self, start: Float64Array, goal: Float64Array) -> tuple[float, Float64Array]:
        """Length of the shortest way, metres (inf: none), and the ``[3]`` place of its first bend."""
        ends = habitat_from_ros_points(np.stack([start, goal])).tolist()
        answer = self._ask("distance", start=ends[0], goal=ends[1])
        return float(answer["distance_m"]), ros_from_habitat_points(np.array(answer["first_corner"]))

    def try_steps(
        self, starts: Float64Array, ends: Float64Array, goal: Float64Array, clearance_m: float
    ) -> tuple[Float64Array, BoolArray, Float64Array, Float64Array]:
        """What straight steps from ``[N, 3]`` to ``[N, 3]`` would do; nothing moves.

        Returns:
            Where they end ``[N, 3]``, which are stopped or turned aside ``[N]``, the way to ``goal`` from
            there ``[N]`` metres, and how much nearer than ``clearance_m`` to a wall that is ``[N]`` metres.
        """
        answer = self._ask(
            "probe",
            starts=habitat_from_ros_points(starts).tolist(),
            ends=habitat_from_ros_points(ends).tolist(),
            goal=habitat_from_ros_points(goal).tolist(),
            clearance_m=clearance_m,
        )
        return (
            ros_from_habitat_points(np.array(answer["reached"])),
            np.array(answer["collided"], bool),
            np.array(answer["distances_m"], np.float64),
            np.array(answer["nearness_m"], np.float64),
        )

    def pace_s(self, actions: Sequence[Action]) -> float:
        """How long Habitat takes for these actions, pictures included, where nobody is between it and the
        caller: seconds in its own process. The robot is then elsewhere: :meth:`place` it."""
        amounts = [action.forward_m or math.degrees(abs(action.turn_rad)) for action in actions]
        names = [_ACTIONS[action.kind] for action in actions]
        answer = self._ask("pace", names=names, amounts=amounts)
        self._pose = None
        return float(answer["took_s"])

    def free_space(self, metres_per_pixel: float) -> FreeSpace:
        """Where the robot can stand on the floor that it is on."""
        answer = self._ask("floor", metres_per_pixel=metres_per_pixel, height=float(self.pose.position[2]))
        rows, columns = answer["shape"]
        bits = np.frombuffer(base64.b64decode(answer["bits"]), np.uint8)
        grid = np.unpackbits(bits, count=rows * columns).reshape(rows, columns).astype(bool)
        # Rows are Habitat's z (our -x), columns its x (our -y): its corner is our upper right one.
        corner = ros_from_habitat_points(np.array(answer["corner"]))
        half = metres_per_pixel / 2
        origin = np.array([corner[0] - rows * metres_per_pixel + half, corner[1] + half])
        return FreeSpace(np.ascontiguousarray(grid.T[:, ::-1]), metres_per_pixel, origin)

    def close(self) -> None:
        """End the process. Doing it twice does no harm."""
        if self._process is not None:
            self._process.close()
        self._process, self._scene_id, self._pose = None, None, None


class HabitatGround:
    """Implements :class:`vln_ros.sim.oracle.follower.Ground` for the scene that a world has loaded.

    Args:
        world: its process is asked; its robot stays where it is.
        goal: ``[3]`` metres.
        clearance_m: distance to keep from walls, besides the agent's radius.
    """

    def __init__(self, world: HabitatWorld, goal: Float64Array, clearance_m: float = 0.0) -> None:
        self._world = world
        self._goal = goal
        self._clearance_m = clearance_m

    def way(self, place: Float64Array) -> tuple[float, float]:
        length_m, corner = self._world.way(place, self._goal)
        return length_m, math.atan2(corner[1] - place[1], corner[0] - place[0])

    def try_steps(self, place: Float64Array, bearings_rad: Float64Array, length_m: float) -> Tries:
        ahead = np.stack([np.cos(bearings_rad), np.sin(bearings_rad), np.zeros(len(bearings_rad))], 1)
        starts = np.broadcast_to(place, ahead.shape)
        return Tries(*self._world.try_steps(starts, starts + length_m * ahead, self._goal, self._clearance_m))


def within(depth_m: npt.NDArray[np.float32], low_m: float, high_m: float) -> npt.NDArray[np.float32]:
    """A copy of ``[H, W]`` depths in which what is not finite or not from ``low_m`` to ``high_m`` is 0."""
    result = cv2.threshold(depth_m, high_m, 0.0, cv2.THRESH_TOZERO_INV)[1]
    below = float(np.nextafter(np.float32(low_m), np.float32(-1.0)))
    cv2.threshold(result, below, 0.0, cv2.THRESH_TOZERO, dst=result)
    cv2.patchNaNs(result, 0.0)
    return np.asarray(result, np.float32)


def check_glb(path: Path) -> None:
    """Raises ValueError where a GLB's header does not fit its size: Habitat would end its process."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(12)
    if len(header) < 12 or header[:4] != b"glTF":
        raise ValueError(f"{path} is no GLB (it begins with {header[:4]!r}): copy or export it again")
    length = struct.unpack("<I", header[8:])[0]
    if length > size:
        raise ValueError(f"{path} is truncated: {size} bytes of {length}; copy or download it again")
