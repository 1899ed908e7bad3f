# %% [markdown]
# # 10. Your own data, your own encoding
#
# The studies of vitab are not limited to its own datasets and encodings. In this chapter a folder of pictures becomes a
# dataset, and a class of some twenty lines becomes a positional encoding. At the end you will know how to lay out the
# folder, what an encoding has to provide, how to derive its backward pass, how `vitab positions check` finds a wrong
# one, and how to compare the encoding with others. The chapter needs [Chapter 4](04_positions.ipynb) (where an encoding
# acts) and [Chapter 9](09_ablation.ipynb) (pairs and verdicts).

# %%
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from PIL import Image
from walkthrough import shapes, source, use_style

from ablations.config import RunConfig
from ablations.data import load
from ablations.reporting.figures.palette import position_marks
from ablations.reporting.findings import claims
from ablations.reporting.wording import sentence
from ablations.statistics import analyse
from ablations.storage import Store, load_results
from ablations.training.trainer import train
from vit import ViT, ViTConfig, get_ops
from vit.position_checks import check_position
from vit.positions.base import patch_coordinates
from vit.positions.tables import AddTable

use_style()
temporary = tempfile.TemporaryDirectory()  # deleted when the kernel ends
os.chdir(temporary.name)  # all files of this chapter are written here


def vitab(*arguments):
    """Run a command of vitab, and return what it prints."""
    command = [Path(sys.executable).with_name("vitab"), *arguments]
    environment = os.environ | {"COLUMNS": "110", "FORCE_COLOR": ""}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


# %% [markdown]
# ## A folder of pictures
#
# The pictures of this chapter are flags of two colours, with noise. There are three classes: red above blue, blue above
# red, and red on the left of blue. The next cell draws 100 pictures of each class and writes them as PNG files, one
# folder for each class.

# %%
rng = np.random.default_rng(0)
red, blue = np.array([200, 60, 60]), np.array([60, 80, 200])
row, column = np.mgrid[:32, :32] // 16
is_red = {"red-above": row == 0, "blue-above": row == 1, "red-left": column == 0}
for name, mask in is_red.items():
    folder = Path("flags", name)
    folder.mkdir(parents=True)
    for number in range(100):
        noise = rng.normal(0, 40, (32, 32, 3)) + rng.normal(0, 20)
        picture = np.where(mask[:, :, None], red, blue) + noise
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
print("\n".join(sorted(map(str, Path("flags").glob("*/00[01].png")))))

# %% [markdown]
# The name of a folder is the name of its class. Pictures may have any usual format and size: the largest centred
# square is cut out and resized to 32 x 32 pixels in colour. If the folder has subfolders `train` and `test`, each with
# the classes, these are the two parts. Otherwise a fifth of each class becomes the test part, chosen by the names of
# the files, so that the choice is the same on every machine.
#
# `load` returns the dataset. Its *fingerprint* is a hash of all pixels and labels. It is part of the identity of every
# run, so results of different data cannot be mixed.

# %%
dataset = load("folder", data_dir="flags")
print(dataset.class_names)
print("fingerprint", dataset.fingerprint[:16])
shapes(train_images=dataset.train_images, train_labels=dataset.train_labels, test_images=dataset.test_images)

# %%
figure, axes = plt.subplots(3, 4, figsize=(5.2, 4.2))
for label, line in enumerate(axes):
    for ax, i in zip(line, np.flatnonzero(dataset.train_labels == label), strict=False):
        ax.imshow(dataset.train_images[i])
        ax.set(xticks=[], yticks=[])
    line[0].set_ylabel(dataset.class_names[label], fontsize=10)
plt.show()

# %% [markdown]
# ## Training on it
#
# With patches of 8 x 8 pixels, every flag consists of 8 red and 8 blue patches. Only their places differ between the
# classes. So a model without positional encoding sees the same in all classes, and cannot be better than chance except
# by luck. `train` is the function with which vitab trains one run; it returns a record of the training and the test.

# %%
fields = {"data": "folder", "patch": 8, "epochs": 10, "warmup_epochs": 1, "batch_size": 16}
record = train(RunConfig.from_mapping(fields | {"position": "none"}), dataset, threads=1)
print(f"chance {1 / dataset.classes:.1%}, test accuracy without positions {record.test_accuracy:.1%}")
assert record.test_accuracy < 0.55

