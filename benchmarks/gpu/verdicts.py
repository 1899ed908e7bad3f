"""Verdicts on the aims that were set before anything was measured, from the rows of the stages `speed` and `study`.

Imports nothing but the standard library, as the supervisor does.
"""

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]

NARROW, SMALL, WIDE = 192, 128, 384
"""Widths that the aims name."""
POSITIONS = ("rope", "learned")


def of_speed(rows: Sequence[Row]) -> list[Row]:
    """Return the verdicts on speed: what decides, and whether the aim is reached (None: not fully measured)."""
    measured = [row for row in rows if "R" in row]
    alone = [row for row in measured if row["R"] == 1]
    narrow = [row for row in alone if row["width"] <= NARROW]
    wide = [row for row in alone if row["width"] >= WIDE]
    small = [row for row in alone if row["width"] <= SMALL]

    def best_over_one(row: Row) -> float | None:
        own = [r["images/s"] for r in measured if (r["shape"], r["position"]) == (row["shape"], row["position"])]
        torch = max(filter(None, (row.get("eager images/s"), row.get("compiled images/s"))), default=None)
        return max(own) / torch if torch and len(own) > 1 else None

    return [
        _least("R = 1 against the faster PyTorch, widths up to 192", narrow, lambda row: row.get("ratio"), 1.5),
        _least("R = 1 against the faster PyTorch, width 384", wide, lambda row: row.get("ratio"), 1.0),
        _least("best R against one PyTorch process, widths up to 128", small, best_over_one, 8.0),
        _peak_share([row for row in measured if row["width"] >= WIDE and row.get("share of peak product")]),
    ]


def of_study(rows: Sequence[Row]) -> list[Row]:
    """Return the verdict on the default grid."""
    claim, wanted = "seconds of the default grid on digits, kernels compiled", 10.0
    seconds = [row["seconds"] for row in rows if row.get("grid") == "digits, compiled" and row.get("passed")]
    if not seconds:
        return [_verdict(claim, None, wanted, None, "not measured")]
    return [_verdict(claim, seconds[-1], wanted, seconds[-1] <= wanted, "wall time of vitab run")]


def _least(claim: str, rows: Sequence[Row], value: Callable[[Row], float | None], wanted: float) -> Row:
    """Return the verdict on a value that every row must reach. The aim is missed if one row is below it."""
    values = [(number, row) for row in rows if (number := value(row)) is not None]
    if not values:
        return _verdict(claim, None, wanted, None, "not measured")
    least, row = min(values, key=lambda pair: pair[0])
    if least < wanted:
        return _verdict(claim, least, wanted, False, _name(row))
    partly = [
        _name(r) for r in rows if value(r) is None or not (r.get("eager images/s") and r.get("compiled images/s"))
    ]
    if partly:
        where = f"not measured beside both eager and compiled PyTorch: {'; '.join(partly)}"
        return _verdict(claim, least, wanted, None, where)
    return _verdict(claim, least, wanted, True, _name(row))


def _peak_share(rows: Sequence[Row]) -> Row:
    claim, wanted = "share of the measured peak of products, width 384, best R", 0.4
    if not rows:
        return _verdict(claim, None, wanted, None, "not measured")
    best = max(rows, key=lambda row: row["share of peak product"])
    share = best["share of peak product"]
    return _verdict(claim, share, wanted, share >= wanted, _name(best))


def _verdict(claim: str, value: float | None, wanted: float, reached: bool | None, where: str) -> Row:
    return {"aim": claim, "value": value, "wanted": wanted, "reached": reached, "where": where}


def _name(row: Row) -> str:
    return f"{row['shape']}, {row['position']}, R={row['R']}"
