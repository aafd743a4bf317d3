"""What the model of phase 1 shows of itself, before any step: it orders the steps.

The audit's checks of predictions run on dev windows, since the test split is for verdicts alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lvm.audit.check import CHECKS
from lvm.audit.loaded import open_checkpoint
from lvm.audit.material import Material, Side
from lvm.audit.run import route, run_checks
from lvm.data.windows import Dataset
from lvm.triage.arm import ArmSpec
from lvm.triage.events import Inspected, event_of
from lvm.triage.step import Step


def inspect_model(
    spec: ArmSpec,
    dataset: Dataset,
    *,
    model: Mapping[str, float | None] | None,
    ladder: Mapping[str, Mapping[str, float | None]],
    steps: Collection[Step],
) -> Inspected:
    """Return the findings on a trained model, and the order of `steps` that follows from them.

    `model` and `ladder` are masked metrics on dev. Nothing here blocks: a trained model that is
    worthless is what the steps are for.
    """
    bank, recipe = dataset.bank, spec.recipe
    material = Material(
        train=Side("train", bank.source, bank=bank, windows=dataset.train),
        eval=Side("eval", bank.source, bank=bank, windows=dataset.dev),
        bank=bank,
        recipe=recipe,
        gates=spec.gates,
        seed=recipe.seed,
        checkpoint=open_checkpoint(spec.folder / "checkpoint", bank.width, recipe.context_length),
    )
    audit = run_checks(material, codes=[row.code for row in CHECKS if row.of_model])
    taken = route([f.code for f in audit.findings], steps, model=model, ladder=ladder)
    return event_of(
        Inspected,
        arm=spec.id,
        name=spec.name,
        findings=audit.findings,
        failed={r.code: r.reason for r in audit.results if r.status == "FAILED"},
        order=[str(number) for number in taken.order],
        reasons=list(taken.reasons),
    )
