"""Options that are lists of numbers, separated by slashes: `0.5/1.5/2`."""

from typing import Any

from vit.options import option


def numbers_option(default: str, *, above: float, meaning: str, most: float = float("inf")) -> Any:
    """Return a dataclass field for a list of different numbers above `above` and at most `most`."""
    limit = f" and at most {most:g}" if most < float("inf") else ""
    valid = f"different numbers above {above:g}{limit}, separated by '/'"

    def accepts(text: str) -> bool:
        try:
            values = listed_numbers(text)
        except ValueError:
            return False
        return len(set(values)) == len(values) and all(above < value <= most for value in values)

    return option(default, valid, accepts, meaning)


def listed_numbers(text: str) -> list[float]:
    """Return the numbers of a list. Raises ValueError if it contains anything else."""
    return [float(part) for part in text.split("/")]
