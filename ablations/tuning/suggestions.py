"""Suggestions by Optuna: values to try, from the design and the results of earlier rounds alone.

Nothing is kept in Optuna's storage: its study is made anew from the trials each time.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any

from ablations.config import FIELDS, Range, TuningDesign
from ablations.config.tuning import Group, Space, Values
from ablations.errors import UsageError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study

    from ablations.tuning.choice import Trial

DIGITS = 3
"""Significant digits of a suggested number: what reports show is what was trained."""
ATTEMPTS = 10_000
"""Suggestions of a finite space in a row that were tried before, after which it counts as exhausted."""


def require_optuna() -> None:
    """Raise UsageError if Optuna is not installed."""
    if find_spec("optuna") is None:
        raise UsageError("tuning needs the package optuna: pip install 'vitab[tune]'")


def quasi_random(design: TuningDesign) -> list[Values]:
    """Return as many points of the space as the design has trials, by a scrambled Sobol sequence.

    It is seeded by the space, so that a study with more trials goes on where one with fewer has ended.
    """
    return [*_points(tuple(design.space.items()), design.trials)]


@cache
def _points(space: tuple[tuple[str, Space], ...], number: int) -> tuple[Values, ...]:
    design = TuningDesign(dict(space))
    return tuple(islice(_untried(design, _sobol(design), []), number))


def by_results(
    design: TuningDesign, round: int, group: Group, earlier: Sequence[Trial], reached: Mapping[str, Sequence[float]]
) -> list[Values]:
    """Return the values to try for a group in a round (from 0) after the first, by a Parzen estimator.

    `earlier` are the trials of the group in the rounds before, `reached` the validation accuracy after each epoch of
    their runs, by key.
    """
    number = design.rounds[round]
    tried = [trial.values for trial in earlier]
    found = [*islice(_untried(design, _parzen(design, round, group, earlier, reached), tried), number)]
    rest = _untried(design, _sobol(design), [*tried, *found])
    return [*found, *islice(rest, number - len(found))]


def _untried(design: TuningDesign, suggested: Iterator[Values], tried: Sequence[Values]) -> Iterator[Values]:
    """Yield suggestions; of a finite space those that were not tried, until ATTEMPTS in a row were."""
    seen, repeated = [*tried], 0
    for values in suggested:
        if design.combinations is None or values not in seen:
            seen.append(values)
            repeated = 0
            yield values
        elif (repeated := repeated + 1) == ATTEMPTS:
            return


def _sobol(design: TuningDesign) -> Iterator[Values]:
    from optuna.samplers import QMCSampler
    from optuna.trial import create_trial

    with _quiet():
        study = _study(QMCSampler(scramble=True, seed=_seed(design)))
        some = {field: _ends(space)[0] for field, space in design.space.items()}
        study.add_trial(create_trial(params=some, distributions=_distributions(design), value=0.0))
    while True:
        yield _ask(study, design)


def _parzen(
    design: TuningDesign, round: int, group: Group, earlier: Sequence[Trial], reached: Mapping[str, Sequence[float]]
) -> Iterator[Values]:
    """Yield suggestions by a tree-structured Parzen estimator from the trials of earlier rounds."""
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState, create_trial

    with _quiet():
        seed = _seed(design, round, [str(level) for level in group])
        study = _study(TPESampler(n_startup_trials=0, multivariate=True, constant_liar=True, seed=seed))
        for trial in earlier:
            common: dict[str, Any] = {"params": dict(trial.values), "distributions": _distributions(design)}
            if math.isfinite(trial.score):
                study.add_trial(create_trial(**common, value=trial.score))
                continue
            curves = [reached[run] for run in trial.runs]
            epochs = min(map(len, curves))
            mean = math.fsum(curve[epochs - 1] for curve in curves) / len(curves)
            study.add_trial(create_trial(**common, state=TrialState.PRUNED, intermediate_values={epochs: mean}))
    while True:
        yield _ask(study, design)


def _ask(study: Study, design: TuningDesign) -> Values:
    with _quiet():
        params = study.ask(_distributions(design)).params
    return {field: _rounded(field, space, params[field]) for field, space in design.space.items()}


def _rounded(field: str, space: Space, value: Any) -> Any:
    if not isinstance(space, Range) or FIELDS[field] is not float:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high)


def _distributions(design: TuningDesign) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for field, space in sorted(design.space.items()):
        if not isinstance(space, Range):
            found[field] = CategoricalDistribution(space)
        elif FIELDS[field] is int:
            found[field] = IntDistribution(int(space.low), int(space.high), log=space.log)
        else:
            found[field] = FloatDistribution(space.low, space.high, log=space.log)
    return found


def _ends(space: Space) -> tuple[Any, Any]:
    return (space.low, space.high) if isinstance(space, Range) else (space[0], space[-1])


def _study(sampler: BaseSampler) -> Study:
    import optuna

    return optuna.create_study(direction="maximize", sampler=sampler)


def _seed(design: TuningDesign, *what: Any) -> int:
    """Return a seed of 32 bits that follows from the space, and from `what`."""
    identity = json.dumps([design.to_plain()["space"], *what], sort_keys=True)
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big")


@contextmanager
def _quiet() -> Iterator[None]:
    """Return a context in which Optuna prints no messages and no warnings about experimental classes."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
