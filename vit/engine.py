"""Multithreaded training and evaluation on the CPU. A batch is divided into lanes, which threads process.

A lane is a fixed number of images that does not depend on the number of threads. Each thread has its own buffers and
gradient vector, and the gradients are added in the order of the lanes. So results are bitwise equal for any number of
threads, and memory grows with the number of threads but not with the batch size.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

from vit.backend import Array
from vit.config import ViTConfig
from vit.errors import ConfigError
from vit.lane import Lane
from vit.model import ViT
from vit.optim import AdamW, AdamWConfig
from vit.parameters import Views
from vit.workspace import Draws

__all__ = ["AdamWConfig", "Engine"]

MOST_SERIAL_SLICES = 8
"""Up to this number of slices of the parameters, one thread runs AdamW alone."""


def lane_images(config: ViTConfig, batch_size: int) -> int:
    """Return the number of images in a lane.

    A lane has about 512 tokens in narrow models, so that activations fit in a core's cache, and up to 1024 in wide
    models, so that weights are reloaded less often; but at most a quarter of the batch, rounded up.
    """
    tokens = min(max(8 * config.width, 512), 1024)
    return min(max(1, tokens // config.tokens), max(1, -(-batch_size // 4)))


def lanes_of(config: ViTConfig, batch_size: int, threads: int, backend: str) -> tuple[int, int]:
    """Return the number of images in a lane, and how many of the `threads` threads have a lane to process."""
    images = lane_images(config, batch_size) if backend == "numpy" else batch_size
    return images, max(1, min(threads, -(-batch_size // images)))


@cache
def _threadpools() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def _single_threaded_blas() -> Iterator[None]:
    with _threadpools().limit(limits=1, user_api="blas"):
        yield


class Engine:
    """Training and evaluation of the R runs of a model on `threads` threads (by default, one per CPU).

    `batch_size`, the number of images per run in a training step, determines the size of a lane.
    """

    def __init__(self, model: ViT, training: AdamWConfig, batch_size: int, threads: int | None = None) -> None:
        self.model, self.training, self.ops = model, training, model.ops
        threads = threads or os.cpu_count() or 1
        self.lane_images, self.threads = lanes_of(model.config, batch_size, threads, model.ops.name)
        self.lanes = [Lane(model, self.lane_images) for _ in range(self.threads)]
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        self.optimizer = AdamW(model.layout, model.parameters.flat, training, model.ops)
        self.gradient = self.ops.zeros(model.parameters.flat.shape)
        self._gradients = Views(model.layout, self.gradient)
        self._dtables = model.zero_tables(model.position.table_gradients(model.config))

    def step(self, images: Array, targets: Array, learning_rate: float | Array | None = None) -> Array:
        """Make one step of AdamW on images (R, B, h, w, channels) and soft targets (R, B, C).

        Returns the mean losses (R,) before the step. `learning_rate` is one number, or one per run (R,); by default
        that of the AdamWConfig. Raises ConfigError if the shape of `images` or `targets` does not fit.
        """
        self.model.check_images(images)
        batch = images.shape[1]
        if targets.shape != (*images.shape[:2], self.model.config.classes):
            raise ConfigError(
                f"targets must have the shape ({images.shape[0]}, {batch}, {self.model.config.classes}) with images "
                f"of shape {tuple(images.shape)}, got {tuple(targets.shape)}"
            )
        starts = range(0, batch, self.lane_images)
        losses = self.ops.empty((len(images), batch))
        turn = _Turn()
        self.optimizer.step += 1

        def train_lanes(thread: int) -> None:
            lane = self.lanes[thread]
            for i in range(thread, len(starts), self.threads):
                images_of_lane = slice(starts[i], starts[i] + self.lane_images)
                draws = Draws(self.model.seeds, self.optimizer.step, i)
                inputs = images[:, images_of_lane], targets[:, images_of_lane]
                losses[:, images_of_lane] = lane.train(*inputs, 1 / batch, draws)
                with turn.of(i):
                    for total, part in self._sums(lane):
                        if i:
                            self.ops.add(total, part)
                        else:
                            total[...] = part

        def train_lanes_or_abandon(thread: int) -> None:
            try:
                train_lanes(thread)
            except BaseException:
                turn.abandon()
                raise

        with _single_threaded_blas():
            self.model.derive(self.optimizer.step)
            self._on_threads(train_lanes_or_abandon, self.threads)
            self.model.derive_backward(self._dtables, self._gradients)
            self._optimise(self.training.learning_rate if learning_rate is None else learning_rate)
        return losses.mean(axis=1)

    def logits(self, images: Array) -> Array:
        """Return the logits (R, n, C) of any number of images (R, n, h, w, channels), without dropout."""
        self.model.check_images(images)
        count = images.shape[1]
        starts = range(0, count, self.lane_images)
        logits = self.ops.empty((len(images), count, self.model.config.classes))

        def evaluate_lanes(thread: int) -> None:
            for i in range(thread, len(starts), self.threads):
                part = slice(starts[i], starts[i] + self.lane_images)
                logits[:, part] = self.lanes[thread].logits(images[:, part])

        with _single_threaded_blas():
            self.model.derive()
            self._on_threads(evaluate_lanes, self.threads)
        return logits

    def replay_products(self, batch: int) -> bool:
        """Repeat only the matrix products of an earlier step on `batch` images, to measure their share of its time.

        Overwrites buffers and gradients, but no parameters. Returns False if the step was not captured.
        """
        sizes = [min(self.lane_images, batch - start) for start in range(0, batch, self.lane_images)]
        separable = True

        def replay_lanes(thread: int) -> None:
            nonlocal separable
            for size in sizes[thread :: self.threads]:
                program = self.lanes[thread].products(size, 1 / batch)
                if program is None:
                    separable = False
                else:
                    program.replay()

        with _single_threaded_blas():
            self._on_threads(replay_lanes, self.threads)
        return separable

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown()

    def _sums(self, lane: Lane) -> list[tuple[Array, Array]]:
        """Return the sums over the lanes, each with the summand of one lane."""
        sums = [(self.gradient, lane.gradient)]
        if self._dtables:
            sums.append((self._dtables.flat, lane.table_gradient))
        return sums

    def _optimise(self, learning_rate: float | Array) -> None:
        optimizer, xp = self.optimizer, self.ops.xp
        rate = xp.broadcast_to(xp.asarray(learning_rate, dtype="float64"), (len(self.gradient),))
        count = len(optimizer.slices)
        threads = self.threads if count > MOST_SERIAL_SLICES else 1
        sums: list[Array] = [None] * count

        def square(thread: int) -> None:
            for i in range(thread, count, threads):
                sums[i] = optimizer.sum_of_squares(self.gradient, i)

        def update(thread: int) -> None:
            for i in range(thread, count, threads):
                optimizer.update(self.gradient, i, scale, rate)

        self._on_threads(square, threads)
        scale = optimizer.clip_scale(sums)
        self._on_threads(update, threads)

    def _on_threads(self, work: Callable[[int], None], threads: int) -> None:
        """Run `work(0)` to `work(threads - 1)` in parallel, `work(0)` on this thread, and wait for all.

        If any of them raises, one of the errors is raised: preferably one that is not an `_AbandonedError`.
        """
        futures = [self._pool.submit(work, thread) for thread in range(1, threads)] if self._pool else []
        errors: list[BaseException | None] = []
        try:
            work(0)
        except BaseException as error:
            errors.append(error)
        wait(futures)
        errors += [future.exception() for future in futures]
        raised = [error for error in errors if error is not None]
        if raised:
            raise next((error for error in raised if not isinstance(error, _AbandonedError)), raised[0])


class _AbandonedError(RuntimeError):
    """Error of a lane that waits for another lane, which has failed."""


class _Turn:
    """Synchronisation that makes lanes enter a section in the order of their numbers."""

    _ABANDONED = -1

    def __init__(self) -> None:
        self._next = 0
        self._changed = threading.Condition()

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._next in (number, self._ABANDONED))
            if self._next == self._ABANDONED:
                raise _AbandonedError("another lane failed")
        yield
        with self._changed:
            if self._next != self._ABANDONED:
                self._next += 1
            self._changed.notify_all()

    def abandon(self) -> None:
        """Raise `_AbandonedError` in all waiting lanes, because another lane has failed."""
        with self._changed:
            self._next = self._ABANDONED
            self._changed.notify_all()
