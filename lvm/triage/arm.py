"""One arm, run: train (or load), validate on dev every epoch, evaluate at the end.

`run_arm` is what happens inside a trial. It needs no Ray: the caller decides where it runs and
forwards what it yields.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import msgspec
import torch

from lvm.core.config.plain import fingerprint, to_dict
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import GateConfig
from lvm.core.config.steps import Value
from lvm.core.device import claim
from lvm.core.errors import MissingExtraError
from lvm.core.files import write_json
from lvm.core.metrics import METRICS, Shown
from lvm.core.records import Evaluation, to_plain
from lvm.data.windows import Dataset, Windows
from lvm.evaluation.evaluate import ann_loss, evaluate, measure_latency
from lvm.evaluation.evidence import View, gather
from lvm.evaluation.gates import stage_gate, success_gates
from lvm.evaluation.index import Index, build_index
from lvm.evaluation.inference import device_of, predict, search_pool
from lvm.evaluation.metrics import PerQuery
from lvm.models.base import declared, moves_documents
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import load_checkpoint, load_weights
from lvm.training.epochs import EpochRecord
from lvm.training.loop import train
from lvm.training.world import World
from lvm.triage.events import Epoch, event_of
from lvm.triage.events.parts import Arm
from lvm.triage.step import Role

MAX_LATENCY_QUERIES = 100
NO_FILES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class ArmSpec:
    """Everything a trial needs to run one arm; it is pickled to the process of the trial."""

    id: str
    step: str
    name: str
    role: Role
    recipe: Recipe  # training.epochs is the budget
    folder: Path
    gates: GateConfig
    source: Path | None = None  # a checkpoint to search instead of training
    baseline: Path | None = None  # AR-only's dev results, for a stage gate in projected space
    evaluate_test: bool = False
    workers: int = 1
    threads: int = 1
    device: str = "cpu"
    commit: str | None = None
    why: str = ""
    changes: Mapping[str, Value] = field(default_factory=dict)  # dotted keys, for the report

    def in_journal(self, run: Path) -> Arm:
        """Return the spec as a journal holds it.

        Paths below the folder `run` become relative to it: a journal moves with its run.
        """
        paths = {key: _stored(getattr(self, key), run) for key in ("folder", "source", "baseline")}
        return msgspec.convert(to_plain({**vars(self), **paths}), Arm)


def _stored(path: Path | None, run: Path) -> str | None:
    if path is None:
        return None
    return path.relative_to(run).as_posix() if path.is_relative_to(run) else str(path)


def arm_id(
    recipe: Recipe,
    *,
    data: str,
    code: str,
    plugins: Mapping[str, str] = NO_FILES,
    trainer: Mapping[str, str] = NO_FILES,
    source: str = "",
    workers: int = 1,
) -> str:
    """Return the name of an arm: a hash of all that decides its numbers, and nothing else.

    `source` names the content of the checkpoint that is searched: where it lies decides nothing.
    `plugins` and `trainer` name the content of the code from outside.
    """
    decides = {
        "recipe": to_dict(recipe),
        "data": data,
        "code": code,
        "source": source,
        "n": workers,
    }
    outside = {"plugins": dict(plugins), "trainer": dict(trainer)}
    return fingerprint(decides | {name: files for name, files in outside.items() if files})


def run_arm(spec: ArmSpec, dataset: Dataset) -> Generator[Epoch, None, None]:
    """Run one arm and yield every epoch; the last files are on disk before each.

    An arm with a `source` yields one, number 0. Raises DeviceError where this process has no such
    device as `spec.device`.
    """
    device = claim(spec.device)
    torch.set_num_threads(spec.threads)
    spec.folder.mkdir(parents=True, exist_ok=True)
    if spec.source is not None:
        started = time.perf_counter()
        predictor, _, _ = load_checkpoint(spec.source)
        predictor.to(device)
        dev = validate(spec, dataset, predictor, 0)
        if spec.evaluate_test:  # first: after the last epoch nobody asks for another
            evaluate_test(spec, dataset, predictor)
        yield epoch_of(spec, 0, dev, wall=time.perf_counter() - started)
        return
    backend = _backend(spec, device)
    for record in train(
        spec.recipe,
        dataset.narrowed(spec.recipe.context_length),
        spec.folder,
        validate=lambda predictor, epoch: validate(spec, dataset, predictor, epoch),
        device=spec.device,
        commit=spec.commit,
    ):
        if record.epoch == spec.recipe.training.epochs and spec.evaluate_test:
            _evaluate_test_once(spec, dataset, device)
        yield trained_epoch(spec, record, backend)


def trained_epoch(spec: ArmSpec, record: EpochRecord, backend: str) -> Epoch:
    """Return an epoch of training as an event."""
    measured = {**record.dev, **record.train, "seconds": record.seconds}
    return epoch_of(
        spec,
        record.epoch,
        measured,
        backend=backend,
        negatives=record.negatives,
        health=record.health,
    )


def epoch_of(
    spec: ArmSpec, epoch: int, measured: Mapping[str, float | str], **about: object
) -> Epoch:
    """Return what an arm measured at one epoch as an event."""
    named = {"arm": spec.id, "step": spec.step, "name": spec.name, "epoch": epoch}
    return event_of(Epoch, **{**named, **about, **measured})


def _backend(spec: ArmSpec, device: torch.device) -> str:
    """Return how the model is computed, for the journal."""
    model = spec.recipe.model
    resolve = declared(model.name).resolve_backend
    return resolve(model.backend, spec.recipe.context_length, device) if resolve else "torch"


def dev_file(folder: Path, epoch: int) -> Path:
    """Return where the dev results per query of one epoch are kept."""
    return folder / f"dev_{epoch:03d}.npz"


def _seen(spec: ArmSpec, windows: Windows) -> Windows:
    """Return what the model reads of windows that are wider for the sake of comparison.

    The whole window is masked out of the pool all the same, so that every context length searches
    the same rows.
    """
    return windows.last(spec.recipe.context_length)


def validate(
    spec: ArmSpec, dataset: Dataset, predictor: Predictor, epoch: int
) -> dict[str, float | str]:
    """Evaluate on dev, keep the results per query, and judge the stage gate."""
    space = spec.recipe.search_space
    queries = predict(predictor, dataset, _seen(spec, dataset.dev), space)
    pool = search_pool(predictor, dataset, space)
    evaluation, per_query = evaluate(
        queries, dataset.dev, dataset.bank, pool_vectors=pool, space=space, split="dev"
    )
    return dev_record(spec, evaluation, per_query, epoch)


def dev_record(
    spec: ArmSpec, evaluation: Evaluation, per_query: PerQuery, epoch: int
) -> dict[str, float | str]:
    """Keep the dev results per query of one epoch; return its metrics and stage verdict."""
    per_query.save(dev_file(spec.folder, epoch))
    shown = ((metric, evaluation.masked[metric]) for metric in METRICS.shown(Shown.DEV))
    measured = {metric: value for metric, value in shown if value is not None}
    return {**measured, "stage": _stage_verdict(spec, per_query)}


def _stage_verdict(spec: ArmSpec, per_query: PerQuery) -> str:
    """Judge the stage gate: dev cosine, or where it proves nothing the gain over AR-only."""
    baseline = stage_baseline(spec)
    if baseline is None:
        return str(stage_gate(per_query, spec.gates).verdict)
    return str(success_gates(per_query, PerQuery.load(baseline), spec.gates, spec.recipe.seed)[0])


def stage_baseline(spec: ArmSpec) -> Path | None:
    """Return what an arm's stage gate compares with, or None where the cosine decides.

    A cosine in a space that was learned with the model (behind its head, or moved by a document
    tower) is high for anything that shrinks angles, so it decides nothing.
    """
    return spec.baseline if learns_its_space(spec) else None


def learns_its_space(spec: ArmSpec) -> bool:
    """Whether an arm is searched in a space of its own, learned with the model."""
    return spec.recipe.search_space != "raw" or moves_documents(spec.recipe.model.name)


def _evaluate_test_once(spec: ArmSpec, dataset: Dataset, device: torch.device) -> None:
    if World.current().rank != 0 or (spec.folder / "test.json").exists():
        return
    predictor = Predictor(spec.recipe, dataset.bank.width)
    load_weights(predictor, spec.folder / "checkpoint")
    evaluate_test(spec, dataset, predictor.eval().to(device))


def evaluate_test(spec: ArmSpec, dataset: Dataset, predictor: Predictor) -> None:
    """Judge the finished model on the test split; writes test.npz and test.json to the folder."""
    space = spec.recipe.search_space
    queries = predict(predictor, dataset, _seen(spec, dataset.test), space)
    pool = search_pool(predictor, dataset, space)[: len(dataset.bank.pool_rows)]
    evaluation, per_query = evaluate(
        queries, dataset.test, dataset.bank, pool_vectors=pool, space=space, split="test"
    )
    per_query.save(spec.folder / "test.npz")
    searched = View(space, queries, pool, per_query)
    evidence = gather(
        searched,
        dataset,
        seed=spec.recipe.seed,
        predictor=predictor,
        context_length=spec.recipe.context_length,
    )
    exact = build_index(pool, "exact", seed=spec.recipe.seed)
    latency = _latency(spec, dataset, predictor, exact)
    stored = {
        "evaluation": {**to_plain(evaluation), "latency": latency},
        "ann": to_plain(_ann_loss(spec, dataset, searched, exact)),
        "evidence": to_plain(evidence),
    }
    write_json(spec.folder / "test.json", stored)


def _latency(
    spec: ArmSpec, dataset: Dataset, predictor: Predictor, index: Index
) -> Mapping[str, float]:
    """Time single queries from contexts on the host, by model and index where these are."""
    device, space = device_of(predictor), spec.recipe.search_space
    asked = _seen(spec, dataset.test).contexts[:MAX_LATENCY_QUERIES]
    contexts = torch.from_numpy(dataset.bank.rows(asked))
    return measure_latency(lambda one: predictor.queries(one.to(device), space), index, contexts)


def _ann_loss(spec: ArmSpec, dataset: Dataset, searched: View, exact: Index) -> Mapping[str, float]:
    """Return what an approximate search loses: {} without FAISS, which searches on the host."""
    with contextlib.suppress(MissingExtraError):
        ivf = build_index(searched.pool, "ivf", seed=spec.recipe.seed)
        return ann_loss(searched.queries, exact, ivf, dataset.test)
    return {}
