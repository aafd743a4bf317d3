"""A run is one complete typed configuration; variants change a few dotted keys.

`Recipe` is what one arm trains and how it is searched. `RunConfig` adds the gates and the schedule
of a triage. All are frozen; validation raises ConfigError and never repairs a value.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lvm.errors import ConfigError
from lvm.form import MambaForm
from lvm.metrics import METRICS, Shown
from lvm.outside import brief, parse_json, read_text
from lvm.parts import (
    PARTS,
    TERMS,
    Options,
    TermOptions,
    model_options,
    read_options,
    read_tables,
    tables_of,
)
from lvm.plugins import load_modules
from lvm.registry import closest
from lvm.setting import require, require_one_of, section, typed
from lvm.trainer import READ, TrainerConfig, read_trainer

Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the network that reads [B, T, D] and returns the next vector [B, D]."""

    name: str = "mamba2"
    hidden: int = 128  # width inside the network; equal to D, no projection is added
    num_layers: int = 2
    state: int = 64  # state size N of the state-space model (Mamba-2 only)
    head_dim: int = 64  # width of one head, Mamba-2 and transformer
    expand: int = 2  # inner width = expand * hidden
    conv_kernel: int = 4  # taps of the causal depthwise convolution (Mamba-2 only)
    dropout: float = 0.0  # inside the blocks
    input_dropout: float = 0.0  # of the encoder's input; a residual sees the context whole
    output_dropout: float = 0.0  # of the encoder's output, before a residual is added
    residual: bool = False  # add a learned weighting of the context vectors to the output
    backend: str = "auto"  # how Mamba-2 is computed
    form: MambaForm = field(default_factory=MambaForm)  # what a Mamba network computes
    # What models declare themselves, by their names.
    options: Mapping[str, Options] = tables_of(model_options)

    def __post_init__(self) -> None:
        for key in ("hidden", "num_layers", "state", "head_dim", "expand", "conv_kernel"):
            value = getattr(self, key)
            require(value >= 1, f"model.{key}", value, "a whole number of at least 1")
        for key in ("dropout", "input_dropout", "output_dropout"):
            value = getattr(self, key)
            require(0 <= value < 1, f"model.{key}", value, "at least 0 and below 1")
        require_one_of("model.backend", self.backend, BACKENDS)

    @property
    def own_options(self) -> Options:
        """The options that the named model declares itself."""
        given, place = self.options.get(self.name), f"model.options.{self.name}."
        return given or read_options(model_options(self.name), {}, prefix=place)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Projection head D -> hidden -> width that the contrastive loss may look through."""

    hidden: int = 512
    width: int = 256

    def __post_init__(self) -> None:
        for key in ("hidden", "width"):
            value = getattr(self, key)
            require(value >= 1, f"head.{key}", value, "a whole number of at least 1")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights and form of the loss: contrastive (InfoNCE), autoregressive cosine, MMD, others."""

    contrastive_weight: float = 0.7
    ar_weight: float = 0.3
    mmd_weight: float = 0.0
    mmd_balance: str = "fixed"  # "gradient" scales the MMD term to its share of the gradient norm
    temperature: float = 0.07
    space: str = "projected"  # where the contrastive loss is taken: "raw" or "projected"
    stop_gradient: str = "target"  # branch of the head that gets no gradient
    # Further terms by their names, each with a weight and options of its own.
    terms: Mapping[str, TermOptions] = tables_of(TERMS.get)

    def __post_init__(self) -> None:
        for key in ("contrastive_weight", "ar_weight", "mmd_weight"):
            value = getattr(self, key)
            ok = 0 <= value < math.inf
            require(ok, f"objective.{key}", value, "a finite number of at least 0")
        require_one_of("objective.mmd_balance", self.mmd_balance, ("fixed", "gradient"))
        for name in self.terms:
            where = f"objective.{name}_weight" if name in OWN_KEYS else "a term of another name"
            if name in (*OWN_KEYS, *RECORDED, *METRICS.names()):
                raise ConfigError(f"objective.terms.{name} is taken; write it as {where}.")
        total = sum(self.weights.values())
        require(total > 0, "objective: the sum of the weights", total, "more than 0")
        ok = 1e-4 <= self.temperature <= 10
        require(ok, "objective.temperature", self.temperature, "from 0.0001 to 10")
        require_one_of("objective.space", self.space, ("raw", "projected"))
        require_one_of(
            "objective.stop_gradient", self.stop_gradient, ("target", "prediction", "none")
        )
        self._require_a_way_to_the_network()

    @property
    def table(self) -> dict[str, TermOptions]:
        """The terms that weigh something, in the order in which one stands for the objective."""
        own = {
            "contrastive": TermOptions(weight=self.contrastive_weight),
            "ar": TermOptions(weight=self.ar_weight),
            "mmd": TermOptions(weight=self.mmd_weight, balance=self.mmd_balance),
        }
        further = {name: self.terms[name] for name in sorted(self.terms)}
        return {name: term for name, term in (own | further).items() if term.weight > 0}

    @property
    def weights(self) -> dict[str, float]:
        """The weights of `table`."""
        return {name: term.weight for name, term in self.table.items()}

    def key(self, term: str, option: str) -> str:
        """Return the dotted key of a term's option, for messages."""
        own = f"objective.{term}_{option}"
        return own if term in OWN_KEYS else f"objective.terms.{term}.{option}"

    def _require_a_way_to_the_network(self) -> None:
        """Refuse weights with which the network itself would learn nothing."""
        reaching = {name for name, term in self.table.items() if term.reaches_network}
        if self.space == "projected" and self.stop_gradient == "prediction":
            reaching.discard("contrastive")
        if not reaching:
            stopped = 'objective.stop_gradient = "prediction" keeps the contrastive term from the'
            why = stopped if "contrastive" in self.weights else "none of the terms reaches the"
            raise ConfigError(
                f"{why} network, so another term must train it: objective.ar_weight or "
                "objective.mmd_weight must be above 0 (got 0 for both)."
            )
        balanced = [name for name, term in self.table.items() if term.balance == "gradient"]
        for name in balanced:
            if name not in reaching or reaching <= set(balanced):
                key = self.key(name, "balance")
                raise ConfigError(
                    f'{key} = "gradient" scales a term that trains the network by another one, '
                    f'and there are no two: set objective.ar_weight above 0, or {key} to "fixed".'
                )


