"""``python -m tests.drills``: which drill, how much of it, and what it has shown; exit code 1 when anything went wrong.

A run is lost when it is not finished in the end, duplicated when a finished one was written again, different when a
number in it is, damaged when a file of it is not what was written.
"""

import argparse
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.drills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="processes to kill (default: 100)")
    parser.add_argument("--stack", type=int, default=1, metavar="N", help="most runs trained as one model (default: 1)")
    parser.add_argument("--dask", action="store_true", help="kill workers, clients and children of a Dask cluster")
    parser.add_argument(
        "--failing-writes", action="store_true", help="instead: disks that are full, files that may not grow"
    )
    parser.add_argument("--fuzz", type=int, metavar="N", help="instead: damage files of a store N times")
    parser.add_argument("--epochs", type=int, default=1000, help="of each run: longer runs are hit more often")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    if options.fuzz is not None:
        from .fuzz import drill

        tally = drill(options.fuzz, seed=options.seed)
    elif options.failing_writes:
        from .failing_writes import drill

        tally = drill(epochs=options.epochs, seed=options.seed)
    elif options.dask:
        from .dask_kills import drill

        tally = drill(options.kills, epochs=options.epochs, seed=options.seed)
    else:
        from .kills import drill

        tally = drill(options.kills, epochs=options.epochs, seed=options.seed, stack=options.stack)
    print(tally)
    print(f"in {time.monotonic() - begun:.0f} s")
    return 0 if tally.good else 1


if __name__ == "__main__":
    sys.exit(main())
