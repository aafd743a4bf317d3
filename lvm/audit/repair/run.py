"""Repair what the audit knows how to repair: new files, never the old ones.

Three things are planned from the whole material before anything is written: where every eval window
really lies, which articles belong to which side, and which rows of the bank stay. Then every
changed file is rewritten, all of them or none.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lvm.audit.blame import WrongBank, wrong_bank
from lvm.audit.counts import REPEATED_WARN, repeated, suspects
from lvm.audit.material import Material, Side
from lvm.audit.repair.bank import BankPlan, is_off, plan_bank, plan_split
from lvm.audit.repair.files import Plans, write_bank, write_eval, write_payload, write_train
from lvm.audit.repair.places import with_keys_moved, with_lost_vectors
from lvm.audit.repair.streams import Write, refuse_taken, write_all
from lvm.audit.repair.windows import WindowPlan, as_they_are, plan_train, plan_windows
from lvm.audit.target_keys import copies_of_train
from lvm.core.errors import UsageError

CACHED = ("content", "by_key", "_keyed")  # what holds for a quick and a full audit alike


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What was written, what was done, and what could not be."""

    files: Mapping[str, Path]  # "eval", "train", "payload"; "bank" for a bank with its own windows
    steps: Sequence[str]
    kept: int  # eval windows, or bank rows where there are none
    dropped: Sequence[tuple[str, int]]  # why, and how many rows could not be repaired
    next: str  # a command


def repair(material: Material, out: Path) -> Repaired:
    """Write repaired files at `out`: a folder, or the eval file itself where `out` ends in .npz.

    Files that need no repair are not written. Raises UsageError when there is nothing that can be
    repaired, when nothing of a file would be left, and when something is at `out` already.
    """
    refuse_taken(out)
    plans = _plan(_every_row(material))
    _require_rows(plans)
    writes = _writes(plans, out)
    if not writes:
        why = "; ".join(["no repair exists for these findings", *plans.notes])
        raise UsageError(f"There is nothing to repair ({why}); leave out --repair.")
    write_all(dict(writes.values()))
    files = {name: path for name, (path, _) in writes.items()}
    return Repaired(
        files=files,
        steps=[*plans.steps, *plans.notes],
        dropped=plans.dropped,
        kept=_num_kept(plans),
        next=_next(material, files),
    )


def _require_rows(plans: Plans) -> None:
    """Refuse a repair that would leave nothing of a file."""
    kept = {"bank": plans.bank, "eval": plans.windows, "train": plans.train}
    emptied = [name for name, plan in kept.items() if plan is not None and len(plan.rows) == 0]
    if emptied:
        reasons = "; ".join(f"{why}: {count:,}" for why, count in plans.dropped)
        raise UsageError(
            f"The repair would leave no rows in {' and '.join(emptied)} ({reasons}); write "
            f"{'it' if len(emptied) == 1 else 'them'} again."
        )


def _every_row(material: Material) -> Material:
    """Return the material for a look at every row, with what a quick look has found already."""
    if not material.quick:
        return material
    full = dataclasses.replace(material, quick=False)
    known = material.__dict__
    full.__dict__.update({name: known[name] for name in CACHED if name in known})
    return full


def _plan(material: Material) -> Plans:
    """Decide in the order in which things depend on each other: windows, split, bank."""
    wrong = wrong_bank(material)
    if wrong is not None:
        return _keys_of_bank(material, wrong)
    material, filled = with_lost_vectors(material)
    eval_ = material.eval if material.eval is not None and material.eval.file else None
    windows = plan_windows(material, eval_) if eval_ is not None else None
    windows = _once(windows, eval_)
    side = material.train if material.train is not None and material.train.file else None
    train = _once(plan_train(material, side), side) if side is not None else None
    split = plan_split(material, windows.keys if windows else None, train)
    used = [split.train_articles] if split else []
    if windows and windows.keys is not None:
        used.append(windows.keys[:, 0])
    elif material.eval is not None and material.eval.keys is not None:
        used.append(material.eval.keys[:, 0])  # the test split of a bank
    own = material.eval is not None and material.eval.file is None
    copied = copies_of_train(material)[0] if own else np.empty(0, np.int64)
    bank = plan_bank(material, np.concatenate([np.empty(0, np.int64), *used]), copied)
    if bank is not None and len(filled):
        step = f"{len(filled)} missing bank vectors restored from windows that hold them"
        bank = dataclasses.replace(bank, steps=(step, *bank.steps))
    scale = {s.name: is_off(material, s.name) for s in material.sides if s.file is not None}
    return Plans(
        material=material, windows=windows, train=train, split=split, bank=bank, scale=scale
    )


