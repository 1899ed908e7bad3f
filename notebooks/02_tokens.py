# %% [markdown]
# # 2. From image to tokens
#
# A transformer processes a sequence of vectors. This chapter shows how an image becomes such a sequence: it is cut into
# patches, each patch is flattened, and a linear layer maps it to a vector, its token. At the end you will know the
# shape of every array between the image and the first block, why the linear layer is a convolution, what its weights
# look like after the training, and what a class token is. The chapter needs [Chapter 1](01_data.ipynb) and matrix
# products.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from walkthrough import shapes, source, trained, use_style

from vit import ViT, cost, get_ops
from vit.backend.ops import Ops
from vit.layers import PatchEmbed

use_style()

# %% [markdown]
# ## The model of this chapter
#
# `trained` returns a finished run. It trains the model first if that has not been done, which takes a few seconds. The
# fields that are not given have default values: the dataset is `digits`, the patch size is 2. Of the configuration of
# the model, this chapter uses the following numbers. The comments in the code use the same letters.

# %%
run = trained(position="learned")
config = run.model_config()
print(f"side of the image        {config.image_size}")
print(f"channels               c = {config.channels}")
print(f"side of a patch        p = {config.patch_size}")
print(f"patches along a side   g = {config.grid}")
print(f"patches                N = {config.patches}")
print(f"width of a token       D = {config.width}")

# %% [markdown]
# ## Patches
#
# Each pixel could be a token. But attention compares every token with every other one, so the number of comparisons
# grows with the square of the number of tokens. A patch is a compromise: a square of $p \times p$ pixels that becomes
# one token. With $g$ patches along each side, there are $N = g^2$ patches.
#
# The figure shows two patch sizes. Patches do not overlap, and they are numbered row by row, as text is read.

