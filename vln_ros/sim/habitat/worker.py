"""Runs Habitat in its own process, for :mod:`vln_ros.sim.habitat.world`.

A program, not a module of the package: it is started by its path, under an interpreter that has
habitat_sim and numpy and nothing else, from Python 3.8 on, and imports nothing of vln_ros. Everything
here is in Habitat's axes; quaternions travel with the scalar last, as in episode files.

    python worker.py SOCKET MEMORY

SOCKET is the descriptor of a stream socket that carries one JSON object per line: a request
``{"do": name, ...}``, and its answer ``{"ok": {...}}`` or ``{"error": text}``. The first line is the
worker's and tells what it found. The worker ends when the socket closes. MEMORY is the descriptor of the
memory in which everything lies that a step changes, so that nothing of it goes through the socket:
STATE_VALUES float64 (position, rotation, whether it collided, metres travelled), then depth ``[H, W]``
float32, then colour ``[H, W, 4]`` uint8, as Habitat hands it out.

Versions differ (0.1.7 to 0.3.x), and some report a wrong number: what is there is looked at, not
``__version__``.
"""

from __future__ import annotations

import base64
import json
import math
import mmap
import platform
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

PIECE_M, PIECE_RAD = 0.05, math.radians(2.0)
"""A curve is driven in straight pieces no longer than this, turning no more than this."""


CORNER_M = 0.01
STATE_VALUES = 16
"""Of which nine are used."""


class RefusedError(Exception):
    """The request cannot be done; nothing is broken."""


