"""Are all arrays there, and do the files fit each other?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lvm.audit.check import About, check
from lvm.audit.finding import REPAIR, Finding, NotEvaluable, Seen
from lvm.audit.material import Material, Side, where_found
from lvm.data.bank import Bank
from lvm.data.manifest import changed_files


@check(
    "SCHEMA",
    "are all arrays present, with the right names and shapes?",
    About(blocks=True, cause=10),
)
def schema(material: Material) -> Iterator[Finding | Seen]:
    """Report what was found while opening, and parts that do not fit each other."""
    yield from (f for f in material.problems if f.code == "SCHEMA")
    if not material.sides and material.bank is None and not material.problems:
        raise NotEvaluable("no data was given", "give --data, or --train, --eval and --payload")
    widths = {side.name: side.width for side in material.sides}
    if material.bank is not None:
        widths["bank"] = material.bank.width
    if len(set(widths.values())) > 1:
        yield Seen(
            seen="widths " + ", ".join(f"{name} {width}" for name, width in widths.items()),
            allowed="one width in all files",
            where=_odd_one(material).where(),
            meaning="Vectors of different widths cannot be compared; they come from different "
            "encoders.",
            next="embed all files with one model (lvm embed --model NAME)",
        )
    lengths = {side.name: side.context_length for side in material.sides}
    if len(set(lengths.values())) > 1:
        yield Seen(
            seen="contexts of "
            + ", ".join(f"{n} vectors in {name}" for name, n in lengths.items()),
            allowed="one context length",
            where=material.side("eval").where(),
            meaning="The model is trained and evaluated on windows of different lengths.",
            next="cut both files with one context length",
        )
    yield from _missing_keys(material)
    yield from _changed_files(material)


def _changed_files(material: Material) -> Iterator[Seen]:
    """Compare the files of a bank folder with the hashes and the count of its manifest."""
    bank = material.bank
    if bank is None or not Path(bank.source).is_dir():
        return
    for name, seen, stated in changed_files(Path(bank.source), bank.manifest):
        yield _damaged(
            bank,
            f"{name} has sha256 {seen[:12]}, the manifest states {stated[:12]}",
            "the files that the manifest was written for",
        )
    count = bank.manifest.get("count", len(bank))
    if count < len(bank):  # more than there are is ROWS_DROPPED's to say
        seen = f"{len(bank)} rows, the manifest states {count:.0f}"
        yield _damaged(bank, seen, "as many rows as the manifest states")


def _damaged(bank: Bank, seen: str, allowed: str) -> Seen:
    return Seen(
        seen=seen,
        allowed=allowed,
        where=where_found("bank", bank.source),
        meaning="The vectors, the keys or the manifest changed after the bank was written, so the "
        "manifest may describe other rows.",
        next="copy the bank again, or rewrite it with lvm embed",
    )


def _odd_one(material: Material) -> Side:
    """Return the side whose width differs from the bank's, else the eval side."""
    width = material.bank.width if material.bank is not None else None
    odd = [side for side in material.sides if width is not None and side.width != width]
    return [*odd, *material.sides][0]


def _missing_keys(material: Material) -> Iterator[Seen]:
    side = material.eval
    if side is None or side.keys is not None:
        return
    yield Seen(
        seen=f"{side.source} has no truth_keys",
        allowed="truth_keys [M, 2], the (article, chunk) of every target",
        where=side.where(count=len(side), of=len(side)),
        meaning="Without keys it is unknown which bank row is the target, and which windows share "
        "an article.",
        next=REPAIR,
    )
