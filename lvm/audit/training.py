"""Checks of a training: did it use the stated negatives, did it learn, and can it be judged yet?

They read what the loop measured during training (`EpochRecord.health`, lvm/training/health.py), so
they cost nothing. None of them blocks: the arm is repaired, or judged NOT_EVALUABLE.

Where a threshold differs from the catalogue's starting point, it was measured on the bundled text
with the laptop preset. There the AR term of the report's own recipe has .03 to .07 of the gradient
of the contrastive term (so a tenth is worth knowing, and a hundredth warns: the report's .02 x MMD
has .0005), and ordinary trainings end .13 to .17 in cosine above dev (so a gap counts from half of
what was learned).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from lvm.audit.check import CHECKS, About, check
from lvm.audit.finding import Finding, NotEvaluable, Seen, Severity
from lvm.audit.training_log import (
    ENOUGH_UPDATES,
    LEARNED,
    WARMUP_MARGIN,
    TrainingLog,
    negatives_fewer,
    share_left,
    stated_negatives_finding,
    too_early,
    where_in,
)
from lvm.core.config.recipe import ObjectiveConfig
from lvm.core.records import StopReason
from lvm.training.epochs import EpochRecord

if TYPE_CHECKING:
    from lvm.audit.material import Material

REFERENCES = ("contrastive", "ar")  # terms above 0 that others are compared with
DROWNED, WEAK = 0.01, 0.1  # gradient ratio below which (or above the inverse) a term does nothing
DEAD = 0.01  # share of parameter rows without gradient
RISING_EPOCHS, RISE = 3, 0.02  # dev loss up so often in a row, and by this share in all
MANY_EPOCHS = 5  # with more than these, the first should not be the best
GAP, GAP_SHARE = 0.15, 0.5  # train minus dev cosine: absolute, and of the train cosine
DROP = 0.05  # of the dev cosine from one epoch to the next


# --- the checks -----------------------------------------------------------------------------------

Judge = Callable[[TrainingLog], Iterator[Finding | Seen]]
_JUDGES: dict[str, Judge] = {"NEGATIVES_FEWER": negatives_fewer}


def training_findings(log: TrainingLog) -> list[Finding]:
    """Return what is wrong with a training, worst first; a check without its numbers is silent."""
    found: list[Finding] = []
    for code, judge in _JUDGES.items():
        with suppress(NotEvaluable):
            found += map(CHECKS.get(code).finding, judge(log))
    return sorted(found, key=lambda finding: finding.severity.rank)


def _on_training(code: str, question: str, about: About | None = None) -> Callable[[Judge], Judge]:
    """Register a function of a log as a check of the material's training."""

    def register(judge: Judge) -> Judge:
        check(code, question, about)(lambda material: judge(_given(material)))
        _JUDGES[code] = judge
        return judge

    return register


def _given(material: Material) -> TrainingLog:
    if material.training is None:
        raise NotEvaluable(
            "no training was given", "give --checkpoint of a folder trained by lvm train"
        )
    return material.training


@check(
    "NEGATIVES_FEWER",
    "does the number of negatives match the configuration?",
    About(
        for_arms="the training did not use the stated number of negatives, so every arm is "
        "compared with a control that does"
    ),
)
def _negatives_fewer(material: Material) -> Iterator[Finding | Seen]:
    if material.training is None and material.checkpoint is not None:
        from lvm.training.report_recipe import accumulated_negatives

        counts = accumulated_negatives(material.checkpoint.manifest.args or {})
        if counts is not None:
            where = {"input": "checkpoint", "source": str(material.checkpoint.path)}
            found = stated_negatives_finding(counts[0] + 1, counts[1] + 1, None, where)
            if found is not None:
                yield found
            return
    yield from negatives_fewer(_given(material))


