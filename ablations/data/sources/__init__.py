"""Where pictures of one's own come from: a module for each kind lists them, with labels and parts, and decodes none."""

from ablations.data.sources.divide import divide
from ablations.data.sources.kinds import KINDS, find_source, open_source
from ablations.data.sources.skipped import skipped_text
from ablations.data.sources.source import Content, Source

__all__ = ["KINDS", "Content", "Source", "divide", "find_source", "open_source", "skipped_text"]
