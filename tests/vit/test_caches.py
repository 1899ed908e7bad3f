"""Caches where the usual folders cannot be written. A file in the place of a folder stops even root."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vit import caches

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = f"vitab-{os.getuid()}"
KERNEL = """
import numpy as np
from vit.backend import cpu_kernels
numbers = np.zeros(3)
cpu_kernels.fill(numbers, 7.0)
assert numbers.tolist() == [7, 7, 7]
"""
FIGURES = """
from ablations.reporting.figures import palette
import matplotlib
print(matplotlib.get_configdir(), matplotlib.get_cachedir())
"""
WORKER = """
import os
from pathlib import Path
from ablations.execution.pool import WorkerProcess
from ablations.execution.tasks import ExecutionSettings
from ablations.execution.worker import train_and_store
worker = WorkerProcess(ExecutionSettings(Path("runs"), None, "cupy", 1), train_and_store, None)
print(os.environ["NUMBA_CACHE_DIR"])
worker.process.kill()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty temporary directory, and a cache folder that cannot be created."""
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(caches, "user_cache", lambda: tmp_path / "file" / "vitab")
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path / "temporary"))
    caches._replacement.cache_clear()
    return tmp_path / "temporary"


def test_the_users_cache_is_taken_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert caches.writable_cache() == tmp_path / "vitab"
    assert caplog.text == ""


def test_a_private_temporary_folder_is_the_replacement_and_is_reported_once(
    temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = temporary / PRIVATE
    with caplog.at_level(logging.WARNING):
        assert [caches.writable_cache(), caches.writable_cache()] == [folder, folder]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [record.getMessage() for record in caplog.records] == [
        f"note: cannot write the cache folder {caches.user_cache()}; using {folder} "
        "(set XDG_CACHE_HOME to use another folder)"
    ]


@pytest.mark.parametrize("obstacle", ["link", "open to others", "of another user", "file"])
def test_a_folder_that_others_may_have_made_is_not_used(
    temporary: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = temporary / PRIVATE
    if obstacle == "link":
        (temporary / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(temporary / "elsewhere")
    elif obstacle == "open to others":
        folder.mkdir()
        folder.chmod(0o770)
    elif obstacle == "of another user":
        other = os.getuid() + 1
        (temporary / f"vitab-{other}").mkdir(mode=0o700)
        monkeypatch.setattr(caches.os, "getuid", lambda: other)
    else:
        folder.touch()
    assert caches.writable_cache() is None


def test_without_a_home_directory_nothing_is_written_to_a_folder_named_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home(*names: str, **options: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", no_home)
    assert caches.user_cache() == Path("~/.cache/vitab")
    assert not caches.is_writable(caches.user_cache() / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A copy of the packages whose compiled kernels cannot be cached beside them."""
    folder = tmp_path / "installation"
    for name in ("vit", "ablations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "vit" / "backend" / "__pycache__").touch()
    (tmp_path / "temporary").mkdir()
    (tmp_path / "home").touch()
    return folder


def execute(installation: Path, program: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a program on the installation, with a home directory that is a file."""
    place = installation.parent
    unset = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"HOME": str(place / "home"), "TMPDIR": str(place / "temporary"), "PYTHONPATH": str(installation)}
    return subprocess.run(
        [sys.executable, "-c", program], env=env | variables, cwd=place, capture_output=True, text=True, check=False
    )


def test_kernels_are_cached_in_the_replacement(installation: Path) -> None:
    done = execute(installation, KERNEL)
    assert done.returncode == 0, done.stderr
    folder = installation.parent / "temporary" / PRIVATE
    assert len(list(folder.glob("numba/*/cpu_kernels.fill-*.nbi"))) == 1
    assert done.stderr.splitlines() == [
        f"note: cannot write the cache folder {installation.parent}/home/.cache/vitab; using {folder} "
        "(set XDG_CACHE_HOME to use another folder)"
    ]


def test_worker_processes_inherit_the_replacement(installation: Path) -> None:
    """Else each of them would choose, and say so."""
    done = execute(installation, WORKER)
    assert (done.returncode, done.stdout) == (0, f"{installation.parent}/temporary/{PRIVATE}/numba\n"), done.stderr


@pytest.mark.slow
def test_kernels_are_compiled_without_any_cache(installation: Path) -> None:
    (installation.parent / "temporary" / PRIVATE).touch()
    done = execute(installation, KERNEL)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "every process compiles the CPU kernels again" in done.stderr


@pytest.mark.parametrize("usable", [True, False])
def test_the_users_choice_for_numba_is_respected_if_it_can_be_written(installation: Path, usable: bool) -> None:
    chosen = installation.parent / ("chosen" if usable else "home/chosen")
    done = execute(installation, KERNEL, NUMBA_CACHE_DIR=str(chosen))
    assert done.returncode == 0, done.stderr
    used = chosen if usable else installation.parent / "temporary" / PRIVATE / "numba"
    assert len(list(used.glob("*/cpu_kernels.fill-*.nbi"))) == 1
    assert (done.stderr == "") is usable


@pytest.mark.slow
def test_a_writable_user_cache_serves_a_read_only_installation_silently(installation: Path) -> None:
    cache = installation.parent / "cache"
    done = execute(installation, KERNEL, XDG_CACHE_HOME=str(cache))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(cache.glob("vitab/numba/*/cpu_kernels.fill-*.nbi"))) == 1


def test_matplotlib_uses_the_replacement_with_the_same_single_line(installation: Path) -> None:
    done = execute(installation, KERNEL + FIGURES)
    folder = installation.parent / "temporary" / PRIVATE / "matplotlib"
    assert (done.returncode, done.stdout) == (0, f"{folder} {folder}\n"), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_users_choice_for_matplotlib_is_respected(installation: Path) -> None:
    chosen = installation.parent / "chosen"
    done = execute(installation, FIGURES, MPLCONFIGDIR=str(chosen))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{chosen} {chosen}\n", "")
