"""Do predictions fill the space of the targets, or shrink to a point or to a few directions?

Shrinking and losing directions are two defects, so each number is made blind to the other one. The
dispersion is a mean over pairs and hardly sees how many directions there are. The effective rank is
taken after centring, which leaves it as it is under any blend with the mean; uncentred, the mean
would be one large singular value, and a shrunken set would look like one of low rank.

No honest predictor spreads like the targets, since nobody knows the next chunk. How much less is a
matter of the text, so both numbers also stand beside mixes of the contexts of the same windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from lvm.audit.check import About, check
from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.location import unit
from lvm.audit.material import Material
from lvm.audit.queries import affine_mix, dispersion, queries

BLOCK, WARN = 0.05, 0.25  # of the targets' dispersion
# Text that says little of its next chunk makes the best predictor cautious, so a bound is at most a
# share of the dispersion of the best affine mix of the contexts. Ridge on few windows of such text
# has half of it. Below the floor no text excuses anything.
OF_MIX_BLOCK, OF_MIX_WARN, FLOOR = 0.2, 0.4, 0.005
# Of the least effective rank among mean context and affine mix. Honest networks on real text have
# .35 of it (AR-only Mamba-2, 128 wide) to 1.1, and ridge .65; narrow banks hide a subspace of 8.
LOW_RANK = 0.2


@check(
    "COLLAPSE",
    "are predictions as spread out as targets?",
    About(blocks=True, of_model=True, because="predictions have collapsed towards their mean"),
)
def collapse(material: Material) -> Iterator[Seen]:
    """Report predictions that have shrunk towards their mean, relative to targets and text."""
    given = queries(material)
    spread, targets = dispersion(given.predictions), dispersion(given.truth)
    if targets <= 0:
        raise NotEvaluable("all targets are the same vector", "fix the eval file")
    mix = dispersion(affine_mix(material, given.windows)) / dispersion(given.windows.targets)
    ratio = spread / targets
    block = max(FLOOR, min(BLOCK, OF_MIX_BLOCK * mix))
    warn = max(block, min(WARN, OF_MIX_WARN * mix))
    if ratio >= warn:
        return
    yield Seen(
        severity=Severity.BLOCK if ratio < block else Severity.WARN,
        seen=f"predictions have a spread of {ratio:.3g} times that of targets; the best affine mix "
        f"of contexts has {mix:.3g} times",
        allowed=f"at least {warn:.3g} (blocking below {block:.3g})",
        where=given.whole,
        meaning="Predictions have shrunk towards their mean, so a search can hardly separate them, "
        "while their cosine with any target stays fair.",
        next="run steps 2 (temperature) and 5 (anchor) first; a loss that rewards the mean, or too "
        "much weight decay, causes this",
        values={"ratio": ratio, "mix": mix, "dispersion": spread, "target_dispersion": targets},
    )


@check("LOW_RANK", "do predictions use as many directions as the text?", About(of_model=True))
def low_rank(material: Material) -> Iterator[Seen]:
    """Report predictions that lie in a subspace: effective rank far below that of context mixes.

    A ladder's rank is taken relative to the targets of the bank, the predictions' relative to those
    that they are searched among, which a document tower may have changed.
    """
    given = queries(material)
    windows = given.windows
    if dispersion(given.predictions) <= 1e-9:
        raise NotEvaluable("all predictions are the same vector", "fix what COLLAPSE names")
    targets = effective_rank(windows.targets)
    mixes = (np.nan_to_num(unit(windows.contexts.mean(axis=1))), affine_mix(material, windows))
    usual = min(effective_rank(rows) for rows in mixes) / targets
    rank, own = effective_rank(given.predictions), effective_rank(given.truth)
    if rank >= LOW_RANK * usual * own:
        return
    yield Seen(
        seen=f"effective rank {rank:.1f}, that of the targets is {own:.1f}, of mixes of their "
        f"contexts {usual * targets:.1f}",
        allowed=f"at least {LOW_RANK * usual * own:.1f}",
        where=given.whole,
        meaning="All predictions lie in a small subspace, so targets that differ in other "
        "directions cannot be separated.",
        next="look for a narrow layer before the output (model.hidden), or an objective computed "
        "only behind a narrow head; step 1 has arms for this",
        values={"rank": rank, "target_rank": own, "mix_rank": usual * targets},
    )


def effective_rank(rows: Float[np.ndarray, "m D"]) -> float:
    """Return exp(entropy of the normalised singular values) of the centred rows, 1 to min(m-1, D).

    RankMe (Garrido et al. 2023, equation 2), but centred: see the module.
    """
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    gram = centred.T @ centred if len(rows) > rows.shape[1] else centred @ centred.T
    values = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0))
    share = values / values.sum()
    share = share[share > 0]
    return math.exp(-float(share @ np.log(share)))
