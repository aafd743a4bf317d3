"""Write the blocks of a report as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lvm.records import Verdict
from lvm.report import (
    Block,
    Facts,
    Figure,
    Heading,
    Items,
    Paragraph,
    Preformatted,
    Section,
    Table,
    tone,
)

WORDS = sorted((str(verdict) for verdict in Verdict), key=len, reverse=True)


def render(sections: Sequence[Section], verdict: str, title: str = "Triage report") -> str:
    """Return the sections as a page; every text in it is escaped."""
    links = "".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in sections)
    body = "".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}: {escape(verdict)}</title>\n<style>{STYLE}</style>\n"
        "</head>\n<body>\n"
        f'<header><h1>{escape(title)}</h1><p class="badge {tone(verdict)}">'
        f"{escape(verdict)}</p></header>\n"
        f'<nav aria-label="Sections">{links}</nav>\n<main>{body}</main>\n</body>\n</html>\n'
    )


def _section(section: Section) -> str:
    blocks = "\n".join(_block(block) for block in section.blocks)
    return (
        f'<section id="{section.name}" aria-labelledby="{section.name}-title">\n'
        f'<h2 id="{section.name}-title">{escape(section.title)}</h2>\n{blocks}\n</section>\n'
    )


def _block(block: Block) -> str:
    match block:
        case Paragraph(text=text, tone="warning"):
            return f'<p class="warning" role="note"><strong>Warning:</strong> {escape(text)}</p>'
        case Paragraph(text=text, tone=kind):
            return f'<p class="{kind or "text"}">{escape(text)}</p>'
        case Heading(text=text, verdict=""):
            return f"<h3>{escape(text)}</h3>"
        case Heading(text=text, gate=gate, verdict=verdict):
            return f"<h3>{escape(text)} <small>{escape(gate)}</small> {_word(verdict)}</h3>"
        case Items(label=label, items=items):
            listed = "".join(f"<li>{escape(item)}</li>" for item in items)
            return f'<h4>{escape(label)}</h4><ul class="items">{listed}</ul>'
        case Facts(pairs=pairs):
            listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in pairs)
            return f"<dl>{listed}</dl>"
        case Preformatted(only_markdown=True):
            return ""
        case Preformatted(text=text):
            return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
        case Table():
            return _table(block)
        case Figure(markup=markup, caption=caption):
            return f"<figure>{markup}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col" class="{align}">{escape(cell)}</th>'
        for align, cell in zip(table.align, table.header, strict=True)
    )
    rows = "".join(_row(table, index, row) for index, row in enumerate(table.rows))
    return (
        f'<p class="caption" aria-hidden="true">{escape(table.caption)}</p><div class="scroll" '
        f'role="region" aria-label="{escape(table.caption)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(table: Table, index: int, row: Sequence[str]) -> str:
    first, *rest = row
    cells = f'<th scope="row" class="{table.align[0]}">{escape(first)}</th>'
    cells += "".join(
        f'<td class="{align}{" long" if len(cell) > 40 else ""}">{_cell(cell)}</td>'
        for align, cell in zip(table.align[1:], rest, strict=True)
    )
    return f'<tr class="strong">{cells}</tr>' if index in table.strong else f"<tr>{cells}</tr>"


def _cell(cell: str) -> str:
    """Return an escaped cell; a verdict at its start and an interval at its end are set off."""
    word = next((word for word in WORDS if cell == word or cell.startswith(f"{word} ")), "")
    value, bracket, rest = cell.removeprefix(word).strip(), "", ""
    if cell.endswith("]"):
        value, bracket, rest = value.partition(" [")
    parts = [_word(word) if word else "", escape(value)]
    if bracket:
        parts.append(f'<span class="interval">[{escape(rest)}</span>')
    return " ".join(part for part in parts if part)


def _word(verdict: str) -> str:
    return f'<span class="word {tone(verdict)}">{escape(verdict)}</span>'


STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfb; --panel: #f4f4f1; --ink: #1d2329;
  --soft: #5b656f; --line: #dcdedb; --accent: #1f5f8b; --pass: #1a6b3c; --fail: #a3332c;
  --unsure: #8a5a00; --none: #5b656f; --wash: #fdf4e0; --ladder: #b4bac0;
  --c1: #1f6fa8; --c2: #b8551b; --c3: #2b7a57; --c4: #8b4f9e; --c5: #8a6d00; --c6: #b03a68;
  --c7: #3d7f8c; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --panel: #1c2227; --ink: #e4e7ea;
  --soft: #9aa5af; --line: #333b43; --accent: #7db8e0; --pass: #6fca92; --fail: #f0908a;
  --unsure: #e4b45c; --none: #9aa5af; --wash: #2b2415; --ladder: #56616b;
  --c1: #6db3e8; --c2: #ee9a63; --c3: #6cc79c; --c4: #c793d9; --c5: #d8b94a; --c6: #ee85ae;
  --c7: #79c3d1; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 72rem; padding: 2.5rem 1.25rem 5rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem 1rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3.5rem 0 1rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
#verdict h2 { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  margin: 0; padding: 0; border: 0; }
h3 { font-size: 1.08rem; margin: 2.5rem 0 .75rem; }
h4 { font-size: .9rem; margin: 1.25rem 0 .25rem; color: var(--soft); font-weight: 600; }
p { margin: .75rem 0; max-width: 46rem; }
.badge { margin: 0; padding: .2rem .7rem; border: 1.5px solid; border-radius: 1rem;
  font-weight: 600; font-size: .85rem; letter-spacing: .03em; }
.lead { font-size: 1.2rem; line-height: 1.5; font-weight: 500; margin: 1.5rem 0 1rem; }
.note, figcaption, .caption, small { color: var(--soft); font-size: .875rem; }
.warning { background: var(--wash); border-left: 4px solid var(--unsure); padding: .75rem 1rem;
  border-radius: 0 .4rem .4rem 0; }
.pass { color: var(--pass); } .fail { color: var(--fail); } .unsure { color: var(--unsure); }
.none { color: var(--none); }
.word { font-weight: 600; font-size: .85em; letter-spacing: .02em; white-space: nowrap; }
h3 small { font-weight: 400; margin-left: .5rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.25rem; margin: 1rem 0 0; font-size: .9rem; }
a { color: var(--accent); text-underline-offset: .2em; }
a:focus-visible, [tabindex]:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
dl { display: grid; grid-template-columns: minmax(7rem, 13rem) 1fr; gap: .4rem 1.25rem;
  margin: 1rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; max-width: 46rem; }
.items { margin: .25rem 0 1rem; padding-left: 1.15rem; max-width: 50rem;
  overflow-wrap: anywhere; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem;
  padding: .75rem 1rem; overflow-x: auto;
  font: .875rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.scroll { overflow-x: auto; margin: .25rem 0 1.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums;
  width: 100%; line-height: 1.4; }
.caption { margin: 1.25rem 0 0; }
.caption::first-letter, .plot-title::first-letter { text-transform: uppercase; }
th, td { padding: .42rem .55rem; text-align: left; vertical-align: top; white-space: nowrap;
  border-top: 1px solid var(--line); }
th:first-child { padding-left: 0; }
thead th { white-space: normal; vertical-align: bottom; font-weight: 600;
  color: var(--soft); border-top: 0; border-bottom: 1px solid var(--soft); }
tbody th { font-weight: 400; }
.strong th, .strong td { font-weight: 650; background: var(--panel); }
.r { text-align: right; } tbody th { white-space: normal; min-width: 10rem; max-width: 16rem; }
.interval { display: block; color: var(--soft); font-size: .92em; }
td.long { white-space: normal; min-width: 15rem; }
figure { margin: 1.5rem 0; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr));
  gap: 1.25rem 2rem; }
.plot-title { margin: 0 0 .3rem; font-size: .9rem; font-weight: 600; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--soft); font-size: 12px; } svg .name { fill: var(--ink); font-weight: 500; }
.tree { max-width: 32rem; } .tree svg text { font-size: 13px; }
.grid { stroke: var(--line); stroke-width: 1; }
.gate { stroke: var(--unsure); stroke-width: 1.5; }
.rung { stroke: var(--soft); stroke-dasharray: 2 3; }
svg text.gate, svg text.rung { stroke: none; font-size: 11px; }
svg text.gate { fill: var(--unsure); }
.curve { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.dashed { stroke-dasharray: 5 4; } .mark { fill: currentColor; }
.c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } .c6 { color: var(--c6); }
.c7 { color: var(--c7); } .grey { color: var(--soft); }
.bar { fill: var(--ladder); } .bar.model { fill: var(--c1); }
.whisker { stroke: currentColor; stroke-width: 1.5; }
.area { fill: currentColor; fill-opacity: .3; stroke: currentColor; stroke-width: 1.5; }
rect.band { fill: var(--ladder); fill-opacity: .35; }
.panel .note { margin: .25rem 0 0; }
.trunk { stroke: var(--soft); stroke-width: 2; } .trunk.dashed { stroke-dasharray: 2 5; }
.node { fill: currentColor; stroke: var(--paper); stroke-width: 2; }
.node.open { fill: var(--paper); stroke: var(--soft); }
svg .word { fill: currentColor; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; padding: 0;
  margin: .75rem 0 .25rem; font-size: .875rem; }
.legend li { display: flex; align-items: center; gap: .45rem; }
.legend svg { width: 30px; flex: none; }
.swatch { width: 1.1rem; height: .6rem; border-radius: 2px; background: var(--ladder); }
.swatch.model { background: var(--c1); }
.swatch.area { background: color-mix(in srgb, var(--c1) 30%, transparent);
  border: 1.5px solid var(--c1); }
.swatch.band { opacity: .35; }
@media (max-width: 36rem) { body { padding: 1.5rem 1rem 3rem; } dl { display: block; }
  dd { margin: 0 0 .6rem; } h2 { margin-top: 2.5rem; } svg text { font-size: 14px; }
  svg text.gate, svg text.rung { font-size: 12px; } }
@media print { nav { display: none; } body { max-width: none; }
  figure, tr { break-inside: avoid; } }
"""
