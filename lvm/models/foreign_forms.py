"""What a foreign Mamba network computes: from the shapes of its weights, its args, or left open.

Shapes tell which norms, biases and adapters there are. Args tell groups, limits, and where norms
stand, under the spellings of the two packages. What neither tells stays open: `alternatives` lists
the ways to compute it, for a stored validation figure to decide between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lvm.core.config.plain import with_changes
from lvm.core.config.recipe import ModelConfig
from lvm.core.errors import CheckpointError
from lvm.core.plain_json import Json

Shapes = Mapping[str, tuple[int, ...]]  # of weights by our names, lvm/training/foreign_names.py
Args = Mapping[str, Json]
Setting = bool | int | str  # of a form

GROUPS = ("n_groups", "ngroups", "num_groups", "groups")
STATE = ("d_state", "state_size", "ssm_state_size", "n_state")
LIMITS = ("dt_limit", "time_step_limit", "dt_limits")
EPS = ("norm_eps", "layer_norm_epsilon", "norm_epsilon", "rms_norm_eps", "layer_norm_eps")
NORM_FIRST = ("pre_norm", "prenorm", "norm_first")
READOUT = ("readout", "pool", "pooling", "pool_type", "aggregation")
SCALE = ("input_scale", "embed_scale", "scale_input", "input_multiplier")
ACTIVATION = ("hidden_act",)
READOUTS = {"last": "last", "mean": "mean", "avg": "mean", "average": "mean"}
SCALES = {
    "one": "one",
    "none": "one",
    "sqrt_width": "sqrt_width",
    "sqrt": "sqrt_width",
    "sqrt_d": "sqrt_width",
}
GROUPS_BY_USE = (1, 8, 2, 4, 3, 5, 6, 7)  # 1 and 8 are what the two packages start from
FIRST_LAYER = "encoder.layers.0."


def first(args: Args, names: tuple[str, ...]) -> Json:
    """Return the first value among several spellings that is present, or None."""
    return next((args[n] for n in names if args.get(n) is not None), None)


def num_parts(shapes: Shapes, prefix: str) -> int:
    """Return how many parts, such as layers, have names that begin with `prefix`."""
    return len({n.removeprefix(prefix).partition(".")[0] for n in shapes if n.startswith(prefix)})


def flattened(args: Args) -> dict[str, Json]:
    """Return args with the settings of nested sections next to their own.

    What is on top wins; a setting that two sections state differently is left out.
    """
    inner: dict[str, list[Json]] = {}
    for value in args.values():
        if isinstance(value, Mapping):
            for key, item in flattened(value).items():
                inner.setdefault(key, []).append(item)
    agreed = {
        key: values[0] for key, values in inner.items() if values.count(values[0]) == len(values)
    }
    return {**agreed, **args}


# --- from shapes and args -------------------------------------------------------------------------


def groups_and_state(both: int, heads: int, args: Args) -> tuple[int, int]:
    """Return (groups, state) of a Mamba-2 block whose B has groups * state = `both` channels.

    Groups are stated, or follow from a stated size of the state; else they are 1, and open.
    Raises CheckpointError when args state groups that the shapes do not allow.
    """
    stated = first(args, GROUPS)
    if type(stated) is int:
        if stated < 1 or both % stated or heads % stated:
            raise CheckpointError(
                f"args state {stated} groups, which must divide {heads} heads and the {both} "
                "channels of B; these weights do not match the args."
            )
        return stated, both // stated
    groups = _groups_of_state(both, heads, args) or 1
    return groups, both // groups


def _groups_of_state(both: int, heads: int, args: Args) -> int | None:
    state = first(args, STATE)
    if type(state) is not int or state < 1 or both % state:
        return None
    groups = both // state
    return groups if heads % groups == 0 else None


def form_of(shapes: Shapes, args: Args, *, gated: bool) -> dict[str, object]:
    """Return the settings of `model.form` (dotted keys of a model config) as far as they are told.

    `gated` is for Mamba-2, whose blocks end in a norm with a gate. Raises CheckpointError for a
    setting that no model here computes.
    """
    block = FIRST_LAYER + "mixer."
    form: dict[str, object] = {
        "projection_bias": block + "in_proj.bias" in shapes,
        "block_norm": "before" if FIRST_LAYER + "norm.weight" in shapes else "none",
        "final_norm": "encoder.norm_f.weight" in shapes,
        "adapters": _adapters(shapes),
    }
    if FIRST_LAYER + "norm.bias" in shapes or "encoder.norm_f.bias" in shapes:
        form["norm_kind"] = "layer"
    if gated and block + "norm.weight" not in shapes:
        form["gated_norm"] = "none"
    return {f"form.{k}": v for k, v in {**form, **_stated(form, shapes, args, gated)}.items()}


def _adapters(shapes: Shapes) -> str:
    into, out = (shapes.get(f"encoder.project_{way}.weight") for way in ("in", "out"))
    if into and out:
        return "both" if into[0] == into[1] else "auto"
    square = next((shape for shape in (into, out) if shape), (0, 1))
    if square[0] != square[1]:
        return "auto"  # one of the two is missing, which is named as a missing weight
    return "in" if into else "out"


def _stated(
    form: Mapping[str, object], shapes: Shapes, args: Args, gated: bool
) -> dict[str, object]:
    found: dict[str, object] = {}
    eps = first(args, EPS)
    if type(eps) is float and 0 <= eps < 1:
        found["norm_eps"] = eps
    if form["block_norm"] != "none" and type(flag := first(args, NORM_FIRST)) is bool:
        found["block_norm"] = "before" if flag else "after"
    if gated:
        before = args.get("norm_before_gate")
        if type(before) is bool and form.get("gated_norm") != "none":
            found["gated_norm"] = "before_gate" if before else "after_gate"
        found |= _limits(args)
    if (readout := first(args, READOUT)) is not None:
        found["readout"] = _known("the read-out", readout, READOUTS)
    if (act := first(args, ACTIVATION)) is not None:
        _known("the activation", act, {"silu": "silu", "swish": "silu"})
    scale = _scale(args, _width(shapes))
    return {**found, "input_scale": scale or _usual_scale(shapes)}


def _limits(args: Args) -> dict[str, object]:
    limits = first(args, LIMITS)
    if limits is None:
        return {}
    given = limits if isinstance(limits, list) else []
    numbers = [float(v) for v in given if isinstance(v, int | float) and type(v) is not bool]
    if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
        raise CheckpointError(
            f"args state {limits} as limits of step sizes; give two rising numbers."
        )
    low, high = numbers
    return {"dt_min": low, "dt_max": None if high == math.inf else high}


def _known(what: str, value: object, known: Mapping[str, str]) -> str:
    if str(value).lower() not in known:
        raise CheckpointError(
            f"args state {value!r} as {what}; models here know {', '.join(known)}. Judge this "
            "model by its predictions (--predictions P.npy)."
        )
    return known[str(value).lower()]


def _width(shapes: Shapes) -> int:
    """Return D of the vectors that the network reads."""
    into = shapes.get("encoder.project_in.weight")
    return into[-1] if into else shapes[FIRST_LAYER + "mixer.out_proj.weight"][0]


def _scale(args: Args, width: int) -> str | None:
    """Return what args say of the input's scale, None where they say nothing."""
    value = first(args, SCALE)
    if value is None:
        return None
    if type(value) is bool:
        return "sqrt_width" if value else "one"
    if isinstance(value, int | float):
        for scale, name in ((1.0, "one"), (width**0.5, "sqrt_width")):
            if math.isclose(value, scale, rel_tol=1e-3):
                return name
    return _known("the input's scale", value, SCALES)