class Worker:
    """One simulator with one agent that carries a colour and a depth camera at the same place."""

    def __init__(self, habitat_sim: Any, numpy: Any, memory: mmap.mmap) -> None:
        self.habitat_sim = habitat_sim
        self.np = numpy
        self.memory = memory
        self.sim: Any = None
        self.setup: dict[str, Any] = {}
        self.shipped = False
        self.kept = numpy.frombuffer(memory, numpy.float64, STATE_VALUES)
        self.rgba: Any = None
        self.depth: Any = None

    # ------------------------------------------------------------------ what versions differ in

    def features(self) -> dict[str, bool]:
        h = self.habitat_sim
        settings = getattr(h, "NavMeshSettings", None)
        return {
            "camera_spec": hasattr(h, "CameraSensorSpec"),
            "bullet": bool(getattr(h, "built_with_bullet", False)),
            "cuda": bool(getattr(h, "cuda_enabled", False)),
            "mesh_cell_height": settings is not None and hasattr(settings(), "cell_height"),
        }

    def camera(self, uuid: str, sensor_type: Any, channels: int) -> Any:
        h, s = self.habitat_sim, self.setup
        position = self.np.array([0.0, s["camera_height_m"], 0.0], self.np.float32)
        orientation = self.np.array([-s["pitch_down_rad"], 0.0, 0.0], self.np.float32)
        if hasattr(h, "CameraSensorSpec"):
            spec = h.CameraSensorSpec()
            spec.hfov = s["hfov_deg"]
        else:
            spec = h.SensorSpec()
            spec.parameters["hfov"] = str(s["hfov_deg"])
        spec.uuid = uuid
        spec.sensor_type = sensor_type
        spec.resolution = [s["height"], s["width"]]
        spec.position = position
        spec.orientation = orientation
        spec.channels = channels
        return spec

    # ------------------------------------------------------------------ requests

    def load(self, setup: dict[str, Any], scene: str, recompute_navmesh: bool) -> dict[str, Any]:
        """Make ``scene`` (a path) the scene; the simulator itself is made once."""
        h = self.habitat_sim
        self.setup = setup
        backend = h.SimulatorConfiguration()
        backend.scene_id = scene
        backend.gpu_device_id = setup["gpu"]
        backend.allow_sliding = setup["sliding"]
        agent = h.agent.AgentConfiguration()
        agent.height = setup["agent_height_m"]
        agent.radius = setup["agent_radius_m"]
        # Without cameras Habitat makes no context, and needs neither a GPU nor textures.
        agent.sensor_specifications = (
            [self.camera("rgb", h.SensorType.COLOR, 4), self.camera("depth", h.SensorType.DEPTH, 1)]
            if setup["cameras"]
            else []
        )
        agent.action_space = {
            name: h.agent.ActionSpec(name, h.agent.ActuationSpec(amount=1.0))
            for name in ("move_forward", "turn_left", "turn_right")
        }
        configuration = h.Configuration(backend, [agent])
        if self.sim is None:
            self.sim = h.Simulator(configuration)
        else:
            self.sim.reconfigure(configuration)
        size = setup["height"] * setup["width"]
        shape = (setup["height"], setup["width"])
        first = 8 * STATE_VALUES
        self.depth = self.np.frombuffer(self.memory, self.np.float32, size, first).reshape(shape)
        self.rgba = self.np.frombuffer(self.memory, self.np.uint8, 4 * size, first + 4 * size)
        self.rgba = self.rgba.reshape(*shape, 4)
        shipped = bool(self.sim.pathfinder.is_loaded)
        if recompute_navmesh or not shipped:
            # In every version with these two arguments; SimulatorConfiguration.navmesh_settings would
            # throw a shipped mesh away whose settings differ.
            settings = h.NavMeshSettings()
            settings.set_defaults()
            settings.agent_radius = setup["agent_radius_m"]
            settings.agent_height = setup["agent_height_m"]
            if setup["cell_height_m"] and hasattr(settings, "cell_height"):
                settings.cell_height = setup["cell_height_m"]
            if not self.sim.recompute_navmesh(self.sim.pathfinder, settings):
                raise RefusedError(
                    "no navigation mesh could be computed: is the floor where Habitat expects it?"
                )
            shipped = False
        self.shipped = shipped
        finder = self.sim.pathfinder
        return {
            "shipped_navmesh": shipped,
            "area_m2": float(finder.navigable_area),
            "bounds": [[float(v) for v in self.np.array(corner)] for corner in finder.get_bounds()],
        }

    def body(self) -> Any:
        if self.sim is None:
            raise RefusedError("no scene is loaded")
        return self.sim.get_agent(0)

    def state(self) -> dict[str, Any]:
        """Where the agent and its cameras are, as the simulator says it."""
        s = self.body().get_state()
        sensor = s.sensor_states["depth"]
        return {
            "position": [float(v) for v in s.position],
            "rotation": xyzw(s.rotation),
            "sensor_position": [float(v) for v in sensor.position],
            "sensor_rotation": xyzw(sensor.rotation),
        }

    def keep(self, collided: bool = False, travelled_m: float = 0.0) -> None:
        """Leave the agent's state in the memory."""
        state = self.body().get_state()
        self.kept[:3] = state.position
        r = state.rotation
        self.kept[3:9] = (r.x, r.y, r.z, r.w, collided, travelled_m)

    def place(self, position: list[float], rotation: list[float], reach_m: float) -> dict[str, Any]:
        """Put the agent there. Habitat accepts any place, so the caller judges ``snapped``.

        Onto a mesh that was computed, where it is no farther away than ``reach_m`` in the plane: the first
        action would do the same, and count it as way. On a mesh that came with its scene as told, as
        habitat-lab does.
        """
        self.body()
        snapped = self.np.array(self.sim.pathfinder.snap_point(self.point(position)))
        off = snapped - self.np.array(position)
        if not self.shipped and math.hypot(float(off[0]), float(off[2])) < reach_m:
            position = snapped
        self.put(position, rotation)
        self.keep()
        return {"snapped": [float(v) for v in snapped]}

    def put(self, position: Any, rotation: list[float]) -> None:
        state = self.habitat_sim.agent.AgentState()
        self.body()
        state.position = self.np.array(position, self.np.float32)
        state.rotation = self.habitat_sim.utils.common.quat_from_coeffs(self.np.array(rotation))
        self.body().set_state(state)

    def point(self, values: Any) -> Any:
        return self.np.array(values, self.np.float32)

    def step(self, name: str, amount: float) -> dict[str, Any]:
        """One action of Habitat's own; the picture after it is in the memory when this returns."""
        agent = self.body()
        agent.agent_config.action_space[name].actuation.amount = amount
        seen = self.sim.step(name)
        self.show(seen)
        self.keep(bool(seen["collided"]))
        return {}

    def drive(self, linear_m_s: float, angular_rad_s: float, duration_s: float) -> dict[str, Any]:
        """Hold a velocity: an exact arc, filtered by the navigation mesh piece by piece."""
        state = self.body().get_state()
        position = self.np.array(state.position, self.np.float64)
        yaw = 2.0 * math.atan2(state.rotation.y, state.rotation.w)
        length, angle = linear_m_s * duration_s, angular_rad_s * duration_s
        pieces = max(1, math.ceil(max(abs(length) / PIECE_M, abs(angle) / PIECE_RAD)))
        half = angle / pieces / 2.0
        chord = length / pieces * (math.sin(half) / half if half else 1.0)
        collided, travelled = False, 0.0
        for _ in range(pieces):
            heading = yaw + half
            if chord:
                wanted = position + chord * self.np.array([-math.sin(heading), 0.0, -math.cos(heading)])
                reached = self.sim.step_filter(self.point(position), self.point(wanted))
                reached = self.np.array(reached, self.np.float64)
                moved = float(self.np.linalg.norm(reached - position))
                # as Habitat judges its own actions: less far than asked for is a collision
                collided = collided or moved < 0.98 * abs(chord)
                travelled += moved
                position = reached
            yaw += 2.0 * half
        self.put(position, [0.0, math.sin(yaw / 2.0), 0.0, math.cos(yaw / 2.0)])
        self.keep(collided, travelled)
        return {}

    def render(self) -> dict[str, Any]:
        self.body()
        self.show(self.sim.get_sensor_observations())
        return {}

    def show(self, seen: Any) -> None:
        self.rgba[:] = self.np.asarray(seen["rgb"])
        self.depth[:] = self.np.asarray(seen["depth"]).reshape(self.depth.shape)

    def probe(
        self, starts: list[list[float]], ends: list[list[float]], goal: list[float], clearance_m: float
    ) -> dict[str, Any]:
        """Tries straight steps: where each ends, whether it is stopped or turned aside, how far the goal is
        then, and how much nearer than ``clearance_m`` to a wall it ends. Nothing is moved."""
        self.body()
        finder = self.sim.pathfinder
        reached, collided, distances, nearness = [], [], [], []
        for start, end in zip(starts, ends):
            before, wanted = self.np.array(start), self.np.array(end)
            after = self.np.array(self.sim.step_filter(self.point(start), self.point(end)), self.np.float64)
            reached.append([float(v) for v in after])
            # as Habitat judges its own actions
            short = ((after - before) ** 2).sum() + 1e-5 < ((wanted - before) ** 2).sum()
            collided.append(bool(short))
            distances.append(self.distance(reached[-1], goal)["distance_m"])
            room = clearance_m
            if clearance_m:
                room = float(finder.distance_to_closest_obstacle(self.point(after), clearance_m))
            nearness.append(max(0.0, clearance_m - room))
        return {"reached": reached, "collided": collided, "distances_m": distances, "nearness_m": nearness}

    def pace(self, names: list[str], amounts: list[float]) -> dict[str, float]:
        """How long these actions take where nobody is between the caller and Habitat."""
        space = self.body().agent_config.action_space
        begun_s = time.perf_counter()
        for name, amount in zip(names, amounts):
            space[name].actuation.amount = amount
            seen = self.sim.step(name)
            if seen["rgb"].shape[:2] != seen["depth"].shape[:2]:
                raise RefusedError("colour and depth differ in size")
        return {"took_s": time.perf_counter() - begun_s}

    def distance(self, start: list[float], goal: list[float]) -> dict[str, Any]:
        """Of the shortest way, and the first place that lies on it some way off."""
        self.body()
        path = self.habitat_sim.ShortestPath()
        path.requested_start = self.point(start)
        path.requested_end = self.point(goal)
        found = self.sim.pathfinder.find_path(path)
        corner = goal
        for point in path.points if found else ():
            values = [float(v) for v in self.np.array(point)]
            if math.hypot(values[0] - start[0], values[2] - start[2]) > CORNER_M:
                corner = values
                break
        return {"distance_m": float(path.geodesic_distance) if found else math.inf, "first_corner": corner}

    def floor(self, metres_per_pixel: float, height: float) -> dict[str, Any]:
        """Where the agent can stand near ``height``: rows along z, columns along x, one bit each."""
        self.body()
        finder = self.sim.pathfinder
        grid = self.np.array(finder.get_topdown_view(metres_per_pixel, height), bool)
        low, high = self.np.array(finder.get_bounds()[0]), self.np.array(finder.get_bounds()[1])
        return {
            "shape": list(grid.shape),
            "bits": base64.b64encode(self.np.packbits(grid).tobytes()).decode("ascii"),
            "corner": [float(v) for v in self.np.minimum(low, high)],
        }

    REQUESTS = (
        "load", "state", "place", "step", "drive", "render", "distance", "floor", "probe", "pace"
    )  # fmt: skip

    def serve(self, stream: Any) -> None:
        """Answer one request after the other, until nobody asks any more."""
        for line in stream:
            request = json.loads(line.decode("utf-8"))
            do = request.pop("do")
            answer: dict[str, Any]
            try:
                if do not in self.REQUESTS:
                    raise RefusedError(f"unknown request {do!r}")
                answer = {"ok": getattr(self, do)(**request)}
            except RefusedError as error:
                answer = {"error": str(error)}
            except Exception as error:
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            say(stream, answer)
        if self.sim is not None:
            self.sim.close()


