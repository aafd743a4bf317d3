"""Run the examples again and keep what they said: `python reports/rebuild.py [NAME ...]`.

Each example is one command of the main job. Its folder receives `output.txt` (the last screen),
`report.md`, `report.html`, `verdict.json` and `about.json` (command, date, commit, versions, wall
seconds, peak memory of all its processes). The example `sample` is also put into README.md.
"""

from __future__ import annotations

import ast
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {
    "sample": [],
    "five_steps": ["--five-steps"],
    "all_steps": ["--all-steps"],
    "planted": ["--data", "runs/planted/bank", "--recipe", "runs/planted/recipe.json"],
    "blocked": [
        "--train",
        "runs/replica/train.npz",
        "--eval",
        "runs/replica/eval.npz",
        "--payload",
        "runs/replica/payload.npz",
    ],
}
PACKAGES = ("lvm", "tune_jobs")
FOLDERS = {
    ".ci": "what CI runs",
    "benchmarks": "measurements; `--write` keeps the table of each in reports/",
    "docs": "what README has no room for",
    "examples": "three short scripts on the library",
    "recipes": "four recipes that are wrong in one respect each",
    "reports": "kept runs, the tables of the benchmarks, and LOG.md: what was tried",
    "tests": "unit, integration and golden tests, and the worlds in which they plant defects",
}
KEPT = ("report.md", "report.html", "verdict.json", "audit.json")
PUBLIC_ROOT = "/path/to/lvm"  # stands for this checkout in what is kept


def main(names: list[str]) -> int:
    """Rebuild the named examples, or all."""
    for name in names or EXAMPLES:
        if name in MADE:
            MADE[name]()
        with tempfile.TemporaryDirectory(dir=_runs()) as scratch:
            rebuild(name, Path(scratch) / name)
    return 0


def make_replica() -> None:
    """Make the report's phase 1 in small, with its broken eval set, under runs/replica."""
    sys.path.insert(0, str(ROOT / "tests"))
    from replica import SMALL
    from replica import make_replica as make

    make(_runs() / "replica", SMALL)


def make_planted() -> None:
    """Make a world in which the network can copy and the projection head is at fault."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import worlds

    from lvm.core.config.plain import to_dict
    from lvm.core.config.read import load_run_config
    from lvm.data.files import write_bank

    folder = _runs() / "planted"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    bank = worlds.planted(0).dataset.bank
    write_bank(folder / "bank", bank.vectors, bank.keys, {"embedder": "planted world, seed 0"})
    config = to_dict(
        load_run_config(ROOT / "lvm" / "recipes" / "wrong_head_only.toml", worlds.base_config())
    )
    plain = {**config.pop("recipe"), **config}
    (folder / "recipe.json").write_text(json.dumps(plain))


MADE = {"blocked": make_replica, "planted": make_planted}


def _runs() -> Path:
    folder = ROOT / "runs"
    folder.mkdir(exist_ok=True)
    return folder


def rebuild(name: str, out: Path) -> None:
    """Run one example and keep its files under reports/."""
    arguments = ["tune_jobs/triage.py", *EXAMPLES[name], "--out", str(out.relative_to(ROOT))]
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    peak = _watch_memory(process.pid)
    output, _ = process.communicate()
    seconds = time.monotonic() - started
    if process.returncode not in (0, 1, 3):
        raise SystemExit(f"{name} ended with status {process.returncode}")
    scratch = str(out.parent.relative_to(ROOT))
    target = ROOT / "reports" / name
    target.mkdir(exist_ok=True)
    text = {file: (out / file).read_text() for file in KEPT} | {"output.txt": output}
    for file, content in text.items():
        clean = content.replace(f"{scratch}/{name}", "runs/1").replace(str(ROOT), PUBLIC_ROOT)
        (target / file).write_text(clean)
    first = json.loads((out / "journal.jsonl").read_text().splitlines()[0])
    about = {
        "command": " ".join(["python", *arguments[:-2]]),
        "date": datetime.date.today().isoformat(),
        "exit_status": process.returncode,
        "wall_seconds": round(seconds, 1),
        "peak_memory_gib": round(peak[0] / 2**30, 2),
        **{key: first[key] for key in ("commit", "code", "environment")},
    }
    (target / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    if name == "sample":
        write_readme(target / "output.txt")


def _watch_memory(pid: int) -> list[int]:
    """Follow the memory (PSS) of a process and all that it starts; [0] is the peak in bytes."""
    peak = [0]

    def follow() -> None:
        while psutil.pid_exists(pid):
            peak[0] = max(peak[0], _memory(pid))
            time.sleep(1.0)

    threading.Thread(target=follow, daemon=True).start()
    return peak


def _memory(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
    except psutil.Error:
        return total
    return total


def write_readme(output: Path) -> None:
    """Put the example's last screen and the tree of files into README.md."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    text = _replace_block(text, "make triage\n```\n\n", output.read_text().rstrip())
    text = _replace_block(text, "## The files\n\n", file_tree())
    readme.write_text(text)


def _replace_block(text: str, before: str, content: str) -> str:
    start = text.index(before) + len(before)
    opening = "```text\n"
    if not text.startswith(opening, start):
        raise ValueError(f"README has no text block after {before!r}")
    end = text.index("\n```", start)
    return f"{text[:start]}{opening}{content}{text[end:]}"


def file_tree() -> str:
    """Return the folders of this repository with what each is for, as README shows them."""
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    parents = {Path(path).parent for path in listing} - {Path()}
    folders = {
        Path(*parent.parts[:2]) if parent.parts[0] in PACKAGES else Path(parent.parts[0])
        for parent in parents
    }
    return "\n".join(_line(folder) for folder in sorted(folders))


def _line(folder: Path) -> str:
    name = f"{'  ' * (len(folder.parts) - 1)}{folder.name}/"
    return f"{name:<14}{_meaning(folder)}"


def _meaning(folder: Path) -> str:
    """Return what a folder is for: the first sentence of a package, else what FOLDERS says."""
    if folder.name in FOLDERS:
        return FOLDERS[folder.name]
    doc = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text())) or ""
    return " ".join(doc.split("\n\n")[0].split()).rstrip(".")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
