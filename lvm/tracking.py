"""The door to mlflow: a view of the journal, one parent run per triage and one child per arm.

    journal events --parent_view, arm_views--> RunView (plain values) --Tracker--> the MLflow store

The views are pure, so the whole record can be rebuilt from a journal at any time. Nothing here can
stop a triage: what a store or server refuses is kept in `Tracker.problem` and tried again later.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from lvm.config import fingerprint
from lvm.errors import MissingExtraError

Event = Mapping[str, Any]
Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step

EXPERIMENT = "lvm-triage"
PARENT = "triage"  # key of the parent run; those of the children are "step / arm id"
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
IMPORTANT = (
    "context_length", "model.name", "negatives.candidates", "objective.ar_weight",
    "objective.contrastive_weight", "objective.mmd_weight", "objective.space",
    "objective.temperature", "search_space", "seed", "training.batch_size", "training.epochs",
    "training.learning_rate",
)  # fmt: skip
NO_CURVE = ("at", "epoch", "wall")
FAILED = ("diverged", "crashed", "not evaluable")
MAX_TAG = 5000  # characters every kind of store takes
MAX_METRICS, MAX_TEXTS = 800, 100  # per request, with one hundred params and tags below 1000


# --- views: from events to plain values ----------------------------------------------------------


@dataclass(kw_only=True)
class RunView:
    """One MLflow run in plain values."""

    key: str
    name: str
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    started: int  # milliseconds since 1970
    ended: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[Point] = field(default_factory=list)

    def add_tags(self, values: Mapping[str, Any]) -> None:
        """Add what is known of `values` as text."""
        self.tags.update({k: str(v)[:MAX_TAG] for k, v in values.items() if v not in (None, "")})

    def add_metrics(self, prefix: str, values: Mapping[str, Any], at: float, step: int = 0) -> None:
        """Add every finite number in `values` under names that MLflow takes."""
        for name, value in flatten(values):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if math.isfinite(value):
                name = re.sub(r"[^\w\-./: ]", "_", prefix + name, flags=re.ASCII)
                self.metrics.append((name, float(value), _ms(at), step))

    def add_gate(self, split: str, gate: Event, at: float, step: int = 0) -> None:
        """Add one judged gate: its numbers as metrics, its answer as tags."""
        name = f"{split}.{gate['gate']}.{gate['metric']}"
        self.add_tags({f"{name}.verdict": gate["verdict"], f"{name}.reason": gate["reason"]})
        if gate["estimate"] is not None:
            numbers = {**gate["estimate"], "bound": gate["bound"], "p_value": gate["p_value"]}
            self.add_metrics(f"{name}.", numbers, at, step)

    def add_evaluation(self, judged: Event) -> None:
        """Add the metrics of one evaluation: masked as they are, unmasked under `raw`."""
        evaluation, at = judged["evaluation"], judged["at"]
        split, step = evaluation["split"], judged.get("epoch", judged.get("epochs", 0))
        self.add_metrics(f"{split}.", evaluation["masked"], at, step)
        self.add_metrics(f"{split}.raw.", evaluation["raw"], at, step)
        self.add_metrics(f"{split}.", evaluation.get("latency", {}), at, step)
        self.add_metrics(f"{split}.ann.", judged.get("ann", {}), at, step)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, leaf) of nested mappings in order."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def parent_view(
    events: Sequence[Event], document: Mapping[str, Any] | None, *, closed: bool
) -> RunView:
    """Return the run of a whole triage; `document` is that of verdict.json when there is one."""
    first, last = events[0], events[-1]
    stop = _last(events, "decision", action="Stop")
    status = "RUNNING"
    if closed:
        unfinished = "KILLED" if last["event"] == "interrupted" else "FAILED"
        status = "FINISHED" if stop else unfinished
    view = RunView(
        key=PARENT, name=PARENT, status=status, started=_ms(first["at"]), ended=_ms(last["at"])
    )
    view.params = {key: str(value) for key, value in flatten(first["config"])}
    view.add_tags({"command": first["command"], "commit": first["commit"], "code": first["code"]})
    view.add_tags({"mlflow.source.name": "tune_jobs/triage.py", "mlflow.source.type": "LOCAL"})
    view.add_tags({"mlflow.source.git.commit": first["commit"], "data": first["data"]["source"]})
    view.add_tags({"data.fingerprint": first["data"]["fingerprint"], "role": "triage"})
    view.add_metrics("data.", first["data"], first["at"])
    _add_phase_1(view, events)
    if stop is not None:
        cause = "+".join(stop["cause"])
        view.add_tags({"verdict": stop["verdict"], "cause": cause, "since": stop["since"]})
        warnings = list((document or {}).get("warnings", []))
        by = f" by {cause}" if cause else ""
        lines = [f"**{stop['verdict']}**{by}, since {stop['since']}.", *warnings]
        view.add_tags({"mlflow.note.content": "\n\n".join(lines)})
    if document is not None:
        view.add_metrics("compute.", document["compute"], last["at"])
    return view


def _add_phase_1(view: RunView, events: Sequence[Event]) -> None:
    """Add the first comparison and what the predictors without training reach, on test."""
    ladder = _last(events, "ladder", split="test")
    if ladder is not None:
        for name, row in ladder["rows"].items():
            view.add_metrics(f"ladder.{name}.", row["masked"], ladder["at"])
    judged = _last(events, "phase_1_judged")
    if judged is None:
        return
    for test in (e for e in events if e["event"] == "test_judged" and e["role"] == "phase 1"):
        which = "ar_only" if test["name"] == judged["baseline"] else "model"
        view.add_metrics(f"phase_1.{which}.", test["evaluation"]["masked"], test["at"])
        view.add_tags({f"phase_1.{which}": test["name"]})
    view.add_tags({"phase_1.verdict": judged["verdict"]})
    for gate in judged["gates"]:
        view.add_gate("phase_1", gate, judged["at"])


def arm_views(events: Sequence[Event], *, closed: bool) -> list[RunView]:
    """Return a run per arm that has ended, and when `closed` also those that were cut short."""
    base = dict(flatten(events[0]["config"]["recipe"]))
    views = []
    for started in (e for e in events if e["event"] == "step_started"):
        for spec in started["arms"]:
            view = _arm_view(events, started, spec, base)
            if view.status != "KILLED" or (closed and view.metrics):
                views.append(view)
    known = {spec["id"] for e in events if e["event"] == "step_started" for spec in e["arms"]}
    for test in (e for e in events if e["event"] == "test_judged" and e["arm"] not in known):
        views.append(_predictions_view(test))
    return views


def _arm_view(events: Sequence[Event], started: Event, spec: Event, base: Event) -> RunView:
    step, arm = spec["step"], spec["id"]
    ended = _last(events, "arm_ended", step=step, arm=arm)
    # An arm that a step shares with an earlier one was trained once; its epochs name the first.
    epochs = [e for e in events if e["event"] == "epoch" and e["arm"] == arm]
    if ended is not None:
        epochs = [e for e in epochs if e["epoch"] <= ended["epoch"]]
    end = ended or (epochs[-1] if epochs else started)
    status = "KILLED" if ended is None else "FAILED" if ended["reason"] in FAILED else "FINISHED"
    view = RunView(
        key=f"{step} / {arm}",
        name=f"{step} / {spec['name']}",
        status=status,
        started=_ms(started["at"]),
        ended=_ms(end["at"]),
    )
    recipe = dict(flatten(spec["recipe"]))
    view.params = {k: str(v) for k, v in recipe.items() if k in IMPORTANT or base.get(k) != v}
    view.add_tags({"step": step, "role": spec["role"], "arm": arm, "why": spec["why"]})
    view.add_tags({f"threshold.{k}": v for k, v in spec["gates"].items()})
    for epoch in epochs:
        curves = {k: v for k, v in epoch.items() if k not in NO_CURVE}
        view.add_metrics("", curves, epoch["at"], epoch["epoch"])
    if ended is not None:
        view.add_tags({"stop": ended["reason"], "stop.epoch": ended["epoch"]})
        view.add_tags({"stop.detail": ended["detail"]})
        _add_judgement(view, events, spec)
    return view


def _add_judgement(view: RunView, events: Sequence[Event], spec: Event) -> None:
    """Add what was judged of an ended arm: on dev, on test, and by a confirmation."""
    arm, step = spec["id"], spec["step"]
    judged = _last(events, "arm_judged", step=step, arm=arm)
    if judged is not None:
        at, epoch = judged["at"], judged["epoch"]
        view.add_tags({"verdict": judged["stage"]["verdict"], "reason": judged["stage"]["reason"]})
        view.add_metrics("", {"train_seconds": judged["train_seconds"]}, at, epoch)
        for gate in (judged["stage"], *judged["gains"]):
            view.add_gate("dev", gate, at, epoch)
        if judged["evaluation"] is not None:
            view.add_evaluation(judged)
    test = _last(events, "test_judged", arm=arm) if spec["evaluate_test"] else None
    if test is not None:
        view.add_evaluation(test)
    confirmed = _last(events, "confirmed", spec=arm, run_as=step)
    if confirmed is not None:
        reasons = [f"{g['gate']} {g['metric']}: {g['reason']}" for g in confirmed["gates"]]
        view.add_tags({"verdict": confirmed["verdict"], "reason": "; ".join(reasons)})
        for gate in confirmed["gates"]:
            view.add_gate("test", gate, confirmed["at"])


def _predictions_view(test: Event) -> RunView:
    """Return the run of predictions that were handed in and judged without a model."""
    at, step = _ms(test["at"]), test["step"]
    view = RunView(
        key=f"{step} / {test['arm']}", name=f"{step} / {test['name']}", status="FINISHED",
        started=at, ended=at,
    )  # fmt: skip
    view.add_tags({"step": step, "role": test["role"], "arm": test["arm"]})
    view.add_evaluation(test)
    return view


def _last(events: Sequence[Event], kind: str, **values: Any) -> Event | None:
    for event in reversed(events):
        if event["event"] == kind and all(event.get(k) == v for k, v in values.items()):
            return event
    return None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


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
