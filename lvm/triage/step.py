"""A step of the tree: one question, the arms that answer it, and a control.

Steps are found by file: every module of `tune_jobs/steps/` registers one. A step never trains or
judges; it only says, for a base recipe, which variants are worth a trial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from lvm.config import Recipe, ScheduleConfig
from lvm.errors import ConfigError
from lvm.packages import STEPS as STEPS_PACKAGE
from lvm.registry import Registry


class Role(StrEnum):
    """What an arm is run for."""

    PHASE1 = "phase 1"
    CONTROL = "control"
    ARM = "arm"
    CONFIRM = "confirm"
    REPEAT = "repeat"  # with another seed, beside the verdict


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One variant of the base recipe."""

    name: str
    changes: Mapping[str, object]  # dotted recipe keys
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
    control: Mapping[str, object] = field(default_factory=dict)  # what every arm has, control too


@dataclass(frozen=True, kw_only=True)
class Step:
    """One question of the tree."""

    name: str
    number: int  # place in the order: the report's five, then ours, then the open questions
    title: str
    question: str
    hypothesis: str  # what the failure report supposed
    rules_out: str  # what is known when no arm helps
    propose: Callable[[Recipe, Facts], Proposal]
    epochs: Callable[[ScheduleConfig], int]
    reported: bool = False  # one of the failure report's five
    extended: bool = False  # asks an open question: measured on dev, never confirmed or carried


def why_refused(recipe: Recipe, changes: Mapping[str, object]) -> str:
    """Return why a recipe with these changes cannot be trained, or an empty text where it can."""
    try:
        recipe.with_changes(changes)
    except ConfigError as error:
        return str(error)
    return ""


STEPS: Registry[Step] = Registry("step", STEPS_PACKAGE)


def steps_in_order(order: Sequence[str] = (), *, reported_only: bool = False) -> list[Step]:
    """Return the steps of the tree: those numbered in `order` first, then by their numbers.

    `reported_only` leaves out what is not one of the failure report's five.
    """
    place = {number: at for at, number in enumerate(order)}
    steps = [s for s in STEPS if not s.extended and (s.reported or not reported_only)]
    return sorted(steps, key=lambda s: (place.get(str(s.number), len(place)), s.number))


def extended_steps() -> list[Step]:
    """Return the steps that ask the report's open questions, in their order."""
    return sorted((step for step in STEPS if step.extended), key=lambda s: s.number)
