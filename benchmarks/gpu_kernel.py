"""What the Triton kernels of a short window's layer take alone, started in several ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from gpu_material import Bench, failed
from torch import Tensor

from lvm.models import short_gradients
from lvm.models.base import NORM_EPS
from lvm.models.mamba2 import Mamba2Layer
from lvm.models.short_sizes import Sizes

CALLS = 10  # in one graph
# Of lvm/models/short_gradients.py's Launch; the first is as shipped.
FORWARD: list[dict[str, Any]] = [{}, {"forward_warps": 4}, {"forward_warps": 16}]
BACKWARD: list[dict[str, Any]] = [
    {},
    {"backward_registers": 128, "backward_programs": 16},
    {"backward_heads": 4, "backward_warps": 2, "backward_programs": 6},
    {"score_windows": 4, "score_warps": 4, "score_programs": 2},
    {"score_windows": 2, "score_warps": 2, "score_programs": 4},
    {"backward_heads": 4, "backward_warps": 2, "backward_registers": 128, "backward_programs": 8},
    {"backward_registers": None, "backward_programs": 8},
    {"backward_programs": 24},
]


class Kept:
    """Stands in for what autograd keeps between the passes."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep the tensors."""
        self.saved_tensors = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Take no notice."""


def kernel(bench: Bench) -> None:
    """The kernels between the products and around the norm, at both batch sizes; then variants."""
    if not bench.on_cuda:
        bench.row("kernels alone", "not run", "a CPU interprets them")
        return
    for batch in bench.size.batches:
        for last_only in (False, True):
            _time_mix(bench, batch, last_only)
        _time_norm(bench, batch)
    batch = bench.size.batches[-1]
    for changes in FORWARD[1:]:
        _variant(bench, batch, changes, backward=False)
    for changes in BACKWARD[1:]:
        _variant(bench, batch, changes, backward=True)


def _time_mix(bench: Bench, batch: int, last_only: bool) -> None:
    forward, backward, least = _calls(bench, batch, last_only)
    read = "last position" if last_only else "all positions"
    for name, call, nbytes in (("forward", forward, least[0]), ("backward", backward, least[1])):
        _row(bench, f"B {batch}: kernels between the products, {read}, {name}", call, nbytes)


def _time_norm(bench: Bench, batch: int) -> None:
    width, kept = bench.size.width, Kept()
    u, passed = (torch.randn(batch, 5, width, device=bench.device) for _ in range(2))
    weight, grad = torch.ones(width, device=bench.device), torch.randn_like(u).bfloat16()
    norm: Any = short_gradients._Norm
    name = f"B {batch}: norm and residual stream"
    _row(
        bench,
        f"{name}, forward",
        lambda: norm.forward(kept, u, weight, NORM_EPS, grad.dtype),
        u.nbytes + grad.nbytes,
    )
    _row(
        bench,
        f"{name}, backward",
        lambda: norm.backward(kept, grad, passed),
        3 * u.nbytes + grad.nbytes,
    )


def _variant(bench: Bench, batch: int, changes: dict[str, Any], *, backward: bool) -> None:
    name = ", ".join(f"{key} {value}" for key, value in changes.items())
    other = dataclasses.replace(short_gradients.launch, **changes)
    try:
        with mock.patch.object(short_gradients, "launch", other):
            calls = _calls(bench, batch, last_only=False)
            _row(bench, f"B {batch}: {name}", calls[int(backward)], calls[2][int(backward)])
    except Exception as error:
        failed(bench, f"B {batch}: {name}", error)


def _calls(
    bench: Bench, batch: int, last_only: bool
) -> tuple[Callable[[], object], Callable[[], object], tuple[int, int]]:
    """Return the forward and the backward pass, and the fewest bytes that each has to move."""
    config, device = bench.size.recipe.model, bench.device
    block = Mamba2Layer(config).to(device).mixer
    inner, mixed, heads = block.parts
    sizes = Sizes(
        heads, config.head_dim, config.state, 5, config.conv_kernel, 4 if last_only else 0
    )

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16)

    z = drawn(batch, 1, inner) if last_only else None
    proj = drawn(batch, 5, mixed + heads + (0 if last_only else inner))
    grad, kept = drawn(batch, 1 if last_only else 5, inner), Kept()
    bias: Any = block.conv1d.bias
    weights = [block.conv1d.weight, bias, block.dt_bias, block.A_log, block.D, block.norm.weight]
    weights = [weight.detach() for weight in weights]
    mix: Any = short_gradients._Mix

    def forward() -> Tensor:
        return mix.forward(kept, proj, z, *weights, sizes, NORM_EPS)

    forward()
    inputs = proj.nbytes + (0 if z is None else z.nbytes)
    return (
        forward,
        lambda: mix.backward(kept, grad),
        (inputs + grad.nbytes, 2 * inputs + grad.nbytes),
    )


def _row(bench: Bench, name: str, call: Callable[[], object], nbytes: int) -> None:
    seconds = _seconds(bench, call)
    bench.row(
        name,
        f"{1e3 * seconds:.3f} ms",
        f"{nbytes / seconds / 1e12:.2f} TB/s of what it has to read and write",
    )


def _seconds(bench: Bench, call: Callable[[], object]) -> float:
    """Return what a call takes inside a graph: what a device does, not what a host starts."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(CALLS):
            call()
    return bench.median(graph.replay, repeats=5) / CALLS
