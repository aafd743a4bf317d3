"""Bad input to the triage: nothing is started.

What cannot be read or asked for is refused in one sentence, with exit status 2 and nothing left
behind. What can be read and is broken is BLOCKED by the audit: exit status 3, and a run that says
why.
"""

from __future__ import annotations

import json
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_form import write_report_files

import tune_jobs.triage
from lvm.core.command import run_command
from lvm.core.config.recipe import Recipe
from lvm.data.files import write_bank
from lvm.data.windows import dataset_from_bank
from lvm.jobs.presets import load_config
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import save_checkpoint
from lvm.training.manifest import Stated
from lvm.triage.on_ray import RayExecutor

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
WIDTH = 32


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad input is found before anything is started."""

    def start(executor: RayExecutor) -> None:
        raise AssertionError("Ray was started on bad input")

    monkeypatch.setattr(RayExecutor, "start", start)


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> Any:
    """Run the triage, check that it refuses in a sentence and leaves no run, return it."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str | Path, out: Path | None = None) -> str:
        before = sorted(tmp_path.rglob("*"))
        flags = [] if out is None else ["--out", str(out)]
        status = run_command(tune_jobs.triage.main, [*map(str, argv), *flags])
        printed, complaint = capsys.readouterr()
        assert status == 2
        assert printed == ""
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1
        assert complaint.endswith(".\n")
        assert sorted(tmp_path.rglob("*")) == before  # no run folder, no half of one
        return complaint

    return run


