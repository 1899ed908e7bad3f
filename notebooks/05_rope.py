# %% [markdown]
# # 5. RoPE
#
# RoPE, short for *rotary position embedding* (Su et al. 2021, arXiv 2104.09864), is the positional encoding of many
# language models and of recent vision transformers. It adds nothing to the tokens. It rotates queries and keys by
# angles that are proportional to their positions, so that the scores depend on displacements only. The version for
# images used here is that of rope-vit (Heo et al. 2024, arXiv 2403.13298).
#
# At the end of this chapter you will be able to derive this property, follow the rotation through the code of vitab,
# say what the base means for a grid of patches, and recognise a common, silent bug of RoPE. The chapter needs
# [Chapter 3](03_attention.ipynb) (queries, keys and scores) and [Chapter 4](04_positions.ipynb) (why positions are
# needed). It uses rotations of the plane, and complex numbers where they make code or a formula shorter.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from walkthrough import COLOURS, shapes, source, trained, use_style

from ablations.evaluation.protocols.position_probe import PositionProbe
from ablations.evaluation.protocols.resolution import resize
from ablations.reporting.figures.encoding_effects import Effects, by_displacement
from ablations.reporting.figures.encoding_panels import colour_bar, displacement_map, frequency_plane
from vit import ViT, get_ops
from vit.backend.ops import Ops
from vit.positions import BlockHook, encoding
from vit.positions.base import coordinates, patch_coordinates
from vit.positions.pairs import to_halves
from vit.positions.rope import RotaryPosition, rotary_angles
from vit.positions.rope_mixed import FREQUENCIES

use_style()
QUERY, KEY, FAINT = COLOURS["rope"], COLOURS["sinusoidal"], "#BBBBBB"

# %% [markdown]
# ## 5.1 What is wanted
#
# The score of a query $q$ and a key $k$ is their dot product, divided by $\sqrt{K}$, where $K$ is the head width. This
# constant is left out until Section 5.6. Let the query belong to position $m$ and the key to position $n$; for now,
# positions are whole numbers on a line. In this chapter, $q$ and $k$ are column vectors, $j$ is the number of a pair of
# channels, $\mathrm{i}$ is the imaginary unit, and $dx$ and $dy$ are displacements by columns and rows, not gradients.
#
# If a table $p$ is added to the tokens $x$ (rows, as in Chapter 4), the score is
#
# $$(x_m + p_m) W_q \cdot (x_n + p_n) W_k.$$
#
# If the content of an image moves by one patch, all scores can change. It would be more natural if the score depended
# on the content and on the **displacement** $d = n - m$ from the query to the key only:
#
# $$\mathrm{score}(q \text{ at } m,\ k \text{ at } n) = f(q, k, n - m).$$
#
# The difficulty is that query and key are computed separately: the query knows $m$ but not $n$. RoPE changes $q$ by
# means of $m$ alone, and $k$ by means of $n$ alone, such that only $n - m$ remains in the dot product.
#
# ## 5.2 Rotating one pair of channels
#
# Two channels $(a, b)$ of a query or a key are a vector in the plane. The rotation by an angle $\theta$ is
#
# $$\mathrm{Rot}(\theta) \begin{pmatrix} a \\ b \end{pmatrix} =
# \begin{pmatrix} \cos\theta & -\sin\theta \\ \sin\theta & \cos\theta \end{pmatrix}
# \begin{pmatrix} a \\ b \end{pmatrix} =
# \begin{pmatrix} a \cos\theta - b \sin\theta \\ a \sin\theta + b \cos\theta \end{pmatrix}.$$
#
# Three facts about rotations are used below:
#
# 1. They keep lengths.
# 2. The angles of two rotations in a row add up:
#    $\mathrm{Rot}(\theta_1)\, \mathrm{Rot}(\theta_2) = \mathrm{Rot}(\theta_1 + \theta_2)$.
# 3. The transpose is the rotation back: $\mathrm{Rot}(\theta)^\top = \mathrm{Rot}(-\theta)$.
#
# The same in complex numbers: write the pair as $z = a + \mathrm{i} b$. Then the rotation is a multiplication by
# $e^{\mathrm{i}\theta} = \cos\theta + \mathrm{i} \sin\theta$. The next cell checks that both views agree, and the three
# facts.


# %%
def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


a, b = pair = np.array([0.8, 0.3])
first, second = 0.7, -2.1
z = np.exp(1j * first) * (a + 1j * b)
np.testing.assert_allclose(rotation(first) @ pair, [z.real, z.imag])
np.testing.assert_allclose(np.linalg.norm(rotation(first) @ pair), np.linalg.norm(pair))
np.testing.assert_allclose(rotation(first) @ rotation(second), rotation(first + second))
np.testing.assert_allclose(rotation(first).T, rotation(-first))

# %% [markdown]
# RoPE rotates the query at position $m$ by the angle $m \omega$ and the key at position $n$ by $n \omega$. The constant
# $\omega$, the **frequency**, is the angle per position, in radians.
#
# The next figure shows frames of one query (red) and one key (blue). In the upper row, both move along the line, two
# positions apart. They turn together, so the angle between them stays the same, and so does the score. In the lower
# row, only the key moves. The angle between them changes, and so does the score.

# %%
query, key, omega = np.array([1.0, 0.1]), np.array([0.8, 0.2]), 0.5
frames = {"both move": [(m, m + 2) for m in range(6)], "only the key moves": [(0, n) for n in range(6)]}
figure, axes = plt.subplots(2, 6, figsize=(8, 3.9))
for line, (title, places) in zip(axes, frames.items(), strict=True):
    line[0].set_ylabel(title)
    for ax, (m, n) in zip(line, places, strict=True):
        q, k = rotation(m * omega) @ query, rotation(n * omega) @ key
        ax.add_patch(plt.Circle((0, 0), 1, fill=False, color=FAINT, lw=0.8))
        for vector, colour in ((q, QUERY), (k, KEY)):
            ax.annotate("", vector, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0})
        ax.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal", xticks=[], yticks=[])
        ax.set(title=f"m = {m}, n = {n}", xlabel=f"score {q @ k:+.2f}")
        ax.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# ## 5.3 Only the displacement remains
