# %% [markdown]
# # 3. Attention by hand
#
# Attention is the only place in a transformer where tokens exchange information. This chapter computes it for one image
# of a digit, step by step, from the weights of a trained model, and compares every step with the layer of vitab. Then
# it derives the gradients, writes them in ten lines of NumPy, and checks them. At the end you will know what queries,
# keys and values are, why the scores are divided by $\sqrt{K}$, how a gradient passes through a softmax, and how to
# measure where a model looks. The chapter needs [Chapter 2](02_tokens.ipynb) (tokens), matrix products and the chain
# rule.

# %%
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from walkthrough import COLOURS, shapes, source, trained, use_style

from ablations.evaluation.protocols.attention import Attention as AttentionProtocol
from ablations.evaluation.protocols.attention import patch_distances
from vit import ViT, get_ops
from vit.backend.ops import Ops
from vit.layers import Attention

use_style()

# %% [markdown]
# ## One image and one layer
#
# The model is the one of Chapter 2. It was trained in float32. This chapter loads its weights into a model that
# computes in float64, so that results which should be equal differ by very little. The image is from the validation
# part. `network.logits()` evaluates all layers, and each layer keeps its results.
#
# The layer reads the tokens of the image after a layer normalisation, which [Chapter 6](06_block.ipynb) explains. Call
# this matrix $x$: one row for each of the $T$ tokens, each of width $D$. vitab's arrays have two more axes in front,
# for $R$ runs and $B$ images. Both are 1 here.

# %%
run = trained(position="learned")
config, weights = run.model_config(), run.store.checkpoint(run.key)
chosen = run.loader.validation[np.flatnonzero(run.loader.validation_labels == 3)[0]]
picture = run.dataset.train_images[chosen]

model = ViT(config, get_ops("numpy", dtype="float64"), seeds=[0])
model.load_state_dict(weights)
network = model.network(1)
network.load(run.loader.normalise(picture[None])[None])
network.logits()
layer = network.blocks[0].attn  # the attention layer of the first block

T, D, H, K = config.tokens, config.width, config.heads, config.head_width
x = layer.qkv.x[0, 0].copy()
print(f"T = {T} tokens, width D = {D}, H = {H} heads of width K = {K}")
shapes(input_of_the_layer=layer.qkv.x, x=x)

# %% [markdown]
# ## Queries, keys and values
#
# Each token is described by a vector. Attention gives the token three roles, and for each role a linear layer:
#
# - the **query** says what a token looks for,
# - the **key** says what a token offers to those that look,
# - the **value** is what a token hands over to those that attend to it.
#
# With weight matrices $W_q, W_k, W_v$ and biases $b_q, b_k, b_v$, the queries, keys and values of all tokens are
#
# $$q = x W_q^T + b_q, \qquad k = x W_k^T + b_k, \qquad v = x W_v^T + b_v .$$
#
# The three weights are stored as one matrix of shape $3D \times D$, because one large matrix product is faster than
# three small ones. The result has $3D$ columns: first the queries, then the keys, then the values.
#
# A **head** performs attention on its own, with a part of the columns. Each of the $H$ heads has $K = D / H$ columns of
# the queries, keys and values. So the $3D$ columns split into three axes: *(role, head, column)*.
#
# The layer of vitab keeps its queries, keys and values as `q`, `k` and `v`, with the shape *(R, B, H, T, K)*. Its
# queries are already divided by $\sqrt{K}$, a factor that the next sections explain. Otherwise they are the same.

# %%
W, b = (weights[f"blocks.0.attn.qkv.{kind}"].astype(np.float64) for kind in ("weight", "bias"))
projected = x @ W.T + b
q, k, v = projected.reshape(T, 3, H, K).transpose(1, 2, 0, 3)  # (H, T, K) each

