"""What a person must know beside the verdict of a run: its warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lvm.absence import Absence, sentences
from lvm.records import METRICS, RunVerdict, Verdict
from lvm.report.audit import broken, overrides, unverified
from lvm.report.seeds import basis, over_seeds, rests_on_one_seed
from lvm.report.subject import PREDICTIONS
from lvm.triage.step import Role

NOT_COMPARED = ("oracle", "random")


def of_the_absent(absent: Sequence[Absence], document: Mapping[str, Any]) -> list[str]:
    """Say which arms are no part of the evidence, and how to have them tried again."""
    if not absent:
        return []
    said = [text for text in sentences(absent) if text not in document["headline"]]
    again = f"absent arms are no evidence; try them again, keeping the rest: {document['resume']}"
    return [*said, again]


def of_the_audit(audit: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """Return what the audit has to say beside the verdict: overrides, blind spots, weak gates."""
    said = [*unverified(audit), *overrides(audit), *broken(audit)]
    if document["verdict"] in (RunVerdict.PASSED, RunVerdict.FIXED):
        said += [
            f"{f['seen']}."
            for f in audit.get("findings", [])
            if f["code"] == "GATE_BELOW_TRIVIAL" and f["severity"] == "warn"
        ]
    return said


def of_the_seeds(document: Mapping[str, Any]) -> list[str]:
    """Return what repeated seeds have to say against a verdict that rests on one."""
    seeds, claims = document["seeds"], document["verdict"] in (RunVerdict.PASSED, RunVerdict.FIXED)
    if not seeds or not claims or not rests_on_one_seed(seeds):
        return []
    return [f"the verdict rests on {basis(seeds)}. {over_seeds(seeds)}"]


def of_the_ladder(
    document: Mapping[str, Any], shown: Mapping[str, Any] | None, compared: Mapping[str, Any]
) -> list[str]:
    """Return what a person must know before paying for scale: what the models do not beat."""
    if not document["ladder"]:
        return []
    return [
        text for model in _subjects(document, shown) for metric in ("r_at_5", "eval_cosine")
        if metric != "eval_cosine" or model["space"] == "raw"
        if (text := _not_beaten(model, metric, document["ladder"], compared))
    ]  # fmt: skip


def _subjects(
    document: Mapping[str, Any], shown: Mapping[str, Any] | None
) -> list[Mapping[str, Any]]:
    """Return the models that the verdict is about: the person's predictions, and what passes.

    Without a model that passes, the last one that was confirmed; never a control.
    """
    models = document["models"]
    own = [m for m in models if document["judged"]["stand_in"] and m["arm"] == PREDICTIONS]
    ours = [m for m in models if shown and m["arm"] == shown["id"]]
    if not ours:
        roles = [Role.CONFIRM, *([Role.PHASE1] if document["verdict"] == RunVerdict.PASSED else [])]
        ours = [m for m in models if m["role"] in roles and m not in own][-1:]
    if document["verdict"] == RunVerdict.PASSED and own:
        ours = []
    return [*own, *ours]


def _not_beaten(
    model: Mapping[str, Any], metric: str, ladder: Mapping[str, Any], compared: Mapping[str, Any]
) -> str:
    """Say which predictors without training a model does not beat; "" where it beats all.

    By the differences on the same windows where the journal has them, else by the plain means.
    """
    values = {n: r["masked"][metric] for n, r in ladder.items() if n not in NOT_COMPARED}
    value, title = model["masked"][metric], METRICS[metric].title
    gains = compared.get(model["arm"], {}).get(metric)
    if gains:
        open_ = {n: g for n, g in gains.items() if g["estimate"] and g["verdict"] != Verdict.PASS}
        named = sorted(open_, key=lambda name: -values[name])
        less = [n for n in named if open_[n]["estimate"]["upper"] < 0]
        alike = [n for n in named if n not in less]
        said = [
            f"{words} {', '.join(f'{n} {values[n]:.3f}' for n in names)}"
            for words, names in (("does worse than", less), ("is not told apart from", alike))
            if names
        ]
        if not said:
            return ""
        return (
            f"{model['name']} reaches {title} {value:.3f} and {' and '.join(said)}, with no "
            "training (differences on the same windows)."
        )
    named = sorted((n for n in values if values[n] >= value), key=lambda name: -values[name])
    if not named:
        return ""
    beside = "".join(f", {n} {values[n]:.3f}" for n in named[1:])
    return (
        f"{model['name']} reaches {title} {value:.3f} and does not beat the best predictor "
        f"without training: {named[0]} {values[named[0]]:.3f}{beside}."
    )
