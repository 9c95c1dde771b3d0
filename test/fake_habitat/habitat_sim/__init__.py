"""What of habitat_sim's interface this package uses, over real geometry: for tests, for nobody's results.

Written from what was recorded of habitat-sim 0.3.4 and read in the sources of 0.1.7 to 0.3.4: names, types,
axes, quirks. Pictures are cast with Embree from the GLB itself; the navigation mesh is a polygon made of its
triangles. It fails as the real one was seen to fail: the mesh lies on multiples of ``cell_height``, 0.2 m
unless told otherwise, every action puts the agent onto it, a turn in place too, and a GPU that is not there
ends the process from C++, without a Python traceback, behind lines that mean nothing.

``FAKE_HABITAT=0.1.7`` gives the oldest interface; ``FAKE_HABITAT_DIES=step`` and the like kill the process in
the third such call (``step:1``: the first), and with ``FAKE_HABITAT_ONCE`` only while that file can be made;
``FAKE_HABITAT_POISON`` is part of the name of scenes that it does not survive. ``FAKE_HABITAT_CALLS`` names a
file that gets a line per simulator that is made. ``FAKE_HABITAT_RENDER_MS`` is what the pictures of one
moment cost, as a renderer would take it, and shows a picture drawn before, so that nothing else is measured.
``FAKE_HABITAT_WRONG`` makes it wrong in one way, for tests of the self-test.
"""

import enum
import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from . import utils
from .utils.common import Quaternion

__version__ = "0.3.3"
OLD = os.environ.get("FAKE_HABITAT") == "0.1.7"
WRONG = os.environ.get("FAKE_HABITAT_WRONG")
built_with_bullet = cuda_enabled = False
_RENDER_MS, _, _HOW = os.environ.get("FAKE_HABITAT_RENDER_MS", "nan").partition(":")
RENDER_S, DRAWN_ONCE = float(_RENDER_MS) / 1e3, _HOW != "fresh"
CHATTER = """\
PluginManager::Manager: duplicate static plugin StbImageImporter, ignoring
PluginManager::Manager: duplicate static plugin GltfImporter, ignoring
I1130 07:43:31.123456 {pid} SceneGraph.h:93] Created DrawableGroup:
[07:43:31:123456]:[Metadata] AttributesManagersBase.h(296)::createFromJsonOrDefaultInternal : Proceeding
[07:43:31:123456]:[Warning]:[Metadata] SceneDatasetAttributesManager.cpp(107)::addNewSceneInstance : default
Renderer: llvmpipe (LLVM 15.0.7, 256 bits) by Mesa
OpenGL version: 4.5 (Core Profile) Mesa 23.2.1
Using optional features:
    GL_ARB_vertex_array_object
Using driver workarounds:
    no-forward-compatible-core-context
[07:43:31:123456]:[Physics] PhysicsManager.cpp(37)::~PhysicsManager : Deconstructing PhysicsManager
"""
"""What the real one says whenever it is started and ended, and what nobody needs to read."""
_RANDOM = np.random.default_rng()
_calls: dict = {}


