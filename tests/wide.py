"""A run of very many arms, as its journal would be: made from that of the bundled sample."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lvm.triage.events import Event, told

Record = dict[str, Any]

SAMPLE = Path(__file__).parent / "data" / "journal.jsonl"
TITLES = {
    "projection_head": "Projection head",
    "temperature": "Temperature",
    "contrastive_weight": "Contrastive weight",
    "negatives": "Negatives",
    "anchor_mmd": "Anchor-MMD",
}
EPOCHS = 8
RUNGS = (2, 4, EPOCHS)  # the first two prune half of the arms
SECONDS = 0.05  # between two events


def wide_run(num_arms: int, folder: Path = Path("/runs/wide")) -> list[Event]:
    """Return the events of a run with `num_arms` arms in five steps, none of which fixes it.

    In the last step one arm holds the stage gate at the second rung, which cancels the others.
    """
    return _events(_records(num_arms, folder))


def write_wide_run(num_arms: int, folder: Path) -> list[Event]:
    """Write the journal of such a run into `folder` and return its events."""
    records = _records(num_arms, folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "journal.jsonl").write_text(lines)
    return _events(records)


def _records(num_arms: int, folder: Path) -> list[Record]:
    return list(_stamped(_Writer(folder).run(num_arms)))


def _events(records: Iterable[Record]) -> list[Event]:
    return [event for record in records if (event := told(record)) is not None]


def _stamped(events: Iterator[Record]) -> Iterator[Record]:
    for number, event in enumerate(events):
        yield {"event": event["event"], "at": round(1.7e9 + SECONDS * number, 3), **_rest(event)}


def _rest(event: Record) -> Record:
    return {key: value for key, value in event.items() if key not in ("event", "at")}


class _Writer:
    """Writes the steps after the head of the sample's journal, in the form of its own events."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sample: list[Record] = [json.loads(row) for row in SAMPLE.read_text().splitlines()]

    def _like(self, kind: str, where: Record, **values: Any) -> Record:
        known = (e for e in self.sample if e["event"] == kind)
        found = next(e for e in known if all(e.get(k) == v for k, v in where.items()))
        return {**copy.deepcopy(found), **values}

    def run(self, num_arms: int) -> Iterator[Record]:
        first = next(i for i, e in enumerate(self.sample) if e.get("action") == "RunStep")
        yield from self.sample[:first]
        shares = [num_arms // len(TITLES)] * len(TITLES)
        shares[-1] += num_arms - sum(shares)
        for number, (step, share) in enumerate(zip(TITLES, shares, strict=True), start=1):
            yield from self._step(number, step, share)
        yield self._like(
            "decision",
            {"action": "Stop"},
            number=99,
            verdict="NOT_FIXED",
            cause=[],
            since="no arm of any step holds the success gate",
        )

    def _step(self, number: int, step: str, num_arms: int) -> Iterator[Record]:
        specs = [self._spec(step, place) for place in range(num_arms)]
        yield self._like("decision", {"action": "RunStep"}, number=number, step=step)
        yield self._like(
            "step_started",
            {"step": "projection_head"},
            step=step,
            number=number,
            arms=specs,
            title=TITLES[step],
            epochs=EPOCHS,
        )
        ends = yield from self._race(step, specs, held=number == len(TITLES))
        for spec in specs:
            yield self._judged(step, spec, *ends[spec["id"]])
        yield self._like(
            "step_ended", {}, step=step, stage="FAIL", candidate=None, kept=None, conflicts=[]
        )

    def _spec(self, step: str, place: int) -> Record:
        started = self._like("step_started", {"step": "projection_head"})
        role = "arm" if place else "control"
        spec = next(a for a in started["arms"] if a["role"] == role and a["source"] is None)
        spec["recipe"]["objective"]["temperature"] = round(0.01 + place / 10000, 4)
        arm = f"{step[:4]}{place:08d}"
        return {
            **spec,
            "id": arm,
            "step": step,
            "name": f"{step} {place}" if place else "control",
            "folder": str(self.folder / "arms" / arm),
            "changes": {"objective.temperature": spec["recipe"]["objective"]["temperature"]},
        }

    def _race(self, step: str, specs: list[Record], *, held: bool) -> Any:
        """Yield epochs, rungs and endings; return why and when every arm ended."""
        ends: dict[str, tuple[str, int]] = {}
        for epoch in range(1, EPOCHS + 1):
            live = [spec for spec in specs if spec["id"] not in ends]
            for spec in live:
                yield self._epoch(step, spec, epoch)
            if epoch not in RUNGS or not live:
                continue
            ended = self._ended(live, epoch, held=held and epoch == RUNGS[1])
            holders = [arm for arm, (reason, _) in ended.items() if reason == "gate held"]
            pruned = [arm for arm, (reason, _) in ended.items() if reason == "pruned"]
            values = {spec["id"]: _cosine(spec, epoch) for spec in live}
            yield self._like(
                "rung",
                {},
                step=step,
                epoch=epoch,
                values=values,
                pruned=pruned,
                held=holders,
                cutoff=0.2 if pruned else None,
            )
            ends |= ended
            names = {spec["id"]: spec["name"] for spec in live}
            for arm, (reason, at) in ended.items():
                yield self._like(
                    "arm_ended", {}, step=step, arm=arm, name=names[arm], reason=reason, epoch=at
                )
        return ends

    def _ended(self, live: list[Record], epoch: int, *, held: bool) -> dict[str, tuple[str, int]]:
        ids = [spec["id"] for spec in live]
        if held:
            return {arm: ("gate held" if arm == ids[-1] else "cancelled", epoch) for arm in ids}
        if epoch == EPOCHS:
            return dict.fromkeys(ids, ("finished", epoch))
        return dict.fromkeys(ids[1 : 1 + (len(ids) - 1) // 2], ("pruned", epoch))

    def _epoch(self, step: str, spec: Record, epoch: int) -> Record:
        return self._like(
            "epoch",
            {"epoch": epoch},
            step=step,
            arm=spec["id"],
            name=spec["name"],
            eval_cosine=_cosine(spec, epoch),
            r_at_5=_cosine(spec, epoch) / 4,
        )

    def _judged(self, step: str, spec: Record, reason: str, epoch: int) -> Record:
        event = self._like(
            "arm_judged",
            {"role": spec["role"], "step": "projection_head", "epoch": EPOCHS},
            step=step,
            arm=spec["id"],
            name=spec["name"],
            reason=reason,
            epoch=epoch,
            epochs_run=epoch,
        )
        event["evaluation"]["masked"]["mrr"] = _cosine(spec, epoch) / 3
        return event


def _cosine(spec: Record, epoch: int) -> float:
    place = int(spec["id"][-8:])
    return round(0.1 + 0.01 * epoch + 0.1 * (place % 97) / 97, 4)
