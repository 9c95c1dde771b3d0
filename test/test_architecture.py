"""Who may import whom, how long a node may be, and that everything imported is declared."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import vln_ros
from vln_ros.config import NODES
from vln_ros.nodes import MODULES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vln_ros"

BASE = {"datatypes", "words", "lenses", "axes", "protocols", "questions", "config"}
CORE = {"geometry", "sync", "engine", "capacity", "reuse", "memory", "motion", "sim", "profiling"}
RANKS = {
    **dict.fromkeys(("datatypes", "words", "config"), 0),
    **dict.fromkeys(("lenses", "questions"), 1),
    **dict.fromkeys(("axes", "protocols"), 2),
    **dict.fromkeys(("geometry", "profiling"), 3),
    **dict.fromkeys(("sync", "motion"), 4),
    **dict.fromkeys(("reuse", "memory", "ros", "sim", "web"), 5),
    "engine": 6,
    "capacity": 7,
    "engines": 8,
    "api": 9,
    "evaluation": 9,
    **dict.fromkeys(("training", "nodes"), 10),
    "cli": 11,
    "__main__": 12,
}
"""Of every part of the package: it imports those of lower ranks, and none of its own rank but itself."""
LONGEST = 500
"""Lines of a file."""
LONGER = {"vln_ros/ros/convert.py"}  # every message that there is, in one place
"""Those that are longer."""
CROWD = 14
PRIVATES = {
    # libraries that have no public way
    "test/cli/test_help.py": 3,  # argparse: the arguments of a parser
    "test/launch/test_real.py": 1,  # launch_ros: the name of a node without starting it
    # the engine's parts, until they are given to it
    "test/engine/context/test_budget.py": 7,
    "test/engine/context/test_executed.py": 4,
    "test/engine/context/test_landmark_memory.py": 13,
    "test/engine/context/test_pruning.py": 2,
    "test/engine/test_oom_fallback.py": 9,  # two are torch's: the schema of an operator
    "test/engine/test_qwen.py": 2,
    "test/reuse/test_engine.py": 5,
}
"""How often a test may reach into privates of others: these numbers only fall."""
ROS_MESSAGES = re.compile(r"^(\w+_msgs|\w+_interfaces|std_srvs)$")
# The name in package.xml or requirements.txt where it is not the one that is imported.
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "PyYAML", "jinja2": "Jinja2"}

# Used where they are installed; huggingface_hub is pinned by transformers, whose files it fetches.
OPTIONAL = {
    "habitat_sim",
    "nav2_msgs",
    "rerun",
    "torchao",
    "bitsandbytes",
    "huggingface_hub",
    "peft",
    "ray",
    "vln_msgs",
}


@dataclass(frozen=True)
class Import:
    module: str
    """Dotted, of the file that imports."""
    target: str
    typing_only: bool

    @property
    def part(self) -> str:
        return self.module.split(".")[1]


def imports_of(tree: ast.Module, module: str) -> list[Import]:
    """Every import of a module, lazy ones included."""
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            # `from vln_ros.ros import convert` imports a module, `from vln_ros.config import X` a name
            names = [
                f"{node.module}.{a.name}" if node.module.startswith("vln_ros") else node.module
                for a in node.names
            ]
        found += [Import(module, name, id(node) in guarded) for name in names]
    return found


@cache
def every_import() -> tuple[Import, ...]:
    found: list[Import] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if module != "vln_ros":
            found += imports_of(ast.parse(path.read_text("utf-8")), module)
    assert len(found) > 100, "the walk found nothing to hold"
    return tuple(found)


def inner(imports: tuple[Import, ...]) -> list[tuple[Import, str]]:
    """Imports within the package, with the part of it that is imported."""
    return [(i, i.target.split(".")[1]) for i in imports if i.target.startswith("vln_ros.")]


def test_the_walk_sees_what_it_should() -> None:
    text = (
        "from typing import TYPE_CHECKING\nimport torch.nn\nif TYPE_CHECKING:\n    import rclpy\n"
        "def f():\n    from vln_ros.ros import convert\n"
    )
    assert imports_of(ast.parse(text), "vln_ros.sim.x") == [
        Import("vln_ros.sim.x", "typing", False),
        Import("vln_ros.sim.x", "torch.nn", False),
        Import("vln_ros.sim.x", "rclpy", True),
        Import("vln_ros.sim.x", "vln_ros.ros.convert", False),
    ]


def test_every_part_has_its_rank() -> None:
    parts = {i.part for i in every_import()}
    assert parts <= set(RANKS), "a new part: give it a rank in RANKS, a line in docs/design/architecture.md"


def test_imports_only_go_down() -> None:
    """So no two packages import each other. Lazy imports count, and those for types only."""
    wrong = [
        f"{i.module} imports {i.target}"
        for i, part in inner(every_import())
        if part != i.part and RANKS[part] >= RANKS[i.part]
    ]
    assert not wrong


def test_no_circle_of_folders() -> None:
    """What holds of the packages holds of the folders in them: none import each other in a circle."""
    beside: dict[str, dict[str, set[str]]] = {}
    for i in every_import():
        if not i.target.startswith("vln_ros."):
            continue
        own, other = i.module.split("."), i.target.split(".")
        apart = next((n for n, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), None)
        if apart is None:
            continue
        parent = ROOT.joinpath(*own[:apart])
        if (parent / own[apart]).is_dir() and (parent / other[apart]).is_dir():
            beside.setdefault(str(parent), {}).setdefault(own[apart], set()).add(other[apart])
    assert len(beside) > 3
    for parent_name, below in beside.items():
        nodes = {*below, *(f for needed in below.values() for f in needed)}
        left = {f: below.get(f, set()) for f in nodes}
        while free := {f for f, needed in left.items() if not needed}:
            left = {f: needed - free for f, needed in left.items() if f not in free}
        assert not left, f"in {parent_name} each of these imports another one of them"


def test_the_composition_root_knows_the_simulator_for_the_experts_only() -> None:
    """The experts drive by what the simulator knows, so where the options name one, and only there, it is
    imported; a robot's navigator has neither (test_lean.py)."""
    found = {i.target for i in every_import() if i.module == "vln_ros.engines" and ".sim." in i.target}
    assert found == {
        "vln_ros.sim.episodes.episode.read_episodes",
        "vln_ros.sim.experts.build_oracle",
        "vln_ros.sim.experts.build_pixel_oracle",
    }


