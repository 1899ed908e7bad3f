"""Pictures of one's own: from a source to a dataset."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ablations.config import RunConfig
from ablations.data.dataset import Dataset
from ablations.data.heartbeat import send_heartbeat
from ablations.data.pictures import read_picture
from ablations.data.sources import Source, divide, open_source


@dataclass(frozen=True)
class Reading:
    """How pictures of one's own are read: the fields of a run with these names."""

    columns: str = ""

    @classmethod
    def of(cls, config: RunConfig) -> "Reading":
        """Return the reading of a run."""
        return cls(columns=config.columns)


def read(kind: str, data_dir: Path | None, reading: Reading) -> Dataset:
    """Read the pictures of a source as a dataset."""
    from io import BytesIO

    source: Source = divide(open_source(kind, data_dir, reading.columns))
    order = np.concatenate([np.flatnonzero(source.parts == part) for part in ("train", "validation", "test")])
    images = []
    for i in order:
        content = source.read(int(i))
        assert isinstance(content, bytes)
        images.append(read_picture(BytesIO(content), 32, 3, name=source.names[i]))
        send_heartbeat()
    training = int((source.parts != "test").sum())
    groups = None
    if source.groups is not None:
        groups = np.unique(source.groups[order[:training]], return_inverse=True)[1].astype(np.int64)
    return Dataset(
        name=kind,
        train_images=np.stack(images[:training]),
        train_labels=source.labels[order[:training]],
        test_images=np.stack(images[training:]),
        test_labels=source.labels[order[training:]],
        class_names=source.class_names,
        validation_images=int((source.parts == "validation").sum()),
        train_groups=groups,
        skipped=source.skipped,
    )
