"""What a GPU would see, on one that is pretended: where predictions, pool and ranks are computed.

The functions without `test_` run in another process, which keeps the pretended device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import tiny
import torch

from lvm.core.config.run import GateConfig
from lvm.data.bank import Bank
from lvm.data.windows import Dataset
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.inference import predict, search_pool
from lvm.evaluation.ladder import fit_ladder, judge_ladder
from lvm.evaluation.metrics import PerQuery
from lvm.models.predictor import Predictor
from lvm.triage import arm
from lvm.triage.arm import ArmSpec, dev_file, evaluate_test, validate
from lvm.triage.step import Role

SPACES = {
    "raw": {},
    "projected": {"search_space": "projected"},
    "two towers": {"model.name": "two_tower"},
}
LATENCY_QUERIES = 3


@contextmanager
def arm_of(name: str, data: Dataset) -> Iterator[SimpleNamespace]:
    """An arm of one kind of search with its untrained model, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        spec = ArmSpec(
            id=name,
            step="s",
            name=name,
            role=Role.PHASE1,
            recipe=tiny.recipe(**SPACES[name]),
            folder=Path(folder),
            gates=GateConfig(),
            device="pretend",
        )
        yield SimpleNamespace(spec=spec, model=Predictor(spec.recipe, data.bank.width))


def numbers(per_query: PerQuery) -> list:
    """Return all that was measured, ready for JSON: every digit of the cosines."""
    ranks = [getattr(r, k) for r in (per_query.masked, per_query.raw) for k in vars(r)]
    return [per_query.cosine.astype(float).tolist(), *(r.tolist() for r in ranks)]


