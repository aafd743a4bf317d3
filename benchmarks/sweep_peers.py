"""What a sweep of 60 arms finds, in how many epochs and seconds, beside Ray Tune and Optuna.

    python benchmarks/sweep_peers.py [--seeds 3] [--first 0] [--write]

Learning rate, temperature and contrastive weight are searched in a planted world (tests/worlds.py)
on two slots, all by the same training of an arm. The whole grid, every arm to its end, says where
the best lies. `best` is what a method ranks first by MRR on dev; its recipe is then trained to the
full budget and judged on test. Seconds run from the first arm to the last, with Ray already up;
overhead is the share of both slots in which nobody trained.
"""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]  # the worlds are test data

import worlds  # noqa: E402  # found through the path above
from keep import REPORTS, main_by_seed, origin  # noqa: E402

from lvm.core.config.run import GateConfig  # noqa: E402
from lvm.data.files import read_bank, write_bank  # noqa: E402
from lvm.data.windows import Dataset, dataset_from_bank  # noqa: E402
from lvm.triage.arm import ArmSpec  # noqa: E402
from lvm.triage.events import ArmEnded, Epoch, StepStarted  # noqa: E402
from lvm.triage.journal import read_run  # noqa: E402
from lvm.triage.own_arm import run_trial  # noqa: E402
from lvm.triage.rungs import rung_epochs  # noqa: E402
from lvm.triage.step import Role  # noqa: E402

