# %% [markdown]
# # 8. Evaluation
#
# A model is trained; now its quality is measured. At the end of this chapter you will know how certain an accuracy is
# and why this has two parts (the choice of the test images and the choice of the seed), how to read a confusion matrix
# and a reliability diagram, what an overconfident model is, and why a model with a higher accuracy can still be the
# worse choice. The chapter needs [Chapter 7](07_training.ipynb) (softmax, cross-entropy, label smoothing) and the
# standard error of a mean.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from walkthrough import COLOURS, shapes, source, trained, use_style

from ablations.evaluation import PROTOCOLS, protocol
from ablations.evaluation.protocols.calibration import bins_of
from ablations.evaluation.protocols.shift import Shift, shift
from ablations.statistics import t_interval

use_style()

# %% [markdown]
# ## Predictions and accuracy
#
# This chapter compares two models that differ only in their positional encoding: `learned`, with a learned table, and
# `none`, without an encoding. Neither has seen the test images in training.
#
# A model returns one vector of logits for each image, and the softmax turns it into probabilities: one for each of the
# $C$ classes, with the sum 1. The predicted class is the one with the highest probability. That probability is called
# the *confidence* of the prediction.
#
# The *accuracy* $a$ is the share of the $n$ test images whose prediction is right. With $r_i = 1$ if the prediction of
# image $i$ is the label, else 0,
#
# $$a = \frac{1}{n} \sum_{i=1}^{n} r_i.$$

# %%
run, without = trained(position="learned"), trained(position="none")
images, labels = run.images, run.labels
probabilities = run.stored_probabilities.astype(np.float64)
predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)

right = predicted == labels
accuracy, n = right.mean(), len(right)
np.testing.assert_allclose(accuracy, run.accuracy_in_place)
print(f"{right.sum()} of {n} predictions are right: accuracy {100 * accuracy:.1f} %")
shapes(images=images, labels=labels, probabilities=probabilities, predicted=predicted, confidence=confidence)

# %% [markdown]
# ## Uncertainty from the number of images
#
# The test images are a sample. On other images of the same kind, this very model would have another accuracy. If the
# images are drawn independently, the number of right predictions has a binomial distribution, and the *standard error*
# of the accuracy is
#
# $$s = \sqrt{\frac{a\,(1 - a)}{n}}.$$
#
# The *bootstrap* finds the same without a formula: draw $n$ of the test images at random, with replacement, compute the
# accuracy on them, and repeat this many times. The standard deviation of these accuracies is an estimate of $s$, and
# the middle 95 % of them are an interval for the accuracy.

# %%
standard_error = np.sqrt(accuracy * (1 - accuracy) / n)
drawn = np.random.default_rng(0).integers(0, n, (10_000, n))
resampled = right[drawn].mean(axis=1)
np.testing.assert_allclose(resampled.std(), standard_error, rtol=0.05)
low, high = np.quantile(resampled, [0.025, 0.975])
print(f"standard error by the formula {100 * standard_error:.2f} points, by the bootstrap {100 * resampled.std():.2f}")
print(f"95 % interval by the bootstrap: {100 * low:.1f} to {100 * high:.1f} %")
assert standard_error > 0.003

