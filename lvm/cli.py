"""The `lvm` command: the parts of a triage one at a time, without Ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lvm import cli_audit, cli_doctor
from lvm.command import Parser, lvm_command, run_program, shown, statuses
from lvm.errors import ExitStatus, UsageError
from lvm.printed import eval_command, resume_of, triage_command

ENDS = (
    ExitStatus.OK, ExitStatus.USAGE, ExitStatus.BLOCKED, ExitStatus.TOO_LITTLE, ExitStatus.PROGRAM,
    ExitStatus.INTERRUPTED, ExitStatus.BROKEN_PIPE,
)  # fmt: skip


def parser() -> Parser:
    """Return the commands and their flags."""
    p = Parser(prog="lvm", description=__doc__, epilog=statuses(ENDS, {ExitStatus.OK: "done"}))
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")

    embed = commands.add_parser("embed", help="turn text into a bank of vectors")
    embed.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".txt, .jsonl, .xml.bz2")
    embed.add_argument("--model", required=True, help="a sentence-transformers name or folder")
    embed.add_argument("--out", required=True, type=Path, metavar="BANK")
    embed.add_argument(
        "--skip", action="store_true", help="leave out documents that cannot be embedded"
    )

    train = commands.add_parser("train", help="train one recipe in this process")
    _add_data(train)
    train.add_argument("--recipe", type=Path, metavar="FILE")
    train.add_argument("--preset", default="laptop")
    train.add_argument("--out", required=True, type=Path, metavar="DIR")

    evaluate = commands.add_parser("eval", help="judge a checkpoint on the test split")
    _add_data(evaluate)
    for name in ("train", "eval", "payload"):
        evaluate.add_argument(f"--{name}", type=Path, metavar="FILE", help="the report's format")
    evaluate.add_argument(
        "--other-data", action="store_true", help="judge on data that it was not trained with"
    )
    evaluate.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")

    audit = commands.add_parser("audit", help="find what no training can fix, and repair it")
    cli_audit.add_flags(audit)

    report = commands.add_parser("report", help="write the report of a run again, from its journal")
    report.add_argument("run", type=Path, metavar="RUN")

    status = commands.add_parser("status", help="tell where a running or finished run stands")
    status.add_argument("run", type=Path, metavar="RUN")
    status.add_argument("--json", action="store_true", help="as one JSON object")

    ui = commands.add_parser("ui", help="open the MLflow UI on the store of a run, on this machine")
    ui.add_argument("run", type=Path, metavar="RUN")

    track = commands.add_parser("track", help="write the MLflow runs of a run again, likewise")
    track.add_argument("run", type=Path, metavar="RUN")

    doctor = commands.add_parser("doctor", help="find what would stop a run, before it starts")
    cli_doctor.add_flags(doctor)
    return p


def _add_data(p: Any) -> None:
    p.add_argument("--data", type=Path, metavar="BANK", help="default: the bundled sample")


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    args = parser().parse_args(argv)
    return {
        "embed": _embed, "train": _train, "eval": _evaluate, "report": _report, "track": _track,
        "status": _status, "ui": _ui, "audit": cli_audit.audit,
        "doctor": cli_doctor.doctor,
    }[args.command](args)  # fmt: skip


def _embed(args: Any) -> int:
    from lvm.data.embed import embed_files

    bank = embed_files(args.files, args.model, args.out, skip=args.skip)
    print(f"{args.out}: {len(bank):,} vectors of width {bank.width}")
    print(f"next: {triage_command({'data': args.out})}")
    return 0


def _train(args: Any) -> int:
    from lvm.config import fingerprint
    from lvm.data.draw import drawn
    from lvm.data.load import DataRequest, load_dataset
    from lvm.triage.arm import ArmSpec, run_arm
    from lvm.triage.folder import training_folder
    from lvm.triage.step import Role
    from tune_jobs.presets import load_config

    config = load_config(args.preset, args.recipe)
    whole, _ = load_dataset(DataRequest(bank=args.data), config.recipe.context_length)
    dataset = drawn(whole, config.gates.dev_windows, config.recipe.seed)
    with training_folder(args.out) as folder:
        spec = ArmSpec(
            id=fingerprint(config.recipe),
            step="train",
            name="train",
            role=Role.CONFIRM,
            recipe=config.recipe,
            folder=folder,
            gates=config.gates,
            evaluate_test=True,
            threads=config.schedule.threads_per_worker,
            device="cuda" if config.schedule.use_gpu else "cpu",
        )
        for record in run_arm(spec, dataset):
            print(_progress(record, config.recipe.training.epochs), file=sys.stderr)
    _print_test(json.loads((spec.folder / "test.json").read_text()))
    print(f"next: {eval_command(spec.folder / 'checkpoint', {'data': args.data})}")
    return 0


def _progress(record: dict[str, Any], epochs: int) -> str:
    left = (epochs - record["epoch"]) * record["seconds"]
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['loss']:.4f}  dev cosine "
        f"{record['eval_cosine']:.4f}  R@5 {record['r_at_5']:.4f}  about {left:.0f} s left"
    )


def _evaluate(args: Any) -> int:
    import tempfile

    from lvm.audit.loaded import names_data
    from lvm.config import GateConfig
    from lvm.data.load import DataRequest, load_dataset
    from lvm.training.checkpoint import load_checkpoint
    from lvm.triage.arm import ArmSpec, evaluate_test
    from lvm.triage.step import Role

    predictor, recipe, manifest = load_checkpoint(args.checkpoint)
    asked = DataRequest(
        bank=args.data, train=args.train, evaluation=args.eval, payload=args.payload
    )
    dataset, source = load_dataset(asked, recipe.context_length)
    if dataset.bank.width != manifest["width"]:
        raise UsageError(
            f"{source} has width {dataset.bank.width}, the checkpoint {manifest['width']}; use the "
            "bank it was trained on, or one from the same encoder."
        )
    own = names_data(manifest, dataset.bank, dataset)
    if not own and not args.other_data:
        raise UsageError(
            f"{args.checkpoint} was not trained on {source}; name its own data with --data BANK, "
            "or add --other-data to judge it here all the same."
        )
    with tempfile.TemporaryDirectory() as folder:
        spec = ArmSpec(
            id="eval", step="eval", name="eval", role=Role.CONFIRM, recipe=recipe,
            folder=Path(folder), gates=GateConfig(), evaluate_test=True,
        )  # fmt: skip
        evaluate_test(spec, dataset, predictor)
        print(f"{args.checkpoint} on {source}{'' if own else ', which it was not trained on'}")
        _print_seen(args.checkpoint, manifest, dataset)
        _print_test(json.loads((spec.folder / "test.json").read_text()))
    return 0


def _print_seen(path: Path, manifest: dict[str, Any], dataset: Any) -> None:
    """Say which test articles a checkpoint was trained on, or that nobody can tell."""
    from lvm.audit.lineage import read_lineage, seen_articles

    bank, test = dataset.bank, dataset.test
    lineage = read_lineage(manifest, path)
    seen = seen_articles(lineage, bank, dataset, bank.rows(test.contexts[:, -1]), test.articles)
    if len(seen.articles):
        print(
            f"warning: {len(seen.articles)} of {test.num_articles} test articles were trained on, "
            "so these numbers say little of text it has not read"
        )
    for name, why in seen.unknown.items():
        print(f"warning: whether {name} has read the test text is not known: {why}")


def _print_test(stored: dict[str, Any]) -> None:
    evaluation = stored["evaluation"]
    pool = evaluation["pool"]
    print(
        f"test split: {evaluation['num_windows']} windows of {evaluation['num_articles']} "
        f"articles, pool {pool['id']} of {pool['size']} rows, {evaluation['space']} space"
    )
    print(f"{'':14} {'masked':>8} {'raw':>8}")
    for name, value in evaluation["masked"].items():
        cells = [
            f"{v:8.4f}" if v is not None else "    null" for v in (value, evaluation["raw"][name])
        ]
        print(f"{name:14} {' '.join(cells)}")
    for name, value in evaluation["latency"].items():
        print(f"{name:14} {value:8.2f}")


def _report(args: Any) -> int:
    from lvm.report.markdown import write_report
    from lvm.triage.journal import read_run
    from lvm.triage.verdict import build_verdict

    events = read_run(args.run)
    document = build_verdict(events, resume=resume_of(events, args.run, kept=True))
    path = write_report(events, document, args.run)
    print(document["headline"])
    print(f"report: {shown(path)}")
    return 0


def _status(args: Any) -> int:
    import time

    from lvm.status import screen, status
    from lvm.triage.journal import read_run
    from lvm.triage.lock import driver_of

    seen = status(read_run(args.run), args.run, time.time(), driver_of(args.run))
    print(json.dumps(seen, indent=1) if args.json else "\n".join(screen(seen)))
    return 0


def _track(args: Any) -> int:
    from lvm.tracking import Tracker
    from lvm.triage.journal import read_run
    from lvm.triage.verdict import build_verdict

    events = read_run(args.run)
    document = build_verdict(events, resume=resume_of(events, args.run, kept=True))
    tracker = Tracker(args.run)
    tracker.close(events, document if document["verdict"] else None)
    if tracker.problem:
        raise UsageError(f"Some results were not uploaded to MLflow: {tracker.problem}")
    print(f"next: {lvm_command()} ui {shown(args.run)}")
    return 0


def _ui(args: Any) -> int:
    import subprocess

    from lvm.tracking import Tracker

    command = Tracker(args.run).ui_command()
    print(command)
    server = subprocess.Popen(f"exec {command}", shell=True)  # our own line, quoted by its maker
    try:
        return server.wait()
    except KeyboardInterrupt:  # also SIGTERM, which a terminal does not send to the server as well
        server.terminate()
        server.wait()
        raise


def entry() -> NoReturn:
    """Entry point of the installed command."""
    run_program(main)


if __name__ == "__main__":
    entry()
