"""Processes beside the benchmark: what they answer, and that one which fails, hangs or ends costs nobody else."""

import multiprocessing
import time
from collections.abc import Iterator

import pytest

from benchmarks.peers import Compilations, Peer, PeerError
from tests.support import fake_peer


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def test_a_peer_takes_turns() -> None:
    peer = Peer(fake_peer.quick)
    peer.make("tiny", "rope")
    way = peer.way(peer.answer())
    assert (way.name, way.images) == ("torch eager", fake_peer.BATCH)
    begun = time.perf_counter()
    way.start(50)
    way.wait()
    assert time.perf_counter() - begun > 0.1
    way.wait()  # nothing was started
    peer.close()


def test_what_fails_is_told_in_a_line_and_the_peer_goes_on() -> None:
    peer = Peer(fake_peer.failing)
    peer.make("tiny", "learned")
    with pytest.raises(PeerError, match=r"torch eager: RuntimeError: out of memory$"):
        peer.answer()
    peer.make("tiny", "rope")
    assert peer.answer() == fake_peer.BATCH
    assert peer.pending == 0
    peer.close()


def test_nobody_waits_for_one_that_hangs_or_has_ended() -> None:
    peer = Peer(fake_peer.hanging, compiled=True)
    peer.make("tiny", "rope")
    begun = time.perf_counter()
    with pytest.raises(PeerError, match="torch compiled did not answer within 0 s"):
        peer.answer(0.1)
    assert peer.pending == 1
    peer.close()
    peer = Peer(fake_peer.failing)
    peer.make("tiny", "learned")
    peer.make("tiny", "rope")
    assert peer.answer() == fake_peer.BATCH, "of what was begun last"
    peer.close()
    peer = Peer(fake_peer.dying)
    peer.make("tiny", "rope")
    with pytest.raises(PeerError, match="the process of torch eager exited"):
        peer.answer()
    with pytest.raises(PeerError, match="exited"):
        peer.make("tiny", "rope")
    peer.close()
    assert time.perf_counter() - begun < 30


def test_compilations_go_some_at_a_time_and_those_that_take_too_long_end() -> None:
    wanted = [("a", "rope"), ("b", "rope"), ("c", "rope")]
    quick = Compilations(wanted, fake_peer.quick, at_once=2)
    most = 0
    while not quick.over:
        quick.look()
        most = max(most, len(quick._running))
        time.sleep(0.01)
    assert most == 2
    assert quick.ready.keys() == {*wanted}
    assert quick.failed == {}
    quick.close()
    slow = Compilations(wanted, fake_peer.hanging, at_once=2)
    slow.look()
    slow.stop()
    assert slow.over
    assert slow.failed == {wanted[0]: "torch compile took too long", wanted[1]: "torch compile took too long"} | {
        wanted[2]: "no time for torch compile"
    }
    broken = Compilations(wanted[:1], fake_peer.failing)
    while not broken.over:
        broken.look()
    assert broken.failed == {wanted[0]: "torch compiled: RuntimeError: out of memory"}
