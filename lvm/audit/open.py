"""From what a person names on the command line to a Material, and whether its files are whole.

A file that cannot be read at all is an error. A file that can be read but is not what its format
promises becomes a finding, and the checks that need it say that they could not look.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lvm.audit.check import About, check
from lvm.audit.finding import REPAIR, Finding, NotEvaluable, Seen, Severity
from lvm.audit.material import Material, Side, where_found
from lvm.core.config.run import RunConfig
from lvm.core.errors import DataError, SchemaError, SplitError
from lvm.data.bank import Bank
from lvm.data.files import read_bank
from lvm.data.load import DataRequest, check_request
from lvm.data.manifest import changed_files
from lvm.data.payload import read_payload
from lvm.data.sample import load_sample
from lvm.data.window_files import open_window_file
from lvm.data.windows import Dataset, Windows, dataset_from_bank

Opened = TypeVar("Opened")


def open_material(request: DataRequest, config: RunConfig, *, whole: bool = True) -> Material:
    """Open a bank, the report's three files (some of them, unless `whole`), or the bundled sample.

    Raises UsageError for a combination that makes no sense and DataError for what cannot be read.
    """
    check_request(request, whole=whole)
    given: dict[str, Any] = {"recipe": config.recipe, "gates": config.gates}
    given["seed"] = config.recipe.seed
    problems: list[Finding] = []
    missing: dict[str, str] = {}

    def attempt(part: str, path: Path, read: Callable[[Path], Opened]) -> Opened | None:
        try:
            return read(path)
        except SchemaError as error:
            problems.append(_schema(part, path, error))
            missing[part] = f"the {part} file is unusable"
            return None

    if request.train or request.evaluation or request.payload:
        for part, file in (("train", request.train), ("eval", request.evaluation)):
            opened = attempt(part, file, open_window_file) if file is not None else None
            given[part] = None if opened is None else Side(part, str(file), file=opened)
        if request.payload is not None:
            given["bank"] = attempt("bank", request.payload, _open_payload)
    else:
        path = request.bank
        bank = load_sample() if path is None else attempt("bank", path, _open_bank)
        if bank is not None:
            given |= {"bank": bank, **_sides(bank, config.recipe.context_length, problems, missing)}
    return Material(problems=problems, missing=missing, **given)


_open_payload = functools.partial(read_payload, check_counts=False)
_open_bank = functools.partial(read_bank, check_counts=False)


def _sides(
    bank: Bank, context_length: int, problems: list[Finding], missing: dict[str, str]
) -> dict[str, object]:
    """Cut the windows of a bank; dev and test together are its eval side."""
    try:
        dataset = dataset_from_bank(bank, context_length)
    except SplitError as error:
        problems.append(_leak(bank.source, str(error)))
        return _not_cut(missing, "the splits share articles")
    except DataError as error:
        return _not_cut(missing, str(error))
    held_out = joined(dataset.dev, dataset.test)
    return {
        "train": Side("train", bank.source, bank=bank, windows=dataset.train),
        "eval": Side("eval", bank.source, bank=bank, windows=held_out),
        "dataset": dataset,
    }


def _not_cut(missing: dict[str, str], why: str) -> dict[str, object]:
    missing["train"] = missing["eval"] = why
    return {}


def joined(first: Windows, second: Windows) -> Windows:
    """Return the windows of both, in this order."""
    return Windows(
        np.concatenate([first.contexts, second.contexts]),
        np.concatenate([first.targets, second.targets]),
        np.concatenate([first.articles, second.articles]),
    )


def on_test_split(material: Material) -> Material:
    """Return the material of a bank with the test split alone as its eval side.

    Predictions are rows of that split.
    """
    dataset: Dataset | None = material.dataset
    if dataset is None or material.eval is None or material.eval.windows is None:
        return material
    side = dataclasses.replace(material.eval, windows=dataset.test)
    return dataclasses.replace(material, eval=side)


def _schema(part: str, path: Path, error: SchemaError) -> Finding:
    return Finding(
        code="SCHEMA",
        severity=Severity.BLOCK,
        seen=error.seen,
        allowed=error.allowed or "the arrays that README lists for this file",
        where=where_found(part, str(path)),
        meaning="The file violates its format, so nothing in it can be trusted.",
        next=error.todo or f"rewrite {path} with the arrays of its format",
    )


def _leak(source: str, error: str) -> Finding:
    return Finding(
        code="SPLIT_LEAK",
        severity=Severity.BLOCK,
        seen=error.split(",")[0],
        allowed="every article in one split",
        where=where_found("bank", source),
        meaning="The model would be evaluated on text that it was trained on.",
        next=f"remove the article from one of the splits in the manifest of {source}",
    )


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
