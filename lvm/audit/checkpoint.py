"""Does a checkpoint give back its own numbers, and what did it and its parents see?

A loader that builds another class of equal shapes answers without complaint. What gives it away are
numbers that were stored with the weights: outputs for eight fixed inputs, and the validation cosine
on windows that are known by the hash of their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lvm.audit.check import About, check
from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.lineage import read_lineage
from lvm.audit.loaded import CheckpointPart
from lvm.audit.material import Material
from lvm.audit.own_figure import resolved
from lvm.audit.own_numbers import RETRAIN, loader_finding, model_of, of_a_folder, of_a_foreign_file

NUM_NAMED = 5  # classes that a finding names


# --- its own numbers ------------------------------------------------------------------------------


@check("LOADER", "does the checkpoint reproduce its own numbers?", About(blocks=True, cause=140))
def loader(material: Material) -> Iterator[Seen]:
    """Compare outputs and validation cosine with those stored; report what cannot be loaded."""
    part = material.checkpoint
    if part is None:
        reason = material.missing.get("checkpoint", "no checkpoint was given")
        raise NotEvaluable(reason, "give --checkpoint DIR or FILE.pt")
    if part.predictor is None or part.recipe is None:
        yield _misfit(part)
        return
    if part.path.is_file():
        part = part if part.figure is not None else resolved(part, material)
    own = of_a_foreign_file if part.figure is not None else of_a_folder
    looks: tuple[Callable[[], Iterator[Seen]], ...] = (
        lambda: own(part, material),
        lambda: _context_length(part, material),
        lambda: _unread_parents(part),
        lambda: _left_out(part),
        lambda: _unused(part),
    )
    silent, found = [], False
    for look in looks:
        try:
            for finding in look():
                found = True
                yield finding
        except NotEvaluable as reason:
            silent.append(reason)
    if silent and not found:
        raise NotEvaluable("; ".join(map(str, silent)), silent[0].next)


def _left_out(part: CheckpointPart) -> Iterator[Seen]:
    names = part.manifest.left_out or ()
    if names:
        yield loader_finding(
            part,
            f"objects of other classes were left out: {', '.join(names[:NUM_NAMED])}"
            f"{f' and {len(names) - NUM_NAMED} more' if len(names) > NUM_NAMED else ''}",
            "tensors, numbers, text, containers and paths",
            "The weights were read. Nothing from these classes was imported or run, so what "
            "these objects say about the model is unknown.",
            "nothing, if the model does not need them",
            severity=Severity.INFO,
        )


def _unused(part: CheckpointPart) -> Iterator[Seen]:
    names = part.manifest.unused_weights or ()
    if names:
        yield loader_finding(
            part,
            f"weights that a model of vectors does not use: {', '.join(names[:NUM_NAMED])}",
            "only weights of the network",
            "A network that reads vectors needs no token table.",
            "nothing",
            severity=Severity.INFO,
        )


def _misfit(part: CheckpointPart) -> Seen:
    return loader_finding(
        part,
        part.problem,
        "names and shapes of a registered model, for vectors of the width of the data",
        "The weights do not match the model or the data, so every number would describe "
        "another model.",
        RETRAIN,
    )


def _context_length(part: CheckpointPart, material: Material) -> Iterator[Seen]:
    _, recipe = model_of(part)
    lengths = {side.context_length for side in material.sides} - {recipe.context_length}
    if lengths:
        yield loader_finding(
            part,
            f"trained on contexts of {recipe.context_length} vectors, but the data have "
            f"{min(lengths)}",
            "one context length",
            "The model is evaluated on contexts of a length that it was not trained on.",
            f"cut windows of {recipe.context_length} vectors, or train with context_length = "
            f"{min(lengths)}",
            severity=Severity.WARN,
            values={"context_length": float(recipe.context_length)},
        )


# --- what it was started from ---------------------------------------------------------------------


def _unread_parents(part: CheckpointPart) -> Iterator[Seen]:
    unread = read_lineage(part.manifest, part.path).unread
    if unread:
        named = "; ".join(f"{parent}: {why}" for parent, why in list(unread.items())[:3])
        yield loader_finding(
            part,
            f"{len(unread)} parents of the checkpoint do not say what they have read ({named})",
            "every parent readable, with articles_seen or text_seen",
            "The models it was initialised from may have seen the evaluation text, and nothing "
            "here can rule that out.",
            "put the parents' folders where manifest.json names them, or train from scratch",
            severity=Severity.WARN,
            where={"count": len(unread)},
            values={"unread_parents": float(len(unread))},
        )
