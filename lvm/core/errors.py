"""Every exception that this package raises on purpose.

    LvmError                    base; carries the exit status of the command
    |-- UsageError              a flag, preset, folder or combination of them that cannot work
    |-- ConfigError             a recipe with an unknown key or a value out of range
    |-- PluginError             code from outside that is not there, fails or registers nothing
    |-- DataError               a file that is missing, unreadable, or not what its format promises
    |   |-- SchemaError         a readable file whose arrays are missing, misnamed or misshapen
    |   |-- SplitError          splits that share an article
    |   `-- UnsafePayloadError  a pickle that holds anything but plain containers and numpy arrays
    |-- CheckpointError         weights or a manifest that do not fit the model they name
    |-- MissingExtraError       an optional dependency that is not installed
    |-- DeviceError             a GPU that a process was told to use and does not have
    |-- ResumeError             a run folder that cannot be continued as asked
    |-- RunBusyError            a run folder that another process drives
    |-- RunTakenError           a run that another process took over from this one
    |-- ClusterError            a Ray cluster that cannot be reached or lacks what the run needs
    |   `-- ClusterLostError    a cluster that went away during a run, which can be resumed
    |-- TrainerError            a person's own trainer that writes what cannot be judged
    |-- TrainerDiedError        a person's own trainer whose process ended with an error
    |-- NonFiniteLossError      training stopped before an update that would have spoilt the weights
    `-- ProgramError            an error of the program itself; its traceback is kept in a file

A message says in one sentence what is wrong, what was got and what to do.
"""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What the status of a command means. 1 is always a verdict of the triage."""

    OK = 0
    NOT_FIXED = 1
    USAGE = 2
    BLOCKED = 3
    TOO_LITTLE = 4
    PROGRAM = 70  # EX_SOFTWARE of sysexits.h
    LOST = 75  # EX_TEMPFAIL of sysexits.h: try again, and it may work
    INTERRUPTED = 130  # a shell's status for Ctrl-C
    BROKEN_PIPE = 141  # a shell's status for SIGPIPE

    @property
    def meaning(self) -> str:
        """Why the triage ends with this status, as its help words it."""
        return {
            "OK": "PASSED or FIXED",
            "NOT_FIXED": "NOT_FIXED or INCONCLUSIVE",
            "USAGE": "bad usage, unreadable input or no space left",
            "BLOCKED": "BLOCKED by the audit",
            "TOO_LITTLE": "too little data to check (lvm audit)",
            "PROGRAM": "an internal error",
            "LOST": "the cluster was lost or another process took the run over (resumable)",
            "INTERRUPTED": "interrupted by Ctrl-C or SIGTERM (resumable)",
            "BROKEN_PIPE": "nothing reads the output any more",
        }[self.name]


class LvmError(Exception):
    """Base of all foreseeable failures; commands print it without a traceback."""

    exit_status: int = ExitStatus.USAGE


class UsageError(LvmError):
    """The command line asks for something that cannot be done."""


class ConfigError(LvmError):
    """A recipe or preset is not valid."""


class PluginError(LvmError):
    """Code from outside the package cannot be imported, or is not the same everywhere."""


class DataError(LvmError):
    """An input file is missing, unreadable or breaks its format."""


class SchemaError(DataError):
    """A file can be read, but its arrays are not those of its format: what was seen, what to do.

    `allowed` is what was expected, empty where `seen` says it.
    """

    def __init__(self, seen: str, todo: str = "", *, allowed: str = "") -> None:
        expected = f"{seen}, expected {allowed}" if allowed else seen
        super().__init__(f"{expected}; {todo}" if todo else expected)
        self.seen, self.allowed, self.todo = seen, allowed, todo


class SplitError(DataError):
    """Two splits share an article."""


class UnsafePayloadError(DataError):
    """A pickled payload names a class or function outside the allow-list."""


class CheckpointError(LvmError):
    """A checkpoint does not fit the model or data it is used with."""


class MissingExtraError(LvmError):
    """An optional dependency is needed and absent."""

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        what = f"'lvm[{extra}]'" if extra else package
        super().__init__(
            f"{purpose} needs {package}, which is not installed; run pip install {what}."
        )


class DeviceError(LvmError):
    """A process was told to use a GPU that it does not have."""


class ResumeError(LvmError):
    """A run folder holds another run, or its data or configuration changed."""


class RunBusyError(LvmError):
    """Another process drives the run folder."""


class RunTakenError(LvmError):
    """Another process has taken over the run because this one was silent for too long."""

    exit_status = ExitStatus.LOST


class ClusterError(LvmError):
    """The Ray cluster is out of reach or lacks resources."""


class ClusterLostError(ClusterError):
    """The cluster went away while the run was going on."""

    exit_status = ExitStatus.LOST


class TrainerError(LvmError):
    """A person's own trainer broke the contract of its files."""


class TrainerDiedError(LvmError):
    """The process of a person's own trainer ended with an error."""


class NonFiniteLossError(LvmError):
    """The loss or a gradient is NaN or infinite; no update was made from it."""


class ProgramError(LvmError):
    """The program itself failed; the message says where the traceback is."""

    exit_status = ExitStatus.PROGRAM


class RunInterrupted(KeyboardInterrupt):
    """A job that was interrupted; its work is kept, and the message says how to continue."""
