"""One training as its records tell it: can it be judged yet, did it use the stated negatives?

Needs no torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lvm.audit.finding import Finding, NotEvaluable, Seen, Severity
from lvm.core.config.plain import from_dict
from lvm.core.config.recipe import Recipe
from lvm.core.errors import CheckpointError, ConfigError
from lvm.core.metrics import METRICS, Shown
from lvm.training.epochs import EpochRecord, read_epochs, warmup_updates

WARMUP_MARGIN = 1.5  # a verdict must lie outside this many warm-ups
ENOUGH_UPDATES = 500
LEARNED = 0.9  # of the loss of guessing, or of the first loss: what an early verdict asks for
KEPT_NEGATIVES = 0.75  # share of the configured negatives that masks must leave
INFORMED = 0.5  # a first loss that fits this share of the columns did not see the others
KNOWS = 0.3  # below the loss of guessing: an untrained model with a residual path knows something


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """One training as its records tell it."""

    recipe: Recipe
    records: Sequence[EpochRecord]  # in order of epochs; none where it ended before the first
    updates_per_epoch: int  # 0 where it is not known
    ended: str = ""  # a StopReason, or "" where it is not known
    source: str = ""  # folder

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return self.records[-1].epoch * self.updates_per_epoch if self.records else 0

    @property
    def warmup(self) -> int:
        """Updates of the warm-up."""
        return warmup_updates(self.recipe.training, self.updates_per_epoch)

    @property
    def term(self) -> str:
        """The term that stands for the objective: contrastive, else AR, else MMD, else another."""
        return next(iter(self.recipe.objective.weights))

    def series(self, name: str) -> list[tuple[int, float]]:
        """Return (epoch, value) of a health value, where it was measured."""
        return [(r.epoch, r.health[name]) for r in self.records if name in r.health]

    def first(self, name: str) -> float:
        """Return the first value of a health value; NotEvaluable where there is none."""
        for _, value in self.series(name):
            return value
        if not self.records:
            raise NotEvaluable("the training completed no epoch", "train at least one epoch")
        raise NotEvaluable(
            f"the training records lack {name}",
            "train again with this version of lvm, which records it",
        )


def training_log(checkpoint: Path) -> TrainingLog | None:
    """Return the log of the training that wrote the checkpoint folder, or None without records."""
    from lvm.training.checkpoint import read_manifest

    records = read_epochs(checkpoint.parent) if checkpoint.is_dir() else []
    if not records:
        return None
    try:
        manifest = read_manifest(checkpoint)
        recipe = from_dict(Recipe, manifest.recipe) if manifest is not None else None
    except (CheckpointError, ConfigError):  # LOADER says what is wrong with it
        return None
    if manifest is None or recipe is None:
        return None
    records = records[: manifest.epoch or None]
    return _log(recipe, records, ended="", source=str(checkpoint.parent))


def log_from_epochs(
    recipe: Recipe, epochs: Iterable[Mapping[str, object]], ended: str = ""
) -> TrainingLog:
    """Return the log of an arm from its flat records per epoch, as a journal keeps them."""
    records = [_record(flat, recipe) for flat in epochs]
    trained = sorted((r for r in records if r.epoch >= 1), key=lambda r: r.epoch)
    return _log(recipe, trained, ended=ended, source="")


class _Flat(msgspec.Struct):
    epoch: int
    seconds: float | None = None
    health: dict[str, float | None] | None = None


def _record(flat: Mapping[str, object], recipe: Recipe) -> EpochRecord:
    trained = ("loss", "gradient_norm", "num_negatives", *recipe.objective.weights)
    known = msgspec.convert(flat, _Flat)
    return EpochRecord(
        epoch=known.epoch,
        train={n: value for n in trained if isinstance(value := flat.get(n), int | float)},
        dev={n: v for n in METRICS.shown(Shown.DEV) if isinstance(v := flat.get(n), float | str)},
        seconds=known.seconds or 0.0,
        health={n: v for n, v in (known.health or {}).items() if v is not None},
    )


def _log(recipe: Recipe, records: list[EpochRecord], *, ended: str, source: str) -> TrainingLog:
    made = records[-1].health.get("updates", 0.0) / records[-1].epoch if records else 0.0
    return TrainingLog(
        recipe=recipe, records=records, updates_per_epoch=round(made), ended=ended, source=source
    )


def too_early(log: TrainingLog) -> str | None:
    """Return why a training cannot be judged yet, or None when it can, or nothing is known of it.

    A verdict must lie outside 1.5 warm-ups, and after 500 updates or after the loss has moved: the
    contrastive loss to .9 of that of guessing, without one the AR (or another) term to .9 of its
    first value.
    """
    if not log.records or log.updates_per_epoch == 0:
        return None
    if log.updates < WARMUP_MARGIN * log.warmup:
        return (
            f"{log.updates} updates, within {WARMUP_MARGIN} times the warm-up of {log.warmup} "
            "updates"
        )
    if log.updates >= ENOUGH_UPDATES:
        return None
    share, of = share_left(log)
    if share <= LEARNED:
        return None
    return (
        f"{log.updates} updates, and the {log.term} loss is at {share:.2f} of {of} (allowed: "
        f"{ENOUGH_UPDATES} updates, or a share of at most {LEARNED})"
    )


def share_left(log: TrainingLog) -> tuple[float, str]:
    """Return the last loss as a share of what no learning gives, and what that is."""
    last = log.records[-1].train
    if log.term == "contrastive":
        guessing = math.log(max(1.0, last["num_negatives"]) + 1)
        return last["contrastive"] / guessing, f"ln(candidates) = {guessing:.2f}"
    series = log.series(f"first_{log.term}")
    first = series[0][1] if series else log.records[0].train[log.term]
    # MMD is around 0 once it is gone, and may be below.
    return (last[log.term] / first if first > 0 else 0.0), f"its first value {first:.3f}"


def where_in(log: TrainingLog) -> dict[str, object]:
    """Return the place of a finding about the whole of a training."""
    return {"input": "training", "source": log.source, "of": len(log.records)}


def negatives_fewer(log: TrainingLog) -> Iterator[Finding | Seen]:
    """Compare the negatives used per target with those in the recipe."""
    if log.recipe.objective.contrastive_weight == 0:
        return
    configured = log.first("configured_negatives")
    columns = min(value for _, value in log.series("columns"))
    seen = statistics.fmean(r.train.get("num_negatives", configured) for r in log.records)
    first: float | None = log.first("first_contrastive")
    if first is not None and first < math.log(seen + 1) - KNOWS:
        first = None
    found = stated_negatives_finding(round(columns), round(configured) + 1, first, where_in(log))
    if found is not None:
        yield found
    elif seen < KEPT_NEGATIVES * configured:
        yield Seen(
            where=where_in(log),
            seen=f"{seen:.1f} negatives per row after masking, of {configured:.0f} configured",
            allowed=f"at least {KEPT_NEGATIVES:.0%} of them",
            meaning="Most candidates were dropped as duplicates, own contexts or false "
            "negatives, so the contrastive loss compared the target with only a few "
            "rows.",
            next="raise negatives.false_negative_margin, or training.batch_size",
            values={"seen": seen, "stated": configured},
        )


def stated_negatives_finding(
    seen_columns: int, stated: int, first_loss: float | None, where: Mapping[str, object]
) -> Finding | None:
    """Return the finding on a softmax of `seen_columns` that is stated to have `stated` columns.

    `first_loss` is the contrastive loss of the first update of an untrained model: it is about
    ln(columns), so one far below tells of fewer. None where it is not known.
    """
    values = {"columns": float(seen_columns), "stated": float(stated)}
    signs = []
    if seen_columns < stated:
        signs.append(f"{seen_columns - 1} negatives per row, {stated - 1} stated")
    if first_loss is not None:
        values["first_loss"] = first_loss
        if math.exp(min(first_loss, 700.0)) < INFORMED * stated:
            signs.append(
                f"a first loss of {first_loss:.2f}, that of {math.exp(first_loss):.0f} rows"
            )
    if not signs:
        return None
    return Finding(
        code="NEGATIVES_FEWER",
        severity=Severity.WARN,
        seen="; ".join(signs),
        allowed=f"{stated - 1} negatives per row, a first loss of about {math.log(stated):.2f}",
        where=where,
        meaning="The contrastive task was easier than stated: gradient accumulation adds no "
        "negatives, nor do workers that do not gather each other's rows.",
        next=f"set training.batch_size = {stated}, which puts all its rows into one softmax, or "
        'negatives.candidates = "bank"',
        values=values,
    )
