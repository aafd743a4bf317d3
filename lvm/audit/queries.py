"""What a model predicts for a sample of eval windows: the queries of every check of predictions.

They come from a checkpoint, or from a plain file of any model that cannot be loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from lvm.audit.coherence import MIN_WINDOWS, Coherence, coherence
from lvm.audit.finding import NotEvaluable
from lvm.audit.location import Located, unit
from lvm.audit.material import Material, once, or_none, where_found
from lvm.core.config.recipe import Recipe
from lvm.evaluation.inference import BLOCK, device_of
from lvm.models.predictor import Predictor

SAMPLE = 2048  # windows whose predictions are looked at
SUPPLY = "give --predictions P.npy or --checkpoint C"


@dataclass(frozen=True, eq=False)
class Queries:
    """A sample of eval windows with what a model predicts for them, and the model if it is there.

    `truth` are the targets among which `predictions` are searched: those of `windows`, or what the
    document tower makes of them.
    """

    windows: Coherence
    predictions: Float[np.ndarray, "m D"]  # unit rows in the raw space
    truth: Float[np.ndarray, "m D"]
    predictor: Predictor | None
    recipe: Recipe
    source: str

    @property
    def located(self) -> Located:
        """Where the windows lie in the bank, or NotEvaluable."""
        if self.windows.located is None:
            raise NotEvaluable(
                "the eval windows cannot be looked up in a bank", "give --payload, fix its SCHEMA"
            )
        return self.windows.located

    @property
    def whole(self) -> dict[str, object]:
        """The `where` of a finding on all of them."""
        return where_found(self.source, count=len(self.predictions), of=len(self.predictions))

    @property
    def space(self) -> str:
        """Space of the search: that of the recipe where the model is there to project."""
        has_head = self.predictor is not None and self.predictor.head is not None
        return self.recipe.search_space if has_head else "raw"

    @torch.no_grad()
    def queries(self, space: str) -> Float[np.ndarray, "m W"]:
        """Return the predictions in a space."""
        if self.predictor is None or space == "raw":
            return self.predictions
        return run(self.predictor, self.windows.contexts, space)

    @torch.no_grad()
    def documents(self, vectors: Float[np.ndarray, "n D"], space: str) -> Float[np.ndarray, "n W"]:
        """Return vectors of text in a space, as they are searched."""
        return vectors if self.predictor is None else documents(self.predictor, vectors, space)


@once
def queries(material: Material) -> Queries:
    """Return the sampled predictions, or raise NotEvaluable.

    They are the checkpoint's where there is one, since it can be asked for more.
    """
    predictor, recipe = _model(material)
    if predictor is None and material.predictions is None:
        raise NotEvaluable(material.missing.get("predictions", _nothing(material)), SUPPLY)
    windows = coherence(material, "eval")
    if len(windows.rows) > SAMPLE:
        windows = part(windows, material.sample(len(windows.rows), SAMPLE, "audit", "predictions"))
    if predictor is None:
        rows, source = _given(material, windows), "predictions"
    else:
        rows, source = run(predictor, windows.contexts, "raw"), "checkpoint"
    good = np.flatnonzero(np.isfinite(rows).all(axis=1))
    if len(good) < MIN_WINDOWS:
        raise NotEvaluable(
            f"{len(good)} of {len(rows)} sampled predictions are finite and not zero (need "
            f"{MIN_WINDOWS})",
            "predict them again",
        )
    windows = part(windows, good)
    truth = windows.targets if predictor is None else documents(predictor, windows.targets, "raw")
    return Queries(windows, rows[good], truth, predictor, recipe or material.recipe, source)


def _nothing(material: Material) -> str:
    problem = material.checkpoint.problem if material.checkpoint is not None else ""
    return problem or material.missing.get("checkpoint", "no predictions and no checkpoint")


def _model(material: Material) -> tuple[Predictor | None, Recipe | None]:
    checkpoint = material.checkpoint
    if checkpoint is None or checkpoint.predictor is None:
        return None, None
    width, side = checkpoint.predictor.model.width, material.side("eval")
    if width != side.width:
        raise NotEvaluable(
            f"the model reads vectors of width {width}, but the eval vectors have {side.width}",
            "give a checkpoint and data from the same encoder",
        )
    return checkpoint.predictor, checkpoint.recipe


def _given(material: Material, windows: Coherence) -> Float[np.ndarray, "m D"]:
    side, given = material.side("eval"), material.predictions
    shape = None if given is None else tuple(given.shape)
    if given is None or shape != (len(side), side.width):
        raise NotEvaluable(
            f"the predictions have shape {shape}, but the eval windows need "
            f"{(len(side), side.width)}",
            "predict one row per eval window, in the order of the file",
        )
    return unit(given[torch.from_numpy(windows.rows)].detach().cpu().float().numpy())


def part(windows: Coherence, index: Int[np.ndarray, " k"]) -> Coherence:
    """Return some of the windows."""
    located = windows.located.select(index) if windows.located is not None else None
    return dataclasses.replace(
        windows,
        rows=windows.rows[index],
        contexts=windows.contexts[index],
        targets=windows.targets[index],
        clusters=windows.clusters[index],
        located=located,
    )


@torch.no_grad()
def run(
    predictor: Predictor, contexts: Float[np.ndarray, "m T D"], space: str
) -> Float[np.ndarray, "m W"]:
    """Return what the model predicts, in a space, as unit rows; NaN where it fails."""
    return _by_block(predictor, predictor.queries, contexts, space)


@torch.no_grad()
def documents(
    predictor: Predictor, vectors: Float[np.ndarray, "n D"], space: str
) -> Float[np.ndarray, "n W"]:
    """Return vectors of text as the model's search sees them: in the raw space mostly unchanged."""
    if space == "raw" and not predictor.model.has_document_tower:
        return vectors
    return _by_block(predictor, predictor.documents, vectors, space)


