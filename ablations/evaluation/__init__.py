"""What a finished model is measured by, besides its test accuracy: protocols and their metrics."""

from ablations.evaluation.protocol import Measurement, Metric, Protocol
from ablations.evaluation.registry import PROTOCOLS, names, own, protocol, protocol_label
from ablations.evaluation.results import Evaluations, load_evaluations

__all__ = [
    "PROTOCOLS",
    "Evaluations",
    "Measurement",
    "Metric",
    "Protocol",
    "load_evaluations",
    "names",
    "own",
    "protocol",
    "protocol_label",
]
