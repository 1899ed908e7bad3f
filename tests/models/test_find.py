"""A run is found by its key or its arm; what is unknown or ambiguous is refused in one line."""

import json
from pathlib import Path

import pytest

from ablations.errors import UsageError
from ablations.models import find_run
from ablations.storage import Store
from tests.support.trained_models import keys_of, make_unfinished


def test_a_key_or_its_beginning(store: Store) -> None:
    for key in keys_of(store, "arms").values():
        assert find_run(store, key) == key
        assert find_run(store, key[:16]) == key
        assert find_run(store, key[:12], "token") == key


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("rope,depth=2", "rope,2,0"),
        ("rope,depth=2,seed=1", "rope,2,1"),
        (" depth = 1 , position=none , seed=1", "none,1,1"),
        ("rope(base=100),depth=1", "rope,1,0"),
        ("none,depth=2,learning_rate=1e-2,pool=mean", "none,2,0"),
    ],
)
def test_an_arm_of_the_last_study(store: Store, text: str, arm: str) -> None:
    assert find_run(store, text) == keys_of(store, "arms")[arm]


def test_an_arm_of_another_study(store: Store) -> None:
    assert find_run(store, "rope(base=10)", "token") == keys_of(store, "token")["rope(base=10),2,0"]
    assert find_run(store, "depth=2", "token") == keys_of(store, "token")["rope(base=10),2,0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rope", "'rope' means 2 arms of study arms: rope,depth=1; rope,depth=2"),
        ("seed=1", "'seed=1' means 4 arms of study arms: none,depth=1; rope,depth=1; none,depth=2; rope,depth=2"),
        (
            "learned",
            "no run of study arms is 'learned', and no finished run has a key that begins so; "
            "the axes of the study are position: none, rope; depth: 1, 2; patch: 4",
        ),
        ("", "no run of study arms is ''"),
        ("rope,depth=x", "no run of study arms is 'rope,depth=x'"),
        ("rope,seed=7", "no run of study arms is 'rope,seed=7'"),
        ("rope,dpeth=2", "unknown field 'dpeth' (did you mean 'depth'?); valid: data, labels"),
        ("none,rope", "position must be given once in run 'none,rope', got 'none' and 'rope'"),
    ],
)
def test_an_arm_that_is_unknown_or_ambiguous(store: Store, text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        find_run(store, text)
    assert str(refused.value).startswith(message)


def test_what_an_arm_means_does_not_depend_on_what_has_finished(store: Store) -> None:
    keys = keys_of(store, "arms")
    make_unfinished(store, keys["rope,1,0"])
    make_unfinished(store, keys["rope,1,1"])
    with pytest.raises(UsageError, match="'rope' means 2 arms"):
        find_run(store, "rope")


def test_the_smallest_finished_seed_is_taken_unless_one_is_named(store: Store) -> None:
    keys = keys_of(store, "arms")
    make_unfinished(store, keys["rope,1,0"])
    assert find_run(store, "rope,depth=1") == keys["rope,1,1"]
    for text in ("rope,depth=1,seed=0", keys["rope,1,0"], keys["rope,1,0"][:16]):
        with pytest.raises(UsageError) as refused:
            find_run(store, text)
        assert str(refused.value) == (f"run {text!r} of study arms has not finished; `vitab status` shows the runs")


def test_a_beginning_that_several_keys_share(store: Store) -> None:
    first, second = list(keys_of(store, "arms").values())[:2]
    other = first[:8] + second[8:]
    store.folder(second).rename(store.folder(other))
    done = json.loads((store.folder(other) / "DONE.json").read_bytes())
    (store.folder(other) / "DONE.json").write_text(json.dumps({**done, "key": other}))
    assert find_run(store, first[:16]) == first
    with pytest.raises(UsageError) as refused:
        find_run(store, first[:8])
    assert str(refused.value) == f"2 finished runs in {store.root} have a key that begins with {first[:8]!r}"


def test_no_study(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no study 'nope' in .*runs; studies there: arms, colour, token"):
        find_run(store, next(iter(keys_of(store, "arms").values())), "nope")
    with pytest.raises(UsageError, match=r"no finished run in .*empty has a key that begins with 'rope'; there are no"):
        find_run(Store(tmp_path / "empty"), "rope")
