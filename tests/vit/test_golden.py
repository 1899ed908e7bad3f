"""The model and ten AdamW steps against PyTorch, from the files that ``golden/make_golden.py`` made."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.small import BOTH, distance, worst
from vit import ViT, ViTConfig, get_ops
from vit.backend import Ops
from vit.engine import AdamWConfig, Engine
from vit.model import one_hot

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-9


class Case:
    def __init__(self, position: str, pool: str) -> None:
        with np.load(GOLDEN / f"{position}-{pool}.npz") as arrays:
            self.arrays = dict(arrays)
        fields = json.loads(str(self.arrays["config"]))
        self.training = fields.pop("training")
        self.config = ViTConfig(**fields)
        self.images = self.arrays["images"].astype(np.float64)
        self.labels = self.arrays["labels"]

    def named(self, kind: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(f"{kind}/"): self.arrays[key] for key in self.arrays if key.startswith(f"{kind}/")}

    def model(self, ops: Ops) -> ViT:
        model = ViT(self.config, ops=ops, seeds=[0])
        model.load_state_dict({name: value.astype(np.float64) for name, value in self.named("state").items()}, run=0)
        return model


@pytest.fixture(params=BOTH, ids=["-".join(names) for names in BOTH], scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


@pytest.fixture(params=["reference", "numpy", "numpy float32"])
def ops_and_tolerance(request: pytest.FixtureRequest) -> tuple[Ops, float]:
    if request.param == "reference":
        return Ops(np, "float64"), TOLERANCE
    if request.param == "numpy":
        return get_ops("numpy", dtype="float64"), TOLERANCE
    return get_ops("numpy", dtype="float32"), 1e-5


def test_logits(case: Case, ops_and_tolerance: tuple[Ops, float]) -> None:
    ops, tolerance = ops_and_tolerance
    logits = case.model(ops).forward(case.images[:1])
    assert logits.dtype == ops.dtype
    assert distance(logits[0], case.arrays["logits"]) < tolerance


def test_loss_and_every_gradient(case: Case, ops_and_tolerance: tuple[Ops, float]) -> None:
    ops, tolerance = ops_and_tolerance
    model = case.model(ops)
    loss = model.loss_and_gradients(case.images[:1], case.labels[:1])
    assert distance(loss, case.arrays["loss"][None]) < tolerance
    assert worst(model.gradients(run=0), case.named("gradient")) < tolerance


def test_ten_adamw_steps(case: Case) -> None:
    options = case.training
    model = case.model(get_ops("numpy", dtype="float64"))
    training = AdamWConfig(
        learning_rate=float(case.arrays["learning_rates"].max()),
        weight_decay=options["weight_decay"],
        betas=tuple(options["betas"]),
        eps=options["eps"],
        clip_norm=options["clip_norm"],
    )
    engine = Engine(model, training, batch_size=case.labels.shape[1], threads=1)
    targets = one_hot(case.labels, case.config.classes, smoothing=options["label_smoothing"])
    losses = [
        engine.step(case.images[step, None], targets[step, None], float(rate))[0]
        for step, rate in enumerate(case.arrays["learning_rates"])
    ]
    assert distance(np.array(losses), case.arrays["losses"]) < TOLERANCE
    state = model.state_dict(run=0)
    final = case.named("final")
    assert worst({name: state[name] for name in final}, final) < TOLERANCE


def test_the_cases_clip_some_steps_and_not_others() -> None:
    """So that ten equal losses mean clipping as PyTorch does it, on both sides of the limit."""
    cases = [Case(*names) for names in BOTH]
    clipped = np.concatenate([case.arrays["norms"] > case.training["clip_norm"] for case in cases])
    assert 10 < clipped.sum() < len(clipped) - 10
