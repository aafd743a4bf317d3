"""Elements of SVG and HTML as text."""

from __future__ import annotations

from html import escape


def tag(name: str, *inside: str, **attributes: float | str) -> str:
    """Return an element around finished markup; attributes are escaped, floats have one decimal.

    An attribute that is a word of Python ends in "_", "_" inside a name stands for "-", and an
    attribute without a value is left out.
    """
    start = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value != ""
    )
    return f"<{start}>{''.join(inside)}</{name}>" if inside else f"<{start}/>"


def _value(value: float | str) -> str:
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value))


def words(text: str, x: float, y: float, kind: str = "", anchor: str = "") -> str:
    """Return text at a point of a drawing."""
    return tag("text", escape(text), class_=kind, x=x, y=y, text_anchor=anchor)
