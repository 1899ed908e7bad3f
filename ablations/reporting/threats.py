"""Threats to validity and answers for a reproducibility checklist, as far as they follow from the runs of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ablations.config import FIELDS, count
from ablations.config.run_config import OWN_DATA, PICTURE_FIELDS
from ablations.config.safe_text import plain
from ablations.reporting.compute import compute_limits
from ablations.reporting.formatting import listed
from ablations.reporting.tuning.analysis import TuningAnalysis
from ablations.reporting.tuning.sections import edge_note, limits
from ablations.statistics import Analysis
from ablations.storage import version_conflicts

if TYPE_CHECKING:
    from ablations.storage import Results

Items = list[tuple[str, str]]
"""Pairs of a name and a text, without markup."""

FEW_SEEDS = 5
DUPLICATES = {
    "cifar10": "About 3 % of the test images of CIFAR-10 have near-duplicates in its training set (Barz and Denzler "
    "2020).",
    "cifar100": "About 10 % of the test images of CIFAR-100 have near-duplicates in its training set (Barz and Denzler "
    "2020).",
}
LEAKS = ("training, test", "training, validation", "validation, test")
"""Parts that should share no image, as in the records of runs."""
MACHINES = {
    "cpu": "processors",
    "gpus": "GPUs",
    "platform": "operating systems",
    "python": "versions of Python",
    "packages": "sets of package versions",
    "backend": "backends",
}
NOT_TUNED = (
    *("position", "depth", "patch", "data", "labels", "classes", "per_class", "data_fraction", "seed", "precision"),
    *("columns", *PICTURE_FIELDS),
)
"""Fields that say what is compared rather than how it is trained."""


def threats(
    results: Results, analysis: Analysis, evaluated: Sequence[str] = (), tuned: TuningAnalysis | None = None
) -> Items:
    """Return the threats to validity that the facts of a study show.

    `evaluated` are the evaluation protocols of which the text has findings, `tuned` are the trials of a tuned study.
    """
    return [
        *_seeds(analysis),
        *_data(results, analysis),
        *_training(results, analysis),
        *(_tuning(tuned) if tuned else []),
        *_machines(results),
        *_lost(results, analysis),
        *_tests(analysis, evaluated),
    ]


def _seeds(analysis: Analysis) -> Items:
    finished = np.isfinite(analysis.outcomes.values).sum(axis=-1)
    fewest, most = int(finished.min()), int(finished.max())
    text = f"Each setting of an arm has {fewest if fewest < most else count(most, 'finished seed')}"
    text += f" to {count(most, 'finished seed')}." if fewest < most else "."
    if most == 1:
        text += " One seed does not show the spread between seeds."
    elif fewest < FEW_SEEDS:
        text += " So few seeds say little about rare bad runs."
    return [("Seeds", text)]


def _data(results: Results, analysis: Analysis) -> Items:
    data = list(dict.fromkeys(map(str, results.runs["data"])))
    contents = {str(each["data_sha256"]) for each in results.environments.values() if each.get("data_sha256")}
    if len(data) == 1 and len(contents) < 2:
        found = [("Datasets", f"All runs use one dataset ({data[0]}); the results may differ on others.")]
    else:
        number = max(len(data), len(contents))
        found = [("Datasets", f"The runs use {number} different sets of images ({listed(data)}).")]
    if analysis.other_images:
        text = f"The test set has {analysis.other_images[0].images:,} images."
        known = [f"{each.error:.2f} for {each.subject}" for each in analysis.other_images if each.error]
        if known:
            text += f" The choice of these images alone adds a standard error, in points, of {listed(known)}."
        if unknown := [each.subject for each in analysis.other_images if not each.error]:
            text += f" For {listed(unknown)}, the error of the images is too small to be told from that of the seeds."
        found.append(("Test set", text))
    return [*found, ("Duplicates", " ".join(_duplicates(results, data))), *_unreadable(results)]


def _duplicates(results: Results, data: Sequence[str]) -> list[str]:
    """Return how many test images are like training images, as recorded and as published."""
    known, unchecked = [], []
    for name in data:
        records = [record for record, of in zip(_records(results), results.runs["data"], strict=True) if of == name]
        if all("duplicates" in record for record in records):
            text = _recorded(max(records, key=lambda record: sum(record["duplicates"].get(pair, 0) for pair in LEAKS)))
            known.append(f"{name}: {text}" if len(data) > 1 else text)
        elif name not in DUPLICATES:
            unchecked.append(name)
        if name in DUPLICATES:
            known.append(DUPLICATES[name])
    if unchecked:
        known.append(f"Not checked for test images that also occur in the training set: {', '.join(unchecked)}.")
    return known


def _recorded(record: Mapping[str, Any]) -> str:
    """Return how many images are like others, from the record of a run."""
    numbers, sentences = record["duplicates"], []
    for pair in LEAKS:
        earlier, later = pair.split(", ")
        if number := numbers.get(pair):
            same = numbers.get(f"{pair}, same pixels", 0)
            like = "duplicate" if number == same else "possible duplicate"
            verb = f"image is a {like}" if number == 1 else f"images are {like}s"
            sentences.append(f"{number:,} {later} {verb} of {earlier} images, {same:,} with the same pixels.")
    if not sentences:
        sentences.append("No test image was found to be a duplicate of a training image.")
    if number := numbers.get("other label"):
        verb = "is" if number == 1 else "are"
        sentences.append(f"{count(number, 'image')} {verb} like an image of another class.")
    return " ".join(sentences)


def faults_of_data(results: Results) -> Items:
    """Return what is wrong with the data, as recorded by the runs: images that leak into the test, unreadable files."""
    leaking = [record for record in _records(results) if any(record.get("duplicates", {}).get(pair) for pair in LEAKS)]
    data = list(dict.fromkeys(map(str, results.runs["data"])))
    found = [("Duplicates", " ".join(_duplicates(results, data)))] if leaking else []
    return [*found, *_unreadable(results)]


def _unreadable(results: Results) -> Items:
    """Return how many pictures were left out because they could not be read."""
    most = max((record.get("skipped", {}).get("unreadable", 0) for record in _records(results)), default=0)
    were = "was" if most == 1 else "were"
    text = f"{count(most, 'picture')} could not be read and {were} left out."
    return [("Unreadable pictures", text)] if most else []


def _records(results: Results) -> list[Mapping[str, Any]]:
    """Return what each run recorded of its data."""
    return [results.environments.get(key, {}).get("dataset", {}) for key in results.runs["key"]]


def _training(results: Results, analysis: Analysis) -> Items:
    outcomes, runs, found = analysis.outcomes, results.runs, Items()
    varied = {outcomes.axis, *outcomes.cell_axes} & {*FIELDS} - {*NOT_TUNED}
    if analysis.contrasts and not varied and not results.plan.tuning:
        found.append(
            (
                "Tuning",
                "Hyperparameters were not tuned for each arm: all arms share those of the methods section, which may "
                "suit some arms better than others.",
            )
        )
    if limits := compute_limits(results.plan):
        found.append(("Compute", limits))
    sizes = _range(runs["parameters"].min(), runs["parameters"].max())
    epochs = _range(runs["epochs"].min(), runs["epochs"].max()) + (" epochs" if runs["epochs"].max() > 1 else " epoch")
    found.append(
        (
            "Scale",
            f"The models have {sizes} parameters and are trained for {epochs}; larger models or longer training "
            "may behave differently.",
        )
    )
    precisions = sorted(set(map(str, runs["precision"]))) if "precision" in runs else ["float32"]
    if precisions != ["float32"]:
        found.append(("Precision", f"Matrix products were computed in {listed(precisions)}."))
    return found


def _tuning(tuned: TuningAnalysis) -> Items:
    found = [("Tuning", " ".join(map(plain, limits(tuned))))]
    if tuned.on_edge:
        found.append(("Edge of the search space", edge_note(tuned)))
    return found


def _machines(results: Results) -> Items:
    differing = []
    for name, what in MACHINES.items():
        values = {str(environment.get(name)) for environment in results.environments.values()}
        if len(values) > 1:
            differing.append(f"{len(values)} different {what}")
    found = [("Machines", f"The runs were trained with {listed(differing)}.")] if differing else []
    mixed = version_conflicts(results)
    return [*found, ("Mixed runs", f"{'; '.join(mixed)}. This may be the cause of differences.")] if mixed else found


def _lost(results: Results, analysis: Analysis) -> Items:
    found = Items()
    if results.missing:
        found.append(
            (
                "Missing runs",
                f"{len(results.missing)} of {len(results.plan.keys)} planned runs have no result; the analysis assumes "
                "that they are missing at random.",
            )
        )
    if number := sum(each.diverged for each in analysis.divergences):
        verb = "counts" if number == 1 else "count"
        found.append(
            (
                "Divergence",
                f"{count(number, 'run')} diverged and {verb} with chance accuracy; another rule would give other "
                "differences.",
            )
        )
    return found


def _tests(analysis: Analysis, evaluated: Sequence[str]) -> Items:
    found = Items()
    if analysis.growth and max(analysis.growth.seeds) > analysis.growth.design.looks[0]:
        found.append(
            (
                "Early stopping",
                "Seeds were added in rounds after interim analyses. The tests account for this, but estimates of arms "
                "that were decided early are biased away from zero.",
            )
        )
    families = [
        *(["the contrasts with the baseline"] if analysis.contrasts else []),
        *(["all pairs of arms"] if len(analysis.contrasts) > 1 else []),
        *(f"the changes along {axis.replace('_', ' ')}" for axis in analysis.interactions),
        *(["divergence", "the contrasts without diverged runs"] if analysis.divergences and analysis.contrasts else []),
        *(f"the metrics of the protocol {name}" for name in evaluated),
    ]
    if len(families) > 1:
        found.append(
            (
                "Several families",
                f"p is adjusted within each family of comparisons, not over the {len(families)} families together: "
                f"{listed(families)}.",
            )
        )
    return found


def checklist(results: Results, analysis: Analysis, study: dict[str, Any]) -> Items:
    """Return answers to the items of the NeurIPS paper checklist that follow from the runs."""
    environments = list(results.environments.values())
    git = [each["git"] for each in environments if each.get("git")]
    commits = sorted({str(state["commit"])[:12] for state in git})
    digests = sorted({str(each["data_sha256"])[:16] for each in environments if each.get("data_sha256")})
    machines = sorted({str(name) for each in environments for name in (each.get("cpu"), *each.get("gpus", ())) if name})
    code = f"Code: commit {listed(commits)}" if commits else "Code: digests of all sources are recorded with each run"
    changed = ", with uncommitted changes" if any(state.get("dirty") for state in git) else ""
    data = f"; data: SHA-256 {listed(digests)}" if digests else ""
    hardware = f" on {listed(machines)}" if machines else ""
    own = {*results.runs["data"]} & {*OWN_DATA}
    folder = ", with the folder or file of the data as --data-dir" if own else ""
    match = results.plan.match
    again = "trains all runs again"
    if match is not None and match.measure == "seconds":
        again += ", after another measurement of the times that determine their epochs"
    hyperparameters = "the hyperparameters"
    if results.plan.tuning:
        hyperparameters += ", and how the tuned ones were chosen"
    found = [
        (
            "Experimental result reproducibility",
            f"Yes. In an empty folder of runs, the command {results.plan.command}{folder} {again}; each run stores its "
            "configuration, seed, code digest, package versions, predictions and weights, with "
            "checksums.",
        ),
        ("Open access to data and code", f"{code}{changed}{data}."),
        (
            "Experimental setting and details",
            f"Yes. The methods section gives the data, its split and {hyperparameters}. Within a run, the test set is "
            "used at most once, after the last epoch.",
        ),
    ]
    if any(np.isfinite(contrast.low) for contrast in analysis.contrasts):
        found.append(
            (
                "Experiment statistical significance",
                "Yes. Intervals and tests are over seeds, with the methods stated; the number of pairs is given with "
                "each result.",
            )
        )
    else:
        found.append(
            ("Experiment statistical significance", "No. The runs give no interval of a difference between arms.")
        )
    trials = (
        f" The {count(len(results.trials), 'run')} of the trials before took another "
        f"{results.trials['seconds'].sum() / 3600:.2f} hours and {results.trials['flops'].sum() / 1e12:.2f} TFLOPs."
        if results.trials is not None
        else ""
    )
    found.append(
        (
            "Experiments compute resources",
            f"Yes. {count(int(study['runs_finished']), 'run')}{hardware}, {study['run_hours']:.2f} hours of run time "
            f"and {study['training_teraflops']:.2f} TFLOPs of training in total.{trials}",
        )
    )
    return found


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
