"""What is to be triaged, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lvm.core.config.plain import fingerprint
from lvm.core.config.run import RunConfig
from lvm.core.provenance import checkpoint_digest, file_digest
from lvm.data.seen import SeenArticles
from lvm.triage.step import Step


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be triaged, and how."""

    config: RunConfig
    out: Path
    steps: Sequence[Step]
    code: str  # version of the code that trains, part of every arm's name
    plugins: Mapping[str, str] = field(default_factory=dict)  # name -> content, likewise
    trainer: Mapping[str, str] = field(default_factory=dict)  # its files -> content, likewise
    commit: str | None = None
    checkpoint: Path | None = None  # stands in for the base recipe's phase-1 training
    given: Path | None = None  # the file or folder that checkpoint was made from
    predictions: Path | None = None  # likewise, one row per test window
    seen: SeenArticles | None = None  # what the given model has read, as the user states
    independent: bool = False
    reported_only: bool = False  # the report's five steps in its order, and the first fix ends it
    all_steps: bool = False  # measure every step, though an earlier one passed
    order: Sequence[str] = ()  # names of steps that a person puts first; findings change nothing
    extended: Sequence[Step] = ()  # steps that ask the open questions, after the others
    num_seeds: int = 1  # seeds that the models behind the verdict are trained with
    from_bank: bool = True  # windows are cut from the bank, and can be cut to another length

    @property
    def more_seeds(self) -> list[int]:
        """The seeds after the recipe's own."""
        first = self.config.recipe.seed
        return [first + i for i in range(1, self.num_seeds)]


def identity(request: Request, data: str) -> dict[str, str]:
    """Return what a resumed run must share with the interrupted one, by content and without paths.

    `data` is the fingerprint of the dataset. Given files are identified by their content, absent
    ones by an empty text.
    """
    given, read = request.given, request.predictions
    return {
        "request": _fingerprint(request),
        "data": data,
        "checkpoint": checkpoint_digest(given) if given is not None else "",
        "predictions": file_digest(read) if read is not None else "",
        "seen": request.seen.fingerprint if request.seen is not None else "",
        **{f"plug-in {name}": digest for name, digest in request.plugins.items()},
        **{f"trainer's file {name}": digest for name, digest in request.trainer.items()},
    }


def _fingerprint(request: Request) -> str:
    return fingerprint(
        {
            "config": fingerprint(request.config),
            "steps": sorted(step.name for step in request.steps),
            "independent": request.independent,
            "reported_only": request.reported_only,
            "all_steps": request.all_steps,
            "extended": sorted(step.name for step in request.extended),
            "num_seeds": request.num_seeds,
            **({"order": list(request.order)} if request.order else {}),
        }
    )
