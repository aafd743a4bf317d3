"""What a .pt file holds besides tensors: read where it is a number, and otherwise left out by name.

A file of torch.save is a pickle. torch's reader for weights alone runs nothing that it is not told
to; here every other name that a file uses stands for something passive, so that a NumPy number, a
path or a dataclass besides the weights does not keep the weights from being read.
"""

from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

from lvm.core.plain_json import Json
from lvm.data.pickled import ADMITTED_GLOBALS

# Who names one of these wants something to happen when the file is read.
RUNNING = (
    "posix",
    "nt",
    "os",
    "subprocess",
    "sys",
    "shutil",
    "socket",
    "importlib",
    "runpy",
    "ctypes",
    "pty",
    "platform",
    "webbrowser",
    "code",
    "codeop",
    "pickle",
    "marshal",
    "operator",
    "functools",
    "asyncio",
    "multiprocessing",
    "threading",
    "signal",
    "pip",
    "timeit",
    "cProfile",
    "pdb",
)
RUNNING_BUILTINS = (
    "eval",
    "exec",
    "compile",
    "__import__",
    "getattr",
    "setattr",
    "delattr",
    "open",
    "input",
    "breakpoint",
    "globals",
    "locals",
    "vars",
    "map",
    "filter",
)


StandIn = Callable[..., object]  # for a name of a file


class LeftOut:
    """Stands for an object of a class that is not imported; takes whatever is put into it."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass


def _dictionary(*_: object) -> dict[object, object]:
    """Stand for collections.defaultdict: what it makes of missing keys is left out."""
    return {}


def _sequence(*_: object) -> list[object]:
    """Stand for collections.deque."""
    return []


_PATHS: dict[str, StandIn] = {  # pure paths hold text and never touch a disk
    f"{module}.{name}": passive
    for module in ("pathlib", "pathlib._local")  # Python 3.13 wrote the second
    for passive, names in (
        (pathlib.PurePosixPath, ("PosixPath", "PurePosixPath")),
        (pathlib.PureWindowsPath, ("WindowsPath", "PureWindowsPath")),
    )
    for name in names
}
_READ: dict[str, StandIn] = {
    **_PATHS,
    **{
        f"{module}.{name}": reader
        for (module, name), reader in ADMITTED_GLOBALS.items()
        if module.startswith("numpy") or module == "_codecs"
    },
    "argparse.Namespace": argparse.Namespace,
    "types.SimpleNamespace": argparse.Namespace,
    "collections.defaultdict": _dictionary,
    "collections.deque": _sequence,
    "builtins.list": list,
    "builtins.dict": dict,
    "builtins.int": int,
    "builtins.float": float,
    "builtins.frozenset": frozenset,
}


def running(names: Iterable[str]) -> list[str]:
    """Return those names of a file that could run something."""
    return sorted(name for name in names if _runs(name))


def _runs(name: str) -> bool:
    module, _, last = name.rpartition(".")
    top = module.partition(".")[0]
    return top in RUNNING or (top in ("builtins", "__builtin__") and last in RUNNING_BUILTINS)


def stand_ins(names: Iterable[str]) -> list[StandIn | tuple[StandIn, str]]:
    """Return a pair of class and name for each name, as safe_globals of torch takes them."""
    return [(_READ.get(name) or _left_out(name), name) for name in names]


def _left_out(name: str) -> type:
    return type(name.rpartition(".")[2], (LeftOut,), {"name": name})


def left_out(names: Iterable[str]) -> list[str]:
    """Return those names whose objects are not read."""
    return sorted(name for name in names if name not in _READ)


def plain(value: object) -> Json:
    """Return a value as JSON knows it; what has no such form becomes the name of its type."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if type(value) in ADMITTED_GLOBALS.values() and hasattr(value, "value"):
        return _of_numpy(value.value)
    if isinstance(value, argparse.Namespace):
        return plain(vars(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _of_numpy(value: object) -> Json:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufU":
        found: Json = value.tolist()
        return found
    return f"<{type(value).__name__}>"


def number(value: Json) -> float | None:
    """Return a finite number, None for anything else."""
    if isinstance(value, int | float) and type(value) is not bool and math.isfinite(value):
        return float(value)
    return None
