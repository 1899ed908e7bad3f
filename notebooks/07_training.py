# %% [markdown]
# # 7. Training
#
# Training changes the parameters of a model until its predictions fit the training images. This chapter builds it from
# its parts: the loss and its gradient, the optimiser AdamW, clipping, and the schedule of the learning rate. Then it
# writes the training loop in twenty lines and compares it with vitab's own loop. At the end you will be able to read a
# learning curve, and you will know what gradient clipping and warm-up are for, and what happens without them. The
# chapter needs [Chapter 1](01_data.ipynb) (batches and targets), [Chapter 6](06_block.ipynb) (the model), and
# derivatives.

# %%
from dataclasses import replace
from itertools import islice

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from walkthrough import COLOURS, source, trained, use_style

from ablations.data.loader import DataLoader
from vit import ViT, get_ops
from vit.backend.ops import Ops
from vit.engine import Engine
from vit.optim import AdamW, AdamWConfig, warmup_cosine

use_style()

# %% [markdown]
# ## A model before its training
#
# `run` is the trained model of the earlier chapters. Its seed also determines its initial parameters, so the same model
# can be made as it was before its training. The next cell does so in float64, and evaluates it on $B$ training images.
# The logits have the shape *(R, B, C)*: $R$ runs (here 1) and $C$ classes.

# %%
run = trained(position="learned")
config, loader = run.config, run.loader
chosen = loader.train[: loader.batch_size]
images, labels = loader.normalise(run.dataset.train_images[chosen]), run.dataset.train_labels[chosen]

model = ViT(run.model_config(), get_ops("numpy", dtype="float64"), seeds=[config.seed])
logits = model.forward(images[None])[0]
B, C = logits.shape
print(f"B = {B} images, C = {C} classes, {model.layout.count:,} parameters")

# %% [markdown]
# ## The loss
#
# The softmax turns the logits $z_c$ of an image into probabilities $p_c = e^{z_c} / \sum_m e^{z_m}$. The
# **cross-entropy** compares them with a target distribution $t_c$:
#
# $$\ell = -\sum_{c=1}^{C} t_c \ln p_c .$$
#
# If the target is 1 at the label and 0 elsewhere, this is minus the logarithm of the probability of the label. A larger
# logit of the label always makes it smaller, so the model is driven to extreme logits. **Label smoothing** takes a
# share $\sigma$ from the label and distributes it over all classes: $t_c = 1 - \sigma + \sigma / C$ at the label, and
# $\sigma / C$ elsewhere. The loss is then smallest at $p = t$. Its smallest value is $-\sum_c t_c \ln t_c$, which is
# above 0. With the natural logarithm, the unit of the loss is the nat. The loss of a batch is the mean over its images.
#
# A model that gives every class the probability $1/C$ has the loss $\ln C$, for any target. An untrained model should
# be close to it. A much larger loss at the first step is a sign of an error, such as initial weights that are too
# large.

# %%
smoothing = config.label_smoothing
targets = np.full((B, C), smoothing / C)
targets[np.arange(B), labels] += 1 - smoothing


def loss_by_hand(z):
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    return -(targets * np.log(p)).sum(axis=-1).mean()


loss = model.loss_and_gradients(images[None], labels[None], label_smoothing=smoothing)
np.testing.assert_allclose(loss[0], loss_by_hand(logits), rtol=1e-12)
assert abs(loss[0] - np.log(C)) < 0.3
smallest = loss_by_hand(np.log(targets))  # the logits for which p = t
print(f"loss before the training {loss[0]:.2f}, ln C = {np.log(C):.2f}, smallest loss possible {smallest:.2f}")

# %% [markdown]
# ## The gradient of the loss
#
# The gradient of $\ell$ with respect to the logits is simple. Insert $p_c$ and use that the targets have the sum 1:
#
# $$\ell = -\sum_c t_c z_c + \ln \sum_m e^{z_m} .$$
#
# The derivative of the first term with respect to $z_c$ is $-t_c$. That of the second is $e^{z_c} / \sum_m e^{z_m}$,
# which is $p_c$. So
#
# $$\frac{\partial \ell}{\partial z_c} = p_c - t_c .$$
#
# Each logit is pushed by the difference between prediction and target. For the mean over a batch, the gradient is
# divided by $B$; this is the argument `scale` in vitab's operation. The subtraction of the largest logit prevents an
# overflow, as in Chapter 3.

# %%
source(Ops.cross_entropy)