OUT = REPORTS / "statistics" / "sweep_peers.md"
ARMS, BUDGET, FIRST, FACTOR, SLOTS = 60, 27, 3, 3, 2  # at epoch 1 the fastest learners lead
HIDDEN, LAYERS = 160, 2  # an epoch of a second: what a method adds must not be hidden, nor be all
NEAR = 0.95  # share of the grid's best MRR on test
RANGES = {
    "training.learning_rate": (2e-4, 5e-2),
    "objective.temperature": (0.005, 0.5),
    "objective.contrastive_weight": (0.02, 1.0),
}
GRID = {  # 5 x 4 x 3, evenly in logarithms
    "training.learning_rate": (2e-4, 8e-4, 3.2e-3, 1.25e-2, 5e-2),
    "objective.temperature": (0.005, 0.023, 0.108, 0.5),
    "objective.contrastive_weight": (0.02, 0.14, 1.0),
}
RECIPE = """
context_length = {context}
seed = {seed}
model = {{ hidden = {hidden}, num_layers = {layers}, state = 8, head_dim = 16 }}
objective.space = "raw"
training = {{ epochs = {budget}, batch_size = 128 }}
schedule = {{ first_rung = {first}, reduction_factor = {factor}, rule = "{rule}" }}

[[steps]]
name = "tuned"
question = "Is the network badly tuned?"
budget = {budget}

[steps.sweep]
arms = {arms}
sampler = "{sampler}"
{keys}
"""
Changes = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a method has found, and what it has cost."""

    best: Changes
    epochs: int
    seconds: float  # from its first arm to its last
    trained: float  # seconds of training, summed over the arms

    @property
    def overhead(self) -> float:
        """Share of both slots in which nobody trained."""
        return 1 - self.trained / (SLOTS * self.seconds)


def main() -> None:
    """Print a line per seed and method."""
    main_by_seed(__doc__.splitlines()[0], "method", OUT, report)


def report(seeds: range, flags: str) -> Iterator[str]:
    """Yield the report line by line."""
    command = f"python benchmarks/sweep_peers.py {flags}"
    yield from origin("A sweep beside its peers", __doc__.splitlines()[0], command)
    yield f"{ARMS} arms of at most {BUDGET} epochs, rungs {_rungs()} by {FACTOR}, {SLOTS} slots."
    yield f"`near`: the best recipe, trained in full, has {NEAR:.0%} of the MRR of the grid's best."
    yield ""
    yield (
        "| method | seed | learning rate | temperature | weight | MRR on test | near | epochs "
        "| of the grid's | seconds | overhead |"
    )
    yield "|---|--:|--:|--:|--:|--:|:-:|--:|--:|--:|--:|"
    for seed in seeds:
        with tempfile.TemporaryDirectory() as place:
            bank = Path(place) / "bank"
            rows = worlds.planted(seed).dataset.bank
            write_bank(bank, rows.vectors, rows.keys, {})
            yield from _of_seed(seed, bank, Path(place))


def _of_seed(seed: int, bank: Path, place: Path) -> Iterator[str]:
    grid, of_grid = None, 0.0
    for name, method in METHODS.items():
        found = _apart(method, bank, seed, place / name.replace(" ", "_"))
        mrr = on_test(found.best, bank, seed, place / "in full" / name)
        grid, of_grid = (found, mrr) if grid is None else (grid, of_grid)
        values = " | ".join(f"{found.best[key]:.3g}" for key in RANGES)
        near = "yes" if mrr >= NEAR * of_grid else "no"
        share = found.epochs / grid.epochs
        yield (
            f"| {name} | {seed} | {values} | {mrr:.3f} | {near} | {found.epochs} | {share:.2f} | "
            f"{found.seconds:.0f} | {found.overhead:.0%} |"
        )


def _rungs() -> str:
    return ", ".join(map(str, rung_epochs(FIRST, BUDGET, FACTOR)))


# --- one arm, the same for every method ----------------------------------------------------------


def arm_of(changes: Changes, seed: int, folder: Path, *, test: bool = False) -> ArmSpec:
    """Return an arm of the sweep."""
    base = worlds.base_config(seed).recipe.with_changes(
        {
            "model.hidden": HIDDEN,
            "model.num_layers": LAYERS,
            "objective.space": "raw",
            "training.epochs": BUDGET,
        }
    )
    return ArmSpec(
        id=folder.name,
        step="tuned",
        name=folder.name,
        role=Role.CONFIRM if test else Role.ARM,
        recipe=base.with_changes(changes),
        folder=folder,
        gates=GateConfig(),
        evaluate_test=test,
    )


def dataset_of(bank: Path, seed: int) -> Dataset:
    """Return the windows that every method trains and judges on."""
    return dataset_from_bank(read_bank(bank), worlds.CONTEXT)


def on_test(changes: Changes, bank: Path, seed: int, folder: Path) -> float:
    """Train a recipe to the full budget; return its MRR on test."""
    for _ in run_trial(arm_of(changes, seed, folder, test=True), dataset_of(bank, seed)):
        pass
    told = json.loads((folder / "test.json").read_text())
    return float(told["evaluation"]["masked"]["mrr"])


# --- the methods ---------------------------------------------------------------------------------


def by_lvm(sampler: str, rule: str) -> Callable[[Path, int, Path], Search]:
    """Return a search by the step of a recipe, run as a person runs it."""

    def search(bank: Path, seed: int, place: Path) -> Search:
        place.mkdir(parents=True)
        keys = "\n".join(f'"{k}" = {{ log_uniform = {list(v)} }}' for k, v in RANGES.items())
        (place / "recipe.toml").write_text(
            RECIPE.format(
                context=worlds.CONTEXT,
                seed=seed,
                hidden=HIDDEN,
                layers=LAYERS,
                budget=BUDGET,
                first=FIRST,
                factor=FACTOR,
                rule=rule,
                arms=ARMS,
                sampler=sampler,
                keys=keys,
            )
        )
        command = [sys.executable, str(ROOT / "tune_jobs" / "triage.py"), "--data", str(bank)]
        command += ["--recipe", str(place / "recipe.toml"), "--steps", "tuned"]
        done = subprocess.run(
            [*command, "--all-steps", "--out", str(place / "run")], capture_output=True, text=True
        )
        if done.returncode not in (0, 1):
            raise RuntimeError(f"the triage ended with {done.returncode}: {done.stderr[-500:]}")
        return _told(place / "run")

    return search


def _told(run: Path) -> Search:
    """Return what the journal of a run tells of the sweep, without its control."""
    state = read_run(run)
    started = state.last(StepStarted, step="tuned")
    assert started is not None
    arms = {a.id: a for a in started.arms if a.role == "arm"}
    epochs = [e for e in state.of(Epoch, step="tuned") if e.epoch > 0]
    ends = [e.at for e in state.of(ArmEnded, step="tuned")]
    reached = max((e for e in epochs if e.arm in arms), key=lambda e: (e.epoch, e.mrr or 0.0))
    return Search(
        best={key: float(str(arms[reached.arm].changes[key])) for key in RANGES},
        epochs=sum(e.arm in arms for e in epochs),
        seconds=max(ends) - started.at,
        trained=sum(e.seconds for e in epochs),
    )


def by_ray_tune(bank: Path, seed: int, place: Path) -> Search:
    """Search at random by plain Ray Tune under ASHA."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    place.mkdir(parents=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # its workers import the worlds, too
    ray.init(num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    shared = ray.put(dataset_of(bank, seed))

    def train(config: dict[str, float]) -> None:
        import uuid

        folder = place / "arms" / uuid.uuid4().hex
        for record in run_trial(arm_of(config, seed, folder), ray.get(shared)):
            tune.report({"mrr": record.mrr, "trained": record.seconds})

    scheduler = ASHAScheduler(
        time_attr="training_iteration", grace_period=FIRST, reduction_factor=FACTOR, max_t=BUDGET
    )
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={key: tune.loguniform(*ends) for key, ends in RANGES.items()},
        tune_config=tune.TuneConfig(
            metric="mrr",
            mode="max",
            num_samples=ARMS,
            scheduler=scheduler,
            search_alg=tune.search.BasicVariantGenerator(random_state=seed),
        ),
        run_config=tune.RunConfig(storage_path=str(place), verbose=0),
    )
    started = time.perf_counter()
    results = tuner.fit()
    seconds = time.perf_counter() - started
    frames = [r.metrics_dataframe for r in results if r.metrics_dataframe is not None]
    rows = [row for frame in frames for row in frame.to_dict("records")]
    last = max(
        (r for r in results if r.metrics and "mrr" in r.metrics),
        key=lambda r: (r.metrics["training_iteration"], r.metrics["mrr"]),
    )
    found = Search(
        best={key: float(last.config[key]) for key in RANGES},
        epochs=len(rows),
        seconds=seconds,
        trained=sum(float(row["trained"]) for row in rows),
    )
    ray.shutdown()
    return found


