"""Tests of `vitab run --dask`: addresses, unfit workers, shared and unshared folders, failures, interruptions."""

import asyncio
import hashlib
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablations.cli import app
from ablations.commands.run import rerun_command
from ablations.config import GRIDS, override
from ablations.errors import StorageError, UnfitError, UsageError, VitabError
from ablations.execution import plan as study
from ablations.execution.dask import client as cluster
from ablations.execution.dask import runs as cluster_runs
from ablations.execution.dask import worker as cluster_worker
from ablations.execution.dask.client import Cluster, check_address, connect, is_local
from ablations.execution.lease import LeaseManager, active_lease, last_attempt
from ablations.execution.tasks import ExecutionSettings
from ablations.storage import FILES, LATER_FILES, Store, TrialStore
from tests.execution.test_plan import Log
from tests.support import fake_trainer
from tests.support.own_encoding import write

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")

pytestmark = [  # distributed leaves sockets and coroutines to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*never awaited:RuntimeWarning"),
]

SMOKE = ["run", "--grid", "smoke", "--set", "per_class=5"]
NONE = override(GRIDS["smoke"], settings={"per_class": 5}, axes={"position": ("none",)})


def vitab(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def local():
    """A scheduler and a worker with two threads in this process, which train in worker processes."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0", resources={"GPU": 1}
    ) as made:
        yield made
    cluster_worker.shut_down_idle()


@pytest.fixture(autouse=True)
def here(workplace, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    return workplace


@pytest.fixture(params=["shared", pytest.param("unshared", marks=pytest.mark.slow)])
def place(request, monkeypatch):
    """Whether the worker shares the client's folder."""
    if request.param == "unshared":
        monkeypatch.setattr(cluster_worker, "shares_folder", lambda *_: False)
    return request.param


# -- addresses --


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "must be an address such as tcp://127.0.0.1:8786 or tls://host:8786, got 'nonsense'"),
        ("tcp://127.0.0.1", "must be an address such as"),
        ("tcp://127.0.0.1:many", "must be an address such as"),
        (
            "tcp://192.0.2.1:8786",
            "is on another machine and not encrypted, so others on the network could",
        ),
        ("192.0.2.1:8786", "add --insecure on a network that you trust"),
        ("ws://192.0.2.1:8786", "use tls:// (set up in Dask's own configuration)"),
        ("tcp://no.such.host.invalid:8786", "cannot resolve the host 'no.such.host.invalid'"),
        ("tcp://127.0.0.1:1", "cannot reach a Dask scheduler"),
    ],
)
def test_a_bad_address_is_one_line(here, monkeypatch, address, message):
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", "200ms")
    result = vitab(*SMOKE, "--dask", address)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert [line for line in result.stderr.splitlines() if not line.startswith("warning: ")] == [
        result.stderr.splitlines()[-1]
    ]
    assert list(here.iterdir()) == []


def test_encrypted_local_or_insecure_addresses_are_accepted():
    for address in (
        "tls://192.0.2.1:8786",
        "wss://192.0.2.1:8786",
        "tcp://127.0.0.1:1",
        "tcp://[::1]:1",
        "localhost:1",
    ):
        if "::" not in address or is_local("::1"):
            check_address(address, insecure=False)
    check_address("tcp://192.0.2.1:8786", insecure=True)
    assert not is_local("192.0.2.1")


def test_without_distributed_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    result = vitab(*SMOKE, "--dask", "tcp://127.0.0.1:8786")
    assert result.exit_code == 2
    assert "error: --dask needs the package distributed: pip install 'vitab[dask]'" in result.stderr


def test_local_workers_and_a_cluster_exclude_each_other():
    result = vitab(*SMOKE, "--dask", "tcp://127.0.0.1:8786", "--workers", "2")
    assert (result.exit_code, "cannot be combined with --dask" in result.stderr) == (2, True)


