"""The door to Ray's own check of a cluster file; it starts nothing and uses no network."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvm.core.errors import MissingExtraError


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why Ray refuses a file: the path of the value, if Ray names it, and Ray's reason."""

    path: Sequence[str | int]
    reason: str
    unknown_key: bool = False


def schema() -> dict[str, object]:
    """Return Ray's JSON schema of a cluster file."""
    ray = _ray()
    path = Path(ray.__file__).parent / "autoscaler/ray-schema.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


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


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray[default]", None, "the check of a cluster file") from None
    return ray