# %%
figure, ax = plt.subplots(figsize=(7, 3))
values, counts = np.unique(resampled, return_counts=True)
ax.bar(100 * values, counts, width=80 / n, color=COLOURS["learned"], alpha=0.6)
ax.axvspan(100 * low, 100 * high, color="#949494", alpha=0.2, label="95 % interval")
ax.axvline(100 * accuracy, ymax=0.75, color="#222222", label="accuracy on the test images")
ax.set(xlabel="accuracy on a resampled test set in %", ylabel="number of test sets", ylim=(0, 1.5 * counts.max()))
ax.legend(loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# The figure shows the accuracies of the resampled test sets. On a test set of this size, an accuracy is uncertain by
# several tenths of a point at the least, so its first decimal says little. To halve the standard error, four times as
# many images are needed.
#
# ## Uncertainty from seeds
#
# The bootstrap keeps the model. But the model is itself the result of chance: the seed chooses the initial weights, the
# order of the images in training, and which training images are held out for validation. Another seed gives another
# model, with another accuracy on the *same* test images.
#
# The next cell trains five models that differ only in their seed. To save time, they are trained for 10 epochs instead
# of 30.

# %%
seeds = [trained(position="learned", epochs=10, seed=seed) for seed in range(5)]
correct = np.array([each.stored_probabilities.argmax(axis=1) == labels for each in seeds])
by_seed = correct.mean(axis=1)
low, high = t_interval(100 * by_seed)
print("accuracy by seed: " + ", ".join(f"{100 * value:.1f} %" for value in by_seed))
print(f"standard deviation over seeds: {100 * by_seed.std(ddof=1):.2f} points")
print(f"mean {100 * by_seed.mean():.1f} %, 95 % interval over other seeds {low:.1f} to {high:.1f} %")

# %% [markdown]
# Accuracies can be close although the models differ. The figure has a column for each test image that at least one of
# the five models gets wrong. Some images are wrong for all of them: these images are difficult. Others are wrong for
# one seed only.

# %%
wrong = ~correct[:, ~correct.all(axis=0)]
assert {1, len(seeds)} <= {*wrong.sum(axis=0)}
order = np.lexsort((*wrong[::-1], -wrong.sum(axis=0)))
figure, ax = plt.subplots(figsize=(8, 2.2))
colours = sns.color_palette(["#F4F4F4", "#C8412B"])
sns.heatmap(wrong[:, order], cmap=colours, cbar=False, linewidths=0.5, xticklabels=False, ax=ax)
ax.set(xlabel=f"{wrong.shape[1]} of {n} test images, the most difficult first", ylabel="seed")
ax.set_title("Red: the model with this seed gets the image wrong")
plt.show()

# %% [markdown]
# The two uncertainties answer different questions.
#
# - *How good is this model?* Only the images are drawn anew. The standard error is that of the section before.
# - *How good is a model that is trained in this way?* The seeds are drawn anew, too. The mean over $S$ seeds has a
#   standard error of its own: the standard deviation over seeds, divided by $\sqrt{S}$.
#
# More seeds make the second error as small as one likes. They do not do the same for the error from the images, because
# all models are tested on the same images and are wrong on many of the same ones. Let $r_{si}$ be 1 if the model with
# seed $s$ is right on image $i$. The error of the mean over seeds that is due to the images is the standard deviation
# over $i$ of the mean over $s$ of $r_{si}$, divided by $\sqrt{n}$.

# %%
of_one_model = np.sqrt(by_seed * (1 - by_seed) / n).mean()
of_the_seeds = by_seed.std(ddof=1) / np.sqrt(len(seeds))
of_the_images = correct.mean(axis=0).std(ddof=1) / np.sqrt(n)
assert of_one_model / np.sqrt(len(seeds)) < of_the_images < of_one_model
rows = [
    ("one model", "other images", of_one_model),
    ("mean of five models", "other seeds", of_the_seeds),
    ("mean of five models", "other images", of_the_images),
    ("mean of five models with independent mistakes", "other images", of_one_model / np.sqrt(len(seeds))),
]
pd.DataFrame(
    [(*row[:2], f"{100 * row[2]:.2f}") for row in rows], columns=["accuracy of", "on", "standard error in points"]
)

# %% [markdown]
# If the mistakes of the five models were independent, the error of their mean would be that of the last row. The error
# in the row above it is larger. So a statement about a *method*, such as "a learned table is better than none", needs
# several seeds, and the number of test images limits it in addition. [Chapter 9](09_ablation.ipynb) makes such a
# statement.
#
# ## Which classes are confused
#
# The accuracy is one number for all classes. The *confusion matrix* has a row for each label and a column for each
# prediction, and counts the images. The diagonal has the right predictions. vitab computes it by one of its *evaluation
# protocols*, `per-class`. A protocol is an object with a method `measure`, which takes a finished run and returns
# numbers (`metrics`) and arrays (`arrays`).

# %%
measured = {name: protocol("per-class").measure(each) for name, each in (("learned", run), ("none", without))}
matrices = {name: each.arrays["confusion"] for name, each in measured.items()}
np.testing.assert_allclose(np.trace(matrices["learned"]) / n, accuracy)
assert np.count_nonzero(matrices["none"]) > 2 * np.count_nonzero(matrices["learned"])

figure, axes = plt.subplots(1, 2, figsize=(8, 4.1), sharey=True)
for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
    texts = np.where(matrix > 0, matrix.astype(str), "")
    shown = {"vmin": 0, "vmax": 40, "cmap": "Blues", "cbar": False, "square": True, "annot_kws": {"size": 9}}
    sns.heatmap(matrix, annot=texts, fmt="", ax=ax, **shown)
    ax.set(title=name, xlabel="predicted digit")
axes[0].set_ylabel("label")
plt.show()

# %% [markdown]
# The model without positions confuses far more pairs of digits. It sees the pieces of a digit, but not where they are
# ([Chapter 4](04_positions.ipynb)). Digits that consist of similar pieces look alike to it.
#
# ## The mistakes themselves
#
# Numbers do not say what a mistake looks like. If there are few, one can look at all of them. The figure shows wrong
# predictions of `learned`, the most confident one first, with the probability of the predicted class and that of the
# label. A low confidence on a scan that is hard to read is what one would wish for. Confident mistakes deserve
# attention.

# %%
mistakes = np.flatnonzero(~right)
mistakes = mistakes[np.argsort(-confidence[mistakes])][:10]
figure, axes = plt.subplots(2, 5, figsize=(7.6, 4.2))
for ax in axes.flat:
    ax.axis("off")
for ax, i in zip(axes.flat, mistakes, strict=False):
    ax.imshow(images[i, :, :, 0], cmap="gray")
    of_label = probabilities[i, labels[i]]
    ax.set_title(f"predicted {predicted[i]}: {confidence[i]:.0%}\nlabel {labels[i]}: {of_label:.0%}", fontsize=10)
plt.show()

# %% [markdown]
# ## Log-likelihood
#
# The accuracy uses the predicted class only. A right prediction counts as much with a confidence of 51 % as with one of
# 99 %. The *negative log-likelihood* (NLL) uses the probability $p_{i,y_i}$ that the model gives to the label $y_i$:
#
# $$\mathrm{NLL} = -\frac{1}{n} \sum_{i=1}^{n} \log p_{i, y_i}.$$
#
# It is the cross-entropy of the training without label smoothing, in nats. It is 0 for a model that gives the label the
# probability 1 on every image, and $\log C$ for one that gives every class the same probability. A label with a
# probability near 0 has a large loss, so confident mistakes are expensive. The protocol `calibration` measures it, and
# two other numbers: the *Brier score*, which is the squared distance between the probabilities and the one-hot label,
# and the *calibration error*, which the next section explains.

# %%
calibration = {name: protocol("calibration").measure(each) for name, each in (("learned", run), ("none", without))}
by_hand = -np.log(probabilities[np.arange(n), labels]).mean()
np.testing.assert_allclose(by_hand, calibration["learned"].metrics["nll"])
print(f"NLL if all classes have the same probability: {np.log(probabilities.shape[1]):.3f} nats")
pd.DataFrame({name: each.metrics for name, each in calibration.items()}).round(3)

# %% [markdown]
# ## Calibration
#
# A model is *calibrated* if its confidence can be taken literally: of all predictions with a confidence of 80 %, 80 %
# are right. A *reliability diagram* shows this. The predictions are sorted by confidence and divided into bins of equal
# numbers of images. A point shows the mean confidence and the accuracy of a bin, with the standard error of the
# accuracy. Points on the diagonal are calibrated. Below it, the model is *overconfident*: it is right less often than
# it says. Above it, it is *underconfident*. The calibration error is the distance from the diagonal: the root of its
# mean square over the bins, without the part that is due to chance.


# %%
def reliability(ax, probabilities, label, colour, marker="o"):
    right = (probabilities.argmax(axis=1) == labels).astype(float)
    count, mean, share = bins_of(probabilities.max(axis=1), right, bins=8)
    error = np.sqrt(share * (1 - share) / count)
    ax.errorbar(100 * mean, 100 * share, 100 * error, color=colour, marker=marker, ls="", label=label)
    ax.set(xlabel="mean confidence in %", ylabel="accuracy in %", xlim=(20, 103), ylim=(10, 103))


figure, ax = plt.subplots(figsize=(5.5, 4.2))
ax.plot([0, 100], [0, 100], color="#949494", ls="--", label="calibrated")
for name, each in (("learned", run), ("none", without)):
    reliability(ax, each.stored_probabilities, name, COLOURS[name])
    mean = 100 * each.stored_probabilities.max(axis=1).mean()
    print(f"{name:8} mean confidence {mean:.1f} %, accuracy {100 * each.accuracy_in_place:.1f} %")
ax.legend(loc="lower right")
plt.show()

epsilon, C = run.config.label_smoothing, probabilities.shape[1]
print(f"best probability of the label in training: {1 - epsilon + epsilon / C:.2f}")
print(f"median confidence of learned on the test images: {np.median(confidence):.2f}")
assert confidence.mean() < accuracy
assert calibration["none"].metrics["calibration-error"] < calibration["learned"].metrics["calibration-error"]

# %% [markdown]
# The more accurate model is the worse calibrated one. `learned` is underconfident: it is right more often than it says.
# The reason is the label smoothing $\epsilon$ of the training. With it, the loss is lowest if the label gets the
# probability $1 - \epsilon + \epsilon / C$ instead of 1, and `learned` comes close to that on most images. The model
# without positions has the same training, but is uncertain for another reason: it cannot tell the digits apart. It is
# right about as often as it says, and wrong often. Calibration and accuracy are different properties.
#
# ## Overconfidence and temperature
#
# Dividing the logits by a *temperature* $\tau$ before the softmax changes the confidence, but not the order of the
# classes. In terms of the probabilities,
#
# $$p_{ic}^{(\tau)} = \frac{p_{ic}^{1/\tau}}{\sum_{k} p_{ik}^{1/\tau}}.$$
#
# With $\tau < 1$ the probabilities move towards 0 and 1, with $\tau > 1$ towards $1 / C$. The figure shows the model
# without positions at $\tau = 1$ and at $\tau = 1/3$. Every prediction is the same, so the accuracy is the same. But at
# $\tau = 1/3$ the model is overconfident: it claims to be almost certain where it is often wrong.


# %%
def at_temperature(probabilities, tau):
    powers = np.maximum(probabilities.astype(np.float64), 1e-30) ** (1 / tau)
    return powers / powers.sum(axis=1, keepdims=True)


sharp = at_temperature(without.stored_probabilities, 1 / 3)
np.testing.assert_array_equal(sharp.argmax(axis=1), without.stored_probabilities.argmax(axis=1))
figure, ax = plt.subplots(figsize=(5.5, 4.2))
ax.plot([0, 100], [0, 100], color="#949494", ls="--", label="calibrated")
reliability(ax, without.stored_probabilities, "none, τ = 1", COLOURS["none"])
reliability(ax, sharp, "none, τ = 1/3", "#222222", marker="s")
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# *Temperature scaling* improves the calibration of a trained model: it uses the $\tau$ with the lowest NLL. This $\tau$
# must not be chosen on the test images, otherwise the test would no longer be one. The validation images of the run
# serve for this.
#
# In the figure, each curve rises on both sides of its minimum. To the left of it the model is overconfident, to the
# right underconfident. The minimum of `learned`, which is underconfident as trained, is at a $\tau$ below 1.


# %%
def nll(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), labels]).mean()


