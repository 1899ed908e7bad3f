# %% [markdown]
# # 4. Positions
#
# Attention compares every token with every other token. It does not know where in the image the tokens come from. At
# the end of this chapter you will know what a model without positional encoding cannot know and why, how a learned and
# a sinusoidal table tell the model where each patch is, and at which four places of a model an encoding can act. The
# chapter needs [Chapter 2](02_tokens.ipynb) (patches and tokens) and [Chapter 3](03_attention.ipynb) (queries, keys and
# scores).

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from walkthrough import COLOURS, source, trained, use_style

from ablations.config.position_facts import position_facts
from ablations.evaluation.patches import from_patches, to_patches
from ablations.evaluation.protocols.position_probe import PositionProbe
from ablations.evaluation.protocols.shuffle import derangement
from ablations.reporting.figures.encoding_effects import effects
from ablations.reporting.figures.encoding_panels import (
    colour_bar,
    cosine_similarity,
    displacement_map,
    similarity_mosaic,
)
from vit import ViT, ViTConfig, get_ops
from vit.positions import POSITIONS, BlockHook, TokenHook
from vit.positions.base import patch_coordinates
from vit.positions.sinusoidal import sinusoidal_table
from vit.positions.sinusoidal_1d import raster_table
from vit.positions.tables import AddTable

use_style()

# %% [markdown]
# ## Images whose patches change places
#
# Three trained models are used in this chapter. They differ only in their positional encoding: `none` has no encoding,
# `learned` has a learned table, and `sinusoidal` has a table of sines and cosines. Each model cuts an image of 8 x 8
# pixels into a grid of $g \times g$ patches with $g = 4$, so there are $N = g^2 = 16$ patches.
#
# The next cell moves the patches of all test images. One permutation is drawn at random and used for all images;
# `derangement` draws one that leaves no patch in its place.

# %%
runs = {position: trained(position=position) for position in ("none", "learned", "sinusoidal")}
images, labels = runs["none"].images, runs["none"].labels
patches = to_patches(images, patch=2)  # (images, 16, 2, 2, 1)
order = derangement(np.random.default_rng(0), 16)
shuffled = from_patches(patches[:, order])

figure, axes = plt.subplots(2, 6, figsize=(8, 3.1))
for column, pair in enumerate(zip(images[:6], shuffled[:6], strict=True)):
    for ax, picture in zip(axes[:, column], pair, strict=True):
        ax.imshow(picture[:, :, 0], cmap="gray")
        ax.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("in place")
axes[1, 0].set_ylabel("shuffled")
figure.suptitle("Six test images, and the same images with their 16 patches permuted")
plt.show()

# %% [markdown]
# A person cannot read the digits in the lower row. Now the trained models classify both versions. The function below
# returns the logits of a trained model, an array *(images, classes)*. It computes in float64, so that rounding errors
# are far smaller than any effect of interest.


# %%
def logits(run, images):
    model = ViT(run.model_config(), get_ops("numpy", dtype="float64"), [run.config.seed])
    model.load_state_dict(run.store.checkpoint(run.key))
    return model.forward(run.loader.normalise(images)[None])[0]


in_place = {position: logits(run, images) for position, run in runs.items()}
moved = {position: logits(run, shuffled) for position, run in runs.items()}
change = {position: np.abs(moved[position] - in_place[position]) for position in runs}
changed = {position: moved[position].argmax(1) != in_place[position].argmax(1) for position in runs}

assert not changed["none"].any()
assert change["none"].max() < 1e-9
assert min(changed["learned"].mean(), changed["sinusoidal"].mean()) > 0.5

# %%
rows = {
    position: {
        "accuracy in place": f"{np.mean(in_place[position].argmax(1) == labels):.1%}",
        "accuracy shuffled": f"{np.mean(moved[position].argmax(1) == labels):.1%}",
        "predictions that change": f"{changed[position].mean():.1%}",
        "largest change of a logit": f"{change[position].max():.1e}",
    }
    for position in runs
}
display(pd.DataFrame(rows).T)

