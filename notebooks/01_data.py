# %% [markdown]
# # 1. The data
#
# This chapter follows the images of a study from the file to the arrays that a model is trained on. At the end you will
# know how images and classes are stored, which three parts a dataset has and what each part is for, what normalisation
# and one-hot targets are, and what augmentation does. The chapter needs Python and NumPy, and no knowledge of
# transformers. All images come with scikit-learn, so nothing is downloaded.

# %%
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import display
from walkthrough import shapes, source, use_style

from ablations.config import RunConfig
from ablations.data import DATASETS, load, split
from ablations.data.augmentation import mixup, normalise, random_crop, random_erase, random_flip
from ablations.data.contact_sheet import contact_sheet
from ablations.data.loader import DataLoader, is_augmented
from ablations.data.normalisation import statistics
from vit import one_hot
from vit.random import stream

use_style()

# %% [markdown]
# ## Images are arrays of integers
#
# The dataset of the walkthrough is `digits`: scans of handwritten digits. It is small enough to train a model on it in
# seconds. `load` returns a `Dataset` with two parts, each of which has images and labels.

# %%
digits = load("digits")
shapes(
    train_images=digits.train_images,
    train_labels=digits.train_labels,
    test_images=digits.test_images,
    test_labels=digits.test_labels,
)

# %% [markdown]
# The axes of an image array are *(images, height, width, channels)*. Grey images have one channel; colour images have
# three: red, green and blue. The type is `uint8`: each pixel is an integer from 0 (black) to 255 (white), stored in one
# byte. The digits are white on black. The arrays keep this type as long as possible, because floating-point numbers
# would take four times the memory.
#
# An image is therefore nothing but a table of numbers. The next figure shows one image with the value of each pixel.

# %%
image, label = digits.train_images[12], digits.train_labels[12]
figure, axes = plt.subplots(figsize=(4.4, 4.6))
sns.heatmap(image[:, :, 0], annot=True, fmt="d", cmap="gray", cbar=False, square=True, ax=axes)
axes.set(title=f"A training image of the class {digits.class_names[label]!r}", xlabel="column", ylabel="row")
axes.tick_params(length=0, labelrotation=0)
plt.show()

# %% [markdown]
# ## Classes and labels
#
# A **class** is one of the answers that the model can give. Here the classes are the ten digits. The **label** of an
# image is the number of its class: an index into `class_names`, which starts at 0. The model works with labels only;
# names are for people. In `digits`, the class with the label 3 is also called "3". In general, label and name have
# nothing in common: in CIFAR-100, the class with the label 0 is called "apple".
#
# A model for $C$ classes returns $C$ numbers per image, one for each class. It cannot answer with a class that it was
# not trained on, nor can it answer "none of them".
#
# Before any training, look at the data. `contact_sheet` draws random training images, one row per class. A label that
# does not match its image, an empty image or a rotated one would be visible here.

# %%
contact_sheet(digits, samples=10)

# %% [markdown]
# ## Three parts: training, validation, test
#
# A model can answer correctly for an image because it has learned what the class looks like, or because it has
# memorised this one image. Only images that it has not seen can tell the two apart. A dataset is therefore divided:
#
# - The **training part** determines the weights. The model sees these images many times.
# - The **validation part** is held out of the training. It guides decisions that people make: the learning rate, the
#   number of epochs (passes over the training part), whether there is a bug.
# - The **test part** measures the finished model. No decision depends on it.
#
# The test part of a dataset is fixed, and comes with the dataset. (`digits` has none, so `load` selects it by a rule
# that never changes.) The validation part is cut from the images for training, by a random choice. A **run** is one
# training of one model, and its **seed** is a number from which all its random choices follow; `stream` in the code
# returns random numbers for a seed and a purpose. In the docstring below, *arms* are the alternatives that a study
# compares, such as two positional encodings.

# %%
source(split)

# %%
config = RunConfig()
train, validation = split(digits.train_labels, config.validation, config.seed)
assert not set(train) & set(validation)
assert len(train) + len(validation) == len(digits.train_labels)
print(f"{len(train)} training, {len(validation)} validation and {len(digits.test_labels)} test images")

# %% [markdown]
# The choice is **stratified**: every part has nearly the same proportions of classes. With a plain random choice, a
# small validation part could have many images of one class and few of another, and its accuracy would depend on that.
# The figure counts the images by class. All classes have nearly the same number of images, so a model that ignores the
# image is right in about one of ten cases. This is called the **chance accuracy**.

# %%
labels = {
    "training": digits.train_labels[train],
    "validation": digits.train_labels[validation],
    "test": digits.test_labels,
}
figure, axes = plt.subplots(figsize=(7, 3.2))
below = np.zeros(digits.classes, dtype=int)
for (part, values), colour in zip(labels.items(), ("#8FB4D9", "#2A6FB5", "#F0A500"), strict=True):
    counts = np.bincount(values, minlength=digits.classes)
    axes.bar(digits.class_names, counts, bottom=below, color=colour, label=part)
    below += counts