# %%
p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
dlogits = (p - targets) / B

ops = model.ops
losses, dlogits_of_vitab = ops.empty((1, B)), ops.empty((1, B, C))
ops.cross_entropy(logits[None], targets[None], 1 / B, losses=losses, dlogits=dlogits_of_vitab)
np.testing.assert_allclose(dlogits_of_vitab[0], dlogits, atol=1e-15)

h, step = 1e-5, np.zeros((B, C))
step[3, 7] = h  # image 3, class 7
measured = (loss_by_hand(logits + step) - loss_by_hand(logits - step)) / (2 * h)
np.testing.assert_allclose(measured, dlogits[3, 7], rtol=1e-6)

# %% [markdown]
# From here, the backward passes of the layers take over: the head, the blocks from last to first, and the patch
# embedding. Chapter 3 derived the one of attention. The result is the gradient of the loss with respect to every
# parameter.
#
# ## AdamW
#
# The optimiser uses the gradients to change the parameters. Plain gradient descent subtracts $\eta\, g$, with the
# gradient $g$ and the **learning rate** $\eta$. **AdamW** keeps two running means for each parameter $\theta$: $m$ of
# its gradients and $v$ of their squares. In step $n$, counted from 1,
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2,$$
#
# $$\hat m = \frac{m}{1 - \beta_1^n}, \qquad \hat v = \frac{v}{1 - \beta_2^n}, \qquad
# \theta \leftarrow \theta - \eta \lambda \theta - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon} .$$
#
# Both means start at 0, and would be too small in the first steps; the divisions by $1 - \beta^n$ correct this. The
# division by $\sqrt{\hat v}$ gives each parameter its own scale: if all gradients of a parameter were ten times as
# large, the step would be the same. The small $\epsilon$ prevents a division by 0. $\lambda$ is the **weight decay**.

# %%
source(Ops.adamw)

# %% [markdown]
# The next cell makes three steps with vitab's optimiser, and follows two parameters by hand: the weight and the bias of
# the classifier. `network.train` computes the loss and all gradients of a batch. The parameters of a model are stored
# in one long vector, which the optimiser updates in slices. Only the weight is decayed; the reason follows.

# %%
rate, (beta1, beta2), epsilon = 0.001, (0.9, 0.999), 1e-8
network = model.network(B)
gradients = network.workspace.gradients
optimizer = AdamW(model.layout, model.parameters.flat, AdamWConfig(weight_decay=0.05), ops)
decays = {"head.weight": 0.05, "head.bias": 0.0}
followed = {name: [model.parameters[name][0].copy(), 0.0, 0.0] for name in decays}  # theta, m, v

for n, batch in enumerate(islice(loader.epoch(1), 3), start=1):
    network.load(*(array[None] for array in batch))
    network.train(1 / B)
    optimizer.step = n
    for i in range(len(optimizer.slices)):
        optimizer.update(gradients.flat, i, np.ones(1), np.array([rate]))
    for name, (theta, m, v) in followed.items():
        g = gradients[name][0]
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        change = m / (1 - beta1**n) / (np.sqrt(v / (1 - beta2**n)) + epsilon)
        theta = theta - rate * decays[name] * theta - rate * change
        np.testing.assert_allclose(model.parameters[name][0], theta, atol=1e-14)
        followed[name] = [theta, m, v]
        if n == 1:
            np.testing.assert_allclose(change, np.sign(g), rtol=0.01)

# %% [markdown]
# The last line of the cell checks a property of the first step. There, $\hat m = g$ and $\hat v = g^2$, so
# $\hat m / \sqrt{\hat v} = \pm 1$: every parameter moves by the full learning rate, however small or accidental its
# gradient is. This is one reason for the warm-up below.
#
# ## Which parameters decay
#
# Weight decay makes a parameter a little smaller in every step, unless the gradients work against it. Weights that the
# loss does not need shrink, which keeps the function that the model computes smoother. AdamW subtracts
# $\eta \lambda \theta$ separately. If $\lambda \theta$ were added to the gradient instead, it would be divided by
# $\sqrt{\hat v}$ as well, and parameters with large gradients would hardly decay.
#
# In this model, vitab decays the weights of linear layers only: numbers that multiply the data. A bias only shifts; it
# adds little to the freedom of the model. The gain of a layer normalisation starts at 1, and decay would push it to 0,
# where the branch behind it no longer sees the tokens. A table of positions and a class token are inputs of the model
# rather than weights.