#
# A dot product $u \cdot v$ is $u^\top v$, so $(A u) \cdot (B v) = u^\top A^\top B\, v$ for any matrices $A$ and $B$.
# With facts 3 and 2,
#
# $$\left(\mathrm{Rot}(m\omega)\, q\right) \cdot \left(\mathrm{Rot}(n\omega)\, k\right)
# = q^\top\, \mathrm{Rot}(m\omega)^\top\, \mathrm{Rot}(n\omega)\, k
# = q^\top\, \mathrm{Rot}((n - m)\omega)\, k.$$
#
# The positions $m$ and $n$ occur only as $n - m = d$. Query and key must be rotated in the same plane, that is, in the
# same two channels. Section 5.11 shows what happens otherwise.
#
# In complex numbers, let $z_q = a_q + \mathrm{i} b_q$ and $z_k = a_k + \mathrm{i} b_k$. With the complex conjugate
# $\overline{z_q} = a_q - \mathrm{i} b_q$, the dot product $a_q a_k + b_q b_k$ is the real part of $\overline{z_q} z_k$.
# In polar form, $z_q = |q|\, e^{\mathrm{i}\alpha_q}$ and $z_k = |k|\, e^{\mathrm{i}\alpha_k}$. The rotations add
# $m\omega$ to $\alpha_q$ and $n\omega$ to $\alpha_k$, and by fact 1 they keep the lengths. Let
# $\varphi = \alpha_k - \alpha_q$ be the angle from $q$ to $k$ before the rotation, anticlockwise. After the rotation,
# the product is $|q|\, |k|\, e^{\mathrm{i}(\varphi + d \omega)}$, and its real part is
#
# $$\mathrm{score}(d) = |q|\, |k| \cos(\varphi + d\, \omega).$$
#
# The next cell computes the scores of a random query and a random key at all pairs of positions from 0 to 7: once
# rotated, and once with the vectors of random tables added, which stand for $p_m W_q$ and $p_n W_k$. With the rotation,
# the scores are constant along each diagonal, that is, for each displacement. Each map has its own scale.

# %%
rng = np.random.default_rng(10)
query, key, table_q, table_k = (rng.normal(size=shape) for shape in (2, 2, (8, 2), (8, 2)))


def at(places, vector):
    return np.stack([rotation(n * omega) @ vector for n in places])


places = np.arange(8)
rotated = at(places, query) @ at(places, key).T
matrices = {"rotated": rotated, "table added": (query + table_q) @ (key + table_k).T}
for d in range(-7, 8):
    np.testing.assert_allclose(np.diagonal(rotated, d), query @ rotation(d * omega) @ key)
np.testing.assert_allclose(at(places + 5, query) @ at(places + 5, key).T, rotated)
assert not np.allclose(at(places + 5, query) @ key, at(places, query) @ key)  # the key of a class token
assert not np.allclose(at(places + 5, key).mean(axis=0), at(places, key).mean(axis=0))  # as if these were values

figure, axes = plt.subplots(1, 2, figsize=(7, 3.2))
for ax, (title, scores) in zip(axes, matrices.items(), strict=True):
    largest = np.abs(scores).max()
    picture = ax.imshow(scores, cmap="vlag", vmin=-largest, vmax=largest)
    ax.set(title=title, xlabel="position n of the key", ylabel="position m of the query")
    figure.colorbar(picture, ax=ax, label="score")
plt.show()

# %% [markdown]
# The consequences are:
#
# - A constant added to all positions changes no score between two patches. Counting from 0, from 1 or from the centre
#   is the same. But a class token ([Chapter 2](02_tokens.ipynb)) has no position and is not rotated. The score between
#   it and a patch depends on the position of this patch, so it does change.
# - The sign of $d$ matters, because of $\varphi$. A key to the right can have another score than the same key at the
#   same distance to the left.
# - RoPE has no parameters. How strongly a pair of channels acts ($|q|\,|k|$), and at which displacement its score is
#   highest ($\varphi$), depends on query and key. Both come from the learned projections $W_q$ and $W_k$.
# - Values are not rotated. The output of attention is a weighted sum of values. A rotated value would carry its own
#   position into this sum, and the output would depend on where the patches are.
#
# ## 5.4 Many pairs, many frequencies
#
# One pair is not enough. Its score repeats after $\lambda = 2\pi / \omega$ positions, the **wavelength**, so it
# confuses the displacements $d$ and $d + \lambda$. A pair that turns slowly has a long wavelength, but hardly tells
# neighbours apart. Therefore RoPE divides the $K$ channels of a head into $K/2$ pairs, numbered
# $j = 0, \dots, K/2 - 1$, and gives each pair a frequency of its own:
#
# $$\omega_j = \beta^{-2j/K}.$$
#
# $\beta$ is the **base**. The first pair turns by one radian per position. Each further pair turns more slowly than the
# one before it, always by the same factor. The last one turns by $\beta^{-(1 - 2/K)}$, somewhat more than $1/\beta$.
# (The sinusoids of Chapter 4 divide by one number less in the exponent and do reach $1/10000$.) Equal factors spread
# the wavelengths evenly over the orders of magnitude. With equal steps of the frequency instead, nearly all wavelengths
# would be short. The pairs work like the hands of a clock: the fast ones distinguish neighbours, the slow ones
# distinguish distant positions. The score is the sum over all pairs:
#
# $$\mathrm{score}(d) = \sum_j |q_j|\, |k_j| \cos(\varphi_j + d\, \omega_j),$$
#
# where $q_j$ and $k_j$ are the channels of pair $j$, and $\varphi_j$ is the angle from $q_j$ to $k_j$. The next figure
# shows the hands of a head with $K = 8$ and $\beta = 100$.

# %%
frequencies = 100.0 ** (-2 * np.arange(4) / 8)
figure, axes = plt.subplots(4, 8, figsize=(8, 4.6))
for j, line in enumerate(axes):
    label = f"pair {j}\nω = {frequencies[j]:.2g}\nλ = {2 * np.pi / frequencies[j]:.0f}"
    line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    for position, ax in enumerate(line):
        ax.add_patch(plt.Circle((0, 0), 1, fill=False, color=FAINT, lw=0.8))
        angle = position * frequencies[j]
        ax.plot([0, np.cos(angle)], [0, np.sin(angle)], color=QUERY, lw=2)
        ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if j == 0:
            ax.set_title(f"{position}")
figure.suptitle("Angle of each pair (rows) at positions 0 to 7 (columns)", fontsize=11)
plt.show()

# %% [markdown]
# ## 5.5 Two dimensions
#
# A patch has two coordinates, the column $x$ and the row $y$. The encoding `rope` of vitab is the *axial*
# version: the first half of the pairs turns with the column only, the second half with the row only. Each half has
# $K/4$ pairs with the frequencies
#
# $$\omega_j = \beta^{-4j/K}, \qquad j = 0, \dots, K/4 - 1.$$
#
# This is the formula of Section 5.4 for a head of half the width. The next cell shows how vitab computes the
# angles; it calls the number of the pair $i$. `np.outer` multiplies every coordinate by every frequency.