def test_the_command_of_a_study_omits_the_cluster():
    given = ["run", "--grid", "rope", "--dask", "tcp://a:1", "--insecure", "--seeds", "2"]
    assert rerun_command(given) == "vitab run --grid rope --seeds 2"


# -- unfit workers --


def test_a_worker_with_other_code_is_refused(here, local, monkeypatch):
    monkeypatch.setattr(cluster, "package_digest", lambda: "0" * 64)
    result = vitab(*SMOKE, "--dask", local.scheduler_address)
    assert result.exit_code == 2
    assert "no Dask worker can execute runs (1 worker found): the Dask worker inproc://" in result.stderr
    assert "its version of vitab differs (" in result.stderr
    assert "here 000000000000); install the same one" in result.stderr
    assert not list(Path("runs").glob(".shared.*"))


def test_a_worker_without_vitab_and_one_with_other_packages_are_reported(local):
    with connect(local.scheduler_address, insecure=False) as client:
        lines = []
        found = Cluster(client, Path(), lines.append)
        assert found._reason_unfit({"error": "ModuleNotFoundError: No module named 'ablations'"}) == (
            "cannot import vitab there (ModuleNotFoundError: No module named 'ablations')"
        )
        assert found._reason_unfit(KeyError("no way")) == "its answer was KeyError: 'no way'"
        (here,) = found._query_workers([client.nthreads().popitem()[0]]).values()
        assert cluster._different_packages(here["packages"]) == ""
        assert cluster._different_packages(here["packages"] | {"numpy": "1.0"}).startswith("numpy 1.0 (here 2.")
        found._query_workers = lambda addresses: dict.fromkeys(addresses, here | {"packages": {"python": "3.0"}})
        found.refresh_workers()
        found.refresh_workers()
        assert len(lines) == 1
        assert "note: the Dask worker on " in lines[0]
        assert " has python 3.0 (here 3." in lines[0]


