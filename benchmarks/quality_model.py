"""A small next-vector model that lies above the front `mix + a * last`, and its training.

    q = unit( sum_t w_t(G) c_t  +  (1 + b(G)) m  +  R diag(g) R^T [last, one before, mean] )

w starts as the weighted mix of the train split; a network of 32 units moves it by the inner
products G of the context vectors, which no rotation of the space changes. m is one learned vector.
R holds the axes along which the chunks of an article vary (train articles, by falling variance),
and g is one gain per axis for each of three summaries of the context: a topic that lasts and a
detail that passes are different axes. All additions start at zero, so that the untrained model is
the mix.

Reading the index adds beta * sum_j softmax_j(q . y_j / tau) y_j over the rows that are searched,
own contexts left out, and normalises again: pseudo-relevance feedback (Rocchio 1971) with learned
beta and tau.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from quality_front import mix_weights
from torch import Tensor, nn

from lvm.core.randomness import derive_seed, numpy_generator
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, Windows
from lvm.models.base import weight_decay_groups

HIDDEN = 32  # units of the network that moves the weights
STEP = 0.3  # of what is learned as a weight or a gain: the learning rate that suits them all
MASKED = -1e4  # a score that no row can have
BLOCK = 512  # queries that read the index at once


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a model is trained; chosen by 4-fold cross-validation over bundled train articles."""

    hinge: float = 0.45  # weight of the R@5 hinge beside 1 - cosine
    softness: float = 0.06  # of the hinge, in cosine
    epochs: int = 6
    learning_rate: float = 2e-3
    articles: int = 8  # of a batch, each with `windows` windows
    windows: int = 32
    rows: int = 1024  # that a batch is ranked among: its articles, and others up to so many


