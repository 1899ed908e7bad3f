"""The Python example of README runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import ablations

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.search(r"^<!-- python example -->\n+```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.mark.slow
@pytest.mark.skipif(EXAMPLE is None, reason="README.md has no block after <!-- python example --> yet")
@pytest.mark.filterwarnings("ignore:no difference can reach", "ignore:there is only one seed")
def test_the_python_example(tmp_path: Path) -> None:
    assert EXAMPLE is not None
    ablations.run("rope", seeds=1, epochs=2, width=16, per_class=5, workers=1, runs=tmp_path / "runs", quiet=True)
    command = [sys.executable, "-W", "error", "-c", EXAMPLE[1]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rope" in done.stdout
    assert max(map(width, tmp_path.glob("*.png")), default=0) > 200  # the figure


def width(picture: Path) -> int:
    with Image.open(picture) as opened:
        return opened.width
