"""Statistics of order: they change their sign with the order, and are zero where there is none.

A statistic that compares E[cos(x_t, x_t+1)] with E[cos(x_t, x_t-1)] does neither: its sums
telescope. It once looked like evidence that text has no direction.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from planted import PLANTS, Parts, change, clean, corpus

from lvm.audit import coherence as coherence_module
from lvm.audit.coherence import Coherence, Level, coherence
from lvm.audit.order_in_bank import bank_direction

SEEDS = range(4)


def of_eval(parts: Parts) -> Coherence:
    return coherence(parts.material(), "eval")


def exchangeable(seed: int) -> Parts:
    """Return the corpus of `seed` with the chunks of every article in random order."""
    return PLANTS["order_shuffled"].apply(clean(seed), np.random.default_rng(seed), 1.0)


def reversed_contexts(seed: int) -> Parts:
    parts = clean(seed)
    file = change(parts.eval, contexts=np.ascontiguousarray(parts.eval.contexts[:, ::-1]))
    return Parts(train=parts.train, eval=file, bank=parts.bank)


@pytest.mark.parametrize("seed", SEEDS)
def test_direction_changes_its_sign_when_contexts_are_reversed(seed: int) -> None:
    there, back = of_eval(clean(seed)).direction, of_eval(reversed_contexts(seed)).direction
    assert there.z > 5
    assert back.z < -5
    assert back.value == pytest.approx(-there.value, abs=1e-6)


@pytest.mark.parametrize("side", ["train", "eval"])
@pytest.mark.parametrize("seed", SEEDS)
def test_direction_is_zero_on_exchangeable_text(seed: int, side: str) -> None:
    assert abs(coherence(exchangeable(seed).material(), side).direction.z) < 3.5


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lag_profile_falls_on_text_and_is_flat_on_exchangeable_text(seed: int) -> None:
    text, mixed = of_eval(clean(seed)), of_eval(exchangeable(seed))
    for k in (2, 3, 4, 5):
        assert text.of(text.lag(1) - text.lag(k)).z > 5
        assert abs(mixed.of(mixed.lag(1) - mixed.lag(k)).z) < 3.5
    assert mixed.lift.z > 5  # exchangeable, not unrelated: one article still hangs together


def test_the_bank_read_by_its_keys_has_a_direction_only_where_keys_follow_the_text() -> None:
    assert bank_direction(clean(0).material()).z > 5
    assert abs(bank_direction(exchangeable(0).material()).z) < 3.5


def forward_minus_backward(rows: np.ndarray) -> float:
    """Return E[cos(x_t, x_t+1)] - E[cos(x_t, x_t-1)] over all t that have both neighbours."""
    steps = np.einsum("nd,nd->n", rows[1:], rows[:-1])
    return float(np.mean(steps[1:]) - np.mean(steps[:-1]))


@pytest.mark.parametrize("seed", SEEDS)
def test_forward_minus_backward_telescopes_whatever_the_text(seed: int) -> None:
    """Each pair is counted once with each sign, so that the two ends are all that is left."""
    vectors, keys = corpus(seed)
    rng = np.random.default_rng(seed)
    for article in range(5):
        rows = vectors[keys[:, 0] == article].astype(np.float64)
        for text in (rows, rows[::-1], rows[rng.permutation(len(rows))]):
            steps = np.einsum("nd,nd->n", text[1:], text[:-1])
            ends = (steps[-1] - steps[0]) / (len(text) - 2)
            assert forward_minus_backward(text) == pytest.approx(ends, abs=1e-12)


def level_statistics() -> list[str]:
    return [
        name
        for name, member in inspect.getmembers(Coherence, lambda m: isinstance(m, property))
        if inspect.get_annotations(member.fget)["return"] == "Level"
    ]


@pytest.mark.parametrize("name", level_statistics())
def test_no_statistic_of_coherence_is_zero_for_every_text(name: str) -> None:
    """One that telescopes would be zero here as well; each of these is far from it."""
    for seed in SEEDS:
        statistic: Level = getattr(of_eval(clean(seed)), name)
        assert statistic.z > 5


def test_the_statistics_looked_at_are_all_there_are() -> None:
    assert level_statistics() == ["copy_last", "direction", "lift", "near"]
    assert "telescope" in (coherence_module.__doc__ or "")


def test_lift_is_zero_for_targets_of_other_articles_and_near_too() -> None:
    unpaired = of_eval(PLANTS["unpaired_keys_kept"].apply(clean(1), np.random.default_rng(1), 1.0))
    assert abs(unpaired.lift.z) < 3.5
    assert abs(unpaired.near.z) < 3.5
