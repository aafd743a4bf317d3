"""What one arm trains, and how its model is searched: a Recipe of typed sections.

Everything is frozen; validation raises ConfigError and never repairs a value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lvm.core.config.plain import with_changes
from lvm.core.errors import ConfigError
from lvm.core.form import MambaForm
from lvm.core.metrics import METRICS
from lvm.core.parts import TERMS, Options, TermOptions, model_options, read_options, tables_of
from lvm.core.setting import Section, require, require_one_of
from lvm.core.trainer import READ, TrainerConfig, read_trainer

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
OWN_KEYS = ("contrastive", "ar", "mmd")  # terms whose options are keys of [objective] itself
# Ways to compute Mamba-2, described in lvm/models/mamba2_block.py.
BACKENDS = ("auto", "dual", "chunked", "mamba_ssm", "compiled", "kernel")


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
    """Projection head D -> hidden -> width; the contrastive loss may be taken behind it."""

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
    # Further terms by name, each with its weight and options.
    terms: Mapping[str, TermOptions] = tables_of(TERMS.get)

    def __post_init__(self) -> None:
        for key in ("contrastive_weight", "ar_weight", "mmd_weight"):
            value = getattr(self, key)
            ok = 0 <= value < math.inf
            require(ok, f"objective.{key}", value, "a finite number of at least 0")
        require_one_of("objective.mmd_balance", self.mmd_balance, ("fixed", "gradient"))
        for name in self.terms:
            where = f"objective.{name}_weight" if name in OWN_KEYS else "a term with another name"
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
        """The terms with a weight; the first one names the objective."""
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
        """Refuse weights that give the network no gradient."""
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
    """The negatives of the contrastive loss."""

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
class Recipe(Section):
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
                'search_space = "projected" needs the projection head, which is only trained '
                'when objective.space is "projected" and objective.contrastive_weight is above '
                f'0 (got "{self.objective.space}" and {self.objective.contrastive_weight:g}).'
            )

    @property
    def has_head(self) -> bool:
        """Whether a projection head is trained (some part of the objective uses it)."""
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
