"""A step of the tree: one question, the arms that answer it, and a control.

Steps are found by file: every module of `tune_jobs/steps/` registers one. A step never trains or
judges. It says, for a base recipe, which variants are worth a trial, what they test, and on which
findings it is asked first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from lvm.core.config.recipe import Recipe
from lvm.core.config.run import ScheduleConfig
from lvm.core.config.steps import Value
from lvm.core.errors import ConfigError
from lvm.core.packages import STEPS as STEPS_PACKAGE
from lvm.core.registry import Registry


class Role(StrEnum):
    """What an arm is run for."""

    PHASE1 = "phase 1"
    CONTROL = "control"
    ARM = "arm"
    CONFIRM = "confirm"
    REPEAT = "repeat"  # with another seed; shown with the verdict


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One variant of the base recipe."""

    name: str
    changes: Mapping[str, Value]  # dotted recipe keys
    why: str  # one clause for the report
    trains: bool = True  # False: the phase-1 model is searched with these changes, without training


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a step may know of the data when it proposes its arms."""

    num_train_windows: int
    width: int
    # T -> why windows of T vectors cannot be cut from this data, or "" where they can
    why_not_cut: Callable[[int], str] = lambda context_length: ""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The arms of a step for one base recipe, and the ones left out with their reasons."""

    arms: Sequence[Arm]
    left_out: Mapping[str, str] = field(default_factory=dict)  # arm name -> reason
    control: Mapping[str, Value] = field(default_factory=dict)  # what every arm has, control too


@dataclass(frozen=True, kw_only=True)
class Tried:
    """An arm of an earlier round, and what it has reached."""

    changes: Mapping[str, object]
    # epoch -> the metric that ranks the arms, negated where lower is better
    values: Mapping[int, float]  # empty where it diverged or broke at once
    finished: bool  # it reached the last epoch


@dataclass(frozen=True, kw_only=True)
class Later:
    """Arms that a step proposes in rounds, from what its earlier arms have reached."""

    propose: Callable[[Recipe, Facts, Sequence[Tried]], Proposal]  # no arms: there are no more
    count_on: Callable[[Recipe, Facts], Proposal]  # arms of the same number and cost, for a plan


OVER_CONTROL = "gain over the control at the same budget and seed in R@5 and MRR, dev split"
# (an arm's changed keys, its control's recipe) -> whether the arm tests the claim
Tests = Callable[[Mapping[str, object], Recipe], bool]


class Kind(StrEnum):
    """Whose a hypothesis is, in the order of the ledger."""

    HYPOTHESIS = "hypothesis"  # the failure report's
    OPEN_QUESTION = "open question"  # the failure report's; its claim is a question
    BEYOND = "beyond the report"


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A claim with its prediction, and which arms test it by what statistic."""

    id: str
    claim: str
    predicts: str
    kind: Kind = Kind.BEYOND
    tests: Tests = lambda changes, control: True
    statistic: str = OVER_CONTROL
    also: Collection[str] = ()  # other steps that have arms which test it

    @property
    def statement(self) -> str:
        """What is supposed, as a statement."""
        return self.predicts if self.kind is Kind.OPEN_QUESTION else self.claim


def raises(key: str) -> Tests:
    """Return a test for arms that raise a number of the recipe above the control's."""

    def above_control(changes: Mapping[str, object], control: Recipe) -> bool:
        own: object = control
        for part in key.split("."):
            own = getattr(own, part, None)
        new = changes.get(key)
        return isinstance(new, int | float) and isinstance(own, int | float) and new > own

    return above_control


