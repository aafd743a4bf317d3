"""The benchmark of a GPU runs in every part where there is none, and says what it could not do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_part_runs_on_a_cpu(tmp_path) -> None:
    command = [
        sys.executable,
        "benchmarks/bench_gpu.py",
        "--small",
        "--out",
        tmp_path / "rows.json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "rows.json").read_text())
    rows = {row["what"]: row for row in kept["rows"]}
    graphs = ("kernel", "as chosen", "compiled layers", "dual")
    assert {what for what, row in rows.items() if row["figure"] == "not run"} == {
        *(f"B {batch}: {path}, graph" for batch in (16, 32) for path in graphs),
        *(f"B {batch}: kernel" for batch in (16, 32)),
        "kernels alone",
        "layer against float64, kernel",
    }
    assert not any("NOT compiled" in row["note"] for row in rows.values())
    assert not any("NOT within" in row["note"] for row in rows.values())
    printed = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(printed) == len(rows) + 1


def test_a_part_that_fails_is_a_row_and_the_others_go_on(monkeypatch, capsys) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import bench_gpu
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))

    def broken(bench):
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    def slow(bench):
        while True:
            pass

    optimiser = bench_gpu.PARTS["optimiser"]
    parts = {"broken": (broken, 5), "slow": (slow, 0.2), "optimiser": optimiser}
    monkeypatch.setattr(bench_gpu, "PARTS", parts)
    bench = bench_gpu.main(["--small", "--parts", "broken,slow,optimiser"])
    notes = {row["what"]: row["note"] for row in bench.rows if row["figure"] == "not run"}
    assert notes == {
        "broken": "RuntimeError: CUDA error: an illegal memory access",
        "slow": "OutOfTimeError: more than 0 s",
    }
    with pytest.raises(SystemExit):
        bench_gpu.main(["--small", "--parts", "optimizer"])
    assert bench.rows[-1]["what"].startswith("fused AdamW")
    assert "test_bench_gpu.py" in capsys.readouterr().out  # the end of the traceback