@_on_training(
    "UNDERTRAINED",
    "was the model trained long enough to be judged?",
    About(for_arms="the given model had not trained long enough, so the control arm decides"),
)
def undertrained(log: TrainingLog) -> Iterator[Seen]:
    """Report a training that ended, or was judged, before it learned."""
    log.first("updates")
    reason = too_early(log)
    if reason is None:
        return
    yield Seen(
        where=where_in(log),
        seen=reason,
        allowed=f"outside {WARMUP_MARGIN} warm-ups, and {ENOUGH_UPDATES} updates or a loss at "
        f"{LEARNED} of no learning",
        meaning="These scores show how far the model got, not whether its recipe works: the "
        "verdict is NOT_EVALUABLE.",
        next="raise training.epochs, lower training.warmup_fraction or training.batch_size, or "
        "train on more text",
        values={
            "updates": float(log.updates),
            "warmup_updates": float(log.warmup),
            "share_left": share_left(log)[0],
        },
    )


@_on_training(
    "LOSS_SCALE",
    "does every loss term contribute?",
    About(for_arms="one loss term drowns the others, so the control arm decides"),
)
def loss_scale(log: TrainingLog) -> Iterator[Seen]:
    """Report terms whose gradient is a hundredth of the reference term's (a tenth: info)."""
    objective = log.recipe.objective
    if len(objective.weights) < 2:
        return
    log.first("updates")
    for term in objective.weights:
        ratios = [value for _, value in log.series(f"gradient_ratio_{term}")]
        ratio = statistics.median(ratios) if ratios else 1.0
        weakness = min(ratio, 1 / ratio)
        if weakness >= WEAK:
            continue
        reference = log.term
        weak, strong = (term, reference) if ratio < 1 else (reference, term)
        yield Seen(
            where=where_in(log),
            severity=Severity.WARN if weakness < DROWNED else Severity.INFO,
            seen=f"the gradient of the weighted {term} term is {ratio:.2g} of that of the "
            f"{reference} term (median over {len(ratios)} epochs)",
            allowed=f"{DROWNED:g} to {1 / DROWNED:g}; outside {WEAK:g} to {1 / WEAK:g} is worth "
            "knowing",
            meaning=f"The {weak} term hardly moves the network compared with the {strong} term, "
            "so this training does not show whether it helps.",
            next=_balance(objective, term, ratio),
            values={"ratio": ratio},
        )


def _balance(objective: ObjectiveConfig, term: str, ratio: float) -> str:
    if term not in REFERENCES:
        key = objective.key(term, "balance")
        return f'set {key} = "gradient", which gives the term its share'
    key, weight = objective.key(term, "weight"), objective.weights[term] / ratio
    return f"set {key} to about {weight:.2g} to give both equal gradients"


@_on_training("DEAD_PARAMETERS", "does every parameter get a gradient?")
def dead_parameters(log: TrainingLog) -> Iterator[Seen]:
    """Report parts of the model whose parameters got no gradient in the first backward pass."""
    log.first("dead_all")
    health = log.records[0].health
    shares = {n.removeprefix("dead_"): v for n, v in health.items() if n.startswith("dead_")}
    worst = max(shares, key=lambda name: shares[name])
    if shares[worst] <= DEAD:
        return
    where = "the whole predictor" if worst == "all" else f"the part {worst!r}"
    yield Seen(
        where=where_in(log),
        seen=f"{shares[worst]:.1%} of the parameter rows of {where} have no gradient",
        allowed=f"at most {DEAD:.0%}",
        meaning="These parameters keep their random initial values: a branch is cut off, an "
        "output is unused, or a stop-gradient hides too much.",
        next="find the unused layer or output, or set objective.stop_gradient and the weights "
        "so that a loss term reaches it",
        values=shares,
    )


