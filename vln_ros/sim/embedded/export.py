"""Writes scenes for other simulators: GLB, Habitat stage config, names of things."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vln_ros.axes import habitat_from_ros_points
from vln_ros.sim.embedded.mesh import SceneMesh
from vln_ros.sim.embedded.world import Scene

_SHADES = 16


def write_scene(root: Path, scene: Scene) -> Path:
    """Write ``{name}.glb``, ``{name}.stage_config.json`` and ``{name}.names.json`` where the scene id says.

    The scene id is taken below ``root``, so that Habitat finds an episode's scene with
    ``scenes_dir = root``. Returns the path of the GLB.
    """
    path = root / scene.flat.scene_id
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, glb_bytes(scene.mesh))
    # A bare GLB is taken for Matterport's axes; this one is glTF's: y up, -z front.
    stage = {"render_asset": path.name, "up": [0, 1, 0], "front": [0, 0, -1], "force_flat_shading": True}
    _write(path.with_suffix(".stage_config.json"), (json.dumps(stage, indent=1) + "\n").encode())
    _write(path.with_suffix(".names.json"), (json.dumps(_names(scene), indent=1) + "\n").encode())
    return path


def _write(path: Path, content: bytes) -> None:
    """Whole, or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _names(scene: Scene) -> dict[str, object]:
    """Rooms, doors and furniture; places in ROS axes (z up, metres), as in vln_ros."""
    flat = scene.flat
    return {
        "scene_id": flat.scene_id,
        "axes": "ROS: x, y on the floor, z up, metres; the GLB is y up: (x, y, z) here is (-y, z, -x) there",
        "rooms": [{"name": r.name, "bounds": r.bounds} for r in flat.rooms],
        "doors": [{"rooms": d.rooms, "center": d.center, "wall_along_x": d.wall_along_x} for d in flat.doors],
        "furniture": [
            {
                "name": f.name,
                "referent": flat.referents.get(f.number),
                "room": flat.rooms[f.room].name,
                "center": f.center,
                "yaw_rad": f.yaw_rad,
                "footprint": f.footprint,
                "nodes": [p.name for p in scene.mesh.parts if p.item == f.number],
            }
            for f in flat.furniture
        ],
    }


def glb_bytes(mesh: SceneMesh) -> bytes:
    """The mesh as binary glTF with the light baked into the colours, for viewers that have no lamp."""
    import trimesh
    from PIL import Image
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    scene = trimesh.Scene()
    shade = (mesh.shade() * _SHADES).round().astype(int)
    triangles = habitat_from_ros_points(mesh.triangles)
    images = {k: Image.fromarray(image) for k, image in enumerate(mesh.materials) if image.shape[0] > 1}
    materials: dict[tuple[int, int], PBRMaterial] = {}
    for part in mesh.parts:
        numbers = np.arange(part.first, part.last)
        for level in np.unique(shade[numbers]):
            chosen = numbers[shade[numbers] == level]
            key = (part.material, int(level))
            if key not in materials:
                light = level / _SHADES
                color = (
                    [light] * 3
                    if part.material in images
                    else (mesh.materials[part.material].reshape(3) / 255.0 * light).tolist()
                )
                materials[key] = PBRMaterial(
                    name=f"material_{part.material}_{level}",
                    baseColorFactor=[*color, 1.0],
                    baseColorTexture=images.get(part.material),
                    metallicFactor=0.0,
                    roughnessFactor=0.9,
                )
            geometry = trimesh.Trimesh(
                triangles[chosen].reshape(-1, 3),
                np.arange(3 * len(chosen)).reshape(-1, 3),
                process=False,
                visual=TextureVisuals(uv=mesh.uv[chosen].reshape(-1, 2), material=materials[key]),
            )
            name = f"{part.name}.{level}"
            scene.add_geometry(geometry, node_name=name, geom_name=name)
    data = scene.export(file_type="glb")
    assert isinstance(data, bytes)
    return data
