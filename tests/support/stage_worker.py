"""A worker of `benchmarks.gpu` whose items need no GPU: one that works, and ones that go wrong in every way."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from benchmarks.gpu import worker
from benchmarks.gpu.worker import Context, Item


def items(context: Context) -> list[Item]:
    def good() -> Iterator[dict[str, Any]]:
        yield {"passed": True, "error": 0.5}
        yield {"passed": None, "images/s": 1234.5, "pid": os.getpid()}

    def raising() -> Iterator[dict[str, Any]]:
        yield {"passed": True}
        raise ValueError("no such kernel\nsecond line")

    def hanging() -> Iterator[dict[str, Any]]:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        context.note("kernel one, if it is waited for" if context.waits else "reading results", 10)
        yield {"child": child.pid, "waits": context.waits}
        time.sleep(600)

    def crashing() -> Iterator[dict[str, Any]]:
        context.note("kernel two")
        os.abort()
        yield {}

    def losing() -> Iterator[dict[str, Any]]:
        context.lost = lambda: "an illegal memory access"  # type: ignore[method-assign]
        raise RuntimeError("kernel three")
        yield {}

    def slow() -> Iterator[dict[str, Any]]:
        for i in range(600):
            time.sleep(0.1)
            yield {"i": i}

    def last() -> Iterator[dict[str, Any]]:
        yield {"before": len(context.rows), "pid": os.getpid(), "launched": sorted(context.launched())}

    def needed() -> Iterator[dict[str, Any]]:
        raise OSError("no GPU")
        yield {}

    made = {each.__name__: each for each in (good, raising, hanging, crashing, losing, slow, last)}
    found = [Item(name, made[name]) for name in context.options["items"] if name in made]
    return [Item("needed", needed, needed=True), *found] if "needed" in context.options["items"] else found


if __name__ == "__main__":
    module: Any = ModuleType("benchmarks.gpu.checks")
    module.items = items
    sys.modules["benchmarks.gpu.checks"] = module
    worker.machine = lambda: {"gpus": ["none"]}
    worker.main(sys.argv[1:])
