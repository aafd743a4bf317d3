"""Write the blocks of a report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from lvm.core.records import Verdict
from lvm.views.report import (
    Block,
    Facts,
    Figure,
    Folded,
    Heading,
    Items,
    Paragraph,
    Preformatted,
    Section,
    Table,
    tone,
)

LONG_TABLE = 14  # rows; a longer one can be folded away
WORDS = sorted((str(verdict) for verdict in Verdict), key=len, reverse=True)


STYLE = files("lvm.views.report").joinpath("page.css").read_text(encoding="utf-8")


def render(sections: Sequence[Section], verdict: str, title: str = "Triage report") -> str:
    """Return the sections as a page; every text in it is escaped."""
    links = "".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in sections)
    body = "".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}: {escape(verdict)}</title>\n<style>\n{STYLE}</style>\n"
        '</head>\n<body>\n<a class="skip" href="#content">Skip to the content</a>\n'
        f'<header><h1>{escape(title)}</h1><p class="badge {tone(verdict)}">'
        f"{escape(verdict)}</p></header>\n"
        f'<nav aria-label="Sections">{links}</nav>\n<main id="content" tabindex="-1">{body}'
        "</main>\n</body>\n</html>\n"
    )


def fragment(blocks: Sequence[Block]) -> str:
    """Return blocks as HTML to embed in another page; every text in it is escaped."""
    return f"<div>{''.join(_block(block) for block in blocks)}</div>"


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
            return f"<h3>{escape(text)} <small>{escape(gate)}</small> {colour_word(verdict)}</h3>"
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
        case Folded(summary=summary, blocks=blocks, shown=shown):
            inside = "".join(_block(inner) for inner in blocks)
            start = "<details open>" if shown else "<details>"
            return f"{start}<summary>{escape(summary)}</summary>{inside}</details>"


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col" class="{align}">{escape(cell)}</th>'
        for align, cell in zip(table.align, table.header, strict=True)
    )
    rows = "".join(_row(table, index, row) for index, row in enumerate(table.rows))
    caption = escape(table.caption)
    region = (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    if len(table.rows) > LONG_TABLE:
        return f'<details class="long" open><summary>{caption}</summary>{region}</details>'
    return f'<p class="caption" aria-hidden="true">{caption}</p>{region}'


def _row(table: Table, index: int, row: Sequence[str]) -> str:
    first, *rest = row
    cells = f'<th scope="row" class="{table.align[0]}">{escape(first)}</th>'
    cells += "".join(
        f'<td class="{align}{" long" if len(cell) > 40 else ""}">{_cell(cell)}</td>'
        for align, cell in zip(table.align[1:], rest, strict=True)
    )
    return f'<tr class="strong">{cells}</tr>' if index in table.strong else f"<tr>{cells}</tr>"


def _cell(cell: str) -> str:
    """Return an escaped cell; a verdict at its start and an interval at its end are styled."""
    word = next((word for word in WORDS if cell == word or cell.startswith(f"{word} ")), "")
    value, bracket, rest = cell.removeprefix(word).strip(), "", ""
    if cell.endswith("]"):
        value, bracket, rest = value.partition(" [")
    parts = [colour_word(word) if word else "", escape(value)]
    if bracket:
        parts.append(f'<span class="interval">[{escape(rest)}</span>')
    return " ".join(part for part in parts if part)


def colour_word(verdict: str) -> str:
    """Return a verdict in the colour of its tone."""
    return f'<span class="word {tone(verdict)}">{escape(verdict)}</span>'