def _called(name):
    _calls[name] = _calls.get(name, 0) + 1
    dies, _, number = os.environ.get("FAKE_HABITAT_DIES", "").partition(":")
    if dies == name and _calls[name] == int(number or 3):
        if "FAKE_HABITAT_ONCE" in os.environ:
            try:
                os.close(os.open(os.environ["FAKE_HABITAT_ONCE"], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        _say("the driver fell over")
        _say(CHATTER.format(pid=os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)


def _say(text):
    """As C++ does: at once, past Python's buffers."""
    os.write(2, text.encode() + b"\n")


class SensorType(enum.Enum):
    NONE, COLOR, DEPTH, SEMANTIC = range(4)


class _Strict:
    """Attributes that the real class does not have cannot be set."""

    def __setattr__(self, name, value):
        if name not in self.FIELDS:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        object.__setattr__(self, name, value)

    def __init__(self, **values):
        for name, default in self.FIELDS.items():
            object.__setattr__(self, name, default() if callable(default) else default)
        for name, value in values.items():
            setattr(self, name, value)


class _Spec(_Strict):
    FIELDS = {
        "uuid": "",
        "sensor_type": None,
        "resolution": None,
        "position": None,
        "orientation": None,
        "channels": 4,
    }


if OLD:

    class SensorSpec(_Spec):
        FIELDS = {**_Spec.FIELDS, "parameters": lambda: {"hfov": "90", "near": "0.01", "far": "1000"}}

        @property
        def hfov_rad(self):
            return math.radians(float(self.parameters["hfov"]))
else:

    class CameraSensorSpec(_Spec):
        FIELDS = {**_Spec.FIELDS, "hfov": 90.0}

        @property
        def hfov_rad(self):
            return math.radians(self.hfov)


class SimulatorConfiguration(_Strict):
    FIELDS = {
        "scene_id": "NONE",
        "gpu_device_id": 0,
        "allow_sliding": True,
        "enable_physics": False,
        "create_renderer": True,
    }


class NavMeshSettings(_Strict):
    FIELDS = {"agent_radius": 0.1, "agent_height": 1.5, "cell_size": 0.05, "cell_height": 0.2}

    def set_defaults(self):
        self.__init__()


class ShortestPath(_Strict):
    FIELDS = {"requested_start": None, "requested_end": None, "points": list, "geodesic_distance": 0.0}


class _AgentState(_Strict):
    FIELDS = {
        "position": lambda: np.zeros(3),
        "rotation": lambda: Quaternion(1, 0, 0, 0),
        "sensor_states": dict,
    }


class _AgentConfiguration(_Strict):
    FIELDS = {"height": 1.5, "radius": 0.1, "sensor_specifications": list, "action_space": dict}


class _ActuationSpec:
    def __init__(self, amount):
        self.amount = amount


class _ActionSpec:
    def __init__(self, name, actuation):
        self.name, self.actuation = name, actuation


agent = SimpleNamespace(
    AgentState=_AgentState, AgentConfiguration=_AgentConfiguration,
    ActionSpec=_ActionSpec, ActuationSpec=_ActuationSpec,
)  # fmt: skip


class Configuration:
    def __init__(self, sim_cfg, agents):
        self.sim_cfg, self.agents = sim_cfg, agents


class Vector3:
    """Like magnum's: an array when asked, not an array."""

    def __init__(self, values):
        self._values = np.asarray(values, np.float32)

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype)


def _float32(point):
    assert isinstance(point, Vector3) or point.dtype == np.float32, "the bindings take float32"
    return np.array(point, np.float64)


class Agent:
    def __init__(self, configuration):
        self.agent_config = configuration
        self._position, self._rotation = np.zeros(3, np.float32), Quaternion(1, 0, 0, 0)

    def get_state(self):
        states = {}
        for spec in self.agent_config.sensor_specifications:
            pitch = Quaternion(math.cos(spec.orientation[0] / 2), math.sin(spec.orientation[0] / 2), 0, 0)
            mounted = np.zeros(3) if WRONG == "height" else np.asarray(spec.position)
            at = self._position + self._rotation.matrix() @ mounted
            states[spec.uuid] = SimpleNamespace(position=at, rotation=self._rotation * pitch)
        told = self._position[[2, 1, 0]] if WRONG == "axes" else self._position.copy()
        return _AgentState(position=told, rotation=self._rotation, sensor_states=states)

    def set_state(self, state):
        assert isinstance(state.rotation, Quaternion)
        self._position, self._rotation = np.asarray(state.position, np.float32), state.rotation


class PathFinder:
    """A polygon where the middle of the agent may be, on the floor of height ``level``."""

    def __init__(self):
        self.polygon = None

    @property
    def is_loaded(self):
        return self.polygon is not None

    @property
    def navigable_area(self):
        return self.polygon.area

    def get_bounds(self):
        x0, z0, x1, z1 = self.polygon.bounds
        return Vector3([x0, self.level, z0]), Vector3([x1, self.level, z1])

    def build(self, triangles, settings):
        import shapely

        normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        flat = normal[:, 1] > 0.7 * np.maximum(np.linalg.norm(normal, axis=1), 1e-12)
        low, high = triangles[..., 1].min(1), triangles[..., 1].max(1)
        floors = flat & (low < triangles[..., 1].min() + 0.2)
        if not floors.any():
            return False
        ground = float(low[floors].min())
        radius = math.ceil(settings.agent_radius / settings.cell_size - 1e-6) * settings.cell_size
        in_the_way = ~floors & (high > ground + 0.2) & (low < ground + settings.agent_height)
        flat_on_floor = triangles[in_the_way][..., [0, 2]].reshape(-1, 2)
        corners = shapely.points(flat_on_floor).reshape(-1, 3)
        shadow = shapely.convex_hull(shapely.multipoints(corners))
        floor = shapely.union_all(shapely.polygons(triangles[floors][..., [0, 2]])).buffer(1e-6)
        free = floor.buffer(-radius)
        if len(shadow):
            free = free.difference(shapely.union_all(shadow).buffer(radius, quad_segs=4)).buffer(0)
        if free.is_empty:
            return False
        # A floor is as high as the top of the cell that it lies in or on: 0.2 m above itself by default.
        cell = 0.2 if WRONG in ("coarse", "lifted") else settings.cell_height
        lowest = float(triangles[..., 1].min())
        cells = max(1, math.ceil((ground - lowest) / cell - 1e-6))
        self.polygon, self.level = free.simplify(0.002), lowest + cells * cell
        shapely.prepare(self.polygon)
        self._graph = self._goal = None
        return True

    def _inside(self, p):
        import shapely

        return bool(shapely.intersects_xy(self.polygon, p[0], p[2]))

    def snap(self, p):
        import shapely

        if not self._inside(p):
            near = shapely.ops.nearest_points(self.polygon, shapely.Point(p[0], p[2]))[0]
            if near.distance(shapely.Point(p[0], p[2])) > 2.0:
                return np.full(3, np.nan)
            p = np.array([near.x, 0.0, near.y])
        return np.array([p[0], self.level, p[2]]) if abs(p[1] - self.level) < 4.0 else np.full(3, np.nan)

    def snap_point(self, point):
        near = self.snap(_float32(point))
        if WRONG == "lifted":  # a start that is off the mesh, and put onto it by the first action
            near[1] = _float32(point)[1]
        return Vector3(near)

    def try_step(self, start, end, sliding=True):
        if WRONG == "walls":
            return end
        a, b = _float32(start), _float32(end)
        p, pieces = self.snap(a), max(1, math.ceil(np.linalg.norm(b - a) / 0.01))
        for _ in range(pieces):
            wanted = p + (b - a) / pieces * np.array([1, 0, 1])
            if not self._inside(wanted):
                if not sliding:
                    break
                wanted = self.snap(wanted)
            p = wanted
        return Vector3(p)

    def distance_to_closest_obstacle(self, point, max_search_radius=2.0):
        import shapely

        p = self.snap(_float32(point))
        return min(float(max_search_radius), float(self.polygon.boundary.distance(shapely.Point(p[0], p[2]))))

    def _lengths(self, p, q):
        """Straight lengths between ``[N, 2]`` places; 0 where something is in between."""
        import shapely

        lines = shapely.linestrings(np.stack(np.broadcast_arrays(p, q), -2))
        return np.where(shapely.covers(self._grown, lines), np.linalg.norm(p - q, axis=-1), 0.0)

    def find_path(self, path):
        import shapely
        from scipy.sparse.csgraph import dijkstra

        a, b = self.snap(_float32(path.requested_start)), self.snap(_float32(path.requested_end))
        path.geodesic_distance, path.points = math.inf, []
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            return False
        if WRONG == "distance":
            path.geodesic_distance = float(np.linalg.norm(a - b))
            return True
        if self._graph is None:
            self._grown = self.polygon.buffer(1e-4)
            shapely.prepare(self._grown)
            v = np.unique(shapely.get_coordinates(self.polygon), axis=0)
            i, j = np.triu_indices(len(v), 1)
            matrix = np.zeros((len(v), len(v)))
            matrix[i, j] = self._lengths(v[i], v[j])
            self._graph = v, matrix + matrix.T
        v, matrix = self._graph
        start, end, n = a[[0, 2]], b[[0, 2]], len(v)
        if self._goal is None or (self._goal[0] != end).any():
            whole = np.zeros((n + 1, n + 1))
            whole[:n, :n] = matrix
            whole[n, :n] = self._lengths(v, end)
            self._goal = end, *dijkstra(whole, directed=False, indices=n, return_predecessors=True)
        _, lengths, following = self._goal
        nodes = np.concatenate([v, end[None]])
        straight = self._lengths(nodes, start)
        same = (nodes == start).all(-1)
        through = np.where((straight > 0.0) | same, straight + lengths, np.inf)
        first = int(through.argmin())
        path.geodesic_distance = float(np.float32(through[first]))
        if not math.isfinite(path.geodesic_distance):
            return False
        path.points = [Vector3(a)]
        while first >= 0:
            path.points.append(Vector3([nodes[first, 0], self.level, nodes[first, 1]]))
            first = int(following[first]) if first != n else -1
        return True

    def get_topdown_view(self, meters_per_pixel, height):
        import shapely

        x0, z0, x1, z1 = self.polygon.bounds
        x = x0 + meters_per_pixel * np.arange(int((x1 - x0) / meters_per_pixel))
        z = z0 + meters_per_pixel * np.arange(int((z1 - z0) / meters_per_pixel))
        if abs(height - self.level) > 0.5:
            return np.zeros((len(z), len(x)), bool)
        return shapely.intersects_xy(self.polygon, *np.meshgrid(x, z))


class _Stage:
    """Triangles of a GLB in Habitat's axes, with a colour each, ready to cast rays at."""

    def __init__(self, path):
        import trimesh
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        config = path.with_suffix(".stage_config.json")
        up, asset = [0, 0, 1], path
        if config.exists() and WRONG != "stage":
            stage = json.loads(config.read_text())
            up, asset = stage["up"], config.parent / stage["render_asset"]
        scene = trimesh.load(asset)
        triangles, colors = [], []
        for name in scene.graph.nodes_geometry:
            matrix, geometry = scene.graph[name]
            part = scene.geometry[geometry]
            triangles.append(
                trimesh.transform_points(part.triangles.reshape(-1, 3), matrix).reshape(-1, 3, 3)
            )
            colors.append(np.tile(_color(part.visual), (len(part.faces), 1)))
        triangles = np.concatenate(triangles)
        if up == [0, 0, 1]:  # Matterport: z up, +y in front
            triangles = triangles @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]).T
        self.triangles = triangles
        self.colors = np.concatenate(colors)
        self._scene = EmbreeScene(robust=True)
        vertices = triangles.reshape(-1, 3).astype(np.float32)
        self._mesh = TriangleMesh(
            self._scene, vertices, np.arange(len(vertices), dtype=np.int32).reshape(-1, 3)
        )

    def look(self, spec, state):
        """Colour and planar depth of a pinhole: x right, y up, looking along -z."""
        h, w = spec.resolution
        focal = w / 2 / math.tan((math.pi / 2 if WRONG == "hfov" else spec.hfov_rad) / 2)
        u, v = np.meshgrid(np.arange(w), np.arange(h))
        if WRONG == "principal":
            u, v = u - 2.5, v - 2.5
        rays = np.stack([(u - (w - 1) / 2) / focal, ((h - 1) / 2 - v) / focal, -np.ones((h, w))], -1)
        rays = (rays.reshape(-1, 3) @ state.rotation.matrix().T).astype(np.float32)
        origins = np.empty_like(rays)
        origins[:] = state.position
        hits = self._scene.run(origins, rays, output=1)
        missed = (hits["primID"] < 0) | (hits["tfar"] > 1000.0)
        rgba = np.full((h * w, 4), 255, np.uint8)
        rgba[:, :3] = self.colors[np.maximum(hits["primID"], 0)]
        rgba[missed, :3] = 0
        depth = np.where(missed, 0.0, hits["tfar"]).astype(np.float32)
        if WRONG == "depth":
            depth *= np.float32(1.02)
        if WRONG == "normalised":
            depth = np.clip(depth / np.float32(10.0), 0.0, 1.0)
        if WRONG == "noise":
            depth *= np.float32(1.0 + 1e-6 * _RANDOM.random())
        if WRONG == "colour":
            rgba[:, :3] = rgba[:, 2::-1]
        return rgba.reshape(h, w, 4), depth.reshape(h, w)


