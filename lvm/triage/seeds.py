"""What several seeds say of the gain behind a verdict."""

from __future__ import annotations

from lvm.core.text import counted, interval, number, title_of
from lvm.triage.events.evidence import Comparison
from lvm.triage.summary import SeedsShown

ENOUGH = 3  # seeds; two say so little of a third that their interval is ten times their distance


def basis(repeated: SeedsShown) -> str:
    """Return what the verdict rests on: the first seed, or a model whose seed nobody knows."""
    first, models = repeated.seeds[0], list(repeated.models.values())
    known = [result.seed for result in models[-1].per_seed] if models else []
    return f"seed {first}" if first in known else "the model that you gave"


def over_seeds(repeated: SeedsShown) -> str:
    """Say in one sentence whether the verdict's gain holds over all seeds; "" without a gain."""
    gains = _behind(repeated)
    if not gains:
        return ""
    first = gains[0]
    if len(first.seeds) < ENOUGH:
        words = " and ".join(
            f"{title_of(c.metric)} "
            + ", ".join(number(value, sign=True) for value in per_seed(repeated, c))
            + f" against {number(c.bound, sign=True)}"
            for c in gains
        )
        return (
            f"Per seed, {first.model} gains {words} over {first.over}; an interval over seeds "
            f"needs at least {ENOUGH}."
        )
    words = " and ".join(
        f"{title_of(c.metric)} {interval(c.estimate)} against {number(c.bound, sign=True)}"
        for c in gains
    )
    clear = any(c.estimate.lower >= c.bound for c in gains)
    below = all(c.estimate.upper < c.bound for c in gains)
    answer = "no gain is clear of its bound"
    if clear or below:
        answer = "a gain is clear of its bound" if clear else "every gain lies below its bound"
    return (
        f"Over {counted(len(first.seeds), 'seed')} {answer}: {first.model} gains {words} "
        f"over {first.over}."
    )


def rests_on_one_seed(repeated: SeedsShown) -> bool:
    """Return whether other seeds do not bear out the gain that a verdict claims.

    From three seeds on, no interval is clear of its bound; with two, one of them gains too little.
    """
    gains = _behind(repeated)
    if gains and len(gains[0].seeds) < ENOUGH:
        return all(min(per_seed(repeated, c), default=0.0) < c.bound for c in gains)
    return bool(gains) and all(c.estimate.lower < c.bound for c in gains)


def _behind(repeated: SeedsShown) -> list[Comparison]:
    """Return the gains over AR-only of the model that the verdict rests on: the last repeated."""
    baseline = next(iter(repeated.models), None)
    against = [c for c in repeated.comparisons if c.over == baseline]
    return [c for c in against if c.model == against[-1].model]


def per_seed(repeated: SeedsShown, comparison: Comparison) -> list[float]:
    """Return the gain of every seed that both models have."""
    ours, theirs = (
        {
            result.seed: value
            for result in repeated.models[name].per_seed
            if (value := result.of(comparison.metric)) is not None
        }
        for name in (comparison.model, comparison.over)
    )
    return [ours[s] - theirs[s] for s in comparison.seeds if s in ours and s in theirs]
