"""Writes an episode's video: colour, depth and map side by side, instruction and action queue below."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vln_ros.datatypes import Action, ActionKind
from vln_ros.evaluation.episode.lettering import lettering

UInt8Array = npt.NDArray[np.uint8]

_PANE_HEIGHT = 320
_GAP = 4
_LONGEST = 2000
_PANEL_HEIGHT = 136
FRAME_HEIGHT = _PANE_HEIGHT + _PANEL_HEIGHT
"""Of every video, pixels."""
_MIN_PANE_WIDTH = 300  # narrower cameras are centred in a pane of this width, for the text's sake
_ICON = 44

_BACKGROUND = (17, 20, 26)
_TEXT = (236, 239, 244)
_MUTED = (139, 148, 165)
_QUEUED = (52, 60, 76)
_DONE = (32, 37, 47)
_ACTIVE = (43, 125, 233)
_STOP = (214, 69, 65)
_ALERT = (244, 162, 60)
_GOAL = (255, 64, 190)
_INSET_SHARE = 0.28
"""Of the pane's sides."""
_GOOD = (26, 143, 75)


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """What is written below one frame.

    Attributes:
        instruction: wrapped to three lines; what does not fit ends in an ellipsis.
        actions: the newest queue, all of it.
        executing: index in ``actions`` of the one being executed; those before it are done. None: none.
        step: number of steps so far.
        time_s: seconds since the episode's start.
        collided: the last step touched something.
        goal: row and column, in the picture's pixels, of the place that is driven to; not drawn outside it.
        answered: ``[H, W, 3]`` the picture that was answered with a pixel, marked by :func:`mark_pixel`;
            shown small.
        top_view: ``[FRAME_HEIGHT, FRAME_HEIGHT, 3]`` where the robot is on its map, at the right; None: none.
        verdict: how the episode has ended, on its last frames; empty before.
        success: what it is drawn in; None where nobody can tell.
    """

    instruction: str
    actions: tuple[Action, ...]
    executing: int | None
    step: int
    time_s: float
    collided: bool
    goal: tuple[float, float] | None = None
    answered: UInt8Array | None = None
    top_view: UInt8Array | None = None
    verdict: str = ""
    success: bool | None = None


@lru_cache(maxsize=8)
def _font(size_px: int) -> Any:
    return ImageFont.load_default(size_px)


@lru_cache(maxsize=8)
def _font_of(path: Path, size_px: int) -> Any:
    return ImageFont.truetype(str(path), size_px)


@lru_cache(maxsize=1)
def _turbo() -> UInt8Array:
    """``[256, 3]``; entry 0 is black, for no reading."""
    import matplotlib  # a bridge that writes no videos starts without it

    table = (matplotlib.colormaps["turbo"](np.linspace(0.0, 1.0, 256))[:, :3] * 255).round().astype(np.uint8)
    table[0] = 0
    return table


def colourise_depth(depth_m: npt.NDArray[np.float32], max_depth_m: float) -> UInt8Array:
    """Depth ``[H, W]`` metres as ``[H, W, 3]`` turbo colours, near blue and far red.

    What is not finite, or not above 0, is black; what is beyond ``max_depth_m`` has its colour.
    """
    if not max_depth_m > 0.0:
        raise ValueError(f"max_depth_m = {max_depth_m}: must be above 0")
    valid = np.isfinite(depth_m) & (depth_m > 0.0)
    level = 1.0 + np.clip(np.where(valid, depth_m, 0.0) / max_depth_m, 0.0, 1.0) * 254.0
    return _turbo()[np.where(valid, level, 0.0).astype(np.uint8)]


