"""Reads the words, pictures, depths and poses that a caller gives; an error says what to write instead.

Nothing is guessed: a picture that is grey, has an alpha channel or goes from 0 to 1 is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from vln_ros.config import ConfigError
from vln_ros.datatypes import CameraModel, Float64Array, Pose
from vln_ros.geometry.frame_checks import depth_unit_suspicion
from vln_ros.words import MAX_INSTRUCTION_CHARACTERS, check_words

Picture: TypeAlias = "npt.NDArray[np.uint8] | Image.Image"
"""``[H, W, 3]`` uint8, RGB; or a PIL picture of mode RGB."""
Depth: TypeAlias = "npt.NDArray[np.floating[Any]] | Image.Image"
"""``[H, W]`` metres; or a PIL picture of mode F."""

_ORIENTATION, _UPRIGHT = 0x0112, 1
"""EXIF: how a camera was held."""
_ROTATION_TOLERANCE = 1e-3
_LEAST_FOCAL = 0.05
"""Of the side that it is of: a pinhole that sees 169 degrees. None sees more."""
_NUMBERS = "iuf"
"""Kinds of numpy's types: whole numbers and floating point. Times are neither, nor are complex numbers."""


def read_instruction(instruction: object) -> str:
    """Without the blanks around it.

    Raises:
        ValueError: no text, no words, or what a robot's topic would not take either.
    """
    if not isinstance(instruction, str):
        raise ValueError(f"instruction = {instruction!r}: give a sentence")
    text = instruction.strip()
    if not text:
        raise ValueError(f"instruction = {instruction!r} has no words: say where to go")
    check_words("instruction", text, MAX_INSTRUCTION_CHARACTERS)
    return text


def read_choices(choices: object) -> tuple[str, ...]:
    """Answers to choose among, in their order.

    Raises:
        ValueError: not a list of texts.
    """
    if isinstance(choices, Sequence) and not isinstance(choices, str | bytes):
        given = tuple(choices)
        if all(isinstance(choice, str) for choice in given):
            return given
    raise ValueError(f"choices = {choices!r}: give a list of answers, e.g. ['yes', 'no']")


def check_camera(camera: object) -> None:
    """Raises ConfigError: no camera, or intrinsics of pictures of another size, or in shares of the sides."""
    if not isinstance(camera, CameraModel):
        raise ConfigError(
            f"camera = {camera!r}: give vln_ros.CameraModel.from_hfov(width, height, hfov_rad), or a "
            "vln_ros.CameraModel of other intrinsics"
        )
    inside = -0.5 <= camera.cx < camera.width and -0.5 <= camera.cy < camera.height
    if not inside or camera.fx < _LEAST_FOCAL * camera.width or camera.fy < _LEAST_FOCAL * camera.height:
        raise ConfigError(
            f"camera = {camera}: its intrinsics are not of pictures of this size; give fx, fy, cx, cy in "
            "pixels, and of another size camera.resized(width, height)"
        )


def read_rgb(rgb: object) -> npt.NDArray[np.uint8]:
    """``[H, W, 3]`` uint8.

    Raises:
        ValueError: another type, shape, range or order of axes.
    """
    if isinstance(rgb, Image.Image):
        return _from_pil(rgb)
    a = _array("rgb", rgb, "[H, W, 3] uint8")
    _check_picture_shape(a)
    if a.dtype != np.uint8:
        raise ValueError(f"rgb is {_described(a)}: {_to_uint8(a)}")
    return a


def read_depth(depth: object, height: int, width: int) -> npt.NDArray[np.float32]:
    """``[H, W]`` float32, metres; 0 where there is no reading (given as 0, NaN or infinite).

    Raises:
        ValueError: not of the picture's size, not in metres, negative.
    """
    if isinstance(depth, Image.Image):
        if depth.mode != "F" and not depth.mode.startswith("I"):
            raise ValueError(f"depth is a PIL picture of mode {depth.mode}: give one of mode F, in metres")
        depth = _pixels("depth", depth)
    a = _array("depth", depth, "[H, W] float32, metres")
    if a.ndim == 3 and 1 in (a.shape[0], a.shape[2]):
        index = "depth[..., 0]" if a.shape[2] == 1 else "depth[0]"
        raise ValueError(f"depth has shape {list(a.shape)}: give [H, W], which is {index}")
    if a.shape != (height, width):
        raise ValueError(
            f"depth has shape {list(a.shape)} and the picture {height} rows of {width}: give depth that is "
            "registered to the picture, pixel by pixel"
        )
    if not np.issubdtype(a.dtype, np.floating):
        raise ValueError(
            f"depth is {_described(a)}: metres are floating point; of millimetres give "
            "depth.astype(np.float32) / 1000"
        )
    depth_m = np.where(np.isfinite(a), a, 0.0).astype(np.float32)
    least = float(depth_m.min())
    if least < 0.0:
        raise ValueError(f"depth goes down to {least:g} m: give 0 where there is no reading")
    if depth_unit_suspicion("32FC1", depth_m) is not None:
        raise ValueError(
            f"depth goes up to {float(depth_m.max()):g} m, which no camera measures: of millimetres give "
            "depth / 1000, and 0 where there is no reading"
        )
    return depth_m