def test_no_file_is_too_long() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for folder in (PACKAGE, ROOT / "benchmarks")
        for path in folder.rglob("*.py")
    }
    assert len(lines) > 200
    assert {name for name, count in lines.items() if count > LONGEST} == LONGER


def test_no_circle_of_files() -> None:
    files = {i.module for i in every_import()}
    below: dict[str, set[str]] = {module: set() for module in files}
    for i in every_import():
        target = i.target if i.target in files else i.target.rpartition(".")[0]
        if target in files and target != i.module:  # for typing only counts, too: it is read with the rest
            below[i.module].add(target)
    while free := {module for module, needed in below.items() if not needed}:
        below = {module: needed - free for module, needed in below.items() if module not in free}
    assert not below, "each of these imports another one of them"


def test_no_folder_is_crowded() -> None:
    folders = [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir())]
    modules = {f: [p for p in f.glob("*.py") if p.name != "__init__.py"] for f in folders}
    assert len(modules) > 20
    assert not {str(f): len(found) for f, found in modules.items() if len(found) > CROWD}


def test_the_base_is_a_base() -> None:
    wrong = [
        f"{i.module} imports {i.target}"
        for i, part in inner(every_import())
        if i.part in BASE and part not in BASE
    ]
    assert not wrong


def test_ros_knows_datatypes_axes_and_config_only() -> None:
    wrong = [
        f"{i.module} imports {i.target}"
        for i, part in inner(every_import())
        if i.part == "ros"
        and part not in {"ros", "datatypes", "words", "lenses", "questions", "axes", "config"}
    ]
    assert not wrong


def test_the_core_knows_nothing_of_ros() -> None:
    wrong = [
        f"{i.module} imports {i.target}"
        for i, part in inner(every_import())
        if i.part in CORE | BASE | {"engines", "evaluation"} and part == "ros"
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("torch", {"engine", "capacity", "reuse", "memory", "training"}),
        ("transformers", {"engine", "capacity"}),
        ("rclpy", {"ros", "nodes", "cli"}),
        ("rosbags", {"ros", "cli"}),
        ("cv_bridge", {"ros"}),
        ("aiohttp", {"web"}),
    ],
)
def test_libraries_stay_where_they_belong(library: str, allowed: set[str]) -> None:
    wrong = [
        f"{i.module} imports {i.target}"
        for i in every_import()
        if i.target.split(".")[0] == library and i.part not in allowed and not is_measurement(i.module)
    ]
    assert not wrong


