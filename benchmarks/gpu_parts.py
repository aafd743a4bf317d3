"""The parts of the benchmark of a GPU; each prints its rows as soon as they are known."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from gpu_kernel import kernel
from gpu_material import WINDOWS, Bench, as_before, begin, failed, state_of, uncompiled, update_row
from gpu_phase_1 import phase_1
from torch import Tensor

from lvm.core.device import synchronise
from lvm.evaluation.evaluate import evaluate, measure_latency
from lvm.evaluation.index import TorchIndex
from lvm.evaluation.inference import predict
from lvm.losses.blocks import SUM_PARTS, wide_product
from lvm.losses.infonce import infonce
from lvm.models.mamba2 import Mamba2Layer
from lvm.training.state import TrainingState
from lvm.training.updates import WARM_UP, DeviceUpdates

DUAL, COMPILED, KERNEL = ({"model.backend": name} for name in ("dual", "compiled", "kernel"))
# Name, changes of the recipe, whether a graph is captured.
PATHS: list[tuple[str, dict[str, Any], bool]] = [
    ("kernel", KERNEL, False),
    ("kernel, graph", KERNEL, True),
    ("as chosen, graph", {}, True),
    ("compiled layers", COMPILED, False),
    ("compiled layers, graph", COMPILED, True),
    ("dual, no waiting", DUAL, False),
    ("dual, graph", DUAL, True),
]


def data(bench: Bench) -> None:
    """The bank and its windows, which every other part shares."""
    took = bench.seconds(lambda: bench.dataset)
    made = bench.dataset
    counts = ", ".join(f"{len(made.split(name))} {name}" for name in ("train", "dev", "test"))
    note = f"{len(made.bank)} rows of width {made.bank.width}; windows: {counts}"
    bench.row("data", f"{took:.1f} s", note)


def ceilings(bench: Bench) -> None:
    """The rates that everything else is compared with."""
    n, device = bench.size.square, bench.device
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        rate = 2 * n**3 / bench.median(lambda: left @ right)  # noqa: B023  # called at once
        if dtype == torch.bfloat16:
            bench.bf16_rate = rate
        bench.row(f"{n}^3 product, {_short(dtype)}", f"{rate / 1e12:.0f} TFLOP/s")
    values = torch.empty(n * n * 4, device=device)
    copied = 2 * values.nbytes / bench.median(values.clone)
    bench.row("copy on the device", f"{copied / 1e12:.2f} TB/s", "read plus written")


def parity(bench: Bench) -> None:
    """One layer: its other forms against the dual form, outputs and gradients."""
    for form in ("kernel", "compiled"):
        try:
            _layer_parity(bench, form)
        except Exception as error:
            failed(bench, f"layer against float64, {form}", error)
    _infonce_parity(bench)


def _layer_parity(bench: Bench, form: str) -> None:
    torch.manual_seed(0)
    config, batch = bench.size.recipe.model, bench.size.batches[0]
    layer = Mamba2Layer(config).to(bench.device)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    u = torch.randn(batch, 5, config.hidden, device=bench.device).requires_grad_()
    cases = [(False, torch.float32), (False, torch.bfloat16), (True, torch.bfloat16)]
    for last_only, dtype in cases:  # the two in bfloat16 are what the updates will use
        probe = torch.randn(batch, 1 if last_only else 5, config.hidden, device=bench.device)
        wanted = _with_gradients(layer, u, probe, last_only, torch.float64, "dual")
        plain = _with_gradients(layer, u, probe, last_only, dtype, "dual")
        started = time.perf_counter()
        got = _with_gradients(layer, u, probe, last_only, dtype, form)
        synchronise(bench.device)
        took = time.perf_counter() - started
        errors = [_error(g, w) for g, w in zip(got, wanted, strict=True)]
        before = [_error(p, w) for p, w in zip(plain, wanted, strict=True)]
        bound = 1e-5 if dtype == torch.float32 else 1e-2
        bench.row(
            f"{form} layer against float64, {_short(dtype)}, "
            f"{'last position' if last_only else 'all positions'}",
            f"output {errors[0]:.1e}, gradients {max(errors[1:]):.1e}",
            f"output {'within' if errors[0] < bound else 'NOT within'} {bound:g}; dual form "
            f"{before[0]:.1e}, {max(before[1:]):.1e}; compiled in {took:.1f} s{uncompiled()}",
        )


def _infonce_parity(bench: Bench) -> None:
    """Rounded products against float32, through the blocks of a whole bank."""
    generator = torch.Generator(bench.device).manual_seed(1)
    rows, columns, width = (256, 65_000, 256) if bench.on_cuda else (8, 90, 16)

    def unit(count: int) -> Tensor:
        drawn = torch.randn(count, width, generator=generator, device=bench.device)
        return F.normalize(drawn, dim=1)

    candidates, positive = unit(columns), torch.arange(rows, device=bench.device)
    queries = F.normalize(candidates[:rows] + unit(rows), dim=1)
    found = []
    for products in (None, torch.bfloat16):
        moving = queries.clone().requires_grad_()
        result = infonce(
            moving, candidates, positive, temperature=0.07, row_block=rows // 4, products=products
        )
        torch.autograd.backward(result.loss)
        found.append((result.loss.detach(), moving.grad))
    (loss, gradient), (rounded, other) = found
    assert gradient is not None
    assert other is not None
    bench.row(
        f"InfoNCE of {rows} x {columns}, bfloat16 products against float32",
        f"loss {abs(float(rounded - loss)):.1e}, gradient {_error(other, gradient):.1e}",
        f"loss {float(loss):.4f}; allowed is 1e-2{uncompiled()}",
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _with_gradients(
    layer: Mamba2Layer, u: Tensor, probe: Tensor, last_only: bool, dtype: torch.dtype, form: str
) -> list[Tensor]:
    device = u.device.type
    if dtype == torch.float64:
        layer = _double(layer)
        u, probe = u.detach().double().requires_grad_(), probe.double()
    on = mock.patch.object(Mamba2Layer, "_is_fused", return_value=form != "dual")
    named = mock.patch.object(Mamba2Layer, "_form", return_value=form)
    with on, named, torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = layer(u, last_only=last_only)
    inputs = [u, *layer.parameters()]
    return [output.detach(), *torch.autograd.grad((output * probe).sum(), inputs)]


def _double(layer: Mamba2Layer) -> Mamba2Layer:
    return copy.deepcopy(layer).double()


def _error(got: Tensor, wanted: Tensor) -> float:
    wanted = wanted.double()
    return float((got.double() - wanted).norm() / wanted.norm())


def updates(bench: Bench, index: int) -> None:
    """One update at a batch size, on every path."""
    batch, timed = bench.size.batches[index], bench.size.updates[index]
    with state_of(bench, bench.recipe(batch, DUAL)) as state:
        update = as_before(bench, state)
        for number in range(3):
            update(number)
        took = bench.seconds(lambda: [update(3 + n) for n in range(timed // 2)])
        update_row(bench, f"B {batch}: dual, read after every update", batch, took / (timed // 2))
    for name, changes, capture in PATHS:
        try:
            _time_path(bench, batch, timed, name, changes, capture)
        except Exception as error:
            failed(bench, f"B {batch}: {name}", error)


def _time_path(
    bench: Bench, batch: int, timed: int, name: str, changes: dict[str, Any], capture: bool
) -> None:
    if capture and not bench.on_cuda:
        bench.row(f"B {batch}: {name}", "not run", "a CPU captures nothing")
        return
    with state_of(bench, bench.recipe(batch, changes)) as state:
        work = begin(bench, state, capture=capture)
        first = bench.seconds(work.make)
        for _ in range(WARM_UP - 1):
            work.make()
        captured = bench.seconds(work.make)
        timed = min(timed, work.updates_per_epoch - WARM_UP - 1)
        took = bench.seconds(lambda: [work.make() for _ in range(timed)]) / timed
        work.check()
        note = f"first update {first:.1f} s"
        if capture:
            note += f", capture {captured:.2f} s" if work.is_captured else ", NOT captured"
        update_row(bench, f"B {batch}: {name}", batch, took, note + uncompiled())
        bench.update_ms[name, batch] = 1e3 * took
        if capture and not changes and work.is_captured:
            state.sampler.refresh(2)
            epoch = bench.seconds(lambda: _epoch(bench, state, work))
            bench.row(
                f"B {batch}: a whole epoch of {work.updates_per_epoch} updates, as trained",
                f"{epoch:.2f} s",
                f"{epoch * WINDOWS / (work.updates_per_epoch * batch):.2f} s for {WINDOWS} windows",
            )


def _epoch(bench: Bench, state: TrainingState, work: DeviceUpdates) -> None:
    begin(bench, state, capture=True)
    for _ in range(work.updates_per_epoch):
        work.make()
    work.finish()


def losses(bench: Bench) -> None:
    """The first losses of the path before and of the fastest one."""
    batch, count = bench.size.batches[0], bench.size.parity_updates
    with state_of(bench, bench.recipe(batch, DUAL)) as state:
        update = as_before(bench, state)
        wanted = [update(number) for number in range(count)]
    with state_of(bench, bench.recipe(batch, {})) as state:
        work = begin(bench, state, capture=True)
        found = []
        for _ in range(count):
            work.make()
            found.append(work._last[0].item())
        captured = work.is_captured
    worst = max(abs(a - b) for a, b in zip(wanted, found, strict=True))
    bench.row(
        f"loss of the first {count} updates, as chosen {'and captured ' if captured else ''}"
        "against dual",
        f"largest difference {worst:.1e}",
        f"from {wanted[0]:.4f} to {wanted[-1]:.4f}, and to {found[-1]:.4f}",
    )


def profile(bench: Bench) -> None:
    """What the host starts and waits for, and what the device does, in one update."""
    batch = bench.size.batches[-1]
    with state_of(bench, bench.recipe(bench.size.batches[0], DUAL)) as state:
        update = as_before(bench, state)
        _profiled(bench, "dual, read after every update", lambda: update(0))
    for name, capture in (("layers as chosen, graph", True), ("layers as chosen", False)):
        size = bench.size.batches[0] if capture else batch
        with state_of(bench, bench.recipe(size, {})) as state:
            work = begin(bench, state, capture=capture)
            for _ in range(WARM_UP + 1):
                work.make()
            kernels = _profiled(bench, f"B {size}: {name}", work.make)
            if not capture:
                bench.failures.append(f"B {size}, {name}, kernels by time on the device\n{kernels}")


def _profiled(bench: Bench, name: str, update: Callable[[], object]) -> str:
    from torch.profiler import ProfilerActivity

    update()
    synchronise(bench.device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.on_cuda else [])]
    with torch.profiler.profile(activities=activities) as record:
        update()
        synchronise(bench.device)
    events = record.key_averages()

    def count(*names: str) -> int:
        return sum(e.count for e in events if any(part in e.key for part in names))

    launches = count("LaunchKernel")
    waits = count("StreamSynchronize")
    on_device = [e for e in events if str(e.device_type).endswith("CUDA")]
    busy = sum(e.self_device_time_total for e in on_device) / 1e3
    kernels = sum(e.count for e in on_device)
    bench.row(
        f"one update, {name}",
        f"{launches} launches, {count('GraphLaunch')} graphs, {waits} readings",
        f"{kernels} kernels, busy for {busy:.1f} ms",
    )
    on_device.sort(key=lambda e: -e.self_device_time_total)
    lines = [
        f"{e.self_device_time_total / 1e3:8.3f} ms {e.count:5d} x {e.key[:110]}"
        for e in on_device[:16]
    ]
    return "\n".join(lines)


def whole_bank(bench: Bench) -> None:
    """InfoNCE against every train row, in the projected and in the raw space."""
    batch = bench.size.batches[0]
    for space in ("projected", "raw"):
        changes = {"negatives.candidates": "bank", "objective.space": space}
        with state_of(bench, bench.recipe(batch, changes)) as state:
            work = begin(bench, state, capture=True)
            first = bench.seconds(work.make)
            for _ in range(WARM_UP):
                work.make()
            took = bench.seconds(lambda: [work.make() for _ in range(8)]) / 8  # noqa: B023
            work.check()
            columns = len(state.sampler.whole_bank[0])
            head = state.recipe.head
            width = head.width if space == "projected" else bench.size.width
            operations = 4 * batch * columns * width  # logits and the queries' gradient
            if space == "projected":
                operations += 2 * columns * (bench.size.width + head.width) * head.hidden
            base = bench.update_ms.get(("as chosen, graph", batch), 0.0) / 1e3
            share = operations / bench.bf16_rate / max(took - base, 1e-9)
            update_row(
                bench,
                f"B {batch} against {columns} rows, {space} space",
                batch,
                took,
                f"{operations / 1e12:.2f} TFLOP of products, {share:.0%} of the bf16 rate beside a "
                f"batch's update; first update {first:.1f} s; "
                f"{'captured' if work.is_captured else 'NOT captured'}",
            )


def long_products(bench: Bench) -> None:
    """The two products of a block of the whole bank's loss, and ways to do the second one."""
    block, columns = (256, 745 * 512) if bench.on_cuda else (4, 512)
    for width in (bench.size.recipe.head.width, bench.size.width):
        queries, candidates, weights = (
            torch.randn(*shape, device=bench.device, dtype=torch.bfloat16)
            for shape in ((block, width), (columns, width), (block, columns))
        )
        parts = weights.unflatten(1, (SUM_PARTS, -1)).transpose(0, 1)
        by_part = candidates.unflatten(0, (SUM_PARTS, -1))
        ways: dict[str, Callable[[], Tensor]] = {
            "logits": lambda: wide_product(queries, candidates.T),  # noqa: B023  # called at once
            "gradient, whole": lambda: wide_product(weights, candidates),  # noqa: B023
            "gradient, in parts": lambda: wide_product(parts, by_part).sum(0),  # noqa: B023
        }
        for name, way in ways.items():
            took = bench.median(way)
            rate = 2 * block * columns * width / took
            bench.row(
                f"{name}: {block} x {columns} x {width} bfloat16, float32 out",
                f"{1e3 * took:.2f} ms",
                f"{rate / 1e12:.0f} TFLOP/s, {rate / bench.bf16_rate:.0%} of the rate",
            )