def _usual_scale(shapes: Shapes) -> str:
    """Return the likelier scale: this program's where the names around the layers are its own."""
    own = {"encoder.project_in.weight", "residual_logits"} & shapes.keys()
    return "sqrt_width" if own else "one"


# --- what stays open ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A way to compute weights; `departures` counts settings that are not the likeliest."""

    config: ModelConfig
    departures: int
    words: str  # the open settings and their values


def alternatives(config: ModelConfig, args: Args, *, gated: bool) -> list[Alternative]:
    """Return all ways to compute a fitted Mamba network, the likeliest first.

    They differ in what neither shapes nor args tell. One entry if every setting is stated.
    """
    open_ = dict(_open(config, args, gated))
    found = []
    for values in itertools.product(*open_.values()):
        chosen = dict(zip(open_, values, strict=True))
        groups = int(chosen.get("groups", config.form.groups))
        if groups == 1 and chosen.get("norm_per_group") is False:
            continue  # the same as with one norm
        # One number of groups is as likely as another: it costs nothing.
        off = sum(v != open_[k][0] for k, v in chosen.items() if k != "groups")
        found.append(
            Alternative(
                config=_chosen(config, chosen, groups), departures=off, words=_words(chosen)
            )
        )
    return sorted(found, key=lambda one: one.departures)


def _chosen(config: ModelConfig, chosen: Mapping[str, Setting], groups: int) -> ModelConfig:
    changes: dict[str, object] = {f"form.{key}": value for key, value in chosen.items()}
    if "groups" in chosen:
        changes["state"] = config.state * config.form.groups // groups
    return with_changes(config, changes)


def _words(chosen: Mapping[str, Setting]) -> str:
    return ", ".join(f"{key} {value}" for key, value in chosen.items())


def _open(
    config: ModelConfig, args: Args, gated: bool
) -> Iterator[tuple[str, tuple[Setting, ...]]]:
    """Yield each setting that is not stated, with its values, likeliest first."""
    form = config.form
    if gated:
        both = form.groups * config.state
        heads = config.hidden * config.expand // config.head_dim
        told = type(first(args, GROUPS)) is int or _groups_of_state(both, heads, args)
        possible = tuple(g for g in GROUPS_BY_USE if both % g == 0 and heads % g == 0)
        if not told and len(possible) > 1:
            yield "groups", possible
        if form.gated_norm != "none":
            if type(args.get("norm_before_gate")) is not bool:
                yield "gated_norm", (form.gated_norm, "before_gate")
            if form.groups > 1 or not told:
                yield "norm_per_group", (True, False)
    if first(args, SCALE) is None:
        other = "one" if form.input_scale == "sqrt_width" else "sqrt_width"
        yield "input_scale", (form.input_scale, other)
    if first(args, READOUT) is None:
        yield "readout", ("last", "mean")
    if form.block_norm == "none":
        yield "block_residual", (True, False)
    elif type(first(args, NORM_FIRST)) is not bool:
        yield "block_norm", (form.block_norm, "after")
