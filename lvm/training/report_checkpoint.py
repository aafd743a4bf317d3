"""The report's own checkpoints: a .pt file that torch.save wrote, read without running anything.

    model_state_dict             weights by name (also: state_dict, model, or the whole file)
    projection_head_state_dict   optional: net.0, net.2 and net.3 of the head D -> hidden -> width
    args                         optional: a dictionary or argparse.Namespace, may hold paths
    val_cosine, epoch, history   optional

The file says neither of which validation windows its numbers are nor what the model computes. Where
its weights fit a registered model strictly, the forward pass is taken to be that of this model.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from lvm.core.errors import CheckpointError, UnsafePayloadError
from lvm.core.outside import listed, regular
from lvm.core.plain_json import Json
from lvm.data.npz import SAFETENSORS, kind_of
from lvm.models.foreign_forms import flattened
from lvm.training import foreign
from lvm.training.checkpoint import UNREADABLE
from lvm.training.extent import check_pickles
from lvm.training.manifest import REPORT, STATED, Stated, stated_in

MODEL_NAMES = ("model_state_dict", "state_dict", "model", "ema_state_dict", "weights")
ARGS_NAMES = ("args", "hyper_parameters", "hparams", "config")
COUNTERS = ("n_averaged", "module.n_averaged")  # of torch.optim.swa_utils.AveragedModel
HEAD = re.compile(r"(?:(?:module|_orig_mod|model)\.)*(?:projection_head|proj_head|head)\.")
VAL_NAMES = (
    *("val_cosine", "best_val_cosine", "val_cos", "best_val_cos", "val_cosine_similarity"),
    *("eval_cosine", "best_cosine"),
)
PARENT_NAMES = ("resume", "resume_from", "init_from", "pretrained")
SAVE_AGAIN = (
    'save it again with torch.save({"model_state_dict": model.state_dict(), '
    '"args": vars(args)}, PATH), with numbers, text and paths in args'
)
RETRAIN = (
    "train the model again with lvm train --data BANK --recipe RECIPE.toml, or judge it by its "
    "predictions with --predictions P.npy"
)
NUM_NAMED = 5  # differing weights that a message lists
MAX_EXPANSION = 4  # weights may share memory, but a small file must not claim the whole machine


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportCheckpoint:
    """What a .pt file of the report holds; all but the weights are plain values."""

    path: Path
    model: Mapping[str, Tensor]
    stated: Stated  # what a manifest of lvm would say, as far as the file says it
    head: Mapping[str, Tensor] | None = None
    args: Mapping[str, Json] = field(default_factory=dict)
    val_cosine: float | None = None
    history: Json = None


# --- reading --------------------------------------------------------------------------------------


def read_report_checkpoint(path: Path) -> ReportCheckpoint:
    """Read a .pt or .safetensors file; weights stay on disk until they are used.

    What a file has besides the weights is left out and named where it is neither number, text,
    container nor path. Raises UnsafePayloadError when a file names what could run something, and
    CheckpointError when it is no such file or holds no weights.
    """
    content, unread = _load(path)
    model, head = _parts(path, content)
    try:
        plain = {
            key: foreign.plain(content.get(key))
            for key in (*ARGS_NAMES, *VAL_NAMES, "epoch", "history")
        }
        # What a model saw, and of which windows its figure is.
        seen = {key: foreign.plain(content[key]) for key in STATED if key in content}
    except RecursionError:
        raise CheckpointError(f"{path} holds values nested without end; {SAVE_AGAIN}.") from None
    sections = (flattened(s) for n in reversed(ARGS_NAMES) if isinstance(s := plain[n], dict))
    merged = {key: value for section in sections for key, value in section.items()}
    args = {key.replace("-", "_"): value for key, value in merged.items()}
    stored = (foreign.number(plain[name]) for name in VAL_NAMES)
    val_cosine = next((value for value in stored if value is not None), None)
    stated = {
        "format": REPORT,
        "args": args,
        "val_cosine": val_cosine,
        "epoch": plain["epoch"],
        "parents": [p for name in PARENT_NAMES if isinstance(p := args.get(name), str) and p],
        **seen,
        "left_out": unread or None,
    }
    return ReportCheckpoint(
        path=path,
        model=model,
        head=head or None,
        args=args,
        val_cosine=val_cosine,
        history=plain["history"],
        stated=stated_in(stated),
    )


def _load(path: Path) -> tuple[Mapping[object, object], list[str]]:
    """Return the content of a file, and the names of the classes whose objects were left out."""
    if kind_of(path) == SAFETENSORS:
        try:
            return dict[object, object](safetensors.torch.load_file(path).items()), []
        except UNREADABLE as error:
            raise unreadable(path, error) from None
    _require_zip(path)
    try:
        check_pickles(path)
        named = sorted(get_unsafe_globals_in_checkpoint(path))
    except Exception as error:  # a damaged or hostile file can raise anything at all
        raise unreadable(path, error) from None
    if running := foreign.running(named):
        raise UnsafePayloadError(
            f"{path} names {listed(running[:NUM_NAMED])}, beyond tensors, plain containers, "
            f"paths and argparse.Namespace; nothing was run; {SAVE_AGAIN}."
        )
    with safe_globals(foreign.stand_ins(named)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of kinds of tensors that are on their way out
        try:
            content = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        except Exception as error:  # as above
            raise unreadable(path, error) from None
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a dictionary with model_state_dict; "
            f"{SAVE_AGAIN}."
        )
    return content, foreign.left_out(named)


def _require_zip(path: Path) -> None:
    try:
        with regular(path).open("rb") as file:
            start = file.read(4)
        whole = zipfile.is_zipfile(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); give a .pt file or a checkpoint folder."
        ) from None
    except zipfile.BadZipFile as error:  # of one that spans several disks
        raise unreadable(path, error) from None
    # torch looks at the start, zipfile at the end; a bare pickle may pass for a zip in one of them.
    if start != b"PK\x03\x04" or not whole:
        raise CheckpointError(
            f"{path} is not a zip file as torch.save writes (lvm never reads a bare pickle); "
            f"{SAVE_AGAIN}."
        )


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that torch cannot read, with the first line of torch's."""
    what = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return CheckpointError(f"{path} is not a readable torch.save file ({what}); {SAVE_AGAIN}.")


