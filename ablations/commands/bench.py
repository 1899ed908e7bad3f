"""`vitab bench`: time training steps on this machine."""

from importlib.util import module_from_spec, spec_from_file_location
from typing import Annotated, Any

import typer

from ablations.commands.options import Backend, Precision
from ablations.errors import UsageError


def bench(
    width: Annotated[int, typer.Option(metavar="N", help="Model width.")] = 64,
    depth: Annotated[int, typer.Option(metavar="N", help="Number of blocks.")] = 2,
    heads: Annotated[int, typer.Option(metavar="N", help="Number of attention heads.")] = 2,
    patch: Annotated[int, typer.Option(metavar="N", help="Patch size in pixels.")] = 4,
    image: Annotated[int, typer.Option(metavar="N", help="Image size in pixels.")] = 32,
    channels: Annotated[int, typer.Option(metavar="N", help="Image channels.")] = 3,
    batch: Annotated[int, typer.Option(metavar="N", help="Batch size.", min=1)] = 64,
    position: Annotated[str, typer.Option(metavar="NAME", help="Positional encoding.")] = "rope",
    backend: Backend = "auto",
    precision: Precision = None,
    seconds: Annotated[float, typer.Option(metavar="SECONDS", help="Seconds to measure.", min=0.01)] = 5.0,
) -> None:
    """Time training steps on this machine.

    If PyTorch is installed, the same steps are timed in PyTorch, alternately.
    """
    from ablations.config import RunConfig
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
    config = RunConfig(width=width, depth=depth, heads=heads, patch=patch, position=position)
    precision = precision or fastest(chosen, [config])
    check(precision, chosen, [config])
    stepper = Stepper(model, batch, chosen, available_cores(), precision)
    stepper.step()
    peak, peer = peak_mb(), None
    if stepper.model.ops.name == "numpy":
        make_peer, problem = find_peer()
        if make_peer is None:
            typer.echo(f"no comparison with PyTorch: {problem}", err=True)
        else:
            peer = make_peer(model, stepper.images[0], stepper.targets[0], compiled=False).step
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


def find_peer() -> tuple[Any, str]:
    """Return the PyTorch stepper of benchmarks/ in this clone and "", or None and the reason why there is none.

    It is loaded from its file: another package named `benchmarks` may be installed.
    """
    from ablations.machine import ROOT

    file = ROOT / "benchmarks" / "torch_peer.py"
    spec = spec_from_file_location("vitab_torch_peer", file)
    if not file.is_file() or spec is None or spec.loader is None:
        return None, "the folder benchmarks/ was not found (it is part of a git clone)"
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            return None, "PyTorch is not installed"
        return None, f"PyTorch cannot be imported ({' '.join(str(error).split())})"
    return module.TorchStepper, ""