def xyzw(rotation: Any) -> list[float]:
    """Of a quaternion of numpy-quaternion's."""
    return [float(rotation.x), float(rotation.y), float(rotation.z), float(rotation.w)]


def say(stream: Any, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer).encode("utf-8") + b"\n")
    stream.flush()


def main() -> None:
    # This folder is full of modules whose names are anybody's (mesh, render, plan ...).
    here = Path(__file__).resolve().parent
    sys.path[:] = [p for p in sys.path if Path(p).resolve() != here]
    stream = socket.socket(fileno=int(sys.argv[1])).makefile("rwb")
    found: dict[str, Any] = {"python": platform.python_version(), "executable": sys.executable}
    try:
        import numpy

        found["numpy"] = numpy.__version__
        import habitat_sim

        found["habitat_sim"] = str(getattr(habitat_sim, "__version__", "?"))
        found["habitat_sim_path"] = str(getattr(habitat_sim, "__file__", "?"))
        # the memory is held until the end of the process: arrays look into it
        worker = Worker(habitat_sim, numpy, mmap.mmap(int(sys.argv[2]), 0))
        found["features"] = worker.features()
    except Exception as error:
        traceback.print_exc()
        say(stream, {"error": f"{type(error).__name__}: {error}", "found": found})
        return
    say(stream, {"ok": found})
    worker.serve(stream)


if __name__ == "__main__":
    main()