np.testing.assert_allclose(layer.q[0, 0], q / np.sqrt(K), atol=1e-12)
np.testing.assert_allclose(layer.k[0, 0], k, atol=1e-12)
np.testing.assert_allclose(layer.v[0, 0], v, atol=1e-12)
shapes(W=W, b=b, projected=projected, q=q, k=k, v=v, queries_of_the_layer=layer.q)

# %% [markdown]
# ## Scores
#
# The formulas from here on are for one head, so $q$, $k$ and $v$ have the shape $T \times K$. The **score** of token
# $i$ for token $j$ is the dot product of the query of $i$ and the key of $j$, divided by $\sqrt{K}$:
#
# $$s_{ij} = \frac{1}{\sqrt{K}} \sum_{m=1}^{K} q_{im} k_{jm}, \qquad\text{or}\qquad s = \frac{1}{\sqrt{K}}\, q\, k^T .$$
#
# It is large if the query and the key are long and point in the same direction. $s$ is a matrix of $T \times T$
# numbers, one for each pair of tokens. The rows are the tokens that look, the columns those that are looked at.

# %%
s = q @ k.transpose(0, 2, 1) / np.sqrt(K)
np.testing.assert_allclose(s[0, 5, 9], sum(q[0, 5, m] * k[0, 9, m] for m in range(K)) / np.sqrt(K))
shapes(s=s)

# %% [markdown]
# ## Softmax
#
# Each row of scores becomes a row of weights that are positive and have the sum 1. The **softmax** does this:
#
# $$p_{ij} = \frac{e^{s_{ij}}}{\sum_{m=1}^{T} e^{s_{im}}} .$$
#
# $p_{ij}$ is the attention of token $i$ to token $j$. Subtracting the same number from all scores of a row changes
# nothing, because the numerator and the denominator are divided by the same factor. The code subtracts the largest
# score, so that no exponential overflows.


# %%
def softmax(s):
    exponentials = np.exp(s - s.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


p = softmax(s)
np.testing.assert_allclose(p.sum(axis=-1), 1)
np.testing.assert_allclose(layer.probabilities[0, 0], p, atol=1e-12)
shapes(p=p, probabilities_of_the_layer=layer.probabilities)

# %% [markdown]
# ## Why the scores are divided by the square root of K
#
# Assume that the $K$ elements of a query and of a key are independent random numbers with the mean 0 and the variance
# 1. Then each product $q_{im} k_{jm}$ has the mean 0 and the variance $1 \cdot 1 = 1$. The variances of independent
#    numbers add, so the sum of $K$ products has the variance $K$, and the standard deviation $\sqrt{K}$. After the
#    division by $\sqrt{K}$, the standard deviation is 1 for any width.
#
# This matters for the softmax. If the scores of a row differ by much, nearly all the weight falls on the largest of
# them. The gradient of the softmax is then nearly 0: as shown below, it consists of the terms $p_i (1 - p_i)$ and
# $-p_i p_j$ for the weights $p_i$ of a row, and all of these are small if one weight is nearly 1 and the others are
# nearly 0. A model that starts like this learns slowly.
#
# The next cell draws random queries, each with $T$ keys. It measures the standard deviation of the scores (left panel),
# and the largest weight of a row (right panel).

# %%
generator = np.random.default_rng(0)
head_widths = 2 ** np.arange(1, 11)
deviation, largest = {}, {}
for width in head_widths:
    queries, keys = generator.standard_normal((500, 1, width)), generator.standard_normal((500, T, width))
    products = (queries * keys).sum(axis=-1)  # (500, T)
    for name, random_scores in (("dot products", products), ("divided by the root of K", products / np.sqrt(width))):
        deviation.setdefault(name, []).append(random_scores.std())
        largest.setdefault(name, []).append(softmax(random_scores).max(axis=-1).mean())
np.testing.assert_allclose(deviation["dot products"], np.sqrt(head_widths), rtol=0.1)
assert largest["dot products"][-1] > 0.9 > 0.4 > max(largest["divided by the root of K"])

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6))
for name, colour, marker in (("dot products", "#C8412B", "o"), ("divided by the root of K", "#2A6FB5", "s")):
    axes[0].loglog(head_widths, deviation[name], marker, color=colour, label=name)
    axes[1].semilogx(head_widths, largest[name], marker, color=colour)