# %%
parameters = model.layout.parameters
table = {
    "shape": {name: " × ".join(map(str, parameter.shape)) for name, parameter in parameters.items()},
    "decays": {name: "yes" if parameter.decay else "no" for name, parameter in parameters.items()},
}
share = sum(np.prod(parameter.shape) for parameter in parameters.values() if parameter.decay) / model.layout.count
assert all(parameter.decay == name.endswith("weight") for name, parameter in parameters.items() if "norm" not in name)
print(f"share of the parameters that decay: {share:.1%}")
pd.DataFrame(table).loc[[name for name in parameters if "blocks.1" not in name]]

# %% [markdown]
# ## Clipping
#
# Now and then, a batch has a much larger gradient than the others. **Clipping** limits the gradient of a step. The norm
# $\lVert g \rVert$ of the gradient, the root of the sum of all squares, is taken over all parameters of a run together.
# If it is larger than a limit $c$, the whole gradient is multiplied by $c / \lVert g \rVert$. Its direction does not
# change. vitab adds $10^{-6}$ to the norm, as PyTorch does, and computes the factor in `clip_scale`.

# %%
large = 10 * gradients.flat
norm = np.sqrt((large**2).sum())
scale = optimizer.clip_scale([optimizer.sum_of_squares(large, i) for i in range(len(optimizer.slices))])
limit = optimizer.training.clip_norm
assert norm > limit
np.testing.assert_allclose(scale, limit / (norm + 1e-6))
print(f"norm before {norm:.2f}, after {norm * scale[0]:.2f}")

# %% [markdown]
# It may seem that AdamW needs no clipping, because it divides by $\sqrt{\hat v}$. The next cell shows why it does. One
# parameter gets the gradient 1 in every step, except for one step with the gradient 100. The figure shows the size of
# each step in units of the learning rate. The large gradient enters $v$ with its square and leaves it slowly, because
# $\beta_2$ is close to 1. So the steps are too small for a long time after it.

