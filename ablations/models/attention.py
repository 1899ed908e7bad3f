"""Where a trained model looks in a picture: its attention in every block and head, and attention rollout."""

import numpy as np

from ablations.models.trained import TrainedModel
from vit import ViTConfig


def attention(model: TrainedModel, image: np.ndarray) -> np.ndarray:
    """Return the attention (depth, heads, T, T) in one uint8 image (h, w, c): rows are queries, columns keys.

    A class token is the first of the T tokens.
    """
    (network,) = model.layers(image[None])
    return np.stack([block.attn.probabilities[0, 0] for block in network.blocks]).astype(np.float64)


def rollout(attention: np.ndarray) -> np.ndarray:
    """Return the attention rollout (T, T) of attention (depth, heads, T, T): rows are outputs, columns input tokens.

    The product of A / 2 + I / 2 over the blocks, that of the last block first, where A is the mean over the heads and
    the rows are normalised to a sum of 1 (Abnar and Zuidema 2020, arXiv 2005.00928).
    """
    tokens = attention.shape[-1]
    flow = np.eye(tokens)
    for mean in attention.mean(axis=1):
        mixed = 0.5 * mean + 0.5 * np.eye(tokens)
        flow = mixed / mixed.sum(axis=-1, keepdims=True) @ flow
    return flow


def to_patches(attention: np.ndarray, config: ViTConfig) -> np.ndarray:
    """Return the share of attention (..., grid, grid) that each patch gets, of (..., T, T).

    From the class token if the model classifies by it, else the mean over the patches as queries.
    """
    rows = attention[..., 0, :] if config.pool == "cls" else attention[..., config.prefix :, :].mean(axis=-2)
    return rows[..., config.prefix :].reshape(*attention.shape[:-2], config.grid, config.grid)