@_on_training("OVERFIT", "does the model still improve on unseen text?")
def overfit(log: TrainingLog) -> Iterator[Seen]:
    """Report a dev loss that rises, a first epoch that stays the best, or a wide gap to train."""
    losses = _dev_losses(log)
    values = dict.fromkeys(("best_epoch", "rise", "gap"), 0.0)
    best_epoch, best = min(losses, key=lambda item: item[1])
    values["best_epoch"], values["rise"] = float(best_epoch), losses[-1][1] / max(best, 1e-9) - 1
    signs = [s for s in (_first_is_best(log, losses), _rising(losses), _gap(log, values)) if s]
    if signs:
        yield Seen(
            where=where_in(log),
            seen="; ".join(signs),
            allowed=f"fewer than {RISING_EPOCHS} rising epochs in a row (by {RISE:.0%} in all), a "
            f"best epoch after the first of {MANY_EPOCHS + 1} or more, a gap of at most {GAP:g} or "
            f"{GAP_SHARE:.0%} of the train cosine",
            meaning="The model overfits the training text; more epochs make it worse on unseen "
            "text.",
            next=f"set training.epochs to about {best_epoch}, raise model.dropout or "
            "training.weight_decay, or train on more text",
            values=values,
        )


def _dev_losses(log: TrainingLog) -> list[tuple[int, float]]:
    """Return (epoch, loss): 1 - cosine where the terms trained may be around 0, as MMD is."""
    name = f"dev_{log.term}" if log.term in REFERENCES else "dev_cosine"
    log.first(name)
    return [(e, v if log.term in REFERENCES else 1 - v) for e, v in log.series(name)]


def _first_is_best(log: TrainingLog, losses: Sequence[tuple[int, float]]) -> str:
    best_epoch, best = min(losses, key=lambda item: item[1])
    lost = best_epoch == 1 and len(losses) > MANY_EPOCHS and losses[-1][1] > (1 + RISE) * best
    return f"the best dev {log.term} loss is that of epoch 1 of {len(losses)}" if lost else ""


def _rising(losses: Sequence[tuple[int, float]]) -> str:
    """Say where the loss rises in epochs that follow each other, by enough to be no plateau."""
    run = 0
    for (_, before), (epoch, now) in itertools.pairwise(losses):
        run = run + 1 if now > before else 0
        start = dict(losses)[epoch - run]
        if run >= RISING_EPOCHS and now > (1 + RISE) * start:
            span = f"from {start:.3f} to {now:.3f}"
            return f"the dev loss rises for {run} epochs up to epoch {epoch}, {span}"
    return ""


def _gap(log: TrainingLog, values: dict[str, float]) -> str:
    health = log.records[-1].health
    if not {"train_cosine", "dev_cosine"} <= set(health):
        return ""
    train, dev = health["train_cosine"], health["dev_cosine"]
    values["gap"] = train - dev
    if train - dev > max(GAP, GAP_SHARE * train):
        return f"a cosine of {train:.3f} on train against {dev:.3f} on dev"
    return ""


@_on_training("DIVERGED", "was the training stable?")
def diverged(log: TrainingLog) -> Iterator[Seen]:
    """Report a loss that was not finite, and the worst drop of the dev cosine."""
    if log.ended == StopReason.DIVERGED:
        after = f"after epoch {log.records[-1].epoch}" if log.records else "in epoch 1"
        yield _unstable(log, f"a non-finite loss or gradient {after}", {})
    cosines = [(r.epoch, _dev_cosine(r)) for r in log.records]
    known = [(epoch, value) for epoch, value in cosines if value is not None]
    drops = [(a[1] - b[1], b[0]) for a, b in itertools.pairwise(known) if b[0] == a[0] + 1]
    drop, epoch = max(drops, default=(0.0, 0))
    if drop > DROP:
        yield _unstable(log, f"the dev cosine drops by {drop:.3f} in epoch {epoch}", {"drop": drop})


def _unstable(log: TrainingLog, seen: str, values: Mapping[str, float]) -> Seen:
    rate = log.recipe.training.learning_rate
    return Seen(
        where=where_in(log),
        seen=seen,
        allowed=f"finite numbers, and a drop of at most {DROP:g} between epochs",
        meaning="The updates were too large for this loss: earlier learning is lost, or the "
        "training stopped to keep the last good checkpoint.",
        next=f"lower training.learning_rate (now {rate:g}), or raise training.warmup_fraction or "
        "objective.temperature",
        values=values,
    )


def _dev_cosine(record: EpochRecord) -> float | None:
    value = record.dev.get("eval_cosine", record.health.get("dev_cosine"))
    return value if isinstance(value, float) else None