def _color(visual):
    material = visual.material
    color = (
        np.array([255.0, 255.0, 255.0]) if material.baseColorFactor is None else material.baseColorFactor[:3]
    )
    if material.baseColorTexture is not None:
        texture = material.baseColorTexture.resize((1, 1), 5).convert("RGB")
        color = color / 255.0 * np.asarray(texture)[0, 0]
    return color.astype(np.uint8)


class Simulator:
    def __init__(self, configuration):
        self._thread = threading.get_ident()
        self._drawn = {}
        if "FAKE_HABITAT_CALLS" in os.environ:
            with Path(os.environ["FAKE_HABITAT_CALLS"]).open("a") as calls:
                calls.write(f"{configuration.sim_cfg.scene_id}\n")
        self._needs_context(configuration)
        self.reconfigure(configuration)

    def _needs_context(self, configuration):
        """A picture needs a GPU, or software in its place; without cameras there is none."""
        number = configuration.sim_cfg.gpu_device_id
        configuration.sim_cfg.create_renderer = any(a.sensor_specifications for a in configuration.agents)
        if not configuration.sim_cfg.create_renderer:
            return
        _say(CHATTER.format(pid=os.getpid()))
        if number >= 0:
            _say(
                "Platform::WindowlessEglApplication::tryCreateContext(): unable to find CUDA device "
                f"{number} among 1 EGL devices in total\n"
                "WindowlessContext: Unable to create windowless context"
            )
            _say(CHATTER.format(pid=os.getpid()))
            os._exit(1)

    def reconfigure(self, configuration):
        _called("load")
        self.config = configuration
        path = Path(configuration.sim_cfg.scene_id)
        if not path.exists():
            raise RuntimeError(f"no stage {path}")
        if os.environ.get("FAKE_HABITAT_POISON") and os.environ["FAKE_HABITAT_POISON"] in path.name:
            _say(f"ESP_CHECK failed: cannot import {path}")
            os.abort()
        self._stage = _Stage(path)
        self.pathfinder = PathFinder()
        self._agent = Agent(configuration.agents[0])
        if (path.parent / (path.stem + ".navmesh")).exists():
            self.recompute_navmesh(self.pathfinder, NavMeshSettings())

    def _check(self):
        if threading.get_ident() != self._thread:
            os.abort()  # the context is bound to its thread

    def recompute_navmesh(self, pathfinder, settings):
        return pathfinder.build(self._stage.triangles, settings)

    def get_agent(self, _):
        return self._agent

    def step_filter(self, start, end):
        return self.pathfinder.try_step(start, end, self.config.sim_cfg.allow_sliding)

    def get_sensor_observations(self):
        self._check()
        _called("render")
        state, seen = self._agent.get_state(), {}
        end_s = time.thread_time() + RENDER_S
        for spec in self._agent.agent_config.sensor_specifications:
            assert spec.channels == (1 if spec.sensor_type is SensorType.DEPTH else 4)
            if RENDER_S >= 0.0 and DRAWN_ONCE and spec.uuid in self._drawn:
                seen[spec.uuid] = np.flip(self._drawn[spec.uuid], 0)  # its buffer, as the real one
                continue
            rgba, depth = self._stage.look(spec, state.sensor_states[spec.uuid])
            seen[spec.uuid] = depth if spec.sensor_type is SensorType.DEPTH else rgba
            self._drawn[spec.uuid] = np.ascontiguousarray(np.flip(seen[spec.uuid], 0))
        while time.thread_time() < end_s:  # as software does it: with a core of this machine
            pass
        return seen

    def step(self, name):
        _called("step")
        action = self._agent.agent_config.action_space[name]
        state, amount = self._agent.get_state(), action.actuation.amount
        start = Vector3(state.position)
        wanted = np.array(start, np.float64)
        if action.name == "move_forward":
            wanted = wanted + state.rotation.matrix() @ [0.0, 0.0, -amount]
        else:
            half = math.radians(amount if (action.name == "turn_left") != (WRONG == "turn") else -amount) / 2
            state.rotation = state.rotation * Quaternion(math.cos(half), 0, math.sin(half), 0)
        # Whatever the action: the place goes through the filter, which puts it onto the mesh.
        reached = np.array(self.step_filter(start, Vector3(wanted)), np.float64)
        collided = ((reached - start) ** 2).sum() + 1e-5 < ((wanted - start) ** 2).sum()
        state.position = reached
        stale = self.get_sensor_observations() if WRONG == "stale" else None
        self._agent.set_state(state)
        seen = stale or self.get_sensor_observations()
        return {**seen, "collided": bool(collided)}

    def close(self):
        pass


__all__ = ["utils"]
