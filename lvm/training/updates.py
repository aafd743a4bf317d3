"""The updates of a training on a GPU: nothing in them waits for it.

What an epoch needs is put on the device when it begins: the order of the windows, their negatives,
the learning rates. Each update then takes its own from a counter on the device, and adds what it
measured to sums there; the host reads them a few times an epoch. An update whose loss or gradient
is not finite changes nothing, nor does any after it, and the next reading raises.

Such an update is the same list of kernels with the same addresses every time. After a few updates
it is captured as a CUDA graph and replayed, one launch instead of a thousand. Where that fails,
updates go on as they were and the log says why. Several workers, who talk in every backward pass,
start their kernels one by one.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lvm.core import compiled
from lvm.core.config.recipe import Recipe
from lvm.core.device import ids_on, synchronise
from lvm.core.errors import LvmError, NonFiniteLossError
from lvm.models.predictor import Predictor
from lvm.training.candidates import DeviceCandidates
from lvm.training.forward import outputs_of
from lvm.training.health import Probe
from lvm.training.objective import objective
from lvm.training.world import World

WARM_UP = 3  # updates before the capture: compilers, libraries and allocator settle in them
READINGS = 4  # per epoch

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Parts:
    """What an update works on; all of it stays where it is for the whole training."""

    recipe: Recipe
    network: nn.Module  # the predictor, or DDP around it
    predictor: Predictor
    optimizer: torch.optim.AdamW
    candidates: DeviceCandidates
    world: World
    autocast: bool


class DeviceUpdates:
    """Makes the updates of one epoch after the other: `begin`, `make` each, `finish`."""

    def __init__(self, parts: Parts, updates_per_epoch: int) -> None:
        self.parts, self.updates_per_epoch = parts, updates_per_epoch
        device, size = parts.world.device, parts.recipe.training.batch_size
        self._order = torch.zeros(updates_per_epoch, size, dtype=torch.int64, device=device)
        self._rates = torch.zeros(updates_per_epoch, device=device)
        self._rate = torch.zeros((), device=device)  # of the current update
        self._number = torch.zeros(1, dtype=torch.int64, device=device)  # of it in the epoch
        self._bad = torch.zeros((), device=device)  # 1 from the first update that is not finite
        self._names: list[str] = []
        self._sums = torch.zeros(0, device=device)
        self._last = torch.zeros(0, device=device)  # measured by the last update, or the bad one
        self._replay: Callable[[], None] | None = None
        self._made = 0  # since this object exists
        on_cuda = device.type == "cuda"
        self._may_capture = on_cuda and parts.world.size == 1
        self._stream = cast(Any, torch.cuda.Stream)(device) if on_cuda else None

    @property
    def is_captured(self) -> bool:
        """Whether updates are replayed as one graph."""
        return self._replay is not None

    def epoch(
        self, order: Int[np.ndarray, " M"], rates: Sequence[float], probe: Probe
    ) -> tuple[dict[str, float], float]:
        """Make every update of an epoch; return the means and the last batch's cosine.

        Raises NonFiniteLossError a quarter of an epoch late at most.
        """
        self.begin(order, rates)
        for update in range(self.updates_per_epoch):
            self.make(probe if update == 0 else None)
            if (update + 1) % max(1, self.updates_per_epoch // READINGS) == 0:
                self.check()
        return self.finish()

    def time(self, num_updates: int) -> float:
        """Return the median seconds of a few updates that change nothing, compiled and captured."""
        seconds, device = [], self.parts.world.device
        for number in range(WARM_UP + 1 + num_updates):
            if number % self.updates_per_epoch == 0:
                self.begin(np.arange(self._order.numel()), [0.0] * self.updates_per_epoch)
            synchronise(device)
            started = time.perf_counter()
            self.make()
            synchronise(device)
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds[-num_updates:]))

    def begin(self, order: Int[np.ndarray, " M"], rates: Sequence[float]) -> None:
        """Put an epoch on the device: the order of the windows and the rate of every update."""
        count = self._order.numel()
        self._order.copy_(ids_on(order[:count], self._order.device).view_as(self._order))
        self._rates.copy_(torch.tensor(rates, dtype=torch.float32))
        self._number.zero_()
        self._bad.zero_()
        self._sums.zero_()
        self.parts.candidates.refresh()
        for group in self.parts.optimizer.param_groups:
            group["lr"], group["capturable"] = self._rate, self._stream is not None
        self.parts.optimizer.found_inf = self._bad  # type: ignore[attr-defined]  # as GradScaler's

    def make(self, probe: Probe | None = None) -> None:
        """Make one update; with a probe, one that may be looked at, and waits to be."""
        ready = self._made >= WARM_UP and probe is None
        if ready and self._may_capture and self._replay is None:
            self._capture()
        if ready and self._replay is not None:
            self._replay()
        else:
            self._make_or_uncompiled(probe)
        self._made += 1

    def check(self) -> None:
        """Wait for the GPU; raise NonFiniteLossError if an update was not finite."""
        if float(self._bad) == 0:
            return
        last = self._reading(self._last)
        raise not_finite(last["loss"], last["gradient_norm"])

    def finish(self) -> tuple[dict[str, float], float]:
        """Check, and return the means of the epoch and the last batch's cosine on this worker."""
        self.check()
        for group in self.parts.optimizer.param_groups:  # as a checkpoint holds it, for any device
            group["lr"], group["capturable"] = float(self._rate), False
        means = self._reading(self._sums / self.updates_per_epoch)
        means.pop("cosine")
        return means, self._reading(self._last)["cosine"]

    def _make_or_uncompiled(self, probe: Probe | None) -> None:
        seen = probe.update if probe is not None else 0
        try:
            with self._aside():
                self._step(probe)
        except (LvmError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the compiler of a backward pass raises whatever it likes
            if self._stream is None or not compiled.is_allowed():
                raise
            compiled.refuse(error)
            if probe is not None:
                probe.update = seen
            with self._aside():
                self._step(probe)

    def _capture(self) -> None:
        try:
            self._replay = capture(lambda: self._step(None), self._stream)
        except Exception as error:  # whatever an operation that cannot be captured raises
            self._may_capture = False
            reason = compiled.reason_of(error)
            log.warning(
                "No CUDA graph for an update (%s); kernels are launched one by one.", reason
            )

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Work on the stream that will be captured, after and before what others do."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)

    def _step(self, probe: Probe | None) -> None:
        parts = self.parts
        self._rate.copy_(self._rates.index_select(0, self._number)[0])
        batch = parts.candidates.of(self._order.index_select(0, self._number)[0])
        on_cuda = self._order.device.type == "cuda"
        outputs = outputs_of(
            parts.network,
            parts.predictor,
            batch.contexts,
            batch.targets,
            batch.raw_candidates,
            batch.positive,
            batch.excluded,
            autocast=parts.autocast,
            products=torch.bfloat16 if parts.autocast and on_cuda else None,
        )
        parts.optimizer.zero_grad(set_to_none=True)
        result = objective(parts.recipe, outputs, parts.world)
        if probe is not None:
            probe.before_backward(outputs, result)
        result.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if probe is not None:
            probe.after_backward(parts.predictor)
        clip = parts.recipe.training.clip_norm
        norm = nn.utils.clip_grad_norm_(parts.predictor.parameters(), clip)
        cosine = (outputs.predictions.detach() * outputs.targets).sum(dim=1).mean()
        self._note(
            {
                "loss": result.total.detach(),
                "gradient_norm": norm,
                **result.measured,
                "cosine": cosine,
            }
        )
        parts.optimizer.step()
        self._number += 1

    def _note(self, measured: dict[str, Tensor]) -> None:
        values = torch.stack([value.double() for value in measured.values()])
        if not self._names:
            self._names = list(measured)
            self._sums, self._last = torch.zeros_like(values), torch.zeros_like(values)
        self._sums += values
        self._last.copy_(torch.where(self._bad > 0, self._last, values))
        bad = 1 - values[:2].isfinite().all().float()
        # The gradients are everybody's, but each worker knows its own loss only.
        self._bad.copy_(torch.maximum(self._bad, self.parts.world.sum(bad).clamp(max=1)))

    def _reading(self, values: Float[Tensor, " V"]) -> dict[str, float]:
        return dict(zip(self._names, values.tolist(), strict=True))


def capture(step: Callable[[], None], stream: torch.cuda.Stream | None) -> Callable[[], None]:
    """Record the kernels of `step`, which do not run yet, and return what runs them all."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def not_finite(loss: float, norm: float) -> NonFiniteLossError:
    """Return the error of an update whose loss or gradient is not finite."""
    return NonFiniteLossError(
        f"the loss is {loss} and the gradient norm {norm}; lower training.learning_rate or "
        "raise objective.temperature (the last good epoch is kept)."
    )
