"""What a report says of a study whose arms share compute."""

from dataclasses import replace

from ablations.config import ComputeMatch, RelativeCost
from ablations.reporting.compute import compute_clause, compute_limits, compute_table
from ablations.reporting.facts import facts
from ablations.reporting.method import method
from ablations.reporting.threats import checklist, threats
from ablations.statistics import analyse
from tests.support import synthetic_results

COSTS = {
    ("none", 2): RelativeCost(1.0),
    ("rope", 2): RelativeCost(1.2, 1.1, 1.3, "one machine"),
    ("none", 4): RelativeCost(1.0),
    ("rope", 4): RelativeCost(1.02, 1.01, 1.03, "another machine"),
}


def made(measure="seconds"):
    """A study of which rope has 25 and 29 epochs of 30."""
    match = ComputeMatch(measure, 30, "position", "none", ("position", "patch"), COSTS)
    results = synthetic_results.make({"position": ("none", "rope"), "patch": (2, 4)}, (0, 1))
    configs = [match.matched(config) for config in results.plan.configs]
    runs = results.runs.assign(epochs=[config.epochs for config in configs])
    return replace(results, plan=replace(results.plan, match=match, configs=configs), runs=runs)


def test_the_method_gives_the_measure_the_machines_and_the_epochs():
    said = {text.split(".**")[0].lstrip("*"): text for text in method(made())}
    assert said["Training"].startswith("**Training.** 25 to 30 epochs, batch size 64,")
    assert (
        "with learning rate 0.002 after linear warm-up over 10 % of the epochs, then cosine decay" in said["Training"]
    )
    assert said["What varies"].endswith("Everything else is the same in all runs, except the epochs.")
    compute = said["Compute"]
    assert "In every setting, all arms have the training time of **none**, which is trained for 30 epochs." in compute
    assert "for 30 / c epochs, rounded to a whole number" in compute
    assert "the arms have 99 % to 100 % of the compute of the baseline" in compute  # 29 x 1.02 of 30
    assert "timed in turn on one machine and another machine." in compute
    assert "FLOPs are those of matrix products" in " ".join(method(made("flops")))
    assert "Compute" not in " ".join(method(synthetic_results.make()))


def test_the_table_has_every_arm_and_setting():
    table = compute_table(made().plan)
    header = ["position", "patch", "epochs", "relative cost of an epoch", "95 % interval", "training time (percent)"]
    assert table.header == header
    assert table.rows[1] == ("rope", "2", 25, "1.200", "1.100 to 1.300", "100")
    assert table.rows[2] == ("none", "4", 30, "1.000", "–", "100")
    assert table.rows[3] == ("rope", "4", 29, "1.020", "1.010 to 1.030", "99")
    assert len(compute_table(made("flops").plan).header) == 5


def test_the_limits_say_what_the_epochs_mean():
    results = made()
    limits = dict(threats(results, analyse(results)))["Compute"]
    assert limits == compute_limits(results.plan)
    assert "trained for 25 to 30 epochs, so a difference between two arms combines" in limits
    assert "matched between the arms of a setting, not between settings" in limits
    assert "measured on one machine and another machine; another machine" in limits
    assert "Equal FLOPs are not equal time" in compute_limits(made("flops").plan)
    answers = checklist(results, analyse(results), facts(results, analyse(results)))
    assert "trains all runs again, after another measurement of the times" in answers[0][1]


def test_facts_have_the_epochs_of_no_single_run():
    found = facts(made(), analyse(made()))
    assert "run_epochs" not in found
    assert "run_warmup_epochs" not in found
    assert (found["epochs_fewest"], found["epochs_most"], found["compute_baseline_epochs"]) == (25, 30, 30)
    assert found["run_batch_size"] == 64


def test_a_comparison_along_another_axis_is_not_matched():
    match = made().plan.match
    assert compute_clause(match, "position").endswith("; epochs: 30 for none, 25 to 29 for rope.")
    assert compute_clause(match, "patch") == (
        "Compute (training time) is matched between the levels of position, not between these two arms."
    )
