"""What trackers have, read by their own libraries; and results that change."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.storage import Store, to_json


@dataclass
class Copy:
    """A run in a tracker."""

    name: str
    group: str
    ended: str
    """finished, failed or interrupted; failed also where the tracker does not distinguish them."""
    epochs: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Epoch and value of each metric."""
    results: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def replace_file(store: Store, key: str, name: str, **values: Any) -> None:
    """Change values in a JSON file of a finished run, as `vitab retry --stale` may."""
    folder = store.folder(key)
    content = to_json(json.loads((folder / name).read_bytes()) | values)
    done = json.loads((folder / "DONE.json").read_bytes())
    done["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / name).write_bytes(content)
    (folder / "DONE.json").write_bytes(to_json(done))


def single(values: list[tuple[int, float]]) -> float:
    """The value of a metric that was logged once."""
    assert len(values) == 1
    return values[0][1]


def read_tensorboard(folder: Path) -> tuple[list[Copy], list[str]]:
    """The runs, and the files or pictures of the report."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    copies, report = [], []
    for path in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(path), {"scalars": 0, "tensors": 0}).Reload()
        scalars = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        if path.name == "report":
            report = [*events.Tags()["images"], events.Tensors("report")[0].tensor_proto.string_val[0].decode()]
            continue
        about = {
            tag: HParamsPluginData.FromString(metadata.plugin_data.content)
            for tag, metadata in events.summary_metadata.items()
            if tag.startswith("_hparams_/")
        }
        end = about.get("_hparams_/session_end_info")
        status = Status.Name(end.session_end_info.status) if end else "none"
        hparams = {
            name: getattr(value, str(value.WhichOneof("kind")))
            for name, value in about["_hparams_/session_start_info"].session_start_info.hparams.items()
        }
        copies.append(
            Copy(
                path.name,
                path.parent.name,
                {"STATUS_SUCCESS": "finished", "STATUS_FAILURE": "failed", "none": "interrupted"}[status],
                {name: values for name, values in scalars.items() if not name.startswith("result/")},
                {name: single(values) for name, values in scalars.items() if name.startswith("result/")},
                {name: value for name, value in hparams.items() if not name.startswith("vitab/")},
                {name.removeprefix("vitab/"): value for name, value in hparams.items() if name.startswith("vitab/")},
            )
        )
    return copies, report


def read_mlflow(folder: Path) -> tuple[list[Copy], list[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow and what it imports
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{folder.resolve()}/mlflow.db")
        copies, report = [], []
        for experiment in client.search_experiments(filter_string="name != 'Default'"):
            for run in client.search_runs([experiment.experiment_id]):
                if run.info.run_name == "report":
                    report = [file.path for file in client.list_artifacts(run.info.run_id, "report")]
                    continue
                history = {
                    name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
                    for name in run.data.metrics
                }
                tags = {
                    name.removeprefix("vitab."): value
                    for name, value in run.data.tags.items()
                    if name.startswith("vitab.")
                }
                copies.append(
                    Copy(
                        run.info.run_name,
                        experiment.name,
                        {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}[run.info.status],
                        {name: values for name, values in history.items() if not name.startswith("result/")},
                        {name: single(values) for name, values in history.items() if name.startswith("result/")},
                        run.data.params,
                        tags,
                    )
                )
    return copies, report


def read_wandb(folder: Path) -> tuple[list[Copy], list[str]]:
    copies, report = [], []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        copy, files = read_wandb_file(path)
        if path.stem.endswith("-report"):
            report = files
        else:
            copies.append(copy)
    return copies, report


def read_wandb_file(path: Path) -> tuple[Copy, list[str]]:
    """What `wandb sync` would upload: the records of an offline run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from wandb.proto import wandb_internal_pb2 as messages

    copy, files = Copy("", "", "unknown"), []
    for content in wandb_records(path.read_bytes()):
        record = messages.Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            copy.name, copy.group = record.run.display_name, record.run.run_group
            values = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            copy.tags = values.pop("vitab", {})
            copy.config = {name: value for name, value in values.items() if name != "_wandb"}
        elif kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                if not name.startswith("_"):
                    copy.epochs.setdefault(name, []).append((int(row["_step"]), value))
        elif kind == "summary":
            for item in record.summary.update:
                name = item.key or "/".join(item.nested_key)
                if name.startswith("result/"):
                    copy.results[name] = json.loads(item.value_json)
        elif kind == "exit":
            copy.ended = "failed" if record.exit.exit_code else "finished"
        elif kind == "artifact":
            files += [entry.path for entry in record.artifact.manifest.contents]
    copy.epochs.pop("epoch", None)
    return copy, sorted(files)


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a log in the format of LevelDB, after a header of 7 bytes: blocks of 32 KiB of chunks."""
    block, header = 32768, 7
    assert content[:4] == b":W&B"
    place, record = header, b""
    while place + header <= len(content):
        left = block - place % block
        if left < header:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + header])
        if kind == 0:
            return
        record += content[place + header : place + header + length]
        place += header + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def read_trackio(folder: Path) -> tuple[list[Copy], list[str]]:
    """Trackio reads the folder when it is imported, so in another process."""
    program = (
        "import json, trackio\n"
        "from trackio.sqlite_storage import SQLiteStorage as storage\n"
        "runs = trackio.Api().runs('smoke')\n"
        "print(json.dumps([[run.name, run.config, storage.get_logs('smoke', run.name, run_id=run.id),\n"
        "                   storage.get_alerts('smoke', run.name)] for run in runs]))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TRACKIO_DIR": str(folder)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    copies, report = [], []
    for name, config, logs, alerts in json.loads(printed):
        if name == "report":
            report = ["figures/accuracy" for row in logs if "figures/accuracy" in row]
            report += [row["report"]["_value"] for row in logs]
            continue
        copy = Copy(name, "smoke", "failed", config=config, tags=config.pop("vitab"))
        assert config.pop("_Group") == copy.tags["arm"]
        for row in logs:
            for key, value in row.items():
                if key.startswith("result/"):
                    copy.results[key] = value
                elif key not in ("timestamp", "step"):
                    copy.epochs.setdefault(key, []).append((row["step"], value))
        copy.config = {key: value for key, value in config.items() if not key.startswith("_")}
        copy.ended = "finished" if copy.results else "failed" if alerts else "interrupted"
        copies.append(copy)
    return copies, report


READERS = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "wandb": read_wandb,
    "trackio": read_trackio,
}