axes.set(xlabel="class", ylabel="images")
figure.legend(loc="outside upper center", ncols=3)
plt.show()

# %% [markdown]
# ## Why the test part is used once
#
# Suppose that you train many models and publish the one with the highest test accuracy. A measured accuracy varies
# around the true one, because the test part is a finite sample. The highest of many measurements is the one with the
# most luck, so it is too high on average.
#
# The following simulation shows the size of this error. All simulated models are equally good: each classifies a new
# image correctly with probability 0.95. One procedure chooses the best of $k$ models by the test part and reports the
# accuracy that it saw. The other chooses by the validation part and then reports the test accuracy of the chosen model.

# %%
true_accuracy, models, repetitions = 0.95, 100, 4000
generator = np.random.default_rng(0)
held, tested = len(validation), len(digits.test_labels)
validated = generator.binomial(held, true_accuracy, (repetitions, models)) / held
measured = generator.binomial(tested, true_accuracy, (repetitions, models)) / tested

by_test = np.maximum.accumulate(measured, axis=1).mean(axis=0)
chosen = [validated[:, :k].argmax(axis=1) for k in range(1, models + 1)]
by_validation = np.array([measured[np.arange(repetitions), c].mean() for c in chosen])
assert by_test[-1] > true_accuracy + 0.02
assert abs(by_validation - true_accuracy).max() < 0.002

# %%
figure, axes = plt.subplots(figsize=(7, 3.4))
tried = np.arange(1, models + 1)
axes.axhline(100 * true_accuracy, color="#777777", ls="--", label="true accuracy of every model")
axes.plot(tried, 100 * by_test, color="#C8412B", label="chosen by the test part")
axes.plot(tried, 100 * by_validation, color="#2A6FB5", label="chosen by the validation part")
axes.set(xlabel="models tried, k", ylabel="reported test accuracy (%)", title="Mean over 4,000 simulated studies")
axes.legend(loc="center right", bbox_to_anchor=(1, 0.4))
plt.show()

# %% [markdown]
# The accuracy of the best model by the test part exceeds the true accuracy by more than two percentage points after 100
# tries, although nothing has improved. The same happens more slowly when a person looks at the test accuracy after
# every change of the code. (Real models make similar errors on the same images, so the effect is smaller than in this
# simulation, where they are independent.) The test accuracy after a choice by the validation part has no such error.
#
# In vitab, the validation part is evaluated after every epoch, and the test part once, after the last one.
#
# ## Normalisation
#
# Pixels from 0 to 255 are inconvenient inputs. They are all positive, and large compared with the initial weights.
# Normalisation shifts and scales each channel:
#
# $$\hat{x} = \frac{x / 255 - \mu}{\sigma}$$
#
# Here $x$ is a pixel, $\mu$ is the mean and $\sigma$ the standard deviation of all pixels $x / 255$ of the channel.
# Both are computed from **the images that the run trains on**, without the validation and test part. If the test images
# took part, the model would receive information about them. With two numbers the effect would be small, but a rule
# without exceptions is easier to check.

# %%
mean, std = statistics(digits.train_images[train])
pixels = digits.train_images[train] / 255
np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
np.testing.assert_allclose(std, pixels.std(axis=(0, 1, 2)), rtol=1e-6)
print(f"mean {mean[0]:.3f}, standard deviation {std[0]:.3f}, for {len(mean)} channel")

# %% [markdown]
# `statistics` counts how often each of the 256 values occurs, so that it does not need the images as floating-point
# numbers. The lines above show that it agrees with NumPy's `mean` and `std`. `normalise` applies the formula:

# %%
source(normalise)

# %%
parts = {"training": digits.train_images[train], "validation": digits.train_images[validation]}
normalised = {part: normalise(images, mean, std) for part, images in parts.items()}
np.testing.assert_allclose(normalised["training"], (pixels - mean) / std, atol=1e-5)
for part, images in normalised.items():
    print(f"{part:10}  mean {images.mean():+.3f}  standard deviation {images.std():.3f}  {images.dtype}")

# %% [markdown]
# The training images have mean 0 and standard deviation 1, apart from rounding. The validation images were shifted and
# scaled by the same two numbers, so their mean and standard deviation are only close to 0 and 1. This is intended: a
# single new image must be treated in the same way. If it were normalised by its own mean, the model could not see how
# much ink it has.
#
# The histograms show what normalisation changes. Only the scale of the axis differs; the form of the distribution
# remains. Most pixels are background, and the background gets a value below 0.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
axes[0].hist(digits.train_images[train].ravel(), bins=17, color="#8FB4D9")
axes[0].set(title="Before", xlabel="pixel, uint8", ylabel="pixels")
axes[1].hist(normalised["training"].ravel(), bins=17, color="#2A6FB5")
axes[1].axvline(0, color="#222222", ls="--")
axes[1].set(title="After (dashed: the mean)", xlabel="normalised pixel, float32")
plt.show()

