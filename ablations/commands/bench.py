"""`vitab bench`: time training steps on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ablations.commands.options import Precision
from ablations.errors import UsageError


def bench(
    width: Annotated[int, typer.Option(help="Width of the model.")] = 64,
    depth: Annotated[int, typer.Option(help="Blocks.")] = 2,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 2,
    patch: Annotated[int, typer.Option(help="Pixels a side of a patch.")] = 4,
    image: Annotated[int, typer.Option(help="Pixels a side of an image.")] = 32,
    channels: Annotated[int, typer.Option(help="Channels of an image.")] = 3,
    batch: Annotated[int, typer.Option(help="Images a step.", min=1)] = 64,
    position: Annotated[str, typer.Option(help="Positional encoding.")] = "rope",
    backend: Annotated[str, typer.Option(metavar="auto|numpy|cupy")] = "auto",
    precision: Precision = None,
    seconds: Annotated[float, typer.Option(help="How long to measure.", min=0.01)] = 5.0,
) -> None:
    """Measure training steps of a model of your own shape on this machine."""
    from ablations.execution.resources import resolve_backend
    from ablations.machine import available_cores
    from ablations.training.precision import check, fastest
    from vit import ConfigError, ViTConfig

    try:
        model = ViTConfig(
            image_size=image,
            patch_size=patch,
            channels=channels,
            classes=10,
            width=width,
            depth=depth,
            heads=heads,
            position=position,
        )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    from ablations.machine.bench import Stepper, measure, peak_mb

    chosen = resolve_backend(backend)
    precision = precision or fastest(chosen, [position])
    check(precision, chosen, [position])
    stepper = Stepper(model, batch, chosen, available_cores(), precision)
    stepper.step()
    peak, peer = peak_mb(), None
    if stepper.model.ops.name == "numpy":
        sys.path.append(str(Path(__file__).parents[2]))  # a clone has benchmarks/ beside this package
        try:
            from benchmarks.torch_peer import TorchStepper

            peer = TorchStepper(model, stepper.images[0], stepper.targets[0], compiled=False).step
        except ModuleNotFoundError as error:
            if error.name not in ("benchmarks", "torch"):
                raise
            missing = "PyTorch is not installed" if error.name == "torch" else "this is not a clone with benchmarks/"
            typer.echo(f"{missing}, so there is nothing to compare with", err=True)
    speed = measure(stepper, batch_size=batch, seconds=seconds, peer=peer)
    share = "" if speed.products_share is None else f", {speed.products_share:.0%} of it matrix products"
    typer.echo(
        f"vitab    {speed.milliseconds:.2f} ms/step (median of {speed.steps}){share}, "
        f"{speed.images_per_s:,.0f} images/s, {speed.gflops:.1f} GFLOP/s, {peak:,.0f} MB at the peak"
    )
    if speed.ratio is not None:
        median, low, high = speed.ratio
        typer.echo(
            f"PyTorch  {speed.peer_milliseconds:.2f} ms/step, eager; vitab takes {median:.2f} of its time "
            f"({low:.2f} to {high:.2f} in 90 % of pairs)"
        )
