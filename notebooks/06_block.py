# %% [markdown]
# # 6. The block and the head
#
# Chapters 3 to 5 explained attention and positions. This chapter explains the rest of the model: the block, which
# contains attention and is repeated $L$ times, and the head, which turns the result into an answer. At the end you will
# be able to compute the logits of the model with a page of NumPy, to count its parameters and operations by hand, and
# to measure what one part of a trained model contributes. The chapter needs [Chapter 2](02_tokens.ipynb) and
# [Chapter 3](03_attention.ipynb).

# %%
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from scipy.special import erf
from walkthrough import COLOURS, source, trained, use_style

from vit import ViT, ViTConfig, cost, get_ops
from vit.backend.numpy_ops import NumpyOps
from vit.backend.ops import LAYER_NORM_EPSILON, Ops
from vit.layers import Block, Head
from vit.model import layout

use_style()

# %% [markdown]
# ## The model
#
# The model is the one of Chapter 2, and the images are those of the validation part. `network` has the layers of the
# model and the buffers that they write to. `logits` evaluates the images that were loaded. Letters: $B$ images, $T$
# tokens, width $D$, $H$ heads of width $K = D / H$, hidden width $F$ of the MLP, $C$ classes, depth $L$.

# %%
run = trained(position="learned")
config, state = run.model_config(), run.store.checkpoint(run.key)
images = run.loader.normalise(run.dataset.train_images[run.loader.validation])
labels = run.loader.validation_labels
B, T, D, F = len(images), config.tokens, config.width, config.hidden
H, K, C, L = config.heads, config.head_width, config.classes, config.depth

model = ViT(config, get_ops("numpy"), seeds=[0])
model.load_state_dict(state)
network = model.network(B)
network.load(images[None])
logits = network.logits()[0].copy()
print(f"B={B} T={T} D={D} H={H} K={K} F={F} C={C} L={L}, accuracy {np.mean(logits.argmax(axis=-1) == labels):.1%}")

# %% [markdown]
# ## The residual stream
#
# A block receives the tokens $x$, an array of shape *(B, T, D)*, and returns an array of the same shape. It consists of
# two **branches**: attention, which moves information between tokens, and the MLP, which works on each token alone.
# Each branch reads the normalised tokens, and its result is *added* to them:
#
# $$x' = x + \mathrm{Attention}(\mathrm{LN}_1(x)), \qquad x'' = x' + \mathrm{MLP}(\mathrm{LN}_2(x')) .$$
#
# LN is layer normalisation, described below. The array $x$ that runs through all blocks, and to which every branch is
# added, is called the **residual stream**. Because of the addition, a block does not have to reproduce its input, and
# gradients reach the first block directly. A block that normalises the input of each branch, and never the sum, is
# called **pre-norm**.

# %%
source(Block.forward)

# %% [markdown]
# The code delays each addition: a block returns the stream and the MLP branch separately, and the next layer
# normalisation adds the branch, in one pass over memory. `drop1` and `drop2` are dropout, which is off here, and `hook`
# is the positional encoding. Every norm keeps the stream that it has read, so the stream is known at five places. The
# branches are the differences.

# %%
places = ["tokens", "attention 1", "MLP 1", "attention 2", "MLP 2"]


def streams(network):
    norms = [norm for block in network.blocks for norm in (block.norm1, block.norm2)]
    return [norm.stream[0] for norm in [*norms, network.head.norm]]  # (B, T, D) each


stream = streams(network)
untrained = ViT(config, get_ops("numpy"), seeds=[0]).network(B)
untrained.load(images[None])
untrained.logits()
assert len(stream) == 1 + 2 * L == len(places)

# %% [markdown]
# The left panel of the next figure shows the mean length of a token after each branch. (The length of a vector is the
# square root of the sum of its squared elements.) The right panel shows how similar the tokens of an image are: the
# length of their mean divided by their mean length. This is 1 if all tokens are equal, and small if they point in
# different directions.


# %%
def length(x):
    return np.linalg.norm(x, axis=-1).mean()


figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
lengths, alike = {}, {}
for name, x, colour in (("trained", stream, COLOURS["learned"]), ("before training", streams(untrained), "#949494")):
    lengths[name] = [length(s) for s in x]
    alike[name] = [length(s.mean(axis=1)) / length(s) for s in x]
    axes[0].plot(places, lengths[name], marker="o", color=colour, label=name)
    axes[1].plot(places, alike[name], marker="o", color=colour)
