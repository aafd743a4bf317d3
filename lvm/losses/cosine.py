"""The autoregressive loss: how far a prediction points away from the next vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def ar_cosine(
    predictions: Float[Tensor, "B D"], targets: Float[Tensor, "B D"]
) -> Float[Tensor, ""]:
    """Return mean(1 - cosine) over rows: 0 for the same direction, 2 for the opposite one.

    Lengths do not matter, so predictions need not be unit rows. fp32 at least, also under autocast.
    """
    dtype = torch.promote_types(predictions.dtype, torch.float32)
    return (1 - F.cosine_similarity(predictions.to(dtype), targets.to(dtype), dim=1)).mean()
