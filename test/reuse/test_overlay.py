"""The picture of what became of the tokens is read with every kind of colour vision, and without."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vln_ros
from vln_ros.reuse.frame_plan import Label
from vln_ros.reuse.overlay import COLOURS, paint

# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(rgb: Any, sees: Any) -> Any:
    """CIE Lab of sRGB colours, as that eye sees them."""
    value = np.asarray(rgb, float) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = (linear @ sees.T).clip(0.0, 1.0)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("grey", [20, 128, 235])
def test_the_glasses_are_told_apart(vision: str, grey: int) -> None:
    """Also over dark and bright pictures; 10 is a difference seen at a glance."""
    rgb = np.full((56, 84, 3), grey, np.uint8)
    painted = paint(rgb, np.array([[0, 1, 2]]))
    means = [painted[:, i * 28 : (i + 1) * 28].reshape(-1, 3).mean(0) for i in range(3)]
    for a, b in combinations(means, 2):
        assert np.linalg.norm(lab(a, VISION[vision]) - lab(b, VISION[vision])) > 10.0


def test_stripes_tell_it_without_colour() -> None:
    """Both ways for what is computed, none for what is taken over."""
    assert list(COLOURS) == [label.name.lower() for label in Label]
    rgb = np.full((56, 84, 3), 128, np.uint8)
    painted = paint(rgb, np.array([[0, 1, 2]])).astype(float).mean(-1)
    inside = [painted[2:26, i * 28 + 2 : i * 28 + 26] for i in range(3)]
    assert inside[2].std() == 0.0
    for tile, down in ((inside[0], 1), (inside[1], -1)):
        assert tile.std() > 1.0
        along = np.abs(tile[1:, :-1] - tile[:-1, 1:]).max()
        across = np.abs(tile[1:, 1:] - tile[:-1, :-1]).max()
        assert (along == 0.0) == (down == 1) and (across == 0.0) == (down == -1)


def test_the_page_explains_the_same_colours() -> None:
    style = (Path(vln_ros.__file__).parent / "web/page/page.css").read_text("utf-8")
    for name, kind in (("reused", "taken"), ("refreshed", "known"), ("new", "fresh")):
        (line,) = (line for line in style.splitlines() if line.startswith(f".{kind} "))
        assert "#{:02x}{:02x}{:02x}".format(*COLOURS[name]) in line