# %% [markdown]
# ## An encoding
#
# The flags differ in where the colours are, so the model needs to know the row and the column of each patch. The
# simplest way is a linear one. Let $x_n$ be the column and $y_n$ the row of patch $n$, and let $u$ and $v$ be two
# learned vectors of the width $D$ of the tokens. The encoding adds to token $n$ the vector
#
# $$e_n = x_n u + y_n v, \qquad \text{or, for all patches,} \qquad E = P\,W,$$
#
# where row $n$ of $P$ ($N \times 2$) is $(x_n, y_n)$, and the rows of $W$ ($2 \times D$) are $u$ and $v$. It is called
# `Ramp` here.
#
# The backward pass follows from the chain rule. As in [Chapter 3](03_attention.ipynb), $dE$ is the gradient of the loss
# with respect to $E$. The entry $W_{kd}$ occurs in column $d$ of $E$, in row $n$ with the factor $P_{nk}$. So
#
# $$dW_{kd} = \sum_n P_{nk}\, dE_{nd}, \qquad \text{that is} \qquad dW = P^T\, dE.$$
#
# The class below has both, and is written to the file `ramp.py`.

# %%
code = '''
from dataclasses import dataclass

import numpy as np

from vit.parameters import Parameter, truncated_normal
from vit.positions import Position
from vit.positions.base import coordinates, option
from vit.positions.tables import AddTable


@dataclass(frozen=True)
class Ramp(Position):
    """Adds x u + y v to the token of the patch in column x and row y. u and v (D,) are learned."""

    std: float = option(0.2, "above 0", lambda value: value > 0, "standard deviation of u and v at the start")
    description, acts_on, other_grids = "x u + y v, added to the tokens", "tokens", ("extend", "interpolate")

    def declare(self, config):
        return [Parameter("directions", (2, config.width), truncated_normal(self.std))]

    def tables(self, config):
        return {"ramp": (config.patches, config.width)}

    table_gradients = tables

    def derive(self, config, xp, parameters, tables, generators):
        tables["ramp"][...] = self.place(config, xp) @ parameters["directions"]

    def derive_backward(self, config, xp, parameters, tables, dtables, gradients):
        gradients["directions"][...] = self.place(config, xp).T @ dtables["ramp"]

    def token_hook(self, config, workspace):
        return AddTable(workspace.ops, workspace.tables["ramp"], workspace.dtables["ramp"])

    def place(self, config, xp):  # (N, 2): column and row of each patch
        return xp.asarray(np.stack(coordinates(self, config), axis=1))
'''
Path("ramp.py").write_text(code)
print(f"ramp.py has {len(code.strip().splitlines())} lines")

# %% [markdown]
# - The field `std` is an option: `ramp.py:Ramp(std=0.5)` sets it.
# - `description`, `acts_on` and `other_grids` are for lists and reports. The last one says how a trained model can
#   serve images of another size.
# - `declare` returns the learned parameters $W$.
# - `tables` and `table_gradients` return the shapes of $E$ and of its gradient. `derive` computes the table once per
#   step, and `derive_backward` the gradient of $W$. `xp` is NumPy or CuPy. All arrays have one more axis in front, $R$,
#   because several runs can be trained as one model.
# - `token_hook` returns what acts on the tokens in the forward and in the backward pass. Here it is a class of vitab:

# %%
source(AddTable)

# %% [markdown]
# An encoding in a file has the name `FILE.py:CLASS`, everywhere where the name of an encoding is expected. The next
# cell makes a small model with it, and compares its table with the formula, computed patch by patch.

# %%
config = ViTConfig(
    image_size=32, patch_size=8, channels=3, classes=3, width=64, depth=2, heads=2, position="ramp.py:Ramp"
)
model = ViT(config, get_ops("numpy"), seeds=[0])
model.derive()
u, v = model.parameters["directions"][0]
x, y = patch_coordinates(config.grid)
by_hand = np.array([x[n] * u + y[n] * v for n in range(config.patches)])
np.testing.assert_allclose(model.tables["ramp"][0], by_hand, rtol=1e-5, atol=1e-6)
shapes(directions=model.parameters["directions"], ramp=model.tables["ramp"], by_hand=by_hand)

# %% [markdown]
# ## The check
#
# The cell above has compared the forward pass with the formula. `vitab positions check` tests the backward pass, too,
# and more. It tests an encoding as the built-in ones are tested, on small models.

# %%
print(vitab("positions", "check", "ramp.py:Ramp"))

# %% [markdown]
# The most important line is *gradients*. The gradient of every parameter of the model, not only of the encoding, is
# compared with a central difference: the change of the result when the parameter is changed a little, divided by the
# change of the parameter. *Images apart* finds hooks that mix images or keep state between them. *Runs apart* finds a
# wrong use of the axis $R$. *Captured program* and *on a GPU* say whether the encoding runs in the fast ways of vitab,
# which [Chapter 11](11_gpu.ipynb) explains.
#
# ## What a wrong backward looks like
#
# The next cell breaks the backward pass in four ways, by a change of its text, and shows what the check says. It names
# the parameter, and describes the error where it recognises a pattern.

