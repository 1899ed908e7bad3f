"""`vitab run --dask`: addresses, workers that fit or not, that see the folder or not, failures and interruptions."""

import asyncio
import hashlib
import json
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ablations.cli import app
from ablations.commands.run import rerun_command
from ablations.config import GRIDS, override
from ablations.errors import StorageError, UsageError, VitabError
from ablations.execution import plan as study
from ablations.execution.dask import client as cluster
from ablations.execution.dask import runs as cluster_runs
from ablations.execution.dask import worker as cluster_worker
from ablations.execution.dask.client import Cluster, check_address, connect, is_here
from ablations.execution.lease import LeaseManager, active_lease, last_attempt
from ablations.execution.tasks import ExecutionSettings
from ablations.storage import FILES, Store
from tests.execution.test_plan import Log
from tests.support import fake_trainer

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")

pytestmark = [  # distributed leaves sockets and coroutines of its own to the garbage collector
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
    """A scheduler and a worker of two threads in this process, whose children train."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0", resources={"GPU": 1}
    ) as made:
        yield made
    cluster_worker.dismiss()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(params=["shared", pytest.param("apart", marks=pytest.mark.slow)])
def place(request, monkeypatch):
    """Whether the worker sees the client's folder."""
    if request.param == "apart":
        monkeypatch.setattr(cluster_worker, "sees", lambda *_: False)
    return request.param


# -- addresses --


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "must be an address such as tcp://127.0.0.1:8786 or tls://host:8786, got 'nonsense'"),
        ("tcp://127.0.0.1", "must be an address such as"),
        ("tcp://127.0.0.1:many", "must be an address such as"),
        ("tcp://192.0.2.1:8786", "is on another machine, and anybody between could read and change what is sent"),
        ("192.0.2.1:8786", "add --insecure on a network that you trust"),
        ("ws://192.0.2.1:8786", "use tls:// (set up in Dask's own configuration)"),
        ("tcp://no.such.host.invalid:8786", "the host 'no.such.host.invalid' is not known here"),
        ("tcp://127.0.0.1:1", "no Dask scheduler could be reached there"),
    ],
)
def test_a_bad_address_is_one_line(here, monkeypatch, address, message):
    monkeypatch.setattr(cluster, "CONNECT", "200ms")
    result = vitab(*SMOKE, "--dask", address)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert [line for line in result.stderr.splitlines() if not line.startswith("warning: ")] == [
        result.stderr.splitlines()[-1]
    ]
    assert list(here.iterdir()) == []


def test_what_is_encrypted_or_local_or_wanted_is_let_through():
    for address in (
        "tls://192.0.2.1:8786",
        "wss://192.0.2.1:8786",
        "tcp://127.0.0.1:1",
        "tcp://[::1]:1",
        "localhost:1",
    ):
        if "::" not in address or is_here("::1"):
            check_address(address, insecure=False)
    check_address("tcp://192.0.2.1:8786", insecure=True)
    assert not is_here("192.0.2.1")


def test_without_distributed_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    result = vitab(*SMOKE, "--dask", "tcp://127.0.0.1:8786")
    assert result.exit_code == 2
    assert "error: --dask needs the package distributed: pip install 'vitab[dask]'" in result.stderr


def test_workers_of_this_machine_and_a_cluster_exclude_each_other():
    result = vitab(*SMOKE, "--dask", "tcp://127.0.0.1:8786", "--workers", "2")
    assert (result.exit_code, "with --dask there are as many as the cluster has" in result.stderr) == (2, True)


def test_the_command_of_a_study_leaves_the_cluster_out():
    given = ["run", "--grid", "rope", "--dask", "tcp://a:1", "--insecure", "--seeds", "2"]
    assert rerun_command(given) == "vitab run --grid rope --seeds 2"


# -- workers that fit --


def test_a_worker_with_other_code_is_refused(here, local, monkeypatch):
    monkeypatch.setattr(cluster, "code_digest", lambda: "0" * 64)
    result = vitab(*SMOKE, "--dask", local.scheduler_address)
    assert result.exit_code == 2
    assert "none of the 1 Dask workers can take runs: no run is given to the Dask worker inproc://" in result.stderr
    assert "it has other code of vitab (" in result.stderr
    assert "here 000000000000); install the same there" in result.stderr
    assert not list(Path("runs").glob(".shared.*"))