def test_an_unfit_worker_reschedules_a_task(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(distributed.Reschedule):
        cluster_runs._entry_point()({"code": "of somebody else"})


def test_a_folder_is_shared_only_with_the_right_token_and_write_access(here):
    (here / "probe").write_text('{"token": "abc"}')
    assert cluster_worker.shares_folder(here, "probe", "abc")
    assert not cluster_worker.shares_folder(here, "probe", "abd")
    assert not cluster_worker.shares_folder(here / "elsewhere", "probe", "abc")
    for content in ("", "abc", "[]", '{"token": null}'):
        (here / "probe").write_text(content)
        assert not cluster_worker.shares_folder(here, "probe", "abc")
    assert [path.name for path in here.iterdir()] == ["probe"]


def test_the_probe_of_a_client_that_was_killed_is_removed(here, local):
    gone = {"token": "x", "pid": 1, "process_start_time": "0", "machine": cluster.process_identity(1)["machine"]}
    (here / ".shared.0123").write_text(json.dumps(gone))
    with connect(local.scheduler_address, insecure=False) as client:
        found = Cluster(client, here, print)
        with found.folder_probe():
            assert [path.name for path in here.glob(".shared.*")] == [found._probe]
            assert found.describe().endswith(f"1 with access to {here}")
    assert list(here.glob(".shared.*")) == []


# -- runs --


def test_a_grid_is_trained_once_with_the_bits_of_local_workers(here, local, place):
    result = vitab(*SMOKE, "--dask", local.scheduler_address, "--runs", "far")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"1 Dask worker with 2 threads, {int(place == 'shared')} with access to {here}/far"
    assert lines[1] == "study smoke: 4 runs, 4 to do"
    over = [line for line in lines if line.startswith("[")]
    assert sorted(line.split("] ")[1].split(": test")[0] for line in over) == [
        f"{position}, seed {seed}" for position in ("none", "rope") for seed in (0, 1)
    ]
    assert lines[-1] == "all 4 runs are finished; next: vitab report smoke --runs far"
    assert vitab(*SMOKE, "--workers", "1", "--runs", "near").exit_code == 0
    far, near = Store(Path("far")), Store(Path("near"))
    for key in near.read_study("smoke").keys:
        assert last_attempt(far.folder(key)) == 1
        assert far.verify(key) == []
        for name in ("config.json", "predictions.npz", "checkpoint.safetensors"):
            assert (far.folder(key) / name).read_bytes() == (near.folder(key) / name).read_bytes()
    assert sorted(path.name for path in Path("far").iterdir()) == sorted(
        ["studies", *(key[:16] for key in near.read_study("smoke").keys)]
    )
    assert not list(Path("cache").glob("vitab/cluster/*"))
    again = vitab(*SMOKE, "--dask", local.scheduler_address, "--runs", "far")
    assert again.stdout.splitlines()[0] == "study smoke: 4 runs, 0 to do, 4 already finished"
    with distributed.Client(local) as client:
        assert list(client.list_datasets()) == []


@pytest.mark.slow
def test_a_tuned_study_makes_the_same_choice_on_a_cluster(local, place):
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    tune = [*SMOKE, "--tune", "learning_rate=1e-4:1e-2:log", "--trials", "5", "--prune"]
    result = vitab(*tune, "--dask", local.scheduler_address, "--runs", "far")
    assert result.exit_code == 0, result.stderr
    assert "study smoke: tuning, round 2 of 2, 10 trial runs, 2 to do, 8 already finished" in result.stdout
    assert vitab(*tune, "--workers", "1", "--runs", "near").exit_code == 0
    far, near = Store(Path("far")), Store(Path("near"))
    plan = near.read_study("smoke")
    assert far.read_study("smoke").keys == plan.keys
    assert far.read_study("smoke").trials == plan.trials
    far, near = TrialStore.beside(far), TrialStore.beside(near)
    for run in plan.trials:
        assert last_attempt(far.folder(run.key)) == 1
        assert far.verify(run.key) == []
        assert far.result(run.key)["validation_accuracy"] == near.result(run.key)["validation_accuracy"]
    assert not list(Path("cache").glob("vitab/cluster/*"))
    with distributed.Client(local) as client:
        assert list(client.list_datasets()) == []


@pytest.mark.slow
def test_evaluations_have_the_bits_of_local_workers(here, local):
    assert vitab(*SMOKE, "--workers", "1", "--runs", "near").exit_code == 0
    shutil.copytree("near", "far")
    write_protocol()
    asked = ("evaluate", "--protocol", "shift,attention,lab/mine.py:Brightest")
    result = vitab(*asked, "--dask", local.scheduler_address, "--runs", "far")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "study smoke: 12 evaluations, 12 to do"
    assert lines[1] == f"1 Dask worker with 2 threads, 1 with access to {here}/far"
    assert sorted(line.split("] ")[1].split(", seed")[0] for line in lines if line.startswith("[")) == sorted(
        2 * [f"{name}: {position}" for name in ("shift", "attention", "Brightest") for position in ("none", "rope")]
    )
    assert lines[-1] == "all 12 evaluations are finished; next: vitab report smoke --runs far"
    assert vitab(*asked, "--workers", "1", "--runs", "near").exit_code == 0
    near = sorted(path.parent for path in Path("near/evaluations").glob("*/DONE.json"))
    assert len(near) == 12
    for folder in near:
        other = Path("far/evaluations", folder.name)
        assert last_attempt(other) == 1
        assert (other / "arrays.npz").read_bytes() == (folder / "arrays.npz").read_bytes()
        results = [json.loads((each / "result.json").read_bytes()) for each in (folder, other)]
        assert results[0]["metrics"] == results[1]["metrics"]
    assert [path.name for path in Path("far").glob(".*")] == []
    again = vitab(*asked, "--dask", local.scheduler_address, "--runs", "far")
    assert again.stdout.splitlines()[0] == "study smoke: 12 evaluations, 0 to do, 12 already finished"


@pytest.mark.slow
def test_a_run_and_its_evaluations_on_a_cluster(local):
    command = [*SMOKE, "--protocol", "calibration", "--seeds", "1", "--dask", local.scheduler_address]
    result = vitab(*command)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "all 2 evaluations are finished; next: vitab report smoke"


def write_protocol():
    Path("lab").mkdir()
    Path("lab/mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from ablations.evaluation import Measurement, Metric, Protocol\n"
        "@dataclass(frozen=True)\n"
        "class Brightest(Protocol):\n"
        "    description = 'accuracy on brighter images'\n"
        "    def metrics(self):\n"
        "        return [Metric('accuracy', 'accuracy on brighter images')]\n"
        "    def measure(self, run):\n"
        "        return Measurement({'accuracy': run.accuracy(run.images + 5)})\n"
    )


@pytest.mark.slow
def test_a_worker_that_does_not_share_the_folder_is_excluded_from_evaluations(here, local, monkeypatch):
    assert vitab(*SMOKE, "--workers", "1").exit_code == 0
    monkeypatch.setattr(cluster_worker, "shares_folder", lambda *_: False)
    result = vitab("evaluate", "--protocol", "calibration", "--dask", local.scheduler_address)
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if "is excluded" in line]
    assert line.startswith("the Dask worker inproc://")
    assert f" is excluded from now on: evaluations need access to the folder of runs {here}/runs (on " in line
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: no Dask worker can execute the runs: evaluations need access to the folder")
    assert not list(Path("runs/evaluations").glob("*/failure.json"))
    trained = vitab(*SMOKE, "--seeds", "3", "--dask", local.scheduler_address)  # the worker can still train
    assert trained.exit_code == 0, trained.output
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    result = vitab("evaluate", "--protocol", "calibration", "--dask", local.scheduler_address)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "study smoke: 6 evaluations, 6 to do"


