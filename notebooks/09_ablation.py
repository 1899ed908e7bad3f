# %% [markdown]
# # 9. An ablation
#
# An ablation changes one part of a model, keeps everything else, and asks how much the result changes. This chapter
# runs a small one, with the commands of vitab, and reads its statistics step by step. At the end you will know why runs
# are compared in pairs, how to compute the difference, its interval, the sign-flip test and Holm's correction by hand,
# what a verdict such as "undecided" means, and what a few seeds can and cannot show. The chapter needs
# [Chapter 8](08_evaluation.ipynb) (uncertainty from images and from seeds) and [Chapter 4](04_positions.ipynb) (the
# encodings that are compared).

# %%
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from scipy import stats
from walkthrough import COLOURS, source, trained, use_style

from ablations.evaluation.finished_run import FinishedRun
from ablations.reporting.findings import claims
from ablations.reporting.wording import sentence
from ablations.statistics import ALPHA, MARGIN, analyse, smallest_p, t_interval, verdict
from ablations.statistics.permutation import sign_flip_p
from ablations.statistics.verdicts import decided
from ablations.storage import Store, load_results
from vit import ViT, get_ops

use_style()
temporary = tempfile.TemporaryDirectory()  # deleted when the kernel ends
folder = Path(temporary.name)


def vitab(*arguments):
    """Run a command of vitab in a temporary folder, and return what it prints."""
    command = [Path(sys.executable).with_name("vitab"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


# %% [markdown]
# ## A question, and a grid that answers it
#
# The question: after a short training, is a model with a learned or a sinusoidal table more accurate than a model
# without positions? The three encodings are the *arms* of the study. `none` is the *baseline*, with which the other
# arms are compared. The differences "learned minus none" and "sinusoidal minus none" are the *contrasts*.
#
# A *grid* is a file that describes all runs: the fields that they share, the axes that vary, and the number of seeds.
# Every run that is not described here has the default configuration of vitab.

# %%
grid = """
question = "Which positional encoding is more accurate after seven epochs?"
seeds = 7

[base]
data = "digits"
depth = 2
patch = 2
epochs = 7
warmup_epochs = 1

[axes]
position = ["none", "learned", "sinusoidal"]
"""
(folder / "short.toml").write_text(grid)
print(grid.strip())

# %% [markdown]
# ## How many seeds
#
# The number of seeds must be chosen before the results are known. A lower bound follows from the test that this chapter
# explains below: with $n$ pairs of runs, its smallest possible p value is $2 / 2^n$, whatever the results are. If $m$
# contrasts are tested together, Holm's correction multiplies the smallest of their p values by $m$. A difference can be
# shown only if this is at most $\alpha$, the rate of false positives that is accepted.

# %%
contrasts = 2
table = pd.DataFrame({"pairs": range(1, 10)})
table["smallest p"] = table["pairs"].map(smallest_p)
table["after Holm"] = (contrasts * table["smallest p"]).clip(upper=1)
table["can show a difference"] = table["after Holm"] <= ALPHA
least = table.loc[table["can show a difference"], "pairs"].min()
assert least == 7
print(f"alpha = {ALPHA}; {contrasts} contrasts need at least {least} pairs")
table.round(4)

# %% [markdown]
# With three or four pairs, this test cannot show any difference, however large it is. Hence the 7 seeds of the grid.
#
# ## The runs
#
# `vitab run` trains the runs of the grid in parallel and prints a line for each of them; only the last line is shown
# here. The results are in the folder `runs`. `load_results` verifies their checksums and returns a table with a row for
# each run. Below are the test accuracies in percent, with a row for each seed.

# %%
print(vitab("run", "--grid", "short.toml", "--quiet").splitlines()[-1])
store = Store(folder / "runs")
results = load_results(store, "short")
accuracy = 100 * results.runs.pivot(index="seed", columns="position", values="test_accuracy")
accuracy = accuracy[["none", "learned", "sinusoidal"]]
accuracy.round(1)

# %% [markdown]
# ## What a pair is
#
# Two runs with the same seed have more in common than the number. They are trained on the same images in the same
# order, and every layer that both models have starts from the same weights. They differ in nothing but the encoding.
# Such runs are a *pair*. The next cell verifies this for the seed 0 and the arms `none` and `learned`.

# %%
keys = results.runs.query("seed == 0").set_index("position")["key"]
pair = {name: FinishedRun(store, keys[name]) for name in ("none", "learned")}
for epoch in range(1, 8):
    np.testing.assert_array_equal(*(run.loader.order(epoch) for run in pair.values()))
np.testing.assert_array_equal(*(run.loader.train for run in pair.values()))

first, second = (ViT(run.model_config(), get_ops("numpy"), [0]).state_dict() for run in pair.values())
for name in first:
    np.testing.assert_array_equal(first[name], second[name])
print(f"{len(first)} arrays of weights are the same at the start; only in learned: {', '.join({*second} - {*first})}")

# %% [markdown]
# ## Why pairing helps
#
# Let $a_s$ and $b_s$ be the accuracies of two arms with seed $s$, and $d_s = a_s - b_s$ their difference. The variance
# of the difference is
#
# $$\mathrm{Var}(d) = \mathrm{Var}(a) + \mathrm{Var}(b) - 2\,\mathrm{Cov}(a, b).$$
#
# If some seeds are easier than others for both arms, the covariance is positive, and the differences vary less than
# those of two runs with different seeds. The mean difference is the same either way, but its standard error is smaller.

# %%
n = len(accuracy)
differences = {name: (accuracy[name] - accuracy["none"]).to_numpy() for name in ("learned", "sinusoidal")}
rows = []
for name, d in differences.items():
    unpaired = np.sqrt((accuracy[name].var() + accuracy["none"].var()) / n)
    paired = d.std(ddof=1) / np.sqrt(n)
    assert paired < unpaired
    rows.append((f"{name} - none", accuracy[name].corr(accuracy["none"]), unpaired, paired))
columns = ["contrast", "correlation over seeds", "standard error, not paired", "standard error, paired"]
pd.DataFrame(rows, columns=columns).round(2)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.7), width_ratios=[3, 2.4])
names = ["learned", "none", "sinusoidal"]
for _, values in accuracy.iterrows():
    left.plot(range(3), values[names], color="#949494", lw=0.8, zorder=1)
