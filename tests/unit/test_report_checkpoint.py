from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import os
import pathlib
import pickle
import random
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from report_form import load_any_checkpoint

from lvm.core.config.recipe import ModelConfig, Recipe
from lvm.core.errors import CheckpointError, UnsafePayloadError
from lvm.models.base import MODELS
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import save_checkpoint
from lvm.training.manifest import Stated
from lvm.training.report_checkpoint import read_report_checkpoint
from lvm.training.report_fit import fit_report_checkpoint
from lvm.training.report_recipe import accumulated_negatives

W = tiny.WIDTH
MODEL = {"model.hidden": 32, "model.num_layers": 2, "model.state": 12, "model.head_dim": 8}
ARGS = {
    "temperature": 0.1,
    "lambda_con": 0.85,
    "lambda-ar": 0.15,
    "batch_size": 64,
    "grad_accum": 4,
    "epochs": 20,
    "lr": 5e-4,
}


def built(**changes) -> Predictor:
    return Predictor(tiny.recipe(**{**MODEL, **changes}), W).eval()


def write(path: Path, predictor: Predictor, *, prefix: str = "", **more) -> Path:
    content = {
        "model_state_dict": {prefix + n: w for n, w in predictor.model.state_dict().items()},
        "args": ARGS,
        "val_cosine": 0.5149,
        "epoch": 7,
        **more,
    }
    if predictor.head is not None:
        content["projection_head_state_dict"] = predictor.head.state_dict()
    torch.save(content, path)
    return path


def contexts() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(6, 5, W), dim=-1)


# --- fitting --------------------------------------------------------------------------------------


def test_weights_and_recipe_come_back(tmp_path) -> None:
    saved = built()
    path = write(tmp_path / "best.pt", saved)
    loaded, recipe, manifest = load_any_checkpoint(path, W, 5)
    given = contexts()
    for space in ("raw", "projected"):
        assert torch.equal(loaded.queries(given, space), saved.queries(given, space))
    assert not loaded.training
    assert {k: getattr(recipe.model, k.partition(".")[2]) for k in MODEL} == MODEL
    assert (recipe.head.hidden, recipe.head.width) == (16, 8)
    objective, training = recipe.objective, recipe.training
    assert (objective.temperature, objective.contrastive_weight) == (0.1, 0.85)
    assert (objective.ar_weight, recipe.search_space) == (0.15, "raw")
    assert (training.batch_size, training.epochs, training.learning_rate) == (64, 20, 5e-4)
    assert (loaded.model.width, manifest.val_cosine, manifest.epoch) == (W, 0.5149, 7)
    assert manifest.args["lambda_ar"] == 0.15


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("residual", [False, True])
def test_every_registered_model_is_recognised(name, residual, tmp_path) -> None:
    sizes = {"hidden": 32, "num_layers": 2, "head_dim": 8, "expand": 3}
    model = ModelConfig(name=name, residual=residual, **sizes)
    saved = built(model=model)
    path = write(tmp_path / "m.pt", saved, args={**ARGS, "num_heads": 4})
    loaded, recipe, _ = load_any_checkpoint(path, W, 5)
    given = contexts()
    assert torch.equal(loaded.queries(given, "raw"), saved.queries(given, "raw"))
    assert (recipe.model.name, recipe.model.residual) == (name, residual)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_are_taken_off(prefix, tmp_path) -> None:
    saved = built()
    loaded, _, _ = load_any_checkpoint(write(tmp_path / "m.pt", saved, prefix=prefix), W, 5)
    given = contexts()
    assert torch.equal(loaded.queries(given, "raw"), saved.queries(given, "raw"))


def test_names_of_the_bare_encoder_are_taken(tmp_path) -> None:
    saved = built()
    bare = saved.model.encoder.state_dict()
    path = write(tmp_path / "m.pt", saved, model_state_dict=bare)
    loaded, _, _ = load_any_checkpoint(path, W, 5)
    given = contexts()
    assert torch.equal(loaded.queries(given, "raw"), saved.queries(given, "raw"))


