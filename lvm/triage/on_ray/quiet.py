"""Silence Ray's output, and import it in the environment that it reads then.

The terminal belongs to the triage and standard output to its answer. Ray, Tune and Train write to
both unless configured otherwise before their import.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from lvm.core.errors import MissingExtraError
from lvm.triage.local_head import ray_environment
from lvm.triage.on_ray.handles import Ray


def import_ray(*, tune: bool = True) -> Ray:
    """Return ray with ray.tune, imported in its environment: they read it at their import."""
    os.environ.update(ray_environment())
    try:
        import ray

        if tune:
            import ray.tune
        module: Ray = ray
    except ImportError:
        raise MissingExtraError("ray[default,tune,train]", "dev", "a triage on Ray") from None
    return module


class _OfMainThread:
    """A stream to which only the main thread's words go: what a person is to read is said there."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the main thread's words, drop those of all others."""
        if threading.current_thread() is threading.main_thread():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Let all words out."""
        self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep off the terminal what Ray logs and prints of trials; its files keep it, and so do we.

    Ray's threads print the death of a process to standard output, which belongs to the answer.
    """
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(_OfMainThread(sys.stdout)):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