# %%
gradient_of_step = np.ones(400)
gradient_of_step[49] = 100
figure, axis = plt.subplots(figsize=(6.4, 3.2))
for name, limit, colour in (("not clipped", np.inf, "#C8412B"), ("clipped to 1", 1.0, "#2A6FB5")):
    m, v, sizes = 0.0, 0.0, []
    for n, g in enumerate(np.minimum(gradient_of_step, limit), start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        sizes.append(m / (1 - beta1**n) / np.sqrt(v / (1 - beta2**n)))
    axis.plot(range(1, 401), sizes, color=colour, label=name)
    assert np.allclose(sizes, 1) if limit == 1 else max(sizes[75:]) < 0.3
axis.axvline(50, color="#222222", ls=":", label="the large gradient")
axis.set(xlabel="step", ylabel="size of the step / learning rate", ylim=(0, 1.1))
axis.legend(loc="center right")
plt.show()

# %% [markdown]
# ## The schedule of the learning rate
#
# A high learning rate makes fast progress, but in the end it keeps the parameters moving around a minimum. So the rate
# rises during the **warm-up** to its peak, and then falls along half a cosine to 0. Warm-up is for the first steps,
# when $\hat m$ and $\hat v$ are estimates from a few gradients, and the steps are as large as later although their
# directions are less reliable.

# %%
source(warmup_cosine)

# %%
steps, warmup = config.epochs * loader.steps, round(config.warmup_epochs * loader.steps)
rates = [warmup_cosine(n, steps, warmup, config.learning_rate) for n in range(steps)]
figure, axis = plt.subplots(figsize=(6.4, 3))
axis.plot(np.arange(steps) / loader.steps, rates, color="#2A6FB5")
axis.axvline(config.warmup_epochs, color="#222222", ls=":", label="end of the warm-up")
axis.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
axis.legend()
plt.show()

# %% [markdown]
# ## The training loop
#
# These are all the parts. An **epoch** is one pass over the training images, in an order that the seed and the number
# of the epoch determine (Chapter 1). The first loop below is a complete training: forward pass, loss and backward pass
# in `network.train`, then clipping, then AdamW.
#
# The second loop uses vitab's `Engine`. Its method `step` does the same for a batch, but faster: it records the
# operations once and replays them, and threads process parts of the batch.

# %%
settings = AdamWConfig(weight_decay=config.weight_decay, clip_norm=config.clip_norm)


def loop_by_hand(epochs, dtype):
    model = ViT(run.model_config(), get_ops("numpy", dtype=dtype), seeds=[config.seed])
    network = model.network(loader.batch_size)
    optimizer = AdamW(model.layout, model.parameters.flat, settings, model.ops)
    gradient, parts = network.workspace.gradients.flat, range(len(optimizer.slices))
    losses = []
    for epoch in range(1, epochs + 1):
        for images, targets in loader.epoch(epoch):
            network.load(images[None], targets[None])
            loss = float(network.train(1 / len(images)).mean())
            optimizer.step += 1
            scale = optimizer.clip_scale([optimizer.sum_of_squares(gradient, i) for i in parts])
            rate = np.array([warmup_cosine(len(losses), steps, warmup, config.learning_rate)])
            for i in parts:
                optimizer.update(gradient, i, scale, rate)
            losses.append(loss)
    return np.array(losses)


# %%
def loop_by_engine(epochs, dtype="float32"):
    model = ViT(run.model_config(), get_ops("numpy", dtype=dtype), seeds=[config.seed])
    engine = Engine(model, settings, loader.batch_size)
    losses = []
    for epoch in range(1, epochs + 1):
        for batch in loader.epoch(epoch):
            images, targets = (model.ops.asarray(array[None]) for array in batch)
            rate = warmup_cosine(len(losses), steps, warmup, config.learning_rate)
            losses.append(float(engine.step(images, targets, rate)[0]))
    engine.close()
    return np.array(losses), model.state_dict()


# %% [markdown]
# The two loops cannot be equal bit for bit. The engine divides a batch into parts of fixed size and adds their
# gradients, so it adds the same numbers in another order, and floating-point sums depend on the order. If this is the
# only difference, it must be as small as rounding errors are: about $10^{-7}$ in float32 and $10^{-16}$ in float64, and
# growing from step to step. The next cell measures the largest relative difference of the losses in three epochs. As
# the engine does, it computes each matrix product on one thread.

# %%
for dtype, tolerance in (("float32", 1e-3), ("float64", 1e-10)):
    with threadpool_limits(1):
        by_hand, (by_engine, _) = loop_by_hand(3, dtype), loop_by_engine(3, dtype)
    np.testing.assert_allclose(by_hand, by_engine, rtol=tolerance)
    difference = abs(by_hand / by_engine - 1)
    print(f"{dtype}: in epoch 1 up to {difference[: loader.steps].max():.0e}, in 3 epochs {difference.max():.0e}")

# %% [markdown]
# The studies are trained by `ablations.training.trainer.train`. It makes the same calls as `loop_by_engine`, and adds
# validation, checkpoints and records. So here the results must be equal bit for bit: the mean loss of every epoch, and
# every parameter after the last step.

# %%
losses, state = loop_by_engine(config.epochs)
metrics = pd.DataFrame(run.store.metrics(run.key)).set_index("epoch")
np.testing.assert_array_equal(losses.reshape(config.epochs, -1).mean(axis=1), metrics["train_loss"])
stored = run.store.checkpoint(run.key)
for name in stored:
    np.testing.assert_array_equal(state[name], stored[name])
print(f"{len(losses)} steps: {len(stored)} arrays of parameters are equal bit for bit")

# %% [markdown]
# ## Learning curves
#
# A learning curve shows the loss and the accuracy over the training. The training loss is the mean over the steps of an
# epoch, with label smoothing. The validation loss is measured after the epoch, on images that are not trained on,
# without smoothing.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
axes[0].plot(metrics["train_loss"], color="#2A6FB5", label="training (smoothed targets)")
axes[0].plot(metrics["validation_loss"], color=COLOURS["learned"], label="validation")
axes[0].axhline(smallest, color="#222222", ls=":", label="smallest training loss possible")
axes[0].set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, None), title="Loss")
axes[0].legend()
axes[1].plot(100 * metrics["validation_accuracy"], color=COLOURS["learned"])
axes[1].set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(0, 102), title="Accuracy")
plt.show()
last = metrics.iloc[-1]
assert last["validation_loss"] < smallest < last["train_loss"] < smallest + 0.1

