from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import lvm
from lvm.core import provenance
from lvm.doctor import machine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of both packages that provenance believes to be installed."""
    leave_out = shutil.ignore_patterns("__pycache__", "sample")
    for name in ("lvm", "tune_jobs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=leave_out)
    monkeypatch.setattr(provenance, "_root_of", lambda name: tmp_path / name)
    monkeypatch.setattr(provenance, "HOME", tmp_path)
    return tmp_path


def test_the_version_of_the_code_is_stable_and_names_the_package(copy) -> None:
    version = provenance.code_version()
    assert version == provenance.code_version()
    assert re.fullmatch(re.escape(lvm.__version__) + r"\+[0-9a-f]{12}", version)


def test_the_version_is_that_of_the_installed_packages_wherever_they_lie(copy, monkeypatch) -> None:
    there = provenance.code_version()
    monkeypatch.undo()
    sample = ROOT / "lvm" / "data" / "sample"
    assert not list(sample.glob("*.py"))  # the copy leaves it out
    assert provenance.code_version() == there


@pytest.mark.parametrize(
    "source",
    [
        "lvm/training/loop.py",
        "lvm/evaluation/gates.py",
        "lvm/triage/tree.py",
        "lvm/triage/judge.py",
        "lvm/triage/confirm.py",
        "lvm/views/report/markdown.py",
        "tune_jobs/steps/temperature.py",
        "lvm/jobs/presets.py",
    ],
)
def test_any_changed_source_changes_the_version(source, copy) -> None:
    before = provenance.code_version()
    path = copy / source
    path.write_text(path.read_text() + "\n# changed\n")
    assert provenance.code_version() != before


def test_a_new_a_renamed_and_a_missing_file_change_the_version(copy) -> None:
    versions = [provenance.code_version()]
    mine = copy / "tune_jobs" / "steps" / "mine.py"
    mine.write_text("# a step of my own\n")
    versions.append(provenance.code_version())
    mine.rename(mine.with_name("yours.py"))
    versions.append(provenance.code_version())
    shutil.rmtree(copy / "tune_jobs")
    versions.append(provenance.code_version())
    assert len(set(versions)) == 4


def test_compiled_files_are_no_source(copy) -> None:
    before = provenance.code_version()
    (copy / "lvm" / "__pycache__").mkdir()
    (copy / "lvm" / "__pycache__" / "gates.pyc").write_bytes(b"compiled")
    assert provenance.code_version() == before


# --- content --------------------------------------------------------------------------------------


def test_a_file_is_named_by_its_content_alone(tmp_path) -> None:
    one, two = tmp_path / "one.npy", tmp_path / "two.npy"
    one.write_bytes(b"a" * 100_000)
    two.write_bytes(b"a" * 100_000)
    assert provenance.file_digest(one) == provenance.file_digest(two)
    assert re.fullmatch("[0-9a-f]{12}", provenance.file_digest(one))
    two.write_bytes(b"a" * 99_999 + b"b")
    assert provenance.file_digest(one) != provenance.file_digest(two)


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch) -> None:
    path, reads = tmp_path / "large.npy", []
    path.write_bytes(b"a" * 1000)
    real = provenance.hashlib.file_digest

    def counted(file, name):
        reads.append(file.name)
        return real(file, name)

    monkeypatch.setattr(provenance.hashlib, "file_digest", counted)
    first = provenance.file_digest(path)
    assert (provenance.file_digest(path), len(reads)) == (first, 1)
    path.write_bytes(b"b" * 1001)
    assert provenance.file_digest(path) != first
    assert len(reads) == 2


def checkpoint(folder, weights=b"weights", manifest=b"{}"):
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "manifest.json").write_bytes(manifest)
    return folder


def test_a_checkpoint_is_named_by_its_weights_and_its_manifest(tmp_path) -> None:
    one = provenance.checkpoint_digest(checkpoint(tmp_path / "one"))
    moved = checkpoint(tmp_path / "two")
    (moved / "state.pt").write_bytes(b"moments of an optimiser decide nothing")
    assert provenance.checkpoint_digest(moved) == one
    others = [
        checkpoint(tmp_path / "three", weights=b"other"),
        checkpoint(tmp_path / "four", manifest=b'{"epoch": 3}'),
    ]
    assert len({one, *map(provenance.checkpoint_digest, others)}) == 3
    (tmp_path / "old.pt").write_bytes(b"weights")
    assert provenance.checkpoint_digest(tmp_path / "old.pt")
    assert provenance.checkpoint_digest(tmp_path / "nowhere") == ""


def test_a_checkpoint_that_a_kill_left_between_two_renames_is_still_itself(tmp_path) -> None:
    whole = provenance.checkpoint_digest(checkpoint(tmp_path / "checkpoint"))
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.old")
    assert provenance.checkpoint_digest(tmp_path / "checkpoint") == whole


# --- commit and machine ---------------------------------------------------------------------------


def test_the_commit_is_none_without_a_checkout_or_without_git(copy, monkeypatch) -> None:
    assert provenance.git_commit() is None
    (copy / ".git").mkdir()

    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert provenance.git_commit() is None


def test_the_commit_says_when_files_were_edited(copy, monkeypatch) -> None:
    (copy / ".git").mkdir()
    answers = {"rev-parse": "0123456789ab", "status": ""}
    monkeypatch.setattr(provenance, "_git", lambda root, *words: answers[words[0]])
    assert provenance.git_commit() == "0123456789ab"
    answers["status"] = " M lvm/core/config/run.py"
    assert provenance.git_commit() == "0123456789ab+changes"


def test_the_environment_names_versions_and_machine() -> None:
    seen = provenance.environment()
    assert seen["versions"]["torch"] == importlib.metadata.version("torch")
    assert seen["cpus"] >= 1
    assert seen["memory_gib"] > 0


def by_name(findings):
    return {finding.what: finding for finding in findings}


def test_the_doctor_looks_at_everything_a_run_needs(tmp_path) -> None:
    found = by_name(machine.examine(tmp_path))
    assert {"cores", "memory", "disk", "GPU", "ray", "mlflow", "faiss-cpu"} <= set(found)
    assert found["ray"].seen == importlib.metadata.version("ray")


def test_a_missing_package_says_what_to_type(tmp_path, monkeypatch) -> None:
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(machine.importlib.metadata, "version", absent)
    found = by_name(machine.examine(tmp_path))
    assert not found["mlflow"].ok
    assert not found["mlflow"].optional
    assert found["mlflow"].next == "pip install mlflow"
    assert found["mamba-ssm"].optional  # a CPU run goes on without it


def test_too_little_memory_or_disk_is_found(tmp_path, monkeypatch) -> None:
    class Little:
        total, free = 2**30, 2**30

    monkeypatch.setattr(machine.psutil, "virtual_memory", Little)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: Little)
    found = by_name(machine.examine(tmp_path))
    for name in ("memory", "disk"):
        assert not found[name].ok
        assert found[name].seen.startswith("1.0 GiB")
        assert found[name].next
