"""The first screen of a report: the verdict, its cause, confidence, cost, and what to do next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lvm.audit.words import answer, broken, overrides, unverified
from lvm.printed import job_command
from lvm.records import RunVerdict, Verdict
from lvm.report import Block, Facts, Paragraph, Preformatted, Run
from lvm.report.audit import audit_of, first_screen
from lvm.report.cost import saved_in_words
from lvm.report.gates import independent
from lvm.report.models import confirmed_name
from lvm.text import counted, estimate, number, seconds, title_of
from lvm.triage.seeds import over_seeds
from lvm.triage.subject import TRAINER, subject


def stopped_by_audit(run: Run) -> bool:
    """Whether the audit ended the run before anything was tried."""
    return run.document["verdict"] == RunVerdict.BLOCKED and not run.all("step_started")


def verdict_section(run: Run) -> Iterator[Block]:
    """Yield the first screen."""
    document, audit = run.document, audit_of(run)
    judged = document.get("judged") or subject(run.events)
    if judged["sentence"]:
        yield Paragraph(judged["sentence"], "lead")
    if audit and stopped_by_audit(run):
        yield from first_screen(audit)
        yield Preformatted(f"# when that is done\n{_again(run)}")
        return
    yield Paragraph(document["headline"], "lead")
    said = [*unverified(audit), *overrides(audit), *broken(audit), *document.get("warnings", [])]
    for warning in dict.fromkeys(said):
        yield Paragraph(warning, "warning")
    pairs = [("Cause", document.get("cause") or _no_cause(run)), ("Confidence", _confidence(run))]
    lineage = (document.get("lineage") or {}).get("sentence", "")
    if lineage and lineage not in said:
        pairs.append(("Lineage", lineage))
    seeds = over_seeds(document["seeds"]) if document.get("seeds") else ""
    if seeds and not any(seeds in warning for warning in said):
        pairs.append(("Seeds", seeds))
    if audit:
        pairs.append(("Audit", answer(audit)))
    elif document.get("codes"):
        pairs.append(("Audit codes", ", ".join(document["codes"])))
    compute = document["compute"]
    pairs.append(
        (
            "Cost",
            f"{seconds(compute['train_seconds'])} of training in "
            f"{counted(compute['trials'], 'trial')}; {saved_in_words(run)}",
        )
    )
    changes = _changes(run)
    text, command = _next(run, bool(changes))
    yield Facts([*pairs, ("Next", text)])
    if changes and document.get("arm"):
        lines = [f"{key} = {json.dumps(value)}" for key, value in changes.items()]
        yield Preformatted("# fix.toml: what to change in the recipe\n" + "\n".join(lines))
    yield Preformatted(command)


def _no_cause(run: Run) -> str:
    return "none found" if run.document["verdict"] else "not known yet"


def _confidence(run: Run) -> str:
    """Describe the success gate that stands behind the verdict, or the one that came nearest."""
    arm = run.document.get("arm") or {}
    candidates = [(_phase1_name(run), run.last("phase_1_judged"))]
    candidates += [(confirmed_name(run, event), event) for event in run.all("confirmed")]
    if arm:
        candidates = [(arm["name"], arm)]
    name, event = max(candidates, key=lambda item: _nearest(item[1]))
    gates = [g for g in event.get("gates", []) if g["gate"] == "success" and g["estimate"]]
    if not gates:
        return "no success gate has been judged"
    parts = [
        f"{title_of(g['metric'])} {estimate(g)} against {number(g['bound'], sign=True)}: "
        f"{g['verdict']}"
        for g in gates
    ]
    level, articles = gates[0]["estimate"]["confidence"], gates[0]["estimate"]["num_articles"]
    effect = independent(gates[0])
    return (
        f"gain of {name} over {run.baseline} on the test split: {'; '.join(parts)} "
        f"({level:.0%} intervals over {counted(articles, 'article')}"
        f"{f', {effect}' if effect else ''}; one PASS is enough)"
    )


def _phase1_name(run: Run) -> str:
    """Return what phase 1 judged: the base recipe's model, or a file of predictions."""
    judged = run.document.get("judged") or {}
    given = f"{judged['file']} (predictions)" if judged.get("stand_in") else "phase 1"
    return str(run.unchanged.get("name", given))


