"""Reports about a metric of an evaluation protocol, and the names of metrics."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from ablations.config import SequentialDesign
from ablations.errors import UsageError
from ablations.evaluation import protocol
from ablations.reporting.check import differences
from ablations.reporting.evaluation_analysis import analyse_evaluations
from ablations.reporting.measured import find_measured, measured, metric_names
from ablations.reporting.report import compose, write_report
from tests.reporting.test_evaluations import measure
from tests.reporting.test_hostile_names import as_github, inline
from tests.support import synthetic_evaluations, synthetic_results


@pytest.fixture(scope="module")
def results():
    return synthetic_results.make()


@pytest.fixture(scope="module")
def evaluations(results):
    return synthetic_evaluations.make(results, beforehand=("shift", "calibration"), measure=measure)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("calibration:nll", "calibration:nll"),
        ("calibration", "calibration:calibration-error"),
        ("shift(fill=edge):changed-half", "shift:changed-half"),
    ],
)
def test_names_of_metrics(evaluations, name, expected):
    assert find_measured(evaluations, "rope", name).measure.name == expected


def test_accuracy_is_the_default_and_names_are_listed(evaluations):
    assert find_measured(evaluations, "rope", "accuracy") is None
    names = metric_names(evaluations)
    assert names[0] == "accuracy"
    for name in names[1:]:
        assert find_measured(evaluations, "rope", name).measure.name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "calibration:nnl",
            r"unknown metric of calibration 'nnl' \(did you mean 'nll'\?\); valid: calibration-error, nll, ",
        ),
        ("calibraton:nll", r"unknown protocol 'calibraton' \(did you mean 'calibration'\?\)"),
        ("acuracy", r"unknown metric 'acuracy' \(did you mean 'accuracy'\?\); valid: accuracy, "),
        (
            "shift(fill=zero)",
            r"no run of study rope is measured by shift\(fill=zero\); run: vitab evaluate rope --protocol 's",
        ),
        ("resolution:accuracy-2x-interpolate", "unknown metric of resolution"),
    ],
)
def test_unknown_metrics_are_one_line(evaluations, name, message):
    with pytest.raises(UsageError, match=message) as error:
        find_measured(evaluations, "rope", name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "mine.py:Mine",
            "no run of study rope is measured by mine.py:Mine; run: vitab evaluate rope --protocol mine.py:Mine",
        ),
        (
            "mine.py:Mine:odd",
            "no run of study rope is measured by mine.py:Mine; run: vitab evaluate rope --protocol mine.py:Mine",
        ),
        ("mine.py:Yours", "mine.py defines no class 'Yours'; its protocols are Mine"),
        ("mine.py:Yours:odd", "mine.py defines no class 'Yours'; its protocols are Mine"),
        ("none.py:Mine", "cannot read none.py: there is no such file"),
        ("mine.py:Mine(a=1)", "options of protocol mine.py:Mine do not exist, got 'a'"),
        ("shift(fill=grey)", "fill of protocol shift must be edge or zero, got 'grey'"),
        ("mine.py", "protocol must be FILE.py:CLASS for a protocol in a file, got 'mine.py'"),
    ],
)
def test_a_protocol_that_has_measured_nothing(evaluations, tmp_path, monkeypatch, name, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    with pytest.raises(UsageError) as error:
        find_measured(evaluations, "rope", name)
    assert str(error.value) == line


@pytest.mark.parametrize("name", ["shuffle", "shuffle:lost-each", "shuffle(window=2)"])
def test_a_protocol_that_has_only_reasons(results, name):
    why = {"shuffle": lambda config: "a single patch cannot change its place"}
    evaluations = synthetic_evaluations.make(results, ("shuffle",), measure=lambda *_: None, reasons=why)
    with pytest.raises(UsageError) as error:
        find_measured(evaluations, "rope", name)
    line = "shuffle measured no metric of the runs of study rope: a single patch cannot change its place"
    assert str(error.value) == line
    assert metric_names(evaluations) == ["accuracy"]


@pytest.fixture(scope="module")
def about(evaluations):
    metric = next(each for each in protocol("calibration").metrics() if each.name == "nll")
    return measured(evaluations, "calibration", metric)


def test_a_report_about_a_metric(results, evaluations, about, tmp_path):
    folder = write_report(results, tmp_path, for_paper=True, evaluations=evaluations, about=about)
    assert folder == tmp_path / "rope" / "metrics" / "calibration-nll"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert (
        "about **negative log-likelihood** in nats (lower is better), measured by the protocol `calibration`, which "
        "was chosen before the training" in text
    )
    assert "## Negative log-likelihood\n" in text
    assert re.search(
        r"- \*\*rope\*\* is worse than \*\*none\*\*: its negative log-likelihood is higher by 0\.018 nats on average",
        text,
    )
    assert (
        "Difference in negative log-likelihood from the baseline **none**, in nats, averaged over depth and patch:"
        in text.replace("patch size", "patch")
    )
    assert "Equivalence is not claimed, because no margin is defined for this unit." in text
    assert not re.search(r"\d points?\b|percentage point|test accuracy in percent|equivalent within", text)
    assert "vitab evaluate rope --protocol calibration\nvitab report rope --metric calibration:nll" in text
    assert {path.name for path in (folder / "figures").glob("*.png")} == {
        f"{n}.png" for n in ("contrasts", "cost", "heatmap", "ranks", "values")
    }
    assert "in negative log-likelihood from none in nats" in (folder / "paper.md").read_text(encoding="utf-8")
    runs = pd.read_csv(folder / "tables" / "runs.csv")
    assert list(runs["calibration:nll"]) == [about.values[key] for key in runs["key"]]
    assert differences(results, tmp_path, evaluations, about) == []
    with pytest.raises(UsageError, match=r"write it with: vitab report rope --metric calibration:brier"):
        differences(results, tmp_path, evaluations, find_measured(evaluations, "rope", "calibration:brier"))


def test_reports_do_not_replace_each_other(tmp_path):
    results = synthetic_results.make({"position": ("none", "rope")})
    evaluations = synthetic_evaluations.make(results, ("shift",))
    one = write_report(results, tmp_path, evaluations=evaluations, about=find_measured(evaluations, "rope", "shift"))
    whole = write_report(results, tmp_path, evaluations=evaluations)
    assert (one / "README.md").exists()
    assert one.is_relative_to(whole)
    assert differences(results, tmp_path, evaluations) == []


def test_a_metric_of_some_runs(results, evaluations):
    about = find_measured(evaluations, "rope", "resolution:accuracy-0.75x")
    text = compose(results, evaluations, about).text
    assert "24 of 48 finished runs have no value." in text
    assert "6 pairs" in text


def test_diverged_runs_are_not_measured():
    lost = synthetic_results.make(survives=lambda c: (c.position, c.seed) != ("rope", 0))
    whole = synthetic_evaluations.make(lost)
    diverged = set(lost.runs["key"][lost.runs["diverged"] > 0])
    evaluations = replace(whole, values=whole.values[~whole.values["key"].isin(diverged)])
    text = compose(lost, evaluations, find_measured(evaluations, "rope", "shift")).text
    assert "Diverged runs are not measured" in text
    assert "chance accuracy" not in text
    assert "\n## Divergence\n" not in text


def test_sequential_studies_test_metrics_at_their_interim_analyses():
    results = synthetic_results.make({"position": ("none", "rope")}, range(6), design=SequentialDesign(3, 12))
    evaluations = synthetic_evaluations.make(results)
    found = analyse_evaluations(results, evaluations)
    assert {c.correction for each in found.protocols for c in each.contrasts} == {"sequential adjusted"}
    text = compose(results, evaluations, find_measured(evaluations, "rope", "calibration:nll")).text
    assert "by interim analyses of the test accuracy; p and intervals of this metric hold over analyses" in text
    assert "\n## Rounds\n" not in text
    assert "](#rounds)" not in text


OWN = """
from dataclasses import dataclass
from ablations.evaluation import Measurement, Metric, Protocol

