"""Reports on tuned studies: choices, edges, figures, what tuning changes, pruning, protocol, limits."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from typer.testing import CliRunner

from ablations.cli import app
from ablations.config import GRIDS, Range, SequentialDesign, TuningDesign
from ablations.config.safe_text import one_line
from ablations.reporting.check import differences
from ablations.reporting.compare import two_studies
from ablations.reporting.figures.palette import POSITION_MARKS
from ablations.reporting.figures.sensitivity import sensitivity_figures
from ablations.reporting.html import page
from ablations.reporting.method import method
from ablations.reporting.paper import paper
from ablations.reporting.report import compose
from ablations.reporting.threats import threats
from ablations.reporting.tuning.analysis import TuningSources, analyse_tuning, edge, tuning_sources
from ablations.reporting.tuning.sections import edge_note, headline, tuning_section
from ablations.reporting.tuning.untuned import find_untuned, is_untuned
from ablations.reporting.tuning.untuned_text import untuned_findings
from ablations.statistics import analyse, arrange, paired_interval
from ablations.storage import Store, load_results
from ablations.tuning import may_be_chance
from tests.reporting.test_hostile_names import INLINE, LEVELS, TAGS, Page, as_github, inline, table_cells, text_of
from tests.support import fake_trainer, synthetic_results, synthetic_tuning

ONE = TuningDesign({"learning_rate": Range(1e-4, 1e-2, log=True)}, trials=12)
PAIR = {"position": ("none", "rope")}


def analysed(results, untuned=None):
    found = analyse_tuning(results, analyse(results), synthetic_tuning.sources(results, untuned))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def results():
    return synthetic_tuning.pruned_study()


@pytest.fixture(scope="module")
def found(results):
    return analysed(results, synthetic_tuning.untuned(results))


@pytest.fixture(scope="module")
def figures(found):
    return {figure.name: figure for figure in sensitivity_figures(found)}


def test_the_choices_are_those_of_the_plan_and_of_the_best_scores(results, found):
    assert [choice.name for choice in found.choices] == [
        f"{position}, patch {patch}" for position in ("none", "learned", "rope") for patch in (2, 4)
    ]
    trials = results.trials[(results.trials["pruned"] == 0)]
    for choice in found.choices:
        rows = trials[(trials["position"] == choice.levels["position"]) & (trials["patch"] == choice.levels["patch"])]
        scores = rows.groupby("trial")["validation_accuracy"].mean().sort_values()
        assert choice.winner.number == scores.index[-1]
        assert choice.score == pytest.approx(100 * scores.iloc[-1])
        assert choice.ahead == pytest.approx(100 * (scores.iloc[-1] - scores.iloc[-2]))
        own = results.runs[
            (results.runs["position"] == choice.levels["position"]) & (results.runs["patch"] == choice.levels["patch"])
        ]
        assert {*own["learning_rate"]} == {choice.values["learning_rate"]}
        assert choice.compared == pytest.approx(100 * own["validation_accuracy"].mean())
    assert found.optimism == pytest.approx(np.mean([choice.score - choice.compared for choice in found.choices]))


def test_the_table_of_choices_and_its_csv(found, tuned):
    text = (tuned / "README.md").read_text(encoding="utf-8")
    first = found.choices[0]
    rate, decay = (f"{first.values[field]:.3g}" for field in ("learning_rate", "weight_decay"))
    assert f"| none | 2 | {rate} | {decay} | {first.score:.1f} | {first.ahead:.1f} | {first.compared:.1f} |" in text
    csv = pd.read_csv(tuned / "tables" / "choices.csv")
    assert list(csv["learning_rate"]) == [choice.values["learning_rate"] for choice in found.choices]
    assert list(csv["pruned"]) == [3] * 6
    assert list(csv["diverged"]) == [0, 0, 1, 1, 0, 0]
    trials = pd.read_csv(tuned / "tables" / "trials.csv", converters={"validation_accuracy": float})
    assert list(trials["validation_accuracy"]) == list(found.runs["validation_accuracy"])  # with all digits
    runs = pd.read_csv(tuned / "tables" / "runs.csv")
    assert {"learning_rate", "weight_decay"} <= {*runs}


@pytest.mark.parametrize(
    ("field", "space", "value", "tried", "end"),
    [
        ("learning_rate", Range(1e-4, 1e-2, True), 1.2e-4, [1e-4, 1e-2], "low"),  # 4 % of the width in the logarithm
        ("learning_rate", Range(1e-4, 1e-2, True), 1.4e-4, [1e-4, 1e-2], ""),  # 7 %
        ("learning_rate", Range(1e-4, 1e-2, False), 5e-4, [1e-4, 1e-2], "low"),  # 4 %, without logarithm
        ("learning_rate", Range(1e-4, 1e-2, True), 8.2e-3, [1e-4, 1e-2], "high"),
        ("learning_rate", Range(1e-4, 1e-2, True), 4e-3, [3e-4, 1e-3, 4e-3], "high"),  # nothing was tried beyond
        ("learning_rate", Range(1e-4, 1e-2, True), 1e-3, [3e-4, 1e-3, 4e-3], ""),
        ("weight_decay", Range(0.0, 0.3), 0.0, [0.0, 0.1], ""),  # nothing is below 0
        ("weight_decay", Range(0.0, 0.3), 0.3, [0.0, 0.3], "high"),
        ("weight_decay", (0.0, 0.05, 0.3), 0.0, [0.0, 0.3], ""),
        ("weight_decay", (0.01, 0.05, 0.3), 0.01, [0.01, 0.3], "low"),
        ("weight_decay", (0.3, 0.05, 0.01), 0.3, [0.01, 0.3], "high"),
        ("weight_decay", (0.01, 0.05, 0.3), 0.05, [0.05], ""),
        ("weight_decay", (0.01, 0.3), 0.3, [0.01, 0.3], ""),  # each of two values is at an end
        ("batch_size", Range(16, 256), 250, [16, 250, 256], "high"),
        ("crop_padding", Range(0, 4), 0, [0, 4], ""),
        ("flip", (False, True), True, [False, True], ""),
        ("erase", Range(0.0, 1.0), 1.0, [0.5, 1.0], ""),  # a probability ends at 1
    ],
)
def test_where_the_edge_is(field, space, value, tried, end):
    assert edge(field, space, value, tried) == end


def test_a_choice_at_the_edge_is_a_warning(results, found, tuned):
    assert [(choice.name, dict(choice.edges)) for choice in found.on_edge] == [
        ("learned, patch 2", {"learning_rate": "low"}),
        ("learned, patch 4", {"learning_rate": "low"}),
    ]
    assert edge_note(found) == (
        "2 of 6 choices are at the edge of the space. Learning rate, low end (0.0009 to 0.01, logarithmic): learned, "
        "patch 2; learned, patch 4. Better values may lie beyond, where the field has an effect: a wider space would "
        "show it."
    )
    text = (tuned / "README.md").read_text(encoding="utf-8")
    assert f"> **Edge of the search space.** {edge_note(found)}" in text
    assert re.search(r"\| learned \| 2 \| [\d.]+ \(edge\) \|", text)
    assert "2 of 6 choices are at the edge of the space." in text.split("## Details")[0]
    assert dict(threats(results, analyse(results), (), found))["Edge of the search space"] == edge_note(found)


def test_leads_of_few_validation_images_may_be_chance(results):
    """Of 47 training images 7 are for validation; a trial has 2 runs, so that one image is 100 / 14 points."""
    recorded = {key: each | {"dataset": {"train_images": 47}} for key, each in results.environments.items()}
    few = replace(results, environments=recorded)
    found = analysed(few)
    assert [choice.image for choice in found.choices] == pytest.approx([100 / 14] * 6)
    section = tuning_section(few, found, [])
    shown = f"{found.choices[0].ahead:.1f} ({round(found.choices[0].ahead / (100 / 14))} images)"
    assert shown in section.choices.rows[0]
    assert (
        "in points; one validation image in one of the 2 runs of a trial is 7.1 points, and fewer than 6 images can be "
        "chance even if both trials are right about the same images otherwise. *Comparison*"
    ) in section.legend
    assert any(
        limit.startswith("6 of 6 choices are ahead of the next trial by fewer than 6") for limit in section.limits
    )
    many = {key: each | {"dataset": {"train_images": 10**7}} for key, each in results.environments.items()}
    assert not any(choice.may_be_chance for choice in analysed(replace(results, environments=many)).choices)


@pytest.mark.parametrize(
    ("lead", "image", "chance"), [(0.36, 1 / 14, True), (6 / 14, 1 / 14, False), (0.1, np.nan, False)]
)
def test_six_images_are_not_chance(lead, image, chance):
    assert may_be_chance(lead, image) == chance


def test_each_end_of_the_space_has_a_sentence(found):
    first, *rest = found.choices
    both = replace(found, choices=[replace(first, edges={"learning_rate": "low", "weight_decay": "high"}), *rest])
    assert "Weight decay, high end (0, 0.05 or 0.3): none, patch 2. " in edge_note(both)


def lines_of(ax, marker):
    return [line for line in ax.lines if line.get_marker() == marker]


def test_every_trial_is_a_dot(found, figures):
    figure = figures["sensitivity_learning_rate"]
    assert [ax.get_title(loc="left") for ax in figure.figure.axes[:3]] == ["none", "learned", "rope"]
    assert [ax.get_ylabel() for ax in figure.figure.axes[::3]] == ["patch 2", "patch 4"]
    shown = {
        choice.name: ax
        for choice, ax in zip(found.choices, np.array(figure.figure.axes).reshape(2, 3).T.flat, strict=True)
    }
    spans = set()
    for choice in found.choices:
        ax = shown[choice.name]
        assert ax.get_xscale() == "log"
        bottom, top = ax.get_ylim()
        spans.add(round(top - bottom, 6))
        dots = [line for line in lines_of(ax, "o") if line.get_markersize() < 10]
        below = lines_of(ax, "v")
        crosses = sum(len(each.get_offsets()) for each in ax.collections)
        assert len(dots) + len(below) + crosses == 12
        drawn = {(float(line.get_xdata()[0]), round(float(line.get_ydata()[0]), 6)) for line in dots}
        expected = {
            (trial.values["learning_rate"], round(100 * trial.score, 6))
            for trial in choice.trials
            if trial.score * 100 > choice.score - figure.facts["sensitivity_span"] * 0.9
        }
        assert expected <= drawn
        (ring,) = [line for line in lines_of(ax, "o") if line.get_markersize() == 10]
        assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (choice.values["learning_rate"], choice.score)
    assert len(spans) == 1  # so that slopes can be compared


def test_pruned_and_diverged_trials_look_different(found, figures):
    figure = figures["sensitivity_learning_rate"]
    none, learned = figure.figure.axes[:2]
    hollow = [line for line in (*lines_of(none, "o"), *lines_of(none, "v")) if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 3
    assert {to_hex(line.get_markeredgecolor()) for line in hollow} == {POSITION_MARKS["none"].colour.lower()}
    assert sum(len(each.get_offsets()) for each in learned.collections) == 1
    assert not none.collections
    for word in ("Hollow", "Cross", "Circled", "triangles"):
        assert word in figure.caption
    whole = synthetic_tuning.make(PAIR, (0, 1), ONE)
    (plain,) = sensitivity_figures(analysed(whole))
    assert "Hollow" not in plain.caption
    assert "Cross" not in plain.caption
    assert plain.alt.endswith("one panel for each of none and rope; chosen: none 0.00261; rope 0.00178.")


def test_values_of_a_list_are_in_order_and_apart(found, figures):
    figure = figures["sensitivity_weight_decay"]
    ax = figure.figure.axes[3]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.05", "0.3"]
    places = [
        float(line.get_xdata()[0]) for line in (*lines_of(ax, "o"), *lines_of(ax, "v")) if line.get_markersize() < 10
    ]
    assert len({*places}) == len(places) == 12
    assert all(abs(place - round(place)) < 0.3 for place in places)
    assert "side by side" in figure.caption


@pytest.mark.parametrize(
    ("axes", "design", "expected"),
    [
        ({"position": GRIDS["encodings"].levels}, ONE, [("sensitivity_learning_rate", 15, (4, 4))]),
        (
            {**PAIR, "depth": (1, 2, 3, 4, 5)},
            ONE,
            [("sensitivity_learning_rate_1", 8, (4, 2)), ("sensitivity_learning_rate_2", 2, (1, 2))],
        ),
        (
            {"depth": (1, 2, 3, 4, 5), "patch": (2, 4)},
            ONE,
            [("sensitivity_learning_rate_1", 5, (2, 4)), ("sensitivity_learning_rate_2", 5, (2, 4))],
        ),
        ({**PAIR, "patch": (2, 4)}, replace(ONE, per="arm"), [("sensitivity_learning_rate", 2, (1, 2))]),
        (
            PAIR,
            replace(ONE, space={**ONE.space, "flip": (False, True), "warmup_epochs": Range(0.0, 6.0)}),
            [(f"sensitivity_{field}", 2, (1, 2)) for field in ("learning_rate", "flip", "warmup_epochs")],
        ),
    ],
)
def test_panels_of_many_arms_fields_and_settings(axes, design, expected):
    drawn = sensitivity_figures(analysed(synthetic_tuning.make(axes, (0,), design)))
    found = []
    for figure in drawn:
        visible = [ax for ax in figure.figure.axes if ax.get_visible()]
        grid = visible[0].get_subplotspec().get_gridspec()
        found.append((figure.name, len(visible), (grid.nrows, grid.ncols)))
        assert len(figure.alt) < 1500
    assert found == expected


def test_what_tuning_changes_is_the_difference_of_the_two_leads(results):
    untuned = synthetic_tuning.untuned(
        results, range(4), missing=lambda c: (c.position, c.patch, c.seed) == ("rope", 2, 1)
    )
    compared = analysed(results, untuned).untuned
    both = [arrange(each) for each in (untuned, results)]
    leads = [values.values[:, :, :4] - values.values[values.baseline, :, :4] for values in both]
    assert [each.arm for each in compared.arms] == ["none", "learned", "rope"]
    change = compared.arms[2].change
    rope = leads[1][2] - leads[0][2]
    assert np.isnan(rope).sum() == 1
    assert change.change.n == 7
    assert change.change.mean == pytest.approx(np.mean([row[np.isfinite(row)].mean() for row in rope]))
    assert (change.change.low, change.change.high) == pytest.approx(paired_interval(rope))
    complete = np.isfinite(rope)
    tuned_lead = np.mean([row[known].mean() for row, known in zip(leads[1][2], complete, strict=True)])
    assert change.lead == pytest.approx(tuned_lead)
    gain = both[1].values[1, :, :4] - both[0].values[1, :, :4]
    assert compared.arms[1].gain.mean == pytest.approx(gain.mean())
    assert (compared.arms[1].gain.low, compared.arms[1].gain.high) == pytest.approx(paired_interval(gain))
    assert compared.seeds == (4, 6)
    assert compared.values == {"learning_rate": 2e-3, "weight_decay": 0.05}
    assert "tuned by 12 trials against 0.002" in " against ".join(two_studies(results, untuned)[1]["learning_rate"])
    (text,) = [tuning_section(results, analysed(results, untuned), []).untuned]
    assert "There are 7 to 8 such pairs for each arm." in text
    assert "with 4 seeds at shared values and 6 tuned; they may also differ for this reason." in text


def equal_at_their_best(config) -> float:
    """Arms with the same accuracy at their best learning rates; at 2e-3 `rope` is ahead."""
    away = np.log10(config.learning_rate / {"none": 5e-4, "rope": 2e-3}[config.position])
    own = np.random.default_rng([config.seed, len(config.position), int(1e6 * config.learning_rate)]).normal()
    return round(397 * (0.9 - 0.05 * away**2 + 0.001 * own)) / 397


def test_a_verdict_that_rests_on_the_shared_values_is_named(monkeypatch):
    monkeypatch.setattr("ablations.statistics.contrasts.seeds_needed", lambda *differences, **options: None)  # is slow
    results = synthetic_tuning.make(PAIR, range(8), ONE, measure=equal_at_their_best)
    found = analysed(results, synthetic_tuning.untuned(results, measure=equal_at_their_best))
    compared = found.untuned
    (changed,) = compared.changed
    assert (changed.arm, str(changed.shared_verdict), str(changed.tuned_verdict)) == ("rope", "better", "equivalent")
    verdicts, gain, change = untuned_findings(compared)
    assert verdicts == (
        "1 of 1 verdict differs from that at shared values (study `rope`): **rope** is equivalent, "
        "at shared values better."
    )
    assert gain.startswith(
        "Tuning changes the mean test accuracy of the baseline **none** by +1.8 points (95 % interval "
    )
    assert change.startswith("Tuning changes the difference between **rope** and **none**, from +1.8 to ")
    assert "joint p = 0.008." in change
    assert verdicts in headline(results.plan, found)
    said = paper(results, analyse(results), None, found).results
    none, rope = (f"{choice.values['learning_rate']:.3g}" for choice in found.choices)
    assert f"The chosen values are, for none: learning rate {none}; rope: learning rate {rope}. 1 of 1 verdict" in said


def test_studies_that_grew_have_no_test_of_the_change(results):
    untuned = synthetic_tuning.untuned(results, range(4))
    grown = replace(untuned, plan=replace(untuned.plan, design=SequentialDesign(4, 8)))
    found = analysed(results, grown)
    section = tuning_section(results, found, [])
    assert "joint p" not in section.untuned_table.header
    assert "no test of the change" in section.untuned_legend
    assert not any("interval" in line or "shown" in line for line in section.untuned_findings)


def test_runs_of_other_code_are_not_compared(results):
    untuned = synthetic_tuning.untuned(results)
    environments = {key: each | {"data_sha256": "0" * 64} for key, each in untuned.environments.items()}
    found = analysed(results, replace(untuned, environments=environments))
    section = tuning_section(results, found, [])
    assert "cannot be compared with those of this study: the runs come from 2 versions of the data" in section.untuned
    assert section.untuned_table is None
    assert "shared" not in headline(results.plan, found)


def test_without_an_untuned_study_it_says_how_to_get_one(results):
    found = analysed(results)
    section = tuning_section(results, found, [])
    assert section.untuned.startswith("No study in this folder of runs makes the same comparison at shared values")
    assert section.untuned_table is None
    assert section.untuned_findings == []


def test_which_study_is_the_same_comparison(results):
    plan = results.plan

    def other(**changes):
        return synthetic_tuning.untuned(results, **changes).plan

    assert is_untuned(plan, other())
    assert is_untuned(plan, other(base=synthetic_results.RunConfig(learning_rate=1e-3, weight_decay=0.3)))
    assert is_untuned(plan, replace(other(), axes={"patch": (4, 2), "position": ("rope", "none", "learned")}))
    assert not is_untuned(plan, plan)
    assert not is_untuned(plan, other(base=synthetic_results.RunConfig(epochs=31)))
    assert not is_untuned(plan, other(seeds=(100, 101)))
    assert not is_untuned(plan, other(baseline="rope"))
    smaller = synthetic_results.make({"position": ("none", "rope"), "patch": (2, 4)}).plan
    assert not is_untuned(plan, smaller)
    rates = synthetic_results.make({**plan.axes, "learning_rate": (1e-3, 2e-3)}).plan
    assert not is_untuned(plan, rates)


def test_the_share_that_pruning_saved(found, tuned):
    # 3 of 12 trials end after 12 of 30 epochs: 3 / 12 * 18 / 30
    assert found.saved == pytest.approx(0.15)
    assert len(found.pruned) == 36
    assert found.possible_winners == []
    text = (tuned / "README.md").read_text(encoding="utf-8")
    assert (
        "36 of 144 runs were pruned, in 18 of 72 trials, which saved 15 % of the training FLOPs of the search. Pruning "
        "can hardly have changed a choice" in text
    )


def test_a_pruned_trial_that_others_overtook_from_could_have_won(results):
    epochs = results.trial_epochs.copy()
    best = {choice.winner.runs for choice in analysed(results).choices}
    chosen = epochs["key"].isin([key for runs in best for key in runs])
    epochs.loc[chosen & (epochs["epoch"] == 12), "validation_accuracy"] = 0.2  # the winners were late
    found = analysed(replace(results, trial_epochs=epochs))
    assert len(found.possible_winners) == 18
    said = tuning_section(results, found, []).pruning
    assert (
        "Pruning may have changed a choice: 18 pruned trials would have won if they had ended as the best run" in said
    )


def test_the_method_spells_the_protocol_out(results):
    said = {sentence.split(".**")[0].lstrip("*"): sentence for sentence in method(results)}
    assert said["Tuning"] == (
        "**Tuning.** Before the comparison, learning rate (0.0009 to 0.01, logarithmic) and weight decay (0, 0.05 or "
        "0.3) were chosen for each position at each setting, by 12 trials each. The values are the points of a "
        "scrambled Sobol sequence (quasi-random), which are the same for all. A trial is scored by the validation "
        "accuracy after the last epoch, its mean over 2 seeds; a trial that diverges scores chance. The trial with the "
        "highest score is chosen, of equal ones the earlier. The seeds of the trials, 4294967295 and 4294967294, are "
        "not used in the comparison. Trials were pruned by the median rule, in rounds of 4, 4 and 4 trials: at the "
        "earliest after epoch 12, a run ends if the best validation accuracy that it has had is below the median of "
        "the runs of earlier rounds (of the same arm, setting and seed) after that epoch; a pruned trial is never "
        "chosen. The test set was not used for the trials. Only when all trials had finished were the values fixed "
        f"and the runs of the comparison trained. The trials took {100 * analysed(results).share_of_flops:.0f} % of "
        "all training FLOPs."
    )
    assert "learning rate (tuned) after 3 epochs" in said["Training"]
    assert "weight decay (tuned)" in said["Training"]
    assert "The learning rate and weight decay of an arm are tuned. Everything else is the same" in said["What varies"]
    assert "differ only in position and the tuned fields share all of these; such runs" in said["Seeds"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"sampler": "tpe", "trials": 12},
            "those of the other 8, in 2 rounds, are suggested by a tree-structured",
        ),
        ({"per": "arm"}, "Before the comparison, learning rate (0.0001 to 0.01, logarithmic) was chosen for each"),
        ({"per": "arm"}, "chosen for each position, alike at all settings, by 12 trials each"),
        ({"per": "arm"}, "after the last epoch, its mean over the 2 settings; a trial"),
        ({"seeds": 3, "per": "arm"}, "its mean over 3 seeds and the 2 settings; a trial"),
        ({"space": {"learning_rate": (1e-3, 2e-3, 4e-3)}, "trials": 3}, "3 trials each. All values are tried. A trial"),
        (
            {"space": {"learning_rate": (1e-3, 2e-3), "flip": (False, True)}, "trials": 4},
            "by 4 trials each. All combinations of values are tried. A trial is scored",
        ),
        ({}, "The seed of the trials, 4294967295, is not used in the comparison. The test set was not used"),
    ],
)
def test_other_protocols_are_told(changes, words):
    results = synthetic_tuning.make({**PAIR, "patch": (2, 4)}, (0, 1), replace(ONE, **changes))
    assert words in method(results)[-1]


def test_tuned_augmentation_has_no_value_of_one_run():
    space = {"flip": (False, True), "mixup": Range(0.0, 0.4), "init_std": Range(0.01, 0.1), "dropout": (0.0, 0.1, 0.2)}
    results = synthetic_tuning.make(PAIR, (0, 1), TuningDesign(space, trials=4))
    said = {sentence.split(".**")[0].lstrip("*"): sentence for sentence in method(results)}
    assert said["Augmentation"] == "**Augmentation.** Horizontal flips (tuned), MixUp with alpha (tuned)."
    assert "initial weights with a standard deviation (tuned)" in said["Model"]
    assert "dropout (tuned)" in said["Training"]
    assert "share all of these, as far as the tuned fields allow;" in said["Seeds"]


def test_facts_and_threats_do_not_call_tuned_fields_shared(results, found, tuned):
    study = dict(pd.read_csv(tuned / "tables" / "study.csv", dtype=str).to_numpy())
    assert "run_learning_rate" not in study
    assert study["run_epochs"] == "30"
    assert float(study["tuning_share_of_flops"]) == pytest.approx(found.share_of_flops, rel=1e-4)
    named = dict(threats(results, analyse(results), (), found))
    assert "conditional on the chosen values" in named["Tuning"]
    assert "were not tuned" not in named["Tuning"]
    text = paper(results, analyse(results), None, found).markdown()
    assert "Before the comparison, learning rate (0.0009 to 0.01, logarithmic)" in text
    assert f"The {len(results.trials)} runs of the trials before took another " in text
    chosen = r"The chosen values are learning rate 0.00\d+ to 0.00\d+ and weight decay .* \(tables/choices.tex\)"
    assert re.search(chosen, text)


def test_the_report_is_checked_with_its_trials(results, tuned):
    out, untuned = tuned.parent, synthetic_tuning.untuned(results, range(5))
    assert [
        line
        for line in differences(results, out, tuning=synthetic_tuning.sources(results, untuned))
        if not line.startswith("figures/")
    ] == []
    pages = (tuned / "README.md").read_text(encoding="utf-8")
    assert {*re.findall(r"\]\((tables/\w+\.\w+)\)", pages)} >= {
        f"tables/{name}" for name in ("choices.csv", "choices.tex", "trials.csv", "untuned.csv", "untuned.tex")
    }


def test_a_comparison_that_is_part_finished():
    results = synthetic_tuning.make(PAIR, (0, 1, 2), ONE, missing=lambda c: c.position == "rope")
    report = compose(results)
    assert "3 of 6 runs finished" in report.text
    assert re.search(r"\| rope \| 0.00178 \| [\d.]+ \| [\d.]+ \| – \|", report.text)  # chosen, not yet compared
    assert "of all training FLOPs so far." in report.text
    assert "Mixed trials" not in report.text
    mixed = compose(results, tuning=TuningSources(conflicts=["the runs come from 2 versions of the data: a, b"])).text
    assert "> **Mixed trials.** Of the trials and the comparison together, the runs come from 2 versions" in mixed
    untuned = tuning_section(results, analysed(results, synthetic_tuning.untuned(results)), [])
    assert [row[-1] for row in untuned.untuned_table.rows] == ["–", "no pairs"]
    assert "There are 0 to 3 such pairs for each arm." in untuned.untuned
    assert "Not all runs have finished" in untuned.untuned


def test_trials_that_do_not_give_the_choice_are_named(results):
    gone = {key for choice in analysed(results).choices[:1] for key in choice.winner.runs}
    lost = replace(results, trials=results.trials[~results.trials["key"].isin(gone)])
    found = analysed(lost)
    assert [choice.name for choice in found.disagreeing] == ["none, patch 2"]
    said = tuning_section(lost, found, []).disagreement
    assert said.startswith("The trials that are stored do not give the values of the comparison for none, patch 2:")
    assert "142 of 144 runs in all" in tuning_section(lost, found, []).introduction
    assert len(sensitivity_figures(found)) == 2
    none = analysed(replace(results, trials=results.trials[:0]))
    assert len(none.disagreeing) == 6
    assert len(sensitivity_figures(none)) == 2


def test_hostile_names_are_text(monkeypatch):
    monkeypatch.setattr("ablations.statistics.contrasts.seeds_needed", lambda *differences, **options: None)  # is slow

    def measure(config) -> float:
        return 0.5 + 0.02 * (LEVELS.index(config.classes) % 5) - 0.1 * abs(np.log10(config.learning_rate / 1e-4))

    design = replace(ONE, trials=4, prune="median")
    results = synthetic_tuning.make(
        {"classes": LEVELS}, (0, 1), design, measure=measure, pruned=lambda config, number: 15 if number == 3 else 0
    )
    report = compose(
        results, tuning=synthetic_tuning.sources(results, synthetic_tuning.untuned(results, measure=measure))
    )
    tokens = as_github(report.text.split("\n## Tuning\n")[1].split("\n## Figures\n")[0])
    assert {token.type for token in inline(tokens)} <= INLINE
    assert {tag for tag, _ in Page(page(report.text, {})).elements} <= TAGS
    names = [one_line("+".join(level)) for level in LEVELS]
    assert [row[0] for row in table_cells(tokens, "classes")[1:]] == names
    warning = next(text for text in map(text_of, tokens) if text.startswith("Edge of the search space."))
    assert all(f"classes {name}" in warning for name in names)


def test_a_stored_study_is_found_beside_the_tuned_one(tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    monkeypatch.setattr("ablations.training.trainer.train_trial", fake_trainer.train_trial)
    run = ["run", "--grid", "smoke", "--set", "per_class=5", "--epochs", "4", "--workers", "1"]
    tune = ["--tune", "learning_rate=1e-4:1e-2:log", "--trials", "8", "--prune", "--study", "tuned"]
    for arguments in ([*run, "--study", "plain"], [*run, *tune]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    store = Store(Path("runs"))
    results = load_results(store, "tuned")
    sources = tuning_sources(store, results)
    assert sources.untuned is not None
    assert sources.untuned.plan.study == "plain"
    assert sources.conflicts == []
    assert {*sources.curves} == {run.key for run in results.plan.trials}
    assert {len(curve) for curve in sources.curves.values()} == {*results.trials["trained_epochs"]}
    section = tuning_section(results, analyse_tuning(results, analyse(results), sources), [])
    assert section.untuned.startswith("Study `plain` makes the same comparison at shared values: learning rate 0.002.")
    assert "of 16 runs were pruned" in section.pruning
    assert tuning_sources(store, load_results(store, "plain")) == TuningSources()
    (tmp_path / "runs" / "studies" / "plain.json").write_text("damaged")
    assert find_untuned(store, results) is None
    environments = {key: each | {"data_sha256": "0" * 64} for key, each in results.environments.items()}
    (conflict,) = tuning_sources(store, replace(results, environments=environments)).conflicts
    assert conflict.startswith("the runs come from 2 versions of the data: ")


def test_a_report_on_one_arm_alone():
    results = synthetic_tuning.make({"position": ("rope",)}, (0, 1), ONE)
    found = analysed(results, synthetic_tuning.untuned(results))
    section = tuning_section(results, found, [])
    (line,) = section.untuned_findings
    assert line.startswith("Tuning changes the mean test accuracy of the baseline **rope** by ")
    assert section.untuned_table is None
    assert "verdict" not in headline(results.plan, found)
