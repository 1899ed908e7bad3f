"""The stage `speed`: R = 1 and the best R of every shape against PyTorch, eager and compiled, and the GPU's peaks.

PyTorch compiles its models in processes of its own while vitab compiles its kernels; then the steps of both alternate.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from benchmarks.gpu import steps
from benchmarks.gpu.worker import Context, Item, Row
from benchmarks.peers import Compilations, Make, Peer, PeerError
from benchmarks.shapes import GPU_SHAPES, Shape

POSITIONS = ("rope", "learned")
"""Encodings, the second one as far as there is time."""
RUNS = (4, 16, 64)
"""Values of R beside 1."""
PREPARATION = 0.55
"""Share of the time of the stage in which PyTorch may compile."""
ANSWER = 30.0
"""Seconds in which a process must have imported PyTorch and made a model."""


def items(context: Context) -> list[Item]:
    speed = Speed(context, shapes_of(context))
    pairs = [(shape, position) for position in POSITIONS for shape in speed.shapes]
    found = [Item("peaks", speed.peaks), Item("preparation", partial(speed.prepare, pairs))]
    for position in POSITIONS:
        found += [Item(f"{shape}, {position}, R=1", partial(speed.alone, shape, position)) for shape in speed.shapes]
        found += [
            Item(f"{shape}, {position}, best R", partial(speed.stacks, shape, position)) for shape in speed.shapes
        ]
    return found


def shapes_of(context: Context) -> dict[str, Shape]:
    """Return the shapes, the widest first."""
    named = {name: Shape(*fields) for name, fields in context.options.get("shapes", {}).items()} or GPU_SHAPES
    return dict(sorted(named.items(), key=lambda item: -item[1].width * item[1].depth))


def torch_maker(context: Context) -> Make | None:
    """Return the function that makes PyTorch models; None without PyTorch."""
    from importlib import import_module
    from importlib.util import find_spec

    if given := context.options.get("torch"):  # of a rehearsal
        module, name = given.split(":")
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    if find_spec("torch") is None:
        return None
    from benchmarks.peers import torch_stepper

    return torch_stepper


def row_of(shape: str, about: Shape, position: str, runs: int, timing: steps.Timing, together: steps.RunsAsOne) -> Row:
    """Return what is measured of R runs trained as one model."""
    speed = together.images / timing.seconds
    row: Row = {"shape": shape, "width": about.width, "position": position, "R": runs, "images/s": speed}
    return row | {"ms": timing.seconds * 1e3, "ms least": timing.low * 1e3, "ms most": timing.high * 1e3}


class Speed:
    """The measurements of the stage, with the PyTorch processes that they share."""

    def __init__(self, context: Context, shapes: dict[str, Shape]) -> None:
        self.context, self.shapes = context, shapes
        self.make = torch_maker(context)
        self.compilations: Compilations | None = None
        self.eager: Peer | None = None
        context.at_end.callback(self.close)

    def close(self) -> None:
        for peers in filter(None, (self.compilations, self.eager)):
            peers.close()

    def peaks(self) -> Iterator[Row]:
        sizes = self.context.options.get("peaks", {})
        self.context.note("peaks of the GPU", 40)
        ops = self.context.fast_ops()
        found = steps.measure_peaks(ops, **sizes)
        steps.release(ops)
        yield {"precision": ops.precision, "TFLOP/s": found.tflops, "copy GB/s": found.copy_gb_s}

    def prepare(self, pairs: Sequence[tuple[str, str]]) -> Iterator[Row]:
        """Compile the kernels of every shape, while PyTorch compiles its models."""
        if self.make is None:
            yield {"note": "PyTorch is not installed: only vitab is measured"}
        else:
            self.compilations = Compilations(pairs, self.make, max(2, min(5, (os.cpu_count() or 1) // 3)))
            self.compilations.look()
        for shape in self.shapes:
            start = time.monotonic()
            self.context.note(f"kernels of {shape}", 60)
            together = steps.RunsAsOne(self.shapes[shape], POSITIONS[0], 1, self.context.fast_ops())
            together.way().start(1)
            together.close()
            yield {"compiled": shape, "seconds": time.monotonic() - start}
            if self.compilations:
                self.compilations.look()
        end = self.context.start + PREPARATION * self.context.seconds
        while self.compilations and not self.compilations.over and time.monotonic() < end:
            self.context.note("waiting for torch.compile", 30)
            self.compilations.look()
            time.sleep(0.05)
        if self.compilations:
            self.compilations.stop()
            for (shape, position), why in self.compilations.failed.items():
                yield {"torch.compile": f"{shape}, {position}", "note": why}

    def alone(self, shape: str, position: str) -> Iterator[Row]:
        """Measure R = 1, alternately with PyTorch."""
        others, notes = [], []
        ready = self.compilations.ready if self.compilations else {}
        compiled, images = ready.get((shape, position), (None, 0))
        if compiled:
            others.append(compiled.way(images))
        if self.make:
            try:
                others.append(self._eager(self.make, shape, position))
            except PeerError as error:
                notes.append(str(error))
        try:
            row = self._measure(shape, position, 1, others)
        except PeerError as error:  # the model of PyTorch fails while it is timed
            notes.append(str(error))
            row = self._measure(shape, position, 1, [])
        if compiled:
            compiled.close()
        yield row | ({"note": "; ".join(notes)} if notes else {})

    def _eager(self, make: Make, shape: str, position: str) -> steps.Way:
        """Return eager PyTorch, in a process that makes one model after another."""
        self.context.note("starting PyTorch", ANSWER + 10)
        if self.eager is None:
            self.eager = Peer(make)
        try:
            self.eager.make(shape, position)
            return self.eager.way(self.eager.answer(ANSWER))
        except PeerError:
            if self.eager.pending:  # a late answer would be taken for the next one
                self.eager.close()
                self.eager = None
            raise

    def stacks(self, shape: str, position: str) -> Iterator[Row]:
        """Measure R runs trained as one model, in increasing order of R, until memory ends or speed falls."""
        best = 0.0
        for runs in self.context.options.get("runs", RUNS):
            try:
                row = self._measure(shape, position, runs, [])
            except MemoryError:
                yield {"shape": shape, "position": position, "note": f"no memory for R={runs}"}
                break
            yield row
            if row["images/s"] < best:
                break
            best = row["images/s"]

    def _measure(self, shape: str, position: str, runs: int, others: Sequence[steps.Way]) -> Row:
        """Measure R runs trained as one model, alternately with `others`."""
        self.context.note(f"{shape}, {position}, R={runs}", 60)
        ops = self.context.fast_ops()
        together = steps.RunsAsOne(self.shapes[shape], position, runs, ops)
        try:
            times = steps.time_ways([together.way(), together.products(self.shapes[shape].batch), *others])
            row = row_of(shape, self.shapes[shape], position, runs, times["vitab"], together)
            peaks = next((known for known in self.context.rows if "TFLOP/s" in known), None)
            seconds = times["vitab"].seconds
            if peaks:
                row["share of peak product"] = together.flops / seconds / 1e12 / peaks["TFLOP/s"]
                row["share of peak copy"] = together.bytes / seconds / 1e9 / peaks["copy GB/s"]
            row["products alone"] = times["products"].seconds / seconds
        finally:
            with suppress(Exception):
                together.close()
        speeds = {way.name: way.images / times[way.name].seconds for way in others}
        row |= {f"{name.removeprefix('torch ')} images/s": speed for name, speed in speeds.items()}
        return row | ({"ratio": row["images/s"] / max(speeds.values())} if speeds else {})
