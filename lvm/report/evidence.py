"""What stands behind the metrics: ranks, cosines, both spaces, and windows in words.

Everything is read from the `evidence` of the events `test_judged`. A journal from before there was
any is reported without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lvm.triage.events import TestJudged
from lvm.metrics import METRICS, Shown
from lvm.report import (
    Block,
    Event,
    Facts,
    Figure,
    Folded,
    Heading,
    Items,
    Paragraph,
    Run,
    Table,
    evidence_plots,
)
from lvm.report.models import model_name
from lvm.text import NONE, counted, number, title_of

Evidence = Mapping[str, Any]
KINDS = {
    "hit": "Hits: the true next comes first",
    "near miss": "Near misses: the true next comes at places 2 to 10",
    "hub": "Misses that lead to a hub: a row that is retrieved for many windows",
}


def evidence_section(run: Run) -> Iterator[Block]:
    """Yield distributions, the two spaces and examples; a note for a journal without them."""
    # What repeated seeds left has the same shape, and would hide it in a crowd of curves.
    known = [event for event in run.all(TestJudged) if event.get("role") != "repeat"]
    judged = [event for event in known if event.get("evidence")]
    if not judged:
        yield Paragraph("This journal holds no distributions and no examples.", "note")
        return
    yield from _ranks(run, judged)
    yield from _spaces(run, judged)
    yield from _examples(run, judged)


# --- ranks ----------------------------------------------------------------------------------------


def _ranks(run: Run, judged: Sequence[Event]) -> Iterator[Block]:
    size = judged[0].evaluation.pool.size
    yield Heading("Where the true next is found")
    yield Figure(
        evidence_plots.reach(run, judged),
        "Share of test windows whose true next is among the first k rows retrieved.",
    )
    rows = [[model_name(e), e.evaluation.space, *_quartiles(e.evidence)] for e in judged]
    yield Table(
        f"rank of the true next among {size:,} rows; 1 is best, {size / 2:,.0f} is chance",
        "llrrr",
        ("Model", "Space", "a quarter within", "half within (median)", "three quarters within"),
        rows,
    )
    places = judged[0].evidence.reach.k
    shown = [k for k in places if k <= 1000]
    table = Table(
        "share of windows with the true next among the first k",
        "l" + "r" * len(shown),
        ("Model", *(f"{k:,}" for k in shown)),
        [[model_name(e), *_shares(e.evidence.reach, shown)] for e in judged],
    )
    yield Folded("The numbers of the plot", [table])


def _quartiles(evidence: Evidence) -> list[str]:
    return [number(rank, 0) for rank in evidence.ranks]


def _shares(reach: Mapping[str, Any], shown: Sequence[int]) -> list[str]:
    at = dict(zip(reach.k, reach.share, strict=True))
    return [number(at.get(k)) for k in shown]


# --- spaces ---------------------------------------------------------------------------------------


def _spaces(run: Run, judged: Sequence[Event]) -> Iterator[Block]:
    yield Heading("Cosines: own target against that of another article")
    first = _first(run, judged)
    shown = [e for e in judged if e.role == "phase 1" or e.arm == first]
    yield Figure(
        evidence_plots.cosines(shown, judged),
        "Every panel has the same horizontal axis. A cosine behind a head does not compare with "
        "one in the raw space: what counts is how far the two histograms lie apart.",
    )
    if others := [event for event in judged if event not in shown]:
        drawn = Figure(evidence_plots.cosines(others, judged), "The same axis as above.")
        yield Folded("Cosines of the other models", [drawn], only_html=True)
    rows = [row for event in judged for row in _space_rows(event)]
    metrics = METRICS.shown(Shown.SPACES)
    header = (
        "Model",
        "Space",
        "Own target",
        "Another's",
        "Difference",
        "Own is closer",
        *map(title_of, metrics),
    )
    caption = "raw against projected space, test split; * is the space of the search"
    yield Table(caption, "llrrrr" + "r" * len(metrics), header, rows)
    said = [text for event in judged if (text := _in_both(event))]
    if said:
        yield Items("What the head changes", said)
    else:
        yield Paragraph("No judged model has a projection head: there is one space.", "note")


def _space_rows(event: Event) -> Iterator[list[str]]:
    for name, space in event.evidence.spaces.items():
        mark = "*" if name == event.evaluation.space else ""
        paired, shuffled = space.paired_mean, space.shuffled_mean
        known = paired is not None and shuffled is not None
        yield [
            model_name(event),
            f"{name}{mark}",
            number(paired),
            number(shuffled),
            number(paired - shuffled, sign=True) if known else NONE,
            _percent(space.closer),
            *(number(space.get(metric)) for metric in METRICS.shown(Shown.SPACES)),
        ]


def _in_both(event: Event) -> str:
    """Compare the two spaces of a model in words; "" for a model without a head."""
    spaces = event.evidence.spaces
    if len(spaces) < 2:
        return ""
    raw, head = spaces.raw, spaces.projected

    def change(key: str) -> str:
        return f"{number(raw[key])} to {number(head[key])}"

    return (
        f"{model_name(event)}: from the raw to the projected space the cosine with the own target "
        f"goes from {change('paired_mean')} and that with another's from {change('shuffled_mean')};"
        f" R@5 goes from {change('r_at_5')} and MRR from {change('mrr')}."
    )


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}%"


# --- windows in words -----------------------------------------------------------------------------


def _examples(run: Run, judged: Sequence[Event]) -> Iterator[Block]:
    yield Heading("What was retrieved, in words")
    yield Paragraph(
        "Windows of the test split, drawn at random among those of their kind and of as many "
        "articles as there are. Own contexts are left out of what is retrieved.",
        "note",
    )
    about = judged[0].evidence
    if about.get("source"):
        licence = f", {about.licence}" if about.get("licence") else ""
        yield Paragraph(f"Texts, shortened: {about.source}{licence}.", "note")
    if not any(word.text for word in about.get("words", {}).values()):
        yield Paragraph("The bank has no texts, so rows are shown by their keys.", "note")
    first = _first(run, judged)
    for event in sorted(judged, key=lambda e: e.arm != first):
        shown = event.arm == first
        yield Folded(model_name(event), list(_of_model(event)), shown, only_html=not shown)


def _first(run: Run, judged: Sequence[Event]) -> str:
    """Return the arm that a reader looks for first: the one behind the verdict, or the last."""
    return str((run.document.get("arm") or {}).get("id", judged[-1].arm))


def _of_model(event: Event) -> Iterator[Block]:
    evidence = event.evidence
    found, windows = evidence.found, evidence.windows
    yield Paragraph(
        f"Of {counted(windows, 'window')}, {found.hit:,} are hits, {found['near miss']:,} near "
        f"misses and {found.miss:,} misses.{_hubs(evidence)}"
    )
    for kind, title in KINDS.items():
        mine = [example for example in evidence.examples if example.kind == kind]
        yield Paragraph(title if mine else f"{title}: there are none.", "label")
        for example in mine:
            yield Facts(list(_example(evidence, example)))


def _hubs(evidence: Evidence) -> str:
    """Name the row that is retrieved most often."""
    if not evidence.hubs:
        return ""
    hub = evidence.hubs[0]
    share = hub.windows / evidence.windows
    return (
        f" The row retrieved most often, {_place(evidence, hub.row)}, is among the first ten of "
        f"{counted(hub.windows, 'window')} ({share:.1%})."
    )


def _example(evidence: Evidence, example: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = ("context before", "last context")
    for name, row in zip(names[-len(example.contexts) :], example.contexts, strict=True):
        yield name, _quoted(evidence, row)
    rank = f"{example.rank:,g}"
    target = _quoted(evidence, example.target)
    yield "true next", f"{target} Rank {rank}, cosine {number(example.cosine)}."
    for place, (row, score) in enumerate(
        zip(example.retrieved, example.scores, strict=True), 1
    ):
        yield f"retrieved {place}", _retrieved(evidence, example, row, score)


def _retrieved(evidence: Evidence, example: Mapping[str, Any], row: int, score: float) -> str:
    note = f"Cosine {number(score)}"
    if row == example.target:
        return f"The true next. {note}."
    times = {hub.row: hub.windows for hub in evidence.hubs}
    if row in times:
        note += f"; a hub, among the first ten of {counted(times[row], 'window')}"
    return f"{_quoted(evidence, row)} {note}."


def _quoted(evidence: Evidence, row: int) -> str:
    """Return the text of a row and its place, or its place alone."""
    text = evidence.get("words", {}).get(str(row), {}).get("text")
    place = _place(evidence, row)
    return f"“{text}” ({place})." if text else f"{place[:1].upper()}{place[1:]}."


def _place(evidence: Evidence, row: int) -> str:
    word = evidence.get("words", {}).get(str(row))
    if word is None:
        return f"row {row:,}"
    article, chunk = word.key
    title = evidence.get("titles", {}).get(str(article))
    return f"{title or f'article {article}'}, chunk {chunk}"