temperatures, minimum = np.geomspace(0.2, 4, 60), {}
figure, ax = plt.subplots(figsize=(7, 3.2))
for name, each in (("learned", run), ("none", without)):
    held_out = each.probabilities(run.dataset.train_images[run.loader.validation])
    curve = [nll(at_temperature(held_out, tau), run.loader.validation_labels) for tau in temperatures]
    minimum[name] = best = temperatures[np.argmin(curve)]
    ax.plot(temperatures, curve, color=COLOURS[name], label=name)
    ax.plot(best, min(curve), "o", color=COLOURS[name])
    before, after = (nll(at_temperature(each.stored_probabilities, tau), labels) for tau in (1, best))
    print(f"{name:8} τ = {best:.2f}: NLL on the test images {before:.3f} before and {after:.3f} after scaling")
assert minimum["learned"] < 1
ax.axvline(1, color="#949494", ls="--", lw=1)
ax.text(1.03, 1.85, "τ = 1, as trained")
ax.set(xscale="log", xlabel="temperature τ", ylabel="NLL in nats", ylim=(0, 2), title="Validation images")
ax.set_xticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"], minor=False)
ax.minorticks_off()
ax.legend(loc="upper right")
plt.show()

# %% [markdown]
# ## Accuracy is not all
#
# All test images come from the same source as the training images. A model in use meets other images, too. vitab has
# the following protocols to measure how a finished model behaves.