def _keys_of_bank(material: Material, wrong: WrongBank) -> Plans:
    """Move the keys of the bank where that sets them right; touch nothing else, or nothing at all.

    Windows are right then, whatever the bank's keys say of them.
    """
    moved = with_keys_moved(material, wrong)
    steps: tuple[str, ...] = ()
    note = ""
    if moved is None:
        note = (
            f"the keys of {material.pool.source} do not match its vectors, and nothing shows "
            "which would; write it again"
        )
    else:
        steps = (f"bank keys moved by {wrong.rows_off:+d} rows",)
    now = moved or material
    rows = np.arange(len(now.pool.pool_rows))
    bank = BankPlan(rows=rows, scale=False, steps=steps, note=note)
    scale = dict.fromkeys(("train", "eval"), False)
    return Plans(material=now, windows=None, train=None, split=None, bank=bank, scale=scale)


def _once(plan: WindowPlan | None, side: Side | None) -> WindowPlan | None:
    """Return a plan that keeps every window once; where there was none, only if it has to."""
    if side is None or side.file is None:
        return plan
    rows = suspects(side) if side.keys is not None else np.empty(0, np.int64)
    again = rows[repeated(side, rows)]
    if len(again) <= REPEATED_WARN * len(side):
        return plan
    plan = plan or as_they_are(side)
    stays = ~np.isin(plan.rows, again)
    step = f"{int((~stays).sum())} {side.name} repeated windows left out"
    return dataclasses.replace(plan.select(stays), steps=(*plan.steps, step))


def _num_kept(plans: Plans) -> int:
    if plans.windows is None and plans.material.eval is not None and plans.material.eval.file:
        return len(plans.material.eval)
    if plans.windows is None:
        return len(plans.bank.rows) if plans.bank else 0
    stays = plans.split.eval_stays if plans.split and plans.windows.keys is not None else None
    return len(plans.windows.rows) if stays is None else int(stays.sum())


def _next(material: Material, files: Mapping[str, Path]) -> str:
    if "bank" in files:
        return f"lvm audit --data {shlex.quote(str(files['bank']))}"
    given = {side.name: side.source for side in material.sides}
    if material.bank is not None:
        given["payload"] = material.bank.source
    given |= {name: str(path) for name, path in files.items()}
    return "lvm audit " + " ".join(f"--{name} {shlex.quote(path)}" for name, path in given.items())


# --- which files ----------------------------------------------------------------------------------


def _writes(plans: Plans, out: Path) -> dict[str, tuple[Path, Write]]:
    """Return path and writer of every file that changes, by name."""
    material = plans.material
    if _is_bank_folder(material):
        if not plans.changes("payload"):
            return {}
        if out.suffix == ".npz":
            raise UsageError(f"{out} is a file; choose a new folder for the repaired bank.")
        return {"bank": (out, lambda path: write_bank(plans, path))}
    writers: dict[str, Write] = {
        "eval": lambda path: write_eval(plans, path),
        "train": lambda path: write_train(plans, path),
        "payload": lambda path: write_payload(plans, path),
    }
    names = [name for name in writers if plans.changes(name)]
    return {name: (_place(material, out, name), writers[name]) for name in names}


def _is_bank_folder(material: Material) -> bool:
    """Say whether the windows are cut from the bank, or there is a bank folder alone."""
    if material.sides:
        return all(side.file is None for side in material.sides)
    return material.bank is not None and Path(material.bank.source).is_dir()


def _place(material: Material, out: Path, name: str) -> Path:
    if out.suffix != ".npz":
        return out / f"{name}.npz"
    main = "eval" if material.eval else "train" if material.train else "payload"
    return out if name == main else out.with_name(f"{out.stem}.{name}.npz")
