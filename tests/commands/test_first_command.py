"""The first commands of README leave nothing that git would show in a clone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def git(*arguments: str, folder: Path = ROOT) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of this checkout, committed elsewhere."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    for name in git("ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")[:-1]:
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    git("init", "-q", folder=tmp_path)
    git("add", "-A", folder=tmp_path)
    git("commit", "-q", "-m", "all", folder=tmp_path)
    return tmp_path


def test_the_folders_of_runs_and_reports_are_ignored_and_empty(clone: Path) -> None:
    assert git("ls-files", "runs", "reports", folder=clone) == ""
    for path in ("runs/0123456789abcdef/DONE.json", "reports/rope/README.md"):
        (clone / path).parent.mkdir(parents=True)
        (clone / path).touch()
    assert git("status", "--porcelain", folder=clone) == ""


@pytest.mark.slow
def test_a_clone_stays_clean_after_the_first_commands(clone: Path) -> None:
    commands = re.findall(r"vitab (run --grid rope|report)\b(?= &&|$)", (clone / "README.md").read_text(), re.M)[:2]
    assert commands == ["run --grid rope", "report"]
    env = os.environ | {"PYTHONPATH": str(clone)}
    for command in commands:
        arguments = command.replace("rope", "smoke").split()
        subprocess.run([sys.executable, "-m", "ablations.cli", *arguments], cwd=clone, env=env, check=True)
    assert (clone / "reports" / "smoke" / "README.md").is_file()
    assert git("status", "--porcelain", folder=clone) == ""