def _by_block(
    predictor: Predictor,
    compute: Callable[[torch.Tensor, str], torch.Tensor],
    rows: Float[np.ndarray, "m *more D"],
    space: str,
) -> Float[np.ndarray, "m W"]:
    predictor.eval()
    device = device_of(predictor)
    blocks = torch.split(torch.from_numpy(rows), BLOCK)
    return unit(
        torch.cat([compute(block.to(device), space) for block in blocks]).float().cpu().numpy()
    )


def affine_mix(material: Material, windows: Coherence) -> Float[np.ndarray, "m D"]:
    """Predict mean + sum_t w_t (c_t - mean), fitted by least squares on train (else these) windows.

    Among all mixes of the contexts it is as cautious as the text asks for: what little the contexts
    say, so far does it leave the mean.
    """
    train = or_none(coherence, material, "train")
    if train is None or train.contexts.shape[1:] != windows.contexts.shape[1:]:
        train = windows
    target, context = train.targets.mean(axis=0), train.contexts.mean(axis=(0, 1))
    slots = (train.contexts - context).transpose(1, 0, 2).reshape(train.contexts.shape[1], -1)
    wanted = (train.targets - target).ravel()
    weights = np.linalg.lstsq(slots @ slots.T, slots @ wanted, rcond=1e-6)[0].astype(np.float32)
    mix = np.tensordot(windows.contexts - context, weights, axes=(1, 0))
    return np.asarray(np.nan_to_num(unit(target + mix)))


def dispersion(rows: Float[np.ndarray, "m D"]) -> float:
    """Return 1 - mean cosine over all pairs of m unit rows: 0 for one output, about 1 for noise.

    Computed from the deviations, since 1 - cosine of nearly equal rows has no digits left.
    """
    apart = rows - rows.mean(axis=0, dtype=np.float64)
    return float(np.einsum("md,md->", apart, apart)) / (len(rows) - 1)