@lru_cache(maxsize=32)
def _icon(kind: ActionKind, fill: tuple[int, int, int], ink: tuple[int, int, int]) -> Image.Image:
    """An action's tile, drawn at four times its size for smooth edges."""
    n = 4 * _ICON
    image = Image.new("RGB", (n, n), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, n - 1, n - 1), n // 6, fill)
    width = n // 11
    c = n / 2
    if kind is ActionKind.STOP:
        r = n * 0.30
        corners = [
            (c + r * math.cos(a), c + r * math.sin(a)) for a in np.arange(8) * math.pi / 4 + math.pi / 8
        ]
        draw.polygon(corners, fill=ink)
    elif kind is ActionKind.FORWARD:
        draw.line((c, n * 0.78, c, n * 0.40), fill=ink, width=width)
        draw.polygon([(c, n * 0.18), (n * 0.30, n * 0.46), (n * 0.70, n * 0.46)], fill=ink)
    else:  # up, then bent to the left; mirrored for the right
        r = n * 0.22
        draw.line((n * 0.66, n * 0.80, n * 0.66, n * 0.60), fill=ink, width=width)
        draw.arc(
            (n * 0.66 - 2 * r + width / 2, n * 0.60 - r, n * 0.66 + width / 2, n * 0.60 + r),
            270,
            360,
            ink,
            width,
        )
        top = n * 0.60 - r + width / 2
        draw.line((n * 0.66 - r + width / 2, top, n * 0.36, top), fill=ink, width=width)
        draw.polygon([(n * 0.16, top), (n * 0.42, top - n * 0.18), (n * 0.42, top + n * 0.18)], fill=ink)
        if kind is ActionKind.TURN_RIGHT:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.resize((_ICON, _ICON), Image.Resampling.LANCZOS)


def _amount(action: Action) -> str:
    match action.kind:
        case ActionKind.STOP:
            return "stop"
        case ActionKind.FORWARD:
            return f"{action.forward_m:.2f} m"
        case _:
            return f"{abs(math.degrees(action.turn_rad)):.0f}°"


def _wrap(text: str, font: Any, width_px: int, max_lines: int) -> list[str]:
    """Greedy word wrap; a word longer than a line is cut, text longer than the space ends in …"""
    words = text[:_LONGEST].split()  # a megabyte of instruction must not be measured word by word
    lines: list[str] = []
    line = ""
    for word in words:
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width_px:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width_px:
            fits = max(1, int(len(word) * width_px / font.getlength(word)) - 1)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    lines.append(line)
    if len(lines) > max_lines:
        lines = lines[:max_lines]
        while lines[-1] and font.getlength(lines[-1] + "…") > width_px:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "…"
    return lines