def is_measurement(module: str) -> bool:
    """Commands that measure the machine or look into it may name what they measure."""
    return module.startswith("vln_ros.cli.bench.") or module == "vln_ros.cli.doctor.command"


def test_messages_stay_in_ros_nodes_and_cli() -> None:
    wrong = [
        f"{i.module} imports {i.target}"
        for i in every_import()
        if ROS_MESSAGES.match(i.target.split(".")[0]) and i.part not in {"ros", "nodes", "cli"}
    ]
    assert not wrong


def test_habitat_has_one_door() -> None:
    doors = {
        i.module for i in every_import() if i.target.split(".")[0] in {"habitat_sim", "habitat", "magnum"}
    }
    assert doors == {"vln_ros.sim.habitat.worker"}


@pytest.mark.slow
def test_the_core_imports_without_ros_and_habitat() -> None:
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in sorted(PACKAGE.rglob("*.py"))
        if p.stem not in {"__init__", "__main__"}
        and p.relative_to(PACKAGE).parts[0].removesuffix(".py") not in {"ros", "nodes", "cli"}
    ]
    assert "vln_ros.engines" in modules
    assert "vln_ros.engine.worker" in modules
    code = """
import importlib, re, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if re.match(r"(rclpy|rosbags|cv_bridge|habitat\\w*|\\w+_msgs|\\w+_interfaces|std_srvs)$", name):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_and_version_load_no_heavy_library() -> None:
    code = """
import sys
from vln_ros.cli import build_parser
build_parser()
heavy = {"torch", "transformers", "rclpy", "matplotlib", "rosbags", "av", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_node_has_its_module() -> None:
    assert set(MODULES) == set(NODES)
    for name, module in MODULES.items():
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), name


def privates_of_others(tree: ast.Module) -> list[str]:
    """Names with one underscore that are reached into from outside of their class or module."""
    found = []
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            name = node.attr
        elif isinstance(node, ast.ImportFrom):
            name = next((a.name for a in node.names if is_private(a.name)), "")
        elif isinstance(node, ast.Call) and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            name = str(node.args[1].value) if called in {"getattr", "setattr", "delattr"} else ""
        if is_private(name):
            found.append(name)
    return found


