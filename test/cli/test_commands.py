"""What holds for every command, also the next one: help, typing mistakes, one name for one thing."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from vln_ros.cli import BENCHES, COMMANDS, build_parser, main
from vln_ros.cli.arguments.parsing import SIZE, Parser, walk_commands
from vln_ros.cli.arguments.places import output_file

TREE = dict(walk_commands(build_parser()))
GROUPS = [path for path, parser in TREE.items() if parser.is_group]
LEAVES = [path for path, parser in TREE.items() if not parser.is_group]
NEEDY = [
    path
    for path in LEAVES
    if any(a.required or (not a.option_strings and a.nargs is None) for a in TREE[path].arguments)
]
"""Commands that can do nothing without an argument."""


def options_of(parser: Parser) -> list[str]:
    return [name for action in parser.arguments for name in action.option_strings if name.startswith("--")]


def ends(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> tuple[int, str, str]:
    """Status, output and errors of a command line."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else 1, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], parser: Parser, arguments: Sequence[str]) -> str:
    """What a parser says of arguments that it does not take."""
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_the_tree_is_whole() -> None:
    assert {path[0] for path in TREE if path} == {*COMMANDS, "bench"}
    assert {path[1] for path in TREE if path[:1] == ("bench",) and len(path) == 2} == {
        *BENCHES,
        "all",
        "page",
    }
    assert [*map(len, GROUPS)] == [0, 1, 1] and len(LEAVES) > 40 and len(NEEDY) > 8