axes[0].loglog(head_widths, np.sqrt(head_widths), color="#949494", label="the root of K")
axes[1].axhline(1 / T, color="#222222", ls="--", label="equal weights")
axes[0].set(xlabel="head width K", ylabel="standard deviation", title="Scores")
axes[1].set(xlabel="head width K", ylabel="largest weight of a row (mean)", title="Softmax", ylim=(0, 1))
for axis in axes:
    axis.set_xticks(head_widths[::2], map(str, head_widths[::2]))
    axis.minorticks_off()
axes[0].yaxis.set_major_formatter("{x:g}")
figure.legend(loc="outside upper center", ncols=4)
plt.show()

# %% [markdown]
# ## Values and output projection
#
# The result of a head is, for each token, the mean of all values, weighted by its attention: $o = p\, v$. The results
# of the heads are put side by side, which gives $D$ columns again. A last linear layer, the **output projection**,
# mixes the heads: with its weight $W_o$ and bias $b_o$, and the results $o_1, \ldots, o_H$ of the heads,
#
# $$\mathrm{Attention}(x) = [o_1, \ldots, o_H]\, W_o^T + b_o .$$
#
# vitab's layer returns the product and the bias separately, because the next operation adds the bias.

# %%
W_o, b_o = (weights[f"blocks.0.attn.proj.{kind}"].astype(np.float64) for kind in ("weight", "bias"))
o = p @ v  # (H, T, K)
mixed = o.transpose(1, 0, 2).reshape(T, D)
output = mixed @ W_o.T + b_o

branch = layer.forward(layer.qkv.x)
np.testing.assert_allclose(layer.proj.x[0, 0], mixed, atol=1e-12)
np.testing.assert_allclose(branch.value[0, 0] + branch.bias[0], output, atol=1e-12)
shapes(o=o, mixed=mixed, W_o=W_o, output=output)

# %% [markdown]
# This is the complete layer. In vitab's method, `hook` is the positional encoding. It adds the bias and scales the
# queries (`queries_keys`), and some encodings change queries, keys or scores there. The branch `if self.fused` computes
# the same in one kernel on a GPU.

# %%
source(Attention.forward)

# %% [markdown]
# ## The backward pass
#
# Let $L$ be a number that depends on the output of the layer, such as the loss. For any matrix $a$ on the way, write
# $da$ for the matrix of the derivatives $\partial L / \partial a_{ij}$. The backward pass receives $do$ and computes
# $dv$, $dq$ and $dk$, from the last step to the first. It needs two rules.
#
# **Product.** If $c = a\, b$, then $c_{ij} = \sum_m a_{im} b_{mj}$. The element $a_{im}$ occurs in all elements of row
# $i$ of $c$, each time with the factor $b_{mj}$. The chain rule sums over them:
#
# $$da_{im} = \sum_j dc_{ij}\, b_{mj}, \qquad\text{that is}\qquad da = dc\; b^T .$$
#
# In the same way, $b_{mj}$ occurs in column $j$ of $c$ with the factors $a_{im}$, so $db = a^T dc$. The shapes confirm
# it: a gradient always has the shape of its matrix, and if the sizes differ, only one order of the factors gives that
# shape.
#
# **Softmax.** Take one row, with scores $s_j$ and weights $p_j = e^{s_j} / z$, where $z = \sum_m e^{s_m}$. The score
# $s_i$ occurs in the numerator of $p_i$ only, but in the denominator $z$ of all weights, with
# $\partial z / \partial s_i = e^{s_i}$. The quotient rule gives
#
# $$\frac{\partial p_i}{\partial s_i} = p_i - p_i^2, \qquad
# \frac{\partial p_j}{\partial s_i} = -p_i\, p_j \quad\text{for } j \neq i .$$
#
# Both have a term $-p_i\, p_j$, and the first has $p_i$ in addition. The chain rule sums over all weights $p_j$:
#
# $$ds_i = p_i\, dp_i - \sum_j p_i\, p_j\, dp_j = p_i \Big( dp_i - \sum_j p_j\, dp_j \Big) .$$
#
# The sum over $j$ is the mean of $dp$, weighted by $p$, and it is the same for all $i$. So raising a score increases
# $L$ if its weight has a larger gradient than the mean. The $ds_i$ of a row have the sum 0, because adding the same
# number to all scores changes nothing.

