"""`lvm audit`: what no training can fix, found before any training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm.command import free_folder, lvm_command, make_folder, next_folder, shown
from lvm.config.run import RunConfig
from lvm.files import write_json
from lvm.plugins import load_given
from lvm.printed import triage_command, typed
from lvm.records import to_plain

if TYPE_CHECKING:
    from lvm.audit.document import AuditDocument

AUDITS = Path("audits")
FLAG_OF = {"bank": "data"}


def add_flags(p: Any) -> None:
    """Add the flags of `lvm audit`."""
    p.add_argument("--data", type=Path, metavar="BANK", help="default: the bundled sample")
    p.add_argument("--train", type=Path, metavar="NPZ", help="train windows, the report's format")
    p.add_argument("--eval", type=Path, metavar="NPZ", help="evaluation windows, same format")
    p.add_argument("--payload", type=Path, metavar="P", help="the vectors to be retrieved")
    p.add_argument("--checkpoint", type=Path, metavar="C", help="a checkpoint folder or .pt file")
    p.add_argument("--predictions", type=Path, metavar="NPY", help="one row per eval window")
    p.add_argument("--seen", type=Path, metavar="FILE", help="articles that the model has read")
    p.add_argument("--index", type=Path, metavar="I", help="your index: .faiss, or its rows")
    p.add_argument(
        "--encoder",
        nargs="?",
        const="",
        metavar="NAME",
        help="embed a few texts again (default NAME: the manifest's)",
    )
    p.add_argument("--texts", type=Path, metavar="FILE", help="the documents, for --encoder")
    p.add_argument("--recipe", type=Path, metavar="FILE", help="gates and context length")
    p.add_argument("--plugin", action="append", metavar="FILE.py", help="import your parts first")
    p.add_argument("--preset", metavar="NAME", help="of the gates (default: laptop)")
    p.add_argument("--allow", action="append", default=[], metavar="CODE", help="override a code")
    p.add_argument("--repair", type=Path, metavar="OUT", help="write repaired files")
    p.add_argument("--out", type=Path, metavar="DIR", help="new folder (default: audits/N)")


def audit(args: Any) -> int:
    """Audit what is named, print and write what was found, and repair it where asked to."""
    from lvm.audit.session import with_command
    from lvm.data.load import DataRequest
    from lvm.presets import load_config

    load_given(args.plugin or ())
    config = load_config(args.preset or "laptop", args.recipe)
    if args.out is not None:
        free_folder(args.out)
    request = DataRequest(
        bank=args.data, train=args.train, evaluation=args.eval, payload=args.payload
    )
    material, found, document = audited(request, config, args)
    document = with_command(document, _command(args), "repaired")
    out = make_folder(args.out) if args.out is not None else next_folder(AUDITS)
    _report(document, out)
    if args.repair is None:
        return int(found.verdict.exit_status)
    return _repair(material, config, args, out)


def audited(request: Any, config: RunConfig, args: Any) -> tuple[Any, Any, AuditDocument]:
    """Return material, audit and document of what is named."""
    from lvm.audit.open import open_material
    from lvm.audit.session import complete, own_data, run_audit
    from lvm.data.load import DataRequest
    from lvm.terminal.audit import AuditProgress
    from lvm.triage.step import steps_in_order

    material = open_material(request, config, whole=False)
    if request == DataRequest() and args.checkpoint is not None:
        material = own_data(material, args.checkpoint)
    material = complete(
        material,
        checkpoint=args.checkpoint,
        predictions=args.predictions,
        index=args.index,
        encoder=args.encoder,
        texts=args.texts,
        seen=args.seen,
    )
    steps = steps_in_order()
    with AuditProgress(sys.stderr) as progress:
        found, document = run_audit(
            material, allowed=args.allow, progress=progress, steps=steps, thorough=True
        )
    return material, found, document


def _report(document: AuditDocument, out: Path) -> None:
    from lvm.report.markdown import write_audit_report
    from lvm.terminal.audit import print_audit

    make_folder(out)
    write_json(out / "audit.json", to_plain(document))
    path = write_audit_report(document, out)
    print_audit(document, sys.stdout)
    print(f"report: {shown(path)} (and report.html, audit.json beside it)")


def _repair(material: Any, config: RunConfig, args: Any, out: Path) -> int:
    """Write repaired files and audit them as they are then."""
    from lvm.audit.repair import repair
    from lvm.data.load import DataRequest

    repaired = repair(material, args.repair)
    print()
    for step in repaired.steps:
        print(f"repaired: {step}")
    for reason, count in repaired.dropped:
        print(f"not repaired: {count} rows, {reason}")
    for name, path in repaired.files.items():
        print(f"written: {name} {shown(path)}")
    given = {"bank": args.data, "train": args.train, "eval": args.eval, "payload": args.payload}
    files = {**given, **repaired.files}
    request = DataRequest(
        bank=files["bank"],
        train=files["train"],
        evaluation=files["eval"],
        payload=files["payload"],
    )
    print("\naudit of the repaired files:")
    # What was given beside the files belongs to the windows as they were.
    for name in ("checkpoint", "predictions", "seen", "index"):
        setattr(args, name, None)
    _, found, document = audited(request, config, args)
    _report(document, out / "repaired")
    named = {FLAG_OF.get(name, name): path for name, path in files.items()}
    asked = {name: getattr(args, name) for name in ("recipe", "plugin", "preset")}
    print(f"next: {triage_command({**named, **asked})}")
    return int(found.verdict.exit_status)


def _command(args: Any) -> str:
    """Return the audit as it was asked for, without what a repair adds."""
    names = ("data", "train", "eval", "payload", "recipe", "plugin", "preset")
    return f"{lvm_command()} audit {typed({name: getattr(args, name) for name in names})}".rstrip()
