"""Runs of different code or data are taken together only when asked, and then it is said at the top."""

import ast
import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablations.cli import app
from ablations.commands.display import view_studies
from ablations.errors import UsageError
from ablations.machine import ROOT
from ablations.storage import Store, code_version, provenance, require_one_version, stale_runs, version_conflicts
from ablations.storage.code_version import recorded_version
from tests.support import fake_trainer, synthetic_results
from vit.positions import POSITIONS, Position

SMOKE = ["run", "--grid", "smoke", "--set", "per_class=5", "--workers", "1"]


@pytest.fixture(autouse=True)
def here(workplace, monkeypatch):
    monkeypatch.setattr("ablations.training.trainer.train", fake_trainer.train)
    return workplace


def vitab(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def edit(monkeypatch):
    """A function that changes the digest of one component, as an edit of its sources would."""
    real = code_version.component_digest

    def change(component, digest):
        patterns = code_version.COMPONENTS.get(component) or code_version.position_sources(component.split()[1])
        code_version.code_version.cache_clear()
        monkeypatch.setattr(
            code_version, "component_digest", lambda given: digest * 64 if given == patterns else real(given)
        )

    yield change
    monkeypatch.undo()
    code_version.code_version.cache_clear()
    provenance.place.cache_clear()


@pytest.mark.parametrize(
    "component",
    [pytest.param("model", marks=pytest.mark.slow), "training", pytest.param("backend numpy", marks=pytest.mark.slow)],
)
def test_a_study_of_two_codes_is_reported_when_asked_and_says_so(edit, component):
    edit(component, "a")
    assert vitab(*SMOKE, "--seeds", 1).exit_code == 0
    edit(component, "b")
    resumed = vitab(*SMOKE, "--seeds", 3)
    assert resumed.exit_code == 0
    stale = (
        f"2 finished runs of study smoke trained with different code ({component}); a report does not mix them with "
        "new runs; to retrain them: vitab retry smoke --stale"
    )
    assert f"warning: {stale}" in resumed.stderr
    assert stale in " ".join(vitab("status").stdout.split())
    assert "warning" not in "".join(
        line for line in vitab(*SMOKE, "--seeds", 3).stderr.splitlines() if "pairs of runs" not in line
    )  # nothing new is trained

    stated = f"the runs come from 2 versions of the code ({component}): bbbbbbbb (4 runs), aaaaaaaa (2 runs)"
    for command in (["report"], ["report", "--check"], ["compare", "none", "rope"]):
        refused = vitab(*command)
        assert refused.exit_code == 2
        assert refused.stderr == f"error: smoke: {stated}; use --mixed to include them; the output states this\n"
    assert not Path("reports").exists()
    earlier = Path("reports/smoke")
    earlier.mkdir(parents=True)
    for name in ("report.html", "paper.md", "paper.tex"):
        (earlier / name).touch()
    reported = vitab("report", "--mixed")
    assert reported.exit_code == 0
    assert {path.name for path in earlier.iterdir()} == {"README.md", "figures", "tables"}
    assert reported.stderr.splitlines() == [
        "note: removed report.html, which showed an earlier report; to write it again, add --format html",
        "note: removed paper.md and paper.tex, which showed an earlier report; to write them again, add --paper",
    ]
    top = Path("reports/smoke/README.md").read_text(encoding="utf-8").split("## Answer")[0]
    assert stated in top
    assert vitab("report", "--mixed", "--check").exit_code == 0
    assert stated in vitab("compare", "none", "rope", "--mixed").stdout

    again = vitab("retry", "--stale", "--workers", 1)
    assert (again.exit_code, again.stdout.count("[")) == (0, 2), again.output
    assert vitab("report", "--check").exit_code == 1  # one version now, and a report of two
    assert vitab("retry", "--stale").stdout == "study smoke has no stale run\n"


@pytest.mark.slow
def test_an_interrupted_or_failed_retry_of_stale_runs_keeps_their_results(edit, monkeypatch):
    from ablations.training import trainer

    edit("training", "a")
    assert vitab(*SMOKE, "--seeds", 1).exit_code == 0
    edit("training", "b")
    store = Store(Path("runs"))
    plan = store.read_study("smoke")
    first, second = plan.keys
    old = {key: store.result_digest(key) for key in plan.keys}
    assert " ".join(vitab("status").stdout.split()).startswith(
        "study runs done stale failed to do running question smoke 2 2 2 0 0 0"
    )

    real, running = trainer.train, []

    def stop_at(error, config):
        def train(given, *arguments, **options):
            if given == config:
                running.append(view_studies(store)[2])
                raise error
            return real(given, *arguments, **options)

        monkeypatch.setattr(trainer, "train", train)

    retry = ("retry", "--stale", "--workers", 1)
    stop_at(ValueError("no luck"), plan.runs[first])
    failed = vitab(*retry)
    assert failed.exit_code == 1, failed.output
    assert "1 of 2 runs failed; run the same command again to retry them" in failed.stderr
    assert running == [1]
    assert store.result_digest(first) == old[first]
    assert old[second] != store.result_digest(second) is not None
    assert list(stale_runs(store, plan)) == [first]

    stop_at(KeyboardInterrupt(), plan.runs[first])
    interrupted = vitab(*retry)
    assert interrupted.exit_code == 130, interrupted.output
    assert "run the same command again to resume" in interrupted.stderr
    assert store.result_digest(first) == old[first]
    assert list(stale_runs(store, plan)) == [first]

    monkeypatch.setattr(trainer, "train", real)
    assert vitab(*retry).exit_code == 0
    assert stale_runs(store, plan) == {}
    assert "stale" not in vitab("status").stdout


def test_another_encoding_makes_no_run_stale_and_a_changed_one_only_its_own(edit):
    assert vitab(*SMOKE, "--seeds", 1).exit_code == 0
    store = Store(Path("runs"))
    plan = store.read_study("smoke")
    assert stale_runs(store, plan) == {}
    edit("position rope", "a")
    (key,) = (key for key, config in plan.runs.items() if config.position == "rope")
    assert stale_runs(store, plan) == {key: ["position rope"]}


def test_runs_of_earlier_versions_have_two_digests():
    old = {"vit_sha256": "a" * 64, "training_sha256": "b" * 64, "backend": "numpy"}
    assert recorded_version(old) == {"model": "a" * 64, "training": "b" * 64}
    assert recorded_version({"code": {"model": "c"}}) == {"model": "c"}
    results = synthetic_results.make()
    keys = list(results.runs["key"])
    same = replace(results, environments=dict.fromkeys(keys, old))
    assert version_conflicts(same) == []
    mixed = replace(results, environments={**dict.fromkeys(keys, old), keys[0]: {"code": {"model": "c" * 64}}})
    assert version_conflicts(mixed) == [
        f"the runs come from 2 versions of the code (model): aaaaaaaa ({len(keys) - 1} runs), cccccccc (1 run)"
    ]


def test_one_code_and_one_data_set_are_no_mixture():
    results = synthetic_results.make()
    assert require_one_version(results) == version_conflicts(results) == []
    assert vitab(*SMOKE).exit_code == 0
    assert "Mixed" not in vitab("compare", "none", "rope", "--mixed").stdout


def fingerprinted(choose):
    """A study of whose runs each has the fingerprint that `choose` gives its row."""
    results = synthetic_results.make({"classes": (None, 5)}, (0, 1))
    keys = results.runs["key"]
    prints = {key: {"data_sha256": choose(row)} for key, row in zip(keys, results.runs.to_dict("records"), strict=True)}
    return replace(results, environments=prints)


def test_data_may_differ_where_the_runs_ask_for_it_and_nowhere_else():
    assert version_conflicts(fingerprinted(lambda row: f"{row['classes']}" * 20)) == []
    (found,) = version_conflicts(fingerprinted(lambda row: f"{row['seed']}" * 20))[:1]
    assert found == "the runs come from 2 versions of the data: 00000000 (1 run), 11111111 (1 run)"
    one, two = (synthetic_results.make({"position": ("none", "rope")}, study=name) for name in ("one", "two"))
    one, two = (
        replace(results, environments={key: {"data_sha256": digit * 64} for key in results.plan.keys})
        for digit, results in (("1", one), ("2", two))
    )
    assert version_conflicts(one) == version_conflicts(two) == []
    with pytest.raises(
        UsageError, match=r"^one and two: the runs come from 2 versions of the data: 11111111 \(6 runs\), 22222222"
    ):
        require_one_version(one, two)


NEUTRAL = {
    "ablations.config": "exports",
    "ablations.config.builtin_grids": "grids are expanded to runs",
    "ablations.config.compute_match": "epochs, which are part of a run's key",
    "ablations.config.columns": "spelling of a field of a run, which is part of its key",
    "ablations.config.grid": "grids are expanded to runs",
    "ablations.config.grid_files": "grids are expanded to runs",
    "ablations.config.grid_overrides": "grids are expanded to runs",
    "ablations.config.labels": "text",
    "ablations.config.recipes": "fields of a run, which are its key",
    "ablations.config.positions": "spelling of encodings, which is part of a run's key",
    "ablations.config.run_config": "fields of a run, which are its key",
    "ablations.config.sequential_design": "which runs there are",
    "ablations.config.tuning": "which runs there are",
    "ablations.data": "exports",
    "ablations.data.dataset": "pixels, which are part of a run's key",
    "ablations.data.preprocessing": "written after training",
    "ablations.errors": "messages",
    "ablations.storage": "exports",
    "ablations.storage.files": "written after training",
    "ablations.storage.records": "written after training",
    "ablations.training.checkpoint": "a run that resumes has the same bits (tests)",
    "vit": "exports",
    "vit.backend": "exports",
    "vit.backend.numba_cache": "where compiled kernels are cached",
    "vit.caches": "where compiled kernels are cached",
    "vit.cost": "reported beside a result",
    "vit.errors": "messages",
    "vit.own_classes": "where a class in a file is found; its name includes the digest of the file",
    "vit.positions": "the registry: each encoding is a component of its own",
    "vit.positions.combined": "a component of runs with a sum of encodings",
    "vit.positions.own_encodings": "where an encoding in a file is found; its name includes the digest of the file",
    "vit.positions.spelling": "names and options of encodings, which are part of a run's key",
}
"""Modules that training imports and that cannot change a result, with the reason."""
READERS = ("ablations.data", "ablations.machine", "ablations.storage")
"""Packages whose neutral modules import only neutral modules: what they read and write cannot change a result."""


def test_the_components_cover_what_training_imports():
    def module_path(name):
        path = ROOT / name.replace(".", "/")
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    def imports(name):
        for node in ast.walk(ast.parse(module_path(name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("ablations", "vit"):
                yield node.module
                exports = importlib.import_module(node.module) if node.module in READERS else None
                yield from (getattr(getattr(exports, a.name), "__module__", node.module) for a in node.names if exports)
                yield from (
                    f"{node.module}.{a.name}" for a in node.names if module_path(f"{node.module}.{a.name}").exists()
                )

    covered = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for patterns in code_version.COMPONENTS.values()
        for pattern in patterns
        for path in code_version._matching(pattern)
        if path.suffix == ".py"
    }
    assert all(code_version._matching(p) for patterns in code_version.COMPONENTS.values() for p in patterns)
    left, seen = ["ablations.training.trainer"], set()
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += imports(name) if name in covered or not name.startswith(READERS) else ()
    positions = {name for name in seen if name.startswith("vit.positions.")} - covered
    sources = {path for name in POSITIONS for path in code_version.position_sources(name)}
    assert {str(module_path(name)) for name in positions - set(NEUTRAL)} == sources
    assert seen - covered - positions - set(NEUTRAL) == set(), "add to COMPONENTS, or to NEUTRAL with a reason"
    assert set(NEUTRAL) <= seen, "a reason for a module that is not imported"


def test_comments_and_docstrings_are_not_code(tmp_path):
    path = tmp_path / "a.py"
    code = 'def f(x: int) -> str:\n    """What it does."""\n    return "# no comment"  # a comment\n\n\n'
    code += 'X = 1\n"""A word on X."""\n'
    path.write_text(code)
    before = code_version.component_digest((str(path),))
    path.write_text(
        code.replace("What it does", "Return a string").replace("a comment", "another").replace("on X", "of X")
    )
    assert code_version.component_digest((str(path),)) == before
    for old, new in (("# no comment", "# a string"), ("X = 1", "X = 2"), ("int", "float")):
        path.write_text(code.replace(old, new))
        assert code_version.component_digest((str(path),)) != before, old
    path.write_text('def g(): "é what it does"; return 1\n\x0c\nY = "a\u2028b"  # é\n')
    assert code_version.significant_source(path) == 'def g(): ; return 1\nY = "a\u2028b"'
    cuda = tmp_path / "k.cu"
    cuda.write_text("int x; // one\n/* two\n lines */\nint y;\n")
    before = code_version.component_digest((str(cuda),))
    cuda.write_text("int x;\n\nint y; // three\n")
    assert code_version.component_digest((str(cuda),)) == before
    cuda.write_text("""char* a = "/* \\" // one"; // "two"\nchar b = '"'; /* three */\n""")
    assert code_version.significant_source(cuda) == """char* a = "/* \\" // one";\nchar b = '"';"""


def test_an_encoding_and_the_modules_it_imports_are_its_component(tmp_path, monkeypatch):
    assert code_version.position_sources("rope") == (str(ROOT / "vit/positions/rope.py"),)
    package = tmp_path / "my_encodings"
    (package / "shared").mkdir(parents=True)
    sources = {
        "__init__.py": "",
        "encoding.py": (
            "import numpy\nfrom vit.positions import Position\nfrom vit.positions.rope import rotary_angles\n"
            "from . import helper\nfrom .shared.tables import TABLE\n"
            "class Mine(Position):\n    description = 'mine'\n"
        ),
        "helper.py": "import my_encodings.constants\n",
        "constants.py": "from my_encodings import helper\n",
        "other.py": "",
        "shared/__init__.py": "",
        "shared/tables.py": "TABLE = 1\n",
    }
    for name, text in sources.items():
        (package / name).write_text(text)
    (tmp_path / "alone.py").write_text("import alone_helper\n" + sources["encoding.py"].replace("from .", "#"))
    (tmp_path / "alone_helper.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def found(module):
        monkeypatch.setitem(POSITIONS, "mine", importlib.import_module(module).Mine)
        return {Path(path).relative_to(tmp_path).as_posix() for path in code_version.position_sources("mine")}

    own = {f"my_encodings/{name}" for name in sources} - {"my_encodings/other.py", "my_encodings/shared/__init__.py"}
    assert found("my_encodings.encoding") == own
    assert found("alone") == {"alone.py", "alone_helper.py"}


def test_a_checkpoint_is_of_all_the_code_that_its_run_depends_on(tmp_path, monkeypatch):
    def digest(position="rope", backend="numpy"):
        code_version.code_version.cache_clear()
        code_version.checkpoint_digest.cache_clear()
        return code_version.checkpoint_digest(position, backend)

    for folder in ("vit", "ablations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_version, "ROOT", tmp_path)
    monkeypatch.setattr(
        code_version, "position_sources", lambda position: (str(tmp_path / f"vit/positions/{position}.py"),)
    )
    before = digest()
    assert len({before, digest("none"), digest(backend="cupy")}) == 3

    def edit(name):
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write("\nEDITED = 1\n")

    neutral = ("vit/positions/learned.py", "vit/positions/__init__.py", "vit/backend/cupy_ops.py", "vit/cost.py")
    neutral += ("ablations/reporting/wording.py", "ablations/data/datasets/cifar.py", "ablations/execution/pool.py")
    depended = ("vit/layers.py", "vit/positions/rope.py", "vit/backend/gemm.py")
    depended += ("ablations/training/stack.py", "ablations/training/checkpoint.py")
    try:
        for name in neutral:
            edit(name)
        assert digest() == before
        for name in depended:
            edit(name)
            assert digest() != before, name
            before = code_version.checkpoint_digest("rope", "numpy")
    finally:
        code_version.code_version.cache_clear()
        code_version.checkpoint_digest.cache_clear()


def test_an_encoding_without_a_description_is_refused_when_it_is_defined():
    with pytest.raises(TypeError, match=r"Silent\.description must be a string"):
        type("Silent", (Position,), {})
