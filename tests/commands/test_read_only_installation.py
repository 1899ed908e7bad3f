"""The smoke grid and its report from an installation that the user cannot write, without a home directory to write."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOSE = "-dac_override,-dac_read_search"
DROP = ["setpriv", "--bounding-set", LOSE, "--inh-caps", LOSE] if os.getuid() == 0 else []
"""Root is bound by permissions once it has given up these capabilities."""


def permissions_bind() -> bool:
    if os.getuid() != 0:
        return True
    return bool(shutil.which("setpriv")) and subprocess.run([*DROP, "true"], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(
    not permissions_bind(),
    reason="root can write everywhere, and setpriv (util-linux), which would stop it, is missing or not permitted",
)
def test_run_and_report(tmp_path: Path) -> None:
    for name in ("vit", "ablations"):
        shutil.copytree(ROOT / name, tmp_path / "installation" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("home", "work", "temporary"):
        (tmp_path / name).mkdir()
    read_only = [tmp_path / "home", *filter(Path.is_dir, (tmp_path / "installation").rglob("*"))]
    for folder in read_only:
        folder.chmod(0o555)
    unset = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"PYTHONPATH": str(tmp_path / "installation"), "TMPDIR": str(tmp_path / "temporary")}
    env |= {"HOME": str(tmp_path / "home")}

    def vitab(*arguments: str) -> str:
        command = [*DROP, sys.executable, "-m", "ablations.cli", *arguments]
        done = subprocess.run(command, env=env, cwd=tmp_path / "work", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    try:
        for arguments in (["run", "--grid", "smoke", "--workers", "2"], ["report"]):
            notes = [line for line in vitab(*arguments).splitlines() if not line.startswith("warning: ")]
            assert notes == [
                f"note: cannot write the cache folder {tmp_path}/home/.cache/vitab; "
                f"using {tmp_path}/temporary/vitab-{os.getuid()} (set XDG_CACHE_HOME to use another folder)"
            ]
    finally:
        for folder in read_only:
            folder.chmod(0o755)
    assert (tmp_path / "work" / "reports" / "smoke" / "README.md").is_file()
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"runs", "reports"}
