"""How every command ends: one sentence, an exit status, and a traceback where it can be read."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import tempfile
from pathlib import Path

import pytest

from lvm.audit.run import AuditVerdict
from lvm.core.command import ERROR_FILE, answering, next_folder, run_command, statuses
from lvm.core.errors import (
    ClusterLostError,
    ExitStatus,
    LvmError,
    NonFiniteLossError,
    ProgramError,
    RunTakenError,
    UsageError,
)
from lvm.core.files import write_json, write_whole
from lvm.core.records import RunVerdict


def ended(capsys, error: BaseException) -> tuple[int, str]:
    """The status and the words of a command that raises."""

    def main(argv: object) -> int:
        raise error

    status = run_command(main, [])
    captured = capsys.readouterr()
    assert captured.out == ""
    return status, captured.err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("a"), 2),
        (NonFiniteLossError("a"), 2),
        (ClusterLostError("a"), 75),
        (RunTakenError("a"), 75),
        (ProgramError("a"), 70),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (OSError(errno.EROFS, "Read-only file system"), 2),
        (ZeroDivisionError("a"), 70),
        (ModuleNotFoundError("No module named 'torch'"), 70),
        (OSError(errno.EIO, "I/O"), 70),
        (MemoryError(), 70),
        (BrokenPipeError(), 141),
    ],
)
def test_every_end_has_its_status_and_only_a_verdict_has_1(error, status, capsys, tmp_path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path))
        code, words = ended(capsys, error)
    assert code == status
    assert words.count("\n") == (0 if isinstance(error, BrokenPipeError) else 1)
    assert "Traceback" not in words


def test_the_verdicts_of_triage_and_audit_have_statuses_of_their_own() -> None:
    triage = {verdict.value: verdict.exit_status for verdict in RunVerdict}
    assert triage == {
        "PASSED": 0,
        "FIXED": 0,
        "NOT_FIXED": 1,
        "INCONCLUSIVE": 1,
        "BLOCKED": 3,
    }
    audit = {verdict.value: verdict.exit_status for verdict in AuditVerdict}
    assert audit == {"CLEAN": 0, "WARNINGS": 0, "BLOCKED": 3, "UNSURE": 70, "NOT_EVALUABLE": 4}


def classes(root: type[LvmError]) -> list[type[LvmError]]:
    return [root, *(c for child in root.__subclasses__() for c in classes(child))]


def test_no_error_has_the_status_of_a_verdict() -> None:
    found = {error.__name__: error.exit_status for error in classes(LvmError)}
    assert len(found) > 10
    assert set(found.values()) == {2, 70, 75}


def test_help_says_every_status() -> None:
    words = statuses()
    assert all(f"{status.value} {status.meaning}" in words for status in ExitStatus)
    own = statuses([ExitStatus.OK], {ExitStatus.OK: "trained"})
    assert own == "exit status: 0 trained"


def test_sigterm_ends_any_command_with_130(capsys) -> None:
    def main(argv: object) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    assert run_command(main, []) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "consequence", [SystemError("returned a result with an exception set"), ClusterLostError("x")]
)
def test_what_fails_after_a_signal_is_no_error_of_its_own(consequence, capsys, tmp_path) -> None:
    """Ray's compiled code turns an interrupt into a SystemError, or its processes had it too."""

    def main(argv: object) -> int:
        with answering(lambda: tmp_path):
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            raise consequence

    assert run_command(main, []) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert list(tmp_path.iterdir()) == []


# --- tracebacks -----------------------------------------------------------------------------------


def test_an_error_of_the_program_is_a_sentence_and_its_traceback_is_in_the_run_folder(
    tmp_path,
) -> None:
    def broken() -> None:
        raise TypeError("unsupported operand\nand more")

    for _ in range(2):
        with (
            pytest.raises(ProgramError) as failed,
            answering(lambda: tmp_path, lambda: "continue with: lvm x"),
        ):
            broken()
    path = tmp_path / ERROR_FILE
    assert str(failed.value) == (
        f"lvm failed: TypeError: unsupported operand; the traceback is in {path}; "
        "continue with: lvm x"
    )
    text = path.read_text()
    assert text.count("Traceback (most recent call last)") == 2  # an earlier one is kept
    assert "in broken" in text


def test_without_a_run_folder_it_is_in_a_temporary_file(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    status, words = ended(capsys, KeyError("lost"))
    (path,) = tmp_path.iterdir()
    assert status == 70
    assert f"lvm failed: KeyError: 'lost'; the traceback is in {path};" in words
    assert "KeyError: 'lost'" in path.read_text()


def test_where_no_file_can_be_written_the_traceback_is_printed(
    tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    status, words = ended(capsys, KeyError("lost"))
    assert status == 70
    assert words.startswith("Traceback (most recent call last)")
    assert words.splitlines()[-1].startswith("error: lvm failed: KeyError")


def test_a_disk_that_is_full_is_named_with_what_to_do(tmp_path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "report.md"))
    with pytest.raises(UsageError) as refused, answering(then=lambda: "continue with: lvm x"):
        raise full
    assert str(refused.value) == (
        f"{tmp_path / 'report.md'} is refused (No space left on device); free some space or choose "
        "another --out, then continue with: lvm x"
    )


# --- files and folders ----------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_file_is_replaced_whole_or_not_at_all(stop, tmp_path, monkeypatch) -> None:
    path = tmp_path / "verdict.json"
    write_json(path, {"a": 1})

    def refused(file: int) -> None:
        raise stop

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(type(stop)):
        write_json(path, {"a": 2})
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_document_without_json_numbers_is_refused_and_odd_text_is_written(tmp_path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    write_whole(tmp_path / "a.md", "half a sign: \ud83d")
    assert (tmp_path / "a.md").read_text() == "half a sign: \\ud83d"


def test_two_processes_that_ask_at_once_get_a_number_each(tmp_path, monkeypatch) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    real, others = Path.mkdir, [tmp_path / "8"]

    def mkdir(path: Path, *args: object, **kwargs: object) -> None:
        if others and path == others[0]:  # another process is faster by an instant
            real(others.pop())
        real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert next_folder(tmp_path) == tmp_path / "9"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["7", "8", "9", "notes"]
