"""Ray without its own voice: environment, lines on the terminal, and what Ctrl-C does.

The terminal belongs to the triage and standard output to its answer. Ray, Tune and Train write to
both, and take Ctrl-C for a crash of the arms, unless they are told otherwise before their import.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from lvm.errors import MissingExtraError

ENVIRONMENT = {  # applied where the person has not chosen otherwise
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # else Ctrl-C ends a step as if its arms crashed
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
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


@contextlib.contextmanager
def noticing_ctrl_c(pressed: threading.Event) -> Iterator[None]:
    """Turn the first Ctrl-C into an event; the second acts as usual.

    KeyboardInterrupt may be raised anywhere. Raised in a destructor or amid Ray's compiled code it
    would be lost, and the run would go on.
    """
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or not _in_main_thread():
        yield  # somebody else takes care of it, or nobody wants it
        return

    def note(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if pressed.is_set():
            raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def ender(pressed: threading.Event) -> Any:
    """Return a Tune callback that ends the experiment once `pressed` is set."""
    from ray.tune import Callback

    class Ender(Callback):  # type: ignore[misc]  # ray is untyped
        def __reduce__(self) -> tuple[Any, ...]:
            return (Callback, ())  # as the scheduler's

        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if pressed.is_set():
                raise KeyboardInterrupt

    return Ender()


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep Tune's own lines off the terminal; its files keep them.

    It prints one, whatever its verbosity, for a trial that was stopped before its first report.
    """
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
