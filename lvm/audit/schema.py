"""Are all arrays there, and do the files fit each other?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from lvm.audit.check import About, check
from lvm.audit.finding import REPAIR, Finding, NotEvaluable, Severity
from lvm.audit.material import Material, Side
from lvm.audit.where import where_found
from lvm.data.integrity import changed_files

DAMAGED = (
    "The vectors, the keys or the manifest changed after the bank was written, so the manifest "
    "may describe other rows."
)
AGAIN = "copy the bank again, or rewrite it with lvm embed"


@check(
    "SCHEMA",
    "are all arrays present, with the right names and shapes?",
    About(blocks=True, cause=10),
)
def schema(material: Material) -> Iterator[Finding]:
    """Report what was found while opening, and parts that do not fit each other."""
    yield from (f for f in material.problems if f.code == "SCHEMA")
    if not material.sides and material.bank is None and not material.problems:
        raise NotEvaluable("no data was given", "give --data, or --train, --eval and --payload")
    widths = {side.name: side.width for side in material.sides}
    if material.bank is not None:
        widths["bank"] = material.bank.width
    if len(set(widths.values())) > 1:
        yield _misfit(
            _odd_one(material).where(),
            "widths " + ", ".join(f"{name} {width}" for name, width in widths.items()),
            "one width in all files",
            "Vectors of different widths cannot be compared; they come from different encoders.",
            "embed all files with one model (lvm embed --model NAME)",
        )
    lengths = {side.name: side.context_length for side in material.sides}
    if len(set(lengths.values())) > 1:
        yield _misfit(
            material.side("eval").where(),
            "contexts of " + ", ".join(f"{n} vectors in {name}" for name, n in lengths.items()),
            "one context length",
            "The model is trained and evaluated on windows of different lengths.",
            "cut both files with one context length",
        )
    yield from _missing_keys(material)
    yield from _changed_files(material)


def _changed_files(material: Material) -> Iterator[Finding]:
    """Compare the files of a bank folder with the hashes and the count of its manifest."""
    bank = material.bank
    if bank is None or not Path(bank.source).is_dir():
        return
    where = where_found("bank", bank.source)
    for name, seen, stated in changed_files(Path(bank.source), bank.manifest):
        yield _misfit(
            where,
            f"{name} has sha256 {seen[:12]}, the manifest states {stated[:12]}",
            "the files that the manifest was written for",
            DAMAGED,
            AGAIN,
        )
    count = bank.manifest.get("count", len(bank))
    if count < len(bank):  # more than there are is ROWS_DROPPED's to say
        seen = f"{len(bank)} rows, the manifest states {count:.0f}"
        yield _misfit(where, seen, "as many rows as the manifest states", DAMAGED, AGAIN)


def _odd_one(material: Material) -> Side:
    """Return the side whose width differs from the bank's, else the eval side."""
    width = material.bank.width if material.bank is not None else None
    odd = [side for side in material.sides if width is not None and side.width != width]
    return [*odd, *material.sides][0]


def _missing_keys(material: Material) -> Iterator[Finding]:
    side = material.eval
    if side is None or side.keys is not None:
        return
    yield _misfit(
        side.where(count=len(side), of=len(side)),
        f"{side.source} has no truth_keys",
        "truth_keys [M, 2], the (article, chunk) of every target",
        "Without keys it is unknown which bank row is the target, and which windows share an "
        "article.",
        REPAIR,
    )


def _misfit(
    where: Mapping[str, object], seen: str, allowed: str, meaning: str, next: str
) -> Finding:
    return Finding(
        code="SCHEMA",
        severity=Severity.BLOCK,
        seen=seen,
        allowed=allowed,
        where=where,
        meaning=meaning,
        next=next,
    )