def test_a_model_as_wide_as_its_vectors_needs_no_adapters(tmp_path) -> None:
    saved = built(**{"model.hidden": W})
    _, recipe, _ = load_any_checkpoint(write(tmp_path / "m.pt", saved), W, 5)
    assert recipe.model.hidden == W


def test_without_head_the_loss_looked_at_the_raw_space(tmp_path) -> None:
    saved = built(**{"objective.space": "raw"})
    path = write(tmp_path / "m.pt", saved, args={"epochs": 3})
    loaded, recipe, _ = load_any_checkpoint(path, W, 5)
    assert loaded.head is None
    objective = recipe.objective
    assert (objective.space, objective.contrastive_weight) == ("raw", 0.0)
    assert objective.ar_weight == 1.0


@pytest.mark.parametrize("args", [{}, {"batch_size": 1, "lr": "high", "d_model": "wide"}, None])
def test_settings_that_no_recipe_allows_do_not_keep_a_model_out(args, tmp_path) -> None:
    _, recipe, _ = load_any_checkpoint(write(tmp_path / "m.pt", built(), args=args), W, 5)
    assert recipe.training.batch_size == Recipe().training.batch_size
    assert recipe.model.hidden == 32


def test_the_context_length_of_args_counts(tmp_path) -> None:
    path = write(tmp_path / "m.pt", built(), args={"context_len": 9})
    assert load_any_checkpoint(path, W, 5)[1].context_length == 9
    path = write(tmp_path / "m.pt", built(), args={})
    assert load_any_checkpoint(path, W, 5)[1].context_length == 5


def test_a_folder_is_read_as_before(tmp_path) -> None:
    save_checkpoint(tmp_path / "c", built(), tiny.recipe(**MODEL), stated=Stated())
    _, recipe, manifest = load_any_checkpoint(tmp_path / "c", W, 5)
    assert recipe == tiny.recipe(**MODEL)
    assert manifest.format == 1


# --- misfits --------------------------------------------------------------------------------------


def renamed(weights, old, new):
    return {name.replace(old, new): weight for name, weight in weights.items()}


def misfit(tmp_path, weights, **more) -> str:
    path = write(tmp_path / "m.pt", built(), model_state_dict=weights, **more)
    with pytest.raises(CheckpointError) as caught:
        fit_report_checkpoint(read_report_checkpoint(path), W, 5)
    return str(caught.value)


def test_other_names_are_listed(tmp_path) -> None:
    text = misfit(tmp_path, renamed(built().model.state_dict(), "A_log", "rates"))
    assert "mamba2, 4 weights differ" in text  # of 2 layers one is missing, and one unknown
    assert "encoder.layers.0.mixer.A_log is missing; encoder.layers.0.mixer.rates is unkn" in text
    text = misfit(tmp_path, renamed(built().model.state_dict(), "project", "map"))
    assert "4 more" not in text
    text = misfit(tmp_path, renamed(built().model.state_dict(), "mixer.norm", "mixer.scale"))
    assert "lvm train" in text


def test_many_other_names_are_counted(tmp_path) -> None:
    names = renamed(built().model.state_dict(), "layers", "stack")
    weights = {name.replace("A_log", "rates"): weight for name, weight in names.items()}
    text = misfit(tmp_path, weights)
    assert "and 31 more" in text


def test_a_block_under_another_name_is_taken(tmp_path) -> None:
    saved = built()
    weights = renamed(saved.model.state_dict(), "mixer", "ssm")
    path = write(tmp_path / "m.pt", saved, model_state_dict=weights)
    loaded, _, _ = load_any_checkpoint(path, W, 5)
    given = contexts()
    assert torch.equal(loaded.queries(given, "raw"), saved.queries(given, "raw"))


def test_one_other_shape_is_named(tmp_path) -> None:
    weights = built().model.state_dict()
    weights["encoder.norm_f.weight"] = torch.ones(31)
    text = misfit(tmp_path, weights)
    assert "1 weights differ (encoder.norm_f.weight has shape [31] for [32])" in text