@pytest.fixture
def blocked(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> Any:
    """Run the triage, check that the audit stops it, return its code and its findings' words."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str | Path) -> tuple[list[str], str]:
        folder = tmp_path / "run"
        status = run_command(tune_jobs.triage.main, [*map(str, argv), "--out", str(folder)])
        printed, complaint = capsys.readouterr()
        assert (status, complaint) == (3, "")
        verdict = json.loads((folder / "verdict.json").read_text())
        assert verdict["verdict"] == "BLOCKED"
        assert verdict["compute"]["train_seconds"] == 0
        assert printed.startswith(f"BLOCKED: {verdict['cause']}")
        assert (folder / "report.md").read_text().startswith("# Triage report: BLOCKED")
        audit = json.loads((folder / "audit.json").read_text())
        found = [f for f in audit["findings"] if f["severity"] == "block"]
        words = " ".join(f"{f['seen']} {f['allowed']} {f['where']} {f['next']}" for f in found)
        return [f["code"] for f in found], words

    return run


# --- banks ----------------------------------------------------------------------------------------


def vectors(rows: int = 60) -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal((rows, WIDTH)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def keys(articles: int = 6, chunks: int = 10) -> np.ndarray:
    return np.array([(a, c) for a in range(articles) for c in range(chunks)], np.int32)


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def truncated(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def with_row(value: float) -> np.ndarray:
    table = vectors()
    table[7] = value
    return table


def folder_with_short_vectors(tmp: Path) -> Path:
    write_bank(tmp / "bank", vectors(), keys(), {})
    truncated(tmp / "bank" / "vectors.npy")
    return tmp / "bank"


def not_a_zip(tmp: Path) -> Path:
    (tmp / "bank.npz").write_bytes(b"these are no vectors")
    return tmp / "bank.npz"


BANKS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "missing": (lambda tmp: tmp / "nowhere", ["nowhere", "does not exist", "check the path"]),
    "unreadable": (not_a_zip, ["bank.npz", "not a complete .npz", "write it again"]),
    "truncated npz": (
        lambda tmp: truncated(npz(tmp / "bank.npz", vectors=vectors(), keys=keys())),
        ["bank.npz", "not a complete .npz", "write it again"],
    ),
    "truncated folder": (folder_with_short_vectors, ["vectors.npy", "damaged", "write"]),
    "too few articles": (
        lambda tmp: npz(tmp / "bank.npz", vectors=vectors(), keys=keys()),
        ["bank.npz", "6 articles", "at least 9 are needed", "embed more documents"],
    ),
    "too short articles": (
        lambda tmp: npz(tmp / "bank.npz", vectors=vectors(), keys=keys(12, 5)),
        ["bank.npz", "no article has 6 consecutive chunks", "longer documents"],
    ),
}
BROKEN_BANKS: dict[str, tuple[Callable[[Path], Path], str, list[str]]] = {
    "wrong rank": (
        lambda tmp: npz(tmp / "bank.npz", vectors=vectors().reshape(60, 4, 8), keys=keys()),
        "SCHEMA",
        ["bank.npz", "(60, 4, 8)", "[N, D]", "write the bank again"],
    ),
    "one key too few": (
        lambda tmp: npz(tmp / "bank.npz", vectors=vectors(), keys=keys()[1:]),
        "SCHEMA",
        ["bank.npz", "(59, 2)", "[60, 2]"],
    ),
    "zero rows": (
        lambda tmp: npz(tmp / "bank.npz", vectors=vectors()[:0], keys=keys()[:0]),
        "SCHEMA",
        ["bank.npz", "is empty", "embed at least one document"],
    ),
    "NaN": (
        lambda tmp: npz(tmp / "bank.npz", vectors=with_row(np.nan), keys=keys()),
        "NONFINITE",
        ["bank.npz", "1 of 60 rows of vectors are not finite", "'rows': [7]", "embed"],
    ),
    "zero vector": (
        lambda tmp: npz(tmp / "bank.npz", vectors=with_row(0.0), keys=keys()),
        "ZERO_ROWS",
        ["bank.npz", "1 of 60 rows of vectors are zero", "'rows': [7]", "embed"],
    ),
    "no bank": (
        lambda tmp: npz(tmp / "bank.npz", contexts=vectors(), targets=vectors()),
        "SCHEMA",
        ["bank.npz", "contexts, targets", "a bank needs vectors and keys"],
    ),
}


@pytest.mark.parametrize("case", BANKS)
def test_a_bank(case: str, tmp_path: Path, refused):
    make, said = BANKS[case]
    sentence = refused("--data", make(tmp_path), out=tmp_path / "run")
    for words in said:
        assert words in sentence


@pytest.mark.parametrize("case", BROKEN_BANKS)
def test_a_broken_bank(case: str, tmp_path: Path, blocked):
    make, code, said = BROKEN_BANKS[case]
    codes, words = blocked("--data", make(tmp_path))
    assert codes == [code]
    for phrase in said:
        assert phrase in words


def test_a_train_split_smaller_than_one_batch(tmp_path: Path, make_bank, refused):
    small = make_bank(10, 10)
    write_bank(tmp_path / "bank", small.vectors, small.keys, {})
    sentence = refused("--data", tmp_path / "bank", out=tmp_path / "run")
    for words in ("25 windows", "needs 256", "lower the batch size"):
        assert words in sentence


# --- the report's files ---------------------------------------------------------------------------


@pytest.fixture
def report_files(world, tmp_path: Path) -> dict[str, Path]:
    from lvm.data.files import read_bank

    dataset = dataset_from_bank(read_bank(world.bank), 5)
    paths = write_report_files(dataset, tmp_path / "report")
    return dict(zip(("--train", "--eval", "--payload"), paths, strict=True))


def flags(files: dict[str, Path], *left_out: str) -> list[str | Path]:
    kept = {flag: path for flag, path in files.items() if flag not in left_out}
    return [part for pair in kept.items() for part in pair]


def test_train_without_eval(report_files, refused):
    sentence = refused(*flags(report_files, "--eval"))
    assert "--train and --payload came without --eval" in sentence
    assert "the Phase 1 format needs all three" in sentence


def test_two_sources_of_data(world, report_files, refused):
    sentence = refused("--data", world.bank, *flags(report_files))
    assert "--data and --train both name the data" in sentence


@pytest.mark.parametrize("flag", ["--train", "--eval", "--payload"])
def test_a_truncated_report_file(flag: str, report_files, refused):
    truncated(report_files[flag])
    sentence = refused(*flags(report_files))
    assert str(report_files[flag]) in sentence
    assert "write it again" in sentence


def rewritten(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.load(path) as members:
        arrays = dict(members)
    arrays[name] = change(arrays[name])
    np.savez(path, **arrays)


WINDOWS: dict[str, tuple[str, str, Callable[[np.ndarray], np.ndarray], list[str]]] = {
    "targets of rank 3": ("SCHEMA", "target_vectors", lambda a: a[:, None], ["shape", "[M, D]"]),
    "one target too few": ("SCHEMA", "target_vectors", lambda a: a[1:], ["targets", "for the tar"]),
    "contexts of another width": (
        "SCHEMA",
        "context_sequences",
        lambda a: a[..., :16],
        ["targets", "for the targets"],
    ),
    "contexts of another length": (
        "SCHEMA",
        "context_sequences",
        lambda a: a[:, 1:],
        ["4 vectors in eval", "5 vectors in tr"],
    ),
    "zero windows": (
        "SCHEMA",
        "context_sequences",
        lambda a: a[:0],
        ["holds no vector", "at least one win"],
    ),
    "NaN": ("NONFINITE", "target_vectors", lambda a: a * np.nan, ["are not finite"]),
    "zeros": ("ZERO_ROWS", "context_sequences", lambda a: a * 0, ["are zero"]),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows(case: str, report_files, blocked):
    code, member, change, said = WINDOWS[case]
    rewritten(report_files["--eval"], member, change)
    codes, words = blocked(*flags(report_files))
    assert codes[0] == code
    for phrase in (str(report_files["--eval"]), *said):
        assert phrase in words


def test_windows_of_another_width_than_the_payload(report_files, blocked):
    for member in ("context_sequences", "target_vectors"):
        rewritten(report_files["--train"], member, lambda a: a[..., :16])
    codes, words = blocked(*flags(report_files))
    assert codes[0] == "SCHEMA"
    for phrase in ("train 16", "eval 32", "bank 32", "embed all files with one model"):
        assert phrase in words


class Shell:
    """What a hostile payload would run on loading."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self.command,)


def test_a_payload_with_a_foreign_pickle(report_files, tmp_path: Path, refused):
    payload = tmp_path / "payload.npy"
    touched = tmp_path / "touched"
    np.save(payload, np.array({0: Shell(f"touch {touched}")}, dtype=object), allow_pickle=True)
    sentence = refused(*flags(report_files, "--payload"), "--payload", payload)
    assert not touched.exists()
    for words in (str(payload), "pickle that names", "system", "nothing was run", "Write it as"):
        assert words in sentence


def test_a_bare_foreign_pickle(report_files, tmp_path: Path, refused):
    payload = tmp_path / "payload.pkl"
    payload.write_bytes(pickle.dumps({0: ("text", {}, Path("/"))}))
    sentence = refused(*flags(report_files, "--payload"), "--payload", payload)
    for words in (str(payload), "pathlib", "nothing was run"):
        assert words in sentence


# --- recipe, preset, flags ------------------------------------------------------------------------

RECIPES = {
    "unknown key": ("[objective]\ntemprature = 0.1", ["objective.temprature", "temperature"]),
    "unknown section": ("[model2]\nhidden = 3", ["model2", "allowed: "]),
    "out of range": (
        "[objective]\ntemperature = -1",
        ["objective.temperature must be from 0.0001 to 10", "(got -1"],
    ),
    "wrong type": ("[training]\nepochs = 'many'", ["training.epochs", "'many'", "type int"]),
    "infinite": ("[training]\nlearning_rate = inf", ["training.learning_rate", "finite"]),
    "no section": ("schedule = 3", ["schedule", "3", "must be a table"]),
    "broken TOML": ("[model\nhidden = 3", ["cannot be read", "TOML"]),
    "empty value": ("seed =", ["cannot be read", "TOML"]),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe(case: str, world, tmp_path: Path, refused):
    text, said = RECIPES[case]
    recipe = tmp_path / "mine.toml"
    recipe.write_text(text)
    sentence = refused("--data", world.bank, "--recipe", recipe)
    for words in (str(recipe), *said):
        assert words in sentence


def test_a_recipe_that_is_missing_or_no_text(world, tmp_path: Path, refused):
    assert "does not exist" in refused("--data", world.bank, "--recipe", tmp_path / "no.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(bytes(range(256)))
    assert "cannot be read" in refused("--data", world.bank, "--recipe", binary)
    (tmp_path / "list.json").write_text("[1, 2]")
    assert "holds no keys" in refused("--data", world.bank, "--recipe", tmp_path / "list.json")


def test_a_model_that_nobody_wrote(world, tmp_path: Path, refused):
    (tmp_path / "mine.toml").write_text("[model]\nname = 'mamba9'")
    sentence = refused("--data", world.bank, "--recipe", tmp_path / "mine.toml")
    for words in ("unknown model 'mamba9'", "did you mean mamba2?", "known: gru, mamba1, mamba2"):
        assert words in sentence


def test_workers_that_cannot_share_a_batch(world, tmp_path: Path, refused):
    (tmp_path / "mine.toml").write_text(
        "[training]\nbatch_size = 32\n[schedule]\nconfirm_workers = 3"
    )
    sentence = refused("--data", world.bank, "--recipe", tmp_path / "mine.toml")
    for words in ("training.batch_size must be", "schedule.confirm_workers = 3", "(got 32)"):
        assert words in sentence


def test_an_unknown_preset(world, refused):
    sentence = refused("--data", world.bank, "--preset", "labtop")
    for words in ("'labtop'", "laptop", "allowed: cluster, gpu, laptop"):
        assert words in sentence


def test_an_unknown_flag_and_a_missing_value(world, refused):
    assert "--datta" in refused("--datta", world.bank)
    assert "--data" in refused("--data")


# --- the run folder -------------------------------------------------------------------------------


def test_an_out_folder_that_holds_another_run(world, tmp_path: Path, refused):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "journal.jsonl").write_text("{}\n")
    sentence = refused("--data", world.bank, "--recipe", world.recipe, out=tmp_path / "old")
    for words in ("old", "already holds a run", "choose another --out", "--resume"):
        assert words in sentence


def test_an_out_folder_that_holds_other_files(world, tmp_path: Path, refused):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    sentence = refused("--data", world.bank, "--recipe", world.recipe, out=tmp_path / "mine")
    assert "not empty" in sentence
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_an_out_path_that_is_a_file(place: str, world, tmp_path: Path, refused):
    (tmp_path / "file").write_text("not a folder")
    sentence = refused("--data", world.bank, "--recipe", world.recipe, out=tmp_path / place)
    assert str(tmp_path / place) in sentence
    assert "choose" in sentence


FULL_AT_BYTES = 1024  # the journal's first line is longer
WITHOUT_SPACE = """
import resource, sys
from lvm.core.command import run_command
from lvm.triage.on_ray import RayExecutor
import tune_jobs.triage

def start(executor):
    print("Ray was started", file=sys.stderr)
    sys.exit(9)

RayExecutor.start = start
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(run_command(tune_jobs.triage.main, sys.argv[1:]))
"""


def test_no_space_left(world, tmp_path: Path):
    """A limit on the size of files stands for a full disk: a write is cut short, then refused."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    argv = ["--data", world.bank, "--recipe", world.recipe, "--out", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SPACE.format(limit=FULL_AT_BYTES), *map(str, argv)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for words in (str(tmp_path / "run"), "File too large", "free some space", "--out"):
        assert words in done.stderr
    assert not (tmp_path / "run").exists()


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones((200, WIDTH - 1), np.float32), ("(200, 31)", "expected (200, 32)")),
        (np.ones((199, WIDTH), np.float32), ("(199, 32)", "expected (200, 32)")),
        (np.ones((200, WIDTH), np.int64), ("(200, 32)", "floats")),
        (np.full((200, WIDTH), np.nan, np.float32), ("200 rows of", "zero or non-finite")),
        (np.zeros((200, WIDTH), np.float32), ("200 rows of", "zero or non-finite")),
    ],
    ids=["width", "rows", "integers", "NaN", "zeros"],
)
def test_predictions(array: np.ndarray, said: tuple[str, ...], world, tmp_path: Path, refused):
    path = tmp_path / "predictions.npy"
    np.save(path, array)
    sentence = refused(
        "--data", world.bank, "--recipe", world.recipe, "--predictions", path, out=tmp_path / "run"
    )
    for words in (str(path), *said, "predict"):
        assert words in sentence


def test_predictions_that_are_no_array(world, tmp_path: Path, refused):
    for path in (tmp_path / "nowhere.npy", tmp_path / "text.npy"):
        (tmp_path / "text.npy").write_text("hello")
        sentence = refused("--data", world.bank, "--recipe", world.recipe, "--predictions", path)
        assert str(path) in sentence
        assert "numpy.save" in sentence


def test_a_checkpoint_folder_that_is_none(world, tmp_path: Path, refused):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        sentence = refused("--data", world.bank, "--checkpoint", folder, out=tmp_path / "run")
        for words in (str(folder), "no checkpoint", "model.safetensors", "give the folder"):
            assert words in sentence


def checkpoint(world, folder: Path, width: int) -> Path:
    recipe: Recipe = load_config("laptop", world.recipe).recipe
    save_checkpoint(folder, Predictor(recipe, width), recipe, stated=Stated())
    return folder


def test_a_checkpoint_with_truncated_weights(world, tmp_path: Path, refused):
    folder = checkpoint(world, tmp_path / "checkpoint", WIDTH)
    truncated(folder / "model.safetensors")
    sentence = refused("--data", world.bank, "--checkpoint", folder, out=tmp_path / "run")
    for words in (str(folder), "cannot be read", "train the model again"):
        assert words in sentence


def test_a_checkpoint_of_another_width(world, tmp_path: Path, blocked):
    folder = checkpoint(world, tmp_path / "checkpoint", 16)
    codes, words = blocked("--data", world.bank, "--checkpoint", folder)
    assert "LOADER" in codes
    for phrase in (str(folder), "16", "32"):
        assert phrase in words


def test_a_checkpoint_and_predictions(world, tmp_path: Path, refused):
    folder = checkpoint(world, tmp_path / "checkpoint", WIDTH)
    sentence = refused(
        "--data", world.bank, "--checkpoint", folder, "--predictions", tmp_path / "p.npy"
    )
    assert "--checkpoint and --predictions both name the model" in sentence
