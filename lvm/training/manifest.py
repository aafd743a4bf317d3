"""The manifest of a checkpoint: what it says of its model and of what that was trained on.

Our own manifest.json must have every key in its form: anything else is an error that names file and
key. A .pt file was written by somebody else: a key in another form says nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from lvm.core.errors import CheckpointError
from lvm.core.outside import parse_json, read_text
from lvm.core.plain_json import Json
from lvm.core.records import Count, Part

FILE_NAME = "manifest.json"
REPORT: Literal["report"] = "report"  # the format of what was read from a .pt file
STATED = ("articles_seen", "text_seen", "bank", "data", "parents", "val_ids_sha256")
_HEAD = ("format", "lvm", "recipe", "plugins", "probe_outputs")
_OF_REPORT = ("args", "val_cosine", "epoch", "parents", *STATED, "left_out", "unused_weights")


class TextSeen(Part, frozen=True, kw_only=True):
    """Sketches of the train text, see `lvm.data.sketch.Sketches.to_plain`."""

    width: int
    articles: str
    codes: str


class Stated(Part, frozen=True, kw_only=True, omit_defaults=True):
    """What a checkpoint may say of itself; None is what it does not say.

    UNSET is where a training writes null.
    """

    format: Literal[1, "report"] | None = None
    lvm: str | None = None
    plugins: dict[str, str] | None = None
    probe_outputs: list[list[float]] | None = None
    epoch: Count | UnsetType | None = UNSET
    recipe_id: str | None = None
    data: str | None = None  # fingerprint of the windows
    bank: str | None = None
    articles_seen: list[int] | None = None
    text_seen: TextSeen | None = None
    parents: list[str | Stated] | None = None  # paths of checkpoints, or what they state
    commit: str | UnsetType | None = UNSET
    seed: int | None = None
    val_cosine: float | UnsetType | None = UNSET
    val_ids_sha256: str | None = None
    val_articles: list[tuple[int, int]] | None = None  # article, windows of it
    id: str | int | None = None  # of a parent that is stated here
    args: dict[str, Json] | None = None  # of a .pt file, as are the next two
    left_out: list[str] | None = None
    unused_weights: list[str] | None = None


class Manifest(Stated, frozen=True, kw_only=True):
    """What the manifest.json of a checkpoint folder holds."""

    recipe: dict[str, object]  # may be of a plug-in that is not loaded, or of another version
    width: int

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        plain = msgspec.to_builtins(self)
        order = (*_HEAD, *(_OF_REPORT if self.format == REPORT else ()), "width")
        ordered = {key: plain[key] for key in order if key in plain}
        return json.dumps({**ordered, **plain}, indent=1) + "\n"


def read(path: Path) -> Manifest:
    """Return the manifest in a file; CheckpointError, which names the key, for anything else."""
    try:
        content = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); train the model again.") from None
    plain = content if isinstance(content, dict) else {}
    if plain.get("format") == REPORT:  # a copy of what a .pt file states
        sizes = {key: plain[key] for key in ("recipe", "width") if key in plain}
        plain = {**msgspec.to_builtins(stated_in(plain)), **sizes}
    try:
        return msgspec.convert(plain, Manifest)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{path} {_in_words(error)}; give a checkpoint folder that lvm wrote."
        ) from None


def _in_words(error: msgspec.ValidationError) -> str:
    """Return what is wrong with a manifest, after its name."""
    what, _, place = str(error).partition(" - at `$")
    inner = place.removeprefix(".").removesuffix("`")
    if lacking := re.search(r"missing required field `(.*)`", what):
        return f"has no {f'{inner}.' if inner else ''}{lacking[1]}"
    return f"has a wrong {inner} ({what})"


def stated_in(content: Mapping[str, object]) -> Stated:
    """Return what a file of somebody else states, as far as it has our form."""
    usable: dict[str, object] = {}
    for key, value in content.items():
        formed = {key: _in_our_form(key, value)}
        with contextlib.suppress(msgspec.ValidationError):
            msgspec.convert(formed, Stated)
            usable |= formed
    return msgspec.convert(usable, Stated)


def _in_our_form(key: str, value: object) -> object:
    if key == "articles_seen" and isinstance(value, list | tuple):
        return [int(article) for article in value if isinstance(article, int)]
    if key == "parents" and value:
        parents = value if isinstance(value, list | tuple) else [value]
        return [stated_in(p) if isinstance(p, Mapping) else str(p) for p in parents]
    return value
