"""Is a foreign checkpoint computed as it was trained? Its stored validation cosine answers.

Names and shapes of weights fit more than one forward pass. A file of another program states its
validation cosine at best, and seldom the windows of it; where the dev or the eval windows here give
that figure back, the model is its own. What shapes and args leave open (lvm/models/
foreign_forms.py) is tried against the figure, and has to meet it to the last digit that is stored:
with dozens of ways to compute a network, one of them comes near any figure.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from lvm.audit.coherence import level
from lvm.audit.loaded import CheckpointPart, OwnFigure, as_trained
from lvm.audit.material import Material, Side
from lvm.core.config.recipe import Recipe
from lvm.core.randomness import numpy_generator
from lvm.data.windows import Dataset, Windows
from lvm.models.foreign_forms import Alternative
from lvm.models.predictor import Predictor
from lvm.training.manifest import Stated
from lvm.training.report_checkpoint import ReportCheckpoint, read_report_checkpoint
from lvm.training.report_fit import fit_as, ways_to_compute

TOLERANCE = 0.01  # of a cosine that is computed again on the same windows
OTHER_TEXT = 0.1  # far beyond what other windows of text of one kind cost
EXACT = 5e-5  # rounding of float32 sums, and of four stored decimals
COARSEST = 5e-4  # a figure of fewer decimals cannot choose between ways of computing
SAME = 1e-4  # of cosines window by window: two ways that compute the same
MAX_DEPARTURES = 2  # open settings that are not the likeliest
SCREEN, SAMPLE = 512, 8192  # windows of a first look, and of the figure
BATCH = 1024
WORK = 2e12  # multiplications of all first looks: some 30 seconds on two cores


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Windows that the stored figure may be of."""

    name: str
    side: Side
    rows: Int[np.ndarray, " m"]  # a sample where there are many
    whole: bool
    known: bool = False  # the checkpoint states that its figure is of these

    @property
    def articles(self) -> Int[np.ndarray, " m"]:
        """The article of each target; where none is stated, all are of one."""
        keys = self.side.keys
        return np.zeros(len(self.rows), np.int64) if keys is None else keys[self.rows, 0]


def resolved(part: CheckpointPart, material: Material) -> CheckpointPart:
    """Return the part with the model that gives its stored figure back, and what was found.

    Folders that lvm wrote, and files that fit no model, come back as they are.
    """
    if part.predictor is None or part.recipe is None or not part.path.is_file():
        return part
    checkpoint = read_report_checkpoint(part.path)
    ways = ways_to_compute(checkpoint, part.predictor.model.width)
    assumed = ways[0].words if len(ways) > 1 else ""
    stored = checkpoint.val_cosine
    if stored is None:
        figure = OwnFigure(reason="it stores no validation cosine to compare with", assumed=assumed)
        return replace(part, figure=figure)
    own = _Own(
        part=part,
        checkpoint=checkpoint,
        width=part.predictor.model.width,
        context_length=part.recipe.context_length,
        stored=stored,
        splits=list(_splits(material, part.manifest, part.predictor.model.width)),
        seed=material.seed,
    )
    if not own.splits:
        reason = f"the windows of its validation cosine are not available ({stored:.4f})"
        return replace(part, figure=OwnFigure(reason=reason, stored=stored, assumed=assumed))
    return _search(own, ways) or _compared(own, part.predictor, part.recipe, len(ways), assumed)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Own:
    """A foreign file with a figure of its own, and the windows that it may be of."""

    part: CheckpointPart
    checkpoint: ReportCheckpoint
    width: int
    context_length: int
    stored: float
    splits: Sequence[Split]
    seed: int


# --- windows --------------------------------------------------------------------------------------


def _splits(material: Material, manifest: Stated, width: int) -> Iterator[Split]:
    """Yield the windows at hand that may be those of the figure."""
    whole = material.dataset
    if whole is not None:
        dataset = as_trained(whole, manifest)
        known = manifest.val_ids_sha256 == ids_of(dataset.dev)
        yield _of_dataset("dev", dataset, dataset.dev, material, known=known)
        if not known:
            yield _of_dataset("test", dataset, dataset.test, material)
    elif material.eval is not None and material.eval.width == width:
        yield _sampled("eval", material.eval, material)


def ids_of(windows: Windows) -> str:
    """Return the hash by which a checkpoint states the windows of its figure."""
    return hashlib.sha256(windows.targets.tobytes()).hexdigest()


def _of_dataset(
    name: str, dataset: Dataset, windows: Windows, material: Material, *, known: bool = False
) -> Split:
    side = Side(name, dataset.bank.source, bank=dataset.bank, windows=windows)
    return _sampled(name, side, material, known=known)


def _sampled(name: str, side: Side, material: Material, *, known: bool = False) -> Split:
    rows = material.sample(len(side), SAMPLE, "audit", "dev")
    return Split(name=name, side=side, rows=rows, whole=len(side) <= SAMPLE, known=known)


@torch.no_grad()
def cosines(
    predictor: Predictor, split: Split, rows: Int[np.ndarray, " m"], space: str
) -> Float[np.ndarray, " m"]:
    """Return the cosine between prediction and target of some windows, in the searched space."""
    found = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        contexts = torch.from_numpy(split.side.contexts(batch))
        targets = torch.from_numpy(split.side.targets(batch))
        queries, documents = predictor.queries(contexts, space), predictor.documents(targets, space)
        found.append(torch.cosine_similarity(queries.float(), documents.float(), dim=1).double())
    return torch.cat(found).numpy() if found else np.zeros(0)