# %%
line = 'gradients["directions"][...] = self.place(config, xp).T @ dtables["ramp"]'
assert code.count(line) == 1
mistakes = {
    "a wrong sign": line.replace("self.place", "-self.place"),
    "a forgotten factor": line.replace("self.place(config, xp).T", "self.place(config, xp).T / 2"),
    "nothing is written": "pass",
    "x and y exchanged": line.replace(".T", ".T[::-1]"),
}
rows = []
for number, (mistake, wrong) in enumerate(mistakes.items()):
    Path(f"wrong{number}.py").write_text(code.replace(line, wrong))
    failed = next(result for result in check_position(f"wrong{number}.py:Ramp") if result.status == "fail")
    rows.append((mistake, failed.name, failed.text))
pd.set_option("display.max_colwidth", None)
pd.DataFrame(rows, columns=["mistake", "failed check", "what it says"])

# %% [markdown]
# A wrong gradient is easily overlooked without such a check: a model with it often still learns, only worse. The
# comparison of encodings would then be a comparison of a correct and a faulty program.
#
# ## The comparison
#
# A grid can name the encoding like any other one. It has one contrast, so six seeds suffice to show a difference
# (smallest possible p: $2 / 2^6 < 0.05$).

# %%
grid = """
question = "Can flags be told apart with a linear encoding?"
seeds = 6

[base]
data = "folder"
patch = 8
epochs = 10
warmup_epochs = 1
batch_size = 16

[axes]
position = ["none", "ramp.py:Ramp"]
"""
Path("flags.toml").write_text(grid)
print(vitab("run", "--grid", "flags.toml", "--data-dir", "flags", "--quiet").splitlines()[-1])
results = load_results(Store(Path("runs")), "flags")
analysis = analyse(results)
assert str(analysis.contrasts[0].subject) == "Ramp"
Markdown("\n".join(f"- {sentence(finding)}" for finding in claims(analysis)))

# %%
names = [("none", "none"), ("Ramp", results.plan.axes["position"][1])]
marks = position_marks([name for name, _ in names])
figure, ax = plt.subplots(figsize=(7, 3.2))
for name, level in names:
    for seed, epochs in results.epochs[results.epochs["position"] == level].groupby("seed"):
        label = name if seed == 0 else None
        ax.plot(epochs["epoch"], 100 * epochs["validation_accuracy"], color=marks[name].colour, label=label)
ax.axhline(100 / dataset.classes, color="#222222", ls="--", lw=1, label="chance")
ax.set(xlabel="epoch", ylabel="validation accuracy in %", ylim=(0, 104), title="One line for each seed")
ax.legend(loc="center right")
plt.show()

# %% [markdown]
# The comparison is fair: the runs of a pair differ in nothing but the encoding. But the dataset was made for this
# purpose, so the size of the difference says nothing about photographs. What the study shows is that the encoding
# works: the model uses it, and its gradient is right.
#
# The record of each run contains the source of the encoding, and the hash of the source is part of the identity of the
# run. If the file is changed, `vitab run` trains new runs, and the old results stay what they were.

# %%
key = results.runs.query("seed == 0")["key"].iloc[-1]
(recorded,) = results.environments[key]["encodings"].values()
assert recorded["source"] == code
print(names[1][1])

# %% [markdown]
# ## What to remember
#
# - A dataset of one's own is a folder with one folder of pictures for each class.
# - An encoding is a class with declared parameters, tables that are computed from them, hooks that use the tables, and
#   a backward pass for each of these.
# - A linear step $E = P\,W$ has the backward pass $dW = P^T\, dE$.
# - `vitab positions check` compares every gradient with a central difference. Run it before any training.
# - Data and encoding are identified by their content, so results of different versions are never mixed.
#
# ## Exercises
#
# 1. Start with smaller directions: add `"ramp.py:Ramp(std=0.02)"` to the axis of the grid. How does the figure change?
# 2. Make all runs use the directions of the first one: replace `parameters["directions"]` in `derive` by
#    `parameters["directions"][:1]`. Which checks fail, and what do they say?
# 3. Add a fourth class of flags, red on the right, and write a class `Rows` with one learned vector for each row of
#    patches. Check it. Which classes can a model with `Rows` tell apart, and which not?
#
# Next: [Chapter 11: The same code on a GPU](11_gpu.ipynb)
