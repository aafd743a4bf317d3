"""The door to mlflow: one parent run per triage, one child per arm and per row of the ladder.

    journal events --parent, ladder and arm views--> RunView --Tracker--> the MLflow store

The views are pure, so the whole record can be rebuilt from a journal at any time. Nothing here can
stop a triage: a store's refusal is kept in `Tracker.problem`, and the write is tried again later.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

from lvm.core.beside import beside
from lvm.core.errors import MissingExtraError
from lvm.triage.state import RunState
from lvm.triage.summary import Summary
from lvm.views.tracking.arms import arm_views, changed_views
from lvm.views.tracking.inbox import Inbox
from lvm.views.tracking.ladder import ladder_views
from lvm.views.tracking.mlflow_api import Mlflow
from lvm.views.tracking.store import (
    Refused,
    absolute,
    artifacts,
    in_words,
    make_store,
    no_stray_folder,
    require_openable,
    restoring,
    sqlite_path,
    sqlite_uri,
    sweep,
    ui_command,
)
from lvm.views.tracking.views import begun, parent_view
from lvm.views.tracking.writer import Writer

EXPERIMENT = "lvm-triage"
ARTIFACTS = ("verdict.json", "audit.json", "report.md", "report.html", "journal.jsonl")
RETRY_SECONDS = 30.0  # pause after a failure, so that a dead server is not polled constantly
PATIENCE = 10  # the pause is at least this many times as long as the failed attempt
SETTINGS = {  # applied unless the person has set them
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Tracker:
    """Keeps the MLflow runs of one triage equal to its journal.

    It may be called from several threads, and never raises for what a store or server does;
    `problem` says in one sentence what was last refused, and is None once all is written.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        """Track the run in `folder`; MissingExtraError without mlflow, which is not imported yet.

        `uri` defaults to MLFLOW_TRACKING_URI, and without that to a SQLite file next to the run
        folder, so that all runs of a person share one store.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise MissingExtraError("mlflow", None, "tracking runs in MLflow")
        # Not in the writer's thread: changing the environment there can break the start of a
        # process in the main thread.
        for key, value in SETTINGS.items():
            os.environ.setdefault(key, value)
        self.folder = folder.absolute()
        own = sqlite_uri(self.folder.parent / "mlflow.db")
        self.uri = absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or own)
        self.problem: str | None = None
        self._inbox = Inbox()
        self._waiting = False  # whether something was handed over and not yet taken
        self._writer: futures.Future[None] | None = None
        self._hand = threading.Lock()  # of these two
        self._lock = threading.Lock()  # of all below
        self._runs: Writer | None = None
        self._events = RunState()  # those taken from the inbox
        self._num_written = 0  # how many of these are in the store
        self._retry_at = 0.0

    def sync(self, events: RunState) -> None:
        """Hand over the journal and return at once; a thread writes what is new in it.

        The first call imports mlflow, makes the store and closes runs of dead processes: seconds,
        in that thread. Children appear when their arm has ended. A slow or silent server costs the
        triage nothing, and a call costs only what has happened since the last one.
        """
        self._inbox.put(events)
        with self._hand:
            self._waiting = True
            if self._writer is None:
                self._writer = beside(self._write_waiting, "mlflow")

    @property
    def connected(self) -> bool:
        """Whether this process has opened the store, and so may have left a run open in it."""
        return self._runs is not None

    def wait(self) -> None:
        """Wait until everything handed over is written or refused."""
        with self._hand:
            writer = self._writer
        if writer is not None:
            futures.wait([writer])

    def close(self, events: RunState, summary: Summary | None = None) -> None:
        """Write all, keep the files of the run as artifacts, and end every run.

        `summary` is the result of the run. The parent ends FINISHED after a verdict, KILLED after
        an interruption, and FAILED otherwise.
        """
        with self._hand:
            self._waiting = False  # the write below includes it
        self.wait()
        with self._lock:
            self._attempt(lambda: self._write_all(events, summary))

    def ui_command(self) -> str:
        """Return the command that opens this store in a browser, on this machine only."""
        return ui_command(self.uri)

    # --- inside ----------------------------------------------------------------------------------

    def _write_waiting(self) -> None:
        """Write what is handed over until nothing is left: the body of the writer's thread."""
        while True:
            with self._hand:
                waiting, self._waiting = self._waiting, False
                if not waiting:
                    self._writer = None
                    return
            with self._lock:
                self._take_up()
                if time.monotonic() >= self._retry_at:
                    self._attempt(self._write_new)

    def _take_up(self) -> None:
        anew, events = self._inbox.take()
        if anew:
            self._events, self._num_written = RunState(), 0
        for event in events:
            self._events.append(event)

    def _attempt(self, work: Callable[[], object]) -> None:
        """Do some work under the lock, and keep its error as `problem`."""
        started = time.monotonic()
        done = False
        try:
            work()
            done = True
            self.problem, self._retry_at = None, 0.0
        except Exception as error:  # whatever a store raises, the triage continues without it
            self.problem = in_words(error, self.uri, self.folder)
            now = time.monotonic()
            self._retry_at = now + max(RETRY_SECONDS, PATIENCE * (now - started))
        finally:
            if not done:  # this process no longer knows what the store holds
                self._runs, self._num_written = None, 0

    def _connect(self) -> Writer:
        if self._runs is None:
            mlflow = import_mlflow()  # slow, so it happens here, in the writer's thread
            path = sqlite_path(self.uri)
            if path is not None:
                require_openable(path)
                if not path.exists():
                    make_store(mlflow.MlflowClient, path)
            with no_stray_folder(self.uri):
                client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
                found = client.get_experiment_by_name(EXPERIMENT)
            if found is not None and found.lifecycle_stage == "deleted":
                raise Refused(restoring(found.experiment_id, self.uri))
            place = artifacts(self.uri, self.folder)
            experiment = (
                found.experiment_id
                if found is not None
                else client.create_experiment(EXPERIMENT, artifact_location=place)
            )
            sweep(client, experiment)
            self._runs = Writer(mlflow, client, experiment, self.folder, self.uri)
        return self._runs

    def _write_new(self) -> None:
        """Write what the latest events changed in an unfinished run."""
        events = self._events
        if events:
            runs = self._connect()
            runs.enter(begun(events))
            changed = changed_views(events, events[self._num_written :])
            runs.write(parent_view(events, None, closed=False), [*ladder_views(events), *changed])
            self._num_written = len(events)

    def _write_all(self, events: RunState, summary: Summary | None) -> None:
        """Write every view of a run, and end its MLflow runs."""
        if events:
            runs = self._connect()
            runs.enter(begun(events))
            views = [*ladder_views(events), *arm_views(events, summary, closed=True)]
            runs.write(parent_view(events, summary, closed=True), views, ARTIFACTS)


def import_mlflow() -> Mlflow:
    """Return the mlflow package with the parts that lvm uses."""
    # MLflow warns about its own type hints when this part is imported.
    warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)
    import mlflow.pyfunc

    package: Mlflow = mlflow
    return package
