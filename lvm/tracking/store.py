"""MLflow stores: their addresses, how one is made, and the runs that dead processes left open."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

PAGE = 1000  # runs in one answer of a store
CLOCK_SECONDS = 10.0  # by which two readings of the start of one process may differ
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")


def ui_command(uri: str) -> str:
    """Return the line that opens a store in a browser, on this machine alone."""
    shown = without_password(uri)
    if uri.startswith(("http://", "https://")):  # a server, which has a page of its own
        return shlex.join([sys.executable, "-m", "webbrowser", shown])
    store = '"$MLFLOW_TRACKING_URI"' if shown != uri else shlex.quote(uri)
    # As it comes, the server starts 15 processes for jobs that a viewer never asks for.
    return (
        "env MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "
        f"{shlex.quote(sys.executable)} -m mlflow ui --workers 1 --backend-store-uri {store} "
        "--host 127.0.0.1 --port 5000"
    )


def absolute(uri: str) -> str:
    """Return a SQLite URI with an absolute path, so that it means the same from every folder."""
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path.absolute()}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite URI; None for every other address."""
    path = uri.removeprefix("sqlite:///")
    return None if path == uri or path in ("", ":memory:") else Path(path)


def without_password(uri: str) -> str:
    """Return the address as it may be shown."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri


def artifacts(uri: str, folder: Path) -> str | None:
    """Return where artifacts go, beside the store or the run folder; None leaves it to a server."""
    if not uri.startswith(DATABASES):
        return None
    beside = sqlite_path(uri) or folder
    return (beside.parent / "mlflow_artifacts").as_uri()


def in_words(error: Exception, uri: str, folder: Path) -> str:
    """Return in one sentence what a store refused, without passwords."""
    shown = without_password(uri)
    said = [*str(error).strip().splitlines(), ""][0].replace(uri, shown)
    found = f"{type(error).__name__}: {said}"[:300]
    return (
        f"MLflow at {shown} did not take the results ({found}); the journal in {folder} holds them "
        f"all, and lvm track {shlex.quote(str(folder))} writes them when it answers."
    )


def make_store(open_store: Callable[..., object], path: Path) -> None:
    """Make a SQLite store whole, or not at all, with MLflow's own client `open_store`.

    MLflow makes the tables in dozens of migrations. When these are cut short, or two processes make
    them at once, what is left can neither be used nor repaired.
    """
    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as scratch:
        made, whole = Path(scratch, "made.db"), Path(scratch, "whole.db")
        open_store(tracking_uri=f"sqlite:///{made}", registry_uri=f"sqlite:///{made}")
        shutil.copyfile(made, whole)  # the first one stays open in this process
        try:
            os.link(whole, path)  # unlike a rename, it replaces nothing
        except FileExistsError:
            return  # another process was faster
        except OSError:  # a file system without links
            if not path.exists():
                os.replace(whole, path)


def owner() -> dict[str, str]:
    """Return the tags by which a later process knows whether this one still lives."""
    process = psutil.Process()
    return {
        "lvm.host": socket.gethostname(),
        "lvm.pid": str(process.pid),
        "lvm.pid_started": str(process.create_time()),
        "mlflow.user": process.username(),
    }


def search(client: Any, experiment: str, wanted: str) -> list[Any]:
    """Return every run of an experiment that a filter lets through; a store gives pages."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment], wanted, max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def sweep(client: Any, experiment: str) -> None:
    """End the runs that killed processes of this machine left open."""
    here = f"attributes.status = 'RUNNING' and tags.`lvm.host` = '{socket.gethostname()}'"
    for run in search(client, experiment, here):  # all before the first ends, which moves the pages
        if not _is_alive(run.data.tags):
            client.set_terminated(run.info.run_id, "KILLED")


def _is_alive(tags: Mapping[str, str]) -> bool:
    """Whether the process that wrote `tags` lives; another one with its number does not count."""
    try:
        started: float = psutil.Process(int(tags["lvm.pid"])).create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    return abs(started - float(tags["lvm.pid_started"])) < CLOCK_SECONDS