# %% [markdown]
# For the model without positional encoding nothing changes: every prediction is the same, and the logits differ by
# rounding errors only. For the other two models most predictions change.
#
# The model without encoding sees an image as a *bag of patches*: it knows which patches there are, but not where. Its
# accuracy is still far above chance. A likely explanation is that the patches themselves say a lot: how many are empty,
# how many contain an edge, and in which direction the edges run.
#
# ## Why: self-attention is permutation equivariant
#
# Let $X$ be the tokens of one image, a matrix of $T$ rows (one per token) and $D$ columns. $P$ is a permutation matrix
# of size $T \times T$: $PX$ has the same rows as $X$ in another order, and $P^\top P = I$. $W_q$, $W_k$ and $W_v$ are
# the projections of one head. The scale and the biases are left out; they change nothing below. Attention computes
# $\mathrm{Att}(X) = \mathrm{softmax}(S)\, X W_v$ with the scores $S = (X W_q)(X W_k)^\top$. With permuted tokens:
#
# 1. The scores become $(P X W_q)(P X W_k)^\top = P S P^\top$: rows and columns are permuted in the same way.
# 2. The softmax treats every row by itself, and the order within a row does not matter for it. So
#    $\mathrm{softmax}(P S P^\top) = P\, \mathrm{softmax}(S)\, P^\top$.
# 3. The output is $P\, \mathrm{softmax}(S)\, P^\top P X W_v = P\, \mathrm{softmax}(S)\, X W_v$, since $P^\top P = I$.
#
# Together, $\mathrm{Att}(PX) = P\, \mathrm{Att}(X)$. A function with this property is called *permutation equivariant*:
# permuting its input permutes its output in the same way. The other parts of a block (layer normalisation, MLP,
# residual connections) process every token by itself, so they are equivariant too. At the end, the head takes the mean
# of all tokens, which does not depend on their order. Hence the logits stay the same: they are permutation *invariant*.
#
# The next cell checks the equivariance of an attention layer of vitab, with random weights and random tokens.


# %%
def model_with(position):
    shape = {"image_size": 8, "patch_size": 2, "channels": 1, "classes": 10, "width": 64, "depth": 2, "heads": 2}
    model = ViT(ViTConfig(**shape, position=position), get_ops("numpy", dtype="float64"), [0])
    model.derive()
    return model


attention = model_with("none").network(1).blocks[0].attn
tokens = np.random.default_rng(1).normal(size=(1, 1, 16, 64))  # (R, B, T, D): one run, one image
output = attention.forward(tokens).value.copy()
output_permuted = attention.forward(tokens[:, :, order]).value
np.testing.assert_allclose(output_permuted, output[:, :, order], rtol=1e-9, atol=1e-12)

# %% [markdown]
# ## A learned table
#
# The simplest remedy gives each position a vector of its own, and adds it to the token of the patch at this position.
# The vectors form a table of shape $(N, D)$. It is a parameter like any other: it starts with small random numbers and
# is trained together with the model. Equal patches at different positions then have different tokens, so the layers
# that follow can tell them apart. This is the encoding of the original Vision Transformer, named `learned` here. It
# acts through the following class.

# %%
source(AddTable)

# %% [markdown]
# The vectors of positions are compared by their **cosine similarity**: the dot product of two vectors divided by
# their lengths. It is 1 for the same direction, 0 for orthogonal vectors and negative for opposite directions.
#
# The next figure shows all similarities before and after the training. It consists of 16 tiles, one for each patch, at
# the position of the patch. A tile is a small map of the image: it shows how similar the vector of its patch is to the
# vector of every patch. In each tile, the brightest cell is the patch itself.

# %%
run = runs["learned"]
tables = {
    "before training": ViT(run.model_config(), get_ops("numpy"), [run.config.seed]).parameters["pos_embed"][0, 0],
    "after training": run.store.checkpoint(run.key)["pos_embed"][0],
}
figure, axes = plt.subplots(1, 2, figsize=(7.4, 4.2))
for ax, (title, table) in zip(axes, tables.items(), strict=True):
    image = similarity_mosaic(ax, cosine_similarity(table))
    colour_bar(figure, ax, image, "cosine similarity", shrink=0.8)
    ax.set_title(f"learned table, {title}")
