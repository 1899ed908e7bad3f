"""Checks of a positional encoding, as the built-in ones are tested: `vitab positions check`.

Each check compares results of small models, in float64 unless it says otherwise, and describes a difference in words.
"""

from vit.position_checks.checks import CheckResult, check_position

__all__ = ["CheckResult", "check_position"]