def _parts(
    path: Path, content: Mapping[object, object]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of the model and of its head (empty without one).

    They lie under a key of the report's, of others' or of Lightning's, or are the whole content;
    the head has a key of its own or a prefix among the model's.
    """
    whole = not any(name in content for name in MODEL_NAMES)
    if content and whole and all(isinstance(value, Tensor) for value in content.values()):
        model = _weights(path, {"weights": content}, "weights")
    else:
        key = next(
            (n for n in MODEL_NAMES if content.get(n) is not None and content[n] != {}), None
        )
        model = _weights(path, content, key) if key is not None else {}
    if not model:
        found = listed(list(content)[:NUM_NAMED]) or "nothing"
        raise CheckpointError(
            f"{path} holds {found}, not a model_state_dict of tensors by name; {SAVE_AGAIN}."
        )
    model = {name: weight for name, weight in model.items() if name not in COUNTERS}
    head = _weights(path, content, "projection_head_state_dict")
    if not head:
        head = {n: w for n, w in model.items() if HEAD.match(n)}
        if {HEAD.sub("", n) for n in head} <= {"weight", "bias"}:
            return model, {}  # one layer is what leads out of the model, and no projection head
        model = {n: w for n, w in model.items() if n not in head}
    return model, {HEAD.sub("", name): weight for name, weight in head.items()}


def _weights(path: Path, content: Mapping[object, object], key: str) -> dict[str, Tensor]:
    """Return a state dict, empty when there is none."""
    given = content.get(key)
    if given is None:
        return {}
    every = given if isinstance(given, Mapping) else {}
    named = {n: w for n, w in every.items() if isinstance(n, str) and isinstance(w, Tensor)}
    if not isinstance(given, Mapping) or len(named) < len(given):
        raise CheckpointError(f"{path}: {key} does not hold tensors by name; {SAVE_AGAIN}.")
    odd = [n for n, w in named.items() if w.is_quantized or w.is_meta or w.layout != torch.strided]
    if odd:
        raise CheckpointError(
            f"{path}: {len(odd)} weights are quantized, sparse or without data (first: "
            f"{odd[0]}), not plain tensors; {SAVE_AGAIN}."
        )
    claimed = sum(w.numel() * w.element_size() for w in named.values())
    if claimed > MAX_EXPANSION * path.stat().st_size:
        raise CheckpointError(
            f"{path}: {key} claims {claimed / 1e9:.3g} GB, more than {MAX_EXPANSION} times the "
            f"size of the file; {SAVE_AGAIN}."
        )
    return named