plt.show()

# %%
x, y = patch_coordinates(4)  # column and row of each patch
distance = np.hypot(x[:, None] - x, y[:, None] - y)  # of any two patches
for title, table in tables.items():
    length, similarity = np.linalg.norm(table, axis=1).mean(), cosine_similarity(table)
    near, far = similarity[distance == 1].mean(), similarity[distance > 2].mean()
    print(f"{title}: mean length {length:.2f}, similarity of neighbours {near:+.2f}, of distant patches {far:+.2f}")
    assert near <= far
    assert max(abs(near), abs(far)) < 0.2
assert np.linalg.norm(tables["after training"]) > 2 * np.linalg.norm(tables["before training"])

# %% [markdown]
# The training has made the vectors longer. But neighbouring positions are not more similar than distant ones. The table
# does not show the geometry of the grid, and it does not need to: it is sufficient that the positions differ from each
# other. The publication of the Vision Transformer shows tables in which neighbours are similar. Those tables had far
# more positions and were trained on millions of images.
#
# A table has two disadvantages. It says nothing about geometry that the model does not learn from data. And it has a
# fixed number of rows, so it must be resized for images of another size.
#
# ## A table of sines and cosines
#
# The encoding `sinusoidal` replaces the learned table by a formula. Let $x$ be the column and $y$ the row of a patch,
# counted from 0. The formula uses $D/4$ **frequencies**
#
# $$\omega_i = 10000^{-i / (D/4 - 1)}, \qquad i = 0, \dots, D/4 - 1,$$
#
# which decrease from 1 to $1/10000$ radians per patch. The vector of the patch at $(x, y)$ has four parts of $D/4$
# channels each:
#
# $$p(x, y) = \left[\sin(x \omega),\ \cos(x \omega),\ \sin(y \omega),\ \cos(y \omega)\right].$$
#
# Here $\omega$ stands for all frequencies one after another. So the first half of the channels describes the column,
# the second half the row. The next cell shows the function of vitab, and the figure after it the table. In the
# figure, every line is the vector of one patch. Patches are in row-major order: the first four lines are the top row of
# the image.

# %%
source(sinusoidal_table)

# %%
sinusoids = sinusoidal_table(x, y, width=64)
omega = 10000.0 ** (-np.arange(16) / 15)
by_hand = np.concatenate([np.sin(2 * omega), np.cos(2 * omega), np.sin(1 * omega), np.cos(1 * omega)])
np.testing.assert_allclose(by_hand, sinusoids[1 * 4 + 2])  # the patch in column 2 and row 1

figure, ax = plt.subplots(figsize=(8, 3.4))
picture = ax.imshow(sinusoids, cmap="vlag", vmin=-1, vmax=1, aspect="auto")
ax.set(xlabel="channel", ylabel="patch (row-major)", xticks=range(0, 65, 8), yticks=range(0, 16, 4))
for edge, part in zip(range(0, 64, 16), ("sin(x ω)", "cos(x ω)", "sin(y ω)", "cos(y ω)"), strict=True):
    ax.text(edge + 7.5, -0.9, part, ha="center", va="bottom")
    ax.axvline(edge - 0.5, color="black", lw=0.8)
figure.colorbar(picture, ax=ax, label="value")
plt.show()

