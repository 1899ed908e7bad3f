"""Progress in notebooks: what the display shows, and a study run in a real Jupyter kernel."""

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablations.api import notebook
from ablations.config import RunConfig
from ablations.execution.tasks import Finished, Task
from ablations.storage import Store
from ablations.training.trainer import EpochMetrics

CONFIGS = [RunConfig(seed=seed, epochs=4) for seed in range(3)]
TASKS = [Task(f"key {i}", config, f"<rope>, seed {i}", weight=1.0 + i) for i, config in enumerate(CONFIGS)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("ablations.commands.progress.time", clock)
    monkeypatch.setattr(notebook, "time", clock)
    return clock


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the display has shown, the last at the end."""
    display = pytest.importorskip("IPython.display", reason="needs pip install -e '.[notebooks]'")
    states: list[str] = []

    class Handle:
        def update(self, html: Any) -> None:
            states.append(html.data)

    def show(html: Any, display_id: bool) -> Handle:
        assert display_id
        states.append(html.data)
        return Handle()

    monkeypatch.setattr(display, "display", show)
    return states


def test_the_display_follows_the_runs(clock: Clock, shown: list[str]) -> None:
    with notebook.NotebookProgress(Console(quiet=True), TASKS, skipped=2) as progress:
        assert len(shown) == 1
        assert "2 of 5 runs" in shown[0]
        clock.now = 1.0
        progress.started(TASKS[0])
        progress.started(TASKS[1])  # at once after the other: not shown yet
        assert len(shown) == 2
        clock.now = 2.0
        progress.epoch(TASKS[0], EpochMetrics(2, 1e-3, 1.2345, 1.0, 0.5, 0.25, 1234.0))
        cells = re.findall("<td.*?>(.*?)</td>", shown[-1])
        assert cells[:6] == ["&lt;rope&gt;, seed 0", "2/4", "1.234", "50.0%", "1,234", "1.0 s"]
        assert cells[6:] == ["&lt;rope&gt;, seed 1", "0/4", "", "", "", ""]
        share, time = re.search(r'value="([\d.]+)" max="1"></progress> (.*?)</div>', shown[-1]).groups()
        assert (float(share), time) == (pytest.approx(0.5 / 6, abs=1e-3), "2.0 s elapsed, 22 s left")
        clock.now = 3.0
        progress.finished(TASKS[0], Finished("test 93.1%, validation 92.0%", 2.0))
        assert "3 of 5 runs" in shown[-1]
        assert "93.1" not in shown[-1]
        progress.failed(TASKS[1], "<out of memory>")
        progress.finished(TASKS[2], Finished("test 10.0%", 1.0, diverged=3))
    lines = re.findall("<div>(.*?)</div>", shown[-1])
    assert lines == [
        "5 of 5 runs in 3.0 s",
        "[4/5] &lt;rope&gt;, seed 1: FAILED: &lt;out of memory&gt;",
        "[5/5] &lt;rope&gt;, seed 2: DIVERGED: the loss was not finite in epoch 3, 1.0 s; 0.0 s left",
    ]
    assert "<table>" not in shown[-1]


CELLS = [
    "import ablations\n"
    "study = ablations.run('smoke', per_class=5, workers=2)\n"
    "study",
    "ablations.run('smoke', per_class=5, seeds=8, study='more', workers=1)\n"
    "print(len(study.runs), study)",
    "ablations.run('smoke', position='rop')",
    "print(ablations.study('more').findings[0])",
]  # fmt: skip


@pytest.mark.slow
def test_a_study_in_a_real_kernel(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs pip install -e '.[notebooks]'")
    pytest.importorskip("ipykernel", reason="needs pip install -e '.[notebooks]'")
    from nbformat.v4 import new_code_cell, new_notebook

    book = new_notebook(cells=[new_code_cell(source) for source in CELLS])
    client = nbclient.NotebookClient(
        book, timeout=300, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    first, second, third, last = (list(cell.outputs) for cell in book.cells)

    assert [output.output_type for output in first] == ["stream", "stream", "display_data", "execute_result"]
    assert sorted(output.name for output in first[:2]) == ["stderr", "stdout"]
    said = {output.name: output.text for output in first[:2]}
    assert said["stdout"] == "study smoke: 4 runs, 4 to do\n"
    assert "UserWarning: no difference can reach p = 0.05 with 2 pairs" in said["stderr"]
    assert re.fullmatch(r"<div>4 of 4 runs in [\d.]+ s</div>", first[2].data["text/html"])
    html = first[3].data["text/html"]
    assert "<h3>Does everything work from data to report?</h3>" in html
    assert re.search(r"<td[^>]*>rope</td>\s*<td[^>]*><strong>undecided</strong></td>", html)
    text = "<Study smoke in runs: 4 of 4 runs finished; position none, rope; 2 seeds>"
    assert first[3].data["text/plain"] == text
    store = Store(tmp_path / "runs")
    assert all(map(store.done, store.read_study("smoke").keys))

    displays = [output for output in second if output.output_type == "display_data"]
    assert [re.sub(r"[\d.]+ s", "", output.data["text/html"]) for output in displays] == [
        "<div>16 of 16 runs in </div>"
    ]
    printed = "".join(output.text for output in second if output.get("name") == "stdout")
    assert printed == f"study more: 16 runs, 12 to do, 4 already finished\n4 {text}\n"

    assert [output.output_type for output in third] == ["error"]
    assert third[0].ename == "UsageError"
    assert third[0].evalue.startswith("unknown position 'rop' (did you mean 'rope'?)")
    assert last[0].text.strip()


@pytest.mark.slow
def test_a_kernel_that_is_interrupted_keeps_a_study_that_resumes(tmp_path: Path) -> None:
    manager = pytest.importorskip("jupyter_client.manager", reason="needs pip install -e '.[notebooks]'")
    pytest.importorskip("ipykernel", reason="needs pip install -e '.[notebooks]'")
    kernel, client = manager.start_new_kernel(cwd=str(tmp_path))
    try:
        said: list[dict[str, Any]] = []
        client.execute("import ablations\nablations.run('smoke', position='none', width=32, epochs=2000, workers=2)")
        while not re.search(r">none, seed 0</td><td.*?>\d+/2000</td><td.*?>[\d.]+</td>", html_of(said)):
            said.append(client.get_iopub_msg(timeout=60))
        kernel.interrupt_kernel()
        while said[-1]["msg_type"] != "error":
            said.append(client.get_iopub_msg(timeout=60))
        assert said[-1]["content"]["ename"] == "KeyboardInterrupt"
        printed = "".join(each["content"]["text"] for each in said if each["msg_type"] == "stream")
        assert printed.splitlines()[0] == "study smoke: 2 runs, 2 to do"
        assert printed.splitlines()[-1] == "interrupted after 0 of 2 runs; the same call resumes"
        assert html_of(said).startswith("<div>0 of 2 runs in ")
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    assert list(tmp_path.glob("runs/*/resume.bin"))


def html_of(messages: list[dict[str, Any]]) -> str:
    """What the display shows after these messages of a kernel."""
    kinds = ("display_data", "update_display_data")
    return next((each["content"]["data"]["text/html"] for each in messages[::-1] if each["msg_type"] in kinds), "")