def test_a_foreign_network_is_not_taken_for_one_of_ours(tmp_path) -> None:
    lstm = torch.nn.LSTM(W, 32)
    assert "fits no registered model" in misfit(tmp_path, lstm.state_dict())


def test_weights_for_another_width_are_named(tmp_path) -> None:
    path = write(tmp_path / "m.pt", built())
    with pytest.raises(CheckpointError, match=f"width {W}, but the data have width 24"):
        fit_report_checkpoint(read_report_checkpoint(path), 24, 5)


def test_a_head_that_does_not_fit_is_named(tmp_path) -> None:
    head = built().head.state_dict()
    del head["net.2.bias"]
    path = tmp_path / "m.pt"
    content = {"model_state_dict": built().model.state_dict(), "projection_head_state_dict": head}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"ProjectionHead .*net\.2\.bias is missing"):
        fit_report_checkpoint(read_report_checkpoint(path), W, 5)


def test_weights_that_are_not_finite_are_named(tmp_path) -> None:
    weights = built().model.state_dict()
    weights["encoder.norm_f.weight"][3] = torch.nan
    assert r"first: encoder.norm_f.weight" in misfit(tmp_path, weights)


def test_groups_that_shapes_hide_are_read_from_args(tmp_path) -> None:
    path = write(tmp_path / "m.pt", built(), args={"ngroups": 2})
    _, recipe, _ = load_any_checkpoint(path, W, 5)
    assert (recipe.model.form.groups, recipe.model.state) == (2, 6)


def test_groups_that_shapes_do_not_allow_are_refused(tmp_path) -> None:
    text = misfit(tmp_path, built().model.state_dict(), args={"ngroups": 5})
    assert "args state 5 groups, which must divide 8 heads and the 12 channels" in text


# --- safety ---------------------------------------------------------------------------------------


class Malice:
    def __init__(self, command) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_file_is_refused_by_name_and_not_run(tmp_path) -> None:
    trace = tmp_path / "executed"
    bad = Malice(f"touch {trace}")
    path = write(tmp_path / "m.pt", built(), args={"x": bad})
    with pytest.raises(UnsafePayloadError, match=r"m\.pt names (posix|nt)\.system, beyond tensors"):
        read_report_checkpoint(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(bad))  # the payload is a real one
    assert trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("in_zip", [False, True])
def test_a_pickle_of_any_protocol_is_not_run(protocol, in_zip, tmp_path) -> None:
    trace, path = tmp_path / "executed", tmp_path / "m.pt"
    data = pickle.dumps({"model_state_dict": Malice(f"touch {trace}")}, protocol)
    path.write_bytes(data)
    if in_zip:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {
                "data.pkl": data,
                "version": b"3\n",
                "byteorder": b"little",
            }.items():
                archive.writestr(f"m/{name}", content)
    with pytest.raises((CheckpointError, UnsafePayloadError)):
        read_report_checkpoint(path)
    assert not trace.exists()


def test_a_bare_pickle_with_a_zip_behind_it_is_not_read(tmp_path) -> None:
    trace, path = tmp_path / "executed", write(tmp_path / "m.pt", built())
    path.write_bytes(pickle.dumps(Malice(f"touch {trace}"), 2) + path.read_bytes())
    with pytest.raises(CheckpointError, match="not a zip file"):
        read_report_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("value", [datetime.date(2025, 10, 27), slice(1), Path])
def test_other_classes_are_left_out_by_name(value, tmp_path) -> None:
    kind = value if isinstance(value, type) else type(value)
    path = write(tmp_path / "m.pt", built(), args={"value": value, "temperature": 0.2})
    checkpoint = read_report_checkpoint(path)
    assert [name.rpartition(".")[2] for name in checkpoint.stated.left_out] == [kind.__name__]
    assert checkpoint.args["temperature"] == 0.2
    assert fit_report_checkpoint(checkpoint, W, 5)[1].objective.temperature == 0.2