def test_a_worker_without_the_dataset_is_excluded_from_evaluations(local, monkeypatch):
    assert vitab(*SMOKE, "--workers", "1", "--seeds", "1").exit_code == 0

    def other_data(task, run, settings, hooks):
        raise UnfitError("the dataset digits must be that of the study, got different data")

    monkeypatch.setattr(cluster_worker, "check_data", other_data)
    monkeypatch.setattr(cluster_worker, "run_in_pool", run_here)
    result = vitab("evaluate", "--protocol", "calibration", "--dask", local.scheduler_address)
    assert result.exit_code == 1
    assert "no Dask worker can execute the runs: the dataset digits must be that of the study" in result.stderr
    assert not list(Path("runs/evaluations").glob("*/failure.json"))


def run_here(tasks, settings, listener, *, workers, job, stop, idle):
    """`run_in_pool` without worker processes, which would not know what a test has replaced."""
    from ablations.execution.inline import run_inline

    run_inline(tasks, settings, listener, job=job, stop=stop)


@pytest.mark.slow
def test_a_failed_evaluation_is_reported_as_with_local_workers(local):
    assert vitab(*SMOKE, "--workers", "1", "--seeds", "1", "--position", "none").exit_code == 0
    store = Store(Path("runs"))
    (key,) = store.read_study("smoke").keys
    (store.folder(key) / "predictions.npz").write_bytes(b"x")
    result = vitab("evaluate", "--protocol", "calibration", "--dask", local.scheduler_address)
    assert result.exit_code == 1
    assert result.stderr.startswith("failed: calibration: none, seed 0: ")
    assert f"runs/{key[:16]}/predictions.npz is damaged: delete " in result.stderr
    status = vitab("status").stdout
    assert "smoke: evaluations: 0 finished, 1 failed" in status


def test_a_failed_run_is_reported_as_with_local_workers(local, place):
    bad = [*SMOKE, "--set", "validation=0.001", "--position", "none", "--seeds", "1"]
    result = vitab(*bad, "--dask", local.scheduler_address)
    assert result.exit_code == 1
    assert "[1/1] none, seed 0: FAILED: validation must hold out at least one" in result.stdout
    assert "failed: none, seed 0: validation must hold out" in result.stderr
    store = Store(Path("runs"))
    (key,) = store.read_study("smoke").keys
    assert store.failure(key).startswith("validation must hold out at least one of 50 training images and leave one")
    assert "Traceback" in (store.folder(key) / "failure.json").read_text()
    assert vitab(*bad, "--dask", local.scheduler_address).exit_code == 1
    assert last_attempt(store.folder(key)) == 2