@dataclass(frozen=True, kw_only=True)
class NegativesConfig:
    """Which rows stand against the target in the contrastive loss."""

    candidates: str = "batch"  # "batch": the targets of the global batch; "bank": every row
    same_article: int = 0  # extra negatives per window from another place of its article
    nearby_article: int = 0  # extra negatives per window from the most similar articles
    random: int = 0  # extra negatives per window from anywhere in the train split
    false_negative_margin: float | None = None  # drop candidates nearer to the target

    def __post_init__(self) -> None:
        require_one_of("negatives.candidates", self.candidates, ("batch", "bank"))
        for key in ("same_article", "nearby_article", "random"):
            value = getattr(self, key)
            require(value >= 0, f"negatives.{key}", value, "a whole number of at least 0")
        margin = self.false_negative_margin
        ok = margin is None or 0 < margin <= 1
        require(ok, "negatives.false_negative_margin", margin, "above 0 and at most 1, or none")

    @property
    def sampled(self) -> int:
        """Number of sampled negatives per window."""
        return self.same_article + self.nearby_article + self.random


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Optimiser, schedule and arithmetic."""

    epochs: int = 12
    batch_size: int = 256  # windows per update over all workers
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1  # share of all updates
    clip_norm: float = 1.0
    precision: str = (
        "fp32"  # "bf16" runs matrix products under autocast; "auto" where the machine has it
    )

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "training.epochs", self.epochs, "at least 1")
        require(self.batch_size >= 2, "training.batch_size", self.batch_size, "at least 2")
        ok = 0 < self.learning_rate < math.inf
        require(ok, "training.learning_rate", self.learning_rate, "a finite number above 0")
        ok = 0 <= self.weight_decay < math.inf
        require(ok, "training.weight_decay", self.weight_decay, "a finite number of at least 0")
        ok = 0 <= self.warmup_fraction < 1
        require(ok, "training.warmup_fraction", self.warmup_fraction, "at least 0 and below 1")
        ok = 0 < self.clip_norm < math.inf
        require(ok, "training.clip_norm", self.clip_norm, "a finite number above 0")
        require_one_of("training.precision", self.precision, ("auto", "fp32", "bf16"))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides one model: what is trained, on what objective, how it is searched."""

    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    context_length: int = 5  # T, vectors
    search_space: str = "raw"  # space of the index at inference: "raw" or "projected"
    seed: int = 0
    # What trains in place of this program.
    trainer: TrainerConfig | None = field(default=None, metadata={READ: read_trainer})

    def __post_init__(self) -> None:
        ok = 1 <= self.context_length <= 512
        require(ok, "context_length", self.context_length, "from 1 to 512 vectors")
        require_one_of("search_space", self.search_space, ("raw", "projected"))
        require(self.seed >= 0, "seed", self.seed, "a whole number of at least 0")
        if self.search_space == "projected" and not self.has_head:
            raise ConfigError(
                'search_space = "projected" needs the projection head, which is trained where '
                'objective.space is "projected" and objective.contrastive_weight is above 0 (got '
                f'"{self.objective.space}" and {self.objective.contrastive_weight:g}).'
            )

    @property
    def has_head(self) -> bool:
        """Whether a projection head is trained (some part of the objective looks through it)."""
        return self.objective.space == "projected" and self.objective.contrastive_weight > 0

    def with_changes(self, changes: Mapping[str, object]) -> Recipe:
        """Return a copy with dotted keys replaced, for example {"objective.temperature": 0.1}."""
        return with_changes(self, changes)

    def ar_only(self) -> Recipe:
        """Return the AR-only sibling: the same network and schedule, the cosine loss alone."""
        alone = dataclasses.replace(
            self.objective,
            contrastive_weight=0.0,
            ar_weight=1.0,
            mmd_weight=0.0,
            space="raw",
            terms={},
        )
        return dataclasses.replace(
            self, objective=alone, negatives=NegativesConfig(), search_space="raw"
        )


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Bounds of the stage gate and the success gate (the report's values are the defaults)."""

    stage_eval_cosine: float = 0.35  # dev prediction-to-target cosine that lets an arm through
    success_r_at_5: float = METRICS.bounds({})["r_at_5"]  # gain in R@5 over AR-only, as a share
    success_mrr: float = METRICS.bounds({})["mrr"]  # gain in MRR over AR-only
    confidence: float = 0.95  # two-sided level of the intervals
    dev_windows: int = 8192  # at most so many dev windows judge an epoch, drawn once by article

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


RECORDED = (
    "loss",
    "gradient_norm",
    "num_negatives",
    "cosine",
    "epoch",
    "seconds",
    "negatives",
    "health",
    "backend",
    "wall",
    "stage",
)
OWN_KEYS = ("contrastive", "ar", "mmd")  # terms whose options stand in [objective] itself
# Of Mamba-2: lvm/models/mamba2.py says what each is.
BACKENDS = ("auto", "dual", "chunked", "mamba_ssm", "compiled", "kernel")


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
    max_restarts: int = 3  # times that an arm whose process or node went away goes on elsewhere
    wait_minutes: float = 20.0  # how long arms that nothing has room for are waited for
    stuck_factor: float = 20.0  # an arm is stuck after so many of its usual epochs without one
    stuck_seconds: float = 300.0  # and never before
    max_disk_gib: float = 50.0  # weights of arms that lost are removed while a run holds more

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
class RunConfig:
    """One triage: the base recipe, the gates, the schedule."""

    recipe: Recipe = field(default_factory=Recipe)
    gates: GateConfig = field(default_factory=GateConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    plugins: tuple[str, ...] = ()  # modules that are imported before the recipe is read


# --- reading, changing, hashing ------------------------------------------------------------------


NO_TRAINER = ("trainer", None)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain dictionaries.

    Tables of parts, lists of plug-ins and a trainer that name none are left out, so that recipes
    without them keep their ids.
    """
    empty: tuple[object, ...] = ({}, ())
    return dataclasses.asdict(
        config,
        dict_factory=lambda items: {
            key: value for key, value in items if value not in empty and (key, value) != NO_TRAINER
        },
    )


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: object) -> str:
    """Return 12 hex digits of the sha256 of the canonical JSON of a config or plain value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = to_dict(value)
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def from_dict(
    cls: type[Section], values: Mapping[str, Any], *, base: Section | None = None, prefix: str = ""
) -> Section:
    """Build a config of class `cls` from nested dictionaries, starting from `base`.

    Raises ConfigError on an unknown key, a value of the wrong type, or a value out of range.
    """
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # a config class
    tables = {field.name: field.metadata.get(PARTS) for field in fields}
    readers = {field.name: field.metadata.get(READ) for field in fields}
    changed: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if key not in hints:
            known = sorted(hints)
            where = f" in section [{prefix[:-1]}]" if prefix else ""
            raise ConfigError(
                f"unknown key {brief(dotted)}{where}{closest(key, known)}; allowed: "
                f"{', '.join(known)}."
            )
        inner = getattr(base, key) if base is not None else None
        if (read := readers[key]) is not None:
            changed[key] = read(value, inner, dotted)
        elif (options_of := tables[key]) is not None:
            changed[key] = read_tables(options_of, value, base=inner or {}, dotted=dotted)
        elif dataclasses.is_dataclass(hints[key]):
            if dataclasses.is_dataclass(value):
                changed[key] = value
                continue
            keys = section(dotted, value)
            changed[key] = from_dict(hints[key], keys, base=inner, prefix=f"{dotted}.")
        else:
            changed[key] = typed(dotted, value, hints[key])
    if base is None:
        return cls(**changed)
    return dataclasses.replace(base, **changed)  # type: ignore[type-var]  # a config class


def with_changes(config: Section, changes: Mapping[str, object]) -> Section:
    """Return a copy of `config` with dotted keys replaced; ConfigError names an unknown key."""
    nested: dict[str, Any] = {}
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return from_dict(type(config), nested, base=config)


def load_run_config(path: Path, base: RunConfig) -> RunConfig:
    """Read a recipe file (.toml or .json) over `base`.

    The sections [gates] and [schedule] change those of the run; every other key is the recipe's.
    What `plugins` lists is imported first: it may name what other keys hold.
    """
    try:
        text = read_text(path)
        values = parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(
            f"the recipe {path} does not exist; give the path of a .toml or .json file."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the recipe {path} cannot be read ({error}); write it as TOML or JSON."
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe {path} holds no keys; write it as a table of keys.")
    sections = {key: values.pop(key, {}) for key in ("gates", "schedule")}
    try:
        plugins = _with_plugins(values.pop("plugins", []))
        return dataclasses.replace(
            from_dict(RunConfig, sections, base=base),
            recipe=from_dict(Recipe, values, base=base.recipe),
            plugins=plugins,
        )
    except ConfigError as error:
        raise ConfigError(f"the recipe {path}: {error}") from None


def run_config_of(values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration that a journal keeps, after its plug-ins are imported."""
    plugins = _with_plugins(values.get("plugins", []))
    plain = {key: value for key, value in values.items() if key != "plugins"}
    return dataclasses.replace(from_dict(RunConfig, plain), plugins=plugins)


def _with_plugins(names: object) -> tuple[str, ...]:
    """Import the modules of a recipe's `plugins` and return their names."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"plugins is {brief(names)}, expected a list of names of modules.")
    load_modules(names)
    return tuple(names)
