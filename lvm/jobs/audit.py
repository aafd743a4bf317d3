"""`lvm audit`: what no training can fix, found before any training."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from lvm.audit.document import AuditDocument
from lvm.audit.material import Material
from lvm.audit.open import open_material
from lvm.audit.repair import repair
from lvm.audit.run import Audit
from lvm.audit.session import complete, own_data, run_audit, with_command
from lvm.command import free_folder, lvm_command, make_folder, next_folder, shown
from lvm.config.run import RunConfig
from lvm.data.load import DataRequest
from lvm.files import write_json
from lvm.jobs.options import AuditOptions
from lvm.plugins import load_given
from lvm.presets import DEFAULT_PRESET, load_config
from lvm.printed import triage_command, typed
from lvm.records import to_plain
from lvm.report.markdown import write_audit_report
from lvm.terminal.audit import AuditProgress, print_audit
from lvm.triage.step import steps_in_order

AUDITS = Path("audits")


def run(options: AuditOptions) -> int:
    """Audit what is named, print and write what was found, and repair it where asked to."""
    load_given(options.plugin)
    config = load_config(options.preset or DEFAULT_PRESET, options.recipe)
    if options.out is not None:
        free_folder(options.out)
    material, found, document = audited(options, config)
    document = with_command(document, _command(options), "repaired")
    out = make_folder(options.out) if options.out is not None else next_folder(AUDITS)
    _report(document, out)
    if options.repair is None:
        return int(found.verdict.exit_status)
    return _repair(material, config, options, out)


def audited(options: AuditOptions, config: RunConfig) -> tuple[Material, Audit, AuditDocument]:
    """Return material, audit and document of what is named."""
    request = DataRequest(
        bank=options.data, train=options.train, evaluation=options.eval, payload=options.payload
    )
    material = open_material(request, config, whole=False)
    if request == DataRequest() and options.checkpoint is not None:
        material = own_data(material, options.checkpoint)
    material = complete(
        material,
        checkpoint=options.checkpoint,
        predictions=options.predictions,
        index=options.index,
        encoder=options.encoder,
        texts=options.texts,
        seen=options.seen,
    )
    steps = steps_in_order()
    with AuditProgress(sys.stderr) as progress:
        found, document = run_audit(
            material, allowed=options.allow, progress=progress, steps=steps, thorough=True
        )
    return material, found, document


def _report(document: AuditDocument, out: Path) -> None:
    make_folder(out)
    write_json(out / "audit.json", to_plain(document))
    path = write_audit_report(document, out)
    print_audit(document, sys.stdout)
    print(f"report: {shown(path)} (with report.html and audit.json)")


def _repair(material: Material, config: RunConfig, options: AuditOptions, out: Path) -> int:
    """Write repaired files and audit them as they are then."""
    assert options.repair is not None
    repaired = repair(material, options.repair)
    print()
    for step in repaired.steps:
        print(f"repaired: {step}")
    for reason, count in repaired.dropped:
        print(f"not repaired: {count} rows, {reason}")
    for name, path in repaired.files.items():
        print(f"written: {name} {shown(path)}")
    print("\naudit of the repaired files:")
    now = replace(
        options,
        data=repaired.files.get("bank", options.data),
        train=repaired.files.get("train", options.train),
        eval=repaired.files.get("eval", options.eval),
        payload=repaired.files.get("payload", options.payload),
        # What was given with the files belongs to the windows as they were.
        checkpoint=None,
        predictions=None,
        seen=None,
        index=None,
    )
    _, found, document = audited(now, config)
    _report(document, out / "repaired")
    print(f"next: {triage_command(_named(now))}")
    return int(found.verdict.exit_status)


def _command(options: AuditOptions) -> str:
    """Return the audit as it was asked for, without what a repair adds."""
    return f"{lvm_command()} audit {typed(_named(options))}".rstrip()


def _named(options: AuditOptions) -> dict[str, object]:
    names = ("data", "train", "eval", "payload", "recipe", "plugin", "preset")
    return {name: getattr(options, name) for name in names}
