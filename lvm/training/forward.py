"""The forward pass: what a network makes of a batch, for the terms of the objective to measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lvm.core.device import ids_on
from lvm.data.windows import Windows
from lvm.losses.infonce import Excluded
from lvm.models.predictor import Predictor
from lvm.training.negatives import Candidates


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one forward pass hands to the terms of the objective, unit rows throughout."""

    predictions: Float[Tensor, "B D"]
    targets: Float[Tensor, "B D"]
    queries: Float[Tensor, "B W"]  # predictions in the space of the contrastive loss
    candidates: Float[Tensor, "C W"]
    documents: Float[Tensor, "C D"]  # candidates in the space of the targets, without a gradient
    positive: Int[Tensor, " B"]  # column of every row's target among the candidates
    excluded: Excluded  # candidates that are no negatives of a row
    products: torch.dtype | None = None  # what the products of very many candidates are rounded to


def forward_pass(
    network: nn.Module,
    predictor: Predictor,
    vectors: Float[Tensor, "N D"],
    windows: Windows,
    local: Int[np.ndarray, " B"],
    drawn: Candidates,
    *,
    autocast: bool,
) -> Outputs:
    """Return what the objective needs of the windows `local` against the candidates drawn for them.

    `network` is the predictor, or DDP around it. `vectors` is the bank on the predictor's device.
    """
    device = vectors.device
    return outputs_of(
        network,
        predictor,
        vectors[ids_on(windows.contexts[local], device)],
        vectors[ids_on(windows.targets[local], device)],
        vectors[ids_on(drawn.ids, device)],
        ids_on(drawn.positive, device),
        ids_on(drawn.excluded, device),
        autocast=autocast,
    )


def outputs_of(
    network: nn.Module,
    predictor: Predictor,
    contexts: Float[Tensor, "B T D"],
    targets: Float[Tensor, "B D"],
    raw_candidates: Float[Tensor, "C D"],
    positive: Int[Tensor, " B"],
    excluded: Excluded,
    *,
    autocast: bool,
    products: torch.dtype | None = None,
) -> Outputs:
    """Return what the objective needs, from rows of the bank on the predictor's device.

    Candidates that come out of the network in the dtype of `products` stay in it.
    """
    with torch.autocast(contexts.device.type, dtype=torch.bfloat16, enabled=autocast):
        predictions, queries, candidates = network(contexts, raw_candidates)
        with torch.no_grad():  # a document tower learns from the contrastive term alone
            targets = predictor.model.encode_documents(targets)
            documents = _documents(predictor, raw_candidates, candidates)
    return Outputs(
        predictions=predictions.float(),
        targets=targets.float(),
        queries=queries.float(),
        candidates=candidates if candidates.dtype == products else candidates.float(),
        documents=documents,
        positive=positive,
        excluded=excluded,
        products=products,
    )


def _documents(
    predictor: Predictor, raw_candidates: Float[Tensor, "C D"], candidates: Float[Tensor, "C W"]
) -> Float[Tensor, "C D"]:
    """Return what the model makes of the bank's rows before any head looks at them.

    A margin compares them with the targets, which a document tower moves too.
    """
    if predictor.head is None:
        return candidates.detach()
    return predictor.model.encode_documents(raw_candidates)