@dataclasses.dataclass
class Settings:
    """A class that nobody else can import."""

    hidden: int = 1


BESIDE = {
    "NumPy numbers": {"val_cosine": np.mean([0.25, 0.75]), "loss": np.float32(1)},
    "NumPy arrays": {"history": np.zeros(3), "np_rng": np.random.RandomState(0).get_state()},
    "random states": {"rng": torch.get_rng_state(), "py_rng": random.Random(0).getstate()},
    "containers": {
        "history": collections.defaultdict(list, loss=[1.0]),
        "seen": collections.Counter("aab"),
        "sets": [{1}, frozenset([2])],
    },
    "namespaces": {"config": types.SimpleNamespace(a=1), "args": argparse.Namespace(b=2)},
    "a dataclass": {"config": Settings()},
    "an optimiser": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}},
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_what_lies_beside_the_weights_does_not_keep_them_out(beside, tmp_path) -> None:
    predictor = built()
    torch.save({"model_state_dict": predictor.model.state_dict(), **beside}, tmp_path / "m.pt")
    checkpoint = read_report_checkpoint(tmp_path / "m.pt")
    found, _ = fit_report_checkpoint(checkpoint, W, 5)
    for name, weight in predictor.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], weight)
    if "val_cosine" in beside:
        assert checkpoint.val_cosine == 0.5
    if "sets" in beside:
        assert checkpoint.history == {"loss": [1.0]}


def lightning(predictor: Predictor) -> dict[str, object]:
    weights = {f"model.{n}": w for n, w in predictor.model.state_dict().items()}
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": weights,
        "loops": {},
        "hyper_parameters": ARGS,
    }


LAYOUTS = {
    "the weights alone": lambda p: p.model.state_dict(),
    "the predictor's weights": lambda p: p.state_dict(),
    "model": lambda p: {"model": p.model.state_dict(), "projection_head_state_dict": None},
    "Lightning": lightning,
    "an average's counter": lambda p: {
        "model_state_dict": {
            "n_averaged": torch.tensor(3),
            **{f"module.{n}": w for n, w in p.model.state_dict().items()},
        }
    },
    "the head among the model's": lambda p: {
        "model_state_dict": {
            **p.model.state_dict(),
            **{f"projection_head.{n}": w for n, w in p.head.state_dict().items()},
        }
    },
}
WITH_HEAD = ("the predictor's weights", "the head among the model's")


TENSORS_ALONE = ("the weights alone", "the predictor's weights")


@pytest.mark.parametrize(
    ("layout", "suffix"),
    [*((name, "pt") for name in LAYOUTS), *((name, "safetensors") for name in TENSORS_ALONE)],
)
def test_every_usual_layout_gives_the_same_model(layout, suffix, tmp_path) -> None:
    predictor, path = built(), tmp_path / f"m.{suffix}"
    content = LAYOUTS[layout](predictor)
    if suffix == "pt":
        torch.save(content, path)
    else:
        safetensors.torch.save_file(content, path)
    found, recipe = fit_report_checkpoint(read_report_checkpoint(path), W, 5)
    x = contexts()
    spaces = ("raw", "projected") if layout in WITH_HEAD else ("raw",)
    for space in spaces:
        with torch.inference_mode():
            assert torch.equal(found.queries(x, space), predictor.queries(x, space))
    assert (found.head is not None) == (layout in WITH_HEAD)
    if layout == "Lightning":
        assert recipe.objective.temperature == ARGS["temperature"]


class PathOf:
    """Pickled as a path of the given kind, which this system may not be able to make."""

    def __init__(self, kind, *parts) -> None:
        self.kind, self.parts = kind, parts

    def __reduce__(self):
        return self.kind, self.parts


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pathlib.PosixPath, "/runs/a"),
        (pathlib.PurePosixPath, "/runs/a"),
        (pathlib.WindowsPath, "\\runs\\a"),
        (pathlib.PureWindowsPath, "\\runs\\a"),
    ],
)
def test_paths_in_args_become_text(kind, text, tmp_path) -> None:
    args = {**ARGS, "out": PathOf(kind, "/", "runs", "a")}
    found = read_report_checkpoint(write(tmp_path / "m.pt", built(), args=args)).args["out"]
    assert (type(found), found) == (str, text)


