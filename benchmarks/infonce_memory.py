"""Peak memory and time of an InfoNCE step, dense against blocks of rows.

    python benchmarks/infonce_memory.py

Every measurement runs in a fresh process (forward and backward, gradients for queries and
candidates). Memory is the peak of the first step less what was held when the inputs were ready.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

BATCH_SIZES = (1024, 2048, 4096)
WIDTH = 768
NUM_REPEATS = 3  # the fastest counts, for other programs slow a step down and never speed it up
PATHS = ("dense", "blocks")


def measure(path: str, batch_size: int) -> dict[str, float]:
    """Return megabytes, seconds of the fastest step in this process, and the loss."""
    import psutil
    import torch
    import torch.nn.functional as F

    from lvm.losses.infonce import infonce

    generator = torch.Generator().manual_seed(0)

    def unit_rows(num_rows: int) -> torch.Tensor:
        rows = F.normalize(torch.randn(num_rows, WIDTH, generator=generator), dim=1)
        rows.grad = torch.zeros_like(rows)
        return rows.requires_grad_()

    def step(queries: torch.Tensor, candidates: torch.Tensor, block: int) -> float:
        positive = torch.arange(len(queries))
        result = infonce(queries, candidates, positive, temperature=0.07, row_block=block)
        torch.autograd.backward(result.loss)
        return result.loss.item()

    step(unit_rows(64), unit_rows(64), 64 if path == "dense" else 32)  # loads the kernels
    queries, candidates = unit_rows(batch_size), unit_rows(batch_size)
    block = batch_size if path == "dense" else _default_block(batch_size)
    before = psutil.Process().memory_info().rss
    loss = step(queries, candidates, block)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    durations = []
    for _ in range(NUM_REPEATS):
        start = time.perf_counter()
        step(queries, candidates, block)
        durations.append(time.perf_counter() - start)
    return {"megabytes": (peak - before) / 1e6, "seconds": min(durations), "loss": loss}


def _default_block(batch_size: int) -> int:
    from lvm.losses.infonce import MAX_DENSE_LOGITS, MIN_BLOCK_ROWS

    return min(batch_size // 2, max(MIN_BLOCK_ROWS, MAX_DENSE_LOGITS // batch_size))


def measure_in_fresh_process(path: str, batch_size: int) -> dict[str, float]:
    """Run `measure` in a new interpreter, so that no earlier peak hides this one."""
    command = [sys.executable, "-m", "benchmarks.infonce_memory", path, str(batch_size)]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ).stdout
    values: dict[str, float] = json.loads(output)
    return values


def main() -> None:
    """Print one line per batch size, with the ratios dense / blocks."""
    print(f"InfoNCE, D {WIDTH}, fp32, forward and backward, as many candidates as queries")
    print("    B   dense MB  blocks MB  ratio   dense s  blocks s  ratio   |loss difference|")
    for batch_size in BATCH_SIZES:
        dense, blocks = (measure_in_fresh_process(path, batch_size) for path in PATHS)
        print(
            f"{batch_size:5d}  {dense['megabytes']:9.1f}  {blocks['megabytes']:9.1f}"
            f"  {dense['megabytes'] / blocks['megabytes']:5.2f}"
            f"  {dense['seconds']:8.3f}  {blocks['seconds']:8.3f}"
            f"  {dense['seconds'] / blocks['seconds']:5.2f}"
            f"   {abs(dense['loss'] - blocks['loss']):.1e}"
        )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
