"""Configurations that cannot be, sizes that follow from those that can, and what they cost."""

import pytest

from tests.support.small import build, config
from vit import ConfigError, ViTConfig, cost

BAD_CONFIGS = [
    ({"patch_size": 3}, ["patch_size", "3", "1, 2, 4, 8"]),
    ({"heads": 3}, ["width", "heads", "3", "16"]),
    ({"heads": 8, "position": "rope"}, ["rope", "2", "4"]),
    ({"width": 6, "heads": 1, "position": "sinusoidal"}, ["sinusoidal", "6", "4"]),
    ({"position": "rotary"}, ["position", "rotary", "none", "learned", "sinusoidal", "rope"]),
    ({"pool": "max"}, ["pool", "max", "mean", "cls"]),
    ({"image_size": 0}, ["image_size", "0"]),
    ({"patch_size": -2}, ["patch_size", "-2"]),
    ({"channels": 0}, ["channels", "0"]),
    ({"classes": 0}, ["classes", "0"]),
    ({"width": 0}, ["width", "0"]),
    ({"depth": -1}, ["depth", "-1"]),
    ({"heads": 0}, ["heads", "0"]),
    ({"mlp_ratio": 0.0}, ["mlp_ratio", "0"]),
    ({"mlp_ratio": float("nan")}, ["mlp_ratio", "nan"]),
    ({"mlp_ratio": float("inf")}, ["mlp_ratio", "inf"]),
    ({"mlp_ratio": "4"}, ["mlp_ratio", "'4'"]),
    ({"dropout": "high"}, ["dropout", "high"]),
    ({"width": 16.0}, ["width", "16.0"]),
    ({"depth": True}, ["depth", "True"]),
    ({"position": ["rope"]}, ["position", "rope", "learned"]),
    ({"dropout": 1.0}, ["dropout", "1.0"]),
    ({"dropout": -0.1}, ["dropout", "-0.1"]),
    ({"drop_path": 1.5}, ["drop_path", "1.5"]),
]


@pytest.mark.parametrize(("changes", "words"), BAD_CONFIGS, ids=[str(changes) for changes, _ in BAD_CONFIGS])
def test_a_bad_config_is_refused_in_one_clear_line(changes: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        config(**changes)
    message = str(refusal.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_derived_sizes() -> None:
    small = config(image_size=12, patch_size=3, width=24, heads=3, pool="cls")
    assert (small.grid, small.tokens, small.prefix, small.head_width) == (4, 17, 1, 8)
    assert config(pool="mean").prefix == 0
    assert isinstance(small, ViTConfig)


def test_cost_is_that_of_the_named_weights() -> None:
    small = config(pool="cls", position="learned", mlp_ratio=3.0)
    weights = build(small).state_dict(run=0)
    assert cost.parameters(small) == sum(value.size for value in weights.values())

    def positions(name: str) -> int:
        return {"patch_embed": small.patches, "head": 1}.get(name.split(".")[0], small.tokens)

    products = {name: value.size for name, value in weights.items() if value.ndim > 1 and name.endswith("weight")}
    linear = sum(size * positions(name) for name, size in products.items())
    attention = 2 * small.depth * small.tokens**2 * small.width
    assert cost.forward_flops(small) == 2 * (linear + attention)


def test_vit_tiny_has_the_parameters_of_timm() -> None:
    """vit_tiny_patch16_224 has 5,717,416, of which 192 are the position of the class token."""
    tiny = ViTConfig(
        image_size=224,
        patch_size=16,
        channels=3,
        classes=1000,
        width=192,
        depth=12,
        heads=3,
        position="learned",
        pool="cls",
    )
    assert cost.parameters(tiny) == 5_717_416 - 192