# %% [markdown]
# In the left half, the lines repeat after four patches, because patches below each other have the same column. In the
# right half, four consecutive lines are equal, because they have the same row. Within each part, only the first few
# channels vary: on a grid this small, $x \omega_i$ stays near 0 for the small frequencies.
#
# The table has a useful property. By $\sin a \sin b + \cos a \cos b = \cos(a - b)$, the dot product of the vectors of
# two patches is
#
# $$p(x, y) \cdot p(x', y') = \sum_i \left[\cos((x' - x)\, \omega_i) + \cos((y' - y)\, \omega_i)\right].$$
#
# It depends on the **displacement** $(x' - x, y' - y)$ only, not on where the two patches are. Scores do not inherit
# this property, because they are products of *projected* tokens. For two rows $p$ and $p'$ of the table,
#
# $$(p W_q) \cdot (p' W_k) = p\, W_q W_k^\top\, p'^\top,$$
#
# and the matrix $W_q W_k^\top$ in the middle mixes the channels. The next cell checks the formula, and shows the
# products with and without the projections of a trained model for all patches and their right neighbours. The encoding
# of [Chapter 5](05_rope.ipynb) is made to have the property in the scores.

# %%
dx, dy = x - x[:, None], y - y[:, None]  # displacements of any two patches
formula = np.cos(dx[..., None] * omega) + np.cos(dy[..., None] * omega)
products = sinusoids @ sinusoids.T
np.testing.assert_allclose(products, formula.sum(axis=-1))

run = runs["sinusoidal"]
weight = run.store.checkpoint(run.key)["blocks.0.attn.qkv.weight"]
of_queries, of_keys = weight[:32].T, weight[64:96].T  # of the first head, (D, K)
projected = (sinusoids @ of_queries) @ (sinusoids @ of_keys).T
right = (dx == 1) & (dy == 0)
print("products of right neighbours:", products[right].round(1))
print("after the projections:", projected[right].round(1))
assert np.ptp(projected[right]) > 1 > np.ptp(products[right])

# %% [markdown]
# ## Patch numbers or two coordinates
#
# The first transformer processed text, where a position is a single number. Its sinusoidal table can be used for images
# too, with the number $n = y g + x$ of the patch as the position. This order, line by line, is called raster order. The
# encoding is named `sinusoidal-1d` in vitab. The next figure compares the similarities of both tables.

# %%
raster = raster_table(np.arange(16), width=64)
similarity = {"sinusoidal (2-D)": cosine_similarity(sinusoids), "sinusoidal-1d": cosine_similarity(raster)}
figure, axes = plt.subplots(1, 2, figsize=(7.4, 4.2))
for ax, (title, values) in zip(axes, similarity.items(), strict=True):
    colour_bar(figure, ax, similarity_mosaic(ax, values), "cosine similarity", shrink=0.8)
    ax.set_title(title)
plt.show()

# %%
pairs = {  # numbers of two patches
    "right neighbour": (4, 5),  # column 0 and row 1, column 1 and row 1
    "lower neighbour": (4, 8),  # column 0 and row 1, column 0 and row 2
    "end of a row, start of the next": (3, 4),  # column 3 and row 0, column 0 and row 1
}
compared = pd.DataFrame({title: {pair: values[p] for pair, p in pairs.items()} for title, values in similarity.items()})
right, lower, wrapped = compared.to_numpy()
assert np.isclose(right[0], lower[0])
assert right[0] > wrapped[0]
assert np.isclose(right[1], wrapped[1])
assert right[1] > lower[1]
display(compared.round(3))

# %% [markdown]
# With two coordinates, the right and the lower neighbour are equally similar. In raster order, the right neighbour is
# more similar than the lower one. And the last patch of a row is as similar to the first patch of the next row as two
# true neighbours are, though they are at opposite edges of the image. The positions still differ from each other, so a
# model can learn to use them. But the geometry of the table is not that of the image.
#
# ## Four places where an encoding can act
#
# Adding a table to the tokens is one of four ways. vitab calls an encoding through **hooks**: methods that a
# layer calls at a fixed place. By default, a hook encodes nothing; an encoding overrides the methods that it needs.
# There is one `TokenHook` for a model, and one `BlockHook` for each block.

# %%
display(source(TokenHook))
for name in ("block_input", "queries_keys", "scores"):
    print(f"BlockHook.{name}: {getattr(BlockHook, name).__doc__.splitlines()[0]}")

