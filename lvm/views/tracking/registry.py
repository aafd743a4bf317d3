"""What goes into an MLflow run: values, the data set, the model, and a place in the registry.

Nothing here imports mlflow: `lvm.views.tracking`, its one door, hands the package and a client in.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lvm.views.tracking.mlflow_api import Client, LoggedModel, Mlflow, Signature
from lvm.views.tracking.views import DataView, ModelView, Point, RunView

LOADER = "lvm.training.next_vectors"  # by its name alone: MLflow imports it where a model is loaded
FILES = ("manifest.json", "model.safetensors")  # without the state of the optimiser
ALIAS = "confirmed"
MODEL_TYPE = "next-vector"
REQUIREMENTS = ("mlflow", "numpy", "safetensors", "torch")
READY = "READY"
MAX_METRICS, MAX_TEXTS = 800, 100  # per request, with one hundred params and tags below 1000


def log_values(mlflow: Mlflow, client: Client, run: str, view: RunView) -> None:
    """Write metrics, params and tags in few requests; a store ignores duplicates."""
    entities = mlflow.entities
    metrics = [entities.Metric(*point) for point in view.metrics]
    params = [entities.Param(*item) for item in view.params.items()]
    tags = [entities.RunTag(*item) for item in view.tags.items()]
    for i in range(max(len(metrics) // MAX_METRICS, len([*params, *tags]) // MAX_TEXTS) + 1):
        texts = slice(MAX_TEXTS * i, MAX_TEXTS * (i + 1))
        numbers = slice(MAX_METRICS * i, MAX_METRICS * (i + 1))
        client.log_batch(run, metrics=metrics[numbers], params=params[texts], tags=tags[texts])


def log_data(mlflow: Mlflow, client: Client, run: str, data: DataView) -> None:
    """Name the data set of a run; naming it again changes nothing."""
    entities = mlflow.entities
    tensor = {"dtype": "float32", "shape": [-1, data.context_length, data.width]}
    shape = {
        "features": [{"name": "contexts", "type": "tensor", "tensor-spec": tensor}],
        "targets": [
            {
                "name": "target",
                "type": "tensor",
                "tensor-spec": {"dtype": "float32", "shape": [-1, data.width]},
            }
        ],
    }
    dataset = entities.Dataset(
        name=data.name,
        digest=data.digest,
        source_type=data.source_type,
        source=json.dumps(data.source),
        schema=json.dumps({"mlflow_tensorspec": {k: json.dumps(v) for k, v in shape.items()}}),
        profile=json.dumps(data.profile),
    )
    context = entities.InputTag(key="mlflow.data.context", value=data.context)
    client.log_inputs(run, [entities.DatasetInput(dataset=dataset, tags=[context])])


def checkpoint_of(model: ModelView, run_folder: Path) -> Path | None:
    """Return the folder of a model's checkpoint, even if the run was moved; None without one."""
    told = Path(model.checkpoint)
    moved = run_folder / "arms" / told.parent.name / told.name
    known = (moved, run_folder / told)
    places = (place for place in known if all((place / f).exists() for f in FILES))
    return next(places, None)


def log_model(
    mlflow: Mlflow,
    client: Client,
    experiment: str,
    run: str,
    view: ModelView,
    folder: Path,
    metrics: Sequence[Point],
) -> None:
    """Keep the checkpoint in `folder` as a model of a run, once; register the confirmed one."""
    found = client.search_logged_models([experiment], f"source_run_id = '{run}'")
    ready = [model for model in found if str(model.status) == READY]
    model = ready[0] if ready else _upload(mlflow, client, experiment, run, view, folder)
    if not ready:
        points = [mlflow.entities.Metric(*p, model_id=model.model_id, run_id=run) for p in metrics]
        client.log_batch(run, metrics=points)
        client.finalize_logged_model(model.model_id, READY)
    if view.registered_as:
        _register(client, run, view, model)


def _upload(
    mlflow: Mlflow, client: Client, experiment: str, run: str, view: ModelView, folder: Path
) -> LoggedModel:
    tags = {"arm": view.arm, "search_space": view.space}
    name = re.sub(r"[^\w\-+ ()]", "_", view.name)
    model = client.create_logged_model(
        experiment, name=name, source_run_id=run, tags=tags, model_type=MODEL_TYPE
    )
    output = mlflow.entities.LoggedModelOutput(model.model_id, step=0)
    client.log_outputs(run, [output])
    with tempfile.TemporaryDirectory(prefix="lvm-model-") as scratch:
        checkpoint, whole = Path(scratch, "checkpoint"), Path(scratch, "model")
        checkpoint.mkdir()
        for file in FILES:
            shutil.copyfile(folder / file, checkpoint / file)
        mlflow.pyfunc.save_model(
            whole,
            loader_module=LOADER,
            data_path=str(checkpoint),
            mlflow_model=mlflow.models.Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                run_id=run,
                model_id=model.model_id,
                metadata=tags,
            ),
            signature=_signature(mlflow, view),
            input_example=example(view.context_length, view.width),
            pip_requirements=[f"{n}=={importlib.metadata.version(n)}" for n in REQUIREMENTS],
        )
        client.log_model_artifacts(model.model_id, str(whole))
    return model


def _signature(mlflow: Mlflow, view: ModelView) -> Signature:
    """Contexts [B, T, D] in, next vectors [B, D] out."""
    spec, schema = mlflow.types.TensorSpec, mlflow.types.Schema
    single = np.dtype(np.float32)
    contexts = spec(single, (-1, view.context_length, view.width))
    predictions = spec(single, (-1, view.width))
    return mlflow.models.ModelSignature(schema([contexts]), schema([predictions]))


def example(context_length: int, width: int) -> npt.NDArray[np.float32]:
    """Return two contexts of random unit vectors, always the same ones."""
    rows = np.random.default_rng(0).standard_normal((2, context_length, width))
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)


def _register(client: Client, run: str, view: ModelView, model: LoggedModel) -> None:
    """Register the model as a version under its data's name, and point the alias to it.

    An existing version stays as it is, even if the alias has moved on since.
    """
    name = view.registered_as
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(
            name, description="Next-vector models that a triage confirmed on one data set."
        )
    versions = client.search_model_versions(f"name = '{name}'")
    if any(version.run_id == run for version in versions):
        return
    version = client.create_model_version(
        name,
        source=model.artifact_location,
        run_id=run,
        model_id=model.model_id,
        tags={"arm": view.arm, "search_space": view.space},
        description=view.description,
        await_creation_for=0,
    )
    shown = json.dumps([{"name": name, "version": version.version}])
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": shown})
    client.set_registered_model_alias(name, ALIAS, version.version)
