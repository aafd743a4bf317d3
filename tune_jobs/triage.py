"""The main job: from a failed gate to a verdict. `python tune_jobs/triage.py --help`."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: make the checkout importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lvm.audit.material import Material
from lvm.audit.session import run_audit, with_command
from lvm.command import (
    INTERRUPTED,
    lvm_command,
    make_folder,
    python_command,
    run_command,
    shown,
)
from lvm.config import RunConfig, to_dict
from lvm.data.load import load_dataset
from lvm.data.windows import SPLITS, Dataset
from lvm.progress import JsonLines
from lvm.provenance import code_version, environment, git_commit
from lvm.records import METRICS, RunVerdict
from lvm.report.markdown import write_report
from lvm.report.seeds import over_seeds
from lvm.terminal import AuditProgress, Screen, models_table, print_audit
from lvm.tracking import Tracker
from lvm.triage.forecast import Forecast, forecast
from lvm.triage.journal import SCHEMA, Journal
from lvm.triage.on_ray import RayExecutor
from lvm.triage.plan import plan_races
from lvm.triage.preflight import check_config, check_dataset, dataset_of, own_checkpoint
from lvm.triage.probe import probe, slots_here
from lvm.triage.request import Request, request_fingerprint
from lvm.triage.step import Facts, extended_steps, steps_in_order
from lvm.triage.triage import Triage
from lvm.triage.verdict import build_verdict
from tune_jobs import request as asked
from tune_jobs.request import parser as parser

TRACKED = ("step_ended", "confirmed", "phase_1_judged")  # after these MLflow is brought up to date


def main(argv: Sequence[str]) -> int:
    """Run the triage and return its exit status."""
    args = parser().parse_args(argv)
    with JsonLines(sys.stdout if args.json else None) as lines:
        return _main(args, argv, lines)


def _main(args: Any, argv: Sequence[str], lines: JsonLines) -> int:
    journal = None
    if args.resume is not None:
        journal, args = asked.resumed(args)
        lines.skip(journal)
    out = journal.folder if journal else asked.new_folder(args.out)
    config, material = asked.opened(args)
    if args.show:
        dataset, _ = load_dataset(asked.data_request(args), config.recipe.context_length)
        _show(config, dataset, extended=args.extended, num_seeds=args.seeds or 1)
        return 0
    check_config(config, material.width or 1)
    audit = (journal and journal.find("audited")) or {"audit": _audit(material, args)}
    if audit["audit"]["route"]["blocked"]:
        told = journal or Journal(out)
        return _blocked(args, argv, config, material, audit["audit"], told, lines)
    return _triage(args, argv, config, material, audit["audit"], out, journal, lines)


def _triage(
    args: Any, argv: Sequence[str], config: RunConfig, material: Material, audit: dict[str, Any],
    out: Path, journal: Journal | None, lines: JsonLines,
) -> int:  # fmt: skip
    """Walk the tree over data that the audit has let through."""
    dataset, source = dataset_of(material, config.recipe.context_length)
    check_dataset(config, dataset)
    make_folder(out)
    request = Request(
        config=config,
        out=out,
        steps=steps_in_order(audit["route"]["order"]),
        code=code_version(),
        commit=git_commit(),
        checkpoint=own_checkpoint(material, out),
        predictions=args.predictions,
        independent=args.independent,
        all_steps=args.all_steps,
        extended=extended_steps() if args.extended else (),
        num_seeds=args.seeds or 1,
        from_bank=material.train is None or material.train.file is None,
    )
    identity = {"request": request_fingerprint(request), "data": dataset.fingerprint}
    if journal is None:
        journal = Journal(out)
        started = _started(args, argv, config, request, _data(dataset, source))
    else:
        started = None
        asked.refuse_changes(journal, identity, request)
    tracker = Tracker(out)
    with Screen(sys.stderr) as screen:

        def note(event: str, **values: Any) -> None:
            screen.event(journal.append(event, **values))
            lines.tell(journal)
            if event in TRACKED:
                tracker.sync(journal.events)

        if started is not None:
            note("run_started", **started, identity=identity)
        else:
            for event in list(journal.events):
                screen.event(event)
            note("resumed", command=asked.command(argv))
        if journal.find("audited") is None:
            note("audited", audit=audit)
        longer = request.all_steps or request.extended or request.more_seeds
        if longer and journal.find("forecast") is None:
            expected = _forecast(request, dataset)
            screen.say(expected.in_words(), "bold")
            note("forecast", **expected.to_plain())
        threading.Thread(target=tracker.prepare, daemon=True).start()  # beside the start of Ray
        try:
            verdict = _walk(request, dataset, journal, note, screen, args.address)
        except BaseException:
            tracker.close(journal.events, None)
            raise
    return _finish(journal, verdict, tracker, lines)


def _forecast(request: Request, dataset: Dataset) -> Forecast:
    """Say beforehand how long all steps or the open questions will take on this machine."""
    config = request.config
    races = plan_races(
        config, request.steps, request.extended, dataset, all_steps=request.all_steps,
        from_bank=request.from_bank, more_seeds=request.more_seeds,
        given=request.checkpoint is not None or request.predictions is not None,
    )  # fmt: skip
    costs, slots = probe(config, dataset, races), slots_here(config.schedule)
    return forecast(races, costs, config.schedule, num_windows=len(dataset.train), slots=slots)


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


# --- the audit ------------------------------------------------------------------------------------


def _audit(material: Material, args: Any) -> dict[str, Any]:
    with AuditProgress(sys.stderr) as progress:
        _, document = run_audit(material, allowed=args.allow or (), progress=progress)
    return with_command(document, f"{lvm_command()} {asked.audit_command(args)}", "repaired")


def _blocked(
    args: Any, argv: Sequence[str], config: RunConfig, material: Material, audit: dict[str, Any],
    journal: Journal, lines: JsonLines,
) -> int:  # fmt: skip
    """Write a run that ended before anything was started, and say why."""
    if not journal.events:
        make_folder(journal.folder)
        request = Request(
            config=config, out=journal.folder, steps=steps_in_order(), code=code_version(),
            commit=git_commit(),
        )  # fmt: skip
        journal.append(
            "run_started", **_started(args, argv, config, request, _data_seen(material)),
            identity={},
        )  # fmt: skip
    if journal.find("audited") is None:
        journal.append("audited", audit=audit)
        codes = audit["route"]["blocked"]
        journal.append(
            "decision", number=0, action="Stop", verdict=RunVerdict.BLOCKED, cause=codes[:1],
            since=f"the audit found {', '.join(codes)}",
        )  # fmt: skip
    document = build_verdict(journal.events, resume=_resume(journal.folder))
    report = _write(journal, document)
    lines.tell(journal)
    lines.verdict(document)
    print_audit(audit, sys.stdout)
    print("no training was started; exit status 3")
    print(f"report: {shown(report)} (and {report.with_suffix('.html').name} beside it)")
    print(f"MLflow: {lvm_command()} track {shown(journal.folder)} records this run")
    return RunVerdict.BLOCKED.exit_status


# --- the end --------------------------------------------------------------------------------------


def _finish(
    journal: Journal, verdict: RunVerdict | None, tracker: Tracker, lines: JsonLines
) -> int:
    """Write the verdict, the report and the MLflow runs, print the one screen."""
    resume = _resume(journal.folder)
    document = build_verdict(journal.events, resume=resume)
    report = _write(journal, document)
    lines.verdict(document)
    if verdict is None:
        tracker.close(journal.events, None)
        print(f"interrupted; go on with: {resume}")
        return INTERRUPTED
    print_verdict(document, report)
    tracker.close(journal.events, document)  # last: a model's upload keeps nobody waiting
    if tracker.problem:
        Screen(sys.stdout).say(f"MLflow has not everything: {tracker.problem}", "yellow")
    return verdict.exit_status


def _resume(folder: Path) -> str:
    return f"{python_command()} tune_jobs/triage.py --resume {shown(folder)}"


def _write(journal: Journal, document: dict[str, Any]) -> Path:
    """Write verdict.json, audit.json and the report; return the path of the report."""
    _write_json(journal.folder / "verdict.json", document)
    audited = journal.find("audited")
    if audited is not None:
        _write_json(journal.folder / "audit.json", audited["audit"])
    return write_report(journal.events, document, journal.folder)


def print_verdict(document: dict[str, Any], report: Path) -> None:
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
    if document["seeds"] and (said := over_seeds(document["seeds"])):
        screen.say(f"{said[0].lower()}{said[1:]}")
    compute = document["compute"]
    screen.say(
        f"cost: {compute['train_seconds']:.0f} s of training in {compute['trials']} trials, "
        f"{compute['saved_seconds']:.0f} s saved by gates and pruning"
    )
    screen.say(f"report: {shown(report)} (and {report.with_suffix('.html').name} beside it)")
    screen.say(f"MLflow: {lvm_command()} ui {shown(report.parent)}")
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


# --- what the journal says of the start -----------------------------------------------------------


def _started(
    args: Any, argv: Sequence[str], config: RunConfig, request: Request, data: dict[str, Any]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "command": asked.command(argv),
        "arguments": asked.arguments(args),
        "config": to_dict(config),
        "code": request.code,
        "commit": request.commit,
        "environment": environment(),
        "plan": [step.name for step in (*request.steps, *request.extended)],
        "data": data,
    }


def _data(dataset: Dataset, source: str) -> dict[str, Any]:
    whole = dataset.dev_drawn_from
    return {
        "source": source,
        "rows": len(dataset.bank),
        "width": dataset.bank.width,
        "fingerprint": dataset.fingerprint,
        "windows": {name: len(dataset.split(name)) for name in SPLITS},
        "articles": {name: dataset.split(name).num_articles for name in SPLITS},
        **({} if whole is None else {"drawn_from": {"dev": vars(whole)}}),
    }


def _data_seen(material: Material) -> dict[str, Any]:
    """Return what is known of data that was never loaded."""
    bank, sides = material.bank, material.sides
    return {
        "source": bank.source if bank else ", ".join(side.source for side in sides) or "unreadable",
        "rows": len(bank) if bank else 0,
        "width": next((side.width for side in sides), bank.width if bank else 0),
        "fingerprint": None,
        "windows": {side.name: len(side) for side in sides},
        "articles": {},
    }


def _show(config: RunConfig, dataset: Dataset, *, extended: bool, num_seeds: int) -> None:
    """Print the tree that would be walked, with its arms for this recipe."""
    gates, schedule = config.gates, config.schedule
    print(f"phase 1: AR-only and the base recipe, {config.recipe.training.epochs} epochs")
    print(
        f"  success gate on test: R@5 +{gates.success_r_at_5:.2f} or MRR +{gates.success_mrr:.2f} "
        "over AR-only"
    )
    facts = Facts(num_train_windows=len(dataset.train), width=dataset.bank.width)
    for step in (*steps_in_order(), *(extended_steps() if extended else ())):
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
    if num_seeds > 1:
        more = ", ".join(str(config.recipe.seed + i) for i in range(1, num_seeds))
        print(f"then AR-only, the base recipe and the arm behind the verdict with seeds {more}")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
