"""Does a checkpoint give back its own numbers, and what did it and its parents see?

A loader that builds another class of equal shapes answers without complaint. What gives it away are
numbers that were stored with the weights: outputs for eight fixed inputs, and the validation cosine
on windows that are known by the hash of their ids.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from lvm.audit.check import check
from lvm.audit.finding import Finding, NotEvaluable, Severity
from lvm.audit.lineage import read_lineage
from lvm.audit.loaded import CheckpointPart as CheckpointPart
from lvm.audit.loaded import as_trained
from lvm.audit.loaded import open_checkpoint as open_checkpoint
from lvm.audit.material import Material
from lvm.config import Recipe
from lvm.data.windows import Dataset, Windows
from lvm.errors import LvmError
from lvm.evaluation.inference import predict
from lvm.models.predictor import Predictor
from lvm.randomness import numpy_generator
from lvm.training.checkpoint import (
    NUM_PROBES,
    PROBE_TOLERANCE,
    probe_differences,
)
from lvm.training.report_recipe import accumulated_negatives as accumulated_negatives

COSINE_TOLERANCE = 0.01
DROP = 0.1  # of a cosine whose windows are not known: far beyond what other text of one kind costs
NUM_NAMED = 5  # classes that a finding names
SAMPLE = 4096  # dev windows that are predicted
RETRAIN = "lvm train --data BANK --recipe RECIPE.toml makes a checkpoint that can be trusted"


# --- its own numbers ------------------------------------------------------------------------------


@check("LOADER", "does the checkpoint give back its own numbers?")
def loader(material: Material) -> Iterator[Finding]:
    """Compare outputs and validation cosine with those stored; report what cannot be loaded."""
    part = material.checkpoint
    if part is None:
        reason = material.missing.get("checkpoint", "no checkpoint was given")
        raise NotEvaluable(reason, "give --checkpoint DIR or FILE.pt")
    if part.predictor is None or part.recipe is None:
        yield _misfit(part)
        return
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _probes(part),
        lambda: _stored_cosine(part, material),
        lambda: _context_length(part, material),
        lambda: _unread_parents(part),
        lambda: _left_out(part),
    )
    silent, found = [], False
    for look in looks:
        try:
            for finding in look():
                found = True
                yield finding
        except NotEvaluable as reason:
            silent.append(reason)
    if silent and not found:
        raise NotEvaluable("; ".join(map(str, silent)), silent[0].next)


def _left_out(part: CheckpointPart) -> Iterator[Finding]:
    names = part.manifest.get("left_out", ())
    if names:
        yield _finding(
            part,
            f"objects of other classes were left out: {', '.join(names[:NUM_NAMED])}"
            f"{f' and {len(names) - NUM_NAMED} more' if len(names) > NUM_NAMED else ''}",
            "tensors, numbers, text, containers and paths",
            "The weights were read, and nothing of these classes was imported or run; what such an "
            "object says of the model is not known.",
            "nothing, if the model needs none of it",
            severity=Severity.INFO,
        )


def _misfit(part: CheckpointPart) -> Finding:
    return _finding(
        part,
        part.problem,
        "names and shapes of a registered model, for vectors of the width of the data",
        "The weights do not belong to the model or the data they are to be used with, so every "
        "number from them would be of another model.",
        RETRAIN,
    )


def _probes(part: CheckpointPart) -> Iterator[Finding]:
    predictor, recipe = _model(part)
    try:
        apart = np.array(probe_differences(predictor, recipe, part.manifest, str(part.path)))
    except LvmError:
        raise NotEvaluable(
            "the checkpoint stores no probe outputs", "give a checkpoint folder that lvm wrote"
        ) from None
    worst = float(apart.max())
    if not worst <= PROBE_TOLERANCE:
        off = np.flatnonzero(apart > PROBE_TOLERANCE)
        yield _finding(
            part,
            f"outputs on {NUM_PROBES} fixed inputs are up to {worst:.2g} from those stored",
            f"at most {PROBE_TOLERANCE:g}",
            "The model that was built from this file is not the one that was saved, although names "
            "and shapes agree.",
            f"build it with the code version that wrote it (manifest: lvm, commit), or {RETRAIN}",
            where={"count": len(off), "of": NUM_PROBES, "rows": off.tolist()},
            values={"probe_difference": worst},
        )


def _stored_cosine(part: CheckpointPart, material: Material) -> Iterator[Finding]:
    stored, whole = part.manifest.get("val_cosine"), material.dataset
    if not isinstance(stored, int | float):
        raise NotEvaluable("the checkpoint states no val_cosine", "store val_cosine with it")
    if whole is None:
        raise NotEvaluable(
            f"the windows of its val_cosine {stored:.4f} are not at hand",
            "give the data it was trained on (--data BANK)",
        )
    dataset = as_trained(whole, part.manifest)
    known = part.manifest.get("val_ids_sha256")
    same_ids = known == hashlib.sha256(dataset.dev.targets.tobytes()).hexdigest()
    if known is not None and not same_ids:
        raise NotEvaluable(
            f"its val_cosine {stored:.4f} was measured on other windows than the dev split here",
            "give the data it was trained on (--data BANK)",
        )
    here = _dev_cosine(part, dataset, material.seed)
    if same_ids:
        yield from _not_reproduced(part, dataset, float(stored), here)
    elif not stored - here.value <= DROP:
        yield _dropped(part, float(stored), here)
    else:
        raise NotEvaluable(
            f"the checkpoint does not say of which windows its val_cosine {stored:.4f} is; on the "
            f"dev windows here it is {here.value:.4f}",
            "store val_ids_sha256 with it: the sha256 of the int64 ids of the target rows",
        )


def _not_reproduced(
    part: CheckpointPart, dataset: Dataset, stored: float, here: _Mean
) -> Iterator[Finding]:
    allowed = COSINE_TOLERANCE + 3 * here.error
    gap = abs(stored - here.value)
    if gap <= allowed:
        return
    trained_on = part.manifest.get("data")
    if trained_on not in (None, dataset.fingerprint):  # other vectors behind equal row numbers
        raise NotEvaluable(
            f"the checkpoint was trained on data {trained_on}, these are {dataset.fingerprint}",
            "give the data it was trained on (--data BANK)",
        )
    yield _finding(
        part,
        f"stored val cosine {stored:.4f}, computed again on the same windows {here.value:.4f}",
        f"a difference of at most {allowed:.3g}",
        "The stored number is of another model or of another evaluation than this one.",
        f"build it with the code version that wrote it (manifest: lvm, commit), or {RETRAIN}",
        where={"count": here.count, "of": len(dataset.dev)},
        values={"stored": stored, "recomputed": here.value, "difference": gap},
    )


def _dropped(part: CheckpointPart, stored: float, here: _Mean) -> Finding:
    return _finding(
        part,
        f"stored val cosine {stored:.4f}, on the dev windows here {here.value:.4f}; which windows "
        "it was stored for is not known",
        f"a drop of at most {DROP:g} on text of the same kind",
        "Either the weights fit by their shapes alone and their model computed something else, or "
        "it was trained on vectors of another kind.",
        f"judge the model by its own predictions (--predictions P.npy), or {RETRAIN}",
        severity=Severity.WARN,
        values={"stored": stored, "recomputed": here.value, "difference": stored - here.value},
    )


def _context_length(part: CheckpointPart, material: Material) -> Iterator[Finding]:
    _, recipe = _model(part)
    lengths = {side.context_length for side in material.sides} - {recipe.context_length}
    if lengths:
        yield _finding(
            part,
            f"trained on contexts of {recipe.context_length} vectors, the data have {min(lengths)}",
            "one context length",
            "The model is judged on contexts of a length that it has not learned from.",
            f"cut windows of {recipe.context_length} vectors, or train with context_length = "
            f"{min(lengths)}",
            severity=Severity.WARN,
            values={"context_length": float(recipe.context_length)},
        )


def _model(part: CheckpointPart) -> tuple[Predictor, Recipe]:
    if part.predictor is None or part.recipe is None:
        raise NotEvaluable(part.problem, RETRAIN)
    return part.predictor, part.recipe


def _finding(
    part: CheckpointPart, seen: str, allowed: str, meaning: str, next: str,
    *, severity: Severity = Severity.BLOCK, where: Mapping[str, Any] | None = None,
    values: Mapping[str, float] | None = None,
) -> Finding:  # fmt: skip
    finite = {name: value for name, value in (values or {}).items() if math.isfinite(value)}
    return Finding(
        code="LOADER", severity=severity, seen=seen, allowed=allowed, meaning=meaning, next=next,
        where={"input": "checkpoint", "source": str(part.path), **(where or {})}, values=finite,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Mean:
    value: float
    error: float  # of drawing a sample; 0 when all windows were looked at
    count: int


def _dev_cosine(part: CheckpointPart, dataset: Dataset, seed: int) -> _Mean:
    """Return the mean dev cosine as the training loop measures it, in the space of the search."""
    predictor, recipe = _model(part)
    windows, whole = dataset.dev, len(dataset.dev) <= SAMPLE
    if not whole:
        generator = numpy_generator(seed, "audit", "dev")
        windows = windows.select(np.sort(generator.choice(len(windows), SAMPLE, replace=False)))
    cosines = _cosines(predictor, dataset, windows, recipe.search_space)
    error = 0.0 if whole else float(cosines.std()) / math.sqrt(len(cosines))
    return _Mean(value=float(cosines.mean()), error=error, count=len(cosines))


@torch.no_grad()
def _cosines(
    predictor: Predictor, dataset: Dataset, windows: Windows, space: str
) -> Float[np.ndarray, " m"]:
    queries = predict(predictor, dataset, windows, space)
    targets = torch.from_numpy(dataset.bank.rows(windows.targets))
    documents = predictor.documents(targets, space).float()
    return torch.cosine_similarity(queries, documents, dim=1).double().numpy()


# --- what it was started from ---------------------------------------------------------------------


def _unread_parents(part: CheckpointPart) -> Iterator[Finding]:
    unread = read_lineage(part.manifest, part.path).unread
    if unread:
        named = "; ".join(f"{parent}: {why}" for parent, why in list(unread.items())[:3])
        yield _finding(
            part,
            f"{len(unread)} parents of the checkpoint tell nothing ({named})",
            "every parent readable, with articles_seen or text_seen",
            "What the model was started from may have seen the text it is judged on, and nobody "
            "can tell.",
            "put the parents' folders where manifest.json names them, or train from scratch",
            severity=Severity.WARN,
            where={"count": len(unread)},
            values={"unread_parents": float(len(unread))},
        )
