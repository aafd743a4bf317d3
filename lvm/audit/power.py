"""Are the intervals over articles narrow enough for the gates to decide?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.check import About, check
from lvm.audit.finding import Seen
from lvm.audit.gates import stated_pool
from lvm.audit.material import Material, where_found
from lvm.audit.selftest import TRIVIAL, Bench, bench
from lvm.core.statistics import NEAREST_DISTANCE, article_mean, design_effect, more_articles
from lvm.evaluation.measured import improvement


@check("UNDERPOWERED", "are there enough articles for a verdict?", About(thorough=True))
def underpowered(material: Material) -> Iterator[Seen]:
    """Report gates whose interval is wider than what they have to tell apart."""
    tried = bench(material)
    yield from _underpowered(tried, "stage", [_stage_power(tried)])
    yield from _underpowered(tried, "success", _success_power(tried))


@dataclass(frozen=True, kw_only=True)
class Power:
    """How finely one metric is known on a whole split, from a sample of it."""

    metric: str
    half_width: float  # of the interval
    distance: float  # to what has to be told apart
    what: str  # the two things that have to be told apart
    effect: float  # design effect
    articles: int

    @property
    def more(self) -> int:
        """How many more articles would bring the interval down to the distance."""
        return more_articles(self.articles, self.half_width, self.distance)


def _stage_power(tried: Bench) -> Power:
    """Cosine: the person's predictions, else the best of the ladder, against the bound."""
    bound, dev = tried.config.stage_eval_cosine, tried.dev
    means = {}
    for name in (*TRIVIAL, "predictions"):
        if name in tried.cosines.predictions:
            rows = tried.cosines.predictions[name]
            means[name] = float(tried.cosine(rows, tried.cosines.windows).cosine.mean())
    best = "predictions" if "predictions" in means else max(means, key=lambda name: means[name])
    sample = tried.cosines if best == "predictions" else dev
    values = tried.cosine(sample.predictions[best], sample.windows).cosine
    return _power(
        tried,
        "eval_cosine",
        values,
        sample.windows.articles,
        sample.sizes,
        abs(means[best] - bound),
        f"{best} ({means[best]:.3f}) and the bound ({bound:g})",
    )


def _success_power(tried: Bench) -> list[Power]:
    """Gains: of copying over averaging, two predictors as like as two arms; against no gain."""
    a, b = tried.ranked["copy_last"][0], tried.ranked["mean_context"][0]
    return [
        _power(
            tried,
            metric,
            np.subtract(*improvement(a, b, metric)),
            a.articles,
            tried.test.sizes,
            bound,
            f"no gain and a gain of {bound:g}",
        )
        for metric, bound in tried.config.success_bounds.items()
    ]


def _power(
    tried: Bench,
    metric: str,
    values: Float[np.ndarray, " m"],
    articles: Int[np.ndarray, " m"],
    whole: Int[np.ndarray, " G"],
    distance: float,
    what: str,
) -> Power:
    """Carry the half-width on a sample over to the whole split, by the correlation in articles."""
    estimate = article_mean(values, articles).estimate(tried.config.confidence)
    seen = np.unique(articles, return_counts=True)[1]
    mates = _mates(seen)
    alike = np.clip((design_effect(values, articles) - 1) / mates, 0, 1) if mates > 0 else 0.0
    effect = 1 + float(alike) * _mates(whole)
    in_sample = (1 + float(alike) * mates) / seen.sum()
    scale = math.sqrt(effect / whole.sum() / in_sample)
    return Power(
        metric=metric,
        half_width=scale * (estimate.upper - estimate.lower) / 2,
        distance=distance,
        what=what,
        effect=effect,
        articles=len(whole),
    )


def _mates(sizes: Int[np.ndarray, " G"]) -> float:
    """Return how many other windows of its article a window has, on average."""
    return float((sizes.astype(np.float64) ** 2).sum() / sizes.sum()) - 1


def _underpowered(tried: Bench, gate: str, powers: Sequence[Power]) -> Iterator[Seen]:
    worst = max(powers, key=lambda p: p.half_width / max(p.distance, NEAREST_DISTANCE))
    if worst.half_width <= worst.distance:
        return
    near = worst.distance < NEAREST_DISTANCE
    yield Seen(
        seen=f"the interval of {worst.metric} is +-{worst.half_width:.3f} ({worst.articles} "
        f"articles, design effect {worst.effect:.1f}), too wide: {worst.what} are only "
        f"{worst.distance:.3f} apart",
        allowed=f"a half-width of at most {worst.distance:.3f}",
        where=where_found("gate") | {"gate": gate, "metric": worst.metric} | stated_pool(tried),
        meaning=f"The {gate} gate cannot tell these apart with so few articles. Its verdict "
        "will be INCONCLUSIVE, which is not a failure of the model.",
        next="move the bound: no number of articles can decide a value that lies on it"
        if near
        else f"evaluate on about {worst.more} more articles",
        values={
            "half_width": worst.half_width,
            "distance": worst.distance,
            "design_effect": worst.effect,
            "articles": float(worst.articles),
            "more_articles": float(worst.more),
        },
    )
