"""Six runs kept as they were written, and what every view says of them.

    python tests/frozen_runs.py [--again] [NAME ...]

renders the views of the kept journals anew: whoever changes a sentence on purpose sees in the
difference what else it changed. With `--again` the runs themselves are made anew, which takes some
minutes; a journal is kept as this version writes it, without checksums and without this machine's
paths. `tests/unit/test_frozen_runs.py` compares.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import linear_bank  # noqa: E402  # found through the path above
from replica import SMALL, make_replica  # noqa: E402

from lvm.core.command import lvm_command  # noqa: E402
from lvm.core.printed import job_command  # noqa: E402
from lvm.core.records import to_plain  # noqa: E402
from lvm.triage.journal import FILE_NAME, read_run  # noqa: E402
from lvm.triage.pace import Progress  # noqa: E402
from lvm.triage.state import RunState  # noqa: E402
from lvm.triage.verdict import build_verdict  # noqa: E402
from lvm.views.progress import line_of  # noqa: E402
from lvm.views.report import Run  # noqa: E402
from lvm.views.report.markdown import render, report_sections  # noqa: E402
from lvm.views.status import as_json, status  # noqa: E402
from lvm.views.status.screen import screen  # noqa: E402
from lvm.views.tracking.arms import arm_views  # noqa: E402
from lvm.views.tracking.ladder import ladder_views  # noqa: E402
from lvm.views.tracking.views import parent_view  # noqa: E402

FROZEN = TESTS / "frozen"
WITHOUT_RAY = TESTS / "without_ray.py"
PLACE = Path("/runs/frozen")  # where the run folders say that they are
RESUME = "lvm triage --resume /runs/frozen"
LINEAR_RECIPE = linear_bank.RECIPE.replace("confirm_workers = 2", "confirm_workers = 1")


# --- what is seen of a run ------------------------------------------------------------------------


def rendered(folder: Path) -> dict[str, str]:
    """Return what every view says of the journal in `folder`, by the name of a file."""
    events = read_run(folder)
    document = build_verdict(events, resume=RESUME)
    title = str(document.verdict or "UNFINISHED")
    seen = status(events, PLACE, now=events[-1].at + 60)
    mlflow = [
        parent_view(events, document, closed=True),
        *ladder_views(events),
        *arm_views(events, document, closed=True),
    ]
    files = {
        "verdict.json": _json(to_plain(document)),
        "report.md": render(report_sections(Run(events, document)), title),
        "status.json": _json(as_json(seen)),
        "status.txt": "\n".join(screen(seen)) + "\n",
        "mlflow.jsonl": _lines(dataclasses.asdict(view) for view in mlflow),
        "progress.jsonl": _progress(events),
    }
    return {name: _anywhere(text) for name, text in files.items()}


def _anywhere(text: str) -> str:
    """Return text whose commands name no place of this machine."""
    kept = (True, False)
    told = {job_command("triage", kept=k): "python /lvm/tune_jobs/triage.py" for k in kept}
    told |= {lvm_command(kept=k): "lvm" for k in kept}
    for typed, said in told.items():
        # In JSON a command that begins a line stands after the two signs of a line break.
        before = r"(?:(?<=\\n)|(?<![\w./-]))"
        text = re.sub(rf"{before}{re.escape(typed)}(?![\w./-])", said, text)
    return text


def _progress(events: RunState) -> str:
    progress, records = Progress(), list[dict[str, Any]]()
    for event in events:
        progress.take(event)
        record = line_of(event, progress)
        records += [] if record is None else [record]
    return _lines(records)


def _lines(records: Iterable[Any]) -> str:
    return "".join(json.dumps(record, default=str) + "\n" for record in records)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"


# --- how the runs were made -----------------------------------------------------------------------


def _triage(folder: Path, *flags: str, phase: str = "-", count: int = 1, signals: str = "") -> None:
    """Run a triage whose arms train in its own process."""
    argv = [sys.executable, str(WITHOUT_RAY), phase, str(count), *flags]
    done = subprocess.run(
        argv,
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "SIGNALS": signals, "PYTHONPATH": str(TESTS.parent)},
    )
    if done.returncode not in (0, 1, 3, 130):
        raise SystemExit(done.stderr)


def _linear(folder: Path) -> list[str]:
    linear_bank.write(folder / "bank")
    (folder / "recipe.toml").write_text(LINEAR_RECIPE)
    return ["--data", "bank", "--recipe", "recipe.toml", "--out", "run"]


def _sample(folder: Path) -> None:
    _triage(folder, "--out", "run")


def _all_steps(folder: Path) -> None:
    _triage(folder, *_linear(folder), "--all-steps")


def _blocked(folder: Path) -> None:
    make_replica(folder / "files", SMALL)
    files = [f"files/{name}.npz" for name in ("train", "eval", "payload")]
    _triage(folder, "--train", files[0], "--eval", files[1], "--payload", files[2], "--out", "run")


def _resumed_seeds(folder: Path) -> None:
    flags = _linear(folder)
    sigint = str(int(signal.SIGINT))
    _triage(folder, *flags, "--five-steps", "--seeds", "2", phase="event", count=30, signals=sigint)
    _triage(folder, "--resume", "run")


def _extended(folder: Path) -> None:
    _triage(folder, *_linear(folder), "--extended")


def _crashed(folder: Path) -> None:
    """Let memory run out in every third arm."""
    _triage(folder, *_linear(folder), "--five-steps", phase="breaks", count=3)


RUNS: dict[str, Callable[[Path], None]] = {
    "sample": _sample,
    "all_steps": _all_steps,
    "blocked": _blocked,
    "resumed_seeds": _resumed_seeds,
    "extended": _extended,
    "crashed": _crashed,
}


def make(name: str) -> None:
    """Make a run anew and keep its journal."""
    with tempfile.TemporaryDirectory(prefix="frozen-") as scratch:
        RUNS[name](Path(scratch))
        text = (Path(scratch) / "run" / FILE_NAME).read_text(encoding="utf-8")
    text = text.replace(f"{sys.executable} {WITHOUT_RAY}", "python tune_jobs/triage.py")
    text = text.replace(sys.executable, "python").replace(str(TESTS.parent), "/lvm")
    for path in (os.path.realpath(scratch), scratch):
        text = text.replace(f"{path}/run", str(PLACE)).replace(path, "/data")
    lines = []
    for line in text.splitlines():
        event = json.loads(line)
        event.pop("sum", None)
        lines.append(json.dumps(event))
    (FROZEN / name).mkdir(parents=True, exist_ok=True)
    (FROZEN / name / FILE_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: Sequence[str]) -> None:
    """Render what is kept, after making it anew when told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--again", action="store_true", help="make the runs anew first")
    arguments = parser.parse_args(argv)
    for name in arguments.names or RUNS:
        if arguments.again:
            make(name)
        for file, text in rendered(FROZEN / name).items():
            (FROZEN / name / file).write_text(text, encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