@dataclass(frozen=True)
class Mine(Protocol):
    description = "<b>how</b> *odd*"
    def metrics(self):
        return [Metric("odd", "share of a|b <i>", "m*s", higher_is_better=False)]
    def measure(self, run):
        return Measurement({"odd": 1.0})
"""


def test_a_protocol_in_a_file(results, tmp_path, monkeypatch):
    """It is called by its name, without folder and digest; its texts are text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    own = synthetic_evaluations.make(results, ("mine.py:Mine",), measure=lambda config, *_: 2 - config.depth / 10)
    for name in ("mine.py:Mine", "mine.py:Mine:odd", "Mine:odd", own.protocols[0]):
        about = find_measured(own, "rope", name)
        assert about.measure.name == "mine.py:Mine:odd"
        assert about.folder == "mine.py-Mine-odd"
    whole, text = compose(results, own).text, compose(results, own, about).text
    assert "\n### Mine\n" in whole
    assert "vitab evaluate rope --protocol mine.py:Mine\n" in whole
    assert "vitab report rope --metric mine.py:Mine:odd\n" in text
    assert "@" not in whole + text
    for shown in (whole, text):
        tokens = as_github(shown)
        assert not any(token.type == "html_inline" for token in inline(tokens))
        assert not any("<b>" in token.content for token in tokens if token.type == "html_block")
        assert r"m\*s" in shown