def test_workers_are_given_the_source_of_an_encoding_in_a_file(local, place, monkeypatch):
    path = write(Path("mine.py"))
    describe = Cluster.describe

    def describe_without_file(self):
        path.unlink()
        return describe(self)

    monkeypatch.setattr(Cluster, "describe", describe_without_file)
    result = vitab(*SMOKE, "--dask", local.scheduler_address, "--position", "mine.py:Mine", "--seeds", "1")
    assert result.exit_code == 0, result.output
    assert "] Mine, seed 0: test " in result.stdout


def test_a_diverged_run_is_reported_as_with_local_workers(local, place):
    wild = [*SMOKE, "--set", "learning_rate=1e30", "--position", "none", "--seeds", "1"]
    result = vitab(*wild, "--dask", local.scheduler_address)
    assert result.exit_code == 0, result.stderr
    assert "[1/1] none, seed 0: DIVERGED: the loss was not finite in epoch 1, " in result.stdout
    assert "warning: 1 of 1 run diverged; " in result.stderr
    store = Store(Path("runs"))
    (key,) = store.read_study("smoke").keys
    assert store.result(key)["diverged"] == 1


def plan_and_tasks(store, seeds):
    plan = study.make_plan(override(NONE, seeds=seeds), study="s")
    store.check_writable()
    return plan, study.tasks_of(plan, study.survey(plan, store), store)


def execute_run(local, store, tasks, log, stop=lambda: False, **setting):
    with connect(local.scheduler_address, insecure=False) as client:
        found = Cluster(client, store.root, print)
        with found.folder_probe():
            cluster_runs.run_on_cluster(tasks, ExecutionSettings(store.root, **setting), log, found, stop)


@pytest.mark.parametrize(("backend", "most"), [pytest.param("numpy", 2, marks=pytest.mark.slow), ("cupy", 1)])
def test_as_many_runs_side_by_side_as_threads_or_gpus(local, monkeypatch, backend, most):
    monkeypatch.setattr(cluster_worker, "check_data_and_train", fake_trainer.job_that_counts_others)
    store = Store(Path("runs"))
    _, tasks = plan_and_tasks(store, 4)
    counts = []

    class Counting(Log):
        def finished(self, task, result):
            counts.append(int(result.summary.split()[0]))

    execute_run(local, store, tasks, Counting(), backend=backend)
    assert (len(counts), max(counts)) == (4, most)


def test_a_killed_worker_process_is_replaced_and_its_run_retried(local, place, monkeypatch):
    monkeypatch.setattr(cluster_worker, "check_data_and_train", fake_trainer.job_that_dies_once)
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 1)
    (Path("cache") / "vitab" / "cluster").mkdir(parents=True)
    monkeypatch.setattr(Store, "contents", lambda self, key: ({}, {}))
    monkeypatch.setattr(Store, "receive", lambda self, key, files, sums, held, replaces: None)
    execute_run(local, store, tasks, log)
    reason = "its worker process was killed by SIGKILL (possibly out of memory)"
    assert [event[:2] for event in log.events] == [
        ("started", "none, seed 0"),
        ("retrying", "none, seed 0"),
        ("started", "none, seed 0"),
        ("finished", "none, seed 0"),
    ]
    assert log.events[1][2].startswith(reason)


