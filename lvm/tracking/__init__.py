"""The door to mlflow: one parent run per triage, one child per arm and per row of the ladder.

    journal events --parent, ladder and arm views--> RunView --Tracker--> the MLflow store

The views are pure, so the whole record can be rebuilt from a journal at any time. Nothing here can
stop a triage: what a store or server refuses is kept in `Tracker.problem` and tried again later.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lvm.config import fingerprint
from lvm.errors import MissingExtraError
from lvm.tracking.arms import arm_views
from lvm.tracking.ladder import ladder_views
from lvm.tracking.note import VIEW_TAG, table_link, table_state
from lvm.tracking.registry import checkpoint_of, log_data, log_model, log_values
from lvm.tracking.store import (
    absolute,
    artifacts,
    in_words,
    make_store,
    owner,
    sqlite_path,
    sweep,
    ui_command,
    without_password,
)
from lvm.tracking.views import PARENT, Event, RunView, parent_view

EXPERIMENT = "lvm-triage"
STATE_FILE = "mlflow.json"
ARTIFACTS = ("verdict.json", "audit.json", "report.md", "report.html", "journal.jsonl")
RETRY_SECONDS = 30.0  # pause after a failure, so that a dead server is not asked all the time
PATIENCE = 10  # the pause is at least this many times what the failure cost
SETTINGS = {  # applied where the person has not chosen otherwise
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


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
        self.uri = absolute(uri or os.environ.get("MLFLOW_TRACKING_URI") or own)
        self.problem: str | None = None
        self._waiting: list[Event] | None = None  # handed over and not yet taken up
        self._writer: threading.Thread | None = None
        self._hand = threading.Lock()  # of these two
        self._lock = threading.Lock()  # of all below
        self._client: Any = None
        self._mlflow: Any = None
        self._experiment = ""
        self._owner: dict[str, str] = {}
        self._triage = ""  # of the runs below
        self._runs: dict[str, str] = {}  # key of a view -> run id
        self._done: dict[str, str] = {}  # key of a view -> fingerprint of what was written
        self._kept: dict[str, str] = {}  # key of a view -> fingerprint of the model that was kept
        self._retry_at = 0.0

    def prepare(self) -> None:
        """Import mlflow, make the store, close runs of dead processes: seconds, once.

        Meant for a thread beside the start of Ray, after the import of ray: two threads that import
        packages with parts in common can trip over each other.
        """
        with self._lock:
            self._attempt(self._connect)

    def sync(self, events: Sequence[Event]) -> None:
        """Hand over the journal and return at once; a thread writes what is new in it.

        Children appear when their arm has ended. A slow or silent server costs the triage nothing.
        """
        with self._hand:
            self._waiting = list(events)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_waiting, daemon=True)
                self._writer.start()

    def wait(self) -> None:
        """Return when what was handed over has been written, or refused."""
        with self._hand:
            writer = self._writer
        if writer is not None:
            writer.join()

    def close(self, events: Sequence[Event], verdict: Mapping[str, Any] | None = None) -> None:
        """Write all, keep the files of the run as artifacts, and end every run.

        `verdict` is the document of verdict.json. The parent ends FINISHED after a verdict, KILLED
        after an interruption, and FAILED otherwise.
        """
        with self._hand:
            self._waiting = None  # all of it is in what comes now
        self.wait()
        with self._lock:
            self._attempt(lambda: self._write(events, verdict, closed=True))

    def ui_command(self) -> str:
        """Return the line that opens this store in a browser, on this machine alone."""
        return ui_command(self.uri)

    # --- inside ----------------------------------------------------------------------------------

    def _write_waiting(self) -> None:
        """Write what was handed over, until nothing more is: the body of the writer's thread."""
        while True:
            with self._hand:
                events, self._waiting = self._waiting, None
                if events is None:
                    self._writer = None
                    return
            with self._lock:
                if time.monotonic() >= self._retry_at:
                    self._attempt(functools.partial(self._write, events, None, closed=False))

    def _attempt(self, work: Callable[[], object]) -> None:
        """Do some work under the lock, and keep what was refused."""
        started = time.monotonic()
        done = False
        try:
            work()
            done = True
            self.problem, self._retry_at = None, 0.0
        except Exception as error:  # whatever a store throws, the triage goes on without it
            self.problem = in_words(error, self.uri, self.folder)
            now = time.monotonic()
            self._retry_at = now + max(RETRY_SECONDS, PATIENCE * (now - started))
        finally:
            if not done:  # what this process believes of the store may be wrong
                self._client, self._triage = None, ""

    def _connect(self) -> Any:
        if self._client is None:
            # MLflow warns of types of its own when this part is imported.
            warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)
            import mlflow.pyfunc  # here, in the thread beside the start of Ray: it takes a while
            from mlflow import MlflowClient

            path = sqlite_path(self.uri)
            if path is not None and not path.exists():
                make_store(MlflowClient, path)
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            experiment = client.get_experiment_by_name(EXPERIMENT)
            place = artifacts(self.uri, self.folder)
            self._experiment = (
                experiment.experiment_id
                if experiment is not None
                else client.create_experiment(EXPERIMENT, artifact_location=place)
            )
            sweep(client, self._experiment)
            self._owner = owner()
            self._client, self._mlflow = client, mlflow
        return self._client

    def _write(
        self, events: Sequence[Event], document: Mapping[str, Any] | None, *, closed: bool
    ) -> None:
        if not events:
            return
        client, events = self._connect(), list(events)
        triage = fingerprint(dict(events[0]))
        if self._triage != triage:
            client.set_experiment_tag(self._experiment, VIEW_TAG + triage, table_state(triage))
            self._runs = self._known_runs(client, triage)
            self._triage = triage
        parent = parent_view(events, document, closed=closed)
        parent.name = f"{self.folder.parent.name}/{self.folder.name}"
        parent.add_tags({"folder": self.folder})
        link = f"\n\n[All arms in one table]({table_link(self._experiment, triage)})"
        parent.tags["mlflow.note.content"] += link
        self._open(client, parent, triage)
        views = [*ladder_views(events), *arm_views(events, document, closed=closed)]
        for view in views:
            view.add_tags({"mlflow.parentRunId": self._runs[PARENT]})
            self._open(client, view, triage)
            self._put(client, view)
        self._put(client, parent)  # a parent that has ended promises that its children have
        if closed:
            for path in (self.folder / name for name in ARTIFACTS):
                if path.exists():
                    client.log_artifact(self._runs[PARENT], str(path))
        for view in views:  # last: the numbers are worth having without the models
            self._put_model(client, view)

    def _known_runs(self, client: Any, triage: str) -> dict[str, str]:
        """Return the runs of this triage that the store holds; the state file saves only work."""
        found = client.search_runs([self._experiment], f"tags.`lvm.triage` = '{triage}'")
        runs = {run.data.tags["lvm.key"]: str(run.info.run_id) for run in found}
        try:
            state = json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8"))
            self._done = {k: v for k, v in state["done"].items() if runs.get(k) == state["runs"][k]}
            kept = state.get("models", {})
            self._kept = {k: v for k, v in kept.items() if runs.get(k) == state["runs"][k]}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            self._done, self._kept = {}, {}
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
        run = self._runs[view.key]
        if view.status == "RUNNING":
            view.tags.update(self._owner)
            view.ended = 0
        mark = fingerprint({**asdict(view), "model": None})
        if self._done.get(view.key) == mark:
            return
        log_values(self._mlflow, client, run, view)
        if view.data is not None:
            log_data(self._mlflow, client, run, view.data)
        if view.status == "RUNNING":
            client.update_run(run, status="RUNNING")
        else:
            client.set_terminated(run, view.status, view.ended)
        self._done[view.key] = mark
        self._save()

    def _put_model(self, client: Any, view: RunView) -> None:
        """Keep the model of a view, and register the confirmed one, unless that has been done."""
        model = view.model
        if model is None:
            return
        mark = fingerprint([model.arm, model.registered_as])
        folder = checkpoint_of(model, self.folder)
        if self._kept.get(view.key) == mark or folder is None:
            return
        judged = [point for point in view.metrics if point[0].startswith("test.")]
        run = self._runs[view.key]
        log_model(self._mlflow, client, self._experiment, run, model, folder, judged)
        self._kept[view.key] = mark
        self._save()

    def _save(self) -> None:
        state = {
            "store": without_password(self.uri), "experiment": self._experiment,
            "view": self._triage, "runs": self._runs, "done": self._done, "models": self._kept,
        }  # fmt: skip
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
