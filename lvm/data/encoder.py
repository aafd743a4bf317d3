"""Sentence-transformers encoders: the only door to that package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from lvm.core.errors import DataError, MissingExtraError
from lvm.data.fit import Count

# Two encoders with the same name may still differ (another revision, pooling or precision). Their
# vectors of these sentences tell.
PROBES = (
    "The cat slept on the warm windowsill all afternoon.",
    "Interest rates rose by a quarter of a percentage point.",
    "Mitochondria produce most of the chemical energy of a cell.",
    "She tuned the violin before the concert began.",
    "The treaty was signed in 1648 and ended thirty years of war.",
    "def add(a, b): return a + b",
    "Heavy rain flooded the lower part of the town.",
    "Why do birds fly south in winter?",
)


class Encoder(Protocol):
    """What turns texts into vectors; `name` goes into the manifest."""

    @property
    def name(self) -> str:
        """Name of the model, for example sentence-transformers/gtr-t5-base."""

    def encode(self, texts: Sequence[str], batch_size: int) -> Float[np.ndarray, "N D"]:
        """Return one float32 unit vector per text."""

    @property
    def limit(self) -> int | None:
        """Tokens that are read of a text, without special ones; None where that is not known."""

    def count(self, texts: Sequence[str]) -> Sequence[int] | None:
        """Return each text's number of tokens, without special ones; None where unknown."""


@dataclass(frozen=True)
class SentenceEncoder:
    """A loaded sentence-transformers model."""

    name: str
    model: Any  # sentence_transformers.SentenceTransformer, which is imported lazily

    def encode(self, texts: Sequence[str], batch_size: int) -> Float[np.ndarray, "N D"]:
        """Return one float32 unit vector per text."""
        vectors = self.model.encode(
            list(texts),
            batch_size=batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)

    @property
    def limit(self) -> int | None:
        """Tokens that are read of a text, without special ones; None where that is not known."""
        length = getattr(self.model, "max_seq_length", None)
        return max(1, int(length) - len(self._ids([""])[0])) if length else None

    def count(self, texts: Sequence[str]) -> Sequence[int] | None:
        """Return each text's number of tokens, without special ones; None where unknown."""
        try:
            return [len(ids) for ids in self._ids(texts, special=False)]
        except (AttributeError, TypeError, ValueError):  # a tokenizer of another kind
            return None

    def _ids(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        ids: list[list[int]] = self.model.tokenizer(
            list(texts), add_special_tokens=special, truncation=False, verbose=False
        )["input_ids"]
        return ids


def load_encoder(model: str | Path, *, name: str | None = None) -> SentenceEncoder:
    """Load a sentence-transformers model from a folder or, by name, from the hub or its cache.

    `name` is what the manifest says; by default the name as given or the name of the folder. Raises
    MissingExtraError without sentence-transformers, DataError when there is no such model.
    """
    folder = Path(model)
    local = folder.is_dir()
    if local and not (folder / "modules.json").is_file():
        raise DataError(
            f"{folder} has no modules.json; name a folder saved by sentence-transformers, or a "
            "model on the hub."
        )
    if not local and (folder.is_absolute() or str(model).startswith(".")):
        raise DataError(
            f"{folder} does not exist; --model must be a folder saved by sentence-transformers, "
            "or the name of a model on the hub."
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "embed", "embedding text") from error
    try:
        loaded = SentenceTransformer(str(model), local_files_only=local)
    # The hub, the tokenizer and the weights each fail with errors of their own, down to KeyError.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the encoder {model} could not be loaded ({reason}); check its name, or download "
            "the model and name its folder."
        ) from error
    # Some checkpoints are stored in half precision: the vectors must not depend on that.
    return SentenceEncoder(name or (folder.resolve().name if local else str(model)), loaded.float())


def token_counter(encoder: Encoder) -> Count | None:
    """Return what counts the tokens of texts; None for an encoder that does not say."""
    if encoder.count(PROBES) is None:
        return None
    return lambda texts: encoder.count(texts) or ()