def _pane(pixels: UInt8Array, width: int, resample: Image.Resampling) -> Image.Image:
    """``pixels`` fitted into ``width x _PANE_HEIGHT`` on the background."""
    scale = min(width / pixels.shape[1], _PANE_HEIGHT / pixels.shape[0])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    pane = Image.new("RGB", (width, _PANE_HEIGHT), _BACKGROUND)
    fitted = Image.fromarray(pixels).resize(size, resample)
    pane.paste(fitted, ((width - size[0]) // 2, (_PANE_HEIGHT - size[1]) // 2))
    return pane


def annotate(
    rgb: UInt8Array,
    depth_m: npt.NDArray[np.float32] | None,
    overlay: Overlay,
    max_depth_m: float = 6.0,
) -> UInt8Array:
    """One video frame ``[FRAME_HEIGHT, W, 3]`` uint8; ``W`` depends on the camera's aspect ratio, and on
    whether there is a map.

    Args:
        rgb: ``[H, W, 3]`` uint8.
        depth_m: ``[H, W]`` float32 metres, or None: its half says so.
        overlay: the text and the queue.
        max_depth_m: depth shown as the far end of the colours, metres.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"rgb must be uint8 [H, W, 3], got {rgb.dtype} {rgb.shape}")
    natural = round(_PANE_HEIGHT * rgb.shape[1] / rgb.shape[0])
    pane_width = min(max(natural, _MIN_PANE_WIDTH), 2 * _PANE_HEIGHT) // 2 * 2
    width = 2 * pane_width + _GAP
    image = Image.new("RGB", (width, FRAME_HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    marked = rgb if overlay.goal is None else mark_pixel(rgb, *overlay.goal)
    image.paste(_pane(marked, pane_width, Image.Resampling.BILINEAR), (0, 0))
    if overlay.answered is not None:
        _inset(image, overlay.answered, pane_width)
    if depth_m is None:
        draw.text((pane_width * 1.5 + _GAP, _PANE_HEIGHT / 2), "no depth", _MUTED, _font(18), anchor="mm")
    else:
        colours = colourise_depth(depth_m, max_depth_m)
        image.paste(_pane(colours, pane_width, Image.Resampling.NEAREST), (pane_width + _GAP, 0))
        _depth_scale(image, pane_width + _GAP + 12, max_depth_m)
    if overlay.collided:
        draw.rectangle((0, 0, pane_width - 1, _PANE_HEIGHT - 1), outline=_ALERT, width=6)
        draw.rounded_rectangle((12, 12, 100, 38), 6, _ALERT)
        draw.text((56, 25), "collision", _BACKGROUND, _font(16), anchor="mm")

    if overlay.verdict:
        _verdict(draw, width, overlay)

    margin, top = 14, _PANE_HEIGHT + 10
    status = f"step {overlay.step}   {overlay.time_s:.1f} s"
    status_width = int(_font(15).getlength(status)) + 2 * margin
    draw.text((width - margin, top), status, _MUTED, _font(15), anchor="ra")
    told = lettering(overlay.instruction[:_LONGEST])
    font = _font(16) if told.font is None else _font_of(told.font, 16)
    for n, line in enumerate(_wrap(told.text, font, width - margin - status_width, 2)):
        draw.text((margin, top + 21 * n), line, _TEXT, font)
    _queue(image, margin, _PANE_HEIGHT + 62, width - margin, overlay)
    if overlay.top_view is None:
        return np.asarray(image)
    gap = np.full((FRAME_HEIGHT, _GAP, 3), _BACKGROUND, np.uint8)
    return np.concatenate([np.asarray(image), gap, overlay.top_view], axis=1)


def mark_pixel(rgb: UInt8Array, row: float, column: float) -> UInt8Array:
    """A copy of ``[H, W, 3]`` with a ring around a pixel and a dot on it; one outside is not drawn."""
    height, width = rgb.shape[:2]
    if not (-0.5 <= row < height - 0.5 and -0.5 <= column < width - 0.5):
        return rgb
    image = Image.fromarray(np.ascontiguousarray(rgb))
    draw = ImageDraw.Draw(image)
    line = max(1, round(height / 120))
    for radius, colour, thick in ((height * 0.045, _BACKGROUND, 3 * line), (height * 0.045, _GOAL, line)):
        box = (column - radius, row - radius, column + radius, row + radius)
        draw.ellipse(box, outline=colour, width=thick)
    draw.ellipse((column - line, row - line, column + line, row + line), fill=_GOAL)
    return np.asarray(image)


def _inset(image: Image.Image, answered: UInt8Array, pane_width: int) -> None:
    """The picture that was answered, in the colour pane's lower left corner."""
    scale = _INSET_SHARE * min(pane_width / answered.shape[1], _PANE_HEIGHT / answered.shape[0])
    size = (max(1, round(answered.shape[1] * scale)), max(1, round(answered.shape[0] * scale)))
    left, top = 10, _PANE_HEIGHT - 10 - size[1]
    draw = ImageDraw.Draw(image)
    draw.rectangle((left - 2, top - 2, left + size[0] + 1, top + size[1] + 1), outline=_GOAL, width=2)
    image.paste(
        Image.fromarray(np.ascontiguousarray(answered)).resize(size, Image.Resampling.BILINEAR), (left, top)
    )


def _verdict(draw: Any, width: int, overlay: Overlay) -> None:
    """A band across both panes."""
    fill = {True: _GOOD, False: _STOP, None: _QUEUED}[overlay.success]
    middle = _PANE_HEIGHT // 2
    draw.rectangle((0, middle - 24, width - 1, middle + 24), fill)
    (line,) = _wrap(overlay.verdict, _font(20), width - 28, 1)
    draw.text((width / 2, middle), line, _TEXT, _font(20), anchor="mm")


def _depth_scale(image: Image.Image, left: int, max_depth_m: float) -> None:
    """A small legend in the depth pane's lower left corner."""
    width, height = 110, 8
    bottom = _PANE_HEIGHT - 12
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((left - 6, bottom - 28, left + width + 6, bottom + 6), 5, _BACKGROUND)
    ramp = np.broadcast_to(_turbo()[1:][None, :, :], (height, 255, 3)).astype(np.uint8)
    image.paste(Image.fromarray(ramp).resize((width, height)), (left, bottom - height))
    draw.text((left, bottom - height - 3), "0", _TEXT, _font(12), anchor="ls")
    draw.text((left + width, bottom - height - 3), f"{max_depth_m:g} m", _TEXT, _font(12), anchor="rs")


def _queue(image: Image.Image, left: int, top: int, right: int, overlay: Overlay) -> None:
    draw = ImageDraw.Draw(image)
    if not overlay.actions:
        draw.text((left, top + _ICON / 2), "waiting for a decision", _MUTED, _font(15), anchor="lm")
        return
    pitch = _ICON + 14
    fits = max(1, (right - left) // pitch)
    for n, action in enumerate(overlay.actions[:fits]):
        x = left + n * pitch
        active = n == overlay.executing
        done = overlay.executing is not None and n < overlay.executing
        fill = (_STOP if action.stop else _ACTIVE) if active else _DONE if done else _QUEUED
        ink = _TEXT if active else (84, 92, 108) if done else (190, 197, 209)
        image.paste(_icon(action.kind, fill, ink), (x, top))
        colour = _TEXT if active else (84, 92, 108) if done else _MUTED
        draw.text((x + _ICON / 2, top + _ICON + 5), _amount(action), colour, _font(13), anchor="ma")
    if len(overlay.actions) > fits:
        draw.text((right, top - 4), f"+{len(overlay.actions) - fits}", _MUTED, _font(13), anchor="rs")


class VideoWriter:
    """Encodes frames as they come: H.264 in MP4, constant frame rate, playable in a browser.

    The file appears under its name when it is closed; until then, and after a crash, it is ``*.part``.
    Where PyAV was built without libx264 the codec is MPEG-4 part 2, which most browsers do not play.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """``fps``: frames a second when played. Raises ValueError, OSError."""
        if not (math.isfinite(fps) and fps > 0.0):
            raise ValueError(f"fps = {fps}: must be above 0")
        self.path = path
        self.frames = 0
        self._rate = Fraction(fps).limit_denominator(1000)
        self._part = path.with_name(path.name + ".part")
        self._container: Any = None
        self._stream: Any = None

    def add(self, frame: UInt8Array) -> None:
        """Append ``[H, W, 3]`` uint8 with even sides, all of one size."""
        import av

        height, width = frame.shape[:2]
        if self._container is None:
            if height % 2 or width % 2:
                raise ValueError(f"video frames need even sides, got {width}x{height}")
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            if codec == "libx264":
                self._stream.options = {"preset": "veryfast", "crf": "26"}
            self._stream.thread_count = 1  # the machine's cores belong to the model and the renderer
        elif (height, width) != (self._stream.height, self._stream.width):
            raise ValueError(
                f"video frame is {width}x{height}, the first was {self._stream.width}x{self._stream.height}"
            )
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def close(self) -> None:
        """Write what is left; no frames, no file. A second call does nothing."""
        if self._container is None:
            return
        self._container.mux(self._stream.encode())
        self._container.close()
        self._container = None
        self._part.replace(self.path)

    def discard(self) -> None:
        """Close and remove the unfinished file."""
        if self._container is not None:
            self._container.close()
            self._container = None
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