# %%
source(rotary_angles)

# %% [markdown]
# The figure shows the result for a head with $K = 16$ and $\beta = 100$ on a grid of 4 x 4 patches: a small map for
# each pair, with the angle of every patch in degrees. A pair consists of two adjacent channels.

# %%
x, y = patch_coordinates(4)
frequencies = 100.0 ** (-4 * np.arange(4) / 16)
angles = rotary_angles(x, y, head_width=16, base=100.0)
np.testing.assert_allclose(angles, np.concatenate([np.outer(x, frequencies), np.outer(y, frequencies)], axis=1))

figure, axes = plt.subplots(2, 4, figsize=(8, 4.6))
for pair, ax in enumerate(axes.flat):
    degrees = np.rad2deg(angles[:, pair]).reshape(4, 4)
    picture = ax.imshow(degrees, cmap="mako", vmin=0, vmax=180)
    for row, column in np.ndindex(4, 4):
        shade = "black" if degrees[row, column] > 90 else "white"
        ax.text(column, row, f"{degrees[row, column]:.0f}", ha="center", va="center", color=shade, fontsize=9)
    ax.set(title=f"pair {pair}: channels\n{2 * pair} and {2 * pair + 1}", xticks=range(4), yticks=range(4))
axes[1, 0].set(xlabel="column x", ylabel="row y")
figure.colorbar(picture, ax=axes, label="angle in degrees")
plt.show()

# %% [markdown]
# For a key that is $dx$ columns to the right of the query and $dy$ rows below it, the score is a function of $dx$ plus
# a function of $dy$:
#
# $$\mathrm{score}(dx, dy) = \sum_{j < K/4} |q_j|\, |k_j| \cos(\varphi_j + dx\, \omega_j)
# + \sum_{j < K/4} |q_{j'}|\, |k_{j'}| \cos(\varphi_{j'} + dy\, \omega_j) = f(dx) + g(dy),$$
#
# where $j' = j + K/4$ numbers the pairs of the second half. Section 5.10 comes back to this.
#
# ## 5.6 The rotation in vitab
#
# The hook of `rope` is created once for a network, and all blocks use it. Its `Rotation` holds the cosines and sines of
# all angles; `[None, None]` adds the axes of runs and heads, which share them. The `workspace` holds the arrays of the
# network, and `ops`, the functions that compute with them.
#
# In each block, the attention layer calls `queries_keys` of the hook with `qkv`, the projections of queries, keys and
# values, and with the scale $1/\sqrt{K}$. As there is a rotation, the hook calls `qkv_bias_rotate`, and this calls
# `_rotate` on queries and keys (`:2`) of all tokens except a class token (`prefix:`).

# %%
display(source(RotaryPosition.block_hooks), source(BlockHook.queries_keys))
display(source(Ops.qkv_bias_rotate), source(Ops._rotate))

# %% [markdown]
# In `_rotate`, the even channels of `x` have the shape $(R, B, N, 2, H, K/2)$, where 2 stands for query and key. The
# cosines have the shape $(1, 1, N, K/2)$: runs, heads, patches, pairs. `swapaxes(1, 2)` makes this $(1, N, 1, K/2)$,
# and `[:, None, :, None]` inserts the axes of images and of query and key: $(1, 1, N, 1, 1, K/2)$. Broadcasting does
# the rest.
#
# The next two cells repeat the rotation by hand for the first block of a trained model, with complex numbers. The model
# has $H = 2$ heads of width $K = 32$, and 4 x 4 patches. All test images pass through it at once.


# %%
def model_of(run):
    model = ViT(run.model_config(), get_ops("numpy", dtype="float64"), [run.config.seed])
    model.load_state_dict(run.store.checkpoint(run.key))
    model.derive()
    return model


run = trained(position="rope")
model, images = model_of(run), run.loader.normalise(run.images)[None]  # (R, B, h, w, channels)
network = model.network(images.shape[1])
network.load(images)
logits = network.logits().copy()
attention = network.blocks[0].attn
even = attention.projected[:, :, :, :2, :, 0::2]
cos = attention.hook.rotation.cos
shapes(queries=attention.q, keys=attention.k, even=even, cos=cos, broadcast=cos.swapaxes(1, 2)[:, None, :, None])

# %%
tokens, weight, bias = attention.qkv.x[0], attention.qkv.weight[0], attention.qkv.bias[0]
queries, keys, values = np.moveaxis((tokens @ weight.T + bias).reshape(-1, 16, 3, 2, 32), 2, 0)  # each (B, N, H, K)
turn = np.exp(1j * rotary_angles(x, y, head_width=32, base=100.0))[:, None]  # (N, 1, K/2): the same for all heads


def turned(vectors):
    z = (vectors[..., 0::2] + 1j * vectors[..., 1::2]) * turn
    return np.stack([z.real, z.imag], axis=-1).reshape(vectors.shape)


np.testing.assert_allclose(attention.q[0], turned(queries / np.sqrt(32)).swapaxes(1, 2), atol=1e-12)
np.testing.assert_allclose(attention.k[0], turned(keys).swapaxes(1, 2), atol=1e-12)
np.testing.assert_allclose(attention.v[0], values.swapaxes(1, 2), atol=1e-12)

# %% [markdown]
# vitab agrees with the rotation by hand. Two more properties can be checked on the trained model:
#
# - The option `coordinates=centred` counts positions from the centre of the image instead of from its corner. All
#   angles differ, but by Section 5.3 the same weights must give the same logits, as this model has no class token.
# - Since values are not rotated, a position acts only through the attention weights, and the tokens do not contain it
#   at the start. The protocol `position-probe` of Chapter 4 shows whether it can be read from them later.

# %%
config = replace(model.config, position="rope(coordinates=centred)")
centred = ViT(config, get_ops("numpy", dtype="float64"), [0])
centred.load_state_dict(model.state_dict())
np.testing.assert_allclose(centred.forward(images), logits, atol=1e-9)

without = trained(position="none")
r2 = {name: PositionProbe().measure(each).arrays["r2"] for name, each in (("rope", run), ("none", without))}
print("R² of column and row before the first block and after each block:")
print("\n".join(f"{name}: {values.round(2)}" for name, values in r2.items()))
np.testing.assert_allclose(r2["rope"][0], r2["none"][0], atol=0.02)
assert r2["rope"][1] > r2["none"][1] + 0.3
assert r2["none"][1] < r2["rope"][2] < r2["rope"][1]

