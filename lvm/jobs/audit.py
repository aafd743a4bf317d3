"""`lvm audit`: find what no training can fix, before any training."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from lvm.audit.material import Material
from lvm.audit.open import open_material
from lvm.audit.repair import Repaired, repair
from lvm.audit.session import complete, own_data, run_audit, with_command
from lvm.core.command import free_folder, lvm_command, make_folder, next_folder, shown
from lvm.core.config.run import RunConfig
from lvm.core.files import write_json
from lvm.core.plugins import load_given
from lvm.core.printed import Flag, triage_command, typed
from lvm.core.records import to_plain
from lvm.data.load import DataRequest
from lvm.jobs.audience import Audience, at_terminal
from lvm.jobs.options import AuditOptions
from lvm.jobs.presets import DEFAULT_PRESET, load_config
from lvm.jobs.results import AuditResult
from lvm.triage.step import steps_in_order
from lvm.views.report.markdown import write_audit_report
from lvm.views.terminal.audit import AuditProgress, print_audit

AUDITS = Path("audits")


@dataclass(frozen=True, kw_only=True, eq=False)
class Audited:
    """A finished audit, with what a repair of its files needs."""

    result: AuditResult
    material: Material
    config: RunConfig
    options: AuditOptions


def run(options: AuditOptions) -> int:
    """Audit what is named, print and write what was found, and repair it where asked to."""
    audience = at_terminal()
    first = audited(options, audience)
    _print(first.result)
    if options.repair is None:
        return first.result.exit_status
    done = repair(first.material, options.repair)
    _print_repair(done)
    after = audited_again(first, done, audience)
    _print(after.result)
    print(f"next: {triage_command(_named(after.options))}")
    return after.result.exit_status


def audit(options: AuditOptions, audience: Audience) -> AuditResult:
    """Audit what is named and repair it where asked to; return what was found."""
    first = audited(options, audience)
    if options.repair is None:
        return first.result
    done = repair(first.material, options.repair)
    after = audited_again(first, done, audience)
    return replace(first.result, repaired=done, after=after.result)


def audited(options: AuditOptions, audience: Audience) -> Audited:
    """Audit what is named and write the report."""
    load_given(options.plugin)
    config = load_config(options.preset or DEFAULT_PRESET, options.recipe)
    if options.out is not None:
        free_folder(options.out)
    return _audited(options, config, audience, None)


def audited_again(first: Audited, done: Repaired, audience: Audience) -> Audited:
    """Audit repaired files; the report goes into the folder of the first audit."""
    options = first.options
    now = replace(
        options,
        data=done.files.get("bank", options.data),
        train=done.files.get("train", options.train),
        eval=done.files.get("eval", options.eval),
        payload=done.files.get("payload", options.payload),
        # What was given with the files belongs to the unrepaired windows.
        checkpoint=None,
        predictions=None,
        seen=None,
        index=None,
    )
    return _audited(now, first.config, audience, first.result.folder / "repaired")


def _audited(
    options: AuditOptions, config: RunConfig, audience: Audience, folder: Path | None
) -> Audited:
    material = _material(options, config)
    with AuditProgress(audience.progress) as progress:
        _, document = run_audit(
            material,
            allowed=options.allow,
            progress=progress,
            steps=steps_in_order(),
            thorough=True,
        )
    if folder is None:
        document = with_command(document, _command(options), "repaired")
        folder = make_folder(options.out) if options.out is not None else next_folder(AUDITS)
    make_folder(folder)
    write_json(folder / "audit.json", to_plain(document))
    report = write_audit_report(document, folder)
    result = AuditResult(document=document, folder=folder, report=report)
    return Audited(result=result, material=material, config=config, options=options)


def _material(options: AuditOptions, config: RunConfig) -> Material:
    """Open what is named."""
    request = options.request
    material = open_material(request, config, whole=False)
    if request == DataRequest() and options.checkpoint is not None:
        material = own_data(material, options.checkpoint)
    return complete(
        material,
        checkpoint=options.checkpoint,
        predictions=options.predictions,
        index=options.index,
        encoder=options.encoder,
        texts=options.texts,
        seen=options.seen,
    )


def _print(result: AuditResult) -> None:
    print_audit(result.document, sys.stdout)
    print(f"report: {shown(result.report)} (with report.html and audit.json)")


def _print_repair(done: Repaired) -> None:
    print()
    for step in done.steps:
        print(f"repaired: {step}")
    for reason, count in done.dropped:
        print(f"not repaired: {count} rows, {reason}")
    for name, path in done.files.items():
        print(f"written: {name} {shown(path)}")
    print("\naudit of the repaired files:")


def _command(options: AuditOptions) -> str:
    """Return the command of the audit, without the flags of a repair."""
    return f"{lvm_command()} audit {typed(_named(options))}".rstrip()


def _named(options: AuditOptions) -> dict[str, Flag]:
    names = ("data", "train", "eval", "payload", "recipe", "plugin", "preset")
    return {name: getattr(options, name) for name in names}