# %%
images = run.dataset.train_images[:32]
image = images[2]
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.6))
for axis, side in zip(axes, (2, 4), strict=True):
    axis.imshow(image[:, :, 0], cmap="gray")
    for place in np.arange(side, 8, side) - 0.5:
        axis.axhline(place, color="#F0A500", lw=2)
        axis.axvline(place, color="#F0A500", lw=2)
    for n in range((8 // side) ** 2):
        row, column = divmod(n, 8 // side)
        place = column * side + (side - 1) / 2, row * side + (side - 1) / 2
        box = {"boxstyle": "circle", "facecolor": "white", "edgecolor": "none"}
        axis.annotate(str(n), place, color="#C8412B", ha="center", va="center", fontsize=9, bbox=box)
    axis.set(title=f"patch size {side}: {(8 // side) ** 2} patches", xlabel="column", ylabel="row")
plt.show()

# %% [markdown]
# ## Patchify is a reshape and a transpose
#
# No loop over patches is needed. Take a small image of $4 \times 4$ pixels with the values 0 to 15, and cut it into
# patches of $2 \times 2$.
#
# A pixel of this image has two indices: its row and its column. `reshape` splits each of them into two. The row $r$ of
# the image is the row $r \bmod p$ within a patch, and the patch is in the row $\lfloor r / p \rfloor$ of the grid of
# patches. The same holds for the column. The array then has four axes: *(row of patches, row in the patch, column of
# patches, column in the patch)*. No number has moved in memory. The cell prints the image, and its patch at the bottom
# left.

# %%
small = np.arange(16).reshape(4, 4)
split_axes = small.reshape(2, 2, 2, 2)
row_of_patches, column_of_patches = 1, 0
print(small)
print(split_axes[row_of_patches, :, column_of_patches, :])

# %% [markdown]
# To have each patch in one piece, `transpose` moves the two axes of the grid of patches to the front. A second
# `reshape` joins them to one axis of $N$ patches, and the other two to one axis of $p^2$ pixels. Each row of the result
# is one patch: first the top left one with the pixels 0, 1, 4 and 5, then the top right one.

# %%
joined = split_axes.transpose(0, 2, 1, 3)
flat = joined.reshape(4, 4)
print(flat)
shapes(small=small, split_axes=split_axes, joined=joined, flat=flat)

# %% [markdown]
# vitab does the same with three more axes. $R$ is the number of models that are trained together (the *runs*; here 1),
# $B$ is the number of images in a batch, and the last axis of the images is the channel.

# %%
source(Ops.patchify)

# %% [markdown]
# A flattened patch has the order *(channel, row, column)*, and the length $c\,p^2$. The next cell compares the steps by
# hand with vitab's operation, for images that are normalised as in Chapter 1. It also goes back from the patches to the
# images: patchify only rearranges numbers, so nothing is lost.

# %%
normalised = run.loader.normalise(images)[None]  # one run, R = 1
R, B, height, width, channels = normalised.shape
p, g, N, D = config.patch_size, config.grid, config.patches, config.width

split_axes = normalised.reshape(R, B, g, p, g, p, channels)
by_hand = split_axes.transpose(0, 1, 2, 4, 6, 3, 5).reshape(R, B, N, channels * p * p)
ops = get_ops("numpy")
patches = ops.patchify(normalised, p, out=ops.empty((R, B, N, config.patch_width)))
np.testing.assert_array_equal(patches, by_hand)

back = patches.reshape(R, B, g, g, channels, p, p).transpose(0, 1, 2, 5, 3, 6, 4)
np.testing.assert_array_equal(back.reshape(normalised.shape), normalised)
shapes(images=images, normalised=normalised, split_axes=split_axes, patches=patches)

# %% [markdown]
# The figure shows the patches of the image above as pictures, and as the rows of the matrix that the model reads. From
# here on, the model does not know which patches were neighbours. It only has the order of the rows.

# %%
figure, axes = plt.subplot_mosaic(
    [[f"{i} {j}" for j in range(g)] + ["matrix"] * 3 for i in range(g)], figsize=(7.4, 3.4)
)
low, high = normalised.min(), normalised.max()
for n, patch in enumerate(patches[0, 2]):
    axis = axes[f"{n // g} {n % g}"]
    axis.imshow(patch.reshape(p, p), cmap="gray", vmin=low, vmax=high)
    axis.set(xticks=[], yticks=[], xlabel=str(n))
    axis.spines[:].set_visible(True)
sns.heatmap(patches[0, 2], cmap="gray", ax=axes["matrix"], cbar_kws={"label": "normalised pixel"})
axes["matrix"].set(xlabel="pixel of the patch", ylabel="patch")
axes["matrix"].tick_params(length=0, labelrotation=0)
plt.show()

# %% [markdown]
# ## The linear embedding
#
# A patch has $c\,p^2$ numbers, but the blocks work with vectors of $D$ numbers. A linear layer maps one to the other.
# With the flattened patch $x_n$, a weight matrix $W$ of shape $D \times c\,p^2$ and a bias $b$ of length $D$, the
# embedded patch is
#
# $$e_n = W x_n + b .$$
#
# All patches share $W$ and $b$. A model with the encoding `learned` then adds a vector $t_n$ for each position $n$, so
# that the token is $e_n + t_n$. [Chapter 4](04_positions.ipynb) explains why. vitab's method does all of this:

# %%
source(PatchEmbed.forward)

# %% [markdown]
# `self.proj.product` multiplies by $W$, `add_bias` adds $b$, and the `hook` of the positional encoding adds the table.
# `prefix` is 1 if there is a class token, and 0 here. By hand, with the weights of the trained model:

# %%
state = run.store.checkpoint(run.key)
weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
table = state["pos_embed"]

embedded = patches[0] @ weight.reshape(D, -1).T + bias
by_hand = embedded + table

network = next(run.layers(images))  # the layers, with these images loaded
tokens = network.patch_embed.forward()
np.testing.assert_allclose(tokens[0], by_hand, rtol=1e-4, atol=1e-5)
shapes(patches=patches, weight=weight, bias=bias, embedded=embedded, table=table, tokens=tokens)

# %% [markdown]
# ## The same as a convolution
#
# The weight is stored in the shape *(D, channels, p, p)*, not as a matrix. This is the shape of the weight of a
# convolution. A **convolution** moves a filter of $p \times p$ pixels over the image and computes a weighted sum at
# each place. If the filter moves by $p$ pixels at a time (its **stride**), the windows are exactly the patches. With
# $W_{d,c,u,v}$ as the weight of output $d$, channel $c$, row $u$ and column $v$, the value at the patch in row $i$ and
# column $j$ is
#
# $$y_{d,i,j} = b_d + \sum_{c}\sum_{u=0}^{p-1}\sum_{v=0}^{p-1} W_{d,c,u,v}\, x_{c,\,p i + u,\,p j + v} .$$
#
# In the next cell, `sliding_window_view` returns the windows at all places of an image, and `[::p, ::p]` keeps every
# $p$-th of them.

# %%
windows = np.lib.stride_tricks.sliding_window_view(normalised[0, 2], (p, p), axis=(0, 1))
strided = windows[::p, ::p]
convolved = np.einsum("ijcuv,dcuv->ijd", strided, weight) + bias
np.testing.assert_allclose(convolved.reshape(N, D), embedded[2], rtol=1e-4, atol=1e-5)
shapes(windows=windows, strided=strided, convolved=convolved)

# %% [markdown]
# This is why other implementations write the patch embedding as a convolution. The two are the same function with the
# same weights. vitab uses the matrix product, and stores the weight in the shape of a convolution so that its files can
# be exchanged with those of the library timm.
#
# ## What the filters have learned
#
# In this view, the weights of each of the $D$ outputs are a small picture, the **filter**. The output is large where a
# patch resembles the filter. In large models trained on millions of photographs, the filters show edges, colour
# contrasts and waves. The figure shows ten filters of the small model before and after its training, and their outputs
# for the image above. `ViT` with the same seed has the same initial weights as the run.

# %%
model = ViT(config, ops, seeds=[run.config.seed])
initial = model.state_dict()["patch_embed.proj.weight"]
largest = np.argsort(-np.linalg.norm(weight.reshape(D, -1), axis=1))[:10]
pictures = {"before": initial[:, 0], "after": weight[:, 0], "output": convolved.transpose(2, 0, 1)}
figure, axes = plt.subplots(3, 10, figsize=(8, 2.8))
for row, (name, values) in zip(axes, pictures.items(), strict=True):
    limit = abs(values[largest]).max()
    for axis, d in zip(row, largest, strict=True):
        axis.imshow(values[d], cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
figure.suptitle("Ten filters and their outputs (red: above 0, blue: below 0)", fontsize=11)
plt.show()

# %% [markdown]
# The filters have hardly changed. A filter of $2 \times 2$ pixels has little to learn, and random filters already keep
# all information of a patch. What matters is that the layers behind the embedding know the filters. The next cell
# checks this on the validation images. It puts two other weights into the trained model: the initial filters, and the
# trained filters in another order, so that each output of the embedding arrives at a wrong place.

# %%
validation = run.loader.normalise(run.dataset.train_images[run.loader.validation])[None]


def accuracy(filters):
    model.load_state_dict(state | {"patch_embed.proj.weight": filters})
    return (model.forward(validation)[0].argmax(axis=-1) == run.loader.validation_labels).mean()


similarity = np.corrcoef(initial.ravel(), weight.ravel())[0, 1]
variants = {"trained": weight, "initial": initial, "shuffled": np.random.default_rng(0).permutation(weight)}
accuracies = {name: accuracy(filters) for name, filters in variants.items()}
assert similarity > 0.8
assert accuracies["initial"] > accuracies["shuffled"] + 0.3
print(f"correlation of the filters before and after the training: {similarity:.2f}")
print("validation accuracy:", ", ".join(f"{name} filters {value:.1%}" for name, value in accuracies.items()))

# %% [markdown]
# With the initial filters, the model loses little accuracy. With the shuffled ones it fails, although each of them is a
# trained filter. The later layers have adapted to the filters more than the filters to the digits. Such a check, which
# changes one part of a trained model and measures the result, is used again in Chapter 6.
#
# ## What a token contains
#
# A token has $D$ numbers, but they are computed from $c\,p^2$ numbers, and a linear layer cannot create information.
# Without bias and position, all tokens lie in a space of at most $c\,p^2$ dimensions, the number of columns of $W$. The
# other dimensions are room for the blocks, which add to a token what they compute from the others.
#
# Equal patches have equal embeddings, wherever they are in the image. In the image above, several patches at the edge
# have no ink. They have the same embedding, and their tokens differ only by the vector $t_n$ of their position.

# %%
centred = (embedded - bias).reshape(-1, D)
rank = np.linalg.matrix_rank(centred, tol=1e-3 * np.linalg.norm(centred, 2))
assert rank == config.patch_width
empty = np.flatnonzero((patches[0, 2] == patches.min()).all(axis=1))
assert len(empty) > 1
assert np.ptp(embedded[2, empty], axis=0).max() < 1e-5
assert np.ptp(tokens[0, 2, empty], axis=0).max() > 0.01
print(f"{len(centred)} embedded patches of width {D} span {rank} dimensions")
print("patches without ink:", *empty)

# %% [markdown]
# ## Class token or mean
#
# The last layer needs one vector per image, but there are $N$ tokens. Two solutions are common:
#
# - `pool="mean"`: the mean over all tokens after the last block. This is the default of vitab.
# - `pool="cls"`: one more token, the **class token**, is put before the patches. It belongs to no patch. Its initial
#   value is a learned vector, the same for all images, and in every block it collects information from the patches. The
#   classifier reads this token only.
#
# `prefix` in the code is the number of tokens before the patches. The number of tokens is $T = \mathrm{prefix} + N$.
#
# The next cell makes a model with a class token and its initial weights. Before the first block, the class token is the
# same for all images. After the last block it differs from image to image, because it has received information from the
# patches.

# %%
with_token = ViT(replace(config, pool="cls"), ops, seeds=[0])
token_network = with_token.network(B)
token_network.load(normalised)
token_network.logits()
before = token_network.patch_embed.forward()
after = token_network.head.norm.stream
assert (before[0, :, 0] == with_token.parameters["cls_token"].ravel()).all()
assert after[0, :, 0].std(axis=0).max() > 1e-3
shapes(cls_token=with_token.parameters["cls_token"], before=before, after=after)

# %% [markdown]
# Both ways are used in practice. The class token costs $D$ parameters and one token more. Which one is better on a
# dataset is a question for an experiment: `pool` is a field of a run, so it can be an axis of a study (Chapter 9).
#
# ## The sequence that the first block receives
#
# The figure shows the tokens of one image in the trained model, one row per token. The blocks have the same shape at
# their input and output, so the shape *(R, B, T, D)* remains until the head.

# %%
figure, axis = plt.subplots(figsize=(8, 3.2))
limit = abs(tokens[0, 2]).max()
sns.heatmap(tokens[0, 2], cmap="RdBu_r", vmin=-limit, vmax=limit, ax=axis, xticklabels=8, cbar_kws={"label": "value"})
axis.set(xlabel="element of the token", ylabel="token", title="Tokens of one image, before the first block")
axis.tick_params(length=0, labelrotation=0)
plt.show()

# %% [markdown]
# ## The patch size sets the cost
#
# Halving the patch size gives four times as many tokens. The table counts parameters and floating-point operations
# (FLOPs) of a forward pass on one image; Chapter 6 derives both numbers by hand. The number of parameters hardly
# depends on the patch size, because all patches share the weights. The number of operations grows by more than a factor
# of four with each step from 4 to smaller patches, because attention compares all pairs of tokens. With a patch size of
# 8 there is one token only, and nothing for attention to compare.

# %%
sizes = {p: replace(config, patch_size=p, pool="mean") for p in (8, 4, 2, 1)}
parameters = [cost.parameters(c) for c in sizes.values()]
flops = [cost.forward_flops(c) for c in sizes.values()]
assert max(parameters) < 1.1 * min(parameters)
assert flops[3] > 4 * flops[2] > 16 * flops[1]
columns = {
    "patch size": list(sizes),
    "patches N": [c.patches for c in sizes.values()],
    "numbers per patch": [c.patch_width for c in sizes.values()],
    "parameters": [f"{count:,}" for count in parameters],
    "million FLOPs per image": [f"{count / 1e6:.2f}" for count in flops],
}
pd.DataFrame(columns).set_index("patch size")

# %% [markdown]
# ## What to remember
#
# - An image becomes $N = g^2$ flattened patches by reshape, transpose, reshape; no information is lost.
# - One linear layer, shared by all patches, maps each patch to a token of width $D$. It is a convolution with stride
#   $p$.
# - In this small model, the filters of that layer stay close to their random initial values; the later layers adapt to
#   them.
# - Equal patches have equal embeddings. Only a positional encoding can tell the model where a patch is.
# - The head reads the mean of all tokens, or a class token that stands before the patches.
#
# ## Exercises
#
# 1. Train with patches of $4 \times 4$: replace the first line of the second code cell with
#    `run = trained(position="learned", patch=4)`. Which assertion fails, and why? Do the filters change more?
# 2. Train `trained(position="learned", pool="cls")`. Which shape has `tokens`? Extend `by_hand` so that the comparison
#    holds again.
# 3. In the cell of the convolution, replace `[::p, ::p]` with `[::1, ::1]`, and remove the comparison. How many tokens
#    would a model with overlapping patches have?
#
# Next: [Chapter 3: Attention by hand](03_attention.ipynb)
