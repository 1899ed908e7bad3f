"""What was passed over in reading a source, in words."""

from collections.abc import Mapping

from ablations.config import count

NOUNS = {"csv": "row", "parquet": "row", "npz": "array"}
"""What is passed over, by kind of source; files of the others."""


def skipped_text(kind: str, skipped: Mapping[str, int]) -> str:
    """Return numbers of what was passed over, such as ``3 files: 2 .txt, 1 .heic``; nothing if nothing was."""
    if not skipped:
        return ""
    reasons = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{number:,} {reason}" for reason, number in reasons)
    return f"{count(sum(skipped.values()), NOUNS.get(kind, 'file'))}: {listed}"
