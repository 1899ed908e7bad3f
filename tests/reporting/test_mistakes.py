"""The gallery of a report: the test images that the runs of each arm are most confidently wrong about."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablations.config.safe_text import shortened
from ablations.data.preprocessing import Preprocessing
from ablations.models.gallery import STORED, stored_mistakes
from ablations.reporting.check import differences
from ablations.reporting.figures.mistakes import arms_figure
from ablations.reporting.mistakes import find_mistakes
from ablations.reporting.report import compose, write_report
from ablations.statistics import analyse
from tests.reporting.test_report_numbers import unfounded
from tests.support import synthetic_results

IMAGES = 60
PIXELS = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8, 1)).astype(np.uint8)
NAMES = ("_zero", *(f"digit {i} of a *long* name" for i in range(1, 10)))


class Predicted(synthetic_results.FakeResults):
    """Results whose runs have random predictions, and images of their mistakes except those in `old`."""

    old: frozenset[str] = frozenset()

    def predictions(self, key: str) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(int(key[:8], 16))
        probabilities = rng.dirichlet(np.full(10, 0.2), IMAGES).astype(np.float32).round(2)  # with equal ones
        labels = np.arange(IMAGES) % 10
        if self.runs.set_index("key").loc[key, "position"] == "sinusoidal":
            probabilities = np.eye(10, dtype=np.float32)[labels]  # never wrong
        return {"labels": labels, "predicted": probabilities.argmax(axis=1), "probabilities": probabilities}

    def mistakes(self, key: str) -> dict[str, np.ndarray] | None:
        return None if key in self.old else stored_mistakes(self.predictions(key), PIXELS)

    def preprocessing(self, key: str) -> Preprocessing:
        return Preprocessing(8, 1, (0.5,), (0.5,), NAMES)


@pytest.fixture(autouse=True)
def no_other_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.reporting.report.report_figures", lambda results, analysis: [])


def make(**options: object) -> Predicted:
    axes = {"position": ("none", "learned", "sinusoidal", "rope"), "depth": (2, 4)}
    results = synthetic_results.make(**{"axes": axes, "seeds": (0, 1)} | options)
    return Predicted(**{**vars(results), "images": IMAGES})


def expected(results: Predicted, arm: str, count: int) -> list[tuple[int, int, float, int]]:
    """Image, predicted class, probability and number of wrong runs, by looking at every run and image."""
    runs = results.runs[(results.runs["position"] == arm) & (results.runs["diverged"] == 0)]
    best: dict[int, tuple[float, int]] = {}
    wrong: dict[int, int] = {}
    for key in runs.sort_values(["depth", "seed"])["key"]:
        found = results.predictions(key)
        for i in np.flatnonzero(found["labels"] != found["predicted"]):
            probability = float(found["probabilities"][i].max())
            wrong[int(i)] = wrong.get(int(i), 0) + 1
            if probability > best.get(int(i), (-1.0, 0))[0]:
                best[int(i)] = probability, int(found["predicted"][i])
    order = sorted(best, key=lambda i: -best[i][0])[:count]
    return [(i, best[i][1], best[i][0], wrong[i]) for i in order]


def test_the_most_confident_mistakes_of_all_runs_of_an_arm() -> None:
    results = make(survives=lambda c: (c.position, c.depth, c.seed) != ("rope", 2, 1))
    found = find_mistakes(results, analyse(results).outcomes)
    assert found is not None
    assert [(arm.arm, arm.runs) for arm in found.arms] == [("none", 4), ("learned", 4), ("sinusoidal", 4), ("rope", 3)]
    for arm in found.arms:
        wanted = expected(results, arm.arm, 6)
        shown = [(one.mistake.predicted_probability, one.wrong) for one in arm.shown]
        assert [p for p, _ in shown] == [p for _, _, p, _ in wanted]
        by_image = {i: (k, p, n) for i, k, p, n in expected(results, arm.arm, IMAGES)}
        for one in arm.shown:
            m = one.mistake
            assert (m.predicted, m.predicted_probability, one.wrong) == by_image[m.image]
            assert m.label == m.image % 10
            assert np.array_equal(one.pixels, PIXELS[m.image])
        assert len({one.mistake.image for one in arm.shown}) == len(arm.shown) == len(wanted)
    assert found.arms[2].shown == []


def test_a_run_stores_its_most_confident_mistakes() -> None:
    results = make()
    predictions = results.predictions(results.plan.keys[0])
    stored = stored_mistakes(predictions, PIXELS)
    confidence = predictions["probabilities"].max(axis=1)
    wrong = np.flatnonzero(predictions["predicted"] != predictions["labels"])
    assert stored["image"].tolist() == sorted(wrong, key=lambda i: (-confidence[i], i))[:STORED]
    assert np.array_equal(stored["pixels"], PIXELS[stored["image"]])
    none = stored_mistakes(predictions | {"labels": predictions["predicted"]}, PIXELS)
    assert none["pixels"].shape == (0, 8, 8, 1)


def test_the_section_of_the_report(tmp_path: Path) -> None:
    results = make(axes={"position": ("none", "sinusoidal")})
    folder = write_report(results, tmp_path)
    text = (folder / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## Most confident mistakes\n(.*?)^## ", text, re.M | re.S)
    assert "of each position are most confidently wrong about, over all seeds, each image once:" in section
    image, predicted, probability, _ = expected(results, "none", 1)[0]
    alt = f"none: digit {image % 10} of a \\*long\\* name taken for digit {predicted} of a \\*long\\* name"
    assert f"{alt} ({100 * probability:.1f} %)" in section
    assert "sinusoidal: none" in section
    assert [one for one in unfounded(text, folder) if one.startswith("Most confident mistakes")] == []
    table = pd.read_csv(folder / "tables" / "mistakes.csv")
    rows = table[table["arm"] == "none"]
    assert rows[["probability", "runs_wrong"]].to_numpy().tolist() == [
        [pytest.approx(p), n] for _, _, p, n in expected(results, "none", 6)
    ]
    assert rows["label"].tolist() == [NAMES[i % 10] for i in rows["image"]]
    assert {path.name for path in (folder / "figures").glob("mistakes.*")} == {"mistakes.png", "mistakes.svg"}
    assert differences(results, tmp_path) == []


def test_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    results = make()
    found = find_mistakes(results, analyse(results).outcomes)
    assert found is not None
    figure = arms_figure(found).figure
    texts = [text.get_text() for text in figure.texts]
    assert texts[:4] == ["probability, runs that are wrong", "right class", "predicted class", "none"]
    first = found.arms[0].shown[0]
    assert np.array_equal(figure.axes[0].images[0].get_array(), first.pixels.repeat(3, axis=-1))
    assert texts[4:7] == [
        shortened(NAMES[first.mistake.predicted], 15),
        shortened(NAMES[first.mistake.label], 15),
        f"{100 * first.mistake.predicted_probability:.1f} %, {first.wrong} of 4",
    ]
    assert len(figure.axes) == 18
    assert texts.count("no mistake") == 1


def test_many_arms_have_half_as_many_images_each() -> None:
    positions = ("none", "learned", "learned-axial", "rope", "rope-mixed", "alibi-2d", "cpe")
    results = make(axes={"position": positions}, seeds=(0,))
    found = find_mistakes(results, analyse(results).outcomes)
    assert found is not None
    assert [len(arm.shown) for arm in found.arms] == [3] * 7
    figure = arms_figure(found).figure
    assert len({round(ax.get_position().y0, 6) for ax in figure.axes}) == 4  # two arms in a row


def test_no_figure_without_the_images_of_every_run() -> None:
    results = make(axes={"position": ("none", "rope")})
    Old = type("Old", (Predicted,), {"old": frozenset(results.plan.keys[3:])})
    old = Old(**vars(results))
    other = Predicted(**vars(results) | {"environments": {results.plan.keys[0]: {"data_sha256": "1"}}})
    for without in (old, other):
        report = compose(without)
        assert "onfident" not in report.text
        assert "mistakes.csv" not in report.tables
        assert "mistakes" not in [figure.name for figure in report.figures]


def test_no_figure_without_a_mistake() -> None:
    right = make(axes={"position": ("sinusoidal",)}, baseline="sinusoidal")
    assert find_mistakes(right, analyse(right).outcomes) is None
