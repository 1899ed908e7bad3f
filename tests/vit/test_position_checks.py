"""`vit.position_checks` passes right encodings and says what is wrong with wrong ones."""

from pathlib import Path

import pytest

from tests.support.own_encoding import write
from tests.support.small import ENCODINGS
from vit import ConfigError
from vit.position_checks import CheckResult, check_position
from vit.positions import own

Change = tuple[str, str]
SCORES, SUM = "scores += self.bias[:, None]", "self.dbias[...] = dscores.sum(axis=1)"
DERIVE = 'gradients["slope"][...] = -(dbias'


def results(path: Path, *changes: Change, by_hand: bool = False, options: str = "") -> dict[str, CheckResult]:
    write(path / "mine.py", *changes, by_hand=by_hand)
    found = list(check_position(f"{path}/mine.py:Mine{options}"))
    return {result.name: result for result in found} | {"model": found[0]}


def failures(found: dict[str, CheckResult]) -> dict[str, str]:
    return {name: result.text for name, result in found.items() if result.status == "fail"}


@pytest.mark.parametrize("options", ["", "(start=2)", "+rope"])
def test_a_right_encoding_passes(tmp_path: Path, options: str) -> None:
    found = results(tmp_path, options=options)
    assert not failures(found)
    assert found["model"].text == "3 x 3 patches, width 16, 2 heads, 2 blocks, with and without a class token"
    assert found["parameters"].text == "slope (2)"
    assert found["captured program"].status == "pass"
    assert found["another grid"].text.startswith("weights of 4 x 4 patches work in a model of 6 x 6")
    assert "all in kernels" in found["on a GPU"].text


@pytest.mark.slow
@pytest.mark.parametrize("position", ENCODINGS)
def test_the_built_in_encodings_pass(position: str) -> None:
    assert not [result for result in check_position(position) if result.status == "fail"]


def test_array_expressions_are_right_but_not_captured(tmp_path: Path) -> None:
    found = results(tmp_path, by_hand=True)
    assert not failures(found)
    line = (tmp_path / "mine.py").read_text().splitlines().index(f"        {SCORES}") + 1
    for name in ("captured program", "on a GPU"):
        assert found[name].status == "note"
        assert f"an array expression (numpy.add) (mine.py, line {line})" in found[name].text
        assert "correct, but" in found[name].text


