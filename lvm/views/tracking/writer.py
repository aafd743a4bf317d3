"""Writes views into a store: creates missing runs, and writes what is new.

Nothing here imports mlflow: `lvm.views.tracking`, its one door, hands the package and a client in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lvm.core.config.plain import fingerprint
from lvm.triage.events import RunStarted
from lvm.views.tracking.marks import Marks
from lvm.views.tracking.mlflow_api import Client, Mlflow
from lvm.views.tracking.note import VIEW_TAG, table_link, table_state
from lvm.views.tracking.registry import checkpoint_of, log_data, log_model, log_values
from lvm.views.tracking.store import owner, search, without_password
from lvm.views.tracking.views import PARENT, RunView


class Writer:
    """The runs of one triage in one store that this process knows."""

    def __init__(
        self, mlflow: Mlflow, client: Client, experiment: str, folder: Path, uri: str
    ) -> None:
        self.folder, self.uri = folder, uri
        self._mlflow, self._client, self._experiment = mlflow, client, experiment
        self._owner = owner()
        self._triage = ""  # of the runs and marks below
        self._runs: dict[str, str] = {}  # key of a view -> run id
        self._marks = Marks(folder)

    def enter(self, first: RunStarted) -> None:
        """Find the runs of the triage that begins with this event."""
        identity = {"at": first.at, "code": first.code, "data": first.data.fingerprint}
        client, triage = self._client, fingerprint(identity)
        if self._triage != triage:
            client.set_experiment_tag(self._experiment, VIEW_TAG + triage, table_state(triage))
            known = search(client, self._experiment, f"tags.`lvm.triage` = '{triage}'")
            self._runs = {run.data.tags["lvm.key"]: str(run.info.run_id) for run in known}
            self._marks.load(self._runs)
            self._triage = triage

    def write(
        self, parent: RunView, views: Sequence[RunView], artifacts: Sequence[str] = ()
    ) -> None:
        """Write the run of a triage and its children, then files of the run folder, then models.

        Children end before their parent.
        """
        parent.name = f"{self.folder.parent.name}/{self.folder.name}"
        parent.add_tags({"folder": self.folder})
        link = f"\n\n[All arms in one table]({table_link(self._experiment, self._triage)})"
        parent.tags["mlflow.note.content"] += link
        try:
            self._open(parent)
            for view in views:
                view.add_tags({"mlflow.parentRunId": self._runs[PARENT]})
                self._open(view)
                self._put(view)
            self._put(parent)  # after the children: if the parent has ended, so have they
            for path in (self.folder / name for name in artifacts):
                if path.exists():
                    self._client.log_artifact(self._runs[PARENT], str(path))
            for view in views:  # last: the numbers are useful without the models
                self._put_model(view)
        finally:
            self._save()

    def _open(self, view: RunView) -> None:
        """Create the run of a view unless the store holds it."""
        if view.key not in self._runs:
            run = self._client.create_run(
                self._experiment,
                start_time=view.started,
                run_name=view.name,
                tags={**view.tags, **self._owner, "lvm.triage": self._triage, "lvm.key": view.key},
            )
            self._runs[view.key] = str(run.info.run_id)

    def _put(self, view: RunView) -> None:
        """Write a view into its run, unless exactly this has been written.

        A store ignores duplicate points, so a view that has grown is simply written again.
        """
        client, run = self._client, self._runs[view.key]
        if view.status == "RUNNING":
            view.tags.update(self._owner)
            view.ended = 0
        mark = fingerprint({**asdict(view), "model": None})
        if self._marks.has_values(view.key, mark):
            return
        log_values(self._mlflow, client, run, view)
        if view.data is not None:
            log_data(self._mlflow, client, run, view.data)
        if view.status == "RUNNING":
            client.update_run(run, status="RUNNING")
        else:
            client.set_terminated(run, view.status, view.ended)
        self._marks.values_written(view.key, mark)
        if self._marks.due:
            self._save()

    def _put_model(self, view: RunView) -> None:
        """Keep the model of a view, and register the confirmed one, unless that is done."""
        model = view.model
        if model is None:
            return
        mark = fingerprint([model.arm, model.registered_as])
        folder = checkpoint_of(model, self.folder)
        if self._marks.has_model(view.key, mark) or folder is None:
            return
        judged = [point for point in view.metrics if point[0].startswith("test.")]
        run = self._runs[view.key]
        log_model(self._mlflow, self._client, self._experiment, run, model, folder, judged)
        self._marks.model_kept(view.key, mark)
        self._save()

    def _save(self) -> None:
        self._marks.save(
            {
                "store": without_password(self.uri),
                "experiment": self._experiment,
                "view": self._triage,
                "runs": self._runs,
            }
        )