# --- the search -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Match:
    way: Alternative
    part: CheckpointPart
    split: Split
    cosines: Float[np.ndarray, " m"]
    gap: float


def _search(own: _Own, ways: Sequence[Alternative]) -> CheckpointPart | None:
    """Return the part with the way that meets the stored figure exactly, None without one."""
    allowed = exact(own.stored)
    if allowed is None:
        return None
    num_weights = sum(weight.numel() for weight in own.checkpoint.model.values())
    budget = int(np.clip(WORK / (num_weights * own.context_length * SCREEN), 8, 128))
    tried = 0
    for departures in range(MAX_DEPARTURES + 1):
        tier = [way for way in ways if way.departures == departures][: max(0, budget - tried)]
        tried += len(tier)
        matches = [match for way in tier if (match := _match(own, way, allowed))]
        if matches:
            return _chosen(matches, own.stored, tried, ways[0])
    return None


def exact(stored: float) -> float | None:
    """Return how far a recomputed figure may be from a stored one, by its decimals.

    None where it has too few to tell ways of computing apart.
    """
    decimals = len(f"{stored:.12f}".rstrip("0").partition(".")[2])
    half = 0.5 * 10.0**-decimals
    return None if half > COARSEST else max(EXACT, 1.02 * half)


def _match(own: _Own, way: Alternative, allowed: float) -> _Match | None:
    """Return a way of computing where one split gives the stored figure back."""
    predictor, recipe = fit_as(own.checkpoint, way.config, own.width, own.context_length)
    for split in own.splits:
        if not split.whole:
            continue  # a sample meets no figure exactly
        generator = numpy_generator(own.seed, "audit", "screen", split.name)
        few = np.sort(generator.permutation(split.rows)[:SCREEN])
        found = cosines(predictor, split, few, recipe.search_space)
        if len(few) < len(split.rows):
            error = float(found.std()) / math.sqrt(len(found))
            if abs(float(found.mean()) - own.stored) > 4 * error + allowed:
                continue
            found = cosines(predictor, split, split.rows, recipe.search_space)
        gap = abs(float(found.mean()) - own.stored)
        if gap <= allowed:
            part = replace(own.part, predictor=predictor, recipe=recipe)
            return _Match(way=way, part=part, split=split, cosines=found, gap=gap)
    return None


def _chosen(
    matches: Sequence[_Match], stored: float, tried: int, likeliest: Alternative
) -> CheckpointPart:
    """Return the nearest match; where two that differ meet the figure, nothing is verified."""
    best = min(matches, key=lambda match: match.gap)
    rivals = [match for match in matches if match is not best and _differ(match, best)]
    figure = OwnFigure(
        verified=not rivals,
        stored=stored,
        here=float(best.cosines.mean()),
        windows=best.split.name,
        count=len(best.split.rows),
        chosen="" if best.way is likeliest else best.way.words,
        tried=tried,
        reason=f"{len(rivals) + 1} ways to compute it reproduce its validation cosine "
        f"{stored:.4f} back ({'; '.join(match.way.words for match in [best, *rivals])})"
        if rivals
        else "",
    )
    return replace(best.part, figure=figure)


def _differ(one: _Match, other: _Match) -> bool:
    if one.split is not other.split:
        return True
    return float(np.abs(one.cosines - other.cosines).max()) > SAME


def _compared(
    own: _Own, predictor: Predictor, recipe: Recipe, count: int, assumed: str
) -> CheckpointPart:
    """Return the part as it is, its figure compared with that of the nearest windows."""
    stored = own.stored
    figures = []
    for split in own.splits:
        values = cosines(predictor, split, split.rows, recipe.search_space)
        figures.append((abs(float(values.mean()) - stored), split, values))
    gap, split, values = min(figures, key=lambda one: one[0])
    sampling = 0.0 if split.whole else 3 * float(values.std()) / math.sqrt(len(values))
    same = TOLERANCE + sampling
    allowed = same if split.known else _of_other_windows(values, split.articles, same)
    here = float(values.mean())
    both = f"stored validation cosine {stored:.4f}, on the {split.name} windows here {here:.4f}"
    figure = OwnFigure(
        verified=gap <= same,
        contradicted=not gap <= allowed,  # so that a figure that is no number counts
        stored=stored,
        here=here,
        allowed=allowed,
        windows=split.name,
        count=len(values),
        assumed=assumed,
        tried=count,
        reason=both if not gap <= same else "",
    )
    return replace(own.part, figure=figure)


def _of_other_windows(
    values: Float[np.ndarray, " m"], articles: Int[np.ndarray, " m"], least: float
) -> float:
    """Return how far a figure of other windows of such text may be: three standard errors of both.

    The error is that of drawing articles, since windows of one article resemble each other.
    """
    mean = level(values, articles)
    if mean.clusters < 2:
        return OTHER_TEXT
    return float(np.clip(least + 3 * math.sqrt(2) * mean.error, least, max(least, OTHER_TEXT)))
