"""What happens to predictions in a search: do hubs swallow them, is it the space of training?

A large bank is searched in part: the same sample of rows, with the rows of the windows, for all
that is compared, so that only differences and ratios are read. Own contexts are always masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvm.audit.check import About, check
from lvm.audit.coherence import MIN_WINDOWS, partners
from lvm.audit.finding import NotEvaluable, Seen
from lvm.audit.location import unit
from lvm.audit.material import Material, where_found
from lvm.audit.queries import Queries, affine_mix, queries
from lvm.core.randomness import numpy_generator
from lvm.core.statistics import mean_difference
from lvm.data.copies import copy_groups
from lvm.data.rows import take
from lvm.data.windows import Windows
from lvm.evaluation.index import Index, build_index
from lvm.evaluation.metrics import target_ranks

POOL = 32_768  # rows of a bank that are searched for hubs and in two spaces
QUERIES = 512
SPLIT_QUERIES = 1024
NEIGHBOURS = 10
HUB_ROWS = 0.01  # the share of rows that hubs are looked for in; never fewer rows than neighbours
HUB_EXCESS = 0.6  # of what the reference leaves: 1 is every query finding the same rows
SPLIT_GAIN, SPLIT_RATIO = 0.02, 0.2  # of R@5: absolute, and relative to that of the space used
CONFIDENCE = 0.99


@dataclass(frozen=True, eq=False)
class Search:
    """Some queries whose targets lie in the pool, and the rows of the pool that are searched."""

    given: Queries
    looked: Int[np.ndarray, " q"]  # which of the queries
    rows: Int[np.ndarray, " P"]  # of the bank, rising
    vectors: Float[np.ndarray, "P D"]
    group: Int[np.ndarray, " P"]  # for every row that is searched, its first copy among them
    windows: Windows  # their ids are places in `rows`; -1 for a context that is not there

    def pool(self, space: str) -> Float[Tensor, "P W"]:
        """Return the pool in a space."""
        return torch.from_numpy(np.nan_to_num(self.given.documents(self.vectors, space)))

    def asked(self, space: str) -> Float[Tensor, "q W"]:
        """Return the queries in a space."""
        return torch.from_numpy(np.nan_to_num(self.given.queries(space)[self.looked]))


def search(material: Material, count: int, pool: int = POOL) -> Search:
    """Return up to `count` queries that have their target in the bank, and a pool for them."""
    given, bank = queries(material), material.pool
    places, size = given.located.places, len(bank.pool_rows)
    looked = np.flatnonzero((places[:, -1] >= 0) & (places[:, -1] < size))
    if len(looked) < MIN_WINDOWS:
        raise NotEvaluable(
            f"{len(looked)} of {len(places)} sampled targets are in the bank (need {MIN_WINDOWS})",
            "give the bank that the eval windows were cut from (--payload)",
        )
    generator = numpy_generator(material.seed, "audit", "search")
    if len(looked) > count:
        looked = np.sort(generator.choice(looked, count, replace=False))
    rows = np.arange(size)
    if size > pool:
        own = np.unique(places[looked])
        sampled = generator.choice(size, pool, replace=False)
        rows = np.union1d(sampled, own[(own >= 0) & (own < size)])
    at = np.searchsorted(rows, places[looked]).clip(max=len(rows) - 1)
    at = np.where(rows[at] == places[looked], at, -1)
    windows = Windows(at[:, :-1], at[:, -1], given.windows.clusters[looked])
    vectors = np.nan_to_num(unit(take(bank.vectors, rows)))
    return Search(given, looked, rows, vectors, copy_groups(vectors), windows)


# --- hubs -----------------------------------------------------------------------------------------


@check(
    "HUBNESS",
    "do a few rows attract all queries?",
    About(
        of_model=True,
        thorough=True,
        meaning="A few rows of the bank are retrieved for nearly every query.",
        next="run steps 2 (temperature) and 4 (negatives) first; read these rows: hubs are "
        "often boilerplate that does not belong in the bank",
    ),
)
def hubness(material: Material) -> Iterator[Seen]:
    """Compare the hubs of predictions with those of targets and of mixes of the same contexts.

    Cautious queries lie near the mean and find hubs in any high-dimensional pool, so nothing but
    queries of the same text over the same pool can say how many are too many.
    """
    found = search(material, QUERIES)
    windows, space = found.given.windows, found.given.space
    index = build_index(found.pool(space), "exact")
    own = found.windows.contexts
    my_skew, my_share, top = _hubs(index, found.asked(space), own)
    means = np.nan_to_num(unit(windows.contexts.mean(axis=1)))
    references = (windows.contexts[:, -1], means, affine_mix(material, windows))
    usual = [_hubs(index, _reference(found, rows), own) for rows in references]
    with_target = np.column_stack([own, found.windows.targets])
    usual.append(_hubs(index, _reference(found, windows.targets), with_target))
    skew, share = max(skew for skew, _, _ in usual), max(share for _, share, _ in usual)
    allowed = share + HUB_EXCESS * (1 - share)
    if my_share <= allowed:  # skewness says less: one row set for all has less than a graded one
        return
    worst = found.rows[top]
    yield Seen(
        seen=f"{len(top)} of {len(found.rows)} rows take {my_share:.0%} of the top "
        f"{NEIGHBOURS} places over all queries (skewness {my_skew:.1f})",
        allowed=f"at most {allowed:.0%}; targets and mixes of their contexts reach {share:.0%} "
        f"(skewness {skew:.1f}) in the same pool",
        where=where_found(
            found.given.source,
            count=len(top),
            of=len(found.rows),
            rows=worst,
            articles=material.pool.articles[worst[:10]],
        ),
        values={
            "share": my_share,
            "skew": my_skew,
            "usual_share": share,
            "usual_skew": skew,
            "pool": float(len(found.rows)),
        },
    )


def _reference(found: Search, rows: Float[np.ndarray, "m D"]) -> Tensor:
    searched = found.given.documents(rows[found.looked], found.given.space)
    return torch.from_numpy(np.nan_to_num(searched))


def _hubs(
    index: Index, asked: Float[Tensor, "q W"], masked: Int[np.ndarray, "q E"]
) -> tuple[float, float, Int[np.ndarray, " r"]]:
    """Return how unevenly rows are found, and which are found most, these first.

    The third moment of the 10-occurrence, and the share of the top rows.
    """
    ids, _ = index.search(asked, NEIGHBOURS, masked)
    counts = np.bincount(ids[ids >= 0], minlength=index.size).astype(np.float64)
    top = np.argsort(-counts, kind="stable")[: max(NEIGHBOURS, round(HUB_ROWS * index.size))]
    apart = counts - counts.mean()
    deviation = max(float(counts.std()), 1e-12)
    share = float(counts[top].sum() / max(counts.sum(), 1.0))
    return float((apart**3).mean()) / deviation**3, share, top


# --- two spaces -----------------------------------------------------------------------------------


@check(
    "SPLIT_SPACE",
    "is the model searched in the space that it was trained in?",
    About(
        of_model=True,
        thorough=True,
        because="the model is better in the space that is not searched",
    ),
)
def split_space(material: Material) -> Iterator[Seen]:
    """Compare R@5 in the raw and in the projected space against the space used at inference."""
    given = queries(material)
    if given.predictor is None:
        raise NotEvaluable(
            "the projected space needs the model, but only its predictions were given",
            "give --checkpoint C",
        )
    if given.predictor.head is None:
        return
    found = search(material, SPLIT_QUERIES)
    used = given.space
    other = "raw" if used == "projected" else "projected"
    (here, lift, mine), (there, other_lift, others) = (
        _in_space(found, space) for space in (used, other)
    )
    gain = mean_difference(there, here, found.windows.articles).estimate(CONFIDENCE)
    needed = max(SPLIT_GAIN, SPLIT_RATIO * float(here.mean()))
    if gain.lower <= 0 or gain.value < needed:
        return
    yield Seen(
        seen=f"R@5 {here.mean():.3f} in the {used} space, which is searched, and "
        f"{there.mean():.3f} in the {other} one (gain {gain.lower:.3f} to "
        f"{gain.upper:.3f}); cosine with the own target minus another one "
        f"{lift:.3f} and {other_lift:.3f}",
        allowed=f"a gain of less than {needed:.3f}, or one whose interval reaches 0",
        where=where_found("checkpoint", count=len(here), of=len(here)),
        meaning=f"The model separates targets in the {other} space but is searched in the "
        f"{used} one, so what it learned is lost.",
        next=f'step 1 first: set search_space = "{other}", or train the contrastive loss in the '
        f'{used} space (objective.space = "{used}")',
        values={
            "gain": gain.value,
            "lower": gain.lower,
            "upper": gain.upper,
            "pool": float(len(found.rows)),
            **mine,
            **others,
        },
    )


def _in_space(found: Search, space: str) -> tuple[Float[np.ndarray, " q"], float, dict[str, float]]:
    """Return R@5 of each query, the cosine with its target less another one's, and these as values.

    Own contexts are masked.
    """
    asked, pool = found.asked(space), found.pool(space)
    windows = found.windows
    _, masked = target_ranks(
        asked, pool, windows.targets, windows.contexts, duplicate_group=found.group
    )
    targets = pool[torch.from_numpy(windows.targets)]
    other = targets[torch.from_numpy(partners(windows.articles))]
    hits = masked.hit(5).astype(np.float64)
    paired, shuffled = (float((asked * of).sum(dim=1).mean()) for of in (targets, other))
    values = {"r_at_5": float(hits.mean()), "paired": paired, "shuffled": shuffled}
    return hits, paired - shuffled, {f"{name}_{space}": v for name, v in values.items()}
