"""The door to mlflow: a view of the journal, one parent run per triage and one child per arm.

    journal events --parent_view, arm_views--> RunView (plain values) --Tracker--> the MLflow store

The views are pure, so the whole record can be rebuilt from a journal at any time. Nothing here can
stop a triage: what a store or server refuses is kept in `Tracker.problem` and tried again later.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from lvm.config import fingerprint
from lvm.errors import MissingExtraError
from lvm.tracking_views import PARENT, Event, RunView, arm_views, parent_view

EXPERIMENT = "lvm-triage"
STATE_FILE = "mlflow.json"
ARTIFACTS = ("verdict.json", "report.md", "report.html", "journal.jsonl")
CLOCK_SECONDS = 10.0  # by which two readings of the start of one process may differ
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
RETRY_SECONDS = 30.0  # pause after a failure, so that a dead server does not slow the triage down
PATIENCE = 10  # the pause is at least this many times what the failure cost
SETTINGS = {  # applied where the person has not chosen otherwise
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
MAX_METRICS, MAX_TEXTS = 800, 100  # per request, with one hundred params and tags below 1000


# --- the store -----------------------------------------------------------------------------------


class Tracker:
    """Keeps the MLflow runs of one triage equal to its journal.

    The calls may come from several threads. None of them raises for what a store or server does;
    `problem` says in one sentence what was last refused, and is None once all is written.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        """Track the run in `folder`; MissingExtraError without mlflow, which is not imported yet.

        `uri` defaults to MLFLOW_TRACKING_URI, and without that to a SQLite file beside the run
        folder, so that all runs of a person lie in one store.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise MissingExtraError("mlflow", None, "tracking runs in MLflow")
        # Here and not in `prepare`: a change of the environment from a second thread can break the
        # start of a process in the first.
        for key, value in SETTINGS.items():
            os.environ.setdefault(key, value)
        self.folder = folder.absolute()
        own = f"sqlite:///{self.folder.parent / 'mlflow.db'}"
        self.uri = _absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or own)
        self.problem: str | None = None
        self._lock = threading.Lock()
        self._client: Any = None
        self._experiment = ""
        self._owner: dict[str, str] = {}
        self._triage = ""  # of the runs below
        self._runs: dict[str, str] = {}  # key of a view -> run id
        self._done: dict[str, str] = {}  # key of a view -> fingerprint of what was written
        self._retry_at = 0.0

    def prepare(self) -> None:
        """Import mlflow, make the store, close runs of dead processes: seconds, once.

        Meant for a thread beside the start of Ray, after the import of ray: two threads that import
        packages with parts in common can trip over each other. A `sync` meanwhile returns at once.
        """
        with self._lock:
            self._attempt(self._connect)

    def sync(self, events: Sequence[Event]) -> None:
        """Write what is new in the journal; children appear when their arm has ended."""
        if not self._lock.acquire(blocking=False):
            return  # somebody is at work; the next call catches up
        try:
            if time.monotonic() >= self._retry_at:
                self._attempt(lambda: self._write(events, None, closed=False))
        finally:
            self._lock.release()

    def close(self, events: Sequence[Event], verdict: Mapping[str, Any] | None = None) -> None:
        """Write all, keep the files of the run as artifacts, and end every run.

        `verdict` is the document of verdict.json. The parent ends FINISHED after a verdict, KILLED
        after an interruption, and FAILED otherwise.
        """
        with self._lock:
            self._attempt(lambda: self._write(events, verdict, closed=True))

    def ui_command(self) -> str:
        """Return the line that opens this store in a browser, on this machine alone."""
        if _is_server(self.uri):
            return shlex.join([sys.executable, "-m", "webbrowser", _without_password(self.uri)])
        hidden = _without_password(self.uri) != self.uri
        store = '"$MLFLOW_TRACKING_URI"' if hidden else shlex.quote(self.uri)
        python = shlex.quote(sys.executable)
        # As it comes, the server starts 15 processes for jobs that a viewer never asks for.
        return (
            "env MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "
            f"{python} -m mlflow ui --workers 1 --backend-store-uri {store} "
            "--host 127.0.0.1 --port 5000"
        )

    # --- inside: always under the lock -----------------------------------------------------------

    def _attempt(self, work: Callable[[], object]) -> None:
        started = time.monotonic()
        done = False
        try:
            work()
            done = True
            self.problem, self._retry_at = None, 0.0
        except Exception as error:  # whatever a store throws, the triage goes on without it
            self.problem = self._in_words(error)
            now = time.monotonic()
            self._retry_at = now + max(RETRY_SECONDS, PATIENCE * (now - started))
        finally:
            if not done:  # what this process believes of the store may be wrong
                self._client, self._triage = None, ""

    def _in_words(self, error: Exception) -> str:
        shown = _without_password(self.uri)
        said = [*str(error).strip().splitlines(), ""][0].replace(self.uri, shown)
        found = f"{type(error).__name__}: {said}"[:300]
        return (
            f"MLflow at {shown} did not take the results ({found}); the journal in {self.folder} "
            "holds them all, and they are written when it answers."
        )

    def _connect(self) -> Any:
        if self._client is None:
            from mlflow import MlflowClient

            path = _sqlite_path(self.uri)
            if path is not None and not path.exists():
                _make_store(path)
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            experiment = client.get_experiment_by_name(EXPERIMENT)
            self._experiment = (
                experiment.experiment_id
                if experiment is not None
                else client.create_experiment(EXPERIMENT, artifact_location=self._artifacts())
            )
            _sweep(client, self._experiment)
            process = psutil.Process()
            self._owner = {
                "lvm.host": socket.gethostname(),
                "lvm.pid": str(process.pid),
                "lvm.pid_started": str(process.create_time()),
                "mlflow.user": process.username(),
            }
            self._client = client
        return self._client

    def _artifacts(self) -> str | None:
        """Return the folder of artifacts as a URI; None leaves it to a server."""
        if not self.uri.startswith(DATABASES):
            return None
        beside = _sqlite_path(self.uri) or self.folder
        return (beside.parent / "mlflow_artifacts").as_uri()

    def _write(
        self, events: Sequence[Event], document: Mapping[str, Any] | None, *, closed: bool
    ) -> None:
        if not events:
            return
        client, events = self._connect(), list(events)
        triage = fingerprint(dict(events[0]))
        if self._triage != triage:
            self._runs = self._known_runs(client, triage)
            self._triage = triage
        parent = parent_view(events, document, closed=closed)
        parent.name = f"{self.folder.parent.name}/{self.folder.name}"
        parent.add_tags({"folder": self.folder})
        self._open(client, parent, triage)
        for view in arm_views(events, closed=closed):
            view.add_tags({"mlflow.parentRunId": self._runs[PARENT]})
            self._open(client, view, triage)
            self._put(client, view)
        if closed:
            for path in (self.folder / name for name in ARTIFACTS):
                if path.exists():
                    client.log_artifact(self._runs[PARENT], str(path))
        self._put(client, parent)  # last: a parent that has ended promises that its children have

    def _known_runs(self, client: Any, triage: str) -> dict[str, str]:
        """Return the runs of this triage that the store holds; the state file saves only work."""
        found = client.search_runs([self._experiment], f"tags.`lvm.triage` = '{triage}'")
        runs = {run.data.tags["lvm.key"]: str(run.info.run_id) for run in found}
        try:
            state = json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8"))
            self._done = {k: v for k, v in state["done"].items() if runs.get(k) == state["runs"][k]}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            self._done = {}
        return runs

    def _open(self, client: Any, view: RunView, triage: str) -> None:
        """Create the run of a view unless the store holds it."""
        if view.key not in self._runs:
            run = client.create_run(
                self._experiment,
                start_time=view.started,
                run_name=view.name,
                tags={**view.tags, **self._owner, "lvm.triage": triage, "lvm.key": view.key},
            )
            self._runs[view.key] = str(run.info.run_id)

    def _put(self, client: Any, view: RunView) -> None:
        """Write a view into its run, unless exactly this was written before.

        A store keeps equal points once, so that a view that grew is simply written again.
        """
        from mlflow.entities import Metric, Param, RunTag

        run = self._runs[view.key]
        if view.status == "RUNNING":
            view.tags.update(self._owner)
            view.ended = 0
        mark = fingerprint(asdict(view))
        if self._done.get(view.key) == mark:
            return
        metrics = [Metric(*point) for point in view.metrics]
        params = [Param(*item) for item in view.params.items()]
        tags = [RunTag(*item) for item in view.tags.items()]
        for i in range(max(len(metrics) // MAX_METRICS, len([*params, *tags]) // MAX_TEXTS) + 1):
            texts = slice(MAX_TEXTS * i, MAX_TEXTS * (i + 1))
            numbers = slice(MAX_METRICS * i, MAX_METRICS * (i + 1))
            client.log_batch(run, metrics=metrics[numbers], params=params[texts], tags=tags[texts])
        if view.status == "RUNNING":
            client.update_run(run, status="RUNNING")
        else:
            client.set_terminated(run, view.status, view.ended)
        self._done[view.key] = mark
        self._save()

    def _save(self) -> None:
        state = {"store": _without_password(self.uri), "runs": self._runs, "done": self._done}
        fresh = self.folder / f".{STATE_FILE}.new"
        fresh.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        os.replace(fresh, self.folder / STATE_FILE)


def track(folder: Path, events: Sequence[Event], uri: str | None = None) -> Tracker:
    """Rebuild the MLflow runs of the triage in `folder` from its journal, in any store."""
    tracker = Tracker(folder, uri)
    try:
        document = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        document = None
    tracker.close(events, document)
    return tracker


def _make_store(path: Path) -> None:
    """Make a SQLite store whole, or not at all.

    MLflow makes the tables in dozens of migrations. When these are cut short, or two processes make
    them at once, what is left can neither be used nor repaired.
    """
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as scratch:
        made, whole = Path(scratch, "made.db"), Path(scratch, "whole.db")
        MlflowClient(tracking_uri=f"sqlite:///{made}", registry_uri=f"sqlite:///{made}")
        shutil.copyfile(made, whole)  # the first one stays open in this process
        try:
            os.link(whole, path)  # unlike a rename, it replaces nothing
        except FileExistsError:
            return  # another process was faster
        except OSError:  # a file system without links
            if not path.exists():
                os.replace(whole, path)


def _sweep(client: Any, experiment: str) -> None:
    """End the runs that killed processes of this machine left open."""
    here = f"attributes.status = 'RUNNING' and tags.`lvm.host` = '{socket.gethostname()}'"
    for run in client.search_runs([experiment], here):
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


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _absolute(uri: str) -> str:
    """Return a SQLite URI with an absolute path, so that it means the same from every folder."""
    path = _sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path.absolute()}"


def _sqlite_path(uri: str) -> Path | None:
    path = uri.removeprefix("sqlite:///")
    return None if path == uri or path in ("", ":memory:") else Path(path)


def _without_password(uri: str) -> str:
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri
