"""One triage: the base recipe, the bounds of its gates, how its arms share the machine."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from lvm.core.config.recipe import Recipe
from lvm.core.config.steps import OwnStep
from lvm.core.metrics import METRICS, Shown
from lvm.core.setting import Section, require, require_one_of


@dataclass(frozen=True, kw_only=True)
class GateConfig(Section):
    """Bounds of the stage gate and the success gate (the report's values are the defaults)."""

    stage_eval_cosine: float = 0.35  # dev prediction-to-target cosine that lets an arm through
    success_r_at_5: float = METRICS.bounds({})["r_at_5"]  # gain in R@5 over AR-only, as a share
    success_mrr: float = METRICS.bounds({})["mrr"]  # gain in MRR over AR-only
    confidence: float = 0.95  # two-sided level of the intervals
    dev_windows: int = 8192  # most dev windows that judge an epoch, drawn once by article

    def __post_init__(self) -> None:
        ok = -1 <= self.stage_eval_cosine <= 1
        require(ok, "gates.stage_eval_cosine", self.stage_eval_cosine, "from -1 to 1")
        for name, bound in self.success_bounds.items():
            metric = METRICS.get(name)
            require(metric.allows(bound), f"gates.success_{name}", bound, metric.allowed)
        require(
            0.5 < self.confidence < 1, "gates.confidence", self.confidence, "above 0.5 and below 1"
        )
        require(self.dev_windows >= 1, "gates.dev_windows", self.dev_windows, "at least 1")

    @property
    def success_bounds(self) -> dict[str, float]:
        """The gain over AR-only that is a success, by metric; one of them is enough."""
        return METRICS.bounds(vars(self))


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the arms of a triage share the machine, and their budgets."""

    short_epochs: int = 5  # budget of an arm in a quick step (the report's step 2)
    long_epochs: int = 10  # budget of an arm in a slow step (the report's step 3)
    first_rung: int = 2  # epochs before any arm may be pruned
    reduction_factor: int = 2  # ASHA keeps one arm in this many at each rung
    workers_per_arm: int = 1  # more than one goes through Ray Train
    confirm_workers: int = 2  # workers of the confirming full training
    threads_per_worker: int = 1  # CPU threads; fixed, so that sums have one order everywhere
    use_gpu: bool = False
    autoscaling: bool = False  # the cluster starts nodes on demand: wait for them, do not refuse
    max_concurrent_arms: int = 6
    rule: str = "synchronous"  # or "asynchronous": ASHA's own rule, for wide steps
    rung_metric: str = "eval_cosine"  # ranks the arms at a rung
    metric_across_spaces: str = "mrr"  # ranks them where the arms are searched in several spaces
    gpus_per_arm: float = 1.0  # below 1, arms of one worker share a GPU
    max_restarts: int = 3  # times that an arm is restarted after losing its process or node
    wait_minutes: float = 20.0  # how long an arm may wait for room
    stuck_factor: float = 20.0  # an arm is stuck after this many usual epoch times without an epoch
    stuck_seconds: float = 300.0  # and never sooner
    max_disk_gib: float = 50.0  # above it, weights of arms that lost are removed

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, (bool, str)):
                continue
            if isinstance(value, float):
                ok = 0 < value < math.inf
                require(ok, f"schedule.{f.name}", value, "above 0 and finite")
                continue
            low = {"reduction_factor": 2, "max_restarts": 0}.get(f.name, 1)
            require(value >= low, f"schedule.{f.name}", value, f"at least {low}")
        require_one_of("schedule.rule", self.rule, ("synchronous", "asynchronous"))
        ranking = [m for m in METRICS if Shown.DEV in m.shown and m.higher_is_better]
        require_one_of("schedule.rung_metric", self.rung_metric, tuple(m.name for m in ranking))
        require_one_of(
            "schedule.metric_across_spaces",
            self.metric_across_spaces,
            tuple(m.name for m in ranking if m.across_spaces),
        )
        require(self.gpus_per_arm <= 1, "schedule.gpus_per_arm", self.gpus_per_arm, "at most 1")
        ok = self.first_rung <= min(self.short_epochs, self.long_epochs)
        require(ok, "schedule.first_rung", self.first_rung, "at most the budget of a step")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """One triage: the base recipe, the gates, the schedule, and the steps that the recipe adds."""

    recipe: Recipe = field(default_factory=Recipe)
    gates: GateConfig = field(default_factory=GateConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    plugins: tuple[str, ...] = ()  # modules that are imported before the recipe is read
    steps: tuple[OwnStep, ...] = ()  # questions that the recipe adds to the tree
