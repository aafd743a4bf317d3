"""What lvm calls of MLflow and reads of its answers.

mypy does not follow the package, which is large and optional: `lvm.views.tracking`, its one door,
returns it as `Mlflow`.
"""

# ruff: noqa: D102 -- the methods are MLflow's, and its manual says what they do
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NewType, Protocol

import numpy as np
import numpy.typing as npt

# What MLflow makes of our values and takes back; nothing of it is read.
MetricValue = NewType("MetricValue", object)
ParamValue = NewType("ParamValue", object)
TagValue = NewType("TagValue", object)
DataTag = NewType("DataTag", object)
DataSet = NewType("DataSet", object)
DataInput = NewType("DataInput", object)
ModelOutput = NewType("ModelOutput", object)
ModelFile = NewType("ModelFile", object)
Spec = NewType("Spec", object)
Specs = NewType("Specs", object)
Signature = NewType("Signature", object)


class RunInfo(Protocol):
    """What identifies a run."""

    run_id: str


class RunData(Protocol):
    """What was logged to a run."""

    tags: dict[str, str]


class Run(Protocol):
    """One run."""

    info: RunInfo
    data: RunData


class RunPage(Iterable[Run], Protocol):
    """Some of the runs that a search finds."""

    token: str | None  # of the next page


class Experiment(Protocol):
    """A group of runs."""

    experiment_id: str
    lifecycle_stage: str


class LoggedModel(Protocol):
    """A model of a run."""

    model_id: str
    status: object  # an enumeration, compared as text
    artifact_location: str


class ModelVersion(Protocol):
    """A version of a registered model."""

    run_id: str
    version: str


class Client(Protocol):
    """`mlflow.MlflowClient`."""

    def get_experiment_by_name(self, name: str) -> Experiment | None: ...
    def create_experiment(self, name: str, artifact_location: str | None) -> str: ...
    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None: ...

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str,
        *,
        max_results: int,
        page_token: str | None,
    ) -> RunPage: ...
    def create_run(
        self, experiment_id: str, *, start_time: int, run_name: str, tags: Mapping[str, str]
    ) -> Run: ...
    def update_run(self, run_id: str, status: str) -> None: ...
    def set_terminated(self, run_id: str, status: str, end_time: int | None = None) -> None: ...

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[MetricValue] = (),
        params: Sequence[ParamValue] = (),
        tags: Sequence[TagValue] = (),
    ) -> None: ...
    def log_artifact(self, run_id: str, local_path: str) -> None: ...
    def log_inputs(self, run_id: str, datasets: list[DataInput]) -> None: ...
    def log_outputs(self, run_id: str, models: list[ModelOutput]) -> None: ...

    def search_logged_models(
        self, experiment_ids: list[str], filter_string: str
    ) -> list[LoggedModel]: ...
    def create_logged_model(
        self,
        experiment_id: str,
        *,
        name: str,
        source_run_id: str,
        tags: dict[str, str],
        model_type: str,
    ) -> LoggedModel: ...
    def log_model_artifacts(self, model_id: str, local_dir: str) -> None: ...
    def finalize_logged_model(self, model_id: str, status: str) -> object: ...
    def set_logged_model_tags(self, model_id: str, tags: dict[str, str]) -> None: ...

    def search_registered_models(self, filter_string: str) -> list[object]: ...
    def create_registered_model(self, name: str, *, description: str) -> object: ...
    def search_model_versions(self, filter_string: str) -> list[ModelVersion]: ...
    def create_model_version(
        self,
        name: str,
        *,
        source: str,
        run_id: str,
        model_id: str,
        tags: dict[str, str],
        description: str,
        await_creation_for: int,
    ) -> ModelVersion: ...
    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None: ...


class Entities(Protocol):
    """`mlflow.entities`."""

    def Metric(
        self,
        key: str,
        value: float,
        timestamp: int,
        step: int,
        *,
        model_id: str = "",
        run_id: str = "",
    ) -> MetricValue: ...
    def Param(self, key: str, value: str) -> ParamValue: ...
    def RunTag(self, key: str, value: str) -> TagValue: ...
    def InputTag(self, key: str, value: str) -> DataTag: ...
    def Dataset(
        self, *, name: str, digest: str, source_type: str, source: str, schema: str, profile: str
    ) -> DataSet: ...
    def DatasetInput(self, dataset: DataSet, tags: list[DataTag]) -> DataInput: ...
    def LoggedModelOutput(self, model_id: str, step: int) -> ModelOutput: ...


class Models(Protocol):
    """`mlflow.models`."""

    def Model(
        self,
        *,
        artifact_path: str,
        model_uuid: str,
        run_id: str,
        model_id: str,
        metadata: dict[str, str],
    ) -> ModelFile: ...
    def ModelSignature(self, inputs: Specs, outputs: Specs) -> Signature: ...


class Types(Protocol):
    """`mlflow.types`."""

    def TensorSpec(self, type: np.dtype[np.float32], shape: tuple[int, ...]) -> Spec: ...
    def Schema(self, inputs: list[Spec]) -> Specs: ...


class Pyfunc(Protocol):
    """`mlflow.pyfunc`."""

    def save_model(
        self,
        path: Path,
        *,
        loader_module: str,
        data_path: str,
        mlflow_model: ModelFile,
        signature: Signature,
        input_example: npt.NDArray[np.float32],
        pip_requirements: list[str],
    ) -> None: ...


class Mlflow(Protocol):
    """The package."""

    entities: Entities
    models: Models
    types: Types
    pyfunc: Pyfunc

    def MlflowClient(self, *, tracking_uri: str, registry_uri: str) -> Client: ...