# %% [markdown]
# Before the first block, both models have the same little information, from the content of the patches. After it, much
# more can be read from the tokens of `rope` than from those of `none`; after the second block it is less again. A
# likely reason why displacements can tell a position is that the image has edges: a patch at the left edge has no keys
# to its left, so its softmax runs over other displacements than that of a patch in the middle.
#
# ## 5.7 Scores over the displacement
#
# A map of the score over $(dx, dy)$ shows what a query and a key do together. The function `score_map` computes it with
# the angles of vitab. The figure has three maps for displacements up to 7, as on a grid of 8 x 8 patches, each with its
# own scale:
#
# 1. Equal vectors, $k = q$. All $\varphi_j$ are 0, so the score is highest at displacement zero.
# 2. A query and a key that are drawn independently. The highest score can be anywhere.
# 3. A key made from the query by rotating it *back* by the angles of the displacement $(3, -2)$. A key at this
#    displacement is turned forward by the same angles and meets the query: the score is highest there.


# %%
def pairs_of(vector):
    return vector[0::2] + 1j * vector[1::2]


def score_map(q, k, reach, base=100.0):
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    angles = rotary_angles(dx.ravel(), dy.ravel(), len(q), base)
    return (pairs_of(q).conj() * pairs_of(k) * np.exp(1j * angles)).real.sum(axis=1).reshape(dx.shape)


by_map = score_map(queries[0, 5, 0] / np.sqrt(32), keys[0, 14, 0], reach=3)  # patches in column 1, row 1 and 2, 3
np.testing.assert_allclose(by_map[3 + 2, 3 + 1], attention.q[0, 0, 0, 5] @ attention.k[0, 0, 0, 14])

# %%
q, other = np.random.default_rng(0).normal(size=(2, 32))
back = pairs_of(q) * np.exp(-1j * rotary_angles(np.array([3]), np.array([-2]), 32)[0])
back = np.stack([back.real, back.imag], axis=1).ravel()
kinds = {"1. equal": q, "2. independent": other, "3. turned back": back}
maps = {title: score_map(q, k, reach=7) for title, k in kinds.items()}
assert maps["1. equal"].argmax() == 7 * 15 + 7  # the middle
assert maps["3. turned back"].argmax() == (7 - 2) * 15 + 7 + 3

figure, axes = plt.subplots(1, 3, figsize=(8, 3.5))
for ax, (title, scores) in zip(axes, maps.items(), strict=True):
    colour_bar(figure, ax, displacement_map(ax, scores), "score", shrink=0.9)
    ax.set_title(title)
plt.show()

# %% [markdown]
# The next figure shows the mean score of each displacement in the four heads of the trained model, over all test images
# and all pairs of patches. The mean over the keys of each query is subtracted first, because a constant does not change
# the softmax. Each map has its own scale.

# %%
figure, axes = plt.subplots(1, 4, figsize=(8, 3.1))
means, rows = {}, {}
for ax, (block, head) in zip(axes, np.ndindex(2, 2), strict=True):
    name, layer = f"block {block + 1}, head {head + 1}", network.blocks[block].attn
    scores = layer.q[0, :, head] @ layer.k[0, :, head].swapaxes(1, 2)  # (B, N, N), queries by keys
    scores -= scores.mean(axis=-1, keepdims=True)
    means[name] = by_displacement(scores.mean(axis=0))
    explained = means[name][y - y[:, None] + 3, x - x[:, None] + 3]  # the mean of the displacement of each pair
    rows[name] = {
        "standard deviation": scores.std(),
        "share of variance": 1 - (scores - explained).var() / scores.var(),
    }
    image = displacement_map(ax, means[name], largest=np.abs(means[name]).max())
    colour_bar(figure, ax, image, "mean score", shrink=0.9)
    ax.set_title(name)
assert all(mean.argmax() != 3 * 7 + 3 for mean in means.values())  # not in the middle
assert all(means[f"block 2, head {head}"].argmin() == 3 * 7 + 3 for head in (1, 2))
plt.show()

# %% [markdown]
# The heads differ, and none of the four has its highest mean score at displacement zero. In block 2, both heads have
# their *lowest* there.
#
# Such a mean is not an effect of the rotation alone. The content of a patch depends on its place and on that of its
# neighbours, so the displacement also decides which contents meet. The score map of the *mean* query and the *mean* key
# of a head does not have this second part: it is the mean over all combinations of a query and a key, from any patches
# of any images. The table compares the range (largest minus smallest) of both maps and their correlation. It also has
# the standard deviation of the single scores, and the share of their variance that the displacement explains.

# %%
for (block, head), (name, mean) in zip(np.ndindex(2, 2), means.items(), strict=True):
    projection = network.blocks[block].attn.qkv
    qkv = (projection.x[0] @ projection.weight[0].T + projection.bias[0]).mean(axis=(0, 1)).reshape(3, 2, 32)
    of_means = score_map(qkv[0, head] / np.sqrt(32), qkv[1, head], reach=3)
    rows[name] |= {"range of mean scores": np.ptp(mean), "range for mean q and k": np.ptp(of_means)}
    rows[name]["correlation"] = np.corrcoef(mean.ravel(), of_means.ravel())[0, 1]
compared = pd.DataFrame(rows).T
assert (compared["range for mean q and k"] < 0.6 * compared["range of mean scores"]).all()
assert (compared["range for mean q and k"][:2] < 0.1 * compared["range of mean scores"][:2]).all()
assert (compared["correlation"][:2] < 0.5).all()
assert (compared["correlation"][2:] > 0.5).all()
assert (compared["share of variance"] < 0.3).all()
compared.round(2)

# %% [markdown]
# In block 1, the map of the mean query and key is nearly flat and not similar to the figure: what the figure shows
# there is mainly due to the contents that meet. In block 2, it is similar, with a smaller range. In all heads, the
# displacement explains a small share of the scores only. The rest depends on the contents.
#
# ## 5.8 Decay with distance
#
# RoPE is often said to have *long-range decay*: the larger the distance, the smaller the score. The next figure checks
# this for positions on a line, the base 10000, which is usual for text, and $K = 64$. It shows the mean score over
# 2,000 random queries (line) and one standard deviation (band) for three kinds of keys. The bumps of the curves are
# distances at which several fast pairs are nearly in step again.

