"""Functions that torch.compile speeds up on a GPU, and that run uncompiled where it cannot.

A compiled function takes tensors only: weights are arguments, so that one compilation serves every
layer of a shape. It must trace without a graph break; a test checks each.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

SHAPES_KEPT = 64  # compilations of one function; torch's own limit is 8, which a sweep passes

_refused: dict[str, str] = {}  # why compiled functions run as they are; one reason per process


def refuse(error: BaseException) -> None:
    """Compile nothing more in this process, and say so once."""
    if not _refused:
        _refused["why"] = reason_of(error)
        log.warning("Compiling failed (%s); training runs uncompiled.", _refused["why"])


def reason_of(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:200]}"


def is_allowed() -> bool:
    """Return whether functions are still compiled."""
    return not _refused


class Compiled(Generic[P, T]):
    """A function that is compiled at its first call, once per shape of its arguments.

    `plain` is the function itself. An error of the compiler is logged in one sentence, and from
    then on every compiled function of the process runs as it is. The backward pass is compiled when
    it first runs, outside this call: whoever calls `backward` passes its errors to `refuse`.
    """

    def __init__(self, plain: Callable[P, T]) -> None:
        functools.update_wrapper(self, plain)
        self.plain = plain

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns."""
        if is_allowed():
            try:
                return self._compiled(*args, **kwargs)
            except Exception as error:
                if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                    raise  # a graph that was begun cannot go on
                refuse(error)
        return self.plain(*args, **kwargs)

    @functools.cached_property
    def _compiled(self) -> Callable[P, T]:
        config = cast(Any, torch._dynamo.config)
        config.recompile_limit = max(config.recompile_limit, SHAPES_KEPT)
        config.optimize_ddp = False  # one function is one bucket: there is nothing to cut
        return torch.compile(self.plain, dynamic=False, fullgraph=True)