def evaluation(bench: Bench) -> None:
    """Predictions and exact ranks of dev and test against the whole bank."""
    with state_of(bench, bench.recipe(bench.size.batches[0], {})) as state:
        data, model = bench.dataset, state.predictor
        splits = {"dev": data.dev.select(np.arange(bench.size.dev_windows)), "test": data.test}
        for name, windows in splits.items():
            queries = predict(model, data, windows, "raw")
            predicted = bench.seconds(lambda: predict(model, data, windows, "raw"))  # noqa: B023
            took = bench.seconds(
                lambda: evaluate(queries, windows, data.bank, space="raw", split=name)  # noqa: B023
            )
            bench.row(
                f"evaluation of {len(windows)} {name} windows against {len(data.bank)} rows",
                f"{predicted + took:.2f} s",
                f"{predicted:.2f} s predictions, {took:.2f} s ranks",
            )


def latency(bench: Bench) -> None:
    """One query at a time: the search alone, and with the model."""
    with state_of(bench, bench.recipe(bench.size.batches[0], {})) as state:
        data, model, device = bench.dataset, state.predictor.eval(), bench.device
        index = TorchIndex(data.bank.on(device))
        windows = data.dev.select(np.arange(bench.size.queries))
        contexts = data.bank.on(device)[torch.from_numpy(windows.contexts).to(device)].cpu()

        def eager(rows: Tensor) -> Tensor:
            return model.queries(rows.to(device), "raw")

        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "exact search alone": lambda rows: rows[:, -1].to(device),
            "model and exact search": eager,
        }
        if bench.on_cuda:
            ways["model as a graph, and exact search"] = _captured_model(eager, contexts[:1])
        for name, way in ways.items():
            found = measure_latency(way, index, contexts)
            bench.row(
                f"one query, {name}",
                f"P50 {found['p50_ms']:.2f}, P95 {found['p95_ms']:.2f} ms",
                f"{bench.size.queries} queries, {len(data.bank)} rows, from and to the host",
            )


