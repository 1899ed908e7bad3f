"""The walkthrough: its notebooks agree with their sources, and execute."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("jupytext", reason="needs pip install -e '.[notebooks]'")

import nbformat

FOLDER = Path(__file__).parents[2] / "notebooks"
CHAPTERS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
LEAST_PICTURES = 15


@pytest.fixture(scope="module")
def execute() -> ModuleType:
    """The script that executes chapters."""
    spec = importlib.util.spec_from_file_location("execute_chapters", FOLDER / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def committed(chapter: Path) -> nbformat.NotebookNode:
    return nbformat.read(chapter.with_suffix(".ipynb"), as_version=4)


def by_name(chapter: Path) -> str:
    return chapter.stem


def test_every_notebook_has_a_source() -> None:
    assert [path.stem for path in sorted(FOLDER.glob("*.ipynb"))] == [path.stem for path in CHAPTERS]
    assert [int(path.stem[:2]) for path in CHAPTERS] == list(range(1, len(CHAPTERS) + 1))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=by_name)
def test_a_notebook_has_the_cells_of_its_source(chapter: Path, execute: ModuleType) -> None:
    """After a change of the source: python notebooks/execute.py FILE.py."""
    source, notebook = execute.read_source(chapter).cells, committed(chapter).cells
    assert [(cell.cell_type, cell.source) for cell in notebook] == [(cell.cell_type, cell.source) for cell in source]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=by_name)
def test_every_cell_was_executed_without_an_error(chapter: Path) -> None:
    code = [cell for cell in committed(chapter).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_there_are_pictures() -> None:
    outputs = [
        output for chapter in CHAPTERS for cell in committed(chapter).cells for output in cell.get("outputs", ())
    ]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= LEAST_PICTURES


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS, ids=by_name)
def test_a_chapter_executes(chapter: Path, execute: ModuleType) -> None:
    executed = [cell for cell in execute.execute(chapter).cells if cell.cell_type == "code"]
    outputs = [output for cell in executed for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