# %%
source(Ops.softmax_backward)

# %% [markdown]
# **Attention** is $s = q\, k^T / \sqrt{K}$, then $p = \mathrm{softmax}(s)$, then $o = p\, v$. In reverse order, the
# rules give
#
# $$dv = p^T do, \qquad dp = do\; v^T, \qquad ds = p \odot (dp - \mathrm{rowsum}(p \odot dp)),$$
#
# $$dq = \frac{1}{\sqrt{K}}\; ds\; k, \qquad dk = \frac{1}{\sqrt{K}}\; ds^T q .$$
#
# Here $\odot$ multiplies element by element, and rowsum adds up each row. For the keys, the product rule gives the
# gradient of $k^T$, which is $q^T ds / \sqrt{K}$; its transpose is $dk$. In NumPy, for all heads at once:


# %%
def attention(q, k, v):
    p = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(K))
    return p @ v, p


def attention_backward(do, p, q, k, v):
    dv = p.swapaxes(-1, -2) @ do
    dp = do @ v.swapaxes(-1, -2)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
    dq = ds @ k / np.sqrt(K)
    dk = ds.swapaxes(-1, -2) @ q / np.sqrt(K)
    return dq, dk, dv


# %% [markdown]
# ## The check: central differences
#
# A derivative can be measured without any rule. Change one number $a$ by a small $h$ up and down, and compute
#
# $$\frac{\partial L}{\partial a} \approx \frac{L(a + h) - L(a - h)}{2h} .$$
#
# The error is of the order $h^2$, plus the rounding error of $L$ divided by $h$. In float64 and with $h = 10^{-5}$ both
# are tiny. For $L$, take the sum of all $c_{ij}\, o_{ij}$ with random numbers $c_{ij}$; then $do = c$. The check covers
# every element of $q$, $k$ and $v$.


# %%
def central_differences(function, a, h=1e-5):
    measured = np.empty_like(a)
    for i in np.ndindex(a.shape):
        value = a[i]
        a[i] = value + h
        above = function()
        a[i] = value - h
        below = function()
        a[i] = value
        measured[i] = (above - below) / (2 * h)
    return measured


q, k, v = q.copy(), k.copy(), v.copy()  # separate arrays: one element of one of them is changed at a time
c = generator.standard_normal(o.shape)
o, p = attention(q, k, v)
for name, a, derived in zip("qkv", (q, k, v), attention_backward(c, p, q, k, v), strict=True):
    measured = central_differences(lambda: (c * attention(q, k, v)[0]).sum(), a)
    np.testing.assert_allclose(derived, measured, atol=1e-7)
    error = abs(derived - measured).max()
    print(f"d{name}: {a.size:,} derivatives up to {abs(derived).max():.2f}, largest difference {error:.0e}")

# %% [markdown]
# ## The check: the gradients of the layer
#
# vitab's layer uses the same products. One detail differs: it divides the queries by $\sqrt{K}$ before the forward
# product, so here `self.q` and `dq` are those of the divided queries. The hook then divides `dq` by $\sqrt{K}$.

# %%
source(Attention._backward_by_products)