@pytest.mark.slow
def test_files_damaged_on_the_way_are_requested_again(local, monkeypatch):
    monkeypatch.setattr(cluster_worker, "shares_folder", lambda *_: False)
    real, sent = Store.contents, []

    def damaged(self, key):
        files, sums = real(self, key)
        sent.append(key)
        return (files | {"metrics.csv": b"epoch\n"} if len(sent) == 1 else files), sums

    monkeypatch.setattr(Store, "contents", damaged)
    store, log = Store(Path("runs")), Log()
    _, (task,) = plan_and_tasks(store, 1)
    execute_run(local, store, [task], log)
    assert ("retrying", task.label, f"metrics.csv of run {task.key[:16]} does not match its checksum") in log.events
    assert log.events[-1] == ("finished", task.label)
    assert store.verify(task.key) == []


def test_a_worker_that_cannot_execute_the_runs_is_excluded_and_no_run_fails(local, place, monkeypatch):
    monkeypatch.setattr(cluster_worker, "check_data_and_train", fake_trainer.job_that_does_not_fit)
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 2)
    with pytest.raises(VitabError, match=r"no Dask worker can execute the runs: cifar10 is not here \(on "):
        execute_run(local, store, tasks, log)
    assert [event for event in log.events if event[0] not in ("started", "epoch")] == []
    assert [store.failed_attempt(task.key) for task in tasks] == [0, 0]
    deadline = time.monotonic() + 60
    while cluster_worker._state.stop_requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(LeaseManager().is_free(store.folder(task.key)) for task in tasks)
    monkeypatch.setattr(cluster_worker, "check_data_and_train", fake_trainer.job)
    if place == "shared":  # fixed meanwhile: a new client tries the worker again
        execute_run(local, store, tasks[:1], log)
        assert log.events[-1] == ("finished", tasks[0].label)