def with_twins() -> Dataset:
    """The tiny data with some rows repeated bit by bit, targets among them."""
    data = tiny.dataset()
    vectors = data.bank.vectors.copy()
    targets = data.dev.targets[: len(data.dev) // 3 * 3]
    vectors[targets[::3]] = vectors[targets[1::3]]
    bank = Bank(vectors, data.bank.keys)
    return Dataset(bank, data.train, data.dev, data.test)


def judged_on_both() -> dict:
    """Evaluate the same models on the CPU and on the GPU."""
    import pretend

    found = {}
    for name in SPACES:
        data = with_twins()
        with arm_of(name, data) as made:
            space = made.spec.recipe.search_space

            def judged(model, data=data, space=space):
                queries = predict(model, data, data.dev, space)
                pool = search_pool(model, data, space)
                _, per_query = evaluate(
                    queries, data.dev, data.bank, pool_vectors=pool, space=space, split="dev"
                )
                return [numbers(per_query), str(queries.device), str(pool.device)]

            on_cpu = judged(made.model)
            with pretend.gpu():
                found[name] = [on_cpu, judged(made.model.to("pretend"))]
    return found


def what_epochs_move() -> dict:
    """Validate twice and look at test once; note what crosses between host and GPU."""
    import pretend

    found = {}
    for name in SPACES:
        data = tiny.dataset()
        queries = mock.patch.object(arm, "MAX_LATENCY_QUERIES", LATENCY_QUERIES)
        with arm_of(name, data) as made, pretend.gpu() as gpu, queries:
            made.model.to("pretend")
            moved = []
            for epoch in (1, 2):
                gpu.forget()
                validate(made.spec, data, made.model, epoch)
                moved.append([gpu.to_host, gpu.to_gpu])
            gpu.forget()
            evaluate_test(made.spec, data, made.model)
            moved.append([gpu.to_host, gpu.to_gpu, gpu.waits])
            same = [numbers(PerQuery.load(dev_file(made.spec.folder, epoch))) for epoch in (1, 2)]
            found[name] = {"moved": moved, "same": same[0] == same[1]}
    return found


def ladder_on_both() -> list:
    """Judge the ladder on the CPU and on the GPU, then give the GPU's memory back."""
    import pretend

    data = tiny.dataset()
    predictors = fit_ladder(data, seed=0)
    on_cpu = judge_ladder(predictors, data, "dev", torch.device("cpu"))
    with pretend.gpu() as gpu:
        device = torch.device("pretend:0")
        on_gpu = judge_ladder(predictors, data, "dev", device)
        pools = gpu.to_gpu.count(tuple(data.bank.vectors.shape))
        data.bank.leave(device)
        gpu.forget()
        data.bank.on(device)
        again = gpu.to_gpu.count(tuple(data.bank.vectors.shape))
    same = {name: vars(on_cpu[name]) == vars(on_gpu[name]) for name in predictors}
    return [same, pools, again]


def refusals() -> list[str]:
    """What the pretended GPU and our own code say to tensors on the wrong side."""
    import pretend

    from lvm.core.device import claim

    data, said = tiny.dataset(), []
    rows = data.bank.tensor[torch.from_numpy(data.dev.targets)]
    with pretend.gpu():
        on_gpu = rows.to("pretend")
        attempts = [
            lambda: on_gpu @ rows.T,
            lambda: on_gpu.numpy(),
            lambda: evaluate(
                on_gpu, data.dev, data.bank, pool_vectors=data.bank.tensor, space="raw", split="dev"
            ),
            lambda: claim("pretend:1"),
        ]
        for attempt in attempts:
            try:
                attempt()
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
        said.append(str(claim("pretend")))
        said.append(str(pretend.Module.chosen))
    return said


@pytest.fixture(scope="module")
def moved(other_process):
    return other_process(what_epochs_move)


def test_a_gpu_gives_the_ranks_and_cosines_of_the_cpu_to_the_last_bit(other_process) -> None:
    for name, (on_cpu, on_gpu) in other_process(judged_on_both).items():
        assert on_gpu[0] == on_cpu[0], name
        assert on_cpu[1:] == ["cpu", "cpu"]
        assert on_gpu[1:] == ["pretend:0", "pretend:0"]
        equal = np.array(on_cpu[0][2])  # rows that tie with the target
        assert 0 < (equal > 0).sum() < len(equal), name  # the twins are there, and not alone


@pytest.mark.parametrize("name", SPACES)
def test_an_epoch_moves_no_prediction_and_no_pool(name, moved, tiny_dataset) -> None:
    windows = len(tiny_dataset.dev)
    first, second, _ = moved[name]["moved"]
    for to_host, _ in (first, second):
        assert sorted(map(tuple, to_host)) == [(windows,), (windows, 5)]  # cosines, and five counts
    pool = list(tiny_dataset.bank.vectors.shape)
    assert first[1].count(pool) == 1
    row_numbers = {(windows,), (windows, tiny_dataset.dev.context_length), (0,)}
    assert set(map(tuple, second[1])) <= row_numbers  # the second epoch moves no vector at all
    assert moved[name]["same"]


@pytest.mark.parametrize("name", SPACES)
def test_the_look_at_test_moves_rows_once_for_faiss_alone(name, moved, tiny_dataset) -> None:
    to_host, to_gpu, waits = moved[name]["moved"][2]
    rows, windows = len(tiny_dataset.bank), len(tiny_dataset.test)
    width = {"projected": tiny.recipe().head.width}.get(name, tiny_dataset.bank.width)
    vectors = [tuple(s) for s in to_host if len(s) == 2 and s[1] == width]
    assert sorted(vectors) == [(windows, width), (rows, width)]  # approximate search is the host's
    single = [1, tiny_dataset.test.context_length, tiny_dataset.bank.width]
    timed = 2 * LATENCY_QUERIES  # warm-up, and then with the clock
    assert to_gpu.count(single) == timed
    assert [rows, tiny_dataset.bank.width] not in to_gpu
    assert waits == 2 * timed  # before and after every one


def test_the_ladder_is_judged_where_it_is_asked_to_be(other_process) -> None:
    same, pools, again = other_process(ladder_on_both)
    assert set(same.values()) == {True}
    assert (pools, again) == (1, 1)  # one for all predictors; given back, it has to be put there


def test_tensors_on_the_wrong_side_are_refused(other_process) -> None:
    product, to_numpy, pool, missing, own, chosen = other_process(refusals)
    assert "same device" in product  # or the other tests could not fail
    assert ".numpy() is not supported" in to_numpy
    assert pool.startswith("ValueError: the predictions are on pretend:0, but the pool is on cpu")
    assert missing.startswith("DeviceError")
    assert "pretend:1" in missing
    assert "sees 1 such" in missing
    assert (own, chosen) == ("pretend:0", "0")
