"""Draws text into pictures, without boxes for letters that the font lacks.

A text is drawn with a font of this machine that has all of its letters. Where there is none, the letters
that are missing are told in Latin ones, from their Unicode names (Devanagari, Telugu and their kin), or as
escapes, and it is said what to install.
"""

from __future__ import annotations

import logging
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

INSTALL = "fonts-noto-core"
"""The package of Debian and Ubuntu that has letters of nearly all scripts."""
_SIGNS = {"VIRAMA": "", "ANUSVARA": "n", "CANDRABINDU": "n", "VISARGA": "h", "NUKTA": ""}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lettering:
    """A text as it can be drawn.

    Attributes:
        text: the text, or what stands for it.
        font: file of the font to draw it with; None for any.
        note: what a reader must know of it; empty if nothing.
    """

    text: str
    font: Path | None = None
    note: str = ""


@lru_cache(maxsize=256)
def lettering(text: str) -> Lettering:
    """The text with a font that has its letters, or what stands for them."""
    if text.isascii():
        return Lettering(text)
    wanted = {ord(c) for c in text if not c.isspace()}
    for font in (base_font(), *system_fonts()):
        if wanted <= letters_of(font):
            return Lettering(text, font)
    known = letters_of(base_font())
    missing = [c for c in text if not c.isspace() and ord(c) not in known]
    scripts = ", ".join(dict.fromkeys(unicodedata.name(c, "unknown").split()[0].title() for c in missing))
    note = f"no font here has {scripts}: install {INSTALL}"
    _LOG.warning("%s; shown in Latin letters", note)
    return Lettering(in_latin(text, known), base_font(), note)


def in_latin(text: str, known: frozenset[int]) -> str:
    """The letters that are not ``known`` (code points) by the sounds in their Unicode names."""
    told = ""
    inherent = False  # the last letter said so far is the "a" that a consonant has by itself
    for c in text:
        if c.isspace() or ord(c) in known:
            told, inherent = told + c, False
            continue
        words = unicodedata.name(c, "").split()
        digit = unicodedata.digit(c, None)
        if digit is not None:
            told, inherent = told + str(digit), False
        elif "DANDA" in words:
            told, inherent = told + ".", False
        elif "VOWEL" in words and "SIGN" in words:
            told, inherent = told.removesuffix("a" if inherent else "") + words[-1].lower(), False
        elif words and words[-1] in _SIGNS:
            if words[-1] == "VIRAMA" and inherent:
                told = told.removesuffix("a")
            told, inherent = told + _SIGNS[words[-1]], inherent and words[-1] == "NUKTA"
        elif "LETTER" in words:
            sound = words[-1].lower()
            told, inherent = told + sound, len(sound) > 1 and sound.endswith("a")
        else:
            told, inherent = told + c.encode("ascii", "backslashreplace").decode(), False
    return told


@lru_cache(maxsize=1)
def base_font() -> Path:
    """The font that is always there: matplotlib's own."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache(maxsize=1)
def system_fonts() -> tuple[Path, ...]:
    """Files of the fonts that are installed on this machine."""
    from matplotlib import font_manager

    return tuple(sorted(Path(p) for p in font_manager.findSystemFonts()))


@lru_cache(maxsize=512)
def letters_of(font: Path) -> frozenset[int]:
    """Code points of a font; none of one that cannot be read."""
    from matplotlib import ft2font

    try:
        return frozenset(ft2font.FT2Font(str(font)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
