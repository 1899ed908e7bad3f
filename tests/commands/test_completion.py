"""Completion in the shell, through the variables by which bash and zsh ask for it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

from ablations.cli import app
from ablations.commands import completion
from ablations.commands.data import data_app
from ablations.commands.positions import positions_app
from ablations.config import GRIDS
from ablations.evaluation import PROTOCOLS, protocol
from vit.positions import POSITIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two studies in the default folder and one elsewhere, and a finished run."""
    monkeypatch.chdir(tmp_path)
    for study in ("runs/studies/small", "runs/studies/wide", "elsewhere/studies/other"):
        Path(study).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{study}.json").touch()
    for run in ("0123456789abcdef", "fedcba9876543210"):
        Path("runs", run).mkdir()
    Path("runs/0123456789abcdef/DONE.json").touch()
    Path("runs/evaluations/00112233445566aa").mkdir(parents=True)
    Path("runs/evaluations/00112233445566aa/DONE.json").touch()


def bash(line: str) -> list[str]:
    """What bash is offered at the end of a line."""
    words = [*shlex.split(line), *([""] if line.endswith(" ") else [])]
    env = {"_VITAB_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = CliRunner().invoke(app, prog_name="vitab", env=env)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.split()


def zsh(line: str) -> list[str]:
    env = {"_VITAB_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    result = CliRunner().invoke(app, prog_name="vitab", env=env)
    assert (result.exit_code, result.stderr) == (0, "")
    return [name.replace(r"\\:", ":") for name in re.findall(r'"([^"]+)"', result.stdout)]


METRICS = [(name, metric.name) for name in PROTOCOLS for metric in protocol(name).metrics()]
ROPES = [name for name in POSITIONS if name.startswith("ro")]
CASES = [
    ("vitab run --grid ", list(GRIDS)),
    ("vitab run --grid da", ["data-fraction"]),
    ("vitab run --grid mine", []),
    ("vitab run --data cifar", ["cifar10", "cifar100"]),
    ("vitab run --labels ", ["fine", "coarse"]),
    ("vitab run --recipe ", ["light", "strong"]),
    ("vitab run --position ", list(POSITIONS)),
    ("vitab run --position rope,", [f"rope,{name}" for name in POSITIONS if name != "rope"]),
    ("vitab run --position none,rope,s", ["none,rope,sinusoidal", "none,rope,sinusoidal-1d"]),
    ("vitab run --backend ", ["auto", "numpy", "cupy"]),
    ("vitab run --precision ", ["float32", "tf32", "bf16"]),
    ("vitab run --match ", ["flops", "seconds"]),
    ("vitab run --set wi", ["width="]),
    ("vitab run --tune w", ["weight_decay=", "warmup_epochs="]),
    ("vitab run --tune-sampler ", ["qmc", "tpe"]),
    ("vitab run --tune-per a", ["arm"]),
    ("vitab bench --position ro", ROPES),
    ("vitab positions ro", ROPES),
    ("vitab positions ch", ["check"]),
    ("vitab positions check ro", ROPES),
    ("vitab positions show ro", ROPES),
    ("vitab run --protocol cal", ["calibration"]),
    ("vitab evaluate --protocol shift,sh", ["shift,shuffle"]),
    ("vitab evaluate sm", ["small"]),
    ("vitab protocols per", ["per-class"]),
    ("vitab report sm", ["small"]),
    ("vitab report --format ", ["markdown", "html"]),
    ("vitab report --metric acc", ["accuracy"]),
    ("vitab compare rope none --metric sh", [f"{protocol}:{name}" for protocol, name in METRICS if protocol[0] == "s"]),
    ("vitab status w", ["wide"]),
    ("vitab verify --runs elsewhere ", ["other"]),
    ("vitab retry --runs nowhere ", []),
    ("vitab compare ro", ROPES),
    ("vitab compare rope --study w", ["wide"]),
    ("vitab compare rope sm", ["small"]),
    ("vitab reproduce ", ["0123456789abcdef", "00112233445566aa"]),
    ("vitab predict ", [*POSITIONS, "0123456789abcdef"]),
    ("vitab predict rope ru", []),
    ("vitab predict rope --study w", ["wide"]),
    ("vitab attention 01", ["0123456789abcdef"]),
    ("vitab attention rope ru", []),
    ("vitab gallery ro", ROPES),
    ("vitab data fetch fa", ["fashion-mnist"]),
    ("vitab data sheet dig", ["digits"]),
    ("vitab data check dig", ["digits"]),
    ("vitab report --runs ru", []),
    ("vitab report --out re", []),
    ("vitab run --data-dir ru", []),
]


@pytest.mark.parametrize("shell", [bash, zsh])
@pytest.mark.parametrize(("line", "offered"), CASES, ids=[line for line, _ in CASES])
def test_names_are_completed(shell, line: str, offered: list[str]) -> None:
    assert sorted(shell(line)) == sorted(offered)


def test_commands_and_options_are_completed() -> None:
    assert bash("vitab re") == ["report", "retry", "reproduce"]
    assert "--until-decided" in bash("vitab run --un")


def test_every_name_in_the_tables_is_a_parameter_and_every_path_is_left_to_the_shell() -> None:
    hints: dict[str, object] = {}
    for command in (*app.registered_commands, *data_app.registered_commands, *positions_app.registered_commands):
        assert command.callback is not None
        hints |= get_type_hints(command.callback)
    tables = {*completion.NAMES, *completion.LISTS, *completion.FROM_RUNS, *completion.FILES}
    assert tables <= set(hints)
    paths = {name for name, hint in hints.items() if hint in (Path, Path | None)}
    assert paths == set(completion.FILES)


@pytest.mark.parametrize(
    "line", ["vitab run --grid ", "vitab run --position ", "vitab report ", "vitab predict ", "vitab data fetch "]
)
def test_completion_imports_nothing_heavy(line: str) -> None:
    code = (
        "import sys, ablations.cli\n"
        "try: ablations.cli.app(prog_name='vitab')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'pandas', 'numba', 'sklearn', 'scipy', 'seaborn', 'matplotlib', 'cupy', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    count = str(len(line.split()))
    env = {"_VITAB_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": count, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, stdout=subprocess.DEVNULL, timeout=60)
