"""Times the forms of the Mamba-2 recurrence, and the whole model, against slower alternatives.

    python benchmarks/mamba_forms.py [--threads 1] [--repeats 7]

The first table is one scan, forward and backward, at several lengths: dual and chunked (this
project), sequential (this project's reference) and, where mamba_ssm can be imported, the plain
torch reference of that package. The second is one pass over 37 batches of 256 windows by the
default model with AdamW, with the share of the time that its matrix products alone would need.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from lvm.core.config.recipe import ModelConfig
from lvm.core.randomness import torch_generator
from lvm.models import mamba_ssm_backend
from lvm.models.base import build_model, weight_decay_groups
from lvm.models.ssd import CHUNK, ssd_chunked, ssd_dual, ssd_sequential

SHAPES = ((256, 5), (256, 20), (32, 128), (8, 512))  # batch, length
HEADS, HEAD_DIM, STATE = 4, 64, 64
BATCH, CONTEXT, WIDTH, UPDATES = 256, 5, 384, 37


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--repeats", type=int, default=7, help="timings, of which the best counts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {arguments.threads} thread(s), best of {arguments.repeats}\n"
    )
    compare_forms(arguments.repeats)
    time_model(arguments.repeats)


def compare_forms(repeats: int) -> None:
    """Print milliseconds and ratios of the forms, forward and backward."""
    forms = {"dual": ssd_dual, "chunked": ssd_chunked, "sequential": ssd_sequential}
    reference = package_reference()
    if reference is None:
        print("mamba_ssm or triton is not installed: its reference is left out\n")
    else:
        forms["mamba_ssm reference"] = reference
    print(f"{'batch x length':16}" + "".join(f"{name:>22}" for name in forms))
    for batch, length in SHAPES:
        inputs = draw(batch, length)
        seconds = {name: best(step_of(form, inputs), repeats) for name, form in forms.items()}
        cells = [f"{1e3 * s:9.2f} ms ({s / seconds['dual']:5.1f}x)" for s in seconds.values()]
        print(f"{f'{batch} x {length}':16}" + "".join(f"{cell:>22}" for cell in cells))


def time_model(repeats: int) -> None:
    """Print the seconds of one pass by the default model and its share of the GEMM rate."""
    model = build_model(ModelConfig(), WIDTH, seed=0)
    optimizer = torch.optim.AdamW(weight_decay_groups(model), lr=1e-3, fused=True)
    generator = torch_generator(0, "benchmark")
    contexts = F.normalize(torch.randn(BATCH, CONTEXT, WIDTH, generator=generator), dim=-1)
    targets = F.normalize(torch.randn(BATCH, WIDTH, generator=generator), dim=-1)

    def one_pass() -> None:
        for _ in range(UPDATES):
            optimizer.zero_grad(set_to_none=True)
            (1 - (model(contexts) * targets).sum(-1).mean()).backward()
            optimizer.step()

    config, rows = ModelConfig(), BATCH * CONTEXT
    left, right = torch.randn(rows, WIDTH), torch.randn(WIDTH, config.hidden)
    rate = 2 * rows * WIDTH * config.hidden / best(lambda: left @ right, 20 * repeats)
    # Forward and two products per weight backward, less the input's gradient, which nobody needs.
    layers = UPDATES * 6 * products(config) - UPDATES * 2 * rows * WIDTH * config.hidden
    seconds = best(one_pass, repeats)
    print(f"\nmodel, {UPDATES} updates of {BATCH} windows of {CONTEXT}: {seconds:.2f} s")
    print(f"matrix products alone at {rate / 1e9:.0f} GFLOP/s: {layers / rate:.2f} s, ", end="")
    print(f"share {layers / rate / seconds:.2f}")


def products(config: ModelConfig) -> int:
    """Return the multiply-adds of the linear layers in one forward pass of one batch."""
    inner, rows = config.hidden * config.expand, BATCH * CONTEXT
    mixed = inner + 2 * config.state + inner // config.head_dim
    full = rows * config.hidden * (2 * inner + mixed)
    last = config.hidden * (rows * mixed + BATCH * 2 * inner)
    ends = rows * WIDTH * config.hidden + BATCH * config.hidden * WIDTH
    return (config.num_layers - 1) * full + last + ends


def draw(batch: int, length: int) -> list[torch.Tensor]:
    """Return random inputs of one scan that take gradients."""
    generator = torch_generator(0, "forms", batch, length)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = [
        normal(batch, length, HEADS, HEAD_DIM),
        F.softplus(normal(batch, length, HEADS) - 3),
        -torch.linspace(1, 16, HEADS),
        normal(batch, length, 1, STATE),
        normal(batch, length, 1, STATE),
        normal(HEADS),
    ]
    return [tensor.requires_grad_() for tensor in tensors]


def step_of(form: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> Callable[[], object]:
    """Return a call that runs one form forward and backward."""
    return lambda: torch.autograd.grad(form(*inputs).sum(), inputs)


def package_reference() -> Callable[..., torch.Tensor] | None:
    """Return the plain torch reference of mamba_ssm in our argument order, or None."""
    if not mamba_ssm_backend.is_installed():
        return None
    mamba_ssm_backend.kernel()
    reference = sys.modules["mamba_ssm.ops.triton.ssd_combined"].ssd_chunk_scan_combined_ref

    def padded(*inputs: torch.Tensor) -> torch.Tensor:
        x, dt, A, B_, C, D = inputs
        rest = -x.shape[1] % CHUNK
        x, dt, B_, C = (F.pad(t, [0, 0] * (t.ndim - 2) + [0, rest]) for t in (x, dt, B_, C))
        y: torch.Tensor = reference(x, dt, A, B_, C, CHUNK, D=D)
        return y[:, : inputs[0].shape[1]]

    return padded


def best(call: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the fastest of `repeats` calls, after two that are not counted."""
    seconds = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        call()
        if i >= 2:
            seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
