"""What a model predicts that its contexts do not say: a trace that is seen without a dev split.

Of a prediction and its target, what lies in the span of the contexts and of the mean train target
is taken away. What is left of the target can be guessed only as far as text of its kind allows, and
is known to a model that has read it. AR-only shows both: on the test articles, which it has not
read, and on the train articles, which it has.

It accuses nobody: a model that understands the text better agrees more as well. So it is told and
decides nothing. It is the only trace where predictions alone were handed in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from lvm.core.config.run import GateConfig
from lvm.core.errors import DataError
from lvm.core.randomness import numpy_generator
from lvm.core.records import Estimate
from lvm.core.statistics import article_mean
from lvm.data.windows import Dataset, Windows
from lvm.evaluation.inference import predict
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import load_checkpoint

MOST_WINDOWS = 4096  # of a side, that are looked at


def off_contexts(
    given: Path | Float[np.ndarray, "m D"],
    ar_only: Path,
    dataset: Dataset,
    gates: GateConfig,
    seed: int,
) -> dict[str, Estimate] | None:
    """Return the agreement off the contexts of the given model, and of AR-only.

    `given` is a checkpoint folder or one prediction per test window. `model`
    and `ar_only` on test and `ar_only_on_train`, an Estimate of a mean cosine each. None where
    fewer than two articles are there, or a cosine is not finite.
    """
    rows, reference = None, load_checkpoint(ar_only)[0]
    test, train = (_drawn(dataset, name, seed) for name in ("test", "train"))
    if isinstance(given, Path):
        model = load_checkpoint(given)[0]
        rows = _predictions(model, dataset, dataset.test.select(test))
    else:
        rows = given[test]

    def level(rows: Float[np.ndarray, "m D"], windows: Windows) -> Estimate:
        found = article_mean(agreement(rows, dataset, windows), windows.articles)
        return found.estimate(gates.confidence)

    unread, read = dataset.test.select(test), dataset.train.select(train)
    try:
        found = {
            "model": level(rows, unread),
            "ar_only": level(_predictions(reference, dataset, unread), unread),
            "ar_only_on_train": level(_predictions(reference, dataset, read), read),
        }
    except DataError:
        return None
    return found


def agreement(
    rows: Float[np.ndarray, "m D"], dataset: Dataset, windows: Windows
) -> Float[np.ndarray, " m"]:
    """Return the cosine of each prediction with its target, both off the contexts; 0 if one is 0.

    Contexts that are linearly dependent span no more than they do: a basis is taken by singular
    values.
    """
    bank = dataset.bank
    contexts = bank.rows(windows.contexts.ravel()).reshape(*windows.contexts.shape, -1)
    centre = bank.rows(dataset.train.targets).mean(axis=0)
    spanning = np.concatenate(
        [contexts, np.broadcast_to(centre, (len(contexts), 1, len(centre)))], axis=1
    )
    _, sizes, axes = np.linalg.svd(spanning, full_matrices=False)
    axes = axes * (sizes > 1e-5 * sizes[:, :1])[:, :, None]

    def off(vectors: Float[np.ndarray, "m D"]) -> Float[np.ndarray, "m D"]:
        along = np.einsum("mkd,md->mk", axes, vectors)
        return np.asarray(vectors - np.einsum("mkd,mk->md", axes, along))

    mine, theirs = off(np.asarray(rows, np.float32)), off(bank.rows(windows.targets))
    lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
    dots = np.einsum("md,md->m", mine, theirs)
    return np.asarray(np.where(lengths > 1e-9, dots / np.maximum(lengths, 1e-9), 0), np.float64)


def _drawn(dataset: Dataset, name: str, seed: int) -> np.ndarray:
    count = len(dataset.split(name))
    if count <= MOST_WINDOWS:
        return np.arange(count)
    generator = numpy_generator(seed, "off the contexts", name)
    return np.sort(generator.choice(count, MOST_WINDOWS, replace=False))


def _predictions(
    predictor: Predictor, dataset: Dataset, windows: Windows
) -> Float[np.ndarray, "m D"]:
    return np.asarray(predict(predictor, dataset, windows, "raw").cpu().numpy(), np.float32)
