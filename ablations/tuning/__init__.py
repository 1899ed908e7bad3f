"""The search for each arm's own values of training fields: suggestions, pruning, scores, and the choice."""

from ablations.tuning.choice import (
    CHANCE,
    Trial,
    accuracies,
    chosen_values,
    lead,
    may_be_chance,
    one_image,
    trials_of,
    winners,
)
from ablations.tuning.rounds import Search, search

__all__ = [
    "CHANCE",
    "Search",
    "Trial",
    "accuracies",
    "chosen_values",
    "lead",
    "may_be_chance",
    "one_image",
    "search",
    "trials_of",
    "winners",
]
