"""Measures training, evaluation and search at the failure report's size on one GPU, as one table.

    python benchmarks/bench_gpu.py [--out FILE] [--seconds 300] [--parts parity,updates] [--small]

It needs this repository and a CUDA build of torch; no Ray and no bank, which is made from a seed on
the device. Every row is printed as soon as it is known. A part that fails, or has no time left, is
a row that says so, with the end of its traceback below the table; the others go on.

`--small` is the same on tiny sizes and a CPU, where nothing is captured and compilation stops at
the traced graph: it shows that every part runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from gpu_material import SMALL, Bench, Size, failed
from gpu_parts import PARTS

from lvm.core import compiled
from lvm.core.device import claim
from lvm.models import forms, short
from lvm.models.mamba2 import Mamba2Layer


class OutOfTimeError(BaseException):
    """A part took too long; no Exception, which the compiler's errors are caught as."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise OutOfTimeError(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(bench: Bench, parts: list[str], seconds: float) -> None:
    """Measure the parts that fit into the time, print the table and then what went wrong."""
    until = time.perf_counter() + seconds
    for name in parts:
        part, most = PARTS[name]
        left = until - time.perf_counter()
        if left < 5:
            bench.row(name, "not run", "no time is left")
            continue
        compiled._refused.clear()  # each part tries the compiler again
        try:
            with _limited(min(most, left)):
                part(bench)
        except (Exception, OutOfTimeError) as error:
            failed(bench, name, error)
    for failure in bench.failures:
        print(f"\n--- {failure}", flush=True)


@contextlib.contextmanager
def traced_only() -> Iterator[None]:
    """Compile as far as a CPU without a compiler can: to the graph of the forward pass."""
    function = torch.compile(short.short_layer, dynamic=False, fullgraph=True, backend="eager")
    own = compiled.Compiled(short.short_layer)
    own.__dict__["_compiled"] = function
    on = mock.patch.object(
        Mamba2Layer,
        "_is_fused",
        lambda self, u: (
            self.training and torch.is_grad_enabled() and self.mixer.backend in ("auto", "compiled")
        ),
    )
    first = mock.patch.object(forms, "choose", lambda about, ways, u, weights: next(iter(ways)))
    with on, first, mock.patch.object(short, "compiled_layer", own):
        yield


def main(argv: list[str] | None = None) -> Bench:
    """Measure and print; return what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes on a CPU")
    parser.add_argument("--seconds", type=float, default=300, help="time for all parts")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas")
    parser.add_argument("--out", type=Path, help="a file for the rows, as JSON")
    arguments = parser.parse_args(argv)
    parts = arguments.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger(forms.__name__).setLevel(logging.INFO)
    device = claim("cpu" if arguments.small else "cuda")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}\n\n| what | figure | note |\n|---|---|---|")
    bench = Bench(SMALL if arguments.small else Size(), device)
    with traced_only() if arguments.small else contextlib.nullcontext():
        run(bench, parts, arguments.seconds)
    if arguments.out is not None:
        kept = {"card": card, "torch": str(torch.__version__), "rows": bench.rows}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return bench


if __name__ == "__main__":
    main()
