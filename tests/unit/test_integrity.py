"""Files of a bank that are not those of its manifest are found; a hash is taken once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from planted import clean

from lvm.audit.finding import Finding, Severity
from lvm.audit.open import open_material
from lvm.audit.run import run_checks
from lvm.core.config.run import RunConfig
from lvm.data import manifest
from lvm.data.files import write_bank
from lvm.data.load import DataRequest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bank = clean(0).bank
    write_bank(tmp_path / "bank", bank.vectors, bank.keys, {})
    return tmp_path / "bank"


def schema(folder: Path) -> list[Finding]:
    material = open_material(DataRequest(bank=folder), RunConfig())
    return list(run_checks(material, codes=("SCHEMA",)).findings)


def test_a_bank_as_it_was_written_passes(folder: Path):
    assert schema(folder) == []


def test_a_changed_file_is_named(folder: Path):
    path = folder / "vectors.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (finding,) = schema(folder)
    assert finding.severity is Severity.BLOCK
    assert finding.seen.startswith("vectors.npy has sha256 ")
    assert finding.where["source"] == str(folder)


def test_a_manifest_that_states_fewer_rows_is_of_another_bank(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "count": manifest["count"] - 7}))
    (finding,) = schema(folder)
    assert f"the manifest states {manifest['count'] - 7}" in finding.seen


def test_a_file_is_hashed_once_until_it_changes(folder: Path, cache: Path, monkeypatch):
    hashed = []
    real = hashlib.file_digest

    def counting(handle, name):
        hashed.append(handle.name)
        return real(handle, name)

    monkeypatch.setattr(manifest.hashlib, "file_digest", counting)
    assert schema(folder) == schema(folder) == []
    assert len(hashed) == 2  # vectors and keys
    os.utime(folder / "keys.npy", ns=(1, 1))
    assert schema(folder) == []
    assert [Path(name).name for name in hashed[2:]] == ["keys.npy"]
    assert sorted(p.name for p in folder.iterdir()) == ["keys.npy", "manifest.json", "vectors.npy"]


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_memory_that_cannot_be_read_or_written_costs_nothing(folder, cache, content: str):
    (cache / "lvm").mkdir(parents=True)
    (cache / "lvm" / "sha256.json").write_text(content)
    assert schema(folder) == []
    (cache / "lvm" / "sha256.json").unlink()
    (cache / "lvm" / "sha256.json").mkdir()
    assert schema(folder) == []
