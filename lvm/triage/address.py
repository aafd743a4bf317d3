"""Addresses of a Ray cluster: which ones a triage can use, and why it could not be joined."""

from __future__ import annotations

from collections.abc import Sequence

from lvm.core.config.run import ScheduleConfig
from lvm.core.errors import ClusterError, UsageError

BY_NAME = ("auto", "local")  # the cluster of this node, and a new one here
MAX_PORT = 65535
TOKEN_REFUSED = "AuthenticationError"  # of ray.exceptions: what it was raised in is a text alone
LOCALLY = "leave --address out to run locally"


def check_address(address: str | None) -> None:
    """Refuse an address that a triage cannot use, before anything is read or started (UsageError).

    A Ray Client (ray://) runs the driver's objects on the head: Tune would lose its scheduler.
    """
    if address is None or address in BY_NAME:
        return
    scheme, separator, _ = address.partition("://")
    if separator and scheme == "ray":
        raise UsageError(
            f"--address {address} is a Ray Client address, which cannot stop arms; submit the "
            "triage as a job (ray job submit ... --address auto), or give HOST:PORT of the "
            "cluster's GCS from a machine that reaches all nodes."
        )
    if separator:
        raise UsageError(
            f"--address {address} is the address of a job server; submit the triage there as a "
            "job (ray job submit --address ADDRESS -- ... --address auto)."
        )
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) <= MAX_PORT):
        raise UsageError(
            f"--address must be HOST:PORT of a cluster's GCS, or auto on one of its nodes (got "
            f"{address}); {LOCALLY}."
        )


def check_growth(schedule: ScheduleConfig, address: str | None) -> None:
    """Refuse to wait for nodes that nothing starts (UsageError): only a cluster can grow."""
    if schedule.autoscaling and address in (None, "local"):
        raise UsageError(
            "schedule.autoscaling = true needs a cluster that adds nodes, but none was named; "
            "give --address, or use --preset gpu or laptop on this machine."
        )


def not_joined(error: BaseException, address: str | None) -> ClusterError:
    """Return why a cluster could not be joined, from what `ray.init` raised."""
    return _not_reached(type(error).__name__, _texts(error), address)


def not_started(kind: str, texts: Sequence[str]) -> ClusterError:
    """Return why no cluster could be started here, from the type and texts of an error."""
    return _not_reached(kind, texts, None)


def _not_reached(kind: str, texts: Sequence[str], address: str | None) -> ClusterError:
    where = address or "this machine"
    if kind == TOKEN_REFUSED or any(TOKEN_REFUSED in text for text in texts):
        return ClusterError(
            f"the Ray cluster at {where} refused this user's token; put the cluster's token "
            "into ~/.ray/auth_token (or RAY_AUTH_TOKEN) and set RAY_AUTH_MODE=token."
        )
    if address is None:
        remedy = "run lvm doctor to see what this machine lacks"
    else:
        remedy = f"check it with ray status --address {address}, or {LOCALLY}"
    # Ray appends the end of a log, or of a traceback: the cause is the last line of the last text.
    lines = list(dict.fromkeys((texts[0].splitlines()[0], texts[-1].splitlines()[-1].strip())))
    cause = " ".join(lines).rstrip(".")
    return ClusterError(f"Ray did not start on {where} ({cause}); {remedy}.")


def _texts(error: BaseException) -> list[str]:
    """Return what an error and its causes say, with their types where they say nothing."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:  # Ray raises an error from itself
        found.append(cause)
        cause = cause.__cause__
    return [str(e).strip() or type(e).__name__ for e in found]
