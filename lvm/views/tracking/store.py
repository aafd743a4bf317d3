"""MLflow stores: their addresses, how to make one, and the runs that dead processes left open."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil

from lvm.views.tracking.mlflow_api import Client, Run

PAGE = 1000  # runs in one page of a search
BUSY_SECONDS = 5.0  # how long another process may hold a store
CLOCK_SECONDS = 10.0  # tolerance between two readings of a process's start time
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")


def ui_command(uri: str) -> str:
    """Return the command that opens a store in a browser, on this machine only."""
    shown = without_password(uri)
    if uri.startswith(("http://", "https://")):  # a server has its own page
        return shlex.join([sys.executable, "-m", "webbrowser", shown])
    store = '"$MLFLOW_TRACKING_URI"' if shown != uri else shlex.quote(uri)
    # By default the server starts 15 processes for jobs that a viewer never needs.
    return (
        "env MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "
        f"{shlex.quote(sys.executable)} -m mlflow ui --workers 1 --backend-store-uri {store} "
        "--host 127.0.0.1 --port 5000"
    )


def absolute(uri: str) -> str:
    """Return a SQLite URI with an absolute path, so that it works from every folder."""
    path = sqlite_path(uri)
    return uri if path is None else sqlite_uri(path)


def sqlite_uri(path: Path) -> str:
    """Return the URI of a SQLite file, with special characters quoted."""
    return "sqlite:///" + str(path.absolute()).replace("%", "%25").replace("?", "%3F")


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite URI; None for every other address."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri or path in ("", ":memory:") else Path(unquote(path.split("?")[0]))


def without_password(uri: str) -> str:
    """Return the address without user and password: a token may take the user's place."""
    user, at, _ = urlsplit(uri).netloc.rpartition("@")
    return uri.replace(f"{user}@", "***@", 1) if at else uri


class Refused(Exception):
    """A store that accepts no results until a person acts; the message says how."""


def restoring(experiment: str, uri: str) -> str:
    """Return what to do about an experiment that a person has deleted."""
    command = shlex.join([sys.executable, "-m", "mlflow", "experiments", "restore", "-x"])
    store = '"$MLFLOW_TRACKING_URI"' if without_password(uri) != uri else shlex.quote(uri)
    return (
        "the MLflow experiment of lvm was deleted; restore it with: env MLFLOW_TRACKING_URI="
        f"{store} {command} {experiment}"
    )


def require_openable(path: Path) -> None:
    """Raise Refused where a SQLite file cannot be opened: MLflow would try for two minutes."""
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise Refused(
            f"{path} is not an MLflow store that this user can open ({error}); move it away, or "
            "set MLFLOW_TRACKING_URI to another one"
        ) from None


@contextlib.contextmanager
def no_stray_folder(uri: str) -> Iterator[None]:
    """Remove the empty folder that MLflow makes for the quoted form of a path."""
    path = uri.removeprefix("sqlite:///")
    stray = Path(path).parent
    made = sqlite_path(uri) is not None and "%" in path and not stray.exists()
    above = [p for p in (stray, *stray.parents) if not p.exists()] if made else []
    try:
        yield
    finally:
        for folder in above:
            with contextlib.suppress(OSError):
                folder.rmdir()


def artifacts(uri: str, folder: Path) -> str | None:
    """Return where artifacts go: next to the store or run folder; None: the server decides."""
    if not uri.startswith(DATABASES):
        return None
    beside = sqlite_path(uri) or folder
    return (beside.parent / "mlflow_artifacts").as_uri()


def in_words(error: Exception, uri: str, folder: Path) -> str:
    """Return in one sentence what a store refused, without passwords."""
    shown = without_password(uri)
    track = f"lvm track {shlex.quote(str(folder))}"
    if isinstance(error, Refused):
        return f"{error}; then {track} writes them from the journal in {folder}."
    said = [*str(error).strip().splitlines(), ""][0].replace(uri, shown)
    found = f"{type(error).__name__}: {said}"[:300]
    return (
        f"MLflow at {shown} did not accept the results ({found}). The journal in {folder} holds "
        f"them all; run {track} when it answers."
    )


def make_store(open_store: Callable[..., object], path: Path) -> None:
    """Make a SQLite store completely, or not at all, with MLflow's own client `open_store`.

    MLflow makes the tables in dozens of migrations. If these are cut short, or two processes run
    them at once, the result can neither be used nor repaired.
    """
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as scratch:
        made, whole = Path(scratch, "made.db"), Path(scratch, "whole.db")
        uri = sqlite_uri(made)
        with no_stray_folder(uri):
            open_store(tracking_uri=uri, registry_uri=uri)
        shutil.copyfile(made, whole)  # this process keeps the first file open
        try:
            os.link(whole, path)  # unlike a rename, a link replaces nothing
        except FileExistsError:
            return  # another process was faster
        except OSError:  # a file system without links
            if not path.exists():
                os.replace(whole, path)


def owner() -> dict[str, str]:
    """Return tags that let a later process check whether this one is alive."""
    process = psutil.Process()
    return {
        "lvm.host": socket.gethostname(),
        "lvm.pid": str(process.pid),
        "lvm.pid_started": str(process.create_time()),
        "mlflow.user": process.username(),
    }


def search(client: Client, experiment: str, wanted: str) -> list[Run]:
    """Return every run of an experiment that matches a filter, page by page."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], wanted, max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def sweep(client: Client, experiment: str) -> None:
    """End the runs that killed processes of this machine left open."""
    here = f"attributes.status = 'RUNNING' and tags.`lvm.host` = '{socket.gethostname()}'"
    for run in search(client, experiment, here):  # all of them first: ending one shifts the pages
        if not _is_alive(run.data.tags):
            client.set_terminated(run.info.run_id, "KILLED")


def _is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that wrote `tags` is alive; another with the same pid does not count."""
    try:
        started: float = psutil.Process(int(tags["lvm.pid"])).create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    return abs(started - float(tags["lvm.pid_started"])) < CLOCK_SECONDS