def test_a_worker_without_vitab_and_one_with_other_packages_are_told_of(local):
    with connect(local.scheduler_address, insecure=False) as client:
        lines = []
        found = Cluster(client, Path(), lines.append)
        assert found._unfit({"error": "ModuleNotFoundError: No module named 'ablations'"}) == (
            "vitab does not work there (ModuleNotFoundError: No module named 'ablations')"
        )
        assert found._unfit(KeyError("no way")) == "it answered with KeyError: 'no way'"
        (here,) = found._greet([client.nthreads().popitem()[0]]).values()
        assert cluster._differing(here["packages"]) == ""
        assert cluster._differing(here["packages"] | {"numpy": "1.0"}).startswith("numpy 1.0 (here 2.")
        found._greet = lambda addresses: dict.fromkeys(addresses, here | {"packages": {"python": "3.0"}})
        found.look()
        found.look()
        assert len(lines) == 1
        assert "note: the Dask worker on " in lines[0]
        assert " has python 3.0 (here 3." in lines[0]


def test_a_task_goes_on_from_a_worker_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(distributed.Reschedule):
        cluster_runs._entry()({"code": "of somebody else"})


def test_a_folder_is_seen_only_with_the_right_token_and_where_one_may_write(here):
    (here / "probe").write_text('{"token": "abc"}')
    assert cluster_worker.sees(here, "probe", "abc")
    assert not cluster_worker.sees(here, "probe", "abd")
    assert not cluster_worker.sees(here / "elsewhere", "probe", "abc")
    for content in ("", "abc", "[]", '{"token": null}'):
        (here / "probe").write_text(content)
        assert not cluster_worker.sees(here, "probe", "abc")
    assert [path.name for path in here.iterdir()] == ["probe"]


def test_the_probe_of_a_client_that_was_killed_is_removed(here, local):
    gone = {"token": "x", "pid": 1, "process_start_time": "0", "machine": cluster.process(1)["machine"]}
    (here / ".shared.0123").write_text(json.dumps(gone))
    with connect(local.scheduler_address, insecure=False) as client:
        found = Cluster(client, here, print)
        with found.watched():
            assert [path.name for path in here.glob(".shared.*")] == [found._probe]
            assert found.describe().endswith(f"1 of them sees {here}")
    assert list(here.glob(".shared.*")) == []


# -- runs --


@pytest.mark.parametrize("place", ["shared", "apart"], indirect=True)
def test_a_grid_is_trained_once_with_the_bits_of_local_workers(here, local, place):
    result = vitab(*SMOKE, "--dask", local.scheduler_address, "--runs", "far")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"1 Dask worker with 2 threads, {int(place == 'shared')} of them " + (
        f"sees {here}/far" if place == "shared" else f"see {here}/far"
    )
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
    assert again.stdout.splitlines()[0] == "study smoke: 4 runs, 0 to do, 4 finished before and kept"
    with distributed.Client(local) as client:
        assert list(client.list_datasets()) == []


def test_a_run_that_fails_by_itself_is_reported_as_with_local_workers(local, place):
    bad = [*SMOKE, "--set", "learning_rate=1e30", "--position", "none", "--seeds", "1"]
    result = vitab(*bad, "--dask", local.scheduler_address)
    assert result.exit_code == 1
    assert "[1/1] none, seed 0: FAILED: the validation loss became nan in epoch 1" in result.stdout
    assert "failed: none, seed 0: the validation loss became nan" in result.stderr
    store = Store(Path("runs"))
    (key,) = store.read_study("smoke").keys
    assert store.failure(key).startswith("the validation loss became nan")
    assert "Traceback" in (store.folder(key) / "failure.json").read_text()
    assert vitab(*bad, "--dask", local.scheduler_address).exit_code == 1
    assert last_attempt(store.folder(key)) == 2


def plan_and_tasks(store, seeds):
    plan = study.make_plan(override(NONE, seeds=seeds), study="s")
    store.check_writable()
    return plan, study.tasks_of(plan, study.survey(plan, store), store)


def execute_run(local, store, tasks, log, stop=lambda: False, **setting):
    with connect(local.scheduler_address, insecure=False) as client:
        found = Cluster(client, store.root, print)
        with found.watched():
            cluster_runs.run_on_cluster(tasks, ExecutionSettings(store.root, **setting), log, found, stop)


