"""The architecture of a Vision Transformer."""

import math
from dataclasses import dataclass

from vit.errors import ConfigError
from vit.positions import POSITIONS, encoding

POOLS = ("mean", "cls")


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Architecture of a pre-norm ViT for square images.

    Parameters
    ----------
    image_size, patch_size : int
        Side lengths in pixels; `patch_size` must divide `image_size`.
    channels, classes : int
        Image channels and output classes.
    width, depth, heads : int
        Width of a token, number of blocks, and attention heads per block; `heads` must divide `width`.
    mlp_ratio : float
        Hidden width of the MLP relative to `width`.
    position : str
        Positional encoding: a key of `vit.positions.POSITIONS`, or FILE.py:CLASS, with options in brackets
        ("rope(base=10)"), or a sum ("rope+learned"). Kept in its standard spelling.
    pool : {"mean", "cls"}
        Input of the classifier: the mean over the patch tokens, or the class token.
    dropout : float
        Dropout rate of the tokens, of the activation after GELU and of both residual branches.
    drop_path : float
        Probability of dropping the residual branch of an image (stochastic depth) in the last block; it increases
        linearly from 0 in the first block.
    init_std : float
        Standard deviation of the truncated normal distribution of the initial weights; initial biases are zero.
    trained_grid : int, optional
        Patches along one side of the images that the weights were trained on, if they serve images of another size.
    other_grid : str, optional
        How the encoding serves the other grid: one of its `other_grids`, by default the first.

    Raises
    ------
    ConfigError
        If a value is invalid or the values do not fit together.
    """

    image_size: int
    patch_size: int
    channels: int
    classes: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    position: str = "rope"
    pool: str = "mean"
    dropout: float = 0.0
    drop_path: float = 0.0
    init_std: float = 0.02
    trained_grid: int | None = None
    other_grid: str | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "channels", "classes", "width", "depth", "heads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.image_size % self.patch_size:
            divisors = [d for d in range(1, self.image_size + 1) if self.image_size % d == 0]
            raise ConfigError(
                f"patch_size must divide the image size {self.image_size} ({', '.join(map(str, divisors))}), "
                f"got {self.patch_size}"
            )
        if self.width % self.heads:
            raise ConfigError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        for name in ("mlp_ratio", "init_std"):
            value = getattr(self, name)
            if not _is_number(value) or not value > 0 or (name == "mlp_ratio" and self.hidden < 1):
                raise ConfigError(f"{name} must be a number above 0, got {value!r}")
        for name in ("dropout", "drop_path"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, got {value!r}")
        if self.pool not in POOLS:
            raise ConfigError(f"pool must be one of {', '.join(POOLS)}, got {self.pool!r}")
        if not isinstance(self.position, str):
            raise ConfigError(f"position must be one of {', '.join(POSITIONS)}, got {self.position!r}")
        grid = self.trained_grid
        if grid is not None and (isinstance(grid, bool) or not isinstance(grid, int) or grid < 1):
            raise ConfigError(f"trained_grid must be an integer of at least 1, got {grid!r}")
        position = encoding(self.position)
        object.__setattr__(self, "position", str(position))
        ways = dict.fromkeys(way for part in position.parts for way in part.other_grids)
        if self.other_grid is not None and self.other_grid not in ways:
            raise ConfigError(
                f"other_grid must be {' or '.join(ways)} with position {self.position!r}, got {self.other_grid!r}"
            )
        if self.other_grid is not None and grid is None:
            raise ConfigError(f"other_grid must be given together with trained_grid, got {self.other_grid!r} alone")
        position.check(self)

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches: 1 with a class token, else 0."""
        return int(self.pool == "cls")

    @property
    def tokens(self) -> int:
        return self.prefix + self.patches

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def patch_width(self) -> int:
        """Elements of a flattened patch."""
        return self.channels * self.patch_size**2


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
