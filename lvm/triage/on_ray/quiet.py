"""Silence Ray's output, and set the environment that it reads at its import.

The terminal belongs to the triage and standard output to its answer. Ray, Tune and Train write to
both unless they are told otherwise before their import.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from lvm.errors import MissingExtraError

ENVIRONMENT = {  # applied where the person has not chosen otherwise
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more, for a cloud's notice in advance
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",  # a lost head is our own affair (pulse.py)
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # else Ctrl-C ends a step as if its arms crashed
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "20",  # else what hangs at its end keeps its room for 600 s
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # a run is resumed from its journal
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def import_ray() -> Any:
    """Return ray with ray.tune, imported in the environment above: they read it at their import."""
    os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
    try:
        import ray
        import ray.tune
    except ImportError:
        raise MissingExtraError("ray[default,tune,train]", "dev", "a triage on Ray") from None
    return ray


class _OfMainThread:
    """A stream to which only the main thread's words go: what a person is to read is said there."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the main thread's words, drop those of all others."""
        if threading.current_thread() is threading.main_thread():
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep off the terminal what Ray logs and prints of trials; its files keep it, and so do we.

    Ray's threads print the death of a process to standard output, which belongs to the answer.
    """
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(_OfMainThread(sys.stdout)):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