# %% [markdown]
# In the order of the forward pass:
#
# 1. **Tokens.** `TokenHook.forward` adds something to the patch tokens once, before the first block.
# 2. **Block input.** `BlockHook.block_input` changes the input of a block.
# 3. **Queries and keys.** `BlockHook.queries_keys` changes queries and keys after their projection.
# 4. **Scores.** `BlockHook.scores` adds a bias to the scores, before the softmax.
#
# `AddTable` above is an example of the first. The encoding `cpe` is an example of the second. It adds a convolution of
# the tokens to the tokens: each channel of a token becomes a weighted sum over 3 x 3 neighbouring patches. Beyond the
# edge of the image the convolution reads zeros. So even if all 16 tokens are equal, the results at the edge differ from
# those in the middle, and the position becomes visible. The cell calls the hook with tokens of ones and prints one
# channel of what it adds. The second argument is the output of the block before, if it has not been added to the tokens
# yet; there is none here.

# %%
hook = model_with("cpe").network(1).blocks[1].hook
ones = np.ones((1, 1, 16, 64))
stream, _ = hook.block_input(ones, None)
added = (stream - ones)[0, 0, :, 0].reshape(4, 4)
print(added.round(2))
assert np.allclose(added[1:3, 1:3], added[1, 1])
assert not np.isclose(added[0, 0], added[1, 1])

# %% [markdown]
# `rope` acts on queries and keys. It rotates them by angles that depend on the position. Rotations keep the lengths of
# vectors, and the values are not changed.
#
# `alibi-2d` acts on the scores. It subtracts the distance of the two patches times a constant, the slope. It is
# $2^{-8h/H}$ for head $h = 1, \dots, H$, so $2^{-4}$ for the first of two heads. Distant patches get lower scores than
# near ones with the same content.

# %%
hook = model_with("rope").network(1).blocks[0].hook
qkv = np.random.default_rng(2).normal(size=(1, 1, 16, 3, 2, 32))  # (R, B, T, query-key-value, H, K)
rotated = qkv.copy()
hook.queries_keys(rotated, bias=np.zeros((1, 3 * 64)), scale=1.0)
np.testing.assert_allclose(np.linalg.norm(rotated, axis=-1), np.linalg.norm(qkv, axis=-1))
np.testing.assert_array_equal(rotated[:, :, :, 2], qkv[:, :, :, 2])
assert not np.allclose(rotated[:, :, :, :2], qkv[:, :, :, :2])

hook = model_with("alibi-2d").network(1).blocks[0].hook
scores = np.zeros((1, 1, 2, 16, 16))  # (R, B, H, T, T): rows are queries, columns keys
hook.scores(scores, qkv)
np.testing.assert_allclose(scores[0, 0, 0], -(2.0**-4) * distance)  # of the first head

# %% [markdown]
# Reports draw the effects of encodings in the same way: they call the hooks of the models with simple inputs. What is
# added to tokens is drawn as similarities. The effects of `rope` and `alibi-2d` depend only on the displacement from
# the query to the key, $dx$ columns and $dy$ rows, and are drawn over it. The *relative score* is the dot product of a
# query and a key of ones after the rotation, divided by that before it.

# %%
panels = {"sinusoidal": "table", "cpe": "response", "rope": "rotation", "alibi-2d": "bias"}
figure, axes = plt.subplots(1, 4, figsize=(8, 3.1))
for ax, (position, kind) in zip(axes, panels.items(), strict=True):
    model = model_with(position)
    effect = effects(model.position, model.config, model.state_dict())[kind]
    if kind in ("table", "response"):
        image, label = similarity_mosaic(ax, cosine_similarity(effect)), "cosine similarity"
    elif kind == "rotation":
        image, label = displacement_map(ax, effect), "relative score"
    else:
        image, label = displacement_map(ax, effect[0]), "bias of head 1"
    colour_bar(figure, ax, image, label, shrink=0.9)
    ax.set_title(f"{position}\n({model.position.acts_on})")
plt.show()

