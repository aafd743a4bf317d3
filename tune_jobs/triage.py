"""The main job: from a failed gate to a verdict. `python tune_jobs/triage.py --help`."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: make the checkout importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lvm.command import (
    INTERRUPTED,
    Parser,
    lvm_command,
    python_command,
    run_command,
    shown,
)
from lvm.config import RunConfig, to_dict
from lvm.data.load import DataRequest, load_dataset
from lvm.data.windows import SPLITS, Dataset
from lvm.errors import ResumeError, UsageError
from lvm.provenance import code_version, environment, git_commit
from lvm.records import METRICS, RunVerdict
from lvm.report.markdown import write_report
from lvm.terminal import Screen, models_table
from lvm.tracking import Tracker
from lvm.training.checkpoint import load_checkpoint
from lvm.triage.journal import SCHEMA, Journal
from lvm.triage.preflight import check_request
from lvm.triage.run import RayExecutor
from lvm.triage.step import Facts, steps_in_order
from lvm.triage.triage import Request, Triage, request_fingerprint
from lvm.triage.verdict import build_verdict
from tune_jobs.presets import PRESETS, load_config

RUNS = Path("runs")
DEFAULT_PRESET = "laptop"
TRACKED = ("step_ended", "confirmed", "phase_1_judged")  # after these MLflow is brought up to date


def parser() -> Parser:
    """Return the flags of the triage."""
    p = Parser(
        prog="python tune_jobs/triage.py",
        description="Find out why a latent vector model fails its gate, and what fixes it.",
        epilog="exit status: 0 PASSED or FIXED, 1 NOT_FIXED or INCONCLUSIVE, 2 bad input, "
        "3 BLOCKED, 130 interrupted",
    )
    p.add_argument("--data", type=Path, metavar="BANK", help="a bank (default: the bundled sample)")
    p.add_argument("--train", type=Path, metavar="NPZ", help="train windows in the report's format")
    p.add_argument("--eval", type=Path, metavar="NPZ", help="evaluation windows, likewise")
    p.add_argument("--payload", type=Path, metavar="P", help="the vectors to be retrieved")
    p.add_argument("--checkpoint", type=Path, metavar="DIR", help="triage this trained model")
    p.add_argument("--predictions", type=Path, metavar="NPY", help="judge these predictions")
    p.add_argument("--recipe", type=Path, metavar="FILE", help="changes to the preset (TOML, JSON)")
    names = ", ".join(PRESETS)
    p.add_argument("--preset", metavar="NAME", help=f"{names} (default: {DEFAULT_PRESET})")
    p.add_argument("--out", type=Path, metavar="DIR", help="new run folder (default: runs/N)")
    p.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")
    p.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: start one here)")
    p.add_argument("--independent", action="store_true", help="carry nothing from step to step")
    p.add_argument("--show", action="store_true", help="print the tree and run nothing")
    return p


def main(argv: Sequence[str]) -> int:
    """Run the triage and return its exit status."""
    args = parser().parse_args(argv)
    journal = None
    if args.resume is not None:
        journal, args = _resumed(args)
    config, checkpoint = _config(args)
    dataset, source = load_dataset(_data_request(args), config.recipe.context_length)
    if args.show:
        _show(config, dataset)
        return 0
    check_request(config, dataset, checkpoint=checkpoint, predictions=args.predictions)
    out = journal.folder if journal else _new_folder(args.out)
    request = Request(
        config=config,
        out=out,
        steps=steps_in_order(),
        code=code_version(),
        commit=git_commit(),
        checkpoint=checkpoint,
        predictions=args.predictions,
        independent=args.independent,
    )
    identity = {"request": request_fingerprint(request), "data": dataset.fingerprint}
    if journal is None:
        journal = Journal(out)
        started = _started(args, argv, config, dataset, source, request)
    else:
        started = None
        _refuse_changes(journal, identity, request)
    tracker = Tracker(out)
    with Screen(sys.stderr) as screen:

        def note(event: str, **values: Any) -> None:
            screen.event(journal.append(event, **values))
            if event in TRACKED:
                tracker.sync(journal.events)

        if started is not None:
            note("run_started", **started, identity=identity)
        else:
            for event in list(journal.events):
                screen.event(event)
            note("resumed", command=_command(argv))
        threading.Thread(target=tracker.prepare, daemon=True).start()  # beside the start of Ray
        try:
            verdict = _walk(request, dataset, journal, note, screen, args.address)
        except BaseException:
            tracker.close(journal.events, None)
            raise
    return _finish(journal, verdict, tracker)


def _walk(
    request: Request, dataset: Dataset, journal: Journal, note: Any, screen: Screen,
    address: str | None,
) -> RunVerdict | None:  # fmt: skip
    """Carry out the tree on Ray; None when the person interrupted it."""
    executor = RayExecutor(request.out / "tune", address=address, schedule=request.config.schedule)
    try:
        executor.start()
        screen.say(f"arms run on {executor.describe()}", "dim")
        return Triage(request, dataset, executor, journal, note).run().verdict
    except KeyboardInterrupt:
        note("interrupted")
        return None
    finally:
        executor.stop()


def _finish(journal: Journal, verdict: RunVerdict | None, tracker: Tracker) -> int:
    """Write the verdict, the report and the MLflow runs, print the one screen."""
    folder = journal.folder
    resume = f"{python_command()} tune_jobs/triage.py --resume {shown(folder)}"
    document = build_verdict(journal.events, resume=resume)
    _write_json(folder / "verdict.json", document)
    report = write_report(journal.events, document, folder)
    tracker.close(journal.events, document if verdict else None)
    if verdict is None:
        print(f"interrupted; go on with: {resume}")
        return INTERRUPTED
    print_verdict(document, report, tracker)
    return verdict.exit_status


def print_verdict(document: dict[str, Any], report: Path, tracker: Tracker) -> None:
    """Print the verdict, the table, and what to type next."""
    screen = Screen(sys.stdout)
    good = document["verdict"] in (RunVerdict.PASSED, RunVerdict.FIXED)
    screen.say(document["headline"], "bold green" if good else "bold yellow")
    for warning in document["warnings"]:
        screen.say(f"but: {warning}", "yellow")
    screen.console.print(models_table(document))
    judged = document["arm"] or document["phase1"]
    for gate in judged["gates"]:
        if gate["gate"] == "success":
            title = METRICS[gate["metric"]].title
            screen.say(f"gain over AR-only in {title}: {gate['verdict']}, {gate['reason']}")
    compute = document["compute"]
    screen.say(
        f"cost: {compute['train_seconds']:.0f} s of training in {compute['trials']} trials, "
        f"{compute['saved_seconds']:.0f} s saved by gates and pruning"
    )
    screen.say(f"report: {shown(report)} (and {report.with_suffix('.html').name} beside it)")
    screen.say(f"MLflow: {lvm_command()} ui {shown(report.parent)}")
    if tracker.problem:
        screen.say(f"MLflow has not everything: {tracker.problem}", "yellow")
    screen.say(f"next: {_next_command(document, report.parent)}")


def _next_command(document: dict[str, Any], folder: Path) -> str:
    if document["arm"] is not None:
        return f"{lvm_command()} eval {shown(Path(document['arm']['checkpoint']))}"
    if document["verdict"] == RunVerdict.PASSED:
        return f"{lvm_command()} report {shown(folder)}"
    return (
        f"{python_command()} tune_jobs/triage.py --recipe FILE (what was not tried: see the report)"
    )


def _write_json(path: Path, document: dict[str, Any]) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(fresh, path)


# --- what is asked -------------------------------------------------------------------------------


def _config(args: Any) -> tuple[RunConfig, Path | None]:
    config = load_config(args.preset or DEFAULT_PRESET, args.recipe)
    if args.checkpoint is None:
        return config, None
    if args.predictions is not None:
        raise UsageError("--checkpoint and --predictions both name the model; give one of them.")
    _, recipe, _ = load_checkpoint(args.checkpoint)
    return dataclasses.replace(config, recipe=recipe), args.checkpoint.resolve()


def _data_request(args: Any) -> DataRequest:
    return DataRequest(bank=args.data, train=args.train, evaluation=args.eval, payload=args.payload)


def _started(
    args: Any, argv: Sequence[str], config: RunConfig, dataset: Dataset, source: str,
    request: Request,
) -> dict[str, Any]:  # fmt: skip
    paths = ("data", "train", "eval", "payload", "checkpoint", "predictions", "recipe")
    return {
        "schema": SCHEMA,
        "command": _command(argv),
        "arguments": {
            **{k: str(v.resolve()) if (v := getattr(args, k)) is not None else None for k in paths},
            "preset": args.preset or DEFAULT_PRESET,
            "independent": args.independent,
        },
        "config": to_dict(config),
        "code": request.code,
        "commit": request.commit,
        "environment": environment(),
        "plan": [step.name for step in request.steps],
        "data": {
            "source": source,
            "rows": len(dataset.bank),
            "width": dataset.bank.width,
            "fingerprint": dataset.fingerprint,
            "windows": {name: len(dataset.split(name)) for name in SPLITS},
            "articles": {name: dataset.split(name).num_articles for name in SPLITS},
        },
    }


def _command(argv: Sequence[str]) -> str:
    return shlex.join(["python", "tune_jobs/triage.py", *argv])


def _new_folder(out: Path | None) -> Path:
    """Return the folder of a new run, made and empty; UsageError when it holds something."""
    if out is None:
        taken = [int(p.name) for p in RUNS.glob("*") if p.name.isdigit()]
        out = RUNS / str(max(taken, default=0) + 1)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "another run" if (out / "journal.jsonl").exists() else "other files"
        raise UsageError(
            f"{out} holds {what}, allowed is a new or empty folder; choose another --out, or go on "
            f"with --resume {out}."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be made ({error.strerror}); choose an --out that you can write to."
        ) from None
    return out.resolve()


def _resumed(args: Any) -> tuple[Journal, Any]:
    """Return the journal to go on with, and the arguments it was started with."""
    folder = args.resume.resolve()
    if not (folder / "journal.jsonl").exists():
        raise ResumeError(
            f"{args.resume} holds no journal.jsonl, so there is no run to go on with; give the "
            "--out of an interrupted run."
        )
    journal = Journal(folder)
    if not journal.events:
        raise ResumeError(f"{args.resume} holds an empty journal; start a new run.")
    known = journal.events[0]["arguments"]
    for key in ("out", *known):
        if getattr(args, key) not in (None, False):
            raise UsageError(
                f"--{key} cannot be given with --resume, which takes it from the journal; leave it "
                "out or start a new run."
            )
    for key, value in known.items():
        is_path = value is not None and key not in ("preset", "independent")
        setattr(args, key, Path(value) if is_path else value)
    return journal, args


def _refuse_changes(journal: Journal, identity: dict[str, str], request: Request) -> None:
    first = journal.events[0]
    names = {"request": "the configuration", "data": "the data"}
    changed = [names[k] for k, v in identity.items() if first["identity"][k] != v]
    if first["code"] != request.code:
        changed.append(f"the code ({first['code']}, now {request.code})")
    if changed:
        raise ResumeError(
            f"{journal.folder} cannot go on: {' and '.join(changed)} changed since it started; "
            "restore it, or start a new run in another --out."
        )


def _show(config: RunConfig, dataset: Dataset) -> None:
    """Print the tree that would be walked, with its arms for this recipe."""
    gates, schedule = config.gates, config.schedule
    print(f"phase 1: AR-only and the base recipe, {config.recipe.training.epochs} epochs")
    print(
        f"  success gate on test: R@5 +{gates.success_r_at_5:.2f} or MRR +{gates.success_mrr:.2f} "
        "over AR-only"
    )
    facts = Facts(num_train_windows=len(dataset.train), width=dataset.bank.width)
    for step in steps_in_order():
        epochs = step.epochs(schedule)
        base = config.recipe.with_changes({"training.epochs": epochs})
        proposal = step.propose(base, facts)
        print(f"step {step.number}, {step.name}: {step.question} ({epochs} epochs and a control)")
        for arm in proposal.arms:
            changes = ", ".join(f"{k} = {v}" for k, v in arm.changes.items())
            print(f"  {arm.name}: {changes}{'' if arm.trains else ' (no training)'}")
        for name, reason in proposal.left_out.items():
            print(f"  left out, {name}: {reason}")
    print(
        f"an arm with dev cosine >= {gates.stage_eval_cosine} is trained in full on "
        f"{schedule.confirm_workers} workers and judged by the success gate"
    )


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
