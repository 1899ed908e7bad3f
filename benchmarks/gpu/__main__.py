"""Checks and measurements on a GPU, in stages that each end by themselves: `python -m benchmarks.gpu --stage smoke`.

Run `smoke` until it passes, then `checks`, then `speed`, `scaling` and `study`. Each stage is usable alone, from a bare
tree without an installation, and writes benchmarks/results/gpu.STAGE.json after every result. Without --stage, all
stages run in this order, and those that measure only if the checks have passed.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu import verdicts
from benchmarks.gpu.supervisor import WORKER, Row, Stage, Supervisor

STAGES = {"smoke": 60.0, "checks": 150.0, "speed": 180.0, "scaling": 120.0, "study": 120.0}
"""Time limit of each stage in seconds."""
CHECKING = ("smoke", "checks")
AIMS = {"speed": verdicts.of_speed, "study": verdicts.of_study}
RESULTS = Path(__file__).parents[1] / "results"


def run(name: str, folder: Path, options: Row | None = None, worker: Sequence[str] = WORKER) -> Stage:
    """Run a stage, and print what has become of it."""
    stage = Stage(name, STAGES[name], folder / f"gpu.{name}.json", summarise=AIMS.get(name))
    print(f"== {name}, at most {STAGES[name]:.0f} s", flush=True)
    Supervisor(stage, options, worker=worker, tell=lambda line: print(line, flush=True)).run()
    print("\n".join(summary(stage)), flush=True)
    return stage


def summary(stage: Stage) -> list[str]:
    """Return the end of a stage as lines: failures with their tracebacks, what did not run, and aims."""
    lines = [""]
    for problem in stage.problems:
        lines += [f"PROBLEM {problem['item']}: {problem['what']}", _indented(problem["traceback"])]
    for row in stage.rows:
        if row.get("passed") is False:
            about = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("item", "passed", "traceback"))
            lines += [f"FAILED {row['item']}: {about}", _indented(row.get("traceback", ""))]
    lines += [f"NOT RUN: {'; '.join(stage.not_run)}"] if stage.not_run else []
    for aim in stage.aims:
        reached = {True: "yes", False: "NO", None: "unknown"}[aim["reached"]]
        value = "-" if aim["value"] is None else f"{aim['value']:.3g}"
        lines.append(f"{aim['aim']}: {value}, aim {aim['wanted']:g}: {reached} ({aim['where']})")
    checks = [row["passed"] for row in stage.rows if row.get("passed") is not None]
    lines.append(f"{stage.name}: {'passed' if stage.passed else 'NOT PASSED'}, {stage.ended}, in {stage.taken:.0f} s")
    lines[-1] += f"; {sum(checks)} of {len(checks)} checks hold, {len(stage.problems)} problems; {stage.path}"
    return [line for line in lines if line]


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())


def main(arguments: Sequence[str] | None = None, worker: Sequence[str] = WORKER) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stage", choices=STAGES, help="default: all, one after the other")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    options = parser.parse_args(arguments)
    if worker is WORKER and find_spec("cupy") is None:
        print("benchmarks.gpu needs a GPU and CuPy: pip install 'vitab[cuda13]' or 'vitab[cuda12]'", file=sys.stderr)
        return 2
    failed = False
    for name in [options.stage] if options.stage else STAGES:
        if failed and name not in CHECKING:
            print(f"== {name} is left out, since the checks have not passed")
            continue
        failed |= not run(name, options.results, worker=worker).passed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
