"""The stage `smoke`: what the product calls exists, compiles, ends and is right, each thing once and on its own.

Cheapest first: signatures and libraries before the GPU is touched, then copies and array functions, products, the
compilation of every source file, every kernel, graphs, and a training step. Every launch is waited for.
"""

import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.gpu import signatures
from benchmarks.gpu.watched import COMPILING
from benchmarks.gpu.worker import Context, Item, Row

NEEDED = {
    "numpy": "all stages",
    "cupy": "all stages",
    "scipy": "smoke and checks, for the reference",
    "torch": "speed and study, to compare with",
    "PIL": "smoke and checks (augmented batches), study",
    "sklearn": "checks (protocols), study (digits)",
    "pandas": "study",
    "numba": "study",
    "threadpoolctl": "study",
    "typer": "study",
    "rich": "study",
    "safetensors": "study",
    "cuda.pathfinder": "all stages with CuPy 14",
}
"""Packages by what needs them. seaborn, jinja2, markdown-it-py, pooch and platformdirs are needed by no stage."""
SIZES = ((2, 5, 17), (2, 5, 64))
"""Images, tokens and width of the kernels: one that cannot be loaded in vectors, and one that can."""
HEADS = ((2, 5, 2, 8), (2, 5, 2, 16))


def items(context: Context) -> list[Item]:
    found = [
        Item("packages", packages),
        Item("signatures of CuPy", signatures_of_cupy),
        Item("libraries", partial(libraries, context)),
        Item("GPU", partial(gpu, context), needed=True),
        Item("arrays", partial(arrays, context)),
        Item("products", partial(products, context)),
        Item("compilation", partial(compilation, context)),
    ]
    found += [Item(f"kernel {name}", partial(run, context, name)) for name in kernel_checks()]
    found += [
        Item("kernels never launched", partial(never_launched, context)),
        Item("graph", partial(graph, context)),
        Item("training step", partial(step, context)),
    ]
    return found + [Item(f"tables of {name}", partial(tables, context, name)) for name in derived_encodings()]


def packages() -> Iterator[Row]:
    """The packages that are missing, and which stages need them. Only CuPy and NumPy are needed here."""
    yield {"python": platform.python_version()}
    for name, stages in NEEDED.items():
        if not _is_found(name):
            needed = name in ("numpy", "cupy")
            yield {"missing": name, "needed by": stages} | ({"passed": False} if needed else {})


def _is_found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def signatures_of_cupy() -> Iterator[Row]:
    import cupy

    problems = signatures.cupy_problems(signatures.of_module(cupy))
    for problem in problems:
        yield {"passed": False, "problem": problem}
    yield {"passed": not problems, "uses": len(signatures.uses()), "wrong": len(problems)}


def libraries(context: Context) -> Iterator[Row]:
    """The driver, NVRTC, the headers, and every function of cuBLAS."""
    from vit.backend import cupy_ops

    for name, find in cupy_ops._PARTS.items():
        yield context.tried(name, find)
    missing = []
    with_library = context.tried("functions of cuBLAS", cupy_ops._cublas_library)
    if with_library["passed"]:
        library = cupy_ops._cublas_library()
        missing = [
            name for name in signatures.declarations() if name.startswith("cublas") and not hasattr(library, name)
        ]
    for name in missing:
        yield {"passed": False, "missing": name}
    yield with_library | ({"passed": False} if missing else {})
    problem = cupy_ops.device_problem()
    yield {"passed": problem is None, "device": problem or "usable"}


def gpu(context: Context) -> Iterator[Row]:
    device: Any = context.ops().device
    yield {
        "passed": True,
        "precisions": "/".join(context.precisions),
        "multiprocessors": device.multiprocessors,
        "shared bytes": device.shared_bytes,
    }


def arrays(context: Context) -> Iterator[Row]:
    """Copies, views, marks, and CuPy's own kernels on plain arrays."""
    ops = context.ops("float32")
    host = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    array = ops.asarray(host)
    xp = ops.xp

    def assigned() -> Any:
        copy = array.copy()
        copy[:, 1] = array[:, 0]
        copy[...] += 1
        return copy

    changed = host.copy()
    changed[:, 1] = host[:, 0]
    cases: dict[str, tuple[Callable[[], Any], np.ndarray]] = {
        "copy to the GPU and back": (lambda: array, host),
        "a strided view": (lambda: array[:, 1], host[:, 1]),
        "a transposed view": (lambda: array.swapaxes(1, 2), host.swapaxes(1, 2)),
        "contiguous": (lambda: xp.ascontiguousarray(array[:, :, ::2]), host[:, :, ::2]),
        "assignment": (assigned, changed + 1),
        "mean of an axis": (lambda: array.mean(axis=1), host.mean(axis=1)),
        "sum of squares": (lambda: ops.sum_of_squares(array[:, 0]), np.square(host[:, 0].astype(float)).sum(axis=-1)),
        "softmax": (lambda: ops.softmax(array.copy()), _softmax(host)),
        "float64 view": (lambda: xp.zeros(4, dtype="float32").view("float64"), np.zeros(2)),
        "uint8": (lambda: xp.asarray(np.arange(5, dtype=np.uint8)), np.arange(5)),
        "zeros": (lambda: ops.zeros((2, 3)), np.zeros((2, 3))),
    }
    for name, (make, expected) in cases.items():
        context.note(name, COMPILING)  # CuPy compiles a kernel of its own
        yield context.tried(name, lambda make=make, expected=expected: _same(ops.to_numpy(make()), expected))
    yield context.tried("a mark", lambda: ops.device.mark().wait())