def test_a_namespace_with_an_absolute_path_is_read(tmp_path) -> None:
    args = argparse.Namespace(temperature=0.2, out=Path("/runs/a"), resume=Path("old.pt"))
    path = write(tmp_path / "m.pt", built(), args=args)
    checkpoint = read_report_checkpoint(path)
    assert checkpoint.args == {"temperature": 0.2, "out": "/runs/a", "resume": "old.pt"}
    assert checkpoint.stated.parents == ["old.pt"]
    assert fit_report_checkpoint(checkpoint, W, 5)[1].objective.temperature == 0.2


def test_reading_leaves_nothing_admitted_behind(tmp_path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_report_checkpoint(write(tmp_path / "m.pt", built()))
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_small_file_cannot_claim_the_whole_memory(tmp_path) -> None:
    weights = built().model.state_dict()
    weights["encoder.norm_f.weight"] = torch.ones(1).expand(10**10)
    path = write(tmp_path / "m.pt", built(), model_state_dict=weights)
    with pytest.raises(CheckpointError, match="claims 40 GB"):
        read_report_checkpoint(path)


@pytest.mark.filterwarnings("ignore:.*quantize.*:UserWarning")
@pytest.mark.parametrize(
    "odd",
    [
        lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        lambda weight: weight.to_sparse(),
        lambda weight: weight.to("meta"),
    ],
    ids=["quantized", "sparse", "meta"],
)
def test_weights_that_are_no_plain_tensors_are_refused(tmp_path, odd) -> None:
    weights = {n: odd(w) if w.ndim == 2 else w for n, w in built().model.state_dict().items()}
    path = write(tmp_path / "m.pt", built(), model_state_dict=weights)
    with pytest.raises(CheckpointError, match=r"quantized, sparse or without data \(first: enc"):
        load_any_checkpoint(path, W, 5)


def endless():
    knot: list = []
    knot.append(knot)
    return knot


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "holds a list"),
        ({"state_dict": {}}, "holds state_dict, not a model_state_dict"),
        ({"model_state_dict": {"a": 1}}, "does not hold tensors by name"),
        ({"model_state_dict": torch.ones(2)}, "does not hold tensors by name"),
        ({"model_state_dict": {"a": torch.ones(2)}, "args": endless()}, "nested without end"),
    ],
)
def test_other_content_is_named(content, says, tmp_path) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=says):
        read_report_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"junk"])
def test_a_damaged_file_is_named(damage, tmp_path) -> None:
    path = write(tmp_path / "m.pt", built())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"m\.pt"):
        read_report_checkpoint(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_report_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_any_checkpoint(tmp_path / "none.pt", W, 5)


def test_odd_numbers_beside_the_weights_do_no_harm(tmp_path) -> None:
    path = write(
        tmp_path / "m.pt", built(), val_cosine=float("nan"), best_val_cosine=torch.tensor(0.5)
    )
    checkpoint = read_report_checkpoint(path)
    assert checkpoint.val_cosine == 0.5


# --- negatives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"batch_size": 256, "grad_accum": 4}, (255, 1023)),
        ({"batch_size": 256, "gradient_accumulation_steps": 4}, (255, 1023)),
        ({"batch_size": 256, "effective_batch_size": 1024}, (255, 1023)),
        ({"batch_size": 256, "grad_accum": 1}, None),
        ({"batch_size": 256}, None),
        ({"batch_size": 256, "grad_accum": 4, "lambda_con": 0.0}, None),
        ({"batch_size": "many", "grad_accum": 4}, None),
    ],
)
def test_accumulated_negatives(args, expected) -> None:
    assert accumulated_negatives(args) == expected
    assert accumulated_negatives({}) is None