# %%
rng = np.random.default_rng(0)
frequencies, distances = 10000.0 ** (-2 * np.arange(32) / 64), np.arange(0, 129)
turns = np.exp(1j * distances[:, None] * frequencies)  # (distances, pairs)
z, independent = rng.normal(size=(2, 2000, 32)) + 1j * rng.normal(size=(2, 2000, 32))
kinds = {"equal": z, "independent": independent, "turned back by 40": z * turns[40].conj()}
curves = {kind: (z.conj() * k @ turns.T).real for kind, k in kinds.items()}  # (2000, distances)
assert (curves["equal"].argmax(axis=1) == 0).all()
assert (curves["turned back by 40"].argmax(axis=1) == 40).all()
assert np.abs(curves["independent"].mean(axis=0)).max() < 1
assert np.ptp(curves["independent"].std(axis=0)) < 1
assert curves["equal"][:, 64:].mean(axis=0).max() < 0.7 * curves["equal"][:, 0].mean()
falling = np.abs(np.cumsum(turns, axis=1)).sum(axis=1)  # the second factor of the bound below
assert falling[64:].max() < 0.5 * falling[0]
for kind, k in kinds.items():
    products = np.pad(z.conj() * k, ((0, 0), (0, 1)))
    of_vectors = np.abs(np.diff(products)).max(axis=1)  # the first factor
    assert (np.abs(curves[kind]) <= of_vectors[:, None] * falling + 1e-9).all()
figure, axes = plt.subplots(1, 3, figsize=(8, 3), sharey=True)
for ax, (kind, scores) in zip(axes, curves.items(), strict=True):
    mean, spread = scores.mean(axis=0), scores.std(axis=0)
    ax.fill_between(distances, mean - spread, mean + spread, color=QUERY, alpha=0.25, lw=0)
    ax.plot(distances, mean, color=QUERY)
    ax.set(title=kind, xlabel="distance d", xticks=[0, 40, 80, 120])
axes[0].set_ylabel("score")
plt.show()

# %% [markdown]
# - **True:** for equal vectors, the score is highest at distance zero and falls on average. The cosines of all pairs
#   are 1 at distance zero; with growing distance they get out of step, first the fast pairs and then the slow ones.
# - **Not true in general:** for independent vectors, the mean is zero and the spread is the same at every distance.
#   Nothing decays.
# - **Not true either:** RoPE does not force attention to be local. For every displacement there are keys whose score is
#   highest there, as the third panel shows. Whether a trained model attends locally depends on what it has learned.
#
# The publication of RoPE derives an upper bound of the score that decays. It is a product of two factors: one depends
# on query and key, but not on the distance; the other falls with the distance on average. It excludes none of the three
# panels: all scores in them are within their bounds, as the cell checks.
#
# ## 5.9 What the base means on a grid of patches
#
# On a grid of $g \times g$ patches the largest displacement along an axis is $g - 1$. Two numbers describe a pair: how
# far it turns between neighbouring patches, $\omega_j$, and how far across the grid, $(g - 1)\, \omega_j$. The table
# has both for $K = 32$, $g = 8$ and $\beta = 100$, the default of vitab and of rope-vit. The figure after it compares
# four bases. It says that a pair *hardly turns* if it turns by less than 30 degrees across the grid.