# %% [markdown]
# At the end, the validation loss is below the training loss. This does not mean that the model predicts unseen images
# better than trained ones. The two losses have different targets: the training loss cannot fall below the dotted line,
# and it is close to it. Curves can be compared only if they measure the same.
#
# ## What goes wrong at a high learning rate
#
# What clipping and warm-up contribute is best seen where training is difficult. The next cells train for three epochs
# at ten times the learning rate: with both, without clipping only, and without warm-up only. One training can go well
# or badly by chance, so each setting is trained with six seeds. `ViT` computes the $R = 6$ runs side by side: every
# array has the axis $R$ in front, and each run has its own initial parameters, its own split and its own order of the
# images.
#
# In the figure, a thin line is one run, averaged over six steps, and the thick line is the mean of the runs. Runs with
# the same seed start from the same parameters and see the same images in the same order, so two settings are compared
# in pairs. The output states the mean difference of the loss in the last epoch, and its standard error.


# %%
def short_runs(clip_norm, warmup_epochs, epochs=3, peak=10 * config.learning_rate, seeds=tuple(range(6))):
    loaders = [DataLoader.of(replace(config, seed=seed), run.dataset) for seed in seeds]
    model = ViT(run.model_config(), get_ops("numpy"), seeds=seeds)
    engine = Engine(model, replace(settings, clip_norm=clip_norm), loader.batch_size)
    steps, warmup = epochs * loader.steps, warmup_epochs * loader.steps
    losses = []
    for epoch in range(1, epochs + 1):
        for batches in zip(*(own.epoch(epoch) for own in loaders), strict=True):
            images, targets = (np.stack(arrays) for arrays in zip(*batches, strict=True))
            losses.append(engine.step(images, targets, warmup_cosine(len(losses), steps, warmup, peak)))
    engine.close()
    return np.array(losses)  # (steps, R)


variants = {"clipping and warm-up": (1.0, 1), "no clipping": (None, 1), "no warm-up": (1.0, 0)}
curves = {name: short_runs(*variant) for name, variant in variants.items()}

# %%
figure, axes = plt.subplots(1, 3, figsize=(8, 3.2), sharey=True)
for axis, (name, curve) in zip(axes, curves.items(), strict=True):
    smooth, place = curve.reshape(-1, 6, curve.shape[1]).mean(axis=1), np.arange(3, len(curve), 6)
    axis.plot(place, smooth, color="#8FB4D9", lw=1)
    axis.plot(place, smooth.mean(axis=1), color="#C8412B", lw=3)
    axis.set(xlabel="step", title=name)
axes[0].set_ylabel("training loss (nats)")
plt.show()

final = {name: curve[-loader.steps :].mean(axis=0) for name, curve in curves.items()}
for name in ("no clipping", "no warm-up"):
    difference = final[name] - final["clipping and warm-up"]
    error, worse = difference.std(ddof=1) / np.sqrt(len(difference)), (difference > 0).sum()
    assert difference.mean() > 0
    assert worse > len(difference) / 2
    print(f"{name:11} loss higher by {difference.mean():.2f} ± {error:.2f}, in {worse} of {len(difference)} pairs")
assert final["no warm-up"].mean() > final["no clipping"].mean()
first_step = 10 * config.learning_rate / config.init_std
assert 0.2 < first_step < 0.5
print(f"one step at the full rate moves a weight by {first_step:.0%} of its initial standard deviation")

# %% [markdown]
# Without warm-up, the loss is higher than in all other settings. The last line of the output gives a reason: at the
# full rate, the first few steps alone move every weight as far as it was from 0, in directions that come from a few
# batches. Without clipping, the loss is higher in most of the runs, but the effect is smaller.
#
# ## What to remember
#
# - The gradient of the cross-entropy with respect to the logits is $p - t$, also for smoothed targets.
# - AdamW divides by the root of the mean squared gradient, so its steps have about the size of the learning rate,
#   however large the gradients are. The first step has exactly that size, apart from $\epsilon$.
# - Weight decay applies to the weights of linear layers, not to biases, norms and position tables.
# - A large gradient stays in $v$ for hundreds of steps; clipping keeps it out. Warm-up keeps the first, unreliable
#   steps small.
# - The same calls in the same order give the same bits. Another order of additions gives differences of the size of
#   rounding errors.
#
# ## Exercises
#
# 1. Use `trained(position="learned", label_smoothing=0.2)` in the second code cell. How do `smallest` and the learning
#    curves change?
# 2. Call `short_runs` with `peak=config.learning_rate` for the three settings. How large are the two differences?
# 3. Set `decays["head.bias"]` to 0.05 in the cell that follows two parameters. In which step does the comparison fail,
#    and why not in the first?
#
# Next: [Chapter 8: Evaluation](08_evaluation.ipynb)
