"""The LOADER check of the numbers stored with the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.loaded import CheckpointPart, OwnFigure, as_trained
from lvm.audit.material import Material, where_found
from lvm.audit.own_figure import TOLERANCE, ids_of
from lvm.core.config.recipe import Recipe
from lvm.core.errors import LvmError
from lvm.data.windows import Dataset
from lvm.evaluation.inference import predict
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import NUM_PROBES, PROBE_TOLERANCE, probe_differences

SAMPLE = 4096  # dev windows that are predicted
NOT_VERIFIED = "not_verified"  # among the values of a finding: said in the first lines
STATE_IT = (
    "state in args the settings that shapes do not show (n_groups, norm_before_gate, dt_limit, "
    "input_scale, pool, pre_norm)"
)
RETRAIN = "lvm train --data BANK --recipe RECIPE.toml makes a checkpoint that can be trusted"


def of_a_folder(part: CheckpointPart, material: Material) -> Iterator[Seen]:
    """Compare a checkpoint of lvm with its probe outputs, then with its validation cosine."""
    silent = []
    for look in (_probes, _stored_cosine):
        try:
            yield from look(part, material)
        except NotEvaluable as reason:
            silent.append(reason)
    if silent:
        raise NotEvaluable("; ".join(map(str, silent)), silent[0].next)


def of_a_foreign_file(part: CheckpointPart, material: Material) -> Iterator[Seen]:
    """Say what the validation cosine of a foreign file tells of how it is computed here."""
    figure = part.figure
    if figure is None or (figure.verified and not figure.chosen):
        return
    severity, more, words = _comparison(figure)
    values = {"stored": figure.stored, "recomputed": figure.here, **more}
    yield loader_finding(
        part,
        *words,
        severity=severity,
        where={"count": figure.count} if figure.count else {},
        values={k: v for k, v in values.items() if v is not None},
    )


Words = tuple[str, str, str, str]  # what was seen, what is allowed, what it means, what to do


def _comparison(figure: OwnFigure) -> tuple[Severity, dict[str, float], Words]:
    """Return how grave it is that a figure comes back or does not, in numbers and in words."""
    if figure.contradicted:
        gap = abs((figure.stored or 0.0) - (figure.here or 0.0))
        words = (
            figure.reason,
            f"a difference of at most {figure.allowed:.3g}",
            "These weights behave differently here than where they were trained, in all "
            f"{figure.tried} ways to compute them; or the figure comes from a different kind of "
            "text.",
            f"{STATE_IT}; otherwise judge the model by its predictions (--predictions P.npy), "
            f"or {RETRAIN}",
        )
        return Severity.BLOCK, {"difference": gap}, words
    if figure.verified:
        words = (
            f"stored validation cosine {figure.stored:.4f} is reproduced on the "
            f"{figure.windows} windows with {figure.chosen}",
            "all settings stated in the file",
            f"The file leaves these settings open. Of {figure.tried} ways to compute the "
            "weights, this one reproduces the stored figure to its last digit.",
            STATE_IT,
        )
        return Severity.INFO, {}, words
    assumed = f"; assumed: {figure.assumed}" if figure.assumed else ""
    words = (
        f"not verified: {figure.reason}{assumed}",
        "a stored validation cosine that is reproduced here",
        "The names and shapes of the weights fit more than one forward pass, so these numbers "
        "may not describe the model that was trained.",
        f"{STATE_IT}, and its validation cosine (val_cosine) on the windows given here",
    )
    return Severity.WARN, {NOT_VERIFIED: 1.0}, words


def _probes(part: CheckpointPart, _material: Material) -> Iterator[Seen]:
    predictor, recipe = model_of(part)
    try:
        apart = np.array(probe_differences(predictor, recipe, part.manifest, str(part.path)))
    except LvmError:
        raise NotEvaluable(
            "the checkpoint stores no probe outputs", "give a checkpoint folder that lvm wrote"
        ) from None
    worst = float(apart.max())
    if not worst <= PROBE_TOLERANCE:
        off = np.flatnonzero(apart > PROBE_TOLERANCE)
        yield loader_finding(
            part,
            f"outputs on {NUM_PROBES} fixed inputs are up to {worst:.2g} from those stored",
            f"at most {PROBE_TOLERANCE:g}",
            "The model built from this file is not the one that was saved, although names and "
            "shapes agree.",
            f"build it with the code version that wrote it (manifest: lvm, commit), or {RETRAIN}",
            where={"count": len(off), "of": NUM_PROBES, "rows": off.tolist()},
            values={"probe_difference": worst},
        )


def _stored_cosine(part: CheckpointPart, material: Material) -> Iterator[Seen]:
    stored, whole = part.manifest.val_cosine, material.dataset
    if not isinstance(stored, int | float):
        raise NotEvaluable("the checkpoint stores no val_cosine", "store val_cosine with it")
    if whole is None:
        raise NotEvaluable(
            f"the windows of its val_cosine {stored:.4f} are not available",
            "give the data it was trained on (--data BANK)",
        )
    dataset = as_trained(whole, part.manifest)
    if part.manifest.val_ids_sha256 != ids_of(dataset.dev):
        raise NotEvaluable(
            f"its val_cosine {stored:.4f} was measured on windows other than the dev split here",
            "give the data it was trained on (--data BANK)",
        )
    yield from _not_reproduced(part, dataset, float(stored), _dev_cosine(part, dataset, material))


def _not_reproduced(
    part: CheckpointPart, dataset: Dataset, stored: float, here: _Mean
) -> Iterator[Seen]:
    allowed = TOLERANCE + 3 * here.error
    gap = abs(stored - here.value)
    if gap <= allowed:
        return
    trained_on = part.manifest.data
    if trained_on not in (None, dataset.fingerprint):  # other vectors behind equal row numbers
        raise NotEvaluable(
            f"the checkpoint was trained on data {trained_on}, but these are {dataset.fingerprint}",
            "give the data it was trained on (--data BANK)",
        )
    yield loader_finding(
        part,
        f"stored val cosine {stored:.4f}, recomputed on the same windows {here.value:.4f}",
        f"a difference of at most {allowed:.3g}",
        "The stored number comes from another model or another evaluation.",
        f"build it with the code version that wrote it (manifest: lvm, commit), or {RETRAIN}",
        where={"count": here.count, "of": len(dataset.dev)},
        values={"stored": stored, "recomputed": here.value, "difference": gap},
    )


def model_of(part: CheckpointPart) -> tuple[Predictor, Recipe]:
    """Return model and recipe of a checkpoint; NotEvaluable where none could be built."""
    if part.predictor is None or part.recipe is None:
        raise NotEvaluable(part.problem, RETRAIN)
    return part.predictor, part.recipe


def loader_finding(
    part: CheckpointPart,
    seen: str,
    allowed: str,
    meaning: str,
    next: str,
    *,
    severity: Severity | None = None,
    where: Mapping[str, object] | None = None,
    values: Mapping[str, float] | None = None,
) -> Seen:
    """Return a finding of LOADER on a checkpoint; values that are not finite are left out."""
    finite = {name: value for name, value in (values or {}).items() if math.isfinite(value)}
    return Seen(
        severity=severity,
        seen=seen,
        allowed=allowed,
        meaning=meaning,
        next=next,
        where=where_found("checkpoint", str(part.path)) | dict(where or {}),
        values=finite,
    )


@dataclass(frozen=True, kw_only=True)
class _Mean:
    value: float
    error: float  # of drawing a sample; 0 when all windows were looked at
    count: int


@torch.no_grad()
def _dev_cosine(part: CheckpointPart, dataset: Dataset, material: Material) -> _Mean:
    """Return the mean dev cosine as the training loop measures it, in the space of the search."""
    predictor, recipe = model_of(part)
    windows = dataset.dev.select(material.sample(len(dataset.dev), SAMPLE, "audit", "dev"))
    queries = predict(predictor, dataset, windows, recipe.search_space)
    targets = torch.from_numpy(dataset.bank.rows(windows.targets))
    documents = predictor.documents(targets, recipe.search_space).float()
    cosines = torch.cosine_similarity(queries, documents, dim=1).double().numpy()
    whole = len(dataset.dev) <= SAMPLE
    error = 0.0 if whole else float(cosines.std()) / math.sqrt(len(cosines))
    return _Mean(value=float(cosines.mean()), error=error, count=len(cosines))
