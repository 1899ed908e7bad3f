"""What a protocol of one's own may declare and measure; anything else is one line."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.config import RunConfig
from ablations.errors import UsageError, VitabError
from ablations.evaluation import Measurement, Protocol, own, protocol
from ablations.evaluation.checks import checked_measurement, checked_passes

CODE = """
from dataclasses import dataclass

from ablations.evaluation import Measurement, Metric, Protocol


@dataclass(frozen=True)
class Mine(Protocol):
    description = "a test"

    def metrics(self):
        return {metrics}

    def passes(self, config):
        return {passes}
"""
SHARE, CHANGE, DISTANCE = (
    'Metric("share", "a share")',
    'Metric("change", "a change", signed=True)',
    ('Metric("distance", "a distance", "pixels", higher_is_better=None)'),
)
GAIN = 'Metric("gain", "a gain", "nats", signed=True)'
SHOWN = "protocol lab/mine.py:Mine"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lab").mkdir()


def mine(metrics: str = f"[{SHARE}, {CHANGE}, {DISTANCE}, {GAIN}]", passes: str = "1.0") -> Protocol:
    Path("lab/mine.py").write_text(CODE.format(metrics=metrics, passes=passes))
    return protocol("lab/mine.py:Mine")


def line_of(error: pytest.ExceptionInfo[VitabError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 300
    return text


class TestMetrics:
    @pytest.mark.parametrize(
        ("metric", "line"),
        [
            ("'a b', 'noun'", f"name of a metric of {SHOWN} must be letters, digits, '-', '.' or '_', got 'a b'"),
            ("'a:b', 'noun'", f"name of a metric of {SHOWN} must be letters, digits, '-', '.' or '_', got 'a:b'"),
            ("'a\\n', 'noun'", f"name of a metric of {SHOWN} must be letters, digits, '-', '.' or '_', got 'a\\n'"),
            ("'', 'noun'", f"name of a metric of {SHOWN} must be letters, digits, '-', '.' or '_', got ''"),
            ("['a'], 'noun'", f"name of a metric of {SHOWN} must be letters, digits, '-', '.' or '_', got ['a']"),
            ("'a', ' '", f"noun of metric a of {SHOWN} must be a non-empty string, got ' '"),
            ("'a', None", f"noun of metric a of {SHOWN} must be a non-empty string, got None"),
            ("'a', 'noun', None", f"unit of metric a of {SHOWN} must be a string, got None"),
            ("'a', 'noun', '%', 1", f"higher_is_better of metric a of {SHOWN} must be True, False or None, got 1"),
            ("'a', 'noun', signed='no'", f"signed of metric a of {SHOWN} must be True or False, got 'no'"),
            ("'a', 'noun', tested=None", f"tested of metric a of {SHOWN} must be True or False, got None"),
        ],
    )
    def test_fields_of_the_wrong_type(self, metric: str, line: str) -> None:
        with pytest.raises(UsageError) as error:
            mine(f"[{SHARE}, Metric({metric})]")
        assert line_of(error) == line

    @pytest.mark.parametrize("metrics", ["[]", "None", f"({SHARE},)", f"[{SHARE}, 'share']", "[b'long' * 999]"])
    def test_no_list_of_metrics(self, metrics: str) -> None:
        with pytest.raises(UsageError) as error:
            mine(metrics)
        assert line_of(error).startswith(f"metrics of {SHOWN} must be a list of at least one Metric, got ")

    def test_exceptions(self) -> None:
        for metrics, what in (("1 / 0", "ZeroDivisionError: division by zero"), ("exit(3)", "SystemExit: 3")):
            with pytest.raises(UsageError) as error:
                mine(metrics)
            assert line_of(error) == f"metrics of {SHOWN} raises {what} (mine.py, line 12)"


class TestPasses:
    @pytest.mark.parametrize(("passes", "number"), [("0", 0.0), ("True + 1", 2.0), ("2.5", 2.5)])
    def test_numbers(self, passes: str, number: float) -> None:
        assert checked_passes(mine(passes=passes), RunConfig(), own) == number

    @pytest.mark.parametrize(
        ("passes", "shown"),
        [
            ("'2'", "'2'"),
            ("None", "None"),
            ("True", "True"),
            ("-1", "-1"),
            ("float('nan')", "nan"),
            ("float('inf')", "inf"),
            ("10**400", None),
            ("[[1, 2]] * 99", None),
        ],
    )
    def test_anything_else(self, passes: str, shown: str | None) -> None:
        with pytest.raises(UsageError) as error:
            checked_passes(mine(passes=passes), RunConfig(), own)
        line = f"passes of {SHOWN} must be a finite number of at least 0, got "
        assert line_of(error).startswith(line)
        assert shown is None or line_of(error) == line + shown

    def test_exceptions(self) -> None:
        with pytest.raises(UsageError) as error:
            checked_passes(mine(passes="1 / 0"), RunConfig(), own)
        assert line_of(error) == f"passes of {SHOWN} raises ZeroDivisionError: division by zero (mine.py, line 15)"


def refused(measured: Any) -> str:
    with pytest.raises(VitabError) as error:
        checked_measurement(measured, mine(), own)
    return line_of(error)


class TestMeasurement:
    def test_numbers_arrays_and_reasons_are_kept(self) -> None:
        metrics = {"share": np.float32(0.5), "change": -1, "distance": Fraction(7, 2), "gain": np.array(-3.5)}
        arrays = {"counts_2": np.arange(3), "names": np.array(["a", "b"]), "rows": [[1, 2], [3, 4]]}
        made = checked_measurement(Measurement(metrics, arrays, ["why"]), mine(), own)  # type: ignore[arg-type]
        assert made.metrics == {"share": 0.5, "change": -1.0, "distance": 3.5, "gain": -3.5}
        assert {type(value) for value in made.metrics.values()} == {float}
        assert made.reasons == ("why",)
        assert made.arrays["rows"].shape == (2, 2)
        assert np.array_equal(made.arrays["names"], ["a", "b"])

    def test_a_share_may_be_rounded_beyond_its_bounds(self) -> None:
        metrics = {"share": 1 + 1e-7, "distance": -1e-9}
        assert checked_measurement(Measurement(metrics), mine(), own).metrics == metrics

    @pytest.mark.parametrize(
        ("metrics", "line"),
        [
            ({"shape": 1.0}, f"metrics measured by {SHOWN} must be share, change, distance, gain, got 'shape'"),
            ({3: 1.0}, f"metrics measured by {SHOWN} must be share, change, distance, gain, got 3"),
            ([0.5], f"metrics measured by {SHOWN} must be a mapping of names to numbers, got [0.5]"),
            ({"share": "0.5"}, f"metric share of {SHOWN} must be a number, got '0.5'"),
            ({"share": None}, f"metric share of {SHOWN} must be a number, got None"),
            ({"share": True}, f"metric share of {SHOWN} must be a number, got True"),
            ({"share": np.ones((2, 2))}, f"metric share of {SHOWN} must be a number, got array([[1., 1.], [1., 1.]])"),
            ({"share": np.ones(1)}, f"metric share of {SHOWN} must be a number, got array([1.])"),
            (
                {"share": np.float64("nan")},
                f"metric share of {SHOWN} must be a finite number, or be left out with a line in reasons, got nan",
            ),
            (
                {"distance": float("inf")},
                f"metric distance of {SHOWN} must be a finite number, or be left out with a line in reasons, got inf",
            ),
            ({"share": 87.5}, f"metric share of {SHOWN} must be a share from 0 to 1, as its unit is %, got 87.5"),
            ({"share": -0.1}, f"metric share of {SHOWN} must be a share from 0 to 1, as its unit is %, got -0.1"),
            ({"change": -1.5}, f"metric change of {SHOWN} must be a share from -1 to 1, as its unit is %, got -1.5"),
            ({"distance": -2}, f"metric distance of {SHOWN} must be at least 0, as it is not signed, got -2"),
        ],
    )
    def test_metrics(self, metrics: Any, line: str) -> None:
        assert refused(Measurement(metrics)) == line

    @pytest.mark.parametrize("reasons", ["why", [""], [" "], [1], None, {"why"}, ("first\nsecond",)])
    def test_reasons(self, reasons: Any) -> None:
        line = refused(Measurement(reasons=reasons))
        assert line.startswith(f"reasons of {SHOWN} must be a tuple or list of non-empty lines, got ")

    @pytest.mark.parametrize("name", ["allow_pickle", "file", "a b", "a/b", "", 3, "2d", "a.npy"])
    def test_names_of_arrays(self, name: Any) -> None:
        line = refused(Measurement(arrays={name: np.ones(2)}))
        assert line == (
            f"name of an array of {SHOWN} must be a letter, then letters, digits or '_', and not allow_pickle or file, "
            f"got {name!r}"
        )

    @pytest.mark.parametrize("value", [None, np.array([None]), [[1, 2], [3]], np.zeros(2, [("a", "O")])])
    def test_arrays(self, value: Any) -> None:
        assert refused(Measurement(arrays={"found": value})).startswith(
            f"array found of {SHOWN} must be numbers or strings in a rectangular array, got "
        )

    def test_no_mapping_of_arrays(self) -> None:
        assert refused(Measurement(arrays=[np.ones(2)])).startswith(  # type: ignore[arg-type]
            f"arrays of {SHOWN} must be a mapping of names to arrays, got "
        )

    def test_no_measurement(self) -> None:
        assert refused({"share": 1}) == f"measure of {SHOWN} must return a Measurement, got dict"
