"""Execute chapters and write their notebooks: `python notebooks/execute.py [FILE.py ...]` (default: all chapters)."""

import sys
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode, write

HERE = Path(__file__).parent


def chapters() -> list[Path]:
    """Return the sources of the chapters, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def read_source(path: Path) -> NotebookNode:
    """Return a chapter without outputs, with cell ids that depend on the order of the cells only."""
    notebook = jupytext.read(path)
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", NotebookNode()
    return notebook


def execute(path: Path) -> NotebookNode:
    """Return an executed chapter. Raises CellExecutionError, with the traceback, if a cell raises."""
    notebook = read_source(path)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(HERE)}}, record_timing=False).execute()
    notebook.metadata = NotebookNode(kernelspec=notebook.metadata.kernelspec, language_info={"name": "python"})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return outputs with neighbouring parts of a stream as one: where a stream is divided depends on time."""
    found: list[NotebookNode] = []
    for output in outputs:
        if found and output.output_type == "stream" == found[-1].output_type and output.name == found[-1].name:
            found[-1].text += output.text
        else:
            found.append(output)
    return found


if __name__ == "__main__":
    for chapter in map(Path, sys.argv[1:] or chapters()):
        print(chapter.name, flush=True)
        write(execute(chapter), chapter.with_suffix(".ipynb"))