def _captured_model(
    model: Callable[[Tensor], Tensor], contexts: Tensor
) -> Callable[[Tensor], Tensor]:
    rows = contexts.cuda()
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            model(rows)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = model(rows)

    def replay(asked: Tensor) -> Tensor:
        rows.copy_(asked)
        graph.replay()
        return output

    return replay


def optimiser(bench: Bench) -> None:
    """AdamW and clipping alone."""
    with state_of(bench, bench.recipe(bench.size.batches[0], {})) as state:
        parameters = list(state.predictor.parameters())
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        begin(bench, state, capture=False)
        took = bench.median(state.optimizer.step)
        clip = bench.median(lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        count = sum(p.numel() for p in parameters)
        bench.row(
            f"fused AdamW over {count / 1e6:.1f} M parameters",
            f"{1e3 * took:.2f} ms",
            f"clipping {1e3 * clip:.2f} ms; started one by one",
        )


# Name -> the part and the seconds that it may take at most.
PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "data": (data, 60),
    "kernel": (kernel, 120),
    "ceilings": (ceilings, 20),
    "parity": (parity, 150),
    "updates": (lambda bench: updates(bench, 0), 120),
    "large": (lambda bench: updates(bench, 1), 120),
    "losses": (losses, 40),
    "profile": (profile, 60),
    "bank": (whole_bank, 60),
    "evaluation": (evaluation, 60),
    "latency": (latency, 30),
    "products": (long_products, 20),
    "optimiser": (optimiser, 20),
    "phase_1": (phase_1, 240),
}