# %% [markdown]
# ## One-hot targets
#
# The loss of Chapter 7 compares the output of the model with a **target**: a distribution over the $C$ classes. If the
# label is certain, the target is 1 at the label and 0 elsewhere. This is called a one-hot vector. **Label smoothing**
# with $s > 0$ moves a little of this probability to all classes, $(1 - s)\,\mathrm{onehot}(y) + s / C$ for the label
# $y$, so that the model is not trained to be infinitely certain.

# %%
first = digits.train_labels[train][:3]
with np.printoptions(precision=2, suppress=True, linewidth=120):
    print("labels ", first)
    print("one-hot", *one_hot(first, digits.classes), sep="\n")
    print("smoothed, s = 0.1", *one_hot(first, digits.classes, smoothing=0.1), sep="\n")
np.testing.assert_allclose(one_hot(first, digits.classes, smoothing=0.1).sum(axis=1), 1)

# %% [markdown]
# ## Augmentation
#
# Augmentation changes the training images at random, so that the model sees a different version of an image in every
# epoch. It must keep the class of the image. Which changes do depends on the data: a mirrored photograph of a cat still
# shows a cat, whereas a mirrored 2 is not a 2. Validation and test images are never augmented.
#
# Runs on digits are not augmented by default, which the next cell checks. The operations are shown on the same images
# nevertheless.

# %%
assert not is_augmented(RunConfig(data="digits"))
six = [np.flatnonzero(digits.train_labels == label)[0] for label in (2, 3, 4, 5, 7, 9)]
batch = digits.train_images[six]
inputs = normalise(batch, mean, std)
targets = one_hot(digits.train_labels[six], digits.classes).astype(np.float32)
mixed, mixed_targets = mixup(inputs, targets, 1.0, stream(2, "mix"))
rows = {
    "original": inputs,
    "crop": normalise(random_crop(batch, 2, stream(0, "crop")), mean, std),
    "flip": normalise(random_flip(batch, stream(6, "flip")), mean, std),
    "erase": random_erase(inputs, 1.0, stream(0, "erase")),
    "mixup": mixed,
}

# %%
figure, axes = plt.subplots(len(rows), len(batch), figsize=(6.4, 5))
low, high = inputs.min(), inputs.max()
for row, (name, images) in zip(axes, rows.items(), strict=True):
    for ax, picture in zip(row, images, strict=True):
        ax.imshow(picture[:, :, 0], cmap="gray", vmin=low, vmax=high)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
sns.despine(left=True, bottom=True)
plt.show()

# %% [markdown]
# `crop` shifts an image and fills the gap with background. `flip` mirrors about half of the images. `erase` covers a
# rectangle by the mean, which is 0 after normalisation and appears dark grey. `mixup` blends each image with another
# one of the batch, and the targets in the same proportion, so a target has two entries above 0:

# %%
with np.printoptions(precision=2, suppress=True, linewidth=120):
    print(mixed_targets)

# %% [markdown]
# ## Batches
#
# `DataLoader` joins these steps: it holds the two parts and the statistics, and yields the batches of an epoch in a
# random order. The order depends only on the seed and the epoch. Two runs with the same seed that differ in the model,
# for example in its positional encoding, therefore see the same images in the same order. Chapter 9 uses this to
# compare them in pairs.

# %%
loader = DataLoader.of(config, digits)
images, targets = next(loader.epoch(1))
again, _ = next(loader.epoch(1))
other, _ = next(loader.epoch(2))
assert np.array_equal(images, again)
assert not np.array_equal(images, other)
print(f"{loader.steps} batches per epoch")
shapes(images=images, targets=targets)

# %% [markdown]
# ## The same for colour images
#
# Other datasets differ in the shapes of the arrays only. CIFAR-100 has photographs of 32 x 32 pixels in 100 classes.
# One study of this project uses the first 20 of them in alphabetical order. The next cell shows this subset if the
# files have been downloaded.

# %%
if DATASETS["cifar100"].find(None):
    display(contact_sheet(load("cifar100", classes=20), samples=6))
else:
    print("CIFAR-100 is not on this computer. To download it, run: vitab data fetch cifar100")

# %% [markdown]
# ## What to remember
#
# - Images are `uint8` arrays of shape (images, height, width, channels); a label is an index into the names of classes.
# - The training part determines the weights, the validation part guides decisions, and the test part measures once.
# - The best of many measurements is too high on average. This is why no decision may depend on the test part.
# - Mean and standard deviation come from the training images alone; all parts are normalised by the same numbers.
# - A target is a distribution over classes: one-hot, possibly smoothed or mixed.
#
# ## Exercises
#
# 1. Use `RunConfig(seed=1)`. Which of these change: the validation part, the test part, the mean?
# 2. In the simulation, set `tested` to 10,000, the size of the test part of CIFAR-100. How large is the error of the
#    choice by the test part now, and which assertion fails?
# 3. Add a cell that loads only two digits: `load("digits", classes=("3", "8"))`. What are the labels of the images, and
#    what is the chance accuracy?
#
# Next: [Chapter 2: From image to tokens](02_tokens.ipynb)
