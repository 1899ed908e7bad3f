"""Stored runs made other than they were: of an older version, diverged, unfinished."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from ablations.storage import Store


def replace_file(store: Store, key: str, name: str, content: bytes) -> None:
    """Replace a file of a finished run, with its checksum in DONE.json."""
    folder = store.folder(key)
    (folder / name).write_bytes(content)
    done = json.loads((folder / "DONE.json").read_bytes())
    done["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "DONE.json").write_text(json.dumps(done))


def make_old(store: Store, key: str) -> None:
    """Remove the metadata of the checkpoint, as older versions wrote none."""
    content = (store.folder(key) / "checkpoint.safetensors").read_bytes()
    replace_file(store, key, "checkpoint.safetensors", save(load(content)))


def make_diverged(store: Store, key: str) -> None:
    replace_file(store, key, "result.json", json.dumps({**store.result(key), "diverged": 1}).encode())


def make_unfinished(store: Store, key: str) -> None:
    (store.folder(key) / "DONE.json").unlink()


def keys_of(store: Store, study: str) -> dict[str, str]:
    """Keys of the runs of a study by arm, such as `rope,2,0`: position, depth and seed."""
    runs = store.read_study(study).runs
    return {f"{config.position},{config.depth},{config.seed}": key for key, config in runs.items()}


def save_pictures(images: np.ndarray, folder: Path) -> list[Path]:
    """Write uint8 images (n, h, w, c) as PNG files whose names are in their order."""
    from PIL import Image

    folder.mkdir(parents=True)
    paths = [folder / f"{i:05}.png" for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image.squeeze()).save(path)
    return paths
