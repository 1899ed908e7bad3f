"""TensorBoard: an event file per run, written by the package tensorboard alone."""

import re
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from ablations.tracking.tracker import TrackedRun, Tracker, report_text


class TensorBoard(Tracker):
    """Writes <folder>/<study>/<name of the run>/, and the report as a run of the name report.

    TensorBoard keeps numbers in single precision.
    """

    def __init__(self, folder: Path, study: str) -> None:
        self.folder = folder / study
        self.where = str(folder)
        self.next_step = f"to look: tensorboard --logdir {shlex.quote(str(folder))}"
        self.writers: dict[str, EventFileWriter] = {}

    def start_run(self, run: TrackedRun, *, resume: bool) -> bool:
        folder = self.folder / re.sub(r"[/\\\0]", "_", run.unique_name)
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        self.writers[run.key] = writer = EventFileWriter(str(folder))
        settings = run.config | {f"vitab/{name}": value for name, value in run.tags.items()}
        _add(writer, hparams_pb({name: _plain(value) for name, value in settings.items()}, trial_id=run.key))
        return resume

    def log(self, run: TrackedRun, epochs: Sequence[Mapping[str, float]]) -> None:
        for metrics in epochs:
            self._scalars(run, int(metrics["epoch"]), metrics)

    def finish(self, run: TrackedRun, epochs: int, results: Mapping[str, float]) -> None:
        self._scalars(run, epochs, results)
        self._close(run, STATUS_SUCCESS)

    def stop(self, run: TrackedRun, failure: str | None) -> None:
        if failure is not None:
            _add(self.writers[run.key], _text("failure", failure))
        self._close(run, None if failure is None else STATUS_FAILURE)

    def report(self, folder: Path) -> None:
        shutil.rmtree(self.folder / "report", ignore_errors=True)
        writer = EventFileWriter(str(self.folder / "report"))
        _add(writer, _text("report", report_text(folder)))
        for path in sorted((folder / "figures").glob("*.png")):
            with Image.open(path) as picture:
                size = {"width": picture.width, "height": picture.height, "colorspace": 4}
            picture_of = Summary.Image(encoded_image_string=path.read_bytes(), **size)
            _add(writer, Summary(value=[Summary.Value(tag=f"figures/{path.stem}", image=picture_of)]))
        writer.close()

    def _scalars(self, run: TrackedRun, epoch: int, numbers: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items() if name != "epoch"]
        _add(self.writers[run.key], Summary(value=values), epoch)
        self.writers[run.key].flush()

    def _close(self, run: TrackedRun, status: Status | None) -> None:
        """Close a run that ended with a status, or may go on: TensorBoard takes the first status that it reads."""
        writer = self.writers.pop(run.key)
        if status is not None:
            end = HParamsPluginData(session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()))
            about = hparams.create_summary_metadata(end)
            value = Summary.Value(tag=hparams.SESSION_END_INFO_TAG, metadata=about, tensor=hparams.NULL_TENSOR)
            _add(writer, Summary(value=[value]))
        writer.close()


def _add(writer: EventFileWriter, summary: Summary, epoch: int = 0) -> None:
    writer.add_event(Event(wall_time=time.time(), step=epoch, summary=summary))


def _text(tag: str, text: str) -> Summary:
    value = Summary.Value(tag=tag, tensor=make_tensor_proto([text]), metadata=create_summary_metadata(tag, ""))
    return Summary(value=[value])


def _plain(value: Any) -> Any:
    """Return a hyperparameter as TensorBoard takes it."""
    return value if isinstance(value, bool | int | float | str) else str(value)