class ContextMix(nn.Module):
    """The model of the module's docstring, for contexts [B, T, D]."""

    mix: Tensor
    mean: Tensor
    axes: Tensor
    pairs: Tensor

    def __init__(
        self,
        weights: Float[Tensor, " T"],
        mean: Float[Tensor, " D"],
        axes: Float[Tensor, "D D"],
        *,
        reads: bool = False,
    ) -> None:
        super().__init__()
        length, width = len(weights), len(mean)
        self.weights = nn.Parameter(weights.clone())
        self.common = nn.Parameter(torch.zeros(width))
        self.gains = nn.Parameter(torch.zeros(3, width))
        self.register_buffer("mix", weights.clone())
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.register_buffer("pairs", torch.triu_indices(length, length, 1))
        last = nn.Linear(HIDDEN, length + 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        products = length * (length - 1) // 2 + length
        self.move = nn.Sequential(
            nn.LayerNorm(products), nn.Linear(products, HIDDEN), nn.GELU(), last
        )
        # Logarithms, so that both stay positive.
        self.log_beta = nn.Parameter(torch.tensor(math.log(0.2))) if reads else None
        self.log_tau = nn.Parameter(torch.tensor(math.log(0.04))) if reads else None

    def forward(self, contexts: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Return unit predictions, before the index is read."""
        among = torch.bmm(contexts, contexts.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        moved = self.move(torch.cat([among, contexts @ self.mean], dim=1))
        mix = torch.einsum("bt,btd->bd", self.weights + STEP * moved[:, :-1], contexts)
        summaries = torch.stack([contexts[:, -1], contexts[:, -2], contexts.mean(1)], dim=1)
        gained = ((summaries @ self.axes) * self.gains).sum(1) @ self.axes.T
        return F.normalize(mix + (1 + moved[:, -1:]) * self.common + STEP * gained, dim=-1)

    def read(
        self,
        queries: Float[Tensor, "B D"],
        rows: Float[Tensor, "N D"],
        own: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B D"]:
        """Return the queries moved by one look at `rows`, of which `own` are the contexts."""
        if self.log_beta is None or self.log_tau is None:
            return queries
        scores = (queries @ rows.T).scatter(1, own, MASKED)
        read = (scores / self.log_tau.exp()).softmax(dim=1) @ rows
        return F.normalize(queries + self.log_beta.exp() * read, dim=-1)


def fit(
    dataset: Dataset,
    seed: int,
    schedule: Schedule | None = None,
    *,
    reads: bool = False,
    start: ContextMix | None = None,
) -> ContextMix:
    """Train a model on the train split; the same seed gives the same model in any process.

    `start` is a model of another text, which the training goes on from; it is left as it is.
    """
    schedule, bank = schedule or Schedule(), dataset.bank
    model = _untrained(dataset, seed, reads) if start is None else _moved(start, dataset)
    optimizer = torch.optim.AdamW(
        weight_decay_groups(model), lr=schedule.learning_rate, weight_decay=0.05, betas=(0.9, 0.98)
    )
    batches = [
        batch
        for epoch in range(schedule.epochs)
        for batch in _batches(dataset, schedule, numpy_generator(seed, "batches", epoch))
    ]
    for number, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * _rate((number + 1) / len(batches))
        loss = _loss(model, bank, batch, schedule)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.inference_mode()
def predict(model: ContextMix, bank: Bank, windows: Windows) -> Float[Tensor, "M D"]:
    """Return unit predictions for the windows; the index that is read is the whole bank."""
    own = torch.from_numpy(windows.contexts)
    blocks = (model.read(model(bank.tensor[ids]), bank.tensor, ids) for ids in own.split(BLOCK))
    return torch.cat(list(blocks))


def _untrained(dataset: Dataset, seed: int, reads: bool) -> ContextMix:
    bank, articles = dataset.bank, np.unique(dataset.train.articles)
    groups = [bank.tensor[torch.from_numpy(_rows_of(bank, article))] for article in articles]
    within = torch.cat([rows - rows.mean(0) for rows in groups])
    axes = torch.linalg.eigh(within.T @ within)[1].flip(1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "context mix"))
        weights = mix_weights(bank, dataset.train)
        return ContextMix(weights, torch.cat(groups).mean(0), axes, reads=reads)


def _moved(start: ContextMix, dataset: Dataset) -> ContextMix:
    """Return a copy of a model whose mix is that of another text, as is the mean it compares with.

    The axes stay: the gains were learned along them.
    """
    model = copy.deepcopy(start).train()
    rows = np.isin(dataset.bank.keys[:, 0], np.unique(dataset.train.articles))
    with torch.no_grad():
        own = mix_weights(dataset.bank, dataset.train)
        model.weights += own - model.mix
        model.mix.copy_(own)
        model.mean.copy_(dataset.bank.tensor[torch.from_numpy(rows)].mean(0))
    return model


def _rows_of(bank: Bank, article: int) -> Int[np.ndarray, " R"]:
    return np.flatnonzero(bank.keys[:, 0] == article)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Windows of a few articles, and the rows of the bank that they are ranked among."""

    windows: Windows
    rows: Int[np.ndarray, " R"]


def _batches(
    dataset: Dataset, schedule: Schedule, generator: np.random.Generator
) -> Iterator[_Batch]:
    """Yield batches of few articles: a window's strongest wrong rows are those of its own article.

    Where the articles are short, all others are as strong: more of them, drawn at random, fill the
    rows up. A last batch of less than half the articles is left out.
    """
    windows, parts = dataset.train, []
    articles = np.unique(windows.articles)
    for article in articles:
        places = generator.permutation(np.flatnonzero(windows.articles == article))
        parts += np.split(places, range(schedule.windows, len(places), schedule.windows))
    rows = {article: _rows_of(dataset.bank, article) for article in articles}
    order, size = generator.permutation(len(parts)), schedule.articles
    for start in range(0, max(1, len(parts) - size // 2), size):
        batch = windows.select(np.concatenate([parts[at] for at in order[start : start + size]]))
        own = np.unique(batch.articles)
        others = generator.permutation(np.setdiff1d(articles, own))
        lengths = np.cumsum([len(rows[article]) for article in (*own, *others)])
        kept = [*own, *others][: max(len(own), int(np.searchsorted(lengths, schedule.rows)))]
        yield _Batch(batch, np.concatenate([rows[article] for article in kept]))


def _rate(done: float, warmup: float = 0.1) -> float:
    """Return the share of the learning rate: a linear rise, then half a cosine."""
    fall = 0.5 * (1 + math.cos(math.pi * max(0.0, done - warmup) / (1 - warmup)))
    return min(1.0, done / warmup) * fall


def _loss(model: ContextMix, bank: Bank, batch: _Batch, schedule: Schedule) -> Float[Tensor, ""]:
    """Return 1 - cosine + hinge * sigmoid((fifth best wrong row - right row) / softness).

    Own contexts are masked. The sigmoid counts, in a soft way, the windows whose target is not
    among the first five.
    """
    place = np.full(len(bank), -1)
    place[batch.rows] = np.arange(len(batch.rows))
    rows, own = bank.tensor[torch.from_numpy(batch.rows)], place[batch.windows.contexts]
    target = torch.from_numpy(place[batch.windows.targets])[:, None]
    queries = model(bank.tensor[torch.from_numpy(batch.windows.contexts)])
    queries = model.read(queries, rows, torch.from_numpy(own))
    scores = (queries @ rows.T).scatter(1, torch.from_numpy(own), MASKED)
    right = scores.gather(1, target)
    fifth = scores.scatter(1, target, MASKED).topk(5, dim=1).values[:, -1:]
    missed = torch.sigmoid((fifth - right) / schedule.softness).mean()
    return 1 - right.mean() + schedule.hinge * missed