for i, name in enumerate(names):
    left.scatter(np.full(n, i), accuracy[name], color=COLOURS[name], zorder=2)
left.set_xticks(range(3), names)
left.set(title="A line joins the runs of a seed", ylabel="test accuracy in %", xlim=(-0.3, 2.3))
for i, (name, d) in enumerate(differences.items()):
    all_pairs = np.subtract.outer(accuracy[name].to_numpy(), accuracy["none"].to_numpy())
    other_seeds = all_pairs[~np.eye(n, dtype=bool)]
    right.scatter(i - 0.2 + np.linspace(-0.08, 0.08, len(other_seeds)), other_seeds, s=10, color="#B8B8B8")
    right.scatter(i + 0.15 + np.linspace(-0.08, 0.08, n), d, color=COLOURS[name])
    right.plot([i - 0.35, i + 0.3], [d.mean()] * 2, color="#222222", lw=1)
right.axhline(0, color="#949494", ls="--", lw=1)
right.set_xticks(range(2), differences)
right.set(title="Coloured: pairs; grey: other seeds", ylabel="difference from none in points", xlim=(-0.5, 1.5))
plt.show()

# %% [markdown]
# On the left, seeds with a low accuracy without positions tend to have a low accuracy with a table, too. On the right,
# each coloured point is the difference of a pair, and each grey point that of two runs with different seeds. Both have
# the same mean (the bar), but the pairs vary less. If the correlation were zero, pairing would not help, but it would
# do little harm.
#
# ## The difference and its interval
#
# The estimate is the mean difference $\bar d$. Student's 95 % interval is
#
# $$\bar d \pm t_{n-1}\, \frac{s_d}{\sqrt{n}},$$
#
# where $s_d$ is the standard deviation of the differences, and $t_{n-1}$ the quantile 0.975 of Student's distribution
# with $n - 1$ degrees of freedom. vitab starts from the same interval. With skewed differences it is too short on one
# side, so vitab also computes a bootstrap of the seeds, and moves each end a quarter of the way towards that of the
# bootstrap if this makes the interval longer.
#
# `analyse` computes all statistics of a study. Its first contrast is "learned minus none".

# %%
analysis = analyse(results)
by_name = {contrast.subject: contrast for contrast in analysis.contrasts}
for name, d in differences.items():
    half = stats.t.ppf(0.975, n - 1) * d.std(ddof=1) / np.sqrt(n)
    student, contrast = (d.mean() - half, d.mean() + half), by_name[name]
    np.testing.assert_allclose(contrast.mean, d.mean())
    np.testing.assert_allclose(t_interval(d), student)
    assert contrast.low <= student[0] + 1e-9
    assert contrast.high >= student[1] - 1e-9
    print(f"{name:10} {d.mean():+5.1f} points; Student {student[0]:+.1f} to {student[1]:+.1f}, ", end="")
    print(f"vitab {contrast.low:+.1f} to {contrast.high:+.1f}")

