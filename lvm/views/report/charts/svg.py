"""Elements of SVG and HTML as text: the style of a series, and its legend."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

MARKERS = ("circle", "square", "diamond", "triangle")
NUM_COLOURS = 7  # of the style sheet
CORNERS = {  # of a marker around its centre
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "diamond": ((0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)),
    "triangle": ((0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
}


def tag(name: str, *inside: str, **attributes: float | str) -> str:
    """Return an element around finished markup; attributes are escaped, floats have one decimal.

    An attribute that is a Python keyword ends in "_", "_" inside a name becomes "-", and an
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


# --- series ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """Colour and marker of a series; the colour is a class of the style sheet."""

    colour: str
    marker: str = "circle"
    dashed: bool = False

    @property
    def line(self) -> str:
        """Class of its line."""
        return "curve dashed" if self.dashed else "curve"


def style_of(place: int, *, grey: bool = False, dashed: bool = False) -> Style:
    """Return the style of the series at a place in a list; a reference is grey."""
    colour = "grey" if grey else f"c{place % NUM_COLOURS + 1}"
    return Style(colour, MARKERS[place % len(MARKERS)], dashed)


def marker(kind: str, x: float, y: float, size: float = 3.5) -> str:
    """Return a marker around a point."""
    if kind == "circle":
        return tag("circle", class_="mark", cx=x, cy=y, r=size)
    path = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in CORNERS[kind])
    return tag("polygon", class_="mark", points=path)


# --- legends --------------------------------------------------------------------------------------


def legend(*entries: tuple[str, str]) -> str:
    """Return a legend: samples, and what they mean in words."""
    items = (tag("li", sample, escape(text)) for sample, text in entries)
    return tag("ul", *items, class_="legend")


def wide(drawing: str, *entries: tuple[str, str]) -> str:
    """Return one large drawing with its legend."""
    return tag("div", drawing, legend(*entries), class_="wide")


def line_sample(style: Style, *, lined: bool = True, marked: bool = True) -> str:
    """Return a sample of a line with its marker, or of one of the two."""
    line = tag("line", class_=style.line, x1=1, x2=29, y1=6, y2=6) if lined else ""
    return sample(line, marker(style.marker, 15, 6, 4) if marked else "", colour=style.colour)


def sample(*parts: str, colour: str = "") -> str:
    """Return a small drawing for a legend."""
    return tag("svg", tag("g", *parts, class_=colour), viewBox="0 0 30 12", aria_hidden="true")


def swatch(kind: str) -> str:
    """Return a small area for a legend."""
    return tag("span", "", class_=f"swatch {kind}")