def read_pose(pose: object) -> Pose:
    """``odom_from_base``.

    Raises:
        ValueError: neither a pose nor a rigid ``[4, 4]`` matrix.
    """
    if isinstance(pose, Pose):
        return pose
    give = (
        "give vln_ros.Pose.planar(x_m, y_m, yaw_rad), vln_ros.Pose(position, quaternion_xyzw), or the [4, 4] "
        "matrix odom_from_base"
    )
    if not isinstance(pose, np.ndarray):
        raise ValueError(f"pose is {_kind(pose)}: {give}")
    if pose.shape != (4, 4):
        raise ValueError(f"pose has shape {list(pose.shape)}: {give}")
    if not (np.issubdtype(pose.dtype, np.floating) or np.issubdtype(pose.dtype, np.integer)):
        raise ValueError(f"pose has dtype {pose.dtype}: {give}")
    return Pose.from_matrix(_rigid(pose.astype(np.float64)))


def _rigid(matrix: Float64Array) -> Float64Array:
    if not np.isfinite(matrix).all():
        raise ValueError("pose is not finite: leave the picture out until the odometry is known")
    if not np.allclose(matrix[3], (0.0, 0.0, 0.0, 1.0), atol=_ROTATION_TOLERANCE):
        transposed = " (is the matrix transposed?)" if np.allclose(matrix[:3, 3], 0.0) else ""
        raise ValueError(f"pose has the last row {matrix[3].tolist()}, expected [0, 0, 0, 1]{transposed}")
    rotation = matrix[:3, :3]
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error > _ROTATION_TOLERANCE:
        raise ValueError(
            f"pose holds no rotation: its axes are off by {error:.3g}; give orthonormal axes without a scale"
        )
    if np.linalg.det(rotation) < 0.0:
        raise ValueError("pose holds a mirror, not a rotation: give a right-handed frame (x forward, y left)")
    return matrix


def _from_pil(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode != "RGB":
        raise ValueError(f"rgb is a PIL picture of mode {image.mode}: give rgb.convert('RGB')")
    pixels = _pixels("rgb", image)
    _check_picture_shape(pixels)
    return pixels


def _pixels(name: str, image: Image.Image) -> npt.NDArray[Any]:
    try:
        image.load()  # its file is read only now
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read from its file: {error}") from error
    held = image.getexif().get(_ORIENTATION, _UPRIGHT)
    if held != _UPRIGHT:
        raise ValueError(
            f"{name} is stored turned (EXIF orientation {held}): give PIL.ImageOps.exif_transpose({name})"
        )
    return np.asarray(image)


def _array(name: str, value: object, wanted: str) -> npt.NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array, whose mask would be lost: give {name}.filled(0)")
    if isinstance(value, np.ndarray):
        return value
    remedy = f"give a numpy array {wanted}, or a PIL picture"
    if isinstance(value, str | bytes) or hasattr(value, "__fspath__"):
        remedy = f"open the file first, PIL.Image.open({name})"
    elif type(value).__module__.partition(".")[0] == "torch":
        remedy = f"give {name}.cpu().numpy(), {wanted}"
    elif value is None:
        remedy = f"the camera gave no picture; {remedy}"
    raise ValueError(f"{name} is {_kind(value)}: {remedy}")


def _check_picture_shape(a: npt.NDArray[Any]) -> None:
    shape = list(a.shape)
    if a.ndim == 3 and a.shape[2] == 3:
        if 0 in shape:
            raise ValueError(f"rgb has shape {shape}: there is nothing in it")
        from vln_ros.engine.inputs.preprocess import MAX_ASPECT  # torch: only with a picture to be computed

        if max(shape[:2]) > MAX_ASPECT * min(shape[:2]):
            raise ValueError(f"rgb has shape {shape}: one side may be at most {MAX_ASPECT} times the other")
        return
    remedy = "give [H, W, 3]"
    if a.ndim == 2:
        remedy = "a grey picture has no colours; give np.repeat(rgb[..., None], 3, axis=2)"
    elif a.ndim == 3 and a.shape[2] == 4:
        remedy = "drop the alpha channel, rgb[..., :3]"
    elif a.ndim == 3 and a.shape[2] == 1:
        remedy = "a grey picture has no colours; give np.repeat(rgb, 3, axis=2)"
    elif a.ndim == 3 and a.shape[0] in (3, 4):
        remedy = "channels come last; give rgb[:3].transpose(1, 2, 0)"
    elif a.ndim == 4 and a.shape[0] == 1:
        remedy = "give one picture, rgb[0]"
    elif a.ndim == 4:
        remedy = f"call see() once for each of the {a.shape[0]} pictures"
    raise ValueError(f"rgb has shape {shape}: {remedy}")


def _to_uint8(a: npt.NDArray[Any]) -> str:
    """What makes 0 to 255 of these values."""
    if a.dtype == np.bool_:
        return "a mask is no picture; give uint8, 0 to 255"
    if a.dtype.kind not in _NUMBERS:
        return "give uint8, 0 to 255"
    if not np.isfinite(a).all():
        return "it is not finite; give uint8, 0 to 255"
    low, high = float(a.min()), float(a.max())
    if low < 0.0:
        return "undo the normalisation; give uint8, 0 to 255"
    if np.issubdtype(a.dtype, np.floating) and high <= 1.0:
        return "give (rgb * 255).round().astype(np.uint8)"
    if high <= 255.0:
        return "give rgb.round().astype(np.uint8)"
    if a.dtype == np.uint16:
        return "give (rgb >> 8).astype(np.uint8) of a picture with 16 bits"
    return "give uint8, 0 to 255"


def _described(a: npt.NDArray[Any]) -> str:
    """Type and range."""
    if a.size and a.dtype.kind in _NUMBERS:
        return f"{a.dtype} from {a.min():g} to {a.max():g}"
    return str(a.dtype)


def _kind(value: object) -> str:
    """A value as it is named in an error."""
    if value is None:
        return "None"
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