def _softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def _same(actual: Any, expected: np.ndarray, limit: float = 1e-5) -> None:
    """Raise ValueError unless two arrays are equal but for rounding."""
    if actual.shape != expected.shape:
        raise ValueError(f"the shape is {actual.shape}, expected {expected.shape}")
    error = float(np.abs(actual - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not error <= limit:
        raise ValueError(f"the error is {error:.3g}, the limit {limit:.3g}")


def products(context: Context) -> Iterator[Row]:
    """One product and a batch of them, of transposed views too, in every precision."""
    from benchmarks.gpu.comparisons import LIMITS, from_device, on_device

    rng = np.random.default_rng(2)
    for precision in context.precisions:
        for runs in (1, 3):
            for transposed in (False, True):

                def multiply(precision: str = precision, runs: int = runs, transposed: bool = transposed) -> None:
                    ops = context.ops(precision)
                    a, b = (
                        rng.normal(size=(runs, 32, 48)),
                        rng.normal(size=(runs, 16, 48) if transposed else (runs, 48, 16)),
                    )
                    given = [on_device(ops, each, ops.rounds_operands) for each in (a, b)]
                    exact = [from_device(ops, each) for each in given]
                    made = from_device(ops, ops.matmul(*given, trans_b=transposed))
                    _same(made, exact[0] @ (exact[1].swapaxes(1, 2) if transposed else exact[1]), LIMITS[precision])

                yield context.tried(f"{precision}, {runs} runs{', transposed' * transposed}", multiply)


Check = Any


def kernel_checks() -> dict[str, Callable[[Any], Iterator[Check]]]:
    """Return functions that launch every kernel on small arrays and check the results, by the name of the operation."""
    from benchmarks.gpu import comparisons
    from tests.support.cases import Draw
    from tests.support.operations import BY_HEAD, CUDA_CASES

    def of_method(method: str) -> Callable[[Any], Iterator[Check]]:
        def check(ops: Any) -> Iterator[Check]:
            for name, make in CUDA_CASES:
                if name == method:
                    sizes: Any = HEADS if method.startswith(BY_HEAD) else SIZES
                    cases = [make(Draw(2, seed), *size) for seed, size in enumerate(sizes)]
                    worst = max(comparisons.errors(ops, method, cases))
                    yield comparisons.Check(make.__name__, worst, comparisons.LIMITS[ops.precision])

        return check

    def attention(position: str) -> Callable[[Any], Iterator[Check]]:
        def check(ops: Any) -> Iterator[Check]:
            for size in ((2, 17, 2, 16), (1, 65, 1, 64)):
                error = comparisons.attention_error(ops, position, 2, *size)
                yield comparisons.Check(f"{position} {size}", error, 2 * comparisons.LIMITS[ops.precision])

        return check

    methods = dict.fromkeys(method for method, _ in CUDA_CASES if method not in comparisons.OWN_LAUNCH)
    found = {method: of_method(method) for method in methods}
    found |= {f"attention, {position}": attention(position) for position in ("none", "rope", "bias")}
    found |= {"draws": comparisons.each_draw, "adamw": adamw, "patchify": patchify, "gradient_norm": gradient_norm}
    found["totals of the loss"] = totals
    return found


def adamw(ops: Any) -> Iterator[Check]:
    """Compare one step of AdamW with the formula. A step of training checks the choice of the learning rate."""
    from benchmarks.gpu.comparisons import Check, distance, from_device

    rng = np.random.default_rng(4)
    arrays = {name: rng.normal(size=(2, 128)) for name in ("parameters", "gradient", "first")}
    arrays["second"] = rng.normal(size=(2, 128)) ** 2
    held = {name: ops.asarray(value) for name, value in arrays.items()}
    rate, decay = ops.asarray(np.full((2, 1), 0.01)), ops.asarray(np.full(2, 0.1))
    counter = ops.xp.zeros(1, dtype="int32")
    copy = ops.empty_operand((2, 128)) if ops.rounds_operands else None
    average = ops.asarray(arrays["parameters"])
    settings: dict[str, Any] = {"clip_norm": 1.0, "betas": (0.9, 0.999), "epsilon": 1e-8, "average_decay": 0.9}
    ops.kernels.adamw(**held, rate=rate, decay=decay, decayed=64, step=counter, copy=copy, average=average, **settings)
    exact = {name: from_device(ops, ops.asarray(value)) for name, value in arrays.items()}
    gradient = exact["gradient"] * np.minimum(1, 1 / (np.linalg.norm(exact["gradient"], axis=1, keepdims=True) + 1e-6))
    first, second = 0.9 * exact["first"] + 0.1 * gradient, 0.999 * exact["second"] + 0.001 * gradient**2
    update = (first / (1 - 0.9)) / (np.sqrt(second / (1 - 0.999)) + 1e-8)
    decayed = np.where(np.arange(128) < 64, 1 - 0.01 * 0.1, 1) * exact["parameters"]
    wanted = {"parameters": decayed - 0.01 * update, "first": first, "second": second}
    for name, value in wanted.items():
        yield Check(name, distance(from_device(ops, held[name]), value), 1e-5)
    mixed = 2 / 11 * exact["parameters"] + 9 / 11 * wanted["parameters"]
    yield Check("average", distance(from_device(ops, average), mixed), 1e-5)
    yield Check("counter", abs(float(ops.to_numpy(counter)[0]) - 1), 0.0)
    if copy is not None:
        yield Check("bf16 copy", distance(from_device(ops, copy), wanted["parameters"]), 2.0**-8)


def patchify(ops: Any) -> Iterator[Check]:
    from benchmarks.gpu.comparisons import LIMITS, Check, distance, from_device, reference

    images = np.random.default_rng(5).normal(size=(2, 3, 8, 8, 3)).astype(np.float32)
    made, wanted = ops.empty_operand((2, 3, 4, 48)), np.empty((2, 3, 4, 48))
    ops.patchify(ops.asarray(images), 4, made)
    reference().patchify(images.astype(float), 4, wanted)
    yield Check("patchify", distance(from_device(ops, made), wanted), LIMITS[ops.precision])


def gradient_norm(ops: Any) -> Iterator[Check]:
    from benchmarks.gpu.comparisons import Check, distance

    x = np.random.default_rng(6).normal(size=(3, 256)).astype(np.float32)
    out = ops.empty((3,))
    ops.kernels.gradient_norm(ops.asarray(x), out)
    yield Check("gradient_norm", distance(ops.to_numpy(out), np.linalg.norm(x.astype(float), axis=1)), 1e-6)


def totals(ops: Any) -> Iterator[Check]:
    """Compare the sum of the losses and the number of correct predictions with those of the logits."""
    from benchmarks.gpu.comparisons import LIMITS, Check, distance, on_device

    rng = np.random.default_rng(9)
    logits, targets = rng.normal(size=(2, 5, 7)), np.eye(7)[rng.integers(7, size=(2, 5))]
    losses, sums = ops.empty((2, 5)), ops.zeros((2, 2))
    gradient = ops.empty_operand((2, 5, 7))
    ops.cross_entropy(
        on_device(ops, logits, False), ops.asarray(targets), 1.0, losses=losses, dlogits=gradient, totals=sums
    )
    exact = -(np.log(_softmax(logits)) * targets).sum(axis=(1, 2))
    correct = (logits.argmax(axis=-1) == targets.argmax(axis=-1)).sum(axis=1)
    yield Check("totals", distance(ops.to_numpy(sums), np.stack([exact, correct], axis=1)), LIMITS["float32"])


def compilation(context: Context) -> Iterator[Row]:
    """Compile every source file on its own, all at the same time. What the others need is then there."""
    from vit.backend.cuda.sources import file_of

    by_file: dict[str, set[str]] = {}
    for precision in kernel_precisions(context):
        ops = context.ops(precision)
        for name, check in kernel_checks().items():
            for kernel in _noted(ops, check, name):
                by_file.setdefault(file_of(kernel), set()).add(kernel)
    device: Any = context.ops().device
    context.note(f"compiling {', '.join(by_file)}", COMPILING)
    with ThreadPoolExecutor(len(by_file)) as threads:
        jobs = {file: threads.submit(device._device.load, names) for file, names in by_file.items()}
        for file, job in jobs.items():
            yield context.tried(f"{file}, {len(by_file[file])} kernels", job.result)


def kernel_precisions(context: Context) -> tuple[str, ...]:
    """Precisions with kernels of their own: those of TF32 are those of float32."""
    return tuple(precision for precision in context.precisions if precision != "tf32")


def _noted(ops: Any, check: Callable[[Any], Iterator[Check]], name: str) -> set[str]:
    """Return the kernels that a check launches, without launching them. One that cannot even be noted fails later."""
    noted: set[str] = set()
    ops._noted = noted
    try:
        with np.errstate(all="ignore"):
            list(check(ops))
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}")
    finally:
        ops._noted = None
    return noted


def run(context: Context, name: str) -> Iterator[Row]:
    """Launch the kernels of an operation in each type, and check the results."""
    for precision in kernel_precisions(context):
        found: list[Row] = []

        def launch(precision: str = precision, found: list[Row] = found) -> None:
            found.extend(checked(each, precision) for each in kernel_checks()[name](context.ops(precision)))

        outcome = context.tried(precision, launch)
        yield from found
        if not outcome["passed"]:
            yield outcome


def checked(check: Check, precision: str) -> Row:
    """Return a comparison as a row."""
    error = float(check.error) if np.isfinite(check.error) else None
    return {
        "passed": bool(check.passed),
        "check": check.name,
        "precision": precision,
        "error": error,
        "limit": check.limit,
    }


def never_launched(context: Context) -> Iterator[Row]:
    """The kernels of which not one variant has been launched."""
    from vit.backend.cuda.sources import kernel_names

    missing = kernel_names() - context.launched()
    for name in sorted(missing):
        yield {"passed": False, "kernel": name}
    yield {"passed": not missing, "launched": len(context.launched())}


def graph(context: Context) -> Iterator[Row]:
    """Capture a product and a kernel, and replay them twice."""
    for precision in context.precisions:
        yield context.tried(precision, partial(_graph, context.ops(precision)))


def _graph(ops: Any) -> None:
    from benchmarks.gpu.comparisons import from_device, on_device

    one = np.arange(16.0 * 16).reshape(1, 16, 16) / 256
    a, out, total = on_device(ops, one, ops.rounds_operands), ops.empty_operand((1, 16, 16)), ops.zeros((1, 256))

    def work() -> None:
        ops.matmul(a, a, out=out)
        ops.add(total, step)

    step = ops.asarray(np.ones((1, 256)))
    work()
    graph = ops.capture(work)
    _same(ops.to_numpy(total), np.ones((1, 256)))
    graph.launch()
    graph.launch()
    _same(ops.to_numpy(total), np.full((1, 256), 3.0))
    _same(from_device(ops, out), one @ one, 2e-2)


def step(context: Context) -> Iterator[Row]:
    """Train a small model for four steps: as it is, captured, and twice replayed."""
    for precision in context.precisions:
        yield context.tried(precision, partial(_step, context.ops(precision)))


def _step(ops: Any) -> str:
    from benchmarks.gpu.comparisons import images_and_labels, small
    from vit import ViT, one_hot
    from vit.graph_engine import AdamWConfig, GraphEngine

    config = small("rope")
    images, labels = images_and_labels(config, 2, 4)
    engine = GraphEngine(ViT(config, ops, seeds=[1, 2]), AdamWConfig(), 4)
    targets = one_hot(labels, config.classes).astype(np.float32)
    losses = [ops.to_numpy(engine.step(images, targets, 3e-3)) for _ in range(4)]
    if not (np.isfinite(losses).all() and (losses[-1] < losses[0]).all()):
        raise ValueError(f"the losses do not fall: {losses}")
    return f"losses {losses[0].mean():.3f} to {losses[-1].mean():.3f}"


def derived_encodings() -> list[str]:
    """Return the encodings that compute tables with array functions, which are CuPy's on a GPU."""
    from benchmarks.gpu.comparisons import ENCODINGS, small
    from vit.positions import encoding

    return [name for name in ENCODINGS if encoding(name).tables(small(name))]


def tables(context: Context, name: str) -> Iterator[Row]:
    """Compute the tables of an encoding and the gradients behind them."""
    from benchmarks.gpu.comparisons import distance, reference, small
    from vit import ViT

    config, found = small(name), []
    for ops in (context.ops("float32"), reference()):
        context.note(f"tables of {name}", COMPILING)
        model = ViT(config, ops, seeds=[1, 2])
        model.derive(1)
        network = model.network(1)
        dtables, gradients = network.workspace.dtables, network.workspace.gradients
        rng = np.random.default_rng(8)
        if dtables:
            dtables.flat[...] = ops.asarray(rng.normal(size=dtables.flat.shape))
            model.derive_backward(dtables, gradients)
        found.append([ops.to_numpy(array) for array in (model.tables.flat, gradients.flat)])
    for what, actual, expected in zip(("tables", "gradients"), *found, strict=True):
        error = distance(actual, expected)
        yield {"passed": error <= 1e-4, "what": what, "error": error, "limit": 1e-4}