# %% [markdown]
# The next table lists all encodings of vitab by the place where they act. It is made from their classes.
# *Parameters* is the number of learned numbers in a model of the shape used in this chapter. *Other image sizes* says
# how a trained model can serve a grid of another size: `resize` resizes a table like an image, and
# [Chapter 5](05_rope.ipynb) explains `extend` and `interpolate`. Encodings can also be added to each other, as in
# `rope+learned`. The encodings that this chapter does not explain are described in
# [Positional encodings](../docs/encodings.md); `vitab positions NAME` prints the formula of one.

# %%
places = {
    "nothing": "",
    "tokens": "TokenHook.forward",
    "block input": "BlockHook.block_input",
    "queries and keys": "BlockHook.queries_keys",
    "scores": "BlockHook.scores",
}
facts = sorted(map(position_facts, POSITIONS), key=lambda fact: list(places).index(fact.acts_on))
table = pd.DataFrame(
    [(fact.acts_on, places[fact.acts_on], fact.count, fact.other_grids) for fact in facts],
    columns=["acts on", "hook", "parameters", "other image sizes"],
    index=[fact.name for fact in facts],
)
display(table)

# %% [markdown]
# ## Where the position can be read
#
# The protocol `position-probe` measures whether a model keeps the position that it is given. It fits a linear
# regression that predicts column and row of a patch from its token, on half of a sample of test images, and tests it on
# the other half. The score $R^2$ is 1 for perfect predictions, and 0 for predictions that are no better than the mean
# position. It is measured on the tokens before the first block and after each block.

# %%
probes = {position: PositionProbe().measure(run).arrays["r2"] for position, run in runs.items()}
assert min(probes["learned"][0], probes["sinusoidal"][0]) > 0.99
assert probes["none"].max() < 0.3
assert probes["learned"][0] > probes["learned"][1] > probes["learned"][2]
assert probes["sinusoidal"].min() > 0.8
assert np.linalg.norm(sinusoids) > 5 * np.linalg.norm(tables["after training"])

figure, ax = plt.subplots(figsize=(6, 3.4))
for position, r2 in probes.items():
    ax.plot(r2, marker="o", color=COLOURS[position], label=position)
ax.set(xlabel="blocks before the measurement", ylabel="R² of column and row", xticks=range(3), ylim=(-0.05, 1.05))
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Before the first block, the position can be read almost perfectly from tokens to which a table was added. Without
# encoding, only a little can be read: the content of a patch says something about its place, since the corners of the
# images are mostly empty. In the model with the learned table, less can be read after each block. The position remains
# readable in the model with the sinusoidal table.
#
# The experiment does not show why. Likely explanations are these: to classify the image, a model needs the position
# only until it has combined the patches, and nothing forces it to keep it. And the vectors of the sinusoidal table are
# much longer than those of the learned one, so they may remain a large part of the tokens.
#
# ## What to remember
#
# - Self-attention is permutation equivariant. With mean pooling, a model without positional encoding returns the same
#   logits for every order of the patches.
# - A learned table gives each position a vector of its own. The vectors have to differ; they need not describe the
#   geometry of the image.
# - The 2-D sinusoidal table describes the column in one half of the channels and the row in the other. The dot product
#   of two of its vectors depends on the displacement only, but scores do not inherit this property.
# - Raster order makes the end of a row a neighbour of the start of the next row.
# - An encoding can act on the tokens, on the input of a block, on queries and keys, or on the scores.
#
# ## Exercises
#
# 1. Give every image its own permutation instead of one for all: use `permutations` of
#    `ablations.evaluation.protocols.shuffle`. What changes for `none`, and why?
# 2. Replace `order` by a permutation that swaps only two neighbouring patches. How many predictions of the model
#    `learned` change?
# 3. Compute the sinusoidal table by hand with 10 in the place of 10000, and draw its similarities. How do the
#    similarities of neighbours and of opposite corners change? Which frequencies make the difference?
#
# Next: [Chapter 5: RoPE](05_rope.ipynb)
