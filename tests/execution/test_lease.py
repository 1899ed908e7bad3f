"""Tests of leases: exclusive, released, taken over, and independent of the clocks of other machines."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from ablations.errors import StorageError
from ablations.execution import lease as leases
from ablations.execution.lease import Lease, LeaseManager, active_lease, last_attempt


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def move_to_another_machine(lease):
    """Make the lease that of a process on another machine."""
    lease.update(machine="another")


def test_one_process_holds_the_run_until_it_releases_it(folder):
    first = LeaseManager().acquire(folder)
    assert (first.number, first.held(), last_attempt(folder)) == (1, True, 1)
    assert LeaseManager().acquire(folder) is None
    assert not LeaseManager().is_free(folder)
    assert active_lease(folder)["pid"] == os.getpid()
    first.release()
    assert active_lease(folder) is None
    second = LeaseManager().acquire(folder)
    assert (second.number, second.held(), first.held()) == (2, True, False)
    assert [path.name for path in folder.iterdir()] == ["attempt-0002.json"]
    first.release()  # too late: another process holds it
    assert active_lease(folder)["attempt"] == 2


def test_the_run_of_a_dead_process_is_free_at_once(folder):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease = LeaseManager().acquire(folder, child.pid)
    assert not LeaseManager().is_free(folder)
    child.kill()
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT) is None:
        pass
    assert LeaseManager().is_free(folder), "a zombie is dead"
    child.communicate()
    assert active_lease(folder) is None
    assert LeaseManager().acquire(folder).number == lease.number + 1


def test_a_reused_process_id_is_not_the_owner(folder):
    lease = LeaseManager().acquire(folder)
    lease.update(process_start_time="1")
    assert LeaseManager().is_free(folder)


def test_a_hidden_process_is_dead_only_if_its_id_does_not_exist(folder, monkeypatch):
    """As with hidepid, which hides the processes of other users in /proc."""
    LeaseManager().acquire(folder)
    monkeypatch.setattr(leases, "_stat", lambda pid: None)
    for error, dead in ((PermissionError(), False), (None, False), (ProcessLookupError(), True)):

        def kill(pid, number, error=error):
            if error is not None:
                raise error

        monkeypatch.setattr("ablations.storage.files.os.kill", kill)
        assert LeaseManager().is_free(folder) is dead


def test_the_run_of_a_process_that_ended_before_its_lease_was_created_is_free(folder):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    LeaseManager().acquire(folder, child.pid)
    assert LeaseManager().is_free(folder)


def test_a_flipped_bit_in_a_lease_does_not_free_the_run(folder):
    """A flipped bit in the start time would make a living owner look like a dead process."""
    lease = LeaseManager().acquire(folder)
    good = lease.path.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1
        lease.path.write_bytes(bad)
        assert not LeaseManager().is_free(folder), bad
    other = LeaseManager().acquire(folder.parent / "other")
    other.release()
    lease.path.write_bytes(other.path.read_bytes())
    assert not LeaseManager().is_free(folder), "the file of another run"
    lease.release()
    assert LeaseManager().is_free(folder), "its owner rewrites it"


def test_a_run_without_progress_has_no_heartbeat(folder):
    lease = LeaseManager().acquire(folder)
    os.utime(lease.path, (1, 1))
    with lease.heartbeat(interval=0.01, hang_timeout=0.0) as beat:
        time.sleep(0.1)
        assert lease.path.stat().st_mtime == 1
        beat.hang_timeout = 1000.0
        beat.record_progress()
        deadline = time.monotonic() + 60
        while lease.path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.path.stat().st_mtime > 1


def test_expired_leases_are_counted_until_one_completes_an_epoch(folder):
    counts, observer = [], LeaseManager(timeout=0.0)
    for number in range(1, 6):
        if number > 1:
            assert not observer.is_free(folder)
        lease = observer.acquire(folder)
        counts.append(lease.expired)
        move_to_another_machine(lease)
        if number == 3:
            lease.update(epoch=1)
    assert counts == [0, 1, 2, 0, 1]
    lease.release()
    assert observer.acquire(folder).expired == 0


@pytest.mark.parametrize("where", ["write_bytes", "link"])
def test_a_full_disk_leaves_no_lease(folder, monkeypatch, where):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((leases.os, "link") if where == "link" else (leases.Path, "write_bytes")), full)
        with pytest.raises(StorageError, match="No space left"):
            LeaseManager().acquire(folder)
    assert list(folder.iterdir()) == []
    assert LeaseManager().acquire(folder).number == 1


def test_a_link_that_was_created_although_the_answer_was_lost(folder, monkeypatch):
    """A file server that repeats a request reports that the file exists."""
    real = os.link

    def twice(*paths):
        real(*paths)
        real(*paths)

    monkeypatch.setattr(leases.os, "link", twice)
    assert LeaseManager().acquire(folder).number == 1


def test_a_lease_of_another_machine_expires_by_the_observers_clock(folder, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: now[0])
    lease = LeaseManager().acquire(folder)
    move_to_another_machine(lease)
    observer = LeaseManager(timeout=60)
    for mtime in (5e9, 1.0, 3.0):  # clocks of other machines: far in the future, far in the past, set back
        os.utime(lease.path, (mtime, mtime))
        assert not observer.is_free(folder)
        now[0] += 59
        assert not observer.is_free(folder)
    now[0] += 2
    assert observer.is_free(folder)
    assert not LeaseManager(timeout=60).is_free(folder), "a new observer has to wait first"
    taken = observer.acquire(folder)
    assert (taken.number, lease.held()) == (2, False)


def test_a_damaged_lease_counts_as_active_until_it_expires(folder):
    lease = LeaseManager().acquire(folder)
    for content in (b"", b"{", b"[]", b'{"over": true}', b"\xff"):
        lease.path.write_bytes(content)
        observer = LeaseManager(timeout=0.05)
        assert observer.acquire(folder) is None
        time.sleep(0.06)
        assert observer.is_free(folder)


def test_heartbeats_end_when_another_process_has_the_run(folder):
    lease = LeaseManager().acquire(folder)
    os.utime(lease.path, (1, 1))
    with lease.heartbeat(interval=0.01) as beat:
        deadline = time.monotonic() + 60
        while lease.path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.path.stat().st_mtime > 1
        assert not beat.lost
        Lease(folder, 2).path.write_text("{}")
        beat.join(timeout=60)
        assert beat.lost


def test_lower_numbers_are_not_acquired(folder, monkeypatch):
    """A process that read the folder before others acquired 1 to 3, and removed 1 and 2, must not get 1."""
    folder.mkdir()
    Lease(folder, 3).path.write_text("{}")
    first = iter([0])
    real = leases.last_attempt
    monkeypatch.setattr(
        leases, "last_attempt", lambda where: next(first, None) if first.__length_hint__() else real(where)
    )
    assert LeaseManager().acquire(folder) is None
    assert [path.name for path in folder.iterdir()] == ["attempt-0003.json"]


def test_without_links(folder, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(leases.os, "link", refuse)
    assert LeaseManager().acquire(folder).number == 1
    assert LeaseManager().acquire(folder) is None
    assert [path.name for path in folder.iterdir()] == ["attempt-0001.json"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        LeaseManager().acquire(tmp_path / "file" / "run")


def test_a_lease_created_between_check_and_creation_is_kept(folder, monkeypatch):
    """A process that read the folder before another acquired 1 must not acquire 2."""
    real = leases.last_attempt

    def late(where):
        number = real(where)
        if not number:
            Lease(folder, 1).path.write_text("{}")
        return number

    monkeypatch.setattr(leases, "last_attempt", late)
    assert LeaseManager().acquire(folder) is None
    assert [path.name for path in folder.iterdir()] == ["attempt-0001.json"]


def race(folders, start, out):
    start.wait()
    out.put([str(folder) for folder in folders if LeaseManager().acquire(folder) is not None])
    start.wait()  # stay alive until all have tried, since dead owners lose their runs


def test_of_several_processes_one_gets_each_run(tmp_path):
    context = multiprocessing.get_context("spawn")
    folders = [tmp_path / str(i) for i in range(50)]
    start, out = context.Barrier(3), context.Queue()
    racers = [context.Process(target=race, args=(folders, start, out)) for _ in range(3)]
    for racer in racers:
        racer.start()
    taken = [folder for _ in racers for folder in out.get(timeout=60)]
    for racer in racers:
        racer.join()
    assert sorted(taken) == sorted(map(str, folders))
