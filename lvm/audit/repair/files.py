"""The repaired files: what each of them holds, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.counts import UNITS, WINDOW_UNITS, declared_counts
from lvm.audit.location import in_run
from lvm.audit.material import Material, Side
from lvm.audit.repair.bank import BankPlan, SplitPlan
from lvm.audit.repair.places import rows_at
from lvm.audit.repair.streams import Stream, row_blocks, scaled, selected, whole, write_streams
from lvm.audit.repair.windows import WindowPlan, composed
from lvm.data.bank import Bank
from lvm.data.files import write_bank as write_bank_folder
from lvm.data.npz import open_npz
from lvm.data.window_files import CONTEXT_NAMES, TARGET_NAMES


@dataclass(frozen=True, kw_only=True, eq=False)
class Plans:
    """What is to become of each part of the material."""

    material: Material
    windows: WindowPlan | None  # eval
    train: WindowPlan | None  # None: the windows stay as they are
    split: SplitPlan | None
    bank: BankPlan | None
    scale: Mapping[str, bool]  # which sides are scaled to length 1

    @property
    def dropped(self) -> list[tuple[str, int]]:
        """Why rows are left out because nothing could be done for them, and how many."""
        return [
            pair
            for plan in (self.windows, self.train, self.split, self.bank)
            if plan
            for pair in plan.dropped
        ]

    @property
    def steps(self) -> list[str]:
        """What is done, in words."""
        said = [
            step for plan in (self.bank, self.windows, self.split) if plan for step in plan.steps
        ]
        said += [f"train: {step}" for step in (self.train.steps if self.train else ())]
        return said + [
            f"{side} vectors scaled to length 1" for side, on in self.scale.items() if on
        ]

    @property
    def notes(self) -> list[str]:
        """What could not be done at all."""
        parts = (self.windows, self.train, self.split, self.bank)
        return [plan.note for plan in parts if plan and plan.note]

    def changes(self, name: str) -> bool:
        """Whether a file must be rewritten."""
        plan = {"payload": self.bank, "train": self.train, "eval": self.windows}[name]
        changed, split = plan is not None and bool(plan.steps or plan.dropped), self.split
        if name == "payload" or (name == "eval" and plan is None):
            return changed
        parted = split is not None and (
            split.train_rows is not None if name == "train" else not split.eval_stays.all()
        )
        return changed or parted or self.scale.get(name, False)


# --- writing --------------------------------------------------------------------------------------


def write_eval(plans: Plans, path: Path) -> None:
    """Write the eval windows."""
    plan, side = plans.windows, plans.material.eval
    if plan is None or side is None or side.file is None:
        return
    if plans.split is not None and plan.keys is not None:
        plan = plan.select(plans.split.eval_stays)
    _write_planned(plans, side, plan, path)


def _write_planned(plans: Plans, side: Side, plan: WindowPlan, path: Path) -> None:
    file = side.file
    assert file is not None
    members = {
        name: Stream(shape=(len(plan.rows), *array.shape[1:]), dtype=array.dtype, blocks=blocks)
        for name, array, blocks in (
            (CONTEXT_NAMES[0], file.contexts, lambda: (c for c, _ in _blocks(plans, side, plan))),
            (TARGET_NAMES[0], file.targets, lambda: (t for _, t in _blocks(plans, side, plan))),
        )
    }
    if plan.keys is not None:
        members["truth_keys"] = whole(plan.keys.astype(np.int32))
    write_streams(path, members | _provenance(plans, side, len(file), len(plan.rows)))


def _blocks(
    plans: Plans, side: Side, plan: WindowPlan
) -> Iterator[tuple[Float[np.ndarray, "b T D"], Float[np.ndarray, "b D"]]]:
    """Yield contexts and targets of a repaired window file."""
    material, scale, start, file = plans.material, plans.scale[side.name], 0, side.file
    assert file is not None
    bank_scaled = plans.bank is not None and plans.bank.scale
    for rows in row_blocks(plan.rows, file.contexts):
        part = slice(start, start + len(rows))
        start += len(rows)
        contexts, targets = composed(material, file.contexts, plan, part), file.targets[rows]
        if plan.keys is not None and material.bank is not None:
            told = plan.answered[part]
            targets = np.array(targets)
            targets[told] = material.bank.rows(rows_at(material, plan.keys[part][told]))
        if scale or bank_scaled:
            contexts, targets = _rescaled(plans, plan, part, contexts, targets, scale=scale)
        yield contexts, targets


def _rescaled(
    plans: Plans,
    plan: WindowPlan,
    part: slice,
    contexts: Float[np.ndarray, "b T D"],
    targets: Float[np.ndarray, "b D"],
    *,
    scale: bool,
) -> tuple[Float[np.ndarray, "b T D"], Float[np.ndarray, "b D"]]:
    """Scale vectors to length 1; one that is a row of the bank takes the bits of the new row."""
    sequence = np.concatenate([contexts, targets[:, None]], axis=1)
    new = scaled(sequence) if scale else sequence
    bank = plans.material.bank
    if bank is not None and bank.width == sequence.shape[-1] and plan.keys is not None:
        steps = np.arange(1 - sequence.shape[1], 1)
        for slot, step in enumerate(steps):
            row, same = in_run(plans.material, plan.keys[part], int(step), sequence[:, slot])
            mine = bank.rows(np.maximum(row, 0))
            new[same, slot] = (scaled(mine) if plans.bank and plans.bank.scale else mine)[same]
    return new[:, :-1], new[:, -1]


def write_train(plans: Plans, path: Path) -> None:
    """Write the train windows, block by block."""
    side = plans.material.train
    if side is None or side.file is None:
        return
    if plans.train is not None:
        stay = plans.split.train_rows if plans.split is not None else None
        plan = plans.train if stay is None else plans.train.select(np.isin(plans.train.rows, stay))
        _write_planned(plans, side, plan, path)
        return
    file, rows = side.file, np.arange(len(side))
    if plans.split is not None and plans.split.train_rows is not None:
        rows = plans.split.train_rows
    members = {
        CONTEXT_NAMES[0]: selected(file.contexts, rows, scale=plans.scale["train"]),
        TARGET_NAMES[0]: selected(file.targets, rows, scale=plans.scale["train"]),
    }
    if file.truth_keys is not None:
        members["truth_keys"] = whole(file.truth_keys[rows])
    write_streams(path, members | _provenance(plans, side, len(file), len(rows)))


def write_payload(plans: Plans, path: Path) -> None:
    """Write the bank as one `.npz`."""
    bank, plan = plans.material.bank, plans.bank
    if bank is None or plan is None:
        return
    members = {
        "vectors": selected(bank.vectors, plan.rows, scale=plan.scale),
        "keys": whole(bank.keys[plan.rows].astype(np.int32)),
    }
    provenance = _provenance(plans, bank, len(bank.pool_rows), len(plan.rows))
    write_streams(path, members | provenance)


def write_bank(plans: Plans, folder: Path) -> None:
    """Write a bank folder, its vectors through a file next to it so that they need no memory."""
    bank, plan = plans.material.bank, plans.bank
    if bank is None or plan is None:
        return
    vectors = folder.with_name(folder.name + ".vectors")
    try:
        write_streams(vectors, {"vectors": selected(bank.vectors, plan.rows, scale=plan.scale)})
        manifest = _noted(plans, bank, 0, len(plan.rows))
        if plan.split is not None:
            manifest["split"] = plan.split
        write_bank_folder(
            folder,
            open_npz(vectors)["vectors"],
            bank.keys[plan.rows],
            manifest,
            _texts(bank, plan.rows),
        )
    finally:
        vectors.unlink(missing_ok=True)


def _texts(bank: Bank, rows: Int[np.ndarray, " n"]) -> list[str] | None:
    texts = bank.load_texts()
    return None if texts is None else [texts[row] for row in rows]


# --- provenance -----------------------------------------------------------------------------------


def _provenance(plans: Plans, part: Side | Bank, before: int, after: int) -> dict[str, Stream]:
    noted = _noted(plans, part, before, after)
    return {"provenance": whole(np.array(json.dumps(noted, default=str)))}


def _noted(plans: Plans, part: Side | Bank, before: int, after: int) -> dict[str, object]:
    """Return what a repaired file says of itself.

    Counts that it declared are lowered by what the repair took out, no further: rows that were
    missing before are still missing. The original is kept as text, so that nobody takes its
    counts for those of this file.
    """
    original = part.manifest if isinstance(part, Bank) else part.provenance
    ours: dict[str, object] = {
        "repaired_from": part.source,
        "repairs": plans.steps,
        "original_provenance": json.dumps(dict(original), default=str),
    }
    if isinstance(part, Bank):
        kept = {k: v for k, v in original.items() if k not in ("sha256", "norm", "dtype")}
        width = plans.material.pool.width
        return {**_lowered(kept, "bank", before - after), **ours, "count": after, "width": width}
    return {"num_windows": after, **_lowered(original, part.name, before - after), **ours}


def _lowered(original: Mapping[str, object], name: str, by: int) -> dict[str, object]:
    units = UNITS.get(name, WINDOW_UNITS)
    lowered: dict[str, object] = {}
    for key, value in original.items():
        if isinstance(value, Mapping):
            lowered[key] = _lowered(value, name, by)
        else:
            counts = declared_counts({key: value}, units)
            lowered[key] = counts[key] - by if counts else value
    return lowered
