"""The evidence behind the metrics: ranks, cosines, both spaces, and windows in words.

Everything is read from the `evidence` of the events `test_judged`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lvm.core.metrics import METRICS, Shown
from lvm.core.text import NONE, counted, number, title_of
from lvm.triage.events import TestJudged
from lvm.triage.events.evidence import EvidenceTold, Example, Reach
from lvm.views.report import (
    Block,
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
from lvm.views.report.models import model_name

Judged = tuple[TestJudged, EvidenceTold]
KINDS = {
    "hit": "Hits: the true next chunk ranks first",
    "near miss": "Near misses: the true next chunk ranks 2 to 10",
    "hub": "Misses that retrieve a hub: a row retrieved for many windows",
}


def evidence_section(run: Run) -> Iterator[Block]:
    """Yield distributions, the two spaces and examples; a note for a journal without them."""
    # Repeats look the same, and their curves would hide the others.
    judged = [
        (event, event.evidence)
        for event in run.state.of(TestJudged)
        if event.role != "repeat" and event.evidence is not None
    ]
    if not judged:
        yield Paragraph("This journal has no distributions or examples.", "note")
        return
    yield from _ranks(run, judged)
    yield from _spaces(run, judged)
    yield from _examples(run, judged)


# --- ranks ----------------------------------------------------------------------------------------


def _ranks(run: Run, judged: Sequence[Judged]) -> Iterator[Block]:
    size = judged[0][0].evaluation.pool.size
    yield Heading("Where the true next chunk ranks")
    yield Figure(
        evidence_plots.reach(run, judged),
        "Share of test windows whose true next chunk is among the first k rows retrieved.",
    )
    rows = [[model_name(e), e.evaluation.space, *_quartiles(found)] for e, found in judged]
    yield Table(
        f"rank of the true next chunk among {size:,} rows; 1 is best, {size / 2:,.0f} is chance",
        "llrrr",
        ("Model", "Space", "a quarter within", "half within (median)", "three quarters within"),
        rows,
    )
    places = judged[0][1].reach.k
    shown = [k for k in places if k <= 1000]
    table = Table(
        "share of windows with the true next chunk among the first k",
        "l" + "r" * len(shown),
        ("Model", *(f"{k:,}" for k in shown)),
        [[model_name(e), *_shares(found.reach, shown)] for e, found in judged],
    )
    yield Folded("The numbers of the plot", [table])


def _quartiles(evidence: EvidenceTold) -> list[str]:
    return [number(rank, 0) for rank in evidence.ranks]


def _shares(reach: Reach, shown: Sequence[int]) -> list[str]:
    at = dict(zip(reach.k, reach.share, strict=True))
    return [number(at.get(k)) for k in shown]


# --- spaces ---------------------------------------------------------------------------------------


def _spaces(run: Run, judged: Sequence[Judged]) -> Iterator[Block]:
    yield Heading("Cosines: own target against a target of another article")
    first = _first(run, judged)
    shown = [one for one in judged if one[0].role == "phase 1" or one[0].arm == first]
    yield Figure(
        evidence_plots.cosines(shown, judged),
        "All panels share the same horizontal axis. Projected and raw cosines do not compare; "
        "what counts is the distance between the two histograms.",
    )
    if others := [one for one in judged if one not in shown]:
        drawn = Figure(evidence_plots.cosines(others, judged), "The same axis as above.")
        yield Folded("Cosines of the other models", [drawn], only_html=True)
    rows = [row for one in judged for row in _space_rows(*one)]
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
    caption = "raw against projected space, test split; * marks the searched space"
    yield Table(caption, "llrrrr" + "r" * len(metrics), header, rows)
    said = [text for one in judged if (text := _in_both(*one))]
    if said:
        yield Items("What the head changes", said)
    else:
        yield Paragraph(
            "No judged model has a projection head, so there is only one space.", "note"
        )


def _space_rows(event: TestJudged, evidence: EvidenceTold) -> Iterator[list[str]]:
    for name, space in evidence.spaces.items():
        mark = "*" if name == event.evaluation.space else ""
        paired, shuffled = space.paired_mean, space.shuffled_mean
        yield [
            model_name(event),
            f"{name}{mark}",
            number(paired),
            number(shuffled),
            number(None if paired is None or shuffled is None else paired - shuffled, sign=True),
            _percent(space.closer),
            *(number(space.of(metric)) for metric in METRICS.shown(Shown.SPACES)),
        ]


def _in_both(event: TestJudged, evidence: EvidenceTold) -> str:
    """Compare the two spaces of a model in words; "" for a model without a head."""
    spaces = evidence.spaces
    if len(spaces) < 2:
        return ""
    raw, head = spaces["raw"], spaces["projected"]

    def change(key: str) -> str:
        return f"{number(raw.of(key))} to {number(head.of(key))}"

    return (
        f"{model_name(event)}: from the raw to the projected space, the cosine with the own "
        f"target goes from {change('paired_mean')} and the cosine with another's target from "
        f"{change('shuffled_mean')}; R@5 goes from {change('r_at_5')} and MRR from "
        f"{change('mrr')}."
    )


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}%"


# --- windows in words -----------------------------------------------------------------------------


def _examples(run: Run, judged: Sequence[Judged]) -> Iterator[Block]:
    yield Heading("What was retrieved, in words")
    yield Paragraph(
        "Windows drawn at random from the test split, per kind and from as many articles as "
        "possible. Own contexts are masked.",
        "note",
    )
    about = judged[0][1]
    if about.source:
        licence = f", {about.licence}" if about.licence else ""
        yield Paragraph(f"Texts, shortened: {about.source}{licence}.", "note")
    if not any(word.text for word in about.words.values()):
        yield Paragraph("The bank has no texts, so rows are shown as keys.", "note")
    first = _first(run, judged)
    for event, evidence in sorted(judged, key=lambda one: one[0].arm != first):
        shown = event.arm == first
        yield Folded(model_name(event), list(_of_model(evidence)), shown, only_html=not shown)


def _first(run: Run, judged: Sequence[Judged]) -> str:
    """Return the arm to show first: the one behind the verdict, or the last."""
    return run.summary.arm.id if run.summary.arm else judged[-1][0].arm


def _of_model(evidence: EvidenceTold) -> Iterator[Block]:
    found, windows = evidence.found, evidence.windows
    yield Paragraph(
        f"Of {counted(windows, 'window')}, {found.hit:,} are hits, {found.near_miss:,} near "
        f"misses and {found.miss:,} misses.{_hubs(evidence)}"
    )
    for kind, title in KINDS.items():
        mine = [example for example in evidence.examples if example.kind == kind]
        yield Paragraph(title if mine else f"{title}: none.", "label")
        for example in mine:
            yield Facts(list(_example(evidence, example)))


def _hubs(evidence: EvidenceTold) -> str:
    """Name the row that is retrieved most often."""
    if not evidence.hubs:
        return ""
    hub = evidence.hubs[0]
    share = hub.windows / evidence.windows
    return (
        f" The row retrieved most often, {_place(evidence, hub.row)}, is among the first ten of "
        f"{counted(hub.windows, 'window')} ({share:.1%})."
    )


def _example(evidence: EvidenceTold, example: Example) -> Iterator[tuple[str, str]]:
    names = ("context before", "last context")
    for name, row in zip(names[-len(example.contexts) :], example.contexts, strict=True):
        yield name, _quoted(evidence, row)
    rank = f"{example.rank:,g}"
    target = _quoted(evidence, example.target)
    yield "true next", f"{target} Rank {rank}, cosine {number(example.cosine)}."
    for place, (row, score) in enumerate(zip(example.retrieved, example.scores, strict=True), 1):
        yield f"retrieved {place}", _retrieved(evidence, example, row, score)


def _retrieved(evidence: EvidenceTold, example: Example, row: int, score: float) -> str:
    note = f"Cosine {number(score)}"
    if row == example.target:
        return f"The true next. {note}."
    times = {hub.row: hub.windows for hub in evidence.hubs}
    if row in times:
        note += f"; a hub, among the first ten of {counted(times[row], 'window')}"
    return f"{_quoted(evidence, row)} {note}."


def _quoted(evidence: EvidenceTold, row: int) -> str:
    """Return the text of a row and its place, or its place alone."""
    word = evidence.words.get(str(row))
    text = word.text if word else None
    place = _place(evidence, row)
    return f"“{text}” ({place})." if text else f"{place[:1].upper()}{place[1:]}."


def _place(evidence: EvidenceTold, row: int) -> str:
    word = evidence.words.get(str(row))
    if word is None:
        return f"row {row:,}"
    article, chunk = word.key
    title = evidence.titles.get(str(article))
    return f"{title or f'article {article}'}, chunk {chunk}"
