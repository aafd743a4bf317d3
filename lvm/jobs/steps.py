"""Which steps a triage runs, and in which order: by its flags, its recipe and the audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lvm.core.config.run import RunConfig
from lvm.core.errors import UsageError
from lvm.core.registry import closest
from lvm.jobs.options import TriageOptions
from lvm.triage.check_steps import check_own_steps
from lvm.triage.draws import Draws
from lvm.triage.own_steps import own_steps
from lvm.triage.step import Step, extended_steps, steps_in_order


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The steps of a run."""

    steps: Sequence[Step]
    extended: Sequence[Step]  # open questions


def chosen_steps(options: TriageOptions, config: RunConfig, order: Sequence[str] = ()) -> Chosen:
    """Return the steps of a run; `order` has the numbers of those that the audit puts first.

    Raises ConfigError for a step of the recipe that is wrong, UsageError for a flag that is.
    """
    check_own_steps(config)
    if options.five_steps and (options.steps or options.order):
        raise UsageError(
            f"--{'steps' if options.steps else 'order'} cannot be given with --five-steps, which "
            "asks the report's five in its order; leave one of the two out."
        )
    every = steps_in_order(
        () if options.five_steps or options.order else order,
        reported_only=options.five_steps,
        own=own_steps(config, Draws(config.recipe.seed)),
    )
    steps, extended = _named(options, every)
    return Chosen(steps=_in_order(options, steps), extended=extended)


def _named(options: TriageOptions, every: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """Return the steps of the tree and the open questions that the flags ask for."""
    questions = extended_steps()
    known = [step.name for step in (*every, *questions)]
    for name in options.steps:
        _require_known("steps", name, known)
    named = set(options.steps)
    steps = [step for step in every if not named or step.name in named]
    if not steps:
        raise UsageError(
            "--steps names open questions alone, and these settle no verdict; name a step of the "
            f"tree as well: {', '.join(step.name for step in every)}."
        )
    return steps, [step for step in questions if options.extended or step.name in named]


def _in_order(options: TriageOptions, steps: Sequence[Step]) -> list[Step]:
    known = [step.name for step in steps]
    for name in options.order:
        _require_known("order", name, known)
    place = {name: at for at, name in enumerate(dict.fromkeys(options.order))}
    return sorted(steps, key=lambda step: place.get(step.name, len(place)))  # the others as before


def _require_known(flag: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = closest(name, list(known))
        raise UsageError(
            f"--{flag} names {name!r}, which is no step of this run{near}; known: "
            f"{', '.join(known)}."
        )
