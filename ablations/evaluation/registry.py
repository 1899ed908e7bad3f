"""The protocols by name."""

from functools import cache

from ablations.errors import UsageError, unknown_name
from ablations.evaluation.protocol import Protocol
from ablations.evaluation.protocols.attention import Attention
from ablations.evaluation.protocols.calibration import Calibration
from ablations.evaluation.protocols.corruption import Corruption
from ablations.evaluation.protocols.occlusion import Occlusion
from ablations.evaluation.protocols.per_class import PerClass
from ablations.evaluation.protocols.position_probe import PositionProbe
from ablations.evaluation.protocols.resolution import Resolution
from ablations.evaluation.protocols.shift import Shift
from ablations.evaluation.protocols.shuffle import Shuffle
from vit import ConfigError
from vit.options import make, parse_part

PROTOCOLS: dict[str, type[Protocol]] = {
    "resolution": Resolution,
    "shift": Shift,
    "shuffle": Shuffle,
    "occlusion": Occlusion,
    "corruption": Corruption,
    "calibration": Calibration,
    "per-class": PerClass,
    "attention": Attention,
    "position-probe": PositionProbe,
}
for _name, _kind in PROTOCOLS.items():
    _kind.name = _name


@cache
def protocol(text: str) -> Protocol:
    """Return the protocol that a text describes, such as `resolution` or `resolution(factors=2)`.

    `str` of the result is its standard spelling. Raises UsageError for an unknown name or an invalid option.
    """
    try:
        name, options = parse_part(text, "protocol")
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)
        return make(PROTOCOLS[name], name, options, "protocol")
    except ConfigError as error:
        raise UsageError(str(error)) from error