def test_a_worker_that_dies_before_it_answers_does_not_block_the_client(local, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_TIMEOUT", 0.2)
    with connect(local.scheduler_address, insecure=False) as client:
        real = client._run

        async def run(function, *arguments, workers, **how):
            if workers == ["tcp://127.0.0.1:1"]:
                await asyncio.sleep(600)
            return await real(function, *arguments, workers=workers, **how)

        monkeypatch.setattr(client, "_run", run)
        (alive,) = client.nthreads()
        monkeypatch.setattr(client, "nthreads", lambda: {"tcp://127.0.0.1:1": 1, alive: 2})
        found = Cluster(client, Path().absolute(), print)
        found.refresh_workers()
        assert list(found.workers) == [alive]
        assert list(found._authorized) == [alive]


def test_other_workers_remain_when_one_is_excluded(local):
    lines = []
    with connect(local.scheduler_address, insecure=False) as client:
        found = Cluster(client, Path(), lines.append)
        found.workers = {"a": {"host": "one"}, "b": {"host": "two"}}
        found.exclude_worker("a", "cifar10 is not here")
        found.exclude_worker("a", "cifar10 is not here")
        assert list(found.workers) == ["b"]
        assert lines == ["the Dask worker a on one is excluded from now on: cifar10 is not here"]


def test_a_worker_with_an_unshared_folder_and_a_full_disk_is_excluded(local, monkeypatch):
    def full(self, folder, pid=None):
        if folder.is_relative_to(cluster_worker.spool_folder()):
            raise StorageError("a file could not be written: No space left on device")
        return acquire(self, folder, pid)

    acquire = LeaseManager.acquire
    monkeypatch.setattr(cluster_worker, "shares_folder", lambda *_: False)
    monkeypatch.setattr("ablations.execution.lease.LeaseManager.acquire", full)
    store = Store(Path("runs"))
    _, tasks = plan_and_tasks(store, 1)
    with pytest.raises(VitabError, match=r"no Dask worker can execute the runs: .*No space left on device \(on "):
        execute_run(local, store, tasks, Log())


@pytest.mark.slow
def test_a_damaged_run_in_the_spool_folder_is_trained_again(local, monkeypatch):
    monkeypatch.setattr(cluster_worker, "shares_folder", lambda *_: False)
    store, kept = Store(Path("runs")), Store(cluster_worker.spool_folder())
    _, (task,) = plan_and_tasks(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(cluster_worker, "delete_spooled_run", lambda key: None)
        execute_run(local, store, [task], Log())
    (kept.folder(task.key) / "metrics.csv").write_text("epoch\n")
    shutil.rmtree(store.folder(task.key))
    log = Log()
    execute_run(local, store, [task], log)
    assert log.events[-1] == ("finished", task.label)
    assert store.verify(task.key) == []


@pytest.mark.slow
def test_a_run_waits_while_its_worker_has_too_little_memory(local, monkeypatch):
    monkeypatch.setattr(cluster_worker, "check_data_and_train", fake_trainer.job)
    monkeypatch.setattr(cluster_worker, "RESCHEDULE_DELAY", 0.05)
    store, log, lines = Store(Path("runs")), Log(), []
    _, (task,) = plan_and_tasks(store, 1)
    looks = iter([1 << 20] * 6)
    monkeypatch.setattr("ablations.execution.dask.worker.available_memory", lambda: next(looks, 1 << 40))
    with connect(local.scheduler_address, insecure=False) as client:
        found = Cluster(client, store.root, lines.append)
        with found.folder_probe():
            cluster_runs.run_on_cluster([task], ExecutionSettings(store.root), log, found, lambda: False)
    assert log.events[-1] == ("finished", task.label)
    (line,) = lines
    assert "has only 1 MB of free memory, but a run needs 2" in line
    assert line.endswith(" MB; the run waits")


def test_a_worker_on_another_machine_is_refused_without_encryption(local, monkeypatch):
    with connect(local.scheduler_address, insecure=False) as client:
        monkeypatch.setattr(client, "nthreads", lambda: {"tcp://192.0.2.1:4000": 1})
        with pytest.raises(UsageError, match=r"the Dask worker tcp://192.0.2.1:4000 is on another machine"):
            Cluster(client, Path(), print).refresh_workers()
        trusting = Cluster(client, Path(), print, insecure=True)
        trusting._query_workers = lambda addresses: {}
        trusting.refresh_workers()


def test_the_lease_has_the_progress_of_a_run_on_an_unshared_worker(local, monkeypatch):
    monkeypatch.setattr(cluster_worker, "shares_folder", lambda *_: False)
    monkeypatch.setattr(cluster_worker, "check_data_and_train", fake_trainer.job_that_asks)
    store, log, seen = Store(Path("runs")), Log(), []
    _, (task,) = plan_and_tasks(store, 1)

    def stop():
        seen.append(active_lease(store.folder(task.key)) or {})
        return "epoch" in seen[-1]

    with pytest.raises(KeyboardInterrupt):
        execute_run(local, store, [task], log, stop=stop, heartbeat_interval=0.0)
    told = next(owner for owner in seen if "epoch" in owner)
    assert (told["epoch"], told["epochs"]) == (1, task.config.epochs)
    assert told["where"].startswith("the Dask worker inproc://")


def test_a_store_receives_a_complete_run_or_nothing(here, local):
    assert vitab(*SMOKE, "--workers", "1", "--seeds", "1", "--position", "none").exit_code == 0
    store, other = Store(Path("runs")), Store(Path("other"))
    (key,) = store.read_study("smoke").keys
    files, sums = store.contents(key)
    assert set(files) == {*FILES, *LATER_FILES}
    for name in files:
        for content in (None, files[name][:-1], b""):
            bad = {k: v for k, v in files.items() if k != name} | ({} if content is None else {name: content})
            with pytest.raises(VitabError, match=f"{name} of run {key[:16]} does not match its checksum"):
                other.receive(key, bad, sums)
    outside = {"../outside": b"x"}
    assert not other.root.exists()
    other.receive(key, files | outside, sums | {"../outside": hashlib.sha256(b"x").hexdigest()})
    assert other.verify(key) == []
    assert (other.folder(key) / "DONE.json").read_bytes() == (store.folder(key) / "DONE.json").read_bytes()
    assert not (other.root / "outside").exists()


def test_a_run_leased_by_a_local_process_is_left_to_it(local, place, monkeypatch):
    monkeypatch.setattr(cluster_worker, "check_data_and_train", fake_trainer.job)
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 1)
    theirs = LeaseManager().acquire(store.folder(tasks[0].key))
    client = threading.Thread(target=execute_run, args=(local, store, tasks, log))
    client.start()
    deadline = time.monotonic() + 60
    while ("waiting", 1) not in log.events and time.monotonic() < deadline:
        time.sleep(0.01)
    store.fail(tasks[0].key, tasks[0].config, "no luck", attempt=theirs.number)
    client.join(timeout=60)
    assert log.events == [("waiting", 1), ("failed", "none, seed 0", "no luck (in another process)")]


def test_active_runs_are_stopped_and_waiting_ones_cancelled(local, place, monkeypatch):
    monkeypatch.setattr(cluster_worker, "check_data_and_train", fake_trainer.job_that_asks)
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 4)
    with pytest.raises(KeyboardInterrupt):
        execute_run(local, store, tasks, log, stop=lambda: any(event[0] == "epoch" for event in log.events))
    assert 1 <= len([event for event in log.events if event[0] == "started"]) <= 2
    deadline = time.monotonic() + 60
    while cluster_worker._state.stop_requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cluster_worker._state.stop_requests == {}
    assert all(LeaseManager().is_free(store.folder(task.key)) for task in tasks)


