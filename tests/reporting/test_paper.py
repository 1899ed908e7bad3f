"""The text for a paper: every sentence follows from the runs, is checked like the report, and holds names as text."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from ablations.config import SequentialDesign
from ablations.config.safe_text import one_line
from ablations.reporting.check import differences
from ablations.reporting.formatting import interval_text, points_text
from ablations.reporting.paper import paper
from ablations.reporting.report import compose, write_report
from ablations.statistics import analyse
from ablations.storage import version_conflicts
from tests.golden.make_report import diverging_study, small_study
from tests.reporting.test_hostile_names import ARMS, QUESTION, hostile_study
from tests.support import synthetic_results

PAIR = {"position": ("none", "rope")}


def threats(results) -> dict[str, str]:
    return dict(paper(results, analyse(results)).threats)


def test_the_files_are_written_when_asked_checked_and_removed_with_the_next_report(tmp_path):
    results = small_study()
    folder = write_report(results, tmp_path, for_paper=True)
    assert {path.name for path in folder.iterdir()} == {"README.md", "figures", "tables", "paper.md", "paper.tex"}
    assert differences(results, tmp_path) == []
    for name in ("paper.md", "paper.tex"):
        text = (folder / name).read_text(encoding="utf-8")
        said = re.search(r"rope has the highest mean test accuracy and is better than none by ([\d.]+) points", text)
        (folder / name).write_text(text.replace(said[1], "99.9", 1), encoding="utf-8")
        (line,) = differences(results, tmp_path)
        assert line.startswith(f"{name}, line ")
        assert "99.9" in line
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "paper.tex").unlink()
    assert differences(results, tmp_path) == ["paper.tex: missing"]
    write_report(results, tmp_path)
    assert not (folder / "paper.md").exists()


def test_each_result_is_told_once():
    text = paper(small_study(), analyse(small_study())).results
    assert text.count("better than none by") == 2  # rope in the answer, learned in its contrast
    assert "Deciding" not in text
    assert text.startswith("rope has the highest mean test accuracy and is better than none by 20.2 points")


def test_the_table_has_a_row_for_each_contrast():
    found = paper(diverging_study(), analyse(diverging_study()))
    columns = ["arm", "difference", "over other seeds", "over other seeds and images", "p", "pairs", "diverged"]
    assert found.table.header == [*columns, "verdict"]
    assert [row[0] for row in found.table.rows] == ["learned", "rope"]
    assert [row[-2] for row in found.table.rows] == ["2 of 6", "0 of 6"]
    assert "learned diverged in 2 of 6 runs" in found.results


def test_intervals_over_other_images_are_those_of_the_analysis():
    results = diverging_study()
    analysis = analyse(results)
    found = paper(results, analysis)
    _, rope = analysis.other_images
    assert found.table.rows[1][2:4] == (
        interval_text(rope.seeds_low, rope.seeds_high),
        interval_text(rope.low, rope.high),
    )
    assert found.results.endswith(f" and {interval_text(rope.low, rope.high)} points for rope.")
    assert found.results.count("Over other seeds and other test images") == 1
    text = compose(results).text
    row = next(line for line in text.split("other test images?")[1].splitlines() if line.startswith("| rope | none"))
    seeds, both = interval_text(rope.seeds_low, rope.seeds_high), interval_text(rope.low, rope.high)
    assert row == f"| rope | none | {points_text(rope.mean)} | {seeds} | {both} | {rope.error:.2f} |"
    errors = " and ".join(f"{each.error:.2f} for {each.subject}" for each in analysis.other_images)
    assert threats(results)["Test set"] == (
        f"The test set has 250 images. The choice of these images alone adds a standard error, in points, of {errors}."
    )


def test_threats_follow_from_the_facts_of_the_study():
    plain = threats(synthetic_results.make(PAIR, range(8)))
    assert plain["Seeds"] == "Each setting of an arm has 8 finished seeds."
    assert plain["Datasets"] == "All runs use one dataset (digits); the results may differ on others."
    assert plain["Duplicates"] == "Not checked for test images that also occur in the training set: digits."
    assert plain["Tuning"].startswith("Hyperparameters were not tuned for each arm")
    assert plain["Scale"].startswith("The models have 101,024 parameters and are trained for 30 epochs")
    assert not {"Missing runs", "Divergence", "Early stopping", "Precision", "Machines", "Several families"} & {*plain}
    assert threats(small_study())["Missing runs"].startswith("1 of 24 planned runs have no result")
    assert threats(small_study())["Seeds"].startswith("Each setting of an arm has 3 to 4 finished seeds.")
    assert threats(small_study())["Several families"].endswith(
        "over the 3 families together: the contrasts with the baseline, all pairs of arms and the changes along patch."
    )
    assert "not over the 4 families" in threats(diverging_study())["Several families"]
    assert threats(diverging_study())["Divergence"].startswith("2 runs diverged and count with chance accuracy")
    assert "rare bad runs" in threats(synthetic_results.make(PAIR))["Seeds"]
    assert "does not show the spread" in threats(synthetic_results.make(PAIR, (0,)))["Seeds"]


def test_threats_of_other_data_precision_machines_and_of_a_study_that_grew():
    base = synthetic_results.RunConfig(data="cifar100", precision="bf16")
    results = synthetic_results.make(PAIR, range(10), base=base, design=SequentialDesign(8, 16))
    environments = dict(results.environments)
    environments[results.plan.keys[0]] |= {"cpu": "Another CPU"}
    found = threats(replace(results, environments=environments))
    assert found["Duplicates"].startswith("About 10 % of the test images of CIFAR-100 have near-duplicates")
    assert found["Precision"] == "Matrix products were computed in bf16."
    assert found["Machines"] == "The runs were trained with 2 different processors."
    first_round = synthetic_results.make(PAIR, range(8), base=base, design=SequentialDesign(8, 16))
    assert "Early stopping" not in threats(first_round)
    assert "biased away from zero" in found["Early stopping"]
    rates = synthetic_results.make(
        {"learning_rate": (1e-3, 2e-3)}, base=replace(base, position="rope"), baseline="0.001"
    )
    assert "Tuning" not in threats(rates)


def test_the_checklist_names_code_data_and_machines():
    results = small_study()
    environments = {
        key: environment | {"git": {"commit": "0123456789abcdef", "dirty": True}}
        for key, environment in results.environments.items()
    }
    found = dict(paper(replace(results, environments=environments), analyse(results)).checklist)
    assert found["Open access to data and code"] == (
        "Code: commit 0123456789ab, with uncommitted changes; data: SHA-256 ffffffffffffffff."
    )
    assert found["Experiments compute resources"].startswith("Yes. 23 runs on Example CPU, ")
    assert results.plan.command in found["Experimental result reproducibility"]


def test_answers_and_caption_of_a_single_seed_promise_no_interval():
    results = synthetic_results.make(PAIR, (0,))
    found = paper(results, analyse(results))
    assert "interval" not in found.caption
    assert dict(found.checklist)["Experiment statistical significance"].startswith("No. ")


def test_runs_of_different_code_and_data_are_a_threat():
    results = synthetic_results.make(PAIR, range(8))
    environments = {
        key: environment | {"code": {"training": str(i % 2) * 64}, "data_sha256": str(i % 2) * 64}
        for i, (key, environment) in enumerate(results.environments.items())
    }
    mixed = replace(results, environments=environments)
    assert threats(mixed)["Datasets"] == "The runs use 2 different sets of images (digits)."
    assert (
        threats(mixed)["Mixed runs"] == f"{'; '.join(version_conflicts(mixed))}. This may be the cause of differences."
    )


def test_names_are_text_in_markdown_and_latex(tmp_path):
    results = hostile_study()
    found = paper(results, analyse(results))
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(found.markdown())
    inline = [child for token in tokens for child in token.children or ()]
    assert {token.type for token in inline} <= {
        "text",
        "strong_open",
        "strong_close",
        "em_open",
        "em_close",
        "text_special",
    }
    words = "".join(child.content for child in inline)
    assert one_line(QUESTION) in words
    assert all(one_line(arm) in words for arm in ARMS)
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex")
    (tmp_path / "paper.tex").write_text(found.latex(), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_study_that_compares_nothing_has_methods_and_a_mean(tmp_path: Path):
    results = synthetic_results.make({"position": ("none",)})
    found = paper(results, analyse(results))
    assert found.results.startswith("The mean test accuracy of none is ")
    assert "Arms are compared" not in found.methods
    assert write_report(results, tmp_path, for_paper=True).is_dir()
