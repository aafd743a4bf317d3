"""The audit in a report: findings with the worst first, what could not be looked at, small plots.

The audit document is read as a plain mapping, and any part of it may be missing: it may come from
another version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lvm.records import METRICS
from lvm.report import (
    Block,
    Facts,
    Figure,
    Heading,
    Items,
    Paragraph,
    Preformatted,
    Run,
    Section,
    Table,
    counted,
    number,
    plot_words,
    seconds,
    small_plots,
    title_of,
)

Document = Mapping[str, Any]
NUM_NAMED = 5  # rows or articles of a finding that are named in words


# --- in words -------------------------------------------------------------------------------------


def answer(document: Document) -> str:
    """Return what the audit came to, in one line."""
    match document.get("verdict"):
        case "BLOCKED":
            return f"BLOCKED: {', '.join(blocking_codes(document))}"
        case "UNSURE":
            broke = ", ".join(check["code"] for check in _checks(document, "FAILED"))
            found = ", ".join(_codes(document, "block", "warn"))
            rest = f"; found: {found}" if found else ""
            return f"not sure: {broke or 'a check'} broke{rest}; {_counts(document)}"
        case "NOT_EVALUABLE":
            found = ", ".join(_codes(document, "block", "warn"))
            rest = f"; found: {found}" if found else ""
            return f"not evaluable: too little to look at{rest}; {_counts(document)}"
        case "WARNINGS":
            return f"warnings: {', '.join(_codes(document, 'block', 'warn'))}; {_counts(document)}"
        case _:
            known = ", ".join(_codes(document, "info"))
            rest = f"; worth knowing: {known}" if known else ""
            return f"clean: {_counts(document)}{rest}"


def blocking_codes(document: Document) -> list[str]:
    """Return the codes that block, worst first, without those that the person allowed."""
    allowed = document.get("allowed", [])
    return [code for code in _codes(document, "block") if code not in allowed]


def overrides(document: Document) -> list[str]:
    """Return a sentence for each blocking finding that was overridden with --allow."""
    allowed = document.get("allowed", [])
    return [
        f"--allow {f['code']}: the audit would have stopped this run. {_sentence(f['seen'])} "
        f"{_sentence(f['meaning'])}"
        for f in document.get("findings", [])
        if f["severity"] == "block" and f["code"] in allowed
    ]


def broken(document: Document) -> list[str]:
    """Return a sentence for each check that broke."""
    return [
        f"The check {check['code']} broke, so the data is not called clean: "
        f"{_sentence(check.get('reason') or 'no reason was recorded')}"
        for check in _checks(document, "FAILED")
    ]


def unverified(document: Document) -> list[str]:
    """Return a sentence for a checkpoint that may be computed otherwise than it was trained."""
    return [
        f"The checkpoint is {_sentence(f['seen'])}"
        for f in document.get("findings", [])
        if f["code"] == "LOADER" and f.get("values", {}).get("not_verified")
    ]


def not_looked_at(document: Document) -> list[str]:
    """Return one line per reason for which checks had nothing to look at."""
    groups: dict[tuple[str, str], list[str]] = {}
    for check in _checks(document, "NOT_EVALUABLE"):
        reason = str(check.get("reason") or "no reason was recorded")
        groups.setdefault((reason, str(check.get("next") or "")), []).append(check["code"])
    return [
        f"{', '.join(codes)}: {reason}" + (f" ({next})" if next else "")
        for (reason, next), codes in groups.items()
    ]


def where_in_words(where: Mapping[str, Any], named: int = NUM_NAMED) -> str:
    """Return where a finding lies: input, file, how many rows, and the worst of them.

    At most `named` rows, articles and blocks are listed; further scalars follow under their name.
    """
    parts = []
    if "count" in where:
        of = f" of {where['of']:,}" if "of" in where else ""
        parts.append(f"{where['count']:,}{of} rows")
    for key in ("rows", "articles"):
        if where.get(key):
            parts.append(f"{key} {_listed([str(value) for value in where[key]], named)}")
    if where.get("blocks"):
        spans = [f"{first}–{last}" for first, last in where["blocks"]]
        parts.append(f"blocks of articles {_listed(spans, named)}")
    known = ("input", "source", "count", "of", "rows", "articles", "blocks")
    parts += [f"{k} {v}" for k, v in where.items() if k not in known and isinstance(v, str | int)]
    place = str(where.get("input", ""))
    if where.get("source"):
        place = f"{place}, {where['source']}" if place else str(where["source"])
    return ": ".join(part for part in (place, "; ".join(parts)) if part)


def severity_of(finding: Mapping[str, Any], document: Document) -> str:
    """Return the severity of a finding, and whether it was overridden."""
    severity = str(finding["severity"])
    allowed = severity == "block" and finding["code"] in document.get("allowed", [])
    return f"{severity} (allowed)" if allowed else severity


def _listed(values: Sequence[str], named: int) -> str:
    return ", ".join(values[:named]) + (" …" if len(values) > named else "")


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _codes(document: Document, *severities: str) -> list[str]:
    found = [f["code"] for f in document.get("findings", []) if f["severity"] in severities]
    return list(dict.fromkeys(found))


def _checks(document: Document, status: str) -> list[Mapping[str, Any]]:
    return [check for check in document.get("checks", []) if check["status"] == status]


def _counts(document: Document) -> str:
    passed, blind = (len(_checks(document, status)) for status in ("PASS", "NOT_EVALUABLE"))
    return f"{counted(passed, 'check')} passed, {blind} had nothing to look at"


# --- the section ----------------------------------------------------------------------------------


def audit_of(run: Run) -> Document:
    """Return the last audit of a run; empty for a run from before there was one."""
    audit: Document = run.last("audited").get("audit") or {}
    return audit


def audit_section(run: Run) -> Iterator[Block]:
    """Yield what the audit found; nothing for a run without one."""
    document = audit_of(run)
    if document:
        yield Paragraph(answer(document))
        for sentence in [*unverified(document), *overrides(document), *broken(document)]:
            yield Paragraph(sentence, "warning")
        yield from _details(document)
    yield from _model_of_phase_1(run)


def _model_of_phase_1(run: Run) -> Iterator[Block]:
    """Yield what the models of phase 1 showed of themselves, and the order of the steps."""
    seen, below = run.last("inspected"), run.last("below_ladder")
    if not seen and not below:
        return
    yield Heading("What the models of phase 1 show")
    if below:
        told = [_told(f) for f in below["findings"]] or [_sentence(below["reason"])]
        yield Items(f"{below['name']}, on dev", told)
    if seen:
        name, findings = seen.get("name", "the base recipe"), seen.get("findings", [])
        told = [_told(f) for f in findings]
        yield Items(f"{name}, on dev", told or ["none of the checks of predictions found it odd"])
    reasons = [f["next"] for f in below.get("findings", [])]
    yield Items("What follows for the steps", [*reasons, *seen.get("reasons", [])])


def _told(finding: Mapping[str, Any]) -> str:
    return f"{finding['code']}: {_sentence(finding['seen'])} {finding['meaning']}"


def standalone(document: Document) -> list[Section]:
    """Return the report of an audit alone."""
    first = list(first_screen(document))
    return [
        Section("verdict", "Verdict", first),
        Section("audit", "The audit", list(_details(document))),
    ]


def first_screen(document: Document) -> Iterator[Block]:
    """Yield the answer, what was overridden or broke, what blocks and what to do about it."""
    yield Paragraph(_lead(document), "lead")
    for sentence in [*unverified(document), *overrides(document), *broken(document)]:
        yield Paragraph(sentence, "warning")
    findings = document.get("findings", [])
    shown = [f for f in findings if f["code"] in blocking_codes(document)] or findings[:3]
    pairs = [(f["code"], f"{_sentence(f['seen'])} {f['meaning']}") for f in shown]
    pairs.append(("Cost", f"0 s of training; the audit took {seconds(_seconds(document))}"))
    steps = list(dict.fromkeys(f["next"] for f in shown if f.get("next")))
    pairs += [("Next" if i == 0 else "Then", step) for i, step in enumerate(steps)]
    if codes := blocking_codes(document):
        flags = " ".join(f"--allow {code}" for code in codes)
        pairs.append(("To go on regardless", f"{flags}; the report then says so at the top"))
    yield Facts(pairs)


def _lead(document: Document) -> str:
    text = answer(document)
    if document.get("verdict") == "BLOCKED":
        return f"{text}. No training can help before this is mended, so none was started."
    return f"{text[:1].upper()}{text[1:]}."


def _seconds(document: Document) -> float:
    return float(document.get("seconds") or 0.0)


def _details(document: Document) -> Iterator[Block]:
    """Yield findings, blind spots, routing, ladder, plots and inputs."""
    yield from _findings(document)
    yield Heading("What was looked at")
    if blind := not_looked_at(document):
        yield Items("Could not be looked at, and so has not passed", blind)
    if passed := [f"{c['code']}: {c['question']}" for c in _checks(document, "PASS")]:
        yield Items("Passed", passed)
    yield from _route(document)
    yield from _ladder(document)
    plots = document.get("plots") or {}
    if drawn := small_plots.panels(plots):
        yield Heading("What the data looks like")
        yield Figure(drawn, "Bars show two standard errors over articles, to each side.")
        yield Preformatted(plot_words.as_text(plots), only_markdown=True)
    yield from _inputs(document)


def _findings(document: Document) -> Iterator[Block]:
    findings = document.get("findings", [])
    if not findings:
        yield Paragraph("Nothing was found.", "note")
        return
    rows = [
        [f["code"], severity_of(f, document), f["seen"], f["allowed"], where_in_words(f["where"])]
        for f in findings
    ]
    strong = frozenset(i for i, row in enumerate(rows) if row[1] == "block")
    header = ("Code", "Severity", "Seen", "Allowed", "Where")
    yield Table("findings, worst first", "lllll", header, rows, strong)
    yield Heading("What the findings mean, and what to do")
    pairs = []
    for finding in findings:
        place = finding["where"].get("input")
        name = f"{finding['code']}, {place}" if place else finding["code"]
        pairs += [(name, finding["meaning"]), ("next", finding["next"])]
    yield Facts(pairs)


def _route(document: Document) -> Iterator[Block]:
    route = document.get("route") or {}
    if route.get("reasons"):
        yield Items("What follows for the steps", route["reasons"])
    if route.get("blocked"):
        yield Paragraph(f"Nothing is run: {', '.join(route['blocked'])}.")
    elif route.get("order"):
        yield Paragraph(f"Order of the steps: {', '.join(route['order'])}.")


def _ladder(document: Document) -> Iterator[Block]:
    ladder = document.get("ladder") or {}
    every = {metric for row in ladder.values() for metric in row}
    metrics = [m for m in METRICS if m in every] + sorted(every - set(METRICS))
    if metrics:
        yield Table(
            "what predictors without training reach on the eval windows",
            "l" + "r" * len(metrics),
            ("Predictor", *(title_of(metric) for metric in metrics)),
            [[name, *(number(row.get(m)) for m in metrics)] for name, row in ladder.items()],
        )


def _inputs(document: Document) -> Iterator[Block]:
    pairs = []
    for name, about in (document.get("inputs") or {}).items():
        if about:
            sizes = [f"{about[k]:,} {k}" for k in ("windows", "rows") if about.get(k) is not None]
            sizes += [f"width {about['width']}"] if about.get("width") is not None else []
            pairs.append((name.capitalize(), "; ".join([str(about.get("source", "")), *sizes])))
    how = "samples of the train side" if document.get("quick") else "every check at full size"
    yield Facts([*pairs, ("Time", f"{seconds(_seconds(document))}, {how}")])