WRONG = {
    "twice the gradient": ((DERIVE, f"{DERIVE} * 2"), "gradients", "the gradient of slope is 2 times the right one"),
    "wrong sign": ((DERIVE, DERIVE.replace("-", "")), "gradients", "the gradient of slope has the wrong sign"),
    "missing": ((DERIVE, "unused = -(dbias"), "gradients", "slope is not written by any backward pass"),
    "zero": ((DERIVE, 'gradients["slope"][...] = 0\n        unused = -(dbias'), "gradients", "slope is zero, but"),
    "added": ((DERIVE, 'gradients["slope"][...] -= (dbias'), "gradients", "slope is not written by any backward pass"),
    "in part": ((DERIVE, 'gradients["slope"][:, :1] = -(dbias'), "gradients", "raises ValueError"),
    "shared by the blocks": (
        ("ScoreBias(bias, dbias[:, i])", "ScoreBias(bias, dbias[:, 0])"),
        "gradients",
        "the blocks share one dbias, which each of them overwrites",
    ),
    "not per run": (
        ('-parameters["slope"][:, :, None, None]', '-parameters["slope"][0, :, None, None]'),
        "runs apart",
        "run 2 of three trained together has other logits than alone",
    ),
    "an error in a hook": (
        ("biases = [ScoreBias", "1 / 0\n        biases = [ScoreBias"),
        "gradients",
        "mine.py, line ",
    ),
    "an error in declare": (("return [Parameter(", "return [Parametr("), "parameters", "raises NameError"),
    "an error in check": (
        ("    def declare", "    def check(self, config):\n        1 / 0\n\n    def declare"),
        "model",
        "check raises ZeroDivisionError: division by zero (mine.py, line ",
    ),
    "a name of the model": (
        ('Parameter("slope"', 'Parameter("norm.weight"'),
        "parameters",
        "declare returns norm.weight, which is the name of another parameter",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_encoding_is_described(tmp_path: Path, mistake: str) -> None:
    change, name, text = WRONG[mistake]
    found = failures(results(tmp_path, change))
    assert text in found.get(name, ""), found


BY_HAND = {
    "a score from queries without their gradient": (
        [
            (
                SCORES,
                f"{SCORES}\n        scores += qkv[:, :, :, 0, :, 0].swapaxes(2, 3)[..., None] * self.bias[:, None]",
            )
        ],
        "gradients",
        "the gradient of slope is wrong",
    ),
    "a gradient that is not passed on": (
        [(SCORES, "scores *= 1.1"), (SUM, "self.dbias[...] = 0")],
        "gradients",
        "a backward hook does not pass on the right gradient",
    ),
    "images that are mixed": (
        [(SCORES, "scores += self.bias[:, None] * scores.mean()")],
        "images apart",
        "an image alone has other logits than in a batch",
    ),
    "state that is kept": (
        [(SCORES, "self.calls = getattr(self, 'calls', 0) + 1\n        scores += self.bias[:, None] * self.calls")],
        "images apart",
        "a pass on the same images differs",
    ),
    "parameters read too early": (
        [
            (
                'self.bias, self.dbias = workspace.tables["bias"],',
                'self.bias, self.dbias = workspace.tables["bias"].copy(),',
            )
        ],
        "parameters are read",
        "they keep values that were computed from parameters when they were made",
    ),
    "thread dependent": (
        [
            (
                SCORES,
                "here = threading.current_thread() is threading.main_thread()\n"
                "        scores += self.bias[:, None] * (1 + here)",
            )
        ],
        "threads",
        "training with 2 threads gives other bits than with one",
    ),
    "one backend": (
        [(SCORES, "scores += self.bias[:, None] * (1 + (self.ops.name == 'numpy'))")],
        "reference operations",
        "logits differ from those of the reference operations",
    ),
}


@pytest.mark.parametrize("mistake", BY_HAND)
def test_a_wrong_hook_is_described(tmp_path: Path, mistake: str) -> None:
    changes, name, text = BY_HAND[mistake]
    found = failures(results(tmp_path, *changes, by_hand=True))
    assert text in found.get(name, ""), found


def test_writing_past_the_operations_is_found_and_not_captured(tmp_path: Path) -> None:
    plain = "seen = np.asarray(scores)\n        np.add(seen, np.asarray(self.bias)[:, None], out=seen)"
    found = results(
        tmp_path,
        (SCORES, plain),
        (SUM, "np.sum(np.asarray(dscores), axis=1, out=np.asarray(self.dbias))"),
        by_hand=True,
    )
    assert not failures(found)
    assert found["captured program"].status == "note"
    assert found["captured program"].text.startswith(
        "not captured, because of an assignment to an array (mine.py, line "
    )


def test_an_encoding_for_even_grids_is_checked_on_one(tmp_path: Path) -> None:
    condition = "if config.grid % 2:\n            raise ConfigError('the grid must be even, got 3')"
    check = f"    def check(self, config):\n        {condition}\n"
    write(tmp_path / "mine.py", ("    def declare", f"{check}\n    def declare"))
    found = list(check_position(f"{tmp_path}/mine.py:Mine"))
    assert [result.text for result in found[:2]] == [
        "4 x 4 patches, width 16, 2 heads, 2 blocks, with and without a class token",
        "an odd grid is refused: the grid must be even, got 3; the checks use an even one",
    ]
    assert not [result for result in found if result.status == "fail"]


def test_a_model_that_is_refused(tmp_path: Path) -> None:
    check = "    def check(self, config):\n        raise ConfigError('nothing is good enough')\n"
    write(tmp_path / "mine.py", ("    def declare", f"{check}\n    def declare"))
    assert [(result.status, result.text) for result in check_position(f"{tmp_path}/mine.py:Mine")] == [
        ("fail", "no small model is supported: nothing is good enough")
    ]


def test_weights_of_another_grid_are_refused_in_one_line(tmp_path: Path) -> None:
    found = results(tmp_path, ('"slope", (config.heads,)', '"slope", (config.heads,) + (config.grid,) * 0'))
    assert not failures(found)
    change = ("        return [Parameter(", '        return [Parameter("more", (config.patches,), ones), Parameter(')
    write_more = 'gradients["more"][...] = 0\n        gradients["slope"][...] = -(dbias'
    other = results(tmp_path, change, (DERIVE, write_more))
    assert other["another grid"].status == "pass"
    assert other["another grid"].text == (
        "weights of 4 x 4 patches are refused by a model of 6 x 6: more must have the shape (36,), got (16,)"
    )


class TestLoad:
    def test_the_name_has_the_digest_of_the_source(self, tmp_path: Path) -> None:
        path = write(tmp_path / "mine.py")
        kind = own.load(f"{path}:Mine")
        digest = own.digest_of_source(path.read_text())
        assert kind.name == f"{path}:Mine@{digest}"
        assert own.short_name(kind.name) == "Mine"
        assert own.without_folder(kind.name) == f"mine.py:Mine@{digest}"
        assert own.without_digest(kind.name) == f"{path}:Mine"

    def test_a_file_that_changes_is_read_again_and_the_old_name_keeps_its_class(self, tmp_path: Path) -> None:
        path = write(tmp_path / "mine.py")
        before = own.load(f"{path}:Mine")
        write(path, ('description = "learned', 'description = "another'))
        after = own.load(f"{path}:Mine")
        assert before.name != after.name
        assert (before.description[:7], after.description[:7]) == ("learned", "another")
        assert own.load(before.name) is before

    def test_a_remembered_source_replaces_the_file(self, tmp_path: Path) -> None:
        text = write(tmp_path / "mine.py").read_text() + "\nREMEMBERED = True\n"
        name = f"nowhere/mine.py:Mine@{own.digest_of_source(text)}"
        with pytest.raises(ConfigError, match=r"cannot read nowhere/mine\.py: there is no such file"):
            own.load(name)
        own.remember(text)
        assert own.load(name).name == name

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ([("@dataclass(frozen=True)\n", "")], r"mine.py:Mine must be decorated with @dataclass\(frozen=True\)"),
            ([("@dataclass(frozen=True)", "@dataclass")], "cannot inherit non-frozen dataclass from a frozen one"),
            ([("class Mine(Position)", "class Mine")], r"must be a subclass of vit.positions.Position"),
            ([("class Mine(Position)", "class Other(Position)")], "defines no class 'Mine'; its encodings are Other"),
            (
                [("import numpy as np", "import nump as np")],
                r"cannot import .*mine.py: ModuleNotFoundError.*\(line 7\)",
            ),
            ([("import numpy as np", "import numpy as")], r"cannot import .*mine.py: SyntaxError"),
            ([("import numpy as np", "raise SystemExit(3)")], r"cannot import .*mine.py: SystemExit: 3"),
            ([('description = "learned penalty on distant patches"', "")], "Mine.description must be a string"),
            (
                [('start: float = option(0.5, "above 0", lambda value: value > 0, ', "start: float  # (")],
                "must have a default",
            ),
        ],
    )
    def test_what_cannot_be_used_is_one_line(self, tmp_path: Path, changes: list[Change], message: str) -> None:
        path = write(tmp_path / "mine.py", *changes)
        with pytest.raises(ConfigError, match=message) as caught:
            own.load(f"{path}:Mine")
        assert "\n" not in str(caught.value)

    def test_a_class_of_another_module_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("from vit.positions.rope import RotaryPosition\n")
        with pytest.raises(ConfigError, match="defines no class 'RotaryPosition'; its encodings are none"):
            own.load(f"{tmp_path}/mine.py:RotaryPosition")
