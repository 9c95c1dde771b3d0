"""Renders colour and depth images of a mesh by ray casting on the CPU (Embree)."""

from __future__ import annotations

import platform

import numpy as np
import numpy.typing as npt

from vln_ros.config import ConfigError
from vln_ros.datatypes import CameraModel, Float64Array, Pose
from vln_ros.sim.embedded.mesh import SceneMesh

_SMALLEST_MIP_PX = 8
_LEVELS = 7  # 512 px down to 8 px
_BOX_RGB = (200, 60, 40)

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]


def mip_levels(texture: UInt8Array) -> list[UInt8Array]:
    """A texture ``[n, n, 3]`` and its halvings, at most ``_LEVELS``: texels are means of what they cover."""
    levels, means = [texture], texture.astype(np.float32)
    while len(levels) < _LEVELS and len(means) > _SMALLEST_MIP_PX:
        upper, lower = means[::2], means[1::2]  # sums of so few bits are exact
        means = (upper[:, ::2] + upper[:, 1::2] + lower[:, ::2] + lower[:, 1::2]) * np.float32(0.25)
        levels.append(means.round().astype(np.uint8))
    return levels


def check_ray_caster() -> None:
    """Whether pictures of the embedded world can be made on this machine.

    Raises:
        ConfigError: embreex is missing or does not load; what to do instead.
    """
    try:
        import embreex.rtcore_scene  # noqa: F401
    except ImportError as e:
        raise ConfigError(
            f"the embedded world casts its rays with embreex, which does not load on this "
            f"{platform.machine()} "
            f"machine ({e}): pip install embreex where it has a wheel (Linux x86-64; there is none for "
            f"aarch64), else "
            "run the world on an x86-64 machine beside this one, or Habitat. The nodes of a robot do not "
            "need it"
        ) from e


class Renderer:
    """Renders one mesh. Equal input gives equal pixels.

    Textures are looked up in the mip level whose texels are about as large as the pixel there.
    """

    def __init__(self, mesh: SceneMesh) -> None:
        check_ray_caster()
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        vertices = mesh.triangles.reshape(-1, 3).astype(np.float32)
        self._scene = EmbreeScene(robust=True)  # no ray slips through the edge between two triangles
        self._geometry = TriangleMesh(
            self._scene, vertices, np.arange(len(vertices), dtype=np.int32).reshape(-1, 3)
        )
        pool: list[UInt8Array] = []
        first: list[int] = []
        sizes: list[int] = []
        filled = 0
        for image in mesh.materials:
            levels = mip_levels(image)
            for k in range(_LEVELS):
                if k < len(levels):
                    pool.append(levels[k].reshape(-1, 3))
                    filled += len(pool[-1])
                first.append(filled - len(pool[-1]))
                sizes.append(len(levels[min(k, len(levels) - 1)]))
        self._texels: UInt8Array = np.concatenate(pool)
        self._first = np.array(first, np.int32)
        self._sizes = np.array(sizes, np.int32)
        self._levels_of = (mesh.material * _LEVELS).astype(np.int32)
        uv = mesh.uv - np.floor(mesh.uv.min(1, keepdims=True))  # small numbers keep float32 exact
        self._uv = np.concatenate([uv[:, 0], uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]], 1).astype(np.float32)
        self._shade = (mesh.shade() * 256).astype(np.uint16)
        self._rays: tuple[CameraModel, Float32Array] | None = None

    def _optical_rays(self, camera: CameraModel) -> Float32Array:
        """``[H W, 3]`` directions with z = 1, so that the distance along a ray is the planar depth."""
        if self._rays is None or self._rays[0] != camera:
            u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
            x, y = (u.ravel() - camera.cx) / camera.fx, (v.ravel() - camera.cy) / camera.fy
            self._rays = camera, np.stack([x, y, np.ones_like(x)], 1).astype(np.float32)
        return self._rays[1]

    def first_hits(self, origin: Float64Array, ways: Float64Array) -> Float64Array:
        """How far rays from ``origin`` ``[3]`` get, in lengths of their ``ways`` ``[n, 3]``; or inf."""
        origins = np.broadcast_to(origin.astype(np.float32), ways.shape)
        hits = self._scene.run(np.ascontiguousarray(origins), ways.astype(np.float32), output=1)
        return np.where(hits["primID"] < 0, np.inf, hits["tfar"].astype(np.float64))

    def render(self, camera: CameraModel, world_from_optical: Pose) -> tuple[UInt8Array, Float32Array]:
        """One image.

        Returns:
            rgb ``[H, W, 3]`` uint8 and planar depth ``[H, W]`` float32 in metres along the optical
            axis; black and 0 where the ray meets nothing.
        """
        directions = self._optical_rays(camera) @ world_from_optical.rotation.T.astype(np.float32)
        origins = np.empty_like(directions)
        origins[:] = world_from_optical.position
        hits = self._scene.run(origins, directions, output=1)
        triangle = hits["primID"]
        missed = triangle < 0
        depth = hits["tfar"].astype(np.float32, copy=True)
        depth[missed] = 0.0
        np.maximum(triangle, 0, out=triangle)

        uv = self._uv.take(triangle, 0)
        st = uv[:, :2] + uv[:, 2:4] * hits["u"][:, None] + uv[:, 4:] * hits["v"][:, None]
        texel_m = np.float32(camera.fx / 256 * 1.3)  # depth at which a full-size texel covers a pixel
        _, exponent = np.frexp(depth / texel_m)
        level = self._levels_of.take(triangle) + exponent.clip(0, _LEVELS - 1)
        size = self._sizes.take(level)
        st *= size[:, None]
        column_row = np.floor(st).astype(np.int32) & (size - 1)[:, None]  # sizes are powers of two
        texel = self._first.take(level) + (size - 1 - column_row[:, 1]) * size + column_row[:, 0]
        rgb = self._texels.take(texel, 0).astype(np.uint16)
        rgb *= self._shade.take(triangle)[:, None]
        rgb >>= 8
        colors = rgb.astype(np.uint8)
        colors[missed] = 0
        shape = camera.height, camera.width
        return colors.reshape(*shape, 3), depth.reshape(shape)


def draw_box(
    rgb: UInt8Array,
    depth_m: Float32Array,
    camera: CameraModel,
    world_from_optical: Pose,
    low: Float64Array,
    high: Float64Array,
) -> None:
    """Put an axis-aligned box (corners ``[3]``, metres) into a rendered image and its depth."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], -1)
    rays = rays @ world_from_optical.rotation.T
    eye = world_from_optical.position
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(low - eye) / rays, (high - eye) / rays])
    enter, leave = ends.min(0).max(-1), ends.max(0).min(-1)
    seen = (enter < leave) & (enter > 0.0) & ((depth_m == 0.0) | (enter < depth_m))
    depth_m[seen] = enter[seen]
    rgb[seen] = _BOX_RGB
