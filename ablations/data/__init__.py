"""Data sets: read, checked, cut to size. ``load(name)`` gives a `Dataset`; nothing here trains."""

from ablations.data.dataset import Dataset
from ablations.data.registry import DATASETS, DatasetInfo, load, load_for
from ablations.data.split import split, subsample
from ablations.data.subset import subset

__all__ = ["DATASETS", "Dataset", "DatasetInfo", "load", "load_for", "split", "subsample", "subset"]