def by_optuna(bank: Path, seed: int, place: Path) -> Search:
    """Search by Optuna's TPE under its own successive halving, two processes on one study."""
    place.mkdir(parents=True)
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_optuna_worker, args=(bank, seed, place, number))
        for number in range(SLOTS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - started
    trials = _study(seed, place, 0).trials
    ran = [t for t in trials if t.intermediate_values]
    best = max(ran, key=lambda t: max(t.intermediate_values.items()))  # the furthest, then MRR
    return Search(
        best={key: float(best.params[key]) for key in RANGES},
        epochs=sum(len(t.intermediate_values) for t in ran),
        seconds=seconds,
        trained=sum(float(t.user_attrs.get("trained", 0.0)) for t in ran),
    )


def _study(seed: int, place: Path, worker: int):  # optuna's, imported here
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(place / "study.log"))),
        study_name="tuned",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed * SLOTS + worker, constant_liar=True),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST, reduction_factor=FACTOR),
    )


def _optuna_worker(bank: Path, seed: int, place: Path, number: int) -> None:
    import optuna
    from optuna.study import MaxTrialsCallback

    data = dataset_of(bank, seed)

    def objective(trial: optuna.Trial) -> float:
        changes = {key: trial.suggest_float(key, *ends, log=True) for key, ends in RANGES.items()}
        trained, mrr = 0.0, 0.0
        for record in run_trial(arm_of(changes, seed, place / f"arm {trial.number}"), data):
            trained, mrr = trained + record.seconds, record.mrr or 0.0
            trial.set_user_attr("trained", trained)
            trial.report(mrr, record.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return mrr

    every = tuple(optuna.trial.TrialState)
    _study(seed, place, number).optimize(objective, callbacks=[MaxTrialsCallback(ARMS, every)])


def by_grid(bank: Path, seed: int, place: Path) -> Search:
    """Train every arm of the grid to its end, two at a time."""
    place.mkdir(parents=True)
    every = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(SLOTS) as pool:
        jobs = [(bank, seed, place / f"arm {i}", changes) for i, changes in enumerate(every)]
        found = pool.starmap(_grid_worker, jobs, chunksize=1)
    seconds = time.perf_counter() - started
    best = max(range(len(every)), key=lambda i: found[i][0])
    return Search(
        best=every[best],
        epochs=BUDGET * len(every),
        seconds=seconds,
        trained=sum(trained for _, trained in found),
    )


def _grid_worker(bank: Path, seed: int, folder: Path, changes: Changes) -> tuple[float, float]:
    records = list(run_trial(arm_of(changes, seed, folder), dataset_of(bank, seed)))
    return records[-1].mrr or 0.0, sum(r.seconds for r in records)


def _apart(
    method: Callable[[Path, int, Path], Search], bank: Path, seed: int, place: Path
) -> Search:
    """Run a method in a process of its own: what it starts ends with it."""
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)

    def run() -> None:
        logging.disable(logging.WARNING)
        there.send(method(bank, seed, place))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


METHODS: Mapping[str, Callable[[Path, int, Path], Search]] = {
    "whole grid": by_grid,
    "lvm, Sobol": by_lvm("sobol", "asynchronous"),
    "lvm, TPE": by_lvm("tpe", "asynchronous"),
    "Ray Tune, ASHA": by_ray_tune,
    "Optuna, TPE": by_optuna,
}


if __name__ == "__main__":
    main()
