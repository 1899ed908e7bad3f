"""Options that are lists of numbers, separated by slashes: `0.5/1.5/2`."""

from dataclasses import field
from typing import Any

from vit.options import option


def numbers_option(default: str, *, above: float, meaning: str, most: float = 8) -> Any:
    """Return a dataclass field for a list of different numbers above `above` and at most `most`.

    The list is brought into the order of the default, which is increasing or decreasing, and its numbers are rounded
    to the six digits that the names of metrics have, so that the same list always has the same spelling.
    """
    valid = f"different numbers above {above:g} and at most {most:g}, separated by '/'"
    first, *_, last = listed_numbers(default)

    def accepts(text: str) -> bool:
        numbers = listed_numbers(text)
        return all(above < number <= most for number in numbers) and len({*_spelled(text)}) == len(numbers)

    def standard(text: str) -> str:
        return "/".join(sorted(_spelled(text), key=float, reverse=first > last))

    checked = option(default, valid, accepts, meaning)
    return field(default=default, metadata={**checked.metadata, "standard": standard})


def listed_numbers(text: str) -> list[float]:
    """Return the numbers of a list. Raises ValueError if it contains anything else."""
    return [float(part) for part in text.split("/")]


def _spelled(text: str) -> list[str]:
    return [f"{number:g}" for number in listed_numbers(text)]
