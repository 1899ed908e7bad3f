"""Messages about the runs of a plan that a GPU executes without its fastest code path."""

from collections.abc import Iterable
from pathlib import Path

from ablations.config import RunConfig, position_label, vit_config
from ablations.data.loading import dataset_for


def gpu_fallbacks(configs: Iterable[RunConfig], data_dir: Path | None) -> list[str]:
    """Return a line for each reason: attention without a fused kernel, encodings that cannot be captured in a graph."""
    from vit.backend.cuda.attention import HEAD_WIDTHS, TOKENS, fits
    from vit.model import attention_is_fusible, capture_problem

    unfused: dict[str, None] = {}
    uncaptured: dict[str, None] = {}
    for config in configs:
        dataset = dataset_for(config, data_dir)
        model = vit_config(config, image_size=dataset.image_size, channels=dataset.channels, classes=dataset.classes)
        if problem := capture_problem(model, "cupy"):
            uncaptured[f"position {position_label(config.position)}, which needs {problem},"] = None
        if not attention_is_fusible(model):
            unfused[f"position {position_label(config.position)}"] = None
        elif not fits(model.tokens, model.head_width):
            unfused[f"{model.tokens} tokens and head width {model.head_width}"] = None
    lines = []
    if unfused:
        widths = ", ".join(map(str, HEAD_WIDTHS))
        lines.append(
            f"attention with {', '.join(unfused)} uses matrix products and a softmax, which is slower than the fused "
            f"kernel for up to {TOKENS} tokens, head widths {widths} and encodings that only rotate queries and keys "
            "or add a bias to the scores"
        )
    if uncaptured:
        lines.append(
            f"steps with {', '.join(uncaptured)} are not captured as a CUDA graph, so each step has more overhead"
        )
    return lines