# %%
grid, head_width = 8, 32
j = np.arange(head_width // 4)
omega = 100.0 ** (-4 * j / head_width)
pd.DataFrame(
    {
        "degrees between neighbours": np.rad2deg(omega).round(1),
        "degrees across the grid": np.rad2deg((grid - 1) * omega).round(1),
        "wavelength in patches": (2 * np.pi / omega).round(1),
    },
).rename_axis("pair j of each half")

# %%
bases = (10, 100, 1000, 10000)
across = {base: np.rad2deg((grid - 1) * base ** (-4 * j / head_width)) for base in bases}
figure, ax = plt.subplots(figsize=(7, 3.8))
ax.axhspan(1e-1, 30, color="#EEEEEE", zorder=0)
ax.text(-0.1, 0.13, "hardly turns\n(below 30 degrees)", color="#555555", va="bottom")
ax.axhline(360, color=FAINT, lw=1, zorder=0)
ax.text(7.05, 380, "full turn", color="#555555", ha="right", va="bottom")
for base, colour in zip(bases, plt.get_cmap("viridis")(np.linspace(0.05, 0.8, 4)), strict=True):
    slow = int((across[base] < 30).sum())
    ax.plot(j, across[base], marker="o", color=colour, label=f"{base}: {slow} of {len(j)} hardly turn")
ax.set(xlabel="pair j of each half", ylabel="degrees across 8 patches", yscale="log", ylim=(1e-1, 900))
ax.yaxis.set_major_formatter("{x:g}")
ax.legend(title="base", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The first pair turns by one radian per patch whatever the base is. Across 8 patches this is more than a full turn, so
# the pair confuses the displacements 0 and about 6. The base decides how fast the frequencies fall from pair to pair.
#
# The less a pair turns, the more its score is a comparison of contents only. Such pairs are not useless, since some
# comparisons should not depend on the position. But the position then rests on the other pairs. With base 10000, more
# than half of the pairs hardly turn on this grid, and with base 10 none. The limit of 30 degrees is a convention: a
# turn by an angle $\delta$ changes the score of a pair by at most $2 \sin(\delta/2)\, |q_j|\, |k_j|$. For 30 degrees
# this is about half of $|q_j|\, |k_j|$, and is reached for $\varphi_j$ near 90 degrees. From $\varphi_j = 0$ the change
# is much smaller.
#
# To choose a base, decide by which angle $\alpha$, in radians, the slowest pair should turn across the grid. With
# $j = K/4 - 1$, the condition is $(g - 1)\, \beta^{-(1 - 4/K)} = \alpha$, so
#
# $$\beta = \left(\frac{g - 1}{\alpha}\right)^{K / (K - 4)}.$$
#
# This chapter suggests 30 degrees as a start. The next table has the base for several grids. The larger the grid, the
# larger the base. For the same reason, language models with long texts use large bases. With the base 100 of rope-vit,
# the slowest pair turns by about 10 degrees on 14 x 14 patches with $K = 64$.

# %%
assert (across[10] > 30).all()
assert (across[10000] < 30).mean() > 0.5
phi = np.deg2rad(np.arange(361))
change = np.abs(np.cos(phi + np.deg2rad(30)) - np.cos(phi))  # of the score, for |q| |k| = 1
np.testing.assert_allclose([change.max(), change[90]], [2 * np.sin(np.deg2rad(15)), 0.5])
assert change[0] < 0.14
assert 9 < np.rad2deg(rotary_angles(np.array([13]), np.array([13]), 64).min()) < 11


def base_for(grid, degrees, head_width=32):
    return ((grid - 1) / np.deg2rad(degrees)) ** (head_width / (head_width - 4))


slowest = rotary_angles(np.array([7]), np.array([7]), 32, base_for(8, 30)).min()
np.testing.assert_allclose(np.rad2deg(slowest), 30)
table = {
    f"slowest pair: {degrees} degrees": [f"{base_for(g, degrees):.0f}" for g in (4, 8, 14, 32)]
    for degrees in (90, 30, 10)
}
pd.DataFrame(table, index=[f"{g} x {g} patches" for g in (4, 8, 14, 32)])

# %% [markdown]
# The rule is only a guide. On the 4 x 4 patches of the model of Section 5.6, half of the pairs hardly turn with base
# 100, and still the model is far more accurate than one without encoding. The next table compares three bases on this
# grid, with three seeds each. To save time, these models are trained for 10 epochs instead of 30.

# %%
rows, slow_pairs = {}, {}
for base in (10, 100, 10000):
    slow_pairs[base] = (np.rad2deg(3 * base ** (-4 * j / head_width)) < 30).sum()
    short = [trained(position=f"rope(base={base})", seed=seed, epochs=10) for seed in range(3)]
    accuracies = np.array([each.accuracy(each.images) for each in short])
    rows[base] = [*accuracies, accuracies.mean(), accuracies.std(ddof=1)]
assert slow_pairs[100] == 4
by_base = pd.DataFrame(rows, index=["seed 0", "seed 1", "seed 2", "mean", "standard deviation"]).T.rename_axis("base")
assert run.accuracy(run.images) > without.accuracy(without.images) + 0.1
assert np.ptp(by_base.iloc[:, :3], axis=1).max() > np.ptp(by_base["mean"])
by_base.map("{:.1%}".format).assign(**{"pairs that hardly turn": [f"{slow_pairs[base]} of 8" for base in rows]})

# %% [markdown]
# The seeds of one base can differ by more than the means of the bases, so this table does not show which base is best.
# [Chapter 9](09_ablation.ipynb) explains how such a comparison is planned.
#
# ## 5.10 Learned frequencies
#
# The encoding `rope-mixed` learns the frequencies. Each pair has two, $f_x$ and $f_y$, and turns by the angle
# $x f_x + y f_y$. The vector $(f_x, f_y)$ points in the direction of the image in which the pair turns fastest; its
# length is the angle per patch in this direction. `rope` is the special case of vectors $(\omega_j, 0)$ and
# $(0, \omega_j)$, so it turns along the axes only. The frequencies are learned for each block, head and pair. At the
# start, each head of each block has one random direction. Half of its pairs point there and the other half at right
# angles to it, with lengths that fall from pair to pair as in Section 5.5 with base 10.
#
# By Section 5.5, a score of `rope` is $f(dx) + g(dy)$. It can favour a column and a row, but it cannot favour one
# diagonal and reject the other, because the sums over both diagonals are equal:
#
# $$f(d) + g(d) + f(-d) + g(-d) = f(d) + g(-d) + f(-d) + g(d).$$
#
# A score of `rope-mixed` is not such a sum. The test: a map $s(dx, dy)$ is a sum of this kind exactly if
# $s(dx, dy) - s(dx, 0) - s(0, dy) + s(0, 0) = 0$ everywhere.
#
# In the left panel of the figure, a circle marks the start of a pair, and an arrow leads to its value after the
# training. The axis of $f_y$ points down, like $y$. The other panels show *relative scores*, that is, scores divided by
# the product of the lengths of query and key, for a query whose pairs all have the same length. Each map has its own
# scale. In the second and the third panel, the key is the query turned back by the angles of $(3, 3)$. `rope` favours
# the column and the row of this displacement, so of the other three corners the opposite one has the lowest score. In
# `rope-mixed` it has the highest. In the fourth panel, the key is the query with the opposite sign in the pairs with
# $f_x f_y > 0$. This favours one diagonal and rejects the other.

# %%
mixed = model_of(trained(position="rope-mixed"))
start = ViT(mixed.config, mixed.ops, mixed.seeds).parameters[FREQUENCIES][0]
learned = mixed.parameters[FREQUENCIES][0]  # (2, depth, H, K/2)
directions = (start[0] + 1j * start[1]) / np.hypot(*start)  # (depth, H, K/2)
np.testing.assert_allclose(directions, directions[..., :1] * np.repeat([1, 1j], 8), atol=1e-6)
np.testing.assert_allclose(np.hypot(*start), np.broadcast_to(10.0 ** (-4 * np.tile(j, 2) / 32), (2, 2, 16)), rtol=1e-6)


def relative_score(frequencies, phases):
    dy, dx = np.mgrid[-3:4, -3:4]
    return np.cos(phases + dx[..., None] * frequencies[0] + dy[..., None] * frequencies[1]).mean(axis=-1)


axial = np.array([[*omega, *(0 * omega)], [*(0 * omega), *omega]])  # (2, K/2), those of rope with base 100
np.testing.assert_allclose(relative_score(axial, 0), Effects(encoding("rope"), model.config, {}).rotation())

head = learned[:, 0, 0]  # block 1, head 1
relative = {
    "rope,\nturned back": relative_score(axial, -3 * axial.sum(axis=0)),
    "rope-mixed,\nturned back": relative_score(head, -3 * head.sum(axis=0)),
    "rope-mixed,\none diagonal": relative_score(head, np.pi * (head.prod(axis=0) > 0)),
}
for title, s in relative.items():
    rest = s - s[3] - s[:, 3:4] + s[3, 3]  # row 3 has dy = 0, column 3 has dx = 0
    difference = np.trace(s) - np.trace(s[::-1])  # of the sums over both diagonals
    assert (np.abs(rest).max() < 1e-9) == (abs(difference) < 1e-9) == title.startswith("rope,")
    upper_left, upper_right, lower_left = s[0, 0], s[0, -1], s[-1, 0]
    assert (upper_left < min(upper_right, lower_left)) == title.startswith("rope,")
    assert (upper_left > max(upper_right, lower_left)) == title.startswith("rope-mixed,")
assert upper_left > 0 > max(upper_right, lower_left)

figure, axes = plt.subplots(1, 4, figsize=(8, 3.2), width_ratios=(1.5, 1, 1, 1))
colour_bar(figure, axes[0], frequency_plane(axes[0], start, learned), "block", shrink=0.9)
axes[0].set_title("frequencies of rope-mixed\nbefore and after training")
for ax, (title, scores) in zip(axes[1:], relative.items(), strict=True):
    bar = colour_bar(figure, ax, displacement_map(ax, scores), "relative score", shrink=0.9)
    bar.set_ticks([scores.min(), scores.max()], labels=[f"{scores.min():.1f}", f"{scores.max():.1f}"])
    ax.set_title(title)
plt.show()

# %% [markdown]
# ## 5.11 Which two channels are a pair
#
# Two conventions are in use. In both, pair $j$ turns with the frequency $\omega_j$.
#
# - **Interleaved**: pair $j$ consists of the channels $2j$ and $2j + 1$. vitab does this.
# - **Half-split**: pair $j$ consists of the channels $j$ and $j + K/2$. Many language models do this. It is often
#   written as `x * cos + rotate_half(x) * sin`, where `rotate_half` moves the second half of the channels to the front,
#   with the opposite sign.
#
# Both are RoPE. They differ only in the order of the channels: the permutation 0, 2, 4, …, 1, 3, 5, … turns one into
# the other. A dot product does not depend on the order of the channels, as long as it is the same for query and key.
# The function `rotate` has both conventions.

# %%
PAIRS = {
    "interleaved": lambda K: (np.arange(0, K, 2), np.arange(1, K, 2)),
    "half-split": lambda K: (np.arange(K // 2), np.arange(K // 2, K)),
}


def rotate(vectors, angles, convention):
    """Rotate vectors (..., K) by angles (..., K/2)."""
    first, second = PAIRS[convention](vectors.shape[-1])
    a, b, rotated = vectors[..., first], vectors[..., second], np.empty_like(vectors)
    rotated[..., first] = a * np.cos(angles) - b * np.sin(angles)
    rotated[..., second] = a * np.sin(angles) + b * np.cos(angles)
    return rotated


vector, angles = np.random.default_rng(0).normal(size=8), np.array([1.0, 0.3, 0.1, 0.03])
order = np.array([0, 2, 4, 6, 1, 3, 5, 7])
np.testing.assert_allclose(rotate(vector[order], angles, "half-split"), rotate(vector, angles, "interleaved")[order])
rotate_half = np.concatenate([-vector[4:], vector[:4]])
by_formula = vector * np.cos(np.tile(angles, 2)) + rotate_half * np.sin(np.tile(angles, 2))
np.testing.assert_allclose(by_formula, rotate(vector, angles, "half-split"))

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 1.9))
colours = plt.get_cmap("viridis")(np.linspace(0.05, 0.8, 4))
for ax, (convention, pairs) in zip(axes, PAIRS.items(), strict=True):
    for left, right, colour in zip(*pairs(8), colours, strict=True):
        arc = np.linspace(0, np.pi, 50)
        middle, radius = (left + right) / 2, (right - left) / 2
        ax.plot(middle + radius * np.cos(arc), 0.45 * radius * np.sin(arc), color=colour, lw=2)
        ax.plot([left, right], [0, 0], "o", color=colour, ms=10)
    ax.set(title=f"{convention}, K = 8", xlabel="channel", xticks=range(8), yticks=[], ylim=(-0.25, 1.1))
    ax.spines["left"].set_visible(False)
plt.show()

# %% [markdown]
# There are two ways to mix the conventions by mistake.
#
# **Bug A:** queries are rotated by one convention, keys by the other. Then the scores no longer depend on the
# displacement only, because the proof of Section 5.3 needs the same planes for both. An example with $K = 4$: query and
# key are both $(1, 0, 0, 0)$. Interleaved, the query at $m$ becomes $(\cos m\omega_0, \sin m\omega_0, 0, 0)$.
# Half-split, the key at $n$ becomes $(\cos n\omega_0, 0, \sin n\omega_0, 0)$. The score is
#
# $$\cos m\omega_0 \cos n\omega_0
# = \frac{1}{2} \left[\cos((n - m)\, \omega_0) + \cos((n + m)\, \omega_0)\right],$$
#
# and the sum $n + m$ remains in it.
#
# **Bug B:** weights that were trained with one convention are used with the other. The scores depend on the
# displacement only, but they are other functions of it than those that were learned, because each channel turns with
# another partner. In two dimensions, the half-split pairs extend over the whole head. So half of the channels that were
# trained to turn with the column turn with the row, and vice versa, and all channels but two turn by another angle.
#
# In both cases all shapes fit, lengths are kept, and no error is raised. The weights can be converted: `to_halves` of
# vitab permutes the channels of the query and key projections.
#
# The next cells check these statements, and run the trained model of Section 5.6 with each combination.

# %%
unit, two = np.array([1.0, 0, 0, 0]), np.array([1.0, 0.1])  # two angles per position
by_bug = rotate(unit, 3 * two, "interleaved") @ rotate(unit, 5 * two, "half-split")
np.testing.assert_allclose(by_bug, (np.cos(5 - 3) + np.cos(5 + 3)) / 2)


def score(m, n, of_query, of_key):
    return rotate(vector, m * angles, of_query) @ rotate(vector[::-1], n * angles, of_key)


for convention in PAIRS:
    np.testing.assert_allclose(score(3, 5, convention, convention), score(0, 2, convention, convention))
assert abs(score(3, 5, "interleaved", "half-split") - score(0, 2, "interleaved", "half-split")) > 0.1

channel = np.arange(32)
interleaved, half_split = channel // 2, channel % 16  # the pair of each channel; pairs 0 to 7 turn with the column
for with_column in (interleaved < 8, interleaved >= 8):
    assert np.mean((half_split < 8)[with_column]) == 0.5
assert (interleaved == half_split).sum() == 2


# %%
class ByHand(BlockHook):
    conventions = "interleaved", "interleaved"  # of queries and of keys

    def queries_keys(self, qkv, bias, scale):
        self.ops.qkv_bias(qkv, bias, scale)
        angles = rotary_angles(x, y, head_width=32)[:, None]  # (N, 1, K/2)
        for part, convention in enumerate(self.conventions):
            qkv[:, :, :, part] = rotate(qkv[:, :, :, part], angles, convention)


def logits_with(state, *conventions):
    model.load_state_dict(state)
    network = model.network(images.shape[1])
    for block in network.blocks:
        block.attn.hook = ByHand(network.workspace, model.config)
        block.attn.hook.conventions = conventions
    network.load(images)
    return network.logits().copy()


# %%
state = model.state_dict()
found = {
    "correct": logits_with(state, "interleaved", "interleaved"),
    "bug A: only the keys half-split": logits_with(state, "interleaved", "half-split"),
    "bug B: both half-split, weights not converted": logits_with(state, "half-split", "half-split"),
    "both half-split, weights converted": logits_with(to_halves(state, model.config), "half-split", "half-split"),
}
model.load_state_dict(state)
accuracy = {name: np.mean(result[0].argmax(axis=1) == run.labels) for name, result in found.items()}
for name in ("correct", "both half-split, weights converted"):
    np.testing.assert_allclose(found[name], logits, atol=1e-9)
assert max(value for name, value in accuracy.items() if "bug" in name) < accuracy["correct"] / 2
pd.DataFrame({"test accuracy": {name: f"{value:.1%}" for name, value in accuracy.items()}})

# %% [markdown]
# With converted weights, the half-split rotation gives the same logits as before. With either bug, more than half of
# the accuracy is lost. If a model is *trained* with one of the conventions throughout, it makes no difference which.
#
# ## 5.12 Images of other sizes
#
# A model that was trained on 8 x 8 pixels can be applied to larger images; with the same patch size, the grid of
# patches grows. RoPE offers two ways. `extend` counts on: the coordinates of new columns and rows continue beyond the
# trained range. `interpolate` squeezes the coordinates of the new grid into the range of the trained one. The patch at
# $x$ covers the interval from $x - 1/2$ to $x + 1/2$, so the trained grid of $g_{\mathrm{old}} = 4$ patches reaches
# from $-0.5$ to 3.5, and the coordinate on a new grid of $g_{\mathrm{new}}$ patches becomes
#
# $$x' = \left(x + \tfrac{1}{2}\right) \frac{g_{\mathrm{old}}}{g_{\mathrm{new}}} - \tfrac{1}{2}.$$
#
# The first figure shows the coordinates of one row of patches. The second figure shows the accuracy of the trained
# model, and of a model without positional encoding, on test images resized as in the protocol `resolution`.

# %%
ways = (8, None), (16, "extend"), (16, "interpolate")
figure, ax = plt.subplots(figsize=(8, 2.4))
for line, (size, way) in enumerate(ways):
    config = run.model_config(size, way)
    columns = coordinates(encoding("rope"), config)[0][: config.grid]
    ax.plot(columns, [line] * len(columns), "o", color=QUERY if way is None else KEY, ms=7)
    assert np.ptp(columns) == {None: 3, "extend": 7, "interpolate": 3.5}[way]
np.testing.assert_allclose(columns, (np.arange(8) + 0.5) * 4 / 8 - 0.5)
ax.axvspan(-0.5, 3.5, color="#EEEEEE", zorder=0)
ax.text(1.5, -0.75, "trained range", ha="center", va="center", color="#555555")
ax.set(yticks=range(3), yticklabels=["8 pixels (trained)", "16 pixels, extend", "16 pixels, interpolate"])
ax.set(xlabel="coordinate x = angle of the fastest pair in radians", ylim=(2.5, -1.1), xticks=range(8))
plt.show()

# %%
sizes = (8, 10, 12, 14, 16)
resized = {size: resize(run.images, size) for size in sizes}
curves = {
    "rope, extend": [run.accuracy(resized[size], "extend") for size in sizes],
    "rope, interpolate": [run.accuracy(resized[size], "interpolate") for size in sizes],
    "none": [without.accuracy(resized[size]) for size in sizes],
}
assert (np.array(curves["rope, interpolate"]) > curves["rope, extend"])[1:].all()
assert (np.diff(curves["rope, interpolate"])[1:3] > 0).all()
assert max(curves["none"][1:]) < 0.5 < curves["none"][0]

figure, ax = plt.subplots(figsize=(7, 3.6))
for (name, accuracies), line in zip(curves.items(), ("--", "-", "-"), strict=True):
    ax.plot(sizes, np.multiply(accuracies, 100), line, marker="o", color=COLOURS[name.split(",")[0]], label=name)
ax.set(xlabel="side of the image in pixels", ylabel="test accuracy in %", xticks=sizes, ylim=(0, 100))
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# On larger images, interpolation is more accurate here. Both ways meet displacements that did not occur in the
# training, where they were whole numbers up to 3. At 16 pixels, those of `interpolate` are multiples of 0.5 up to 3.5,
# and those of `extend` reach 7. Only `interpolate` keeps the angle between two parts of the image.
#
# Both lose accuracy. The model without encoding shows one reason: it knows no positions, and still its accuracy falls.
# A patch of 2 x 2 pixels of a larger image covers a smaller part of the digit, and looks different from those of the
# training. Another change is that the softmax runs over more keys. Between 10 and 14 pixels, the accuracy of
# `interpolate` rises again. The experiment does not show why; the way in which the images are resized may matter.
#
# ## What to remember
#
# - RoPE rotates pairs of channels of queries and keys by angles proportional to the position. The values are not
#   rotated. The rotation itself has no parameters (except in `rope-mixed`).
# - Rotating the query by $m\omega$ and the key by $n\omega$ is the same as rotating the key by $(n - m)\omega$. So
#   scores depend on the displacement only.
# - The score of a pair is $|q|\,|k| \cos(\varphi + d\omega)$. Frequencies are fixed; lengths and phases are learned by
#   the projections. Decay with distance is no property of RoPE; it depends on the vectors.
# - In two dimensions, `rope` turns half of the pairs with the column and half with the row. `rope-mixed` learns a
#   direction for each pair.
# - Interleaved and half-split pairs are both RoPE, with another order of the channels. Mixing them is a silent bug.
#
# ## Common mistakes
#
# - Using weights with the other pairing (bug B). Compare the logits with those of the original implementation.
# - Rotating queries and keys differently (bug A). Add a constant to all positions: if a score between two patches
#   changes, there is a bug. This test does not find bug B.
# - Rotating values, or a class token, which has no position.
# - Rotating before the bias of the projection is added: the bias is then not rotated, and the model is another one.
# - Exchanging $x$ and $y$, or the two halves of the pairs, between training and use.
# - Taking over the base of a language model for a small grid without looking at the angles.
#
# ## How to choose the base
#
# 1. Compute the angle of each pair across the grid, as in Section 5.9. If many pairs hardly turn, take a smaller base.
#    If the slowest pair makes half a turn or more, take a larger one: for $\varphi = 0$, the cosine falls up to half a
#    turn and then rises again, so that no pair orders all displacements.
# 2. The formula of Section 5.9 with 30 degrees gives a starting point, not an optimum. Compare two or three bases with
#    several seeds: `vitab run --grid rope --position "rope(base=10),rope,rope(base=1000)" --seeds 5`.
#
# ## Exercises
#
# 1. In the frames of Section 5.2, replace $\omega$ by $2\pi/3$. Which keys in the lower row cannot be distinguished by
#    their scores? Which wavelength is this?
# 2. In Section 5.7, make a key whose score is highest at the displacement $(-5, 0)$, and draw its map.
# 3. Add the base 1000 and three more seeds to the last table of Section 5.9. Does the order of the means change? What
#    would a reader conclude who sees only one of the seeds?
#
# Next: [Chapter 6: The block and the head](06_block.ipynb)