@pytest.mark.parametrize(("backend", "most"), [("numpy", 2), ("cupy", 1)])
def test_as_many_runs_side_by_side_as_threads_or_gpus(local, monkeypatch, backend, most):
    monkeypatch.setattr(cluster_worker, "train_there", fake_trainer.job_that_counts_others)
    store = Store(Path("runs"))
    _, tasks = plan_and_tasks(store, 4)
    counts = []

    class Counting(Log):
        def finished(self, task, result):
            counts.append(round(100 * result.test_accuracy))

    execute_run(local, store, tasks, Counting(), backend=backend)
    assert (len(counts), max(counts)) == (4, most)


def test_a_killed_child_is_replaced_and_its_run_tried_again(local, place, monkeypatch):
    monkeypatch.setattr(cluster_worker, "train_there", fake_trainer.job_that_dies_once)
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 1)
    (Path("cache") / "vitab" / "cluster").mkdir(parents=True)
    monkeypatch.setattr(Store, "contents", lambda self, key: ({}, {}))
    monkeypatch.setattr(Store, "receive", lambda self, key, files, sums, held: None)
    execute_run(local, store, tasks, log)
    reason = "its process was ended by SIGKILL, perhaps for want of memory"
    assert [event[:2] for event in log.events] == [
        ("started", "none, seed 0"),
        ("again", "none, seed 0"),
        ("started", "none, seed 0"),
        ("finished", "none, seed 0"),
    ]
    assert log.events[1][2].startswith(reason)


def test_files_that_do_not_arrive_as_they_were_sent_are_asked_for_once_more(local, monkeypatch):
    monkeypatch.setattr(cluster_worker, "sees", lambda *_: False)
    real, sent = Store.contents, []

    def damaged(self, key):
        files, sums = real(self, key)
        sent.append(key)
        return (files | {"metrics.csv": b"epoch\n"} if len(sent) == 1 else files), sums

    monkeypatch.setattr(Store, "contents", damaged)
    store, log = Store(Path("runs")), Log()
    _, (task,) = plan_and_tasks(store, 1)
    execute_run(local, store, [task], log)
    assert ("again", task.label, f"metrics.csv of run {task.key[:16]} is not what was sent") in log.events
    assert log.events[-1] == ("finished", task.label)
    assert store.verify(task.key) == []


def test_a_worker_that_cannot_do_the_runs_fails_none_and_is_left_out(local, place, monkeypatch):
    monkeypatch.setattr(cluster_worker, "train_there", fake_trainer.job_that_does_not_fit)
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 2)
    with pytest.raises(VitabError, match=r"none of the Dask workers can take runs: cifar10 is not here \(on "):
        execute_run(local, store, tasks, log)
    assert [event for event in log.events if event[0] not in ("started", "epoch")] == []
    assert [store.failed_attempt(task.key) for task in tasks] == [0, 0]
    deadline = time.monotonic() + 10
    while cluster_worker._state.active_lease and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(LeaseManager().free(store.folder(task.key)) for task in tasks)
    monkeypatch.setattr(cluster_worker, "train_there", fake_trainer.job)
    if place == "shared":  # mended meanwhile: a client that comes anew tries it anew
        execute_run(local, store, tasks[:1], log)
        assert log.events[-1] == ("finished", tasks[0].label)


