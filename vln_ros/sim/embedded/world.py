"""The embedded simulator: a robot in a generated flat; needs neither GPU, display nor data."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vln_ros.datatypes import Action, CameraModel, Float64Array, Pose, wrap_angle
from vln_ros.protocols import Motion
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, Flat, generate_flat
from vln_ros.sim.embedded.geodesic import Walkable
from vln_ros.sim.embedded.mesh import SceneMesh, build_mesh
from vln_ros.sim.embedded.render import Float32Array, Renderer, UInt8Array, draw_box

# A curve is driven in straight pieces no longer than this, turning no more than this.
_PIECE_M = 0.02
_PIECE_RAD = math.radians(2.0)
_FLOOR_TOLERANCE_M = 0.05
_TOUCH_M = 1e-6


class Scene:
    """A flat with what is derived from it; the costly parts are made when first asked for."""

    def __init__(self, scene_id: str, agent_radius_m: float) -> None:
        self.flat: Flat = generate_flat(scene_id)
        self.walkable = Walkable(self.flat.obstacles, agent_radius_m)

    @cached_property
    def mesh(self) -> SceneMesh:
        return build_mesh(self.flat)

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self.mesh)


class SceneCache:
    """The scenes used last, at most ``capacity`` of them."""

    def __init__(self, agent_radius_m: float, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"the scene cache must hold at least 1 scene, got {capacity}")
        self.agent_radius_m = agent_radius_m
        self.capacity = capacity
        self._scenes: OrderedDict[str, Scene] = OrderedDict()

    def get(self, scene_id: str) -> Scene:
        """The scene, made if need be. Raises ValueError when there is none of that name."""
        if scene_id not in self._scenes:
            self._scenes[scene_id] = Scene(scene_id, self.agent_radius_m)
            if len(self._scenes) > self.capacity:
                self._scenes.popitem(last=False)
        self._scenes.move_to_end(scene_id)
        return self._scenes[scene_id]

    def __len__(self) -> int:
        return len(self._scenes)

    def clear(self) -> None:
        self._scenes.clear()


@dataclass(frozen=True)
class Box:
    """An upright box on the floor that is not part of the scene: metres, aligned with the walls."""

    x_m: float
    y_m: float
    half_m: float
    height_m: float

    @property
    def footprint(self) -> tuple[float, float, float, float]:
        return self.x_m - self.half_m, self.y_m - self.half_m, self.x_m + self.half_m, self.y_m + self.half_m


class EmbeddedWorld:
    """Implements :class:`vln_ros.protocols.World` with procedural flats. Used from one thread only.

    The base is an upright square of half side ``agent_radius_m`` and never enters an obstacle; what
    it runs into, it slides along, or stops at. Heading is free: turning never collides.

    Args:
        camera: intrinsics of the rendered images.
        base_from_optical: extrinsics of the camera.
        agent_radius_m: half side of the base's square.
        cached_scenes: how many scenes to keep.
        scenes: where they are kept, to share them with other worlds of the same thread; instead of the two
            above.
        sliding: along what is run into, instead of stopping.
    """

    def __init__(
        self,
        camera: CameraModel,
        base_from_optical: Pose,
        agent_radius_m: float = AGENT_RADIUS_M,
        cached_scenes: int = 8,
        scenes: SceneCache | None = None,
        sliding: bool = True,
    ) -> None:
        self._camera = camera
        self._sliding = sliding
        self._base_from_optical = base_from_optical
        self._cache = SceneCache(agent_radius_m, cached_scenes) if scenes is None else scenes
        self._scene: Scene | None = None
        self._pose: Pose | None = None
        self._boxes: tuple[Box, ...] = ()
        self._walkable: Walkable | None = None

    @property
    def boxes(self) -> tuple[Box, ...]:
        """What stands around besides the scene; assign to change it. They are solid, and seen."""
        return self._boxes

    @boxes.setter
    def boxes(self, boxes: tuple[Box, ...]) -> None:
        self._boxes = boxes
        self._walkable = None

    @property
    def touches_box(self) -> bool:
        """The robot's square meets a box."""
        reach = self.scene.walkable.radius_m + _TOUCH_M
        x, y = self.pose.position[:2]
        return any(
            abs(x - b.x_m) < b.half_m + reach and abs(y - b.y_m) < b.half_m + reach for b in self._boxes
        )

    @property
    def _free(self) -> Walkable:
        """Where the robot can go now, boxes included."""
        if not self._boxes:
            return self.scene.walkable
        if self._walkable is None:
            rectangles = np.array([box.footprint for box in self._boxes])
            obstacles = np.concatenate([self.scene.flat.obstacles, rectangles])
            self._walkable = Walkable(obstacles, self.scene.walkable.radius_m)
        return self._walkable

    @property
    def camera(self) -> CameraModel:
        return self._camera

    @property
    def base_from_optical(self) -> Pose:
        return self._base_from_optical

    @property
    def scene(self) -> Scene:
        """The loaded scene. Raises RuntimeError before :meth:`load`."""
        if self._scene is None:
            raise RuntimeError("no scene: call load() first")
        return self._scene

    @property
    def pose(self) -> Pose:
        """``world_from_base``, exact. Raises RuntimeError before :meth:`place`."""
        if self._pose is None:
            raise RuntimeError("the robot is nowhere: call place() first")
        return self._pose

    def load(self, scene_id: str) -> None:
        """Make ``scene_id`` the scene; the robot is nowhere until placed, unless it was loaded already.

        Raises:
            ValueError: no such scene; the message says which ids exist.
        """
        scene = self._cache.get(scene_id)
        if scene is not self._scene:
            self._scene, self._pose, self.boxes = scene, None, ()

    def place(self, pose: Pose) -> None:
        """Put the robot on the floor at ``pose``.

        Raises:
            ValueError: the pose is not upright on the floor, or the robot does not fit there.
        """
        if abs(pose.position[2]) > _FLOOR_TOLERANCE_M or pose.rotation[2, 2] < 0.999:
            raise ValueError(f"the robot stands upright on the floor z = 0, got {pose}")
        x, y = (float(c) for c in pose.position[:2])
        if not self.scene.walkable.contains(pose.position[None, :2])[0]:
            free = self.scene.walkable.nearest(pose.position)
            raise ValueError(
                f"a robot of radius {self.scene.walkable.radius_m} m does not fit at ({x:.3f}, {y:.3f}) in "
                f"{self.scene.flat.scene_id}; the nearest free place is ({free[0]:.3f}, {free[1]:.3f})"
            )
        self._pose = Pose.planar(x, y, pose.yaw_rad)

    def render(self) -> tuple[UInt8Array, Float32Array]:
        """Colour ``[H, W, 3]`` uint8 and planar depth ``[H, W]`` float32 in metres (0: nothing there)."""
        optical = self.pose @ self._base_from_optical
        rgb, depth_m = self.scene.renderer.render(self._camera, optical)
        for b in self._boxes:
            low, high = np.array([*b.footprint[:2], 0.0]), np.array([*b.footprint[2:], b.height_m])
            draw_box(rgb, depth_m, self._camera, optical, low, high)
        return rgb, depth_m

    def step(self, action: Action) -> Motion:
        """Execute one discrete action at once. A stop does not move."""
        self._pose, motion = move(self._free, self.pose, action, sliding=self._sliding)
        return motion

    def drive(self, linear_m_s: float, angular_rad_s: float, duration_s: float) -> Motion:
        """Hold a planar velocity (body frame, may be backwards) for a time: an exact arc unless in the way.

        Raises:
            ValueError: a value is not finite, or the duration is negative.
        """
        values = (linear_m_s, angular_rad_s, duration_s)
        if not all(math.isfinite(v) for v in values) or duration_s < 0.0:
            raise ValueError(f"cannot drive {linear_m_s} m/s, {angular_rad_s} rad/s for {duration_s} s")
        length, angle = linear_m_s * duration_s, angular_rad_s * duration_s
        pieces = max(1, math.ceil(max(abs(length) / _PIECE_M, abs(angle) / _PIECE_RAD)))
        turn = angle / pieces
        half = turn / 2.0
        chord = length / pieces * (math.sin(half) / half if half else 1.0)
        position, yaw = self.pose.position[:2].copy(), self.pose.yaw_rad
        collided, travelled = False, 0.0
        for _ in range(pieces):
            heading = yaw + half
            motion = chord * np.array([math.cos(heading), math.sin(heading)])
            position, hit, moved = self._free.slide(position, motion, sliding=self._sliding)
            collided |= hit
            travelled += moved
            yaw += turn
        self._pose = Pose.planar(float(position[0]), float(position[1]), wrap_angle(yaw))
        return Motion(collided, travelled)

    def geodesic_distance(self, start: Float64Array, goal: Float64Array) -> float:
        """Length in metres of the shortest walkable way between two ``[3]`` points; inf if none."""
        return self.scene.walkable.distance(start, goal)

    def geodesic_path(self, start: Float64Array, goal: Float64Array) -> Float64Array:
        """Corners ``[N, 3]`` of that way, on the floor. Raises ValueError if there is none."""
        path = self.scene.walkable.path(start, goal)
        return np.concatenate([path, np.zeros((len(path), 1))], 1)

    def close(self) -> None:
        self._cache.clear()
        self._scene, self._pose = None, None


def move(walkable: Walkable, pose: Pose, action: Action, *, sliding: bool = True) -> tuple[Pose, Motion]:
    """Where a base is after one discrete action among obstacles, and what it did."""
    if action.stop:
        return pose, Motion(False, 0.0)
    yaw = pose.yaw_rad
    step = action.forward_m * np.array([math.cos(yaw), math.sin(yaw)])
    position, hit, travelled = walkable.slide(pose.position[:2], step, sliding=sliding)
    moved = Pose.planar(float(position[0]), float(position[1]), wrap_angle(yaw + action.turn_rad))
    return moved, Motion(hit, travelled)