# %% [markdown]
# The whole layer also has two linear layers. For $y = a W^T + b$, the product rule gives $da = dy\; W$ and
# $dW = dy^T a$. The bias is added to every token, so its gradient is the sum of $dy$ over the tokens. The next cell
# goes back by hand from a random gradient of the output to the input $x$ and the weights, and compares with
# `layer.backward`.
#
# One part of the gradient is 0 for every image and all weights: that of the bias $b_k$ of the keys. This bias changes
# all scores of a row by the same number, the dot product of the query and $b_k$, and the softmax ignores such a change.
# The bias exists only because queries, keys and values share one linear layer.

# %%
doutput = generator.standard_normal((T, D))
dmixed, dW_o = doutput @ W_o, doutput.T @ mixed
do = dmixed.reshape(T, H, K).transpose(1, 0, 2)
dq, dk, dv = attention_backward(do, p, q, k, v)
dprojected = np.stack([dq, dk, dv]).transpose(2, 0, 1, 3).reshape(T, 3 * D)
dx, dW, db = dprojected @ W, dprojected.T @ x, dprojected.sum(axis=0)

np.testing.assert_allclose(layer.backward(doutput[None, None])[0, 0], dx, atol=1e-10)
np.testing.assert_allclose(layer.proj.dweight[0], dW_o, atol=1e-10)
np.testing.assert_allclose(layer.qkv.dweight[0], dW, atol=1e-10)
np.testing.assert_allclose(layer.qkv.dbias[0], db, atol=1e-10)
np.testing.assert_allclose(db[D : 2 * D], 0, atol=1e-10)  # the bias of the keys
shapes(dx=dx, dW_o=dW_o, dW=dW, db=db)

# %% [markdown]
# ## Where the model looks
#
# The tokens are patches, so a row of $p$ can be drawn as a map of the picture. The upper row of the figure shows the
# attention of one patch (blue frame) to all patches in each block and head: the lighter a patch, the more attention.
# Each map has its own scale, and its title gives the largest value. The lower row shows the mean over all rows of $p$,
# which is the attention that each patch receives from all patches.

# %%
looking, g, side = 6, config.grid, config.patch_size
maps = np.stack([block.attn.probabilities[0, 0] for block in network.blocks])  # block, head, token, token
rows = {"one patch": maps[:, :, looking], "all patches": maps.mean(axis=2)}
titles = [f"block {i + 1}, head {h + 1}" for i in range(config.depth) for h in range(H)]
corner = looking % g * side - 0.5, looking // g * side - 0.5
extent = (-0.5, g * side - 0.5, g * side - 0.5, -0.5)

figure, axes = plt.subplots(2, 5, figsize=(8, 3.8))
for line, (name, attention_of_heads) in zip(axes, rows.items(), strict=True):
    line[0].imshow(picture[:, :, 0], cmap="gray")
    line[0].set(xticks=[], yticks=[], ylabel=name, title="picture")
    for axis, title, by_patch in zip(line[1:], titles, attention_of_heads.reshape(-1, g, g), strict=True):
        np.testing.assert_allclose(by_patch.sum(), 1)
        axis.imshow(by_patch, cmap="mako", vmin=0, extent=extent)
        axis.set(xticks=[], yticks=[], title=f"{title}\nup to {by_patch.max():.2f}")
    for axis in line if name == "one patch" else ():
        axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="#56B4E9", lw=2.5))
plt.show()

# %% [markdown]
# Such maps are easy to misread. They show whose values a token receives in one layer. They do not show which pixels
# decided the class. The values matter as well as the weights, the MLPs and the residual stream of
# [Chapter 6](06_block.ipynb) have a part in the answer, and after the first block a token no longer stands for its
# patch alone.
#
# ## The mean attention distance
#
# A single number summarises a map: how far a head looks on average. With the distance $r_{ij}$ between the centres of
# the patches $i$ and $j$ in pixels,
#
# $$\bar r = \frac{1}{T} \sum_{i=1}^{T} \sum_{j=1}^{T} p_{ij}\, r_{ij} .$$
#
# vitab measures it for each block and head by the evaluation protocol `attention`, over all test images. The next cell
# repeats that by hand. If a token attends to all patches equally, the distance is the mean of all $r_{ij}$.

