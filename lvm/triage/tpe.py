"""The door to optuna: arms of a sweep that are proposed from what earlier arms have reached.

A tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for hyper-parameter
optimization") proposes the arms in rounds, and the arms of a round race each other at the rungs, as
in BOHB (Falkner et al. 2018). An arm that was pruned counts at the epoch where it stopped, below
every arm that went further. What is proposed depends on the seed, the name of the step and the
values in the journal alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lvm.core.config.steps import LIST, Changes, Sweep, Value, Values
from lvm.core.errors import MissingExtraError
from lvm.core.randomness import derive_seed
from lvm.triage.step import Tried

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

PATIENCE = 50  # proposals for each arm until as many differ
SEEDS = 2**32  # numpy's, which optuna draws with, are below it


def require_optuna() -> None:
    """Raise MissingExtraError where optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("optuna", "tpe", 'sweep.sampler = "tpe"') from error


def more_arms(sweep: Sweep, seed: int, step: str, tried: Sequence[Tried]) -> list[Changes]:
    """Return the changes of the next round; none once the sweep has all of its arms.

    Fewer arms than a round come where no more can be found that differ from every other.
    """
    wanted = min(sweep.size_of_round, sweep.arms - len(tried))
    if wanted <= 0:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna calls parts of its sampler experimental
        study = _study(derive_seed(seed, "sweep", step, "tpe", len(tried)))
        space = {key: _distribution(values) for key, values in sweep.keys.items()}
        for arm in tried:
            study.add_trial(_trial(arm, sweep.keys, space))
        known = {repr(dict(arm.changes)) for arm in tried}
        found: list[Changes] = []
        for _ in range(PATIENCE * wanted):
            asked = study.ask(space).params
            changes = {key: _value(values, asked[key]) for key, values in sweep.keys.items()}
            if repr(changes) not in known:
                known.add(repr(changes))
                found.append(changes)
            if len(found) == wanted:
                break
    return found


def _study(seed: int) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=seed % SEEDS,
        n_startup_trials=1,  # the first round was drawn already
        multivariate=True,
        constant_liar=True,  # arms of one round keep away from each other
    )
    return optuna.create_study(direction="maximize", sampler=sampler)


def _distribution(values: Values) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if values.kind == LIST:
        return CategoricalDistribution(values.values)
    if values.kind == "int":
        return IntDistribution(int(values.low), int(values.high))
    return FloatDistribution(values.low, values.high, log=values.kind == "log_uniform")


def _trial(
    arm: Tried, keys: Mapping[str, Values], space: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    last = arm.values[max(arm.values)] if arm.values else None
    done = arm.finished and last is not None
    return create_trial(
        state=TrialState.COMPLETE if done else TrialState.PRUNED,
        value=last if done else None,
        params={key: arm.changes[key] for key in keys},
        distributions=dict(space),
        intermediate_values=dict(arm.values),
    )


def _value(values: Values, proposed: Value) -> Value:
    """Return a proposed value as a report shows it."""
    if values.kind in ("uniform", "log_uniform") and isinstance(proposed, int | float):
        return values.in_digits(proposed)
    return proposed
