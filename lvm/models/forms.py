"""Which form of a short window's layer is the fastest here: measured once, and remembered.

    kernel     Triton kernels between the products (lvm/models/short_kernel.py)
    compiled   one function of tensors, compiled (lvm/models/short.py)
    dual       the layer as it is, operation by operation (lvm/models/ssd.py)

For a shape and a card, forms are timed forward and backward when such a layer first trains. The
answer is kept by the process and in the person's cache folder, and named in the log. `compiled` is
asked only where the kernels cannot serve: finding out takes the compiler 10 to 30 seconds.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lvm.core import compiled
from lvm.core.device import synchronise
from lvm.core.files import cache_file, write_json
from lvm.core.outside import parse_json

KEPT = "forms.json"
MAX_KEPT = 1000
VERSION = 1  # of the forms: raised when one of them changes, so that old answers are not used
WARM_UP = 2  # calls: compilers and allocator settle in them
REPEATS, SECONDS = 20, 0.3  # calls that are timed at most, and for how long, of each form

Form = Callable[[Tensor], Tensor]

log = logging.getLogger(__name__)

_chosen: dict[str, str] = {}


@functools.cache
def note_dual_alone(setting: str) -> None:
    """Say once, in the log, which setting leaves the dual form as the only one."""
    log.info("Mamba-2 layers train in the dual form because the others do not support %s", setting)


def choose(about: str, forms: Mapping[str, Form], u: Tensor, weights: Sequence[Tensor]) -> str:
    """Return the name of the fastest of some forms of one layer.

    `about` says all that the answer depends on but the machine. Neither gradients nor the state of
    the random generator are left changed. A form that fails is named in the log and left out;
    "dual" is always an answer.
    """
    if len(forms) == 1:
        return next(iter(forms))
    card = torch.cuda.get_device_name(u.device) if u.device.type == "cuda" else "CPU"
    key = f"{about} on {card}, torch {torch.__version__}, version {VERSION}"
    if key not in _chosen:
        kept = _kept()
        name = kept.get(key, "")
        if name not in forms:
            name = _fastest(about, forms, u, weights)
            _keep({**kept, key: name})
        _chosen[key] = name
    return _chosen[key]


def _fastest(about: str, forms: Mapping[str, Form], u: Tensor, weights: Sequence[Tensor]) -> str:
    took: dict[str, float] = {}
    for name, form in forms.items():
        try:
            took[name] = _seconds(form, u, weights)
        except torch.OutOfMemoryError:
            log.warning("The %s form of a layer needs too much memory for %s.", name, about)
        except Exception as error:  # whatever a compiler raises
            log.warning("No %s form of a layer (%s).", name, compiled.reason_of(error))
        if name == "compiled" and not compiled.is_allowed():
            took.pop(name, None)  # it ran uncompiled
    name = min(took, key=lambda name: took[name], default="dual")
    times = ", ".join(f"{form} {1e3 * seconds:.2f} ms" for form, seconds in took.items())
    log.info("Layers of %s use the %s form: %s.", about, name, times)
    return name


def _seconds(form: Form, u: Tensor, weights: Sequence[Tensor]) -> float:
    """Return the median seconds of a forward and a backward pass."""
    cuda = [u.device] if u.device.type == "cuda" else []
    u = u.detach().requires_grad_()

    def once() -> float:
        synchronise(u.device)
        started = time.perf_counter()
        output = form(u)
        torch.autograd.grad(output, [u, *weights], torch.ones_like(output), allow_unused=True)
        synchronise(u.device)
        return time.perf_counter() - started

    with torch.random.fork_rng(devices=cuda), torch.enable_grad():
        for _ in range(WARM_UP):
            once()
        found: list[float] = []
        while len(found) < REPEATS and sum(found) < SECONDS:
            found.append(once())
    return statistics.median(found)


def _kept() -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        kept = parse_json(cache_file(KEPT).read_text(encoding="utf-8"))
        if isinstance(kept, dict):
            return {str(key): str(name) for key, name in kept.items()}
    return {}


def _keep(kept: Mapping[str, str]) -> None:
    """Keep the newest answers; where nothing can be written, the next process measures again."""
    with contextlib.suppress(OSError):
        place = cache_file(KEPT)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, dict(list(kept.items())[-MAX_KEPT:]))
