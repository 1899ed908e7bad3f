"""The search for each arm's own values of training fields: suggestions, pruning, scores, and the choice."""

from ablations.tuning.choice import Trial, accuracies, chosen_values, trials_of, winners
from ablations.tuning.rounds import Search, search

__all__ = ["Search", "Trial", "accuracies", "chosen_values", "search", "trials_of", "winners"]