axes[0].set(ylabel="length of a token", title="The stream grows")
axes[1].set(ylabel="similarity of tokens", title="Tokens of an image become alike", ylim=(0, 1))
for axis in axes:
    axis.tick_params(axis="x", labelrotation=30)
axes[0].legend()
assert (np.diff(lengths["trained"]) > 0).all()
assert (np.diff([length(after - before) for before, after in pairwise(stream)]) > 0).all()
assert alike["trained"][-1] > 0.8 > 0.4 > alike["trained"][0]
plt.show()

# %% [markdown]
# Every branch makes the stream longer. In a pre-norm model nothing shortens it, unless a branch points against it. The
# branches become longer, too.
#
# At the beginning the tokens of an image differ, because its patches do. At the end they are nearly equal. The head
# averages the tokens, and the last branches of the trained model write nearly the same into each of them.
#
# ## Layer normalisation
#
# Each branch reads the stream through a layer normalisation, so the growing length does not disturb it. For each token
# alone, with the mean $\mu$ and the variance $\sigma^2$ of its $D$ elements,
#
# $$\mathrm{LN}(x) = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \odot \gamma + \beta .$$
#
# The gain $\gamma$ and the shift $\beta$ are learned vectors of length $D$; $\odot$ multiplies element by element; the
# small number $\epsilon$ prevents a division by zero. The next cell shows vitab's operation, which first adds the
# delayed branch. The cell after it compares the formula with vitab's result in the second block.

# %%
source(Ops.residual_layer_norm)


# %%
def layer_norm(x, name):
    variance = x.var(axis=-1, keepdims=True)
    normal = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + LAYER_NORM_EPSILON)
    return normal * state[f"{name}.weight"] + state[f"{name}.bias"]


normal = network.workspace.saved("blocks.1.norm2", "normal", B, T, D)[0]
np.testing.assert_allclose(layer_norm(stream[3], "blocks.1.norm2"), normal, rtol=1e-3, atol=1e-4)
np.testing.assert_allclose(layer_norm(10 * stream[3] + 3, "blocks.1.norm2"), normal, rtol=1e-3, atol=1e-3)

# %% [markdown]
# The second comparison shows the purpose: a token that is ten times as long and shifted by 3 gives the same result. A
# branch reads the *direction* of a token, not its length. A branch of given length also turns a long token less than a
# short one. A later branch must therefore be longer to have the same influence.
#
# ## The MLP and GELU
#
# The MLP is applied to each token separately, with the same weights. A linear layer maps $D$ numbers to $F$ (here
# $F = 4 D$), a nonlinear function is applied to each of them, and a second linear layer maps back to $D$:
#
# $$\mathrm{MLP}(z) = W_2\,\mathrm{GELU}(W_1 z + b_1) + b_2, \qquad \mathrm{GELU}(u) = u\,\Phi(u) .$$
#
# $\Phi(u)$ is the probability that a standard normal variable is at most $u$:
# $\Phi(u) = \frac{1}{2} (1 + \mathrm{erf}(u / \sqrt{2}))$, with the error function erf. GELU is a smooth version of
# ReLU, $\max(0, u)$: it passes large positive values and suppresses negative ones. The next cell compares the MLP of
# the second block with the branch that vitab has computed.