# %% [markdown]
# ## The sign-flip test
#
# Suppose that the encoding makes no difference. Then the two runs of a pair could change their names, and $d_s$ would
# be $-d_s$ with the same probability. So the sign of each difference is the result of a coin flip, and all $2^n$
# patterns of signs are equally probable. The test asks how unusual the observed pattern is among them:
#
# 1. Compute the statistic $t = \bar d \, / \, (s_d / \sqrt{n})$ for the observed differences.
# 2. Compute it for every pattern of signs.
# 3. p is the share of patterns whose $|t|$ is at least the observed one.
#
# No normal distribution is assumed. With 7 pairs, all patterns can be listed.


# %%
def statistics(d):
    signs = np.array([*itertools.product([1, -1], repeat=len(d))])  # (2^n, n)
    flipped = signs * d
    return flipped.mean(axis=1) / (flipped.std(axis=1, ddof=1) / np.sqrt(len(d)))


p_values = {}
for name, d in differences.items():
    t = statistics(d)
    extreme = np.abs(t) >= np.abs(t[0]) * (1 - 1e-9)  # the first pattern is the observed one
    p_values[name] = extreme.mean()
    np.testing.assert_allclose(p_values[name], by_name[name].p)
    print(
        f"{name:10} {extreme.sum()} of {len(t)} patterns are as extreme as the observed one: p = {extreme.mean():.4f}"
    )
assert p_values["learned"] == smallest_p(n)
assert p_values["sinusoidal"] > 0.1

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
for ax, (name, d) in zip(axes, differences.items(), strict=True):
    t = statistics(d)
    edge = 1.1 * max(4, abs(t[0]))
    ax.hist(t, bins=np.linspace(-edge, edge, 41), color=COLOURS[name], alpha=0.7)
    for sign in (-1, 1):
        ax.axvline(sign * abs(t[0]), color="#222222", ls="--", lw=1)
    ax.set(title=f"{name} - none: p = {p_values[name]:.4f}", xlabel="t of a pattern of signs")
axes[0].set_ylabel("number of patterns")
plt.show()

# %% [markdown]
# The dashed lines are at plus and minus the observed $|t|$, and p is the share of the patterns on or outside them. On
# the left there are only two: the observed pattern, in which every pair has the same sign, and its opposite. So p is
# the smallest possible one; how far the lines are from the rest does not matter. On the right, many patterns are as
# extreme as the observed one. Coin flips often produce such a pattern.
#
# ## Holm's correction
#
# Two contrasts are two chances of a false positive. Holm's correction keeps the probability of *any* false positive in
# the family of $m$ contrasts at $\alpha$. The p values are sorted. The smallest is multiplied by $m$, the next by
# $m - 1$, and so on; and none may be smaller than the one before it.

# %%
adjusted, largest = {}, 0.0
for i, name in enumerate(sorted(p_values, key=p_values.get)):
    largest = max(largest, (len(p_values) - i) * p_values[name])
    adjusted[name] = min(largest, 1.0)
    np.testing.assert_allclose(adjusted[name], by_name[name].p_adjusted)
    print(f"{name:10} p = {p_values[name]:.4f}, times {len(p_values) - i}, adjusted p = {adjusted[name]:.4f}")

# %% [markdown]
# ## Verdicts
#
# A verdict follows from the numbers by a fixed rule. An arm is *better* or *worse* than the baseline if the adjusted p
# is at most $\alpha$. Otherwise there are two cases, which must not be confused. *Equivalent* is a positive statement:
# another test (two one-sided t-tests) shows that the difference lies within a margin that is too small to matter.
# *Undecided* means that neither has been shown. It does not mean that the arms are equal: every difference within the
# interval is compatible with the data.

# %%
source(decided)

# %%
assert verdict(by_name["learned"]) == "better"
print(f"margin of equivalence: {MARGIN} points")
rows = [(c.subject, c.mean, c.low, c.high, c.p_adjusted, c.p_equivalence, str(verdict(c))) for c in analysis.contrasts]
columns = ["arm", "difference", "low", "high", "adjusted p", "p of equivalence", "verdict"]
pd.DataFrame(rows, columns=columns).round(3)

# %% [markdown]
# vitab writes its findings in words from the same numbers. A sentence never claims more than its verdict.
# `vitab report` writes them to a page, with figures and tables; these are the sentences of this study.

# %%
Markdown("\n".join(f"- {sentence(finding)}" for finding in claims(analysis)))

# %% [markdown]
# The first sentence also compares the arm with the highest mean with the other arms. These contrasts are a family of
# their own. The last sentence warns of a common mistake: the best of several means is partly the best by luck.
#
# ## What few seeds can show
#
# The figure repeats the tests with the first seeds only. Every pair of "learned minus none" has the same sign, so p is
# the smallest possible one at every number of pairs: it is limited by the number of pairs, not by the size of the
# difference. With few seeds, "undecided" says little. Where the signs differ, p can fall and rise again as pairs are
# added.