def test_a_worker_that_dies_before_it_answers_keeps_nobody_waiting(local, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER", 0.2)
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
        found.look()
        assert list(found.workers) == [alive]
        assert list(found._told) == [alive]


def test_others_take_the_runs_of_a_worker_that_is_left_out(local):
    lines = []
    with connect(local.scheduler_address, insecure=False) as client:
        found = Cluster(client, Path(), lines.append)
        found.workers = {"a": {"host": "one"}, "b": {"host": "two"}}
        found.drop("a", "cifar10 is not here")
        found.drop("a", "cifar10 is not here")
        assert list(found.workers) == ["b"]
        assert lines == ["no run is given any more to the Dask worker a on one: cifar10 is not here"]


def test_a_full_disk_of_a_worker_that_does_not_see_the_folder_is_that_workers_trouble(local, monkeypatch):
    def full(self, folder, pid=None):
        if folder.is_relative_to(cluster_worker.spool()):
            raise StorageError("a file could not be written: No space left on device")
        return take(self, folder, pid)

    take = LeaseManager.take
    monkeypatch.setattr(cluster_worker, "sees", lambda *_: False)
    monkeypatch.setattr("ablations.execution.lease.LeaseManager.take", full)
    store = Store(Path("runs"))
    _, tasks = plan_and_tasks(store, 1)
    with pytest.raises(VitabError, match=r"none of the Dask workers can take runs: .*No space left on device \(on "):
        execute_run(local, store, tasks, Log())


def test_a_damaged_run_that_a_worker_has_kept_is_trained_again(local, monkeypatch):
    monkeypatch.setattr(cluster_worker, "sees", lambda *_: False)
    store, kept = Store(Path("runs")), Store(cluster_worker.spool())
    _, (task,) = plan_and_tasks(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(cluster_worker, "forget", lambda key: None)
        execute_run(local, store, [task], Log())
    (kept.folder(task.key) / "metrics.csv").write_text("epoch\n")
    shutil.rmtree(store.folder(task.key))
    log = Log()
    execute_run(local, store, [task], log)
    assert log.events[-1] == ("finished", task.label)
    assert store.verify(task.key) == []


def test_a_run_waits_while_its_worker_has_too_little_memory(local, monkeypatch):
    monkeypatch.setattr(cluster_worker, "train_there", fake_trainer.job)
    monkeypatch.setattr(cluster_worker, "OTHERS_FIRST", 0.05)
    store, log, lines = Store(Path("runs")), Log(), []
    _, (task,) = plan_and_tasks(store, 1)
    looks = iter([1 << 20] * 6)
    monkeypatch.setattr("ablations.execution.dask.worker.available_memory", lambda: next(looks, 1 << 40))
    with connect(local.scheduler_address, insecure=False) as client:
        found = Cluster(client, store.root, lines.append)
        with found.watched():
            cluster_runs.run_on_cluster([task], ExecutionSettings(store.root), log, found, lambda: False)
    assert log.events[-1] == ("finished", task.label)
    (line,) = lines
    assert "has too little memory just now (1 MB) for a run that takes 2" in line
    assert line.endswith(" MB: the run waits")


def test_a_worker_on_another_machine_is_refused_without_encryption(local, monkeypatch):
    with connect(local.scheduler_address, insecure=False) as client:
        monkeypatch.setattr(client, "nthreads", lambda: {"tcp://192.0.2.1:4000": 1})
        with pytest.raises(UsageError, match=r"the Dask worker tcp://192.0.2.1:4000 is on another machine"):
            Cluster(client, Path(), print).look()
        trusting = Cluster(client, Path(), print, insecure=True)
        trusting._greet = lambda addresses: {}
        trusting.look()


def test_status_tells_how_far_a_run_is_that_a_worker_elsewhere_trains(local, monkeypatch):
    monkeypatch.setattr(cluster_worker, "sees", lambda *_: False)
    monkeypatch.setattr(cluster_worker, "train_there", fake_trainer.job_that_asks)
    store, log, seen = Store(Path("runs")), Log(), []
    _, (task,) = plan_and_tasks(store, 1)

    def stop():
        seen.append(active_lease(store.folder(task.key)) or {})
        return "epoch" in seen[-1]

    with pytest.raises(KeyboardInterrupt):
        execute_run(local, store, [task], log, stop=stop, beat=0.0)
    told = next(owner for owner in seen if "epoch" in owner)
    assert (told["epoch"], told["epochs"]) == (1, task.config.epochs)
    assert told["where"].startswith("the Dask worker inproc://")


def test_a_store_takes_a_run_of_another_whole_or_not_at_all(here, local):
    assert vitab(*SMOKE, "--workers", "1", "--seeds", "1", "--position", "none").exit_code == 0
    store, other = Store(Path("runs")), Store(Path("other"))
    (key,) = store.read_study("smoke").keys
    files, sums = store.contents(key)
    assert set(files) == set(FILES)
    for name in FILES:
        for content in (None, files[name][:-1], b""):
            bad = {k: v for k, v in files.items() if k != name} | ({} if content is None else {name: content})
            with pytest.raises(VitabError, match=f"{name} of run {key[:16]} is not what was sent"):
                other.receive(key, bad, sums)
    outside = {"../outside": b"x"}
    assert not other.root.exists()
    other.receive(key, files | outside, sums | {"../outside": hashlib.sha256(b"x").hexdigest()})
    assert other.verify(key) == []
    assert (other.folder(key) / "DONE.json").read_bytes() == (store.folder(key) / "DONE.json").read_bytes()
    assert not (other.root / "outside").exists()


def test_a_run_that_a_local_process_is_at_is_left_to_it(local, place, monkeypatch):
    monkeypatch.setattr(cluster_worker, "train_there", fake_trainer.job)
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 1)
    theirs = LeaseManager().take(store.folder(tasks[0].key))
    client = threading.Thread(target=execute_run, args=(local, store, tasks, log))
    client.start()
    deadline = time.monotonic() + 30
    while ("waiting", 1) not in log.events and time.monotonic() < deadline:
        time.sleep(0.01)
    store.fail(tasks[0].key, tasks[0].config, "no luck", attempt=theirs.number)
    client.join(timeout=30)
    assert log.events == [("waiting", 1), ("failed", "none, seed 0", "no luck (in another process)")]


def test_runs_are_asked_to_stop_and_those_not_begun_are_taken_back(local, place, monkeypatch):
    monkeypatch.setattr(cluster_worker, "train_there", fake_trainer.job_that_asks)
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 4)
    with pytest.raises(KeyboardInterrupt):
        execute_run(local, store, tasks, log, stop=lambda: any(event[0] == "epoch" for event in log.events))
    assert 1 <= len([event for event in log.events if event[0] == "started"]) <= 2
    deadline = time.monotonic() + 10
    while cluster_worker._state.active_lease and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cluster_worker._state.active_lease == {}
    assert all(LeaseManager().free(store.folder(task.key)) for task in tasks)


