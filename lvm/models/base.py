"""What every model shares: unit predictions, the residual, the seeded build, what it may declare.

A model is registered in MODELS as a class, made by cls(config, width), whose forward maps contexts
[B, T, D] to [B, D]. It may declare Options, keys of [model.options.NAME] that are found in
config.own_options, and what `Declared` lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import ModelConfig
from lvm.core.errors import ConfigError
from lvm.core.parts import MODELS as MODELS
from lvm.core.randomness import derive_seed
from lvm.models.foreign_forms import Alternative, Args, Shapes

MAX_CONTEXT = 512  # the longest context_length that a recipe allows

NORM_EPS = 1e-5

Module = TypeVar("Module", bound=nn.Module)


class NextVectorModel(nn.Module):
    """An encoder of contexts, made to return unit vectors.

    With `residual` the prediction is encoder_scale * f(context) + sum_t w_t c_t, normalised. The
    weights w are a softmax of `residual_logits`, which are counted from the last position, so that
    one set serves every T up to 512.

    `input_dropout` and `output_dropout` act on the encoder's path alone, in training: a residual
    sees the context whole, so that the encoder learns what the mix of vectors lacks.
    """

    def __init__(
        self,
        encoder: nn.Module,
        width: int,
        *,
        residual: bool = False,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
        input_scale: str = "sqrt_width",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.width = width
        self.input_scale = width**0.5 if input_scale == "sqrt_width" else 1.0
        self.residual = residual
        self.input_dropout = input_dropout
        self.output_dropout = output_dropout
        if residual:
            # Weights start as 1, 1/2, 1/3, ... of the last: near the best fixed mix of sentence
            # vectors, and no position starts so low that it gets no gradient.
            back = torch.arange(MAX_CONTEXT, dtype=torch.float32)
            self.residual_logits = nn.Parameter(-torch.log1p(back))
            # An encoder's output has about unit variance per coordinate, hence a length of about
            # sqrt(D), and would drown a mix of unit vectors: it starts at a tenth of one. From a
            # half, eight epochs of the sample ended .05 lower in cosine (reports/LOG.md).
            self.encoder_scale = nn.Parameter(torch.tensor([0.1 / width**0.5]))

    def forward(self, contexts: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Return unit predictions [B, D] for contexts [B, T, D], oldest vector first."""
        # A unit vector has coordinates near 1/sqrt(D). At unit variance they are not drowned by the
        # first layer's output in a pre-norm residual stream.
        seen = F.dropout(contexts, self.input_dropout, self.training)
        output = self.encoder(seen * self.input_scale).float()
        output = F.dropout(output, self.output_dropout, self.training)
        if self.residual:
            weights = self.residual_logits[: contexts.shape[1]].flip(0).softmax(0)
            output = self.encoder_scale * output + torch.einsum("t,btd->bd", weights, contexts)
        return F.normalize(output, dim=-1)

    @property
    def has_document_tower(self) -> bool:
        """Whether the vectors of the pool go through a network of their own before the search."""
        return callable(getattr(self.encoder, "encode_documents", None))

    def encode_documents(self, vectors: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Return unit vectors [..., D] to search among, for bank vectors [..., D].

        Without a document tower the vectors, unit ones by the bank's contract, come back as given.
        """
        if not self.has_document_tower:
            return vectors
        encode = cast(Callable[[Tensor], Tensor], self.encoder.encode_documents)
        return F.normalize(encode(vectors).float(), dim=-1)

    def document_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that decide where the vectors of the pool are moved to."""
        if not self.has_document_tower:
            return []
        was_training, parameters = self.training, list(self.parameters())
        self.eval()  # no dropout: nothing is drawn from the training's random stream
        device = parameters[0].device
        with torch.enable_grad():
            moved = self.encode_documents(torch.ones(1, self.width, device=device))
            found = torch.autograd.grad(moved.sum(), parameters, allow_unused=True)
        self.train(was_training)
        return [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]


def build_model(config: ModelConfig, width: int, seed: int) -> NextVectorModel:
    """Return the model that `config` names for vectors of the given width D, float32, on the CPU.

    The weights depend on config, width and seed alone. Raises ConfigError on an unknown name or on
    sizes that do not fit together.
    """
    build = MODELS.get(config.name)
    model = seeded(
        lambda: NextVectorModel(
            build(config, width),
            width,
            residual=config.residual,
            input_dropout=config.input_dropout,
            output_dropout=config.output_dropout,
            input_scale=config.form.input_scale,
        ),
        derive_seed(seed, "model"),
    )
    if model.has_document_tower and not moves_documents(config.name):
        raise ConfigError(
            f"model {config.name!r} has encode_documents, but is registered as a function "
            "without it; register its class."
        )
    return model


@dataclass(frozen=True)
class Declared:
    """What the class of a model may declare, all of it optional."""

    encode_documents: Callable[..., Tensor] | None  # it moves the searched vectors, [..., D]
    # Its keys of [model] for weights made elsewhere; `hidden` is D without an encoder.project_in.
    sizes_of: Callable[[Shapes, Args], dict[str, object]] | None
    ways_to_compute: (
        Callable[[ModelConfig, Args], list[Alternative]] | None
    )  # what these leave open
    resolve_backend: Callable[[str, int, torch.device], str] | None  # how, for the journal; T


def declared(name: str) -> Declared:
    """Return what the model called `name` declares, None for what it does not."""
    model = MODELS.get(name)
    return Declared(**{field.name: getattr(model, field.name, None) for field in fields(Declared)})


def moves_documents(name: str) -> bool:
    """Whether the model called `name` moves the vectors that are searched."""
    return declared(name).encode_documents is not None


def seeded(build: Callable[[], Module], seed: int) -> Module:
    """Run `build` with torch's CPU generator at `seed`, then restore the generator.

    torch's own layers initialise themselves from the global generator and accept no other, so it
    is borrowed here rather than rewriting every initialisation.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build().float()


class RMSNorm(nn.Module):
    """u divided by its root mean square and scaled, in the precision of the weight.

    Under autocast u is bfloat16 and the weight float32, for which torch has no fused kernel.
    """

    def __init__(self, width: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, u: Float[Tensor, "*rows E"]) -> Float[Tensor, "*rows E"]:
        """Return the normalised values."""
        return F.rms_norm(u.to(self.weight.dtype), self.weight.shape, self.weight, self.eps)


def width_adapters(config: ModelConfig, width: int) -> tuple[nn.Module, nn.Module]:
    """Return the layers D -> hidden and hidden -> D; identities when the two are equal."""
    if config.hidden == width:
        return nn.Identity(), nn.Identity()
    return nn.Linear(width, config.hidden), nn.Linear(config.hidden, width)


def no_weight_decay(parameter: nn.Parameter) -> nn.Parameter:
    """Mark a parameter that weight decay must leave alone, and return it."""
    parameter._no_weight_decay = True  # type: ignore[attr-defined]  # the mark mamba_ssm uses
    return parameter


def weight_decay_groups(model: nn.Module) -> list[dict[str, object]]:
    """Return two parameter groups for an optimiser: with its weight decay, and with none.

    Without decay are vectors and scalars (biases, norms, dt_bias, A_log, D, residual weights) and
    what `no_weight_decay` marked. Use: AdamW(weight_decay_groups(model), weight_decay=0.05).
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        exempt = parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False)
        (kept if exempt else decayed).append(parameter)
    return [{"params": decayed}, {"params": kept, "weight_decay": 0.0}]