# ------------------------------------------------------------------ help


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_a_group_without_arguments_says_what_it_can_do(
    capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    status, said, wrong = ends(capsys, path)
    assert status == 0 and not wrong
    for below in TREE:
        if below[:-1] == path and below:
            assert re.search(rf"^    {below[-1]}\b", said, re.MULTILINE), below


@pytest.mark.parametrize("path", NEEDY, ids=" ".join)
def test_a_command_that_needs_arguments_shows_them(
    capsys: pytest.CaptureFixture[str], path: tuple[str, ...]
) -> None:
    status, _, wrong = ends(capsys, path)
    assert status == 2
    assert "usage: vln_ros" in wrong and wrong.splitlines()[-1].startswith(f"vln_ros {' '.join(path)}: ")
    assert "are required" in wrong
    status, said, _ = ends(capsys, [*path, "--help"])
    assert status == 0 and said in wrong


# ------------------------------------------------------------------ typing mistakes


def mistyped(name: str) -> list[str]:
    """Ways to type it wrong: a letter twice, capitals; in longer names two letters exchanged, one missing."""
    middle = len(name) // 2
    swapped = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    missing = name[:middle] + name[middle + 1 :]
    return [name + name[-1], name.upper(), *([swapped, missing] if len(name) > 4 else [])]


@pytest.mark.parametrize("path", [path for path in TREE if path], ids=" ".join)
def test_the_nearest_command(capsys: pytest.CaptureFixture[str], path: tuple[str, ...]) -> None:
    beside = {other[-1] for other in TREE if other[:-1] == path[:-1] and other}
    for wrong in mistyped(path[-1]):
        if wrong in beside:
            continue
        said = refused(capsys, TREE[()], [*path[:-1], wrong])
        assert said.startswith(f"vln_ros{''.join(f' {p}' for p in path[:-1])}: ") and said.count("\n") == 1
        assert f"did you mean {path[-1]}?" in said, wrong


@pytest.mark.parametrize("path", [path for path in LEAVES if options_of(TREE[path])], ids=" ".join)
def test_the_nearest_option(capsys: pytest.CaptureFixture[str], path: tuple[str, ...]) -> None:
    known = options_of(TREE[path])
    before = [str(next(iter(a.choices))) for a in TREE[path].arguments if not a.option_strings and a.choices]
    for option in known:
        name = option.removeprefix("--")
        wrongs = [f"--{w}" for w in mistyped(name)] if len(name) > 3 else []
        wrongs += [f"--{name.replace('-', '_')}"] if "-" in name else []
        for wrong in wrongs:
            if any(other.startswith(wrong) for other in [*known, "--help"]):
                continue  # the beginning of an option is taken for it
            for given in ([wrong, "3"], [f"{wrong}=3"]):
                said = refused(capsys, TREE[()], [*path, *before, *given])
                assert said.startswith(f"vln_ros {' '.join(path)}: "), given
                assert f"did you mean {option}?" in said, given


def test_an_option_before_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--episodes", "3", "eval"], ["--out=x", "demo"]):
        said = refused(capsys, TREE[()], given)
        assert "did you mean" in said or "stands before the command" in said


def test_an_option_without_its_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean --episodes?" in refused(capsys, TREE[()], ["demo", "episodes", "3"])


def test_the_nearest_choice(capsys: pytest.CaptureFixture[str]) -> None:
    tried = 0
    for path in LEAVES:
        for action in TREE[path].arguments:
            if not action.option_strings or not action.choices:
                continue
            choice = max(map(str, action.choices), key=len)
            if len(choice) < 4:
                continue
            said = refused(capsys, TREE[()], [*path, action.option_strings[-1], f"{choice}{choice[-1]}"])
            assert f"did you mean {choice}?" in said, path
            tried += 1
    assert tried > 25


# ------------------------------------------------------------------ one name for one thing

OF_ANOTHER_KIND = {
    ("plan", "--device"): "a machine to be estimated, not one to compute on",
}
FORMER = [(path, old, new) for path in LEAVES for old, new in TREE[path].former_names.items()]


def kind_of(action: argparse.Action) -> str:
    """What a value of an option looks like."""
    if action.nargs == 0:
        return "switch"
    if isinstance(action, argparse.BooleanOptionalAction):
        return "switch"
    kind = getattr(action.type, "__name__", "str") if action.type is not None else "str"
    return {"float": "number", "int": "number", "seconds": "number"}.get(kind, kind)


def test_one_name_is_one_thing() -> None:
    kinds: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in LEAVES:
        for action in TREE[path].arguments:
            for name in action.option_strings:
                if (" ".join(path), name) not in OF_ANOTHER_KIND:
                    kinds[name][kind_of(action)].append(" ".join(path))
    assert len(kinds) > 150
    twofold = {name: dict(found) for name, found in kinds.items() if len(found) > 1}
    assert not twofold, twofold


def test_choices_of_one_name_are_of_one_set() -> None:
    """Where an option has choices, each command has them, and they are among those of one of the commands."""
    found: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for path in LEAVES:
        for action in TREE[path].arguments:
            for name in action.option_strings:
                if (
                    " ".join(path),
                    name,
                ) not in OF_ANOTHER_KIND and name != "--only":  # sections of one bench
                    found[name][" ".join(path)] = tuple(map(str, action.choices or ()))
    for name, commands in found.items():
        if any(commands.values()):
            assert all(commands.values()), (name, commands)
            widest = {choice for choices in commands.values() for choice in choices}
            assert any(set(choices) == widest for choices in commands.values()), (name, commands)


def test_outputs_sizes_and_times_are_spelled_alike() -> None:
    for path in LEAVES:
        for action in TREE[path].arguments:
            name = max(action.option_strings, key=len, default="")
            what = f"{' '.join(path)} {name}"
            if name == "--json":
                assert action.type is output_file and action.metavar == "FILE", what
            if name in ("--size", "--sizes"):
                assert action.metavar == SIZE, what
            if name == "--seed":
                assert action.type is int, what
            text = (action.help or "").lower()
            if re.match(r"(length|time|seconds)\b", text) and kind_of(action) == "number" and name:
                assert (
                    re.search(r"-(s|ms|hz|tokens|frames|px|m)$", name)
                    or "steps" in text
                    or path
                    == (
                        "bench",
                        "history",
                    )
                ), what


def test_former_names_are_still_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(FORMER) > 10
    for path, old, new in FORMER:
        parser = TREE[path]
        assert new in options_of(parser) and old not in options_of(parser), (path, old)
        (action,) = [a for a in parser.arguments if new in a.option_strings]
        count = 0 if action.nargs == 0 else action.nargs if isinstance(action.nargs, int) else 1
        value = str(next(iter(action.choices))) if action.choices else "1"
        positional = [a for a in parser.arguments if not a.option_strings]
        needed = [str(next(iter(a.choices))) if a.choices else "x" for a in positional]
        for other in parser.arguments:
            if other.required and other.option_strings and other is not action:
                needed += [other.option_strings[0], "x"]
        parsed = []
        for name in (old, new):
            parsed.append(vars(parser.parse_args([*needed, name, *[value] * count])))
            assert (f"{old} is called {new} now" in capsys.readouterr().err) == (name == old)
        assert parsed[0] == parsed[1]


def test_commands_in_the_docs_have_no_former_names() -> None:
    root = Path(__file__).parents[2]
    pages = [*root.glob("*.md"), *root.glob("docs/**/*.md"), root / "Makefile"]
    assert len(pages) > 10
    for page in pages:
        if {"benchmarks", "history"} & set(page.parts):  # commands as they were typed
            continue
        for line in page.read_text("utf-8").splitlines():
            for path, old, _ in FORMER:
                assert not re.search(rf"vln_ros {' '.join(path)} .*{old}(?![\w-])", line), (
                    f"{page.name}: {line}"
                )


# ------------------------------------------------------------------ wrong values


@pytest.mark.parametrize(
    "given, said",
    [
        (["demo", "--speed", "0"], "--speed = 0.0: must be in [0.1, 20.0]"),
        (["demo", "--speed", "nan"], "--speed = nan: must be finite"),
        (["demo", "--sensors", "fishey"], "--sensors = 'fishey': choose among distorted, fisheye"),
        (["demo", "--sensors", "fishey"], "did you mean fisheye?"),
        (["demo", "--episodes", "some"], "--episodes: invalid int value: 'some'; give a whole number"),
        (["doctor", "--listen-s", "-1"], "--listen-s: -1: give a number of seconds above 0"),
        (["doctor", "--listen-s", "long"], "invalid seconds value: 'long'; give a number of seconds"),
        (["node", "nav"], "did you mean navigator?"),
        (["plan", "--shape", "3B"], "--device missing: as in vln_ros plan --shape 3B --device orin"),
        (["plan"], "--shape and --device missing"),
        (["plan", "--camera", "640x480"], "--camera = '640x480': expected WIDTHxHEIGHT@RATE"),
        (["plan", "--decisions-per-s", "0"], "--decisions-per-s = 0: must be positive"),
        (["plan", "--token-budget", "-5"], "--token-budget = -5: must be at least 64"),
        (["plan", "--memory-gb", "0"], "--memory-gb = 0: must be positive"),
        (["plan", "--memory-gb", "much"], "invalid float value: 'much'; give a number"),
        (["scenes", "--out", "x", "--count", "0"], "--count = 0: must be at least 1"),
        (["tiny", "x", "--hidden", "10"], "--hidden = 10: must be in [16, 8192]"),
        (["tiny", "x", "--kv-heads", "0"], "--kv-heads = 0: must be"),
        (["train", "x", "--learning-rate", "-1"], "--learning-rate = -1.0: must be"),
        (["eval", "--first-episode", "-1"], "--first-episode = -1: must be at least 0"),
        (["eval", "--workers", "-1"], "--workers = -1: must be in"),
        (["record", "--jpeg-quality", "0"], "--jpeg-quality = 0: must be in [1, 100]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_value(given: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "vln_ros", *given], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not list(tmp_path.iterdir()), "nothing is written for a wrong value"
