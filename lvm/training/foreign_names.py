"""Weights by our names: wrappers are taken off, and Mamba networks of other code are renamed.

A block of Mamba is known by its A_log and in_proj, whatever holds it: `backbone.layers.0.mixer.` of
the packages, `blocks.0.ssm.`, or `mamba_layers.0.` of a person's own class. Norms and the layers
that lead in and out are known by their names. A weight that is none of these keeps its name, so
that the model is refused by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

OWN_NAMES = ("residual_logits", "encoder_scale")  # of NextVectorModel, besides its encoder
TABLES = ("embeddings", "embedding", "lm_head", "wte", "token_embedding")  # of a language model
LEAD_IN = (
    *("project_in", "input_proj", "in_proj", "proj_in", "input_projection", "input_layer"),
    *("input_linear", "fc_in", "embed", "embedding", "input_embedding", "in_linear"),
)
LEAD_OUT = (
    *("project_out", "output_proj", "out_proj", "proj_out", "output_projection", "output_layer"),
    *("output_linear", "fc_out", "fc", "out", "output", "head", "output_head", "out_linear"),
    *("prediction_head", "predictor", "decoder", "lm_head"),
)
NORM = re.compile(r"norm|^ln(_|$|\d)")
BEFORE_LAYERS = {"in", "input", "pre", "emb", "embed", "embedding"}  # in the name of a norm
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+|_orig_mod\.")


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """Weights by our names, and those that a model of vectors has no use for."""

    weights: Mapping[str, Tensor]
    unused: tuple[str, ...] = ()


def canonical(
    weights: Mapping[str, Tensor], part: str, own: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Return the weights by names that begin with `part`, but for those that `own` lists.

    What all names begin with is a wrapper ("module." of DDP, "_orig_mod." of torch.compile,
    "model.", "backbone.") and is taken off first.
    """
    names = {name: name.replace("_orig_mod.", "") for name in weights}
    while names and all("." in n for n in names.values()):
        if len({n.partition(".")[0] for n in names.values()}) > 1:
            break
        names = {name: n.partition(".")[2] for name, n in names.items()}
    whole = any(n.startswith(part) for n in names.values())
    return {n if whole or n in own else part + n: weights[name] for name, n in names.items()}


def renamed(weights: Mapping[str, Tensor]) -> Renamed:
    """Return the weights of a model by our names."""
    bare = {WRAPPERS.sub("", name): weight for name, weight in weights.items()}
    blocks = _blocks(bare)
    if not blocks:
        return Renamed(weights=canonical(weights, "encoder.", OWN_NAMES))
    root = _root(list(bare))
    found: dict[str, Tensor] = {}
    unused: list[str] = []
    for name, weight in bare.items():
        if _is_table(name, bare):
            unused.append(name)
            continue
        own = _own_name(name, blocks)
        # Two weights with one place of ours are not merged: the second is left unknown.
        known = own is not None and own not in found
        found[own if known and own else f"encoder.{name.removeprefix(root)}"] = weight
    _fill_biases(found)
    return Renamed(weights=found, unused=tuple(unused))


def _blocks(names: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes of the Mamba blocks, in the order of the numbers in them."""
    ends = (name.removesuffix("A_log") for name in names if name.split(".")[-1] == "A_log")
    blocks = [prefix for prefix in ends if prefix + "in_proj.weight" in names]
    return sorted(blocks, key=lambda prefix: [int(n) for n in re.findall(r"\d+", prefix)])


def _root(names: list[str]) -> str:
    """Return what all names begin with, in whole parts."""
    parts = [name.split(".")[:-1] for name in names]
    shared = 0
    while all(len(p) > shared and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return "".join(f"{part}." for part in parts[0][:shared])


def _is_table(name: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether a weight is a table of tokens: a model that reads vectors has no use for it.

    A square weight of such a name, or one with a bias, may be a linear layer and stays.
    """
    stem, _, leaf = name.rpartition(".")
    if leaf != "weight" or stem.split(".")[-1] not in TABLES or f"{stem}.bias" in weights:
        return False
    width = next(w.shape[0] for n, w in weights.items() if n.endswith("out_proj.weight"))
    shape = weights[name].shape
    return len(shape) == 2 and shape[1] == width != shape[0]


def _own_name(name: str, blocks: list[str]) -> str | None:
    """Return our name of a weight, or None where nothing of ours corresponds to it."""
    last = name.split(".")[-1]
    if last in OWN_NAMES:
        return last
    for i, block in enumerate(blocks):
        if name.startswith(block):
            return f"encoder.layers.{i}.mixer.{name.removeprefix(block)}"
    stem, _, leaf = name.rpartition(".")
    if leaf not in ("weight", "bias"):
        return None
    parts = stem.split(".")
    layer = _layer_of(stem, blocks)
    if layer is not None:
        is_norm = any(NORM.search(part) for part in parts)
        return f"encoder.layers.{layer}.norm.{leaf}" if is_norm else None
    if NORM.search(parts[-1]):
        early = BEFORE_LAYERS & set(parts[-1].split("_"))
        return None if early else f"encoder.norm_f.{leaf}"
    if parts[-1] in LEAD_IN:
        return f"encoder.project_in.{leaf}"
    return f"encoder.project_out.{leaf}" if parts[-1] in LEAD_OUT else None


def _layer_of(stem: str, blocks: list[str]) -> int | None:
    """Return which layer a weight outside the blocks belongs to, None for none.

    It lies in the same numbered place as a block (`layers.3.norm`), or in a list of its own
    (`norms.3`).
    """
    for i, block in enumerate(blocks):
        numbered = re.match(r"(?:.*\.)?\d+\.", block)
        if numbered and f"{stem}.".startswith(numbered[0]):
            return i
    last = stem.split(".")[-1]
    return int(last) if last.isdigit() and int(last) < len(blocks) else None


def _fill_biases(weights: dict[str, Tensor]) -> None:
    """Add zeros for biases that a layer was made without: the layer computes the same."""
    for name in list(weights):
        stem = name.removesuffix(".weight")
        if stem != name and stem.endswith((".conv1d", "encoder.project_in", "encoder.project_out")):
            zeros = torch.zeros(weights[name].shape[0], dtype=weights[name].dtype)
            weights.setdefault(f"{stem}.bias", zeros)