@dataclass(frozen=True, kw_only=True)
class Step:
    """One question of the tree, with its texts and arms."""

    name: str
    number: int  # place in the order: the report's five, then ours, then the open questions
    title: str
    question: str
    hypotheses: Sequence[Hypothesis]  # at least one; the first is the step's own
    rules_out: str  # what is known when no arm helps
    propose: Callable[[Recipe, Facts], Proposal]
    epochs: Callable[[ScheduleConfig], int]
    first_on: Collection[str] = ()  # finding codes that put it before the others
    reported: bool = False  # one of the failure report's five
    extended: bool = False  # asks an open question: measured on dev, never confirmed or carried
    metric: str = ""  # ranks its arms at the rungs; "": the schedule's
    minutes: float = 0.0  # after which none of its arms goes on; 0: no limit
    seeks_the_best: bool = False  # an arm that holds the stage gate does not end the step
    later: Later | None = None  # its arms beyond those with which it starts

    @property
    def hypothesis(self) -> str:
        """What the step supposes."""
        return self.hypotheses[0].statement

    @property
    def flag(self) -> str:
        """What makes a run ask this step, whatever the earlier results."""
        return "--extended" if self.extended else "--all-steps"


def why_refused(recipe: Recipe, changes: Mapping[str, object]) -> str:
    """Return why a recipe with these changes cannot be trained, or an empty text where it can."""
    try:
        recipe.with_changes(changes)
    except ConfigError as error:
        return str(error)
    return ""


STEPS: Registry[Step] = Registry("step", STEPS_PACKAGE)


def steps_in_order(
    order: Sequence[str] = (), *, reported_only: bool = False, own: Sequence[Step] = ()
) -> list[Step]:
    """Return the steps of the tree: those numbered in `order` first, then by their numbers.

    `reported_only` leaves out what is not one of the failure report's five; `own` are those that
    the recipe adds. ConfigError where two steps contradict each other.
    """
    place = {number: at for at, number in enumerate(order)}
    steps = [s for s in _numbered(own) if not s.extended and (s.reported or not reported_only)]
    return sorted(steps, key=lambda s: (place.get(str(s.number), len(place)), s.number))


def extended_steps() -> list[Step]:
    """Return the steps that ask open questions, in their order."""
    return [step for step in _numbered() if step.extended]


def hypotheses(own: Sequence[Step] = ()) -> Iterator[tuple[Hypothesis, list[Step]]]:
    """Yield every hypothesis with the steps that test it; the one that states it gives its place.

    The failure report's own come in its numbering, then ours as their steps are asked. `own` are
    the steps that the recipe of a run has added: a journal may be older than one of ours.
    """
    steps = [*_numbered(), *own]
    stated = [(h, step) for step in steps for h in step.hypotheses]
    kinds = list(Kind)

    def place(entry: tuple[Hypothesis, Step]) -> tuple[int, int, int, str]:
        hypothesis, step = entry
        number = step.number if hypothesis.kind is Kind.BEYOND else 0
        return kinds.index(hypothesis.kind), number, len(hypothesis.id), hypothesis.id

    for hypothesis, step in sorted(stated, key=place):
        asked = {step.name, *hypothesis.also}
        yield hypothesis, [other for other in steps if other.name in asked]


def _numbered(own: Sequence[Step] = ()) -> list[Step]:
    """Return all steps by number; ConfigError where one contradicts another."""
    steps = sorted([*STEPS, *own], key=lambda step: step.number)
    _refuse_namesakes(own)
    for one, other in pairwise(steps):
        if one.number == other.number:
            raise ConfigError(
                f"the steps {one.name!r} and {other.name!r} both have the number {one.number}; "
                f"give one of them a free number, for example {steps[-1].number + 1}."
            )
    owners: dict[str, str] = {}
    for step in steps:
        if not step.hypotheses:
            raise ConfigError(f"the step {step.name!r} has no hypothesis; give it at least one.")
        for hypothesis in step.hypotheses:
            for name in hypothesis.also:
                STEPS.get(name)
            if hypothesis.id in owners:
                raise ConfigError(
                    f"the steps {owners[hypothesis.id]!r} and {step.name!r} both state the "
                    f"hypothesis {hypothesis.id!r}; give one of them another id."
                )
            owners[hypothesis.id] = step.name
    return steps


def _refuse_namesakes(own: Sequence[Step]) -> None:
    """Raise ConfigError where the name of a recipe's step is taken."""
    taken = set(STEPS.names())
    for step in own:
        if step.name in taken:
            raise ConfigError(f"two steps are named {step.name!r}; rename the one of the recipe.")
        taken.add(step.name)
