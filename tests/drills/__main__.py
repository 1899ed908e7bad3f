"""Run a fault drill and print its result: ``python -m tests.drills``. The exit code is 1 if a fault did damage.

A run is lost if it is not finished in the end, duplicated if it was written again after it was finished or trained
twice at the same time, different if any number differs, and damaged if a checksum does not match.
"""

import argparse
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.drills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, default=100, metavar="N", help="number of processes to kill (default: 100)"
    )
    parser.add_argument(
        "--stack", type=int, default=1, metavar="N", help="maximum number of runs trained as one model (default: 1)"
    )
    parser.add_argument("--tuned", action="store_true", help="kill processes that train a tuned grid and its trials")
    parser.add_argument("--dask", action="store_true", help="kill Dask workers, clients and worker processes")
    parser.add_argument("--evaluate", action="store_true", help="kill processes that evaluate runs")
    parser.add_argument("--failing-writes", action="store_true", help="instead: full disks, file size limits")
    parser.add_argument("--fuzz", type=int, metavar="N", help="instead: damage N files of a store")
    parser.add_argument("--epochs", type=int, default=1000, help="epochs per run; longer runs are hit more often")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    if options.fuzz is not None:
        from .fuzz import drill

        tally = drill(options.fuzz, seed=options.seed)
    elif options.failing_writes:
        from .failing_writes import drill

        tally = drill(epochs=options.epochs, seed=options.seed)
    elif options.evaluate:
        from .evaluation_kills import drill

        tally = drill(options.kills, seed=options.seed)
    elif options.dask:
        from .dask_kills import drill

        tally = drill(options.kills, epochs=options.epochs, seed=options.seed)
    else:
        from .kills import drill

        tally = drill(options.kills, epochs=options.epochs, seed=options.seed, stack=options.stack, tuned=options.tuned)
    print(tally)
    print(f"in {time.monotonic() - start:.0f} s")
    return 0 if tally.good else 1


if __name__ == "__main__":
    sys.exit(main())
