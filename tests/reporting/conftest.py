"""Reports that several modules read: each is written once per process. Tests must not change them."""

from dataclasses import replace
from pathlib import Path

import pytest

from ablations.config import SequentialDesign
from ablations.reporting.report import compose, write_report
from tests.support import synthetic_results, synthetic_tuning
from tests.support.rendering import rendered


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """The report of a complete study."""
    with rendered():
        return write_report(synthetic_results.make(), tmp_path_factory.mktemp("complete"))


@pytest.fixture(scope="session")
def grown(tmp_path_factory) -> Path:
    """The report of a study that grew in rounds: two arms decided early, one never."""
    seeds = {"none": 12, "learned": 5, "sinusoidal": 12, "rope": 4}
    results = synthetic_results.make(
        {"position": tuple(seeds), "depth": (2, 4)},
        range(12),
        study="grown",
        design=SequentialDesign(3, 12),
        asked=lambda config: config.seed < seeds[config.position],
        measure=lambda config: (
            synthetic_results.accuracy(replace(config, position="none"))
            if config.position == "sinusoidal" and config.seed % 2
            else synthetic_results.accuracy(config)
        ),
    )
    with rendered():
        return write_report(results, tmp_path_factory.mktemp("grown"))


@pytest.fixture(scope="session")
def lossy(tmp_path_factory) -> Path:
    """The report of a study in which one arm has no run at all in one of four settings."""
    results = synthetic_results.make(missing=lambda c: (c.position, c.depth, c.patch) == ("rope", 2, 4))
    return write_report(results, tmp_path_factory.mktemp("lossy"))


@pytest.fixture(scope="session")
def incomplete_html(tmp_path_factory) -> Path:
    """The report, with its HTML page, of a study in which two runs are missing."""
    lost = synthetic_results.make(missing=lambda c: c.position == "rope" and c.seed == 2 and c.depth == 4)
    with rendered():
        return write_report(lost, tmp_path_factory.mktemp("incomplete"), "html")


@pytest.fixture(scope="session")
def tuned(tmp_path_factory) -> Path:
    """The report of a tuned study beside the untuned one, without figures; some trials are pruned."""
    results = synthetic_tuning.pruned_study()
    sources = synthetic_tuning.sources(results, synthetic_tuning.untuned(results, range(5)))
    report = compose(results, tuning=sources)
    folder = tmp_path_factory.mktemp("tuned") / results.plan.study
    (folder / "tables").mkdir(parents=True)
    (folder / "README.md").write_bytes(report.text.encode())
    for name, content in report.tables.items():
        (folder / "tables" / name).write_bytes(content.encode())
    return folder