# %%
def linear(x, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def gelu(u):
    return u * 0.5 * (1 + erf(u / np.sqrt(2)))


def mlp(z, name):
    return linear(gelu(linear(z, f"{name}.fc1")), f"{name}.fc2")


branch = stream[4] - stream[3]
np.testing.assert_allclose(mlp(normal, "blocks.1.mlp"), branch, rtol=1e-3, atol=1e-3)

# %% [markdown]
# The next figure shows GELU, and the values that it receives in the second block of the trained model. More than half
# of them are negative. For these, GELU returns a value between −0.17 and 0.

# %%
u = linear(normal, "blocks.1.mlp.fc1")
assert (u < 0).mean() > 0.5
figure, axes = plt.subplots(1, 2, figsize=(8, 3))
grid = np.linspace(-3, 3, 200)
axes[0].plot(grid, np.maximum(grid, 0), color="#949494", ls="--", label="ReLU")
axes[0].plot(grid, gelu(grid), color="#C8412B", label="GELU")
axes[0].set(xlabel="u", title="The function")
axes[0].legend()
axes[1].hist(u.ravel(), bins=60, range=(-3, 3), density=True, color="#8FB4D9")
axes[1].axvline(0, color="#222222", ls="--")
axes[1].set(xlabel="u", ylabel="density", title="Inputs of GELU in the second block")
plt.show()

# %% [markdown]
# ## The whole model by hand
#
# Attention is the topic of Chapter 3; here it is in a few lines. With it, a block has two lines. The head is: a last
# layer normalisation, the mean over the tokens, and a linear layer. Its $C$ outputs are the **logits**. The largest one
# is the answer, and softmax turns them into probabilities.

# %%
source(Head.forward)


# %%
def attention(z, name):
    q, k, v = linear(z, f"{name}.qkv").reshape(B, T, 3, H, K).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(K)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return linear((weights @ v).swapaxes(1, 2).reshape(B, T, D), f"{name}.proj")


x = network.patch_embed.forward()[0].copy()
for i in range(L):
    x = x + attention(layer_norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn")
    x = x + mlp(layer_norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp")
np.testing.assert_allclose(x, stream[-1], rtol=1e-3, atol=1e-3)
by_hand = linear(layer_norm(x, "norm").mean(axis=1), "head")
np.testing.assert_allclose(by_hand, logits, rtol=1e-3, atol=1e-3)

# %% [markdown]
# ## Reading the stream early
#
# The stream has the same shape everywhere. So the head can be applied to it at every place, as if the model ended
# there. The accuracy shows how the answer forms. The head was trained for the last place only, so a low accuracy at an
# earlier place does not mean that the information is missing.
#
# The mean over the tokens and the linear layer can be exchanged, because both are linear. Each token then has logits of
# its own, and the logits of the image are their mean. The figure shows the logit of the correct class for each token of
# one image. Before the first attention, a token depends on its own patch only.

# %%
early = [linear(layer_norm(s, "norm").mean(axis=1), "head") for s in stream]
accuracies = [np.mean(values.argmax(axis=-1) == labels) for values in early]
assert accuracies[-1] > accuracies[2] > accuracies[0]
print("\n".join(f"{place:12} {value:6.1%}" for place, value in zip(places, accuracies, strict=True)))
votes = [linear(layer_norm(s, "norm"), "head") for s in stream]  # (B, T, C)
np.testing.assert_allclose(votes[-1].mean(axis=1), logits, rtol=1e-3, atol=1e-3)

# %%
example = 7
figure, axes = plt.subplots(1, 6, figsize=(8, 2.2))
axes[0].imshow(images[example, :, :, 0], cmap="gray")
axes[0].set_title(f"class {labels[example]}")
for axis, place, vote in zip(axes[1:], places, votes, strict=True):
    shown = vote[example, :, labels[example]].reshape(config.grid, config.grid)
    picture = axis.imshow(shown, cmap="RdBu_r", vmin=-5, vmax=5)
    axis.set_title(place)
for axis in axes:
    axis.set(xticks=[], yticks=[])
figure.colorbar(picture, ax=axes, label="logit", shrink=0.75)
figure.suptitle("Logit of the correct class by token, after each branch", fontsize=11)
plt.show()

# %% [markdown]
# ## Counting parameters
#
# A linear layer from $I$ to $O$ numbers has $O I$ weights and $O$ biases. A layer normalisation has $2 D$ parameters.
# With $c\,p^2$ numbers per patch and $N$ patches:
#
# | part | parameters |
# | :-- | :-- |
# | patch embedding | $D c\,p^2 + D$ |
# | positions (`learned`) | $N D$ |
# | attention, per block | $3 D^2 + 3 D$ (queries, keys, values) and $D^2 + D$ (projection) |
# | MLP, per block | $F D + F$ and $D F + D$ |
# | norms | $4 D$ per block, and $2 D$ before the classifier |
# | classifier | $C D + C$ |
#
# vitab knows the number from the `layout` of the model, the list of all parameters with their names and shapes. The
# next cell sums it by part.
#
# The blocks have nearly all parameters. In a block, the MLP has twice as many weights as attention: $2 D F = 8 D^2$ and
# $4 D^2$. The figure compares the small model with the shape of ViT-B/16, which classifies photographs of
# $224 \times 224$ pixels in 1,000 classes. Its proportions are similar, although it is hundreds of times as large.


# %%
def count_by_hand(c):
    D, F, L = c.width, c.hidden, c.depth
    return {
        "embedding": D * c.patch_width + D,
        "positions": c.patches * D,
        "attention": L * (3 * D * D + 3 * D + D * D + D),
        "MLP": L * (F * D + F + D * F + D),
        "norms": L * 4 * D + 2 * D,
        "classifier": c.classes * D + c.classes,
    }


PART = {"patch_embed": "embedding", "pos_embed": "positions", "attn": "attention", "mlp": "MLP", "head": "classifier"}
counted = dict.fromkeys(count_by_hand(config), 0)
for name, parameter in layout(config).parameters.items():
    part = next((part for key, part in PART.items() if key in name), "norms")
    counted[part] += int(np.prod(parameter.shape))
assert counted == count_by_hand(config)
assert sum(counted.values()) == cost.parameters(config)
pd.DataFrame([counted], index=["parameters"])

# %%
base = ViTConfig(
    image_size=224, patch_size=16, channels=3, classes=1000, width=768, depth=12, heads=12, position="learned"
)
assert cost.parameters(base) == sum(count_by_hand(base).values()) > 300 * cost.parameters(config)
mlp_shares = [count_by_hand(c)["MLP"] / cost.parameters(c) for c in (config, base)]
assert abs(mlp_shares[0] - mlp_shares[1]) < 0.03
figure, axis = plt.subplots(figsize=(8, 2.4))
shapes_of = {f"this model\n{cost.parameters(config):,}": config, f"ViT-B/16\n{cost.parameters(base):,}": base}
left = np.zeros(2)
for part, colour in zip(counted, sns.color_palette("colorblind"), strict=False):
    shares = np.array([100 * count_by_hand(c)[part] / cost.parameters(c) for c in shapes_of.values()])
    axis.barh(list(shapes_of), shares, left=left, color=colour, label=part)
    left += shares
axis.set(xlabel="share of the parameters (%)", xlim=(0, 100))
figure.legend(loc="outside upper center", ncols=6)
plt.show()

# %% [markdown]
# ## Counting operations
#
# A product of a matrix of $m \times k$ and one of $k \times n$ numbers takes $m n k$ multiplications and as many
# additions: $2 m n k$ floating-point operations (FLOPs). For one image, a block needs
#
# - $2 T D \cdot 4 D$ for queries, keys, values and the projection, and $2 T D \cdot 2 F$ for the MLP;
# - $2 T^2 D$ for the scores, and $2 T^2 D$ for the weighted sum of the values, over all heads.
#
# The embedding adds $2 N c\,p^2 D$, and the classifier $2 D C$. Everything else is small and is not counted.
#
# The linear layers grow with $T$, the products of attention with $T^2$. Both are equal at
# $4 T^2 D = 2 T D (4 D + 2 F)$, that is at $T = 2 D + F$. With fewer tokens, most operations are in the linear layers.
#
# `cost.forward_flops` uses this formula. To test it, the next cell counts the products that the model really computes.
# It replaces the method `matmul` of the operations by one that counts.


# %%
class Counting(NumpyOps):
    flops = 0

    def matmul(self, a, b, *, trans_a=False, **options):
        result = super().matmul(a, b, trans_a=trans_a, **options)
        self.flops += 2 * result.size * a.shape[-2 if trans_a else -1]
        return result


counting = Counting()
counted_network = model.network(B, ops=counting)
counted_network.load(images[None])
counted_network.logits()
block = 2 * T * D * (4 * D + 2 * F) + 4 * T * T * D
by_hand = 2 * config.patches * config.patch_width * D + L * block + 2 * D * C
assert by_hand == cost.forward_flops(config) == counting.flops / B
print(f"{by_hand:,} FLOPs per image")

# %%
tokens = np.geomspace(4, 4096, 50)
equal = 2 * D + F
figure, axis = plt.subplots(figsize=(6.4, 3.4))
axis.loglog(tokens, 2 * tokens * D * (4 * D + 2 * F) / 1e6, color="#2A6FB5", label="linear layers")
axis.loglog(tokens, 4 * tokens**2 * D / 1e6, color="#C8412B", label="scores and weighted sums")
axis.axvline(T, color="#222222", ls=":")
axis.annotate(f" this model, T = {T}", (T, 100), va="center")
axis.plot(equal, 4 * equal**2 * D / 1e6, "o", color="#222222")
axis.annotate(f"equal at T = {equal}", (equal, 4 * equal**2 * D / 1e6), xytext=(8, -14), textcoords="offset points")
axis.set(xlabel="tokens T", ylabel="million FLOPs per block", title=f"One block of width {D}")
axis.xaxis.set_major_formatter("{x:,.0f}")
axis.yaxis.set_major_formatter("{x:g}")
axis.legend()
plt.show()

# %% [markdown]
# ## Removing one branch
#
# Each branch ends in a linear layer: `attn.proj` or `mlp.fc2`. If its weight and bias are set to 0, the branch adds
# nothing, and the stream passes unchanged. Everything else remains as trained. This experiment is called an
# **ablation** of the trained model. The validation images are used, not the test images, as explained in Chapter 1.

# %%
BRANCHES = {"attention 1": "blocks.0.attn.proj", "MLP 1": "blocks.0.mlp.fc2"}
BRANCHES |= {"attention 2": "blocks.1.attn.proj", "MLP 2": "blocks.1.mlp.fc2"}


def logits_without(*branches):
    removed = [f"{BRANCHES[branch]}.{kind}" for branch in branches for kind in ("weight", "bias")]
    model.load_state_dict(state | {name: np.zeros_like(state[name]) for name in removed})
    return model.forward(images[None])[0]


variants = {"nothing": logits_without()} | {branch: logits_without(branch) for branch in BRANCHES}
variants["all four"] = logits_without(*BRANCHES)
accuracy = {name: np.mean(values.argmax(axis=-1) == labels) for name, values in variants.items()}
assert min(accuracy["attention 2"], accuracy["MLP 2"]) > max(accuracy["attention 1"], accuracy["MLP 1"])
assert accuracy["nothing"] > 0.9 > max(list(accuracy.values())[1:])
assert accuracy["all four"] < 0.3

# %%
figure, axis = plt.subplots(figsize=(7.4, 3))
bars = axis.bar(list(accuracy), [100 * value for value in accuracy.values()], color="#2A6FB5")
axis.bar_label(bars, fmt="%.0f", padding=7)
axis.axhline(100 / C, color="#222222", ls="--", label="chance")
axis.set(xlabel="removed from the trained model", ylabel="validation accuracy (%)", ylim=(0, 112))
axis.legend()
plt.show()

# %% [markdown]
# The model relies on every branch, and on those of the first block most: everything after them was trained on their
# results. Without any branch, the head reads the embedded patches only, and the accuracy is near chance.
#
# The experiment tells how much *this trained model* relies on a branch. It does not tell how good a model would be that
# was trained without the branch, because the other parts could take over its work. For that question, a model has to be
# trained again, as in the studies of Chapter 9.
#
# Accuracy counts only whether the largest logit is the right one. The *lead* of the correct class is its logit minus
# the largest of the others. The next cell prints the mean lead over all images, and shows all logits of one image.
# Every removal makes the mean lead smaller.

# %%
correct = np.eye(C, dtype=bool)[labels]
lead = {name: (z[correct] - np.where(correct, -np.inf, z).max(axis=1)).mean() for name, z in variants.items()}
assert all(lead[name] < lead["nothing"] for name in variants if name != "nothing")
print("mean lead:", ", ".join(f"{name} removed {value:.2f}" for name, value in lead.items()))

table = pd.DataFrame({name: z[example] for name, z in variants.items()}).T.round(1) + 0.0
figure, axis = plt.subplots(figsize=(7.4, 3.2))
sns.heatmap(table, cmap="RdBu_r", center=0, annot=True, fmt=".1f", ax=axis, cbar_kws={"label": "logit"})
axis.set(xlabel="class", ylabel="removed", title=f"Logits of one image of class {labels[example]}")
axis.tick_params(length=0)
plt.show()

# %% [markdown]
# ## What to remember
#
# - A block adds two branches to the residual stream: attention mixes tokens, the MLP works on each token alone.
# - In a pre-norm model the stream grows from block to block. Layer normalisation makes the branches independent of its
#   length.
# - With mean pooling, the logits of an image are the mean of the logits of its tokens.
# - A block has $4 D^2 + 2 D F$ weights; the MLP has two thirds of them. Attention dominates the operations only beyond
#   $T = 2 D + F$ tokens.
# - Removing a branch measures what a trained model relies on, not what could be learned without it.
#
# ## Exercises
#
# 1. Remove both attention branches together, then both MLP branches: `logits_without("attention 1", "attention 2")`. Is
#    the drop in accuracy the sum of the two single drops?
# 2. Instead of zero, set the weight to 0 and keep the bias of a branch. Does the model lose less accuracy?
# 3. At which image size with patches of $16 \times 16$ pixels do the scores and weighted sums of ViT-B/16 cost as much
#    as its linear layers?
#
# Next: [Chapter 7: Training](07_training.ipynb)