# %%
distances = patch_distances(g, side)
uniform = distances.mean()
by_hand, count = np.zeros((config.depth, H)), 0
for evaluated in run.layers(run.images):  # batches of test images
    for i, block in enumerate(evaluated.blocks):
        by_hand[i] += (block.attn.probabilities[0] * distances).sum(axis=-1).mean(axis=-1).sum(axis=0)
    count += block.attn.probabilities.shape[1]
by_hand /= count

measured = {name: AttentionProtocol().measure(trained(position=name)).arrays for name in ("none", "learned")}
np.testing.assert_allclose(measured["learned"]["distance"], by_hand, rtol=1e-4)

# %% [markdown]
# The figure compares the model with one that has no positional encoding. That model has no information about how far
# away a patch is, and tells patches by their content only. The vertical axis shows a small range. The last lines print
# the mean **entropy** of the rows of $p$, $-\sum_j p_{ij} \ln p_{ij}$. It is the largest, $\ln T$, if all weights are
# equal, and 0 if all the weight is on one patch.

# %%
figure, axis = plt.subplots(figsize=(6.8, 3.4))
for name, marker in (("none", "o"), ("learned", "s")):
    axis.plot(titles, measured[name]["distance"].ravel(), marker, ms=9, color=COLOURS[name], label=name)
axis.axhline(uniform, color="#222222", ls="--", label="equal attention")
axis.set(ylabel="mean attention distance (pixels)", title="How far each head looks")
figure.legend(loc="outside upper center", ncols=3)
plt.show()

away = {name: abs(arrays["distance"] - uniform).mean() for name, arrays in measured.items()}
entropy = {name: arrays["entropy"].mean() for name, arrays in measured.items()}
assert away["learned"] > away["none"]
assert measured["learned"]["distance"].mean() < uniform
assert max(entropy.values()) < np.log(T)
print(f"entropy: none {entropy['none']:.2f}, learned {entropy['learned']:.2f}, equal attention {np.log(T):.2f}")

# %% [markdown]
# Without an encoding, the distances are close to that of equal attention. With the learned encoding, the heads look
# nearer on average. The differences are small: as the entropies show, each patch spreads its attention over many
# others. In large models on large grids they are large: some heads of the first blocks look at their surroundings only,
# others at the whole image (figure 7 of [Dosovitskiy et al. 2020](https://arxiv.org/abs/2010.11929)).
#
# ## What to remember
#
# - A query and a key give a score; the softmax of a row of scores gives weights; the output is the weighted mean of the
#   values. Heads do this side by side, and the output projection mixes them.
# - The division by $\sqrt{K}$ keeps the standard deviation of the scores independent of the head width. Otherwise the
#   softmax of wide heads would put nearly all weight on one token, and its gradient would be nearly 0.
# - The backward pass of a product is two products; that of the softmax is
#   $ds = p \odot (dp - \mathrm{rowsum}(p \odot dp))$.
# - Central differences in float64 check any gradient without knowing its formula.
# - An attention map shows whose values a token receives, not why the model decides for a class.
#
# ## Exercises
#
# 1. Remove `/ np.sqrt(K)` in `attention`, but not in `attention_backward`, and run the check by central differences.
#    Which of the three gradients remains right, and by which factor are the others wrong?
# 2. Repeat the check by central differences with `h=1e-1` and `h=1e-11`. Which of the two errors dominates in each
#    case?
# 3. Set `looking` to a patch without ink, and to one in the middle of a stroke. Do the heads distinguish them?
#
# Next: [Chapter 4: Positions](04_positions.ipynb)