# %%
pd.set_option("display.max_colwidth", None)
pd.DataFrame([{"protocol": name, "measures": kind.description} for name, kind in PROTOCOLS.items()])

# %% [markdown]
# Take `shift`: the test images are moved left, right, up and down, by half a patch and by a whole patch. The digit
# stays the same, although pixels at one edge are lost. The method below is the whole measurement.

# %%
source(Shift.measure)

# %%
patch = run.config.patch
figure, axes = plt.subplots(1, 3, figsize=(6.4, 2.6))
moves = {"in place": 0, "half a patch to the right": patch // 2, "one patch to the right": patch}
for ax, (title, columns) in zip(axes, moves.items(), strict=True):
    ax.imshow(shift(images[:1], 0, columns, fill="edge")[0, :, :, 0], cmap="gray")
    ax.set_title(title, fontsize=10)
    ax.set(xticks=[], yticks=[])
    for line in np.arange(patch, 8, patch) - 0.5:
        ax.axvline(line, color="#F0A500", lw=1)
        ax.axhline(line, color="#F0A500", lw=1)
plt.show()

# %%
models = {name: trained(position=name) for name in ("none", "learned", "rope")}
measured = {name: protocol("shift").measure(each).metrics for name, each in models.items()}
table = pd.DataFrame({name: {"accuracy": models[name].accuracy_in_place} | measured[name] for name in models}).T
assert table["accuracy"].idxmax() == "learned"
assert table["accuracy-patch"].idxmin() == "learned"
assert table.loc["none", "changed-patch"] < table.loc["none", "changed-half"]
table.round(3)

# %% [markdown]
# `accuracy` is that on the images in place. The other columns are means over the four directions, and `changed` is the
# share of images whose prediction changes.
#
# `learned` has the highest accuracy on the images in place, and the lowest after a shift by one patch. It has learned
# what each patch of a centred digit looks like, and after the shift every patch has the position vector of another
# place. The model without positions does not use the places of patches. A shift by a whole patch keeps the content of
# most patches, so it changes fewer of its predictions than a shift by half a patch, which changes the content of all of
# them.
#
# A second protocol, `occlusion`, gives random patches the mean colour of the training images. The figure shows the
# accuracy by the share of these patches.

# %%
figure, ax = plt.subplots(figsize=(6.5, 3.4))
for name, each in models.items():
    metrics = protocol("occlusion").measure(each).metrics
    shares = [float(key.removeprefix("accuracy-")) for key in metrics if key != "accuracy"]
    curve = [each.accuracy_in_place] + [metrics[f"accuracy-{share:g}"] for share in shares]
    ax.plot([0, *(100 * np.array(shares))], 100 * np.array(curve), "o-", color=COLOURS[name], label=name)
ax.axhline(100 / C, color="#949494", ls="--", lw=1)
ax.text(0, 100 / C - 2, "chance", color="#555555", va="top")
ax.set(xlabel="patches with the mean colour in %", ylabel="accuracy in %", ylim=(0, 103))
ax.legend()
plt.show()

# %% [markdown]
# These are measurements of one model of each kind. They show how to measure, not which encoding is better. On the
# command line, `vitab evaluate STUDY --protocol shift,occlusion` measures all runs of a study, and `vitab report`
# compares them over seeds by the statistics of the next chapter. Protocols that serve to test a hypothesis should be
# chosen before the training, with `vitab run --protocol`.
#
# ## What to remember
#
# - An accuracy is uncertain for two reasons: the test images are a sample, and so is the seed. More seeds do not
#   replace test images.
# - A confusion matrix shows which classes are confused. The mistakes themselves often show why.
# - Calibration tells whether confidences can be taken literally. A more accurate model is not necessarily better
#   calibrated.
# - A temperature changes the confidences of a model and none of its predictions. It is chosen on validation images.
# - A model that is better on the test images can be worse on images that differ from them.
#
# ## Exercises
#
# 1. Train `trained(position="learned", label_smoothing=0.0)` and draw its reliability diagram. Is it still
#    underconfident?
# 2. Measure `protocol("shift(fill=zero)")`, by which black pixels come in at the edge. Which of the three models loses
#    most accuracy compared with `fill=edge`?
# 3. Measure `protocol("calibration")` for the five models of the section on seeds. Which varies more between seeds,
#    relative to its mean: the accuracy or the NLL?
#
# Next: [Chapter 9: An ablation](09_ablation.ipynb)
