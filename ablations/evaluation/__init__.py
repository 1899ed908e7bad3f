"""What a finished model is measured by, besides its test accuracy: protocols and their metrics."""

from ablations.evaluation.protocol import Measurement, Metric, Protocol
from ablations.evaluation.registry import PROTOCOLS, protocol

__all__ = ["PROTOCOLS", "Measurement", "Metric", "Protocol", "protocol"]