def is_own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in {"self", "cls"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_exit"  # os._exit is documented


def test_tests_reach_into_nothing_private() -> None:
    code = (
        "from a import _x, y\nself._a = other._b\nos._exit(1)\nself.robot._c()\nx.__name__\n"
        "monkeypatch.setattr(module, '_d', 1)\nsetattr(x, '_e', 2)\nmonkeypatch.setattr('a._f', 3)\n"
    )
    assert sorted(privates_of_others(ast.parse(code))) == ["_b", "_c", "_d", "_e", "_x"]
    paths = sorted((ROOT / "test").rglob("*.py"))
    found = {str(p.relative_to(ROOT)): privates_of_others(ast.parse(p.read_text("utf-8"))) for p in paths}
    assert len(found) > 100
    wrong = {path: names for path, names in found.items() if len(names) > PRIVATES.get(path, 0)}
    assert not wrong, "give it a seam: an argument, a public property, or assert on what users see"


def patched(tree: ast.Module) -> list[str]:
    """What of a module or class from elsewhere is set, and ``mock``, which does that."""
    nodes = list(ast.walk(tree))
    aliases = [a for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names]
    imported = {(a.asname or a.name).split(".")[0] for a in aliases}
    stored = [ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    mocks = [a.name for a in aliases if a.name.split(".")[-1] == "mock"]
    return sorted({*mocks, *(name for name in stored if name.split(".")[0] in imported)})


def test_nothing_is_patched() -> None:
    code = "from unittest import mock\nimport a.b\nfrom c import D\na.b.c = 1\nD.e = f\nself.x = D\ng.h = 2\n"
    assert patched(ast.parse(code)) == ["D.e", "a.b.c", "mock"]
    found = {
        name
        for folder in (PACKAGE, ROOT / "benchmarks")
        for path in folder.rglob("*.py")
        for name in patched(ast.parse(path.read_text("utf-8")))
    }
    assert found == {"torch._dynamo.config.recompile_limit"}, "give it a seam; that one is a setting"


def test_no_module_for_whatever() -> None:
    names = {p.stem for p in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_one_version() -> None:
    xml = (ROOT / "package.xml").read_text("utf-8")
    found = re.search(r"<version>([^<]+)</version>", xml)
    assert found is not None
    assert found.group(1) == vln_ros.__version__
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == vln_ros.__version__


def test_everything_imported_is_declared() -> None:
    declared = (ROOT / "package.xml").read_text("utf-8")
    depends = {d.lower() for d in re.findall(r"<(?:exec_|build_)?depend>([^<]+)</", declared)}
    pinned = {
        re.split(r"[=\[;<> ]", line, maxsplit=1)[0].lower()
        for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    }
    outer = {i.target.split(".")[0] for i in every_import() if not i.typing_only}
    outer -= {*sys.stdlib_module_names, "vln_ros", *OPTIONAL}
    missing = {
        name
        for name in outer
        if name.lower() not in depends and DISTRIBUTIONS.get(name, name).lower() not in pinned
    }
    assert not missing, "declare them in package.xml (ROS) or requirements.txt"


def test_no_page_is_written_in_python() -> None:
    """Markup, style and scripts are files that their tools can read (evaluation/runs/templates)."""
    tag = re.compile(r"<!doctype|</?(html|head|body|style|script|div|table|span)\b", re.IGNORECASE)
    written = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value[:40]!r}"
        for folder in (PACKAGE, ROOT / "benchmarks")
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and tag.search(node.value)
    ]
    assert not written
    assert len(list(PACKAGE.rglob("*.j2"))) > 1


POSITIONAL = {
    "datatypes": {"ActionChunk", "CameraModel", "Frame"},
    "geometry": {"Correspondence"},
    "reuse": {"FramePlan", "ReuseStats", "_Cached"},
    "engine": {
        "BudgetOptions", "EngineReport", "Image", "LandmarkReport", "PruneReport", "Segment", "Video",
        "_Answer",
    },
}  # fmt: skip
"""Dataclasses of many fields that may be made by position still: values that every test writes, and the
records of the engine's inner parts, which are made in one place each. It shall not grow."""


def positional_fields(node: ast.ClassDef) -> list[str] | None:
    """Names of the fields that a dataclass takes by position; None if it is no dataclass."""
    for decorator in node.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        if ast.unparse(call.func if call else decorator).rpartition(".")[2] != "dataclass":
            continue
        if call and any(k.arg == "kw_only" and ast.unparse(k.value) == "True" for k in call.keywords):
            return []
        names = []
        for field in node.body:
            if not isinstance(field, ast.AnnAssign) or "ClassVar" in ast.unparse(field.annotation):
                continue
            if ast.unparse(field.annotation).rpartition(".")[2] == "KW_ONLY":
                break
            names.append(ast.unparse(field.target))
        return names
    return None


def test_positional_fields_are_counted_as_python_does() -> None:
    text = (
        "@dataclass\nclass A:\n    a: int\n    b: ClassVar[int]\n    _: KW_ONLY\n    c: int\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\nclass B:\n    a: int\n"
        "class C:\n    a: int\n"
        "@dataclass(frozen=True)\nclass D:\n    a: int = 1\n    b: int = field(default=2)\n"
    )
    classes = [n for n in ast.parse(text).body if isinstance(n, ast.ClassDef)]
    assert [positional_fields(n) for n in classes] == [["a"], [], None, ["a", "b"]]


def test_dataclasses_of_many_fields_are_made_by_keyword() -> None:
    counted = 0
    wrong: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and (names := positional_fields(node)) is not None:
                counted += 1
                if len(names) > 5 and node.name not in POSITIONAL.get(part, set()):
                    wrong[f"{path.relative_to(ROOT)}: {node.name}"] = names
    assert counted > 100
    assert not wrong, "more than five fields by position: kw_only=True, or `_: KW_ONLY` behind the first ones"
