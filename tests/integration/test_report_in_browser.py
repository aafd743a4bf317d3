"""report.html of a finished run, opened by a real browser: complete, quiet, readable, offline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import pytest
import tiny

from lvm import cli
from lvm.audit.open import open_material
from lvm.audit.session import run_audit
from lvm.core.config.plain import to_dict
from lvm.core.config.run import RunConfig
from lvm.data.files import read_bank, write_bank
from lvm.data.load import DataRequest
from lvm.data.windows import Dataset
from lvm.triage.events import Audited, RunStarted, StepStarted, event_of
from lvm.triage.journal import SCHEMA, Journal, read_run
from lvm.triage.state import RunState
from lvm.triage.step import steps_in_order
from lvm.triage.verdict import build_verdict

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(browser.find_chromium() is None, reason=browser.MISSING),
]
SCREENS = {"light": {}, "dark": {"dark": True}, "phone": {"width": 390}}
MIN_CONTRAST = 4.5  # WCAG 2.2, level AA, text of normal size
# Colours of every element with text of its own, as (contrast, text), read as the eye gets them.
FAINT_TEXT = """(() => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1});
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const rgba = c => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = c; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data]; };
  const light = c => { const [r, g, b] = c.map(v => v / 255).map(v =>
      v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
      const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; }
    return [255, 255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('').trim();
    if (!text || e.closest('title') || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const a = light(rgba(svg ? style.fill : style.color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < LIMIT) found.push(`${ratio.toFixed(2)} ${text.slice(0, 40)}`);
  }
  return found;
})()"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder that holds nothing but its journal, and the report that `lvm report` wrote."""
    scratch = tmp_path_factory.mktemp("reported")
    made = tiny.bank()
    texts = [f"Chunk {c} of <article> {a} & its text." for a, c in made.keys.tolist()]
    manifest = {"titles": {str(a): f"Title {a}" for a in range(tiny.ARTICLES)}, "source": "rng"}
    write_bank(scratch / "bank", made.vectors, made.keys, manifest, texts)
    data = tiny.dataset(read_bank(scratch / "bank"))
    config = tiny.config(stage=0.999)
    journal = Journal(scratch / "work")
    journal.append(event_of(RunStarted, **_started(data, config)))
    request = DataRequest(bank=scratch / "bank")
    material = replace(open_material(request, config), dataset=data)
    _, audit = run_audit(material, allowed=(), progress=lambda *_: None, steps=steps_in_order())
    journal.append(event_of(Audited, audit=audit))
    tiny.triage(scratch / "work", data, config, num_steps=2, num_seeds=2)
    folder = scratch / "kept"
    folder.mkdir()
    (scratch / "work" / "journal.jsonl").rename(folder / "journal.jsonl")
    assert cli.main(["report", str(folder)]) == 0
    return folder


def _started(data: Dataset, config: RunConfig) -> dict[str, Any]:
    windows = {name: len(data.split(name)) for name in ("train", "dev", "test")}
    articles = {name: data.split(name).num_articles for name in windows}
    return {
        "schema": SCHEMA,
        "command": "python tune_jobs/triage.py --data bank",
        "arguments": {},
        "config": to_dict(config),
        "code": "test",
        "commit": None,
        "plan": [step.name for step in steps_in_order()],
        "identity": {},
        "environment": {
            "versions": {"python": "3"},
            "platform": "test",
            "cpus": 1,
            "memory_gib": 1.0,
        },
        "data": {
            "source": "bank",
            "rows": len(data.bank),
            "width": data.bank.width,
            "fingerprint": data.fingerprint,
            "windows": windows,
            "articles": articles,
        },
    }


@pytest.fixture(scope="module")
def events(run: Path) -> RunState:
    return read_run(run)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[browser.Page]:
    with browser.chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_is_quiet_offline_and_readable(run, page, screen, tmp_path) -> None:
    page.show(**SCREENS[screen])
    page.open((run / "report.html").as_uri())
    page.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.complaints == []
    assert page.requests == [(run / "report.html").as_uri()]
    assert page.ask(FAINT_TEXT.replace("LIMIT", str(MIN_CONTRAST))) == []
    width = SCREENS[screen].get("width", 1280)
    assert page.ask("document.documentElement.scrollWidth") == width  # only tables scroll sideways
    dark = page.ask("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(20, 24, 28)") == (screen == "dark")
    page.picture(tmp_path / f"{screen}.png")
    assert (tmp_path / f"{screen}.png").stat().st_size > 50_000


def test_what_a_person_looks_for_is_there(run, page, events) -> None:
    page.show()
    page.open((run / "report.html").as_uri())
    document = build_verdict(events, resume="")
    assert page.ask("document.querySelector('.badge').textContent") == document.verdict
    top = page.ask("document.querySelector('#verdict .lead').getBoundingClientRect().top")
    assert top < 300  # on the first screen
    assert document.headline in page.ask("document.querySelector('#verdict').innerText")
    places = page.ask("[...document.querySelectorAll('ol.tree > li')].map(e => e.innerText)")
    for step in document.steps:
        place = next(text for text in places if f"Step {step.number}: {step.title}" in text)
        assert all(arm.name in place for arm in step.arms)
    assert any(text.startswith(("○", "■")) for text in places)
    tables = page.ask("[...document.querySelectorAll('table')].map(e => e.rows.length)")
    assert len(tables) >= 8
    assert min(tables) >= 2


def test_every_plot_is_drawn_with_marks_and_said_in_words(run, page, events) -> None:
    page.show()
    page.open((run / "report.html").as_uri())
    plots = page.ask("""[...document.querySelectorAll('svg[role=img]')].map(e => ({
        said: e.getAttribute('aria-label'), box: e.getBoundingClientRect().toJSON(),
        marks: e.querySelectorAll('rect, circle, polygon, polyline').length}))""")
    said = [plot["said"] for plot in plots]
    for title in (
        "dev cosine per epoch",
        "dev R@5 per epoch",
        "test cosine",
        "test R@5",
        "True next chunk among the first k",
        "raw space",
        "projected space",
        "Contexts against the target",
        "gain over AR-only on test",
    ):
        assert any(title in text for text in said), title
    races = [e.arms for e in events.of(StepStarted) if e.number is not None or e.step == "phase_1"]
    raw = sum(any(arm.recipe.search_space == "raw" for arm in arms) for arms in races)
    assert sum("dev R@5 per epoch" in text for text in said) == len(races)
    assert sum("dev cosine per epoch" in text for text in said) == raw
    for plot in plots:
        assert plot["marks"] > 0, plot["said"]
        assert plot["box"]["width"] > 200
        assert plot["box"]["height"] > 50
        assert re.search(r"\d", plot["said"])


def test_windows_are_told_in_the_words_of_the_bank(run, page) -> None:
    page.open((run / "report.html").as_uri())
    text = page.ask("document.querySelector('#evidence').innerText")
    assert re.search(r"“Chunk \d+ of <article> \d+ & its text.” \(Title \d+, chunk \d+\)", text)


def test_the_page_can_be_used_without_a_mouse(run, page) -> None:
    page.show()
    page.open((run / "report.html").as_uri())
    page.press("Tab")
    assert page.ask("document.activeElement.className") == "skip"
    assert page.ask("document.activeElement.getBoundingClientRect().left") >= 0
    assert page.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    assert page.wait_for("document.activeElement.id === 'content'")
    seen = set()
    for _ in range(150):
        page.press("Tab")
        seen.add(page.ask("document.activeElement.tagName"))
        if page.ask("document.activeElement.matches('details:not([open]) > summary')"):
            break
    assert "DIV" in seen  # tables that scroll can be reached
    assert page.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    assert page.ask("document.activeElement.parentElement.open")
