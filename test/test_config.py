"""Options: checked, nested, read from YAML, and every real group well described."""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vln_ros import config
from vln_ros.config import (
    ConfigError,
    NavigatorConfig,
    QwenConfig,
    StreamConfig,
    from_flat,
    group,
    load_yaml,
    option,
    to_flat,
    walk_options,
)


@dataclass(frozen=True)
class Inner:
    gain: float = option(0.5, "Gain", unit="1/s", minimum=0.0, maximum=2.0, live=True)
    count: int = option(3, "How many", minimum=1)


@dataclass(frozen=True)
class Outer:
    mode: str = option("fast", "What to prefer", choices=("fast", "exact"))
    enabled: bool = option(True, "Whether to run")
    inner: Inner = group(Inner)


GROUPS = [
    c
    for _, c in inspect.getmembers(config, inspect.isclass)
    if c.__module__.startswith(f"{config.__name__}.")
    and dataclasses.is_dataclass(c)
    and c not in (config.Option, config.OptionEntry, config.NameArgument)
]


@pytest.mark.parametrize("cls", GROUPS, ids=lambda c: c.__name__)
def test_every_real_group_has_valid_described_defaults(cls: type) -> None:
    entries = list(walk_options(cls))
    assert entries
    for e in entries:
        assert config.check_value(e, e.default) == e.default, e.name
        assert e.option.doc, e.name
        if e.name.rsplit("_", 1)[-1] in ("m", "s", "deg", "px", "rad"):
            assert e.name.endswith("_" + e.option.unit.replace("/", "_")), e.name
    assert from_flat(cls, to_flat(cls())) == cls()


LEANS_ON_ANOTHER = re.compile(r"(^|[.;:] )(the same,|so (do|are|is) |also )|\bas above\b", re.I)
SAYS_WHAT_GOES_WRONG = re.compile(
    r"\b(low(er)?|high(er)?|small(er)?|larger?|few(er)?|many|more|less|long(er)?|short|wide|beyond|above|below"
    r"|near|wrong|other|another|same|error)\b|(^|[.;,:] |and )-?[01] ",
    re.I,
)


def faults_of(text: str, kind: type, choices: tuple[str, ...] = ()) -> list[str]:
    """What keeps a description from being understood alone."""
    faults = []
    if not (text[:1].isupper() and text.endswith(".") and len(text.split()) >= 8):
        faults.append("no full sentence")
    if LEANS_ON_ANOTHER.search(text):
        faults.append("refers to another description")
    faults += [f"does not explain {c}" for c in choices if not re.search(rf"\b{re.escape(c)}\b", text)]
    if kind in (int, float) and not (len(re.findall(r"[.;:] ", text)) and SAYS_WHAT_GOES_WRONG.search(text)):
        faults.append("does not say what goes wrong when it is too low or too high")
    return faults


@pytest.mark.parametrize("cls", GROUPS, ids=lambda c: c.__name__)
def test_every_description_is_understood_alone(cls: type) -> None:
    wrong = {e.name: faults_of(e.option.doc, e.type, e.option.choices) for e in walk_options(cls)}
    assert not {name: faults for name, faults in wrong.items() if faults}


@pytest.mark.parametrize(
    ("text", "kind", "choices"),
    [
        ("Largest forward velocity", float, ()),
        ("Largest forward velocity that the base may be told to take.", float, ()),
        ("the lower it is the slower it drives; higher is faster.", float, ()),
        ("The same, turned; too low refuses turns, too high accepts jumps.", float, ()),
        ("So do frames where a smaller share of the depths is as expected. Too low is bad.", float, ()),
        ("After so many decisions the episode ends. 0, -1: as above. Low values end early.", int, ()),
        ("Where obstacles are looked for: in depth images or in scans.", str, ("depth", "scan", "both")),
        ("What is higher is no obstacle.", float, ()),
        ("", str, ()),
    ],
)
def test_a_poor_description_is_found(text: str, kind: type, choices: tuple[str, ...]) -> None:
    assert faults_of(text, kind, choices)


def test_groups_nest_under_dotted_names() -> None:
    assert [e.name for e in walk_options(Outer)] == ["mode", "enabled", "inner.gain", "inner.count"]
    assert from_flat(Outer, {"inner.gain": 1, "enabled": False}) == Outer(
        enabled=False, inner=Inner(gain=1.0)
    )
    assert type(from_flat(Outer, {"inner.gain": 1}).inner.gain) is float


@given(st.sampled_from(["fast", "exact"]), st.booleans(), st.floats(0.0, 2.0), st.integers(min_value=1))
def test_flat_round_trip(mode: str, enabled: bool, gain: float, count: int) -> None:
    value = Outer(mode, enabled, Inner(gain, count))
    assert from_flat(Outer, to_flat(value)) == value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner.gian": 1.0}, "did you mean 'inner.gain'"),
        ({"zzz": 1.0}, "known: mode, enabled, inner.gain, inner.count"),
        ({"inner": 1.0}, "unknown option 'inner'"),
        ({"inner.gain": 2.1}, r"inner.gain = 2.1: must be in \[0.0, 2.0\] 1/s"),
        ({"inner.gain": float("nan")}, "must be finite"),
        ({"inner.gain": "1"}, "expected float, got str"),
        ({"inner.gain": True}, "expected float, got bool"),
        ({"inner.count": 0}, "must be at least 1"),
        ({"inner.count": 2.0}, "expected int, got float"),
        ({"inner.count": True}, "expected int, got bool"),
        ({"enabled": 1}, "expected bool, got int"),
        ({"mode": "slow"}, "choose one of fast, exact"),
        ({"mode": None}, "expected str, got NoneType"),
        ({"mode": ["fast"]}, "expected str, got list"),
    ],
)
def test_bad_values_name_themselves_and_what_would_do(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_flat(Outer, values)


@pytest.mark.parametrize("name", ["qwen.stream.decode", "stream.decode", "decode"])
def test_a_choice_that_is_gone_says_what_to_set_instead(name: str) -> None:
    cls: type = {"qwen.stream.decode": NavigatorConfig, "stream.decode": QwenConfig, "decode": StreamConfig}[
        name
    ]
    with pytest.raises(
        ConfigError, match=rf"^{name} = 'forced': .*set tokens.*choose one of tree, tokens, free"
    ):
        from_flat(cls, {name: "forced"})
    assert not any(
        gone in entry.option.choices for entry in walk_options(cls) for gone, _ in entry.option.retired
    )


def test_yaml_nested_or_dotted(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("mode: exact\ninner: {gain: 1}\ninner.count: 9\n", "utf-8")
    assert load_yaml(Outer, path) == Outer("exact", True, Inner(1.0, 9))
    path.write_text("", "utf-8")
    assert load_yaml(Outer, path) == Outer()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"mode: [", "not valid YAML"),
        (b"\xff\xfe\xff", "not valid YAML"),
        (b"- fast\n", "must hold a mapping"),
        (b"mode: slow\n", "options.yaml: mode = 'slow'"),
        (b"inner: {count: many}\n", "inner.count = 'many': expected int"),
        (b"1: 2\n", "unknown option"),
    ],
)
def test_bad_yaml(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "options.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_yaml(Outer, path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.yaml"):
        load_yaml(Outer, tmp_path / "absent.yaml")
