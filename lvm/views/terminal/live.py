"""Frames at the bottom of a terminal, redrawn four times a second while something runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live


class LiveFrames(ABC):
    """A context that draws what `_render` returns; it draws nothing if not on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, highlight=False)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self.console,
                transient=True,
                refresh_per_second=4,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    @abstractmethod
    def _render(self) -> RenderableType:
        """Return the current frame."""
