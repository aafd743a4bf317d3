"""The options of a job's command line: one frozen value of typed fields each.

The fields are in the order of the flags, which is the order in printed commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lvm.core.errors import UsageError

if TYPE_CHECKING:
    from lvm.data.load import DataRequest


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The flags that name the data: a bank, or the three files of the Phase 1 format."""

    data: Path | None = None
    train: Path | None = None
    eval: Path | None = None
    payload: Path | None = None

    @property
    def request(self) -> DataRequest:
        """The data that the flags name."""
        from lvm.data.load import DataRequest

        return DataRequest(
            bank=self.data, train=self.train, evaluation=self.eval, payload=self.payload
        )


@dataclass(frozen=True, kw_only=True)
class TriageOptions(DataOptions):
    """The options of a triage; None where a flag is left out."""

    checkpoint: Path | None = None
    predictions: Path | None = None
    seen: Path | None = None
    recipe: Path | None = None
    plugin: tuple[str, ...] = ()  # paths of .py files and names of modules
    preset: str | None = None
    allow: tuple[str, ...] = ()
    out: Path | None = None
    resume: Path | None = None
    address: str | None = None
    steps: tuple[str, ...] = ()  # names; () runs all
    order: tuple[str, ...] = ()  # names of the steps to run first, in this order
    independent: bool = False
    five_steps: bool = False
    all_steps: bool = False
    extended: bool = False
    seeds: int | None = None
    show: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise UsageError(f"--seeds must be at least 1 (got {self.seeds}).")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of a training."""

    data: Path | None = None
    recipe: Path | None = None
    plugin: tuple[str, ...] = ()
    preset: str
    workers: int | None = None  # of Ray Train
    out: Path
    address: str | None = None

    @property
    def on_ray(self) -> bool:
        """Whether Ray Train runs it; else this process does."""
        return self.workers is not None or self.address is not None


@dataclass(frozen=True, kw_only=True)
class AuditOptions(DataOptions):
    """The options of an audit."""

    checkpoint: Path | None = None
    predictions: Path | None = None
    seen: Path | None = None
    index: Path | None = None
    encoder: str | None = None  # "" is the manifest's
    texts: Path | None = None
    recipe: Path | None = None
    plugin: tuple[str, ...] = ()
    preset: str | None = None
    allow: tuple[str, ...] = ()
    repair: Path | None = None
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """The options of the doctor: one of these, else this machine."""

    cluster: Path | None = None
    address: str | None = None
    runs: Path | None = None


@dataclass(frozen=True, kw_only=True)
class EvalOptions(DataOptions):
    """The options of an evaluation."""

    checkpoint: Path
    other_data: bool = False
    plugin: tuple[str, ...] = ()


Options = TypeVar("Options", AuditOptions, DoctorOptions, EvalOptions, TrainOptions, TriageOptions)
