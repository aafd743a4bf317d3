from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import lvm
from lvm import provenance
from lvm.doctor import machine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the package that provenance believes to lie in."""
    shutil.copytree(
        ROOT / "lvm", tmp_path / "lvm", ignore=shutil.ignore_patterns("__pycache__", "sample")
    )
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "lvm" / "provenance.py"))
    return tmp_path


def test_the_version_of_the_code_is_stable_and_names_the_package(copy) -> None:
    version = provenance.code_version()
    assert version == provenance.code_version()
    assert re.fullmatch(re.escape(lvm.__version__) + r"\+[0-9a-f]{12}", version)


@pytest.mark.parametrize(
    "source",
    [
        "training/loop.py", "training/negatives.py", "models/mamba2.py", "losses/infonce.py",
        "evaluation/metrics.py", "data/windows.py", "statistics.py", "gates.py", "randomness.py",
        "triage/arm.py", "triage/rungs.py",
    ],
)  # fmt: skip
def test_code_that_can_change_a_number_changes_the_version(source, copy) -> None:
    before = provenance.code_version()
    path = copy / "lvm" / source
    path.write_text(path.read_text() + "\n# changed\n")
    assert provenance.code_version() != before


def test_code_that_only_shows_numbers_does_not(copy) -> None:
    before = provenance.code_version()
    for source in ("terminal.py", "report/markdown.py", "tracking/__init__.py"):
        path = copy / "lvm" / source
        path.write_text(path.read_text() + "\n# changed\n")
    assert provenance.code_version() == before


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
    answers["status"] = " M lvm/config.py"
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