def _nearest(event: Mapping[str, Any]) -> tuple[int, float]:
    """Return how near a judged model came, for ordering: by verdict, then by its gain in R@5."""
    found = [g for g in event.get("gates", []) if g["gate"] == "success" and g["estimate"]]
    gained = [g["estimate"]["value"] for g in found if g["metric"] == "r_at_5"]
    rank = {Verdict.PASS: 3, Verdict.INCONCLUSIVE: 2, Verdict.FAIL: 1}
    return rank.get(event.get("verdict", ""), 0), max(gained, default=-1.0)


def _next(run: Run, changed: bool) -> tuple[str, str]:
    """Return what to do next and the command for it."""
    job = job_command("triage", kept=True)
    own = (run.document.get("judged") or {}).get("kind") == TRAINER
    match run.document["verdict"]:
        case RunVerdict.FIXED if changed and own:
            return (
                "make the changes below in your recipe and judge them on data this run has not "
                f"seen; what your code has written is in {run.document['arm']['checkpoint']}",
                f"{job} --recipe RECIPE --data BANK",
            )
        case RunVerdict.FIXED if changed:
            return (
                "save the changes below as fix.toml and judge them on data this run has not seen; "
                f"the checkpoint is {run.document['arm']['checkpoint']}",
                f"{job} --recipe fix.toml --data BANK",
            )
        case RunVerdict.PASSED | RunVerdict.FIXED:
            return "judge the recipe on data this run has not seen", f"{job} --data BANK"
        case RunVerdict.BLOCKED:
            return "repair what the audit names, then start again", _again(run)
        case RunVerdict.INCONCLUSIVE if run.document.get("absent"):
            text = "see why the absent arms ended; when that is settled, have them tried again"
            return text, str(run.document["resume"])
        case RunVerdict.INCONCLUSIVE if (run.document.get("lineage") or {}).get(
            "verdict_if_unseen"
        ):
            text = "name the articles that the model has read, in a file of ids or a bank"
            return text, f"{_again(run)} --seen FILE"
        case RunVerdict.INCONCLUSIVE if not _crosses(run):
            text = "see why no model could be judged; change the recipe accordingly"
            return text, f"{job} --recipe FILE"
        case RunVerdict.INCONCLUSIVE:
            return "give a bank with more articles: they narrow the interval", f"{job} --data BANK"
        case RunVerdict.NOT_FIXED:
            text = "see what was not tried; change the recipe accordingly and start again"
            return text, f"{job} --recipe FILE"
        case _:
            return "go on with the run", str(run.document["resume"])


def _crosses(run: Run) -> bool:
    """Whether an interval crosses its bound, which more articles would narrow."""
    judged = [run.last("phase_1_judged"), *run.all("confirmed")]
    judged += [event["control"] for event in judged if event.get("control")]
    gates = [gate for event in judged for gate in event.get("gates", [])]
    return any(gate["verdict"] == Verdict.INCONCLUSIVE for gate in gates)


def _again(run: Run) -> str:
    """Return the command of a new run that is asked the same; an old journal holds only its own."""
    return str(run.started.get("again") or run.started.get("command") or job_command("triage"))


def _changes(run: Run) -> dict[str, Any]:
    """Return the dotted recipe keys in which the fix differs from the base recipe."""
    recipe = (run.document.get("arm") or {}).get("recipe") or {}
    base = _flat(run.started.get("config", {}).get("recipe", {}))
    return {k: v for k, v in _flat(recipe).items() if v != base.get(k)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
