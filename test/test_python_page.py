"""What docs/python.md and its notebook show runs as it stands there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vln_ros

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "python.md").read_text("utf-8")
FIRST, ROBOT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (120, 160, 3), np.uint8))


def test_the_first_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len([line for line in FIRST.splitlines() if line]) <= 10
    (tmp_path / "frames").mkdir()
    for number in range(3):
        picture(number).save(tmp_path / "frames" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    exec(FIRST, {})
    assert re.search(r"forward|left|right|stop", capsys.readouterr().out)


def test_the_lines_of_the_readme(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(DOCS.parent)
    (lines,) = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text("utf-8"), re.DOTALL)
    exec(lines, {})
    assert re.search(r"forward|left|right|stop", capsys.readouterr().out)


def test_the_loop_of_a_robot() -> None:
    numbers, driven = iter(range(1000)), []
    with vln_ros.load("shipped:tiny", "tiny", "go to the red door", options={"qwen.device": "cpu"}) as stream:

        def drive(action: vln_ros.Action) -> None:
            driven.append(action)
            if len(driven) >= 6:
                raise StopIteration  # enough seen

        try:
            exec(ROBOT, {"stream": stream, "camera": lambda: picture(next(numbers)), "drive": drive})
        except StopIteration:
            assert len(driven) == 6
        else:
            assert stream.ended == "stop" or not driven
    assert next(numbers) >= 1


def test_the_page_has_every_public_name_and_argument() -> None:
    for name in vln_ros.__all__:
        assert f"`{name}`" in PAGE or f"vln_ros.{name}" in PAGE, name
    calls = [vln_ros.load, *(getattr(vln_ros.Stream, n) for n in ("instruct", "see", "act", "ask", "close"))]
    for call in calls:
        (heading,) = re.findall(rf"^### `(?:vln_ros|Stream)\.{call.__name__}\((.*?)\)", PAGE, re.MULTILINE)
        shown = [part.partition("=")[0].strip() for part in heading.split(",") if part.strip()]
        parameters = inspect.signature(call).parameters.values()
        wanted = [p.name for p in parameters if p.name != "self"]
        assert [s for s in shown if s != "*"] == wanted
        assert ("*" in shown) == any(p.kind is p.KEYWORD_ONLY for p in parameters)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient (requirements-dev.txt)")
    client = pytest.importorskip("nbclient", reason="needs nbclient (requirements-dev.txt)")
    pytest.importorskip("ipykernel", reason="needs ipykernel (requirements-dev.txt)")
    notebook = nbformat.read(DOCS / "python.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "keep outputs out: they rot"
    client.NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    printed = "".join(o.get("text", "") for cell in code for o in cell.outputs)
    assert re.search(r"ended by .* m from the goal", printed)
    assert "(rgb * 255).round().astype(np.uint8)" in printed and "did you mean 'shipped:tiny'" in printed
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
