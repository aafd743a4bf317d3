"""What is known to fail before anything is written or started."""

from __future__ import annotations

from pathlib import Path

from lvm.audit.material import Material
from lvm.core.config.run import RunConfig
from lvm.core.errors import CheckpointError, ConfigError, DataError
from lvm.data.bank import check_vectors
from lvm.data.report_files import dataset_from_windows
from lvm.data.sample import SAMPLE
from lvm.data.windows import Dataset, dataset_from_bank, drawn
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import save_checkpoint


def check_config(config: RunConfig, width: int) -> None:
    """Refuse a recipe that no data can serve: found before anything large is read.

    Raises ConfigError (unknown model, sizes that do not fit together, workers that do not share a
    batch evenly). A trainer of one's own has its own network, and one worker.
    """
    if config.recipe.trainer is not None:
        return
    Predictor(config.recipe, width)  # finds an unknown name and sizes that do not fit together
    batch = config.recipe.training.batch_size
    for key in ("workers_per_arm", "confirm_workers"):
        workers = getattr(config.schedule, key)
        if batch % workers:
            raise ConfigError(
                f"training.batch_size must be a multiple of schedule.{key} = {workers} (got "
                f"{batch})."
            )


def check_dataset(config: RunConfig, dataset: Dataset) -> None:
    """Refuse data with fewer train windows than a batch of ours (DataError)."""
    if config.recipe.trainer is not None:
        return
    batch = config.recipe.training.batch_size
    if len(dataset.train) < batch:
        raise DataError(
            f"{dataset.bank.source}: the train split has {len(dataset.train)} windows but a "
            f"batch needs {batch} (training.batch_size); lower the batch size or embed more "
            "text."
        )


def dataset_of(material: Material, context_length: int) -> tuple[Dataset, str]:
    """Return the dataset of audited material and its name; DataError where it cannot be cut.

    Its dev windows are those that judge the epochs of every arm of a run: a draw by the material's
    gates and seed, which are the run's.
    """
    dataset, name = _whole(material, context_length)
    return drawn(dataset, material.gates.dev_windows, material.seed), name


def _whole(material: Material, context_length: int) -> tuple[Dataset, str]:
    bank, train, eval_ = material.bank, material.train, material.eval
    if bank is None:
        raise DataError("no bank could be opened; fix the audit's findings.")
    if (
        train is not None
        and train.file is not None
        and eval_ is not None
        and eval_.file is not None
    ):
        return dataset_from_windows(train.file, eval_.file, bank, context_length), bank.source
    check_vectors(bank.vectors, bank.source)
    bundled = Path(bank.source) == SAMPLE
    dataset = material.dataset or dataset_from_bank(bank, context_length)
    return dataset, "bundled sample (Wikipedia)" if bundled else bank.source


def own_checkpoint(material: Material, out: Path) -> Path | None:
    """Return the checkpoint folder of the model under triage; a .pt file is written as one."""
    part = material.checkpoint
    if part is None or part.path.is_dir():
        return None if part is None else part.path.resolve()
    if part.predictor is None or part.recipe is None:
        raise CheckpointError(f"{part.path}: {part.problem}; train the model again.")
    folder = out / "given_checkpoint"
    if not folder.exists():
        save_checkpoint(folder, part.predictor, part.recipe, stated=part.manifest)
    return folder
