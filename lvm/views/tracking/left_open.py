"""Read the runs that an MLflow store calls RUNNING; nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lvm.core.errors import DataError
from lvm.views.tracking import EXPERIMENT, Tracker, import_mlflow
from lvm.views.tracking.mlflow_api import Run
from lvm.views.tracking.store import in_words, search, sqlite_path
from lvm.views.tracking.views import PARENT


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A triage that a store calls RUNNING."""

    name: str
    folder: Path | None  # on its driver's machine; it may not exist here
    host: str


def open_runs(run: Path, uri: str | None = None) -> list[OpenRun]:
    """Return the triages that are RUNNING in the store of the run folder `run`.

    None where there is no store yet. Raises DataError when it does not answer.
    """
    tracker = Tracker(run, uri)  # knows the address and the settings; opens nothing yet
    path = sqlite_path(tracker.uri)
    if path is not None and not path.exists():
        return []
    try:
        return [_open_run(found.data.tags) for found in _search(tracker.uri)]
    except Exception as error:  # whatever a store throws
        raise DataError(in_words(error, tracker.uri, run)) from None


def _search(uri: str) -> list[Run]:
    client = import_mlflow().MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    wanted = f"attributes.status = 'RUNNING' and tags.`lvm.key` = '{PARENT}'"
    return search(client, experiment.experiment_id, wanted)


def _open_run(tags: dict[str, str]) -> OpenRun:
    folder = tags.get("folder")
    return OpenRun(
        name=tags.get("mlflow.runName", "?"),
        folder=Path(folder) if folder else None,
        host=tags.get("lvm.host", "?"),
    )
