"""`vitab protocols`: the list, and one protocol in full."""

from pathlib import Path

import pytest

from ablations.evaluation import PROTOCOLS, protocol
from tests.support.evaluations import evaluate, refused, succeeds, vitab


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_has_every_protocol_and_fits_the_terminal(columns: int) -> None:
    lines = succeeds(vitab("protocols", columns=columns))
    assert [line.split()[0] for line in lines if line and not line.startswith(" ")][1:] == [*PROTOCOLS]
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    assert "fill=edge (edge or zero): pixels that come in: those of the edge, or black" in text
    assert "metrics: accuracy-half, changed-half, accuracy-patch, changed-patch" in text


@pytest.mark.parametrize("name", [*PROTOCOLS, "shift(fill=zero)"])
def test_one_protocol_in_full(name: str) -> None:
    lines = succeeds(vitab("protocols", name, columns=80))
    assert lines[0] == name
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert all(metric.name in text for metric in protocol(name).metrics())
    if name == "shift":
        assert "Changed: the prediction differs from that of the image in place." in text
        assert "changed-patch share of predictions changed by a shift by one % lower patch" in text
        assert "fill edge edge or zero pixels that come in: those of the edge, or black" in text
        assert lines[-1] == "source: Azulay and Weiss 2018, arXiv 1805.12177"


def test_an_unknown_protocol_is_one_line() -> None:
    assert refused(vitab("protocols", "shfit")).startswith("error: unknown protocol 'shfit' (did you mean 'shift'?)")


@pytest.mark.parametrize("command", [["--dry-run"], []])
def test_a_bad_protocol_in_a_file_is_one_line(runs: Path, command: list[str]) -> None:
    Path("mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from ablations.evaluation import Measurement, Metric, Protocol\n"
        "@dataclass(frozen=True)\n"
        "class Cost(Protocol):\n"
        "    description = 'no cost'\n"
        "    def metrics(self):\n"
        "        return [Metric('one', 'one')]\n"
        "    def passes(self, config):\n"
        "        return float('nan')\n"
        "@dataclass(frozen=True)\n"
        "class Name(Cost):\n"
        "    def metrics(self):\n"
        "        return [Metric('one two', 'a name of two words')]\n"
    )
    assert refused(evaluate("--protocol", "mine.py:Cost", *command)) == (
        "error: passes of protocol mine.py:Cost must be a finite number of at least 0, got nan\n"
    )
    assert refused(evaluate("--protocol", "mine.py:Name", *command)).startswith(
        "error: name of a metric of protocol mine.py:Name must be letters, digits, "
    )
    assert not (runs / "evaluations").exists()
