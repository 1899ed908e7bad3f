"""Which protocols count as chosen before the training."""

from pathlib import Path

import pytest

from ablations.evaluation import load_evaluations
from ablations.storage import Store
from tests.support.evaluations import SMOKE, evaluate, succeeds, vitab


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def beforehand(study: str = "smoke") -> set[str]:
    store = Store(Path("runs"))
    plan = store.read_study(study)
    assert load_evaluations(store, plan).beforehand <= {*plan.protocols}
    return {*plan.protocols}


def test_a_protocol_named_after_the_training_was_not_chosen_before_it() -> None:
    succeeds(vitab(*SMOKE, "--protocol", "calibration"))
    assert beforehand() == {"calibration"}
    succeeds(evaluate("--protocol", "per-class"))
    assert beforehand() == {"calibration"}
    lines = succeeds(vitab(*SMOKE, "--protocol", "per-class,calibration"))
    assert "study smoke: 8 evaluations, 0 to do, 8 already finished" in lines
    assert beforehand() == {"calibration"}
    succeeds(vitab(*SMOKE))
    assert beforehand() == {"calibration"}


def test_more_seeds_keep_the_choice() -> None:
    succeeds(vitab(*SMOKE, "--seeds", "1", "--protocol", "calibration"))
    lines = succeeds(vitab(*SMOKE, "--seeds", "2", "--protocol", "per-class"))
    assert "study smoke: 4 evaluations, 4 to do" in lines
    assert beforehand() == {"calibration"}


def test_a_study_of_runs_that_are_trained_has_no_choice_before_the_training() -> None:
    succeeds(vitab(*SMOKE))
    succeeds(vitab(*SMOKE, "--study", "again", "--protocol", "calibration"))
    assert beforehand("again") == set()


def test_the_choice_can_change_until_a_run_is_finished() -> None:
    dry = vitab(*SMOKE, "--dry-run", "--protocol", "calibration")
    assert "by calibration" in succeeds(dry)[-1]
    succeeds(vitab(*SMOKE, "--protocol", "per-class"))
    assert beforehand() == {"per-class"}
