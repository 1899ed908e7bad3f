"""Remake statistics.json: cases and what SciPy, statsmodels and rliable make of them.

    pip install rliable --no-deps && python tests/golden/make_statistics.py

Arrays of accuracies are (G cells, S seeds).
"""

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rliable import metrics
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

rng = np.random.default_rng(2026)
FAMILY = [0.004, 0.03, 0.012, 0.6, 0.05]
TABLE = [[310, 25], [11, 54]]


def studentised(differences: np.ndarray, axis: int = -1, *, cells: int) -> np.ndarray:
    """The mean over its standard error from the spread of seeds within cells; blocks (..., cells x seeds)."""
    blocks = np.moveaxis(differences, axis, -1).reshape(*np.delete(differences.shape, axis), cells, -1)
    return blocks.mean(axis=(-2, -1)) / np.sqrt(blocks.var(axis=-1, ddof=1).sum(axis=-1) / blocks.shape[-1] / cells**2)


def pair(cells: int, seeds: int) -> dict[str, object]:
    subject = rng.normal(81, 1, (cells, seeds)).round(2)
    reference = rng.normal(80, 1, (cells, seeds)).round(2)
    subject[0, 0] = reference[0, 1]  # a tie
    differences = (subject - reference).ravel()
    exact = stats.permutation_test(
        (differences,), partial(studentised, cells=cells), permutation_type="samples", n_resamples=np.inf
    )
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    return {
        "subject": subject.tolist(),
        "reference": reference.tolist(),
        "scipy_permutation_p": float(exact.pvalue),
        "scipy_t_interval": [float(interval.low), float(interval.high)],
        "statsmodels_tost_p": float(DescrStatsW(differences).ttost_mean(-0.5, 0.5)[0]),
        "rliable_iqm": float(metrics.aggregate_iqm(subject.T)),
        "rliable_probability_of_improvement": float(metrics.probability_of_improvement(subject.T, reference.T)),
    }


arms = rng.normal(80, 1, (4, 6)).round(2)
cases = {
    "versions": {name: version(name) for name in ("scipy", "statsmodels", "rliable")},
    "pairs": [pair(1, 8), pair(2, 5), pair(4, 3), pair(3, 4)],
    "holm": {"p": FAMILY, "statsmodels": multipletests(FAMILY, method="holm")[1].tolist()},
    "power": [
        {"effect": effect, "n": n, "alpha": alpha, "statsmodels": float(TTestPower().power(effect, n, alpha))}
        for effect, n, alpha in ((0.5, 16, 0.05), (0.9, 20, 0.05 / 3), (0.2, 100, 0.01))
    ],
    "mcnemar": {"table": TABLE, "statsmodels": float(mcnemar(TABLE, exact=True).pvalue)},
    "ranks": {"arms": arms.tolist(), "scipy_friedman_p": float(stats.friedmanchisquare(*arms).pvalue)},
}
(Path(__file__).parent / "statistics.json").write_text(json.dumps(cases, indent=1) + "\n")
