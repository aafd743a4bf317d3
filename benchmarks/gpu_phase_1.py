"""Phase 1 at the failure report's size on one GPU: both arms trained and judged, as in a triage."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gpu_material import Bench

from lvm.core.config.run import GateConfig
from lvm.data.windows import drawn
from lvm.triage.arm import ArmSpec, run_arm
from lvm.triage.events import Epoch
from lvm.triage.step import Role


def phase_1(bench: Bench) -> None:
    """AR-only and the recipe: every epoch trained, judged on dev and saved, at the end on test."""
    base, data = bench.size.recipe, drawn(bench.dataset, bench.size.dev_windows, 0)
    whole = 0.0
    for name, recipe in (("AR-only", base.ar_only()), ("InfoNCE+AR", base)):
        with tempfile.TemporaryDirectory() as folder:
            spec = ArmSpec(
                id=name,
                step="phase_1",
                name=name,
                role=Role.PHASE1,
                recipe=recipe,
                folder=Path(folder),
                gates=GateConfig(),
                evaluate_test=True,
                threads=4,
                device=bench.device.type,
            )
            records: list[Epoch] = []
            took = bench.seconds(lambda: records.extend(run_arm(spec, data)))  # noqa: B023
        whole += took
        trained = sum(record.seconds for record in records)
        bench.row(
            f"phase 1, {name}: {len(records)} epochs at B {recipe.training.batch_size}, judged",
            f"{took:.1f} s",
            f"{trained:.1f} s of training; dev of {len(data.dev)} windows per epoch, test of "
            f"{len(data.test)} once; dev cosine {records[-1].eval_cosine:.3f}",
        )
    bench.row("phase 1, one arm after the other", f"{whole:.1f} s", "no Ray")
