"""Vectors of any length: too long or too short is a finding, never an error or a repair."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from planted import change, clean, parts_of
from planted_suite import QUICK

from lvm.audit.finding import Severity, Status
from lvm.audit.repair import repair
from lvm.audit.run import run_checks
from lvm.audit.session import run_audit
from lvm.core.errors import DataError
from lvm.data.bank import check_vectors
from lvm.data.files import read_bank
from lvm.data.window_files import read_window_file
from lvm.triage.step import steps_in_order

PARTS = ("train", "eval", "bank")
LONG, SHORT = (1e20, 1e30, 1e38), (1e-30, 1e-40)  # the last one is denormal in float32
QUIET = {"allowed": (), "progress": lambda code, number, total: None, "steps": steps_in_order()}


def scaled(part: str, factor: float, share: float = 1.0):
    """The clean data with the vectors of one part, or some of them, that much longer."""
    parts = clean(0, QUICK)
    factor = np.float32(factor)

    def times(array):
        array = np.array(array)
        array[: max(1, round(share * len(array)))] *= factor
        return array

    if part == "bank":
        longer = dataclasses.replace(parts.bank, vectors=times(parts.bank.vectors))
        return dataclasses.replace(parts, bank=longer)
    file = getattr(parts, part)
    file = change(file, contexts=times(file.contexts), targets=times(file.targets))
    return dataclasses.replace(parts, **{part: file})


@pytest.mark.parametrize("share", [0.05, 1.0])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("factor", [*LONG, *SHORT])
def test_a_length_that_float32_cannot_square_blocks(part, factor, share):
    audit, _ = run_audit(scaled(part, factor, share).material(), **QUIET)
    code = "NONFINITE" if factor > 1 else "ZERO_ROWS"
    assert code in audit.blocking
    assert {f.where["input"] for f in audit.findings if f.code == code} == {part}
    assert [(r.code, r.reason) for r in audit.results if r.status is Status.FAILED] == []


@pytest.mark.parametrize("part", PARTS)
def test_a_length_that_float32_can_square_is_a_warning_and_is_repaired(part, tmp_path):
    material = scaled(part, 1e19).material()
    audit, _ = run_audit(material, **QUIET)
    off = [f for f in audit.findings if f.code == "UNNORMALISED"]
    assert {(f.where["input"], f.severity) for f in off} == {(part, Severity.WARN)}
    assert audit.blocking == []
    files = repair(material, tmp_path / "repaired").files
    name = part if part in files else "payload"
    read = read_bank(files[name]).vectors if part == "bank" else read_window_file(files[name])
    vectors = read if part == "bank" else read.targets
    assert np.allclose(np.linalg.norm(np.asarray(vectors, np.float64), axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("factor", [*LONG, *SHORT])
@pytest.mark.parametrize("part", PARTS)
def test_the_repair_takes_out_what_has_no_usable_length(part, factor, tmp_path):
    material = scaled(part, factor, 0.05).material()
    files = repair(material, tmp_path / "repaired").files
    assert files
    parts = clean(0, QUICK)
    again = parts_of(parts.bank.vectors, parts.bank.keys)
    for name, path in files.items():
        if name in ("train", "eval"):
            again = dataclasses.replace(again, **{name: read_window_file(path)})
        else:
            again = dataclasses.replace(again, bank=read_bank(path))
    left = run_checks(again.material(), codes=("NONFINITE", "ZERO_ROWS", "UNNORMALISED"))
    assert left.findings == []


@pytest.mark.parametrize("factor", [*LONG, *SHORT])
def test_a_reader_refuses_rows_that_no_loss_can_take(factor):
    vectors = np.array(clean(0, QUICK).bank.vectors)
    check_vectors(vectors * np.float32(1e19), "v")
    vectors[3] *= np.float32(factor)
    with pytest.raises(DataError, match="row 3"):
        check_vectors(vectors, "v")
