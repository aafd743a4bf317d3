"""Where every train window really lies: planned as eval windows are, a block at a time."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np

from lvm.audit.followed import keyed
from lvm.audit.keys import ALLOWED_SHARE
from lvm.audit.material import Material, Side, or_none
from lvm.audit.repair.windows import WindowPlan, in_words, plan_windows

TRAIN_BLOCK = 16_384  # train windows that are placed at a time


def plan_train(material: Material, side: Side) -> WindowPlan | None:
    """Say what becomes of every train window, block by block; None where the file is sound.

    The file has no keys to be held to, or they lead to their vectors: then nothing is touched.
    """
    found = or_none(keyed, material, side)
    if found is None or not found.worst_share < ALLOWED_SHARE or side.file is None:
        return None
    plans = []
    for start in range(0, len(side), TRAIN_BLOCK):
        part = slice(start, start + TRAIN_BLOCK)
        file = dataclasses.replace(
            side.file,
            contexts=side.file.contexts[part],
            targets=side.file.targets[part],
            truth_keys=side.keys[part] if side.keys is not None else None,
        )
        plan = plan_windows(material, dataclasses.replace(side, file=file), part=True)
        plans.append(dataclasses.replace(plan, rows=plan.rows + start))
    return _joined(plans, side)


def _joined(plans: list[WindowPlan], side: Side) -> WindowPlan:
    assert side.keys is not None
    dropped: Counter[str] = Counter()
    for plan in plans:
        dropped.update(dict(plan.dropped))
    joined = dataclasses.replace(
        plans[0],
        rows=np.concatenate([plan.rows for plan in plans]),
        keys=np.concatenate([plan.keys for plan in plans if plan.keys is not None]),
        order=np.concatenate([plan.order for plan in plans]),
        answered=np.concatenate([plan.answered for plan in plans]),
        refilled=np.concatenate([plan.refilled for plan in plans]),
        dropped=tuple(dropped.most_common()),
    )
    return dataclasses.replace(joined, steps=in_words(joined, side.keys[joined.rows]))
