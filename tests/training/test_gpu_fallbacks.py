"""What a dry run says of runs that a GPU computes by a longer way."""

from dataclasses import replace

import pytest

from ablations.config import RunConfig
from ablations.training.gpu_fallbacks import gpu_fallbacks
from tests.support.small import SlopeByExpressions
from vit.positions import POSITIONS


def test_shapes_that_no_kernel_has_are_named() -> None:
    fused = RunConfig(width=64, heads=2)  # 16 tokens and more of 8 x 8 digits
    assert gpu_fallbacks([fused, replace(fused, width=48, heads=2)], None) == []
    (line,) = gpu_fallbacks([fused, replace(fused, width=40, heads=2), replace(fused, width=20, heads=1)], None)
    assert "16 tokens and head width 20" in line
    assert "head widths 16, 24, 32, 40, 48, 56, 64" in line


def test_encodings_that_compute_by_themselves_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POSITIONS, "own", type("Own", (SlopeByExpressions,), {}))
    scores, steps = gpu_fallbacks([RunConfig(position="own"), RunConfig(position="rope")], None)
    assert scores.startswith("attention with position own uses matrix products and a softmax")
    assert steps.startswith("steps with position own, which needs an array expression (numpy.add), are not captured")
