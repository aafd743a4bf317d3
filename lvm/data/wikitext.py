"""The sentences of a Wikipedia article, without its markup."""

from __future__ import annotations

import html
import re

_APPENDIX = re.compile(
    r"^==\s*(?:References|See also|External links|Notes|Further reading|Notes and references|"
    r"Footnotes|Bibliography|Citations|Sources)\s*==",
    re.I | re.M,
)
# Possessive quantifiers (*+) below: what they take is never tried again in shorter pieces, so that
# the time stays proportional to the text, whatever it is.
_EMPTY_REFERENCE = re.compile(r"<ref\b[^<>]*/>", re.I)
_TAGS_WITHOUT_TEXT = (
    "math",
    "gallery",
    "timeline",
    "imagemap",
    "source",
    "syntaxhighlight",
    "score",
    "hiero",
    "chem",
    "table",
)
MOST_NESTED_LINKS = 20  # a link in the caption of a picture is the second level
_BREAKING_TAG = re.compile(r"</?(?:br|hr|p|div|center|blockquote|[uod]l|li|d[dt])\b[^<>]*>", re.I)
_CONVERT = re.compile(r"\{\{\s*(?:convert|cvt)\s*\|([^{}|]*+)\|([^{}|]*+)[^{}]*+\}\}", re.I)
_SHOWN_TEXT = re.compile(
    r"\{\{\s*(?:lang\s*\|[^{}|]*+|transl\s*\|[^{}|]*+|nowrap|small|nobold)\s*\|([^{}|]*)\}\}", re.I
)
_WEB_LINK = re.compile(r"\[(?:https?:|ftp:|mailto:)?//?[^\s\[\]]*+\s*+([^\[\]]*+)\]")
_INNER_LINK = re.compile(r"\[\[((?:[^\[\]]|\[(?!\[)|\](?!\]))*)\]\]")
_NO_TEXT_LINK = re.compile(r"\s*(?:File|Image|Media|Category|[a-z]{2,3}(?:-[a-z]+)*)\s*:", re.I)
_EMPTY_BRACKETS = re.compile(r"\([,;:/\s]*+\)")
_SENTENCE_END = re.compile(r"[.!?。！？][\"')\]”’»]*$")


def clean_wikitext(markup: str) -> str:
    """Return the sentences of an article, one paragraph per line group, without wiki markup.

    Cut before the appendices (References, See also, ...); tables, templates, references, media,
    formulas and comments go, links and quotes keep what a reader sees. A line that ends no sentence
    (heading, caption, item of a plain list) is dropped.
    """
    text = re.sub(r"<!--.*?(?:-->|\Z)", "", markup, flags=re.S)
    text = html.unescape(_without_references(text))
    for name in _TAGS_WITHOUT_TEXT:
        text = _without_tag(text, name)
    text = _without_references(text)
    if appendix := _APPENDIX.search(text):
        text = text[: appendix.start()]
    text = _SHOWN_TEXT.sub(r"\1", _CONVERT.sub(r"\1 \2", text))
    text = _drop_nested(_drop_nested(text, "{{", "}}"), "{|", "|}")
    text = _replace_links(_WEB_LINK.sub(r"\1", text))
    text = re.sub(r"'{2,}|__[A-Z]+__|</?[a-zA-Z][^<>]*>", "", _BREAKING_TAG.sub(" ", text))
    text = _EMPTY_BRACKETS.sub("", text)
    text = re.sub(r"[ \t\u00a0]+([,.;:)])|[ \t\u00a0]+", lambda m: m[1] or " ", text)
    lines = (line.strip().lstrip("*#:;., ") for line in text.splitlines())
    return "\n\n".join(
        line for line in lines if _SENTENCE_END.search(line) and line[0] not in "=|!{"
    )


def _without_references(text: str) -> str:
    return _EMPTY_REFERENCE.sub("", _without_tag(text, "ref"))


def _without_tag(text: str, name: str) -> str:
    """Remove every <name ...> with what follows up to its </name>; one that stays open stays.

    After the last </name> nothing is looked for: each opening would be followed to the end.
    """
    end = 0
    for closing in re.finditer(rf"</{name}\s*+>", text, re.I):
        end = closing.end()
    # <ref name="x"/> opens nothing.
    whole = rf"<{name}\b[^<>]*(?<!/)>.*?</{name}\s*+>"
    return re.sub(whole, "", text[:end], flags=re.I | re.S) + text[end:]


def _drop_nested(text: str, opening: str, closing: str) -> str:
    """Remove every outermost `opening ... closing`; an opening that is never closed stays."""
    starts: list[int] = []
    spans: list[tuple[int, int]] = []
    for mark in re.finditer(f"{re.escape(opening)}|{re.escape(closing)}", text):
        if mark[0] == opening:
            starts.append(mark.start())
        elif starts:
            spans.append((starts.pop(), mark.end()))
    kept, position = [], 0
    for start, end in sorted(spans):
        if start >= position:
            kept.append(text[position:start])
            position = end
    return "".join([*kept, text[position:]])


def _replace_links(text: str) -> str:
    """Replace [[page|label]] by its label, from the innermost outwards, and drop media links."""

    def shown(link: re.Match[str]) -> str:
        return "" if _NO_TEXT_LINK.match(link[1]) else link[1].rsplit("|", 1)[-1]

    for _ in range(MOST_NESTED_LINKS):
        text, replaced = _INNER_LINK.subn(shown, text)
        if not replaced:
            break
    return text