def test_a_second_interruption_ends_runs_that_do_not_stop(local, monkeypatch):
    monkeypatch.setattr(cluster_worker, "train_there", fake_trainer.job_that_dies_once)  # seed 1 hangs
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 2)

    def twice():
        if ("started", tasks[1].label) in log.events:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        execute_run(local, store, tasks[1:], log, stop=twice)
    deadline = time.monotonic() + 10
    while cluster_worker._state.active_lease and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cluster_worker._state.active_lease == {}
    assert LeaseManager().free(store.folder(tasks[1].key))


def test_a_disk_of_a_worker_that_is_full_stops_the_study_with_one_line(local, monkeypatch):
    def full(self, *_):
        raise StorageError("a file could not be written: No space left on device")

    monkeypatch.setattr("ablations.execution.lease.LeaseManager.take", full)
    store = Store(Path("runs"))
    _, tasks = plan_and_tasks(store, 1)
    with pytest.raises(StorageError, match=r"No space left on device \(on "):
        execute_run(local, store, tasks, Log())


def test_the_scheduler_goes_away(monkeypatch):
    monkeypatch.setattr(cluster_worker, "train_there", fake_trainer.job_that_asks)
    store, log = Store(Path("runs")), Log()
    _, tasks = plan_and_tasks(store, 2)
    made = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")

    def close_when_a_run_has_started():
        deadline = time.monotonic() + 30
        while not any(event[0] == "epoch" for event in log.events) and time.monotonic() < deadline:
            time.sleep(0.01)
        made.close()

    gone = threading.Thread(target=close_when_a_run_has_started)
    gone.start()
    with pytest.raises(VitabError, match="the Dask scheduler is gone; finished runs are kept"):
        execute_run(made, store, tasks, log)
    gone.join()


def test_auto_means_gpus_where_the_workers_have_them(local):
    with connect(local.scheduler_address, insecure=False) as client:
        found = Cluster(client, Path(), print)
        assert found.choose_backend("auto") == "numpy"
        assert found.choose_backend("cupy") == "cupy", "no worker is there yet that says otherwise"
        found.workers = {"a": {"cupy": True, "gpu": 0}, "b": {"cupy": False, "gpu": 1}}
        assert found.choose_backend("auto") == "numpy"
        with pytest.raises(UsageError, match="needs Dask workers with CuPy, an NVIDIA GPU and --resources GPU=1"):
            found.choose_backend("cupy")
        found.workers["c"] = {"cupy": True, "gpu": 1}
        assert [found.choose_backend(name) for name in ("auto", "numpy", "cupy")] == ["cupy", "numpy", "cupy"]
