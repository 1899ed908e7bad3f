"""What a finished model is measured by, besides its test accuracy: protocols and their metrics."""

from ablations.evaluation.protocol import Measurement, Metric, Protocol, choice, option, switch
from ablations.evaluation.registry import PROTOCOLS, names, own, protocol, protocol_label
from ablations.evaluation.results import Evaluations, load_evaluations

__all__ = [
    "PROTOCOLS",
    "Evaluations",
    "Measurement",
    "Metric",
    "Protocol",
    "choice",
    "load_evaluations",
    "names",
    "option",
    "own",
    "protocol",
    "protocol_label",
    "switch",
]
