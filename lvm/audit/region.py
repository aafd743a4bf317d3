"""Does the eval text hang together as the train text does, and has it enough articles to decide?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.check import About, check
from lvm.audit.coherence import Coherence, Level, coherence, level
from lvm.audit.finding import NotEvaluable, Seen
from lvm.audit.gates import stated_pool
from lvm.audit.material import Material, where_found
from lvm.audit.selftest import TRIVIAL, Bench, bench
from lvm.core.statistics import NEAREST_DISTANCE, article_mean, design_effect, more_articles
from lvm.evaluation.measured import improvement

CLEAR = 5.0  # standard errors from which a difference is beyond doubt
EASY_RATIO = 1.3
REGION = (0.8, 1.2)  # of the train side's coherence, per block of articles
ARTICLES_PER_BLOCK = 10


@check(
    "EASY_REGION",
    "is the eval text as coherent as the train text?",
    About(
        meaning="Numbers measured here describe this region of the text more than the model.",
        next="draw the eval articles at random from the whole collection",
    ),
)
def easy_region(material: Material) -> Iterator[Seen]:
    """Compare the coherence of the eval side, whole and by blocks of articles, with train's.

    Neighbouring contexts tell it; targets are left out, since they may be unpaired or shifted, and
    the direction of the contexts does not matter.
    """
    eval_, train = coherence(material, "eval"), coherence(material, "train")
    mine, theirs = eval_.of(_neighbours(eval_)), train.of(_neighbours(train))
    for name, near in (("train", theirs), ("eval", mine)):
        if near.z < CLEAR:
            raise NotEvaluable(
                f"neighbouring chunks of the {name} text are not similar", "see EVAL_UNPAIRED"
            )
    whole, blocks = mine.over(theirs), coherence_blocks(eval_)
    odd = []
    for articles, near in blocks:
        ratio = near.over(theirs)
        if ratio.below(4) > REGION[1] or ratio.above(4) < REGION[0]:
            odd.append((articles, ratio))
    if whole.below() <= EASY_RATIO and not odd:
        return
    worst = max(odd, key=lambda item: abs(item[1].value - 1), default=None)
    seen = f"neighbours share {whole.value:.2f} times what they share in train"
    if worst is not None:
        seen += (
            f"; articles {worst[0][0]} to {worst[0][-1]}: {worst[1].value:.2f} times "
            f"({len(odd)} of {len(blocks)} blocks are out)"
        )
    yield Seen(
        seen=seen,
        allowed=f"up to {EASY_RATIO} in all, {REGION[0]} to {REGION[1]} per block of "
        f"{ARTICLES_PER_BLOCK} articles",
        where=where_found(
            "eval",
            material.side("eval").source,
            articles=[a for articles, _ in odd for a in articles],
            blocks=[(articles[0], articles[-1]) for articles, _ in odd],
        ),
        values={"ratio": whole.value, "blocks_out": float(len(odd))},
    )


def _neighbours(side: Coherence) -> Float[np.ndarray, " m"]:
    """Return what neighbouring contexts of each window share beyond any two chunks.

    With one context a window has no neighbours but that and its target.
    """
    if side.contexts.shape[1] < 2:
        return np.asarray(side.to_target[:, -1] - side.random_pairs)
    first, second = side.contexts[:, :-1], side.contexts[:, 1:]
    random = np.einsum("md,md->m", side.contexts[:, 0], side.contexts[side.partner, 0])
    return np.asarray(np.einsum("msd,msd->ms", first, second).mean(axis=1) - random)


def coherence_blocks(side: Coherence) -> list[tuple[np.ndarray, Level]]:
    """Return what neighbours share, per block of about ten articles in the order of their ids."""
    if not side.by_article:
        return []
    ids = np.unique(side.clusters)
    parts = np.array_split(ids, max(1, round(len(ids) / ARTICLES_PER_BLOCK)))
    values = _neighbours(side)
    blocks = []
    for part in parts:
        mine = np.isin(side.clusters, part)
        if len(part) >= 3 and mine.any():
            blocks.append((part, level(values[mine], side.clusters[mine])))
    return blocks


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
