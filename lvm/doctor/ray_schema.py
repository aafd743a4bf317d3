"""The door to Ray's own check of a cluster file; it starts nothing and uses no network."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import msgspec

from lvm.core.errors import MissingExtraError


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why Ray refuses a file: the path of the value, if Ray names it, and Ray's reason."""

    path: Sequence[str | int]
    reason: str
    unknown_key: bool = False


class Schema(msgspec.Struct, rename="camel"):
    """What is read of a JSON schema: the keys below a mapping, and whether others are allowed."""

    properties: dict[str, Schema] = {}
    pattern_properties: dict[str, Schema] = {}
    additional_properties: bool | Schema = True


def schema() -> Schema:
    """Return Ray's JSON schema of a cluster file."""
    path = Path(_ray().__path__[0]) / "autoscaler/ray-schema.json"
    return msgspec.json.decode(path.read_bytes(), type=Schema)


def refusal(config: dict[str, object]) -> Refusal | None:
    """Return why `ray up` would refuse a configuration, or None."""
    _ray()
    from ray.autoscaler._private.util import prepare_config, validate_config

    logger = logging.getLogger("ray")
    level, nowhere = logger.level, io.StringIO()
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # Ray raises many kinds, from jsonschema's to AssertionError
        reason = getattr(error, "message", None) or str(error) or type(error).__name__
        path = list(getattr(error, "absolute_path", ()))
        return Refusal(
            path=path,
            reason=str(reason).strip().splitlines()[0],
            unknown_key=getattr(error, "validator", "") == "additionalProperties",
        )
    finally:
        logger.setLevel(level)
    return None


def _ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise MissingExtraError("ray[default]", None, "the check of a cluster file") from None
