"""The protocols by name."""

from functools import cache

from ablations.errors import UsageError, unknown_name
from ablations.evaluation.checks import check_protocol
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
from vit.own_classes import OwnClasses

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


own = OwnClasses(
    Protocol, base_name="ablations.evaluation.Protocol", group="vitab.protocols", what="protocol", noun="protocol"
)
"""Protocols that are in files or installed packages."""


def protocol(text: str) -> Protocol:
    """Return the protocol that a text describes: `resolution`, `resolution(factors=2)` or `lab/mine.py:Mine`.

    `str` of the result is its standard spelling. Raises UsageError for an unknown name or an invalid option, or a file
    that cannot be used.
    """
    try:
        name, _ = parse_part(text, "protocol")
        complete = name in PROTOCOLS or own.digest_of(name)
        return _protocol(text) if complete else _protocol.__wrapped__(text)  # a file may change
    except ConfigError as error:
        raise UsageError(str(error)) from error


@cache
def _protocol(text: str) -> Protocol:
    name, options = parse_part(text, "protocol")
    if name in PROTOCOLS:
        return make(PROTOCOLS[name], name, options, "protocol")
    if name.endswith(".py"):
        raise UsageError(f"protocol must be FILE.py:CLASS for a protocol in a file, got {name!r}")
    if not own.is_own(name):
        raise unknown_name("protocol", name, names())
    made = make(own.load(name), own.without_digest(name), options, "protocol")
    check_protocol(made, own)
    return made


def names() -> list[str]:
    """Return the names of the built-in protocols and of those of installed packages."""
    return [*PROTOCOLS, *(name for name in own.entry_points() if name not in PROTOCOLS)]


def protocol_label(text: str) -> str:
    """Return a protocol as shown in reports and messages: a class in a file without file and digest."""
    name, bracket, options = text.partition("(")
    return own.short_name(name) + bracket + options


def protocol_as_given(text: str) -> str:
    """Return a protocol without the digest of a file, as on a command line."""
    name, bracket, options = text.partition("(")
    return own.without_digest(name) + bracket + options


def protocol_sources(text: str) -> tuple[str, ...]:
    """Return the source of a protocol that is in a file."""
    name = text.partition("(")[0]
    return (own.source_of(name),) if own.in_file(name) else ()


def described_protocol(text: str) -> dict[str, str]:
    """Return name, description and source of a protocol that is not in this package; otherwise nothing."""
    made = protocol(text)
    if not own.digest_of(made.name):
        return {}
    return {"name": made.name, "description": made.description, "source": own.source_of(made.name)}
