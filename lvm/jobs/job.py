"""One process that drives one run from its current state to its verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lvm.audit.document import AuditDocument
from lvm.audit.material import Material
from lvm.audit.session import run_audit, with_command
from lvm.core.command import answering, lvm_command
from lvm.core.config.run import RunConfig
from lvm.core.errors import ClusterError, ClusterLostError, LvmError, RunInterrupted, RunTakenError
from lvm.core.printed import resume_command
from lvm.core.provenance import code_version, git_commit
from lvm.core.records import RunVerdict
from lvm.core.signals import end_was_asked_for, held_signals, whole
from lvm.data.windows import Dataset
from lvm.jobs import request as asked
from lvm.jobs.audience import Audience
from lvm.jobs.ending import not_uploaded_line, print_blocked, print_verdict, write_views
from lvm.jobs.options import TriageOptions
from lvm.jobs.own import keep_files, trainer_code
from lvm.jobs.results import TriageResult
from lvm.jobs.start import data_of, data_seen, predicted_time, started
from lvm.jobs.steps import chosen_steps
from lvm.jobs.writer import Writer
from lvm.triage.events import (
    Audited,
    Decision,
    Forecast,
    Interrupted,
    Nodes,
    Resumed,
    RunStarted,
    event_of,
)
from lvm.triage.journal import Journal
from lvm.triage.local_head import LocalHead
from lvm.triage.lock import Lock
from lvm.triage.on_ray import RayExecutor
from lvm.triage.preflight import check_config, check_dataset, dataset_of
from lvm.triage.request import Request, identity
from lvm.triage.step import steps_in_order
from lvm.triage.summary import Summary
from lvm.triage.triage import Triage
from lvm.triage.verdict import build_verdict
from lvm.views.terminal import Screen
from lvm.views.terminal.audit import AuditProgress
from lvm.views.tracking import Tracker


class Job:
    """One process's part of a run; `run` is its main path."""

    def __init__(
        self,
        options: TriageOptions,
        command: str,
        config: RunConfig,
        lock: Lock,
        journal: Journal,
        audience: Audience,
        head: LocalHead | None = None,
    ) -> None:
        self._options, self._command, self._config = options, command, config
        self._journal, self._audience = journal, audience
        self._writer = Writer(journal, lock, audience.lines)
        storage, schedule = journal.folder / "tune", config.schedule
        self._executor = RayExecutor(storage, address=options.address, schedule=schedule, head=head)
        self._trainer = trainer_code(config, options.recipe, journal.folder)

    def run(self) -> TriageResult:
        """Run to the verdict; RunInterrupted or an LvmError where the run can be resumed."""
        try:
            with answering(self._place, self._then):
                return self._run()
        except KeyboardInterrupt:
            self._leave("interrupted")
            raise RunInterrupted(f"interrupted; {self._then()}") from None
        except ClusterLostError as error:
            self._leave("the cluster was lost", since=str(error))
            raise
        except RunTakenError:  # the views and the MLflow runs belong to another process now
            raise
        except ClusterError as error:
            self._close(None)
            raise ClusterError(f"{error} Then {self._then()}") from None
        except BaseException:
            self._close(None)
            raise
        finally:
            self._stop_ray()

    def _run(self) -> TriageResult:
        config, material = asked.opened(self._options, self._config)
        check_config(config, material.width or 1)
        audited = self._journal.events.last(Audited)
        audit = audited.audit if audited is not None else self._audit(material)
        if audit.route.blocked:
            return self._blocked(config, material, audit)
        self._executor.begin()  # a resumed run skips the audit, which begins it otherwise
        dataset, source = dataset_of(material, config.recipe.context_length)
        check_dataset(config, dataset)
        request = asked.of_walk(self._options, config, material, audit, self._journal.folder)
        if self._trainer is not None:
            request = replace(request, trainer=self._trainer.digests)
        first = self._first_event(request, dataset, source)
        with Screen(self._audience.progress) as screen:
            self._walk(request, dataset, audit, first, screen)
        return self._finish()

    # --- before the walk -------------------------------------------------------------------------

    def _audit(self, material: Material) -> AuditDocument:
        allowed = self._options.allow
        with AuditProgress(self._audience.progress) as progress:
            begin = self._executor.begin  # it takes as long as the audit
            _, document = run_audit(
                material, allowed=allowed, progress=progress, steps=steps_in_order(), then=begin
            )
        command = f"{lvm_command()} audit {asked.audit_flags(self._options)}".rstrip()
        return with_command(document, command, "repaired")

    def _first_event(self, request: Request, dataset: Dataset, source: str) -> RunStarted | Resumed:
        """Return the content of this process's first event; ResumeError when the run changed."""
        own = identity(request, dataset.fingerprint)
        if not self._journal.events:
            data = data_of(dataset, source)
            return started(self._options, self._command, request, data, own)
        asked.refuse_changes(self._journal, own, request.code, self._options)
        return event_of(
            Resumed,
            command=self._command,
            address=self._options.address,
            arguments=asked.arguments(self._options),
        )

    # --- the walk --------------------------------------------------------------------------------

    def _walk(
        self,
        request: Request,
        dataset: Dataset,
        audit: AuditDocument,
        first: RunStarted | Resumed,
        screen: Screen,
    ) -> None:
        """Carry out the tree on Ray."""
        writer, journal, executor = self._writer, self._journal, self._executor
        is_new = not journal.events
        writer.tracker = Tracker(journal.folder)
        for event in list(journal.events):
            screen.event(event)
        writer.screen = screen
        writer.note(first)
        if journal.events.last(Audited) is None:
            writer.note(Audited(audit=audit))
        longer = request.all_steps or request.extended or request.more_seeds
        ours = self._trainer is None  # how long other code takes is not known
        if ours and longer and journal.events.last(Forecast) is None:
            expected = predicted_time(request, dataset)
            with self._audience.heard():
                screen.say(expected.in_words(), "bold")
            writer.note(expected.in_journal())
        triage = Triage(request, dataset, executor, journal, writer.note)
        with self._forgotten_without_ray(is_new):
            executor.start()
        if executor.nodes:
            writer.note(event_of(Nodes, nodes=executor.nodes))
        with self._audience.heard():
            screen.say(f"arms run on {executor.describe()}", "dim")
        with keep_files(self._trainer, journal.folder):
            triage.run()
        self._stop_ray()

    @contextlib.contextmanager
    def _forgotten_without_ray(self, is_new: bool) -> Iterator[None]:
        """Undo a new run whose cluster does not start: its folder holds nothing to continue from.

        An interruption is not a failure: such a run can be resumed.
        """
        try:
            yield
        except Exception:
            if is_new and not end_was_asked_for():
                self._writer.tracker = None
                self._journal.discard()
            raise

    # --- the end ---------------------------------------------------------------------------------

    def _blocked(self, config: RunConfig, material: Material, audit: AuditDocument) -> TriageResult:
        """Write a run that ended before anything was started, and print why."""
        journal, note = self._journal, self._writer.note
        if not journal.events:
            request = Request(
                config=config,
                out=journal.folder,
                steps=chosen_steps(self._options, config).steps,
                code=code_version(),
                commit=git_commit(),
            )
            data = data_seen(material)
            note(started(self._options, self._command, request, data, {}))
        if journal.events.last(Audited) is None:
            note(Audited(audit=audit))
            codes = audit.route.blocked
            stop = Decision(
                action="Stop",
                verdict=RunVerdict.BLOCKED,
                cause=codes[:1],
                since=f"the audit found {', '.join(codes)}",
            )
            note(stop)
        document = self._document()
        report = write_views(journal, document)
        self._audience.lines.verdict(document)
        with self._audience.heard():
            print_blocked(audit, report, self._audience.answer)
        return self._result(document, report)

    def _finish(self) -> TriageResult:
        """Write the verdict, the report and the MLflow runs, print the one screen."""
        document = self._document()
        if document.verdict is None:
            raise RuntimeError("the run ended, but the journal holds no verdict")
        report = write_views(self._journal, document)
        self._audience.lines.verdict(document)
        with self._audience.heard():
            print_verdict(document, report, self._options, self._audience.answer)
        self._close(document)  # last, so that nobody waits for the upload of a model
        tracker = self._writer.tracker
        problem = tracker.problem if tracker is not None and tracker.problem else ""
        if problem:
            with self._audience.heard():
                Screen(self._audience.answer).say(not_uploaded_line(problem), "yellow")
        return replace(self._result(document, report), not_uploaded=problem)

    def _leave(self, word: str, since: str = "") -> None:
        """End this process's part of a run that can be resumed, the most important steps first."""
        if not self._journal.events:
            with self._audience.heard():
                again = asked.again(self._options)
                self._say(f"{word} before the run began; start it with: {again}")
            return
        with contextlib.suppress(LvmError):  # the disk is full; the journal can do without it
            self._writer.end(Interrupted(since=since))
        with self._audience.heard():
            self._say(f"{word}; {self._then()}")
        with contextlib.suppress(LvmError, OSError):  # both can be written again: lvm report
            document = self._document()
            write_views(self._journal, document)
            self._audience.lines.verdict(document)
        # Some schedulers allow three seconds, which importing MLflow would use up: Ray ends first.
        tracker = self._writer.tracker
        if tracker is not None and not tracker.connected:
            self._stop_ray()
        self._close(None)
        self._stop_ray()

    def _say(self, line: str) -> None:
        print(line, file=self._audience.answer)

    def _result(self, document: Summary, report: Path) -> TriageResult:
        journal = self._journal
        return TriageResult(
            summary=document, folder=journal.folder, report=report, events=journal.events
        )

    def _document(self) -> Summary:
        resume = resume_command(self._journal.folder, self._options.address, kept=True)
        return build_verdict(self._journal.events, resume=resume)

    def _close(self, document: Summary | None) -> None:
        if self._writer.tracker is not None:
            self._writer.tracker.close(self._journal.events, document)

    def _stop_ray(self) -> None:
        with whole(), held_signals():
            self._executor.stop()

    def _place(self) -> Path | None:
        """Return the folder for the traceback of an error."""
        return self._journal.folder if self._journal.events else None

    def _then(self) -> str:
        """Return what to type after an end without a verdict."""
        if not self._journal.events:
            return f"start again with: {asked.again(self._options)}"
        return f"continue with: {resume_command(self._journal.folder, self._options.address)}"
