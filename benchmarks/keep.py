"""Prints what a benchmark says, and keeps it in reports/ with command, date and versions."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

from lvm.core.provenance import environment, git_commit

REPORTS = Path(__file__).resolve().parent.parent / "reports"


def show(lines: Iterator[str], path: Path | None) -> None:
    """Print lines as they come, and write them to `path` when there is one."""
    said = []
    for line in lines:
        print(line, flush=True)
        said.append(line)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(said) + "\n", encoding="utf-8")


def origin(title: str, question: str, command: str) -> Iterator[str]:
    """Yield the head of a kept report."""
    versions = environment()["versions"]
    told = ", ".join(f"{name} {versions[name]}" for name in ("python", "numpy"))
    yield from (f"# {title}", "", f"- Question: {question}", f"- Command: `{command}`")
    yield f"- Date: {datetime.date.today().isoformat()}, commit {git_commit()}, {told}"
    yield ""


def main_by_seed(
    question: str, per: str, path: Path, report: Callable[[range, str], Iterator[str]]
) -> None:
    """Print the report of the seeds of a command line; it gets the flags that repeat it."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--seeds", type=int, default=10, help=f"number of seeds per {per}")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--write", action="store_true", help=f"keep the output in {path}")
    arguments = parser.parse_args()
    flags = f"--write --seeds {arguments.seeds}"
    if arguments.first:
        flags += f" --first {arguments.first}"
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    show(report(seeds, flags), path if arguments.write else None)
