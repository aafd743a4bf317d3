"""One audit from files to answer: a quick look first where files are large, then every row.

The quick look reads the eval side, the keys and the bank whole and samples the train side. When it
blocks, nothing more is read: the answer is there in seconds, and it cannot get better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from lvm.audit.check import CHECKS
from lvm.audit.document import AuditDocument
from lvm.audit.finding import REPAIR, NotEvaluable
from lvm.audit.material import EncoderRequest, Material
from lvm.audit.open import on_test_split
from lvm.audit.profiles import plot_data
from lvm.audit.run import Audit, Progress, Routed, audit_document, route, run_checks
from lvm.audit.selftest import ladder
from lvm.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from lvm.data.seen import SeenArticles
    from lvm.evaluation.index import Index

LARGE_BYTES = 512 << 20  # of vectors, from which a quick look comes first


def complete(
    material: Material,
    *,
    checkpoint: Path | None = None,
    predictions: Path | None = None,
    seen: Path | None = None,
    index: Path | None = None,
    encoder: str | None = None,
    texts: Path | None = None,
) -> Material:
    """Return the material with a model, its predictions, an index or an encoder for the data.

    `seen` names the articles that the model has read.
    `encoder` is a name or folder, empty for the one of the manifest; `texts` are the documents.

    Raises DataError, CheckpointError or UsageError for what cannot be read or does not fit.
    """
    changes: dict[str, Any] = {}
    if checkpoint is not None:
        changes |= _checkpoint(material, checkpoint)
    if predictions is not None:
        if checkpoint is not None:
            raise UsageError("--checkpoint and --predictions both name the model; give only one.")
        material = on_test_split(material)
        changes["predictions"] = _predictions(material, predictions)
    if seen is not None:
        if checkpoint is None and predictions is None:
            raise UsageError("--seen needs a model; give --checkpoint or --predictions too.")
        changes["seen"] = _seen(material, seen)
    if index is not None:
        changes["index"] = _index(material, index)
    if encoder is not None or texts is not None:
        changes["encoder"] = _encoder(encoder, texts)
    return dataclasses.replace(material, **changes)


def own_data(material: Material, checkpoint: Path) -> Material:
    """Return the bundled sample where a checkpoint was trained on it, else no data at all.

    A checkpoint audited alone must not be compared with unrelated text.
    """
    from lvm.audit.loaded import names_data
    from lvm.training.checkpoint import read_manifest

    manifest = read_manifest(checkpoint) if checkpoint.is_dir() else None
    if manifest is not None and names_data(manifest, material.bank, material.dataset):
        return material
    return Material(recipe=material.recipe, gates=material.gates, seed=material.seed)


def _checkpoint(material: Material, path: Path) -> dict[str, object]:
    from lvm.audit.loaded import open_checkpoint
    from lvm.audit.own_figure import resolved
    from lvm.audit.training_log import training_log

    part = open_checkpoint(path, material.width, material.recipe.context_length)
    part = resolved(part, material)
    return {"checkpoint": part, "training": training_log(path)}


def _predictions(material: Material, path: Path) -> Tensor:
    from lvm.evaluation.predictions import read_predictions

    if material.eval is None:
        raise UsageError("--predictions needs the eval windows it predicts; give --eval or --data.")
    return read_predictions(path, len(material.eval), material.eval.width)


def _seen(material: Material, path: Path) -> SeenArticles:
    from lvm.audit.stated import check_stated
    from lvm.data.seen import read_seen

    stated = read_seen(path)
    check_stated(stated, material.bank)
    return stated


def _encoder(name: str | None, texts: Path | None) -> EncoderRequest:
    from lvm.data.corpus import read_documents

    if name is None:
        raise UsageError("--texts needs an encoder to embed it again; name one with --encoder.")
    return EncoderRequest(name=name, documents=list(read_documents([texts])) if texts else None)


def _index(material: Material, path: Path) -> Index:
    import torch

    from lvm.data.npz import map_npy
    from lvm.evaluation.foreign_index import read_index
    from lvm.evaluation.index import TorchIndex

    if path.suffix != ".npy":
        return read_index(path)
    rows = map_npy(path)
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise DataError(
            f"{path} has shape {rows.shape} and type {rows.dtype}; save the vectors of the "
            "index, [N, D] floats in the order of its ids, with numpy.save."
        )
    return TorchIndex(torch.from_numpy(rows.astype("float32")))


def with_command(document: AuditDocument, command: str, out: str) -> AuditDocument:
    """Return the document with commands that work as they are."""
    said = f"{command} --repair {out}"
    findings = [replace(f, next=f.next.replace(REPAIR, said)) for f in document.findings]
    return replace(document, findings=findings)


def run_audit(
    material: Material,
    *,
    allowed: Collection[str],
    progress: Progress,
    steps: Collection[Routed],
    thorough: bool = False,
    then: Callable[[], None] = lambda: None,
) -> tuple[Audit, AuditDocument]:
    """Return the audit of a material and its document, `audit.json`, with the order of `steps`.

    `thorough` skips the quick look and always runs every check on every row. `then` is called once,
    when every row is about to be read: where the quick look blocks, whatever it would start is not
    started, and nothing competes with the quick look for the processor.
    """
    if not thorough and num_bytes(material) > LARGE_BYTES:
        quick = dataclasses.replace(material, quick=True)
        codes = [row.code for row in CHECKS if not row.thorough]
        audit = run_checks(quick, codes=codes, allowed=allowed, progress=progress)
        if audit.blocking:
            return audit, document(audit, quick, steps)
    then()
    audit = run_checks(material, allowed=allowed, progress=progress)
    return audit, document(audit, material, steps)


def document(audit: Audit, material: Material, steps: Collection[Routed]) -> AuditDocument:
    """Return the content of `audit.json`, with what its plots and its route are made from."""
    rungs: dict[str, Any] = {}
    if not material.quick:
        try:
            rungs = {name: dict(row) for name, row in ladder(material).items()}
        except (NotEvaluable, ArithmeticError, ValueError):
            rungs = {}
    try:
        plots = plot_data(material)
    except (NotEvaluable, ArithmeticError, ValueError):
        plots = {}
    taken = route([f.code for f in audit.findings], steps, ladder=rungs)
    order = [] if audit.blocking else [str(number) for number in taken.order]
    reasons = [] if audit.blocking else list(taken.reasons)
    return audit_document(
        audit,
        material,
        ladder=rungs,
        plots=plots,
        route={"blocked": audit.blocking, "order": order, "reasons": reasons},
    )


def num_bytes(material: Material) -> int:
    """Return the size of all stored vectors."""
    arrays = [] if material.bank is None else [material.bank.vectors]
    for side in material.sides:
        if side.file is not None:
            arrays += [side.file.contexts, side.file.targets]
    return sum(array.nbytes for array in arrays)
