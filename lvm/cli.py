"""The `lvm` command: a triage, and its parts one at a time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lvm.core.command import Parser, run_program, statuses
from lvm.core.errors import ExitStatus
from lvm.jobs import cli_own, doors, flags, of_a_run
from lvm.jobs.options import AuditOptions, DoctorOptions, EvalOptions, TrainOptions, TriageOptions

OF_A_RUN = {
    "report": "rewrite a run's report from its journal",
    "status": "show the state of a running or finished run",
    "ui": "open the MLflow UI for a run, on this machine",
    "track": "rewrite a run's MLflow runs from its journal",
}


def parser() -> Parser:
    """Return the commands and their flags."""
    p = Parser(prog="lvm", description=__doc__, epilog=statuses(words={ExitStatus.OK: "done"}))
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")

    triage = commands.add_parser("triage", help="find out why a model fails, and what fixes it")
    flags.add_triage_flags(triage)

    embed = commands.add_parser("embed", help="turn text into a bank of vectors")
    embed.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".txt, .jsonl, .xml.bz2")
    embed.add_argument("--model", required=True, help="a sentence-transformers name or folder")
    embed.add_argument("--out", required=True, type=Path, metavar="BANK")
    embed.add_argument("--skip", action="store_true", help="skip documents that cannot be embedded")

    windows = commands.add_parser("windows", help="write the windows for code of your own")
    cli_own.add_windows_flags(windows)

    trainer = commands.add_parser("init-trainer", help="write a training script to start from")
    cli_own.add_trainer_flags(trainer)

    train = commands.add_parser("train", help="train one recipe, here or on Ray Train workers")
    flags.add_train_flags(train)

    evaluate = commands.add_parser("eval", help="evaluate a checkpoint on the test split")
    flags.add_eval_flags(evaluate)

    audit = commands.add_parser("audit", help="find and repair what training cannot fix")
    flags.add_audit_flags(audit)

    for name, does in OF_A_RUN.items():
        commands.add_parser(name, help=does).add_argument("run", type=Path, metavar="RUN")
    status = commands.choices["status"]
    status.add_argument("--json", action="store_true", help="as one JSON object")

    doctor = commands.add_parser("doctor", help="check for what would stop a run")
    flags.add_doctor_flags(doctor)
    return p


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    args = parser().parse_args(argv)
    return {
        "triage": _triage,
        "embed": doors.embed,
        "windows": cli_own.windows,
        "init-trainer": cli_own.init_trainer,
        "train": _train,
        "eval": _evaluate,
        "audit": _audit,
        "report": of_a_run.report,
        "status": of_a_run.status,
        "ui": of_a_run.ui,
        "track": of_a_run.track,
        "doctor": _doctor,
    }[args.command](args)


def _triage(args: argparse.Namespace) -> int:
    return doors.triage(flags.options_of(TriageOptions, args))


def _train(args: argparse.Namespace) -> int:
    return doors.train(flags.options_of(TrainOptions, args))


def _audit(args: argparse.Namespace) -> int:
    return doors.audit(flags.options_of(AuditOptions, args))


def _doctor(args: argparse.Namespace) -> int:
    return doors.doctor(flags.options_of(DoctorOptions, args))


def _evaluate(args: argparse.Namespace) -> int:
    return doors.judge(flags.options_of(EvalOptions, args))


def entry() -> NoReturn:
    """Entry point of the installed command."""
    run_program(main)


if __name__ == "__main__":
    entry()