def test_a_second_interruption_ends_runs_that_do_not_stop(local, monkeypatch):
    monkeypatch.setattr(cluster_worker, "check_data_and_train", fake_trainer.job_that_dies_once)  # seed 1 hangs
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 2)

    def twice():
        if ("started", tasks[1].label) in log.events:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        execute_run(local, store, tasks[1:], log, stop=twice)
    deadline = time.monotonic() + 60
    while cluster_worker._state.stop_requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cluster_worker._state.stop_requests == {}
    assert LeaseManager().is_free(store.folder(tasks[1].key))


def test_a_full_shared_disk_stops_the_study_with_one_line(local, monkeypatch):
    def full(self, *_):
        raise StorageError("a file could not be written: No space left on device")

    monkeypatch.setattr("ablations.execution.lease.LeaseManager.acquire", full)
    store = Store(Path("runs"))
    _, tasks = plan_and_tasks(store, 1)
    with pytest.raises(StorageError, match=r"No space left on device \(on "):
        execute_run(local, store, tasks, Log())


@pytest.mark.slow
def test_a_lost_scheduler_is_one_line(monkeypatch):
    monkeypatch.setattr(cluster_worker, "check_data_and_train", fake_trainer.job_that_asks)
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 2)
    made = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")

    def close_when_a_run_has_started():
        deadline = time.monotonic() + 60
        while not any(event[0] == "epoch" for event in log.events) and time.monotonic() < deadline:
            time.sleep(0.01)
        made.close()

    gone = threading.Thread(target=close_when_a_run_has_started)
    gone.start()
    with pytest.raises(VitabError, match="lost the connection to the Dask scheduler; finished runs are kept"):
        execute_run(made, store, tasks, log)
    gone.join()


def test_auto_means_gpus_where_the_workers_have_them(local):
    with connect(local.scheduler_address, insecure=False) as client:
        found = Cluster(client, Path(), print)
        assert found.choose_backend("auto") == "numpy"
        assert found.choose_backend("cupy") == "cupy", "no worker contradicts yet"
        found.workers = {"a": {"cupy": True, "gpu": 0}, "b": {"cupy": False, "gpu": 1}}
        assert found.choose_backend("auto") == "numpy"
        with pytest.raises(UsageError, match="needs Dask workers with CuPy, an NVIDIA GPU and --resources GPU=1"):
            found.choose_backend("cupy")
        found.workers["c"] = {"cupy": True, "gpu": 1}
        assert [found.choose_backend(name) for name in ("auto", "numpy", "cupy")] == ["cupy", "numpy", "cupy"]