# %%
figure, ax = plt.subplots(figsize=(7, 3.2))
pairs = np.arange(1, n + 1)
for name, d in differences.items():
    p = [sign_flip_p(d[:k]) for k in pairs]
    ax.plot(pairs, p, "o-", color=COLOURS[name], label=f"{name} - none")
    assert name != "learned" or np.allclose(p, [smallest_p(k) for k in pairs])
ax.plot(pairs, [smallest_p(k) for k in pairs], "k:", lw=1, label="smallest possible p", zorder=3)
ax.axhline(ALPHA, color="#949494", ls="--", lw=1)
ax.text(1, 1.08 * ALPHA, f"{ALPHA}", color="#555555")
ax.set(yscale="log", xlabel="pairs", ylabel="p before Holm", yticks=[0.01, 0.1, 1], yticklabels=["0.01", "0.1", "1"])
ax.legend(loc="lower left")
plt.show()

# %% [markdown]
# The figure is an illustration, and not a way to run a study. Adding seeds one by one, and stopping as soon as p is
# below $\alpha$, gives many chances of a false positive. The next cell simulates this for two arms that do not differ:
# it draws differences with mean 0 and tests them once with 20 pairs, or after every pair from the fifth to the
# twentieth. (It uses the t-test, because it is fast.)

# %%
d = np.random.default_rng(0).normal(size=(20_000, 20))
tested = range(5, 21)
p = np.array([stats.ttest_1samp(d[:, :k], 0, axis=1).pvalue for k in tested])
once, ever = (p[-1] <= ALPHA).mean(), (p <= ALPHA).any(axis=0).mean()
assert once < 0.06
assert ever > 2 * once
print(f"false positives: {once:.1%} if tested once with 20 pairs, {ever:.1%} if tested after every pair")

# %% [markdown]
# So the number of seeds is chosen first, as above. `vitab run --until-decided` adds seeds in rounds in a valid way: it
# divides $\alpha$ over the rounds.
#
# ## Limits of this study
#
# *Other images.* The interval above is about other seeds on these test images. As Chapter 8 has shown, the images are a
# sample, too. vitab also gives an interval over both, which is wider.

# %%
rows = []
for other in analysis.other_images:
    assert other.low <= other.seeds_low
    assert other.high >= other.seeds_high
    over_seeds = f"{other.seeds_low:+.1f} to {other.seeds_high:+.1f}"
    rows.append((f"{other.subject} - {other.reference}", over_seeds, f"{other.low:+.1f} to {other.high:+.1f}"))
pd.DataFrame(rows, columns=["contrast", "interval over other seeds", "interval over other seeds and images"])

# %% [markdown]
# *Another training.* The contrasts are about models that were trained for 7 epochs with this configuration, on this
# dataset. The table adds the accuracy after 30 epochs, of one run of each arm. The sinusoidal table, which has not been
# shown to help after 7 epochs, is then far ahead of no positions. A model needs more training to make use of it. A
# study answers the question that its grid asks, and no other.

# %%
longer = {name: 100 * trained(position=name).accuracy_in_place for name in accuracy}
assert verdict(by_name["sinusoidal"]) != "better"
assert longer["sinusoidal"] > longer["none"] + 10
rows = {"7 epochs, mean of 7 seeds": accuracy.mean(), "30 epochs, seed 0": pd.Series(longer)}
pd.DataFrame(rows).T.round(1)

# %% [markdown]
# ## What to remember
#
# - A pair is two runs that share everything but the part that is compared. The statistics are about differences within
#   pairs.
# - The sign-flip test compares the observed differences with all patterns of signs. Its smallest possible p with $n$
#   pairs is $2 / 2^n$.
# - Several contrasts need a correction, such as Holm's.
# - "Undecided" is not "equal". Only an equivalence test can show that a difference is too small to matter.
# - The number of seeds is chosen before the results are known. Repeated testing produces false findings.
# - A finding holds for the models, the training and the data of the study.
#
# ## Exercises
#
# 1. How many pairs are needed if five arms are compared with a baseline? Change `contrasts` in the cell on the number
#    of seeds.
# 2. Break the pairs: shuffle `accuracy["none"]` over the seeds before the differences are computed. How do the
#    intervals change? What happens to p of "learned minus none", and why?
# 3. Set `epochs = 10` in the grid, and run the chapter again. Do the verdicts change?
#
# Next: [Chapter 10: Your own data, your own encoding](10_your_own.ipynb)
