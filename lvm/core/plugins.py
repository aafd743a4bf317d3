"""Plug-ins: code from outside the package that registers parts, the same in every process of a run.

    --plugin FILE.py                       a file, which travels with the job
    --plugin MODULE, plugins = ["MODULE"]  a module or package, which every node has installed
    entry points of lvm.models, ...        of what is installed, always

A process imports them before it uses a registry (`load_given`, `load_modules`, `load_installed`);
its workers import the same (`packed`, `load_packed`). A plug-in is identified by its content.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import linecache
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

import msgspec

from lvm.core.errors import LvmError, PluginError
from lvm.core.outside import brief, printable, regular
from lvm.core.packages import OWN_PACKAGES
from lvm.core.registry import FILED

GROUPS = ("lvm.models", "lvm.terms", "lvm.steps", "lvm.checks", "lvm.metrics")  # entry points
PackedPlugins = list[dict[str, str | bytes | None]]  # plug-ins as values that another process reads


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One plug-in, imported here and on workers."""

    name: str  # what a person calls it: the name of a file without its folder, or of a module
    module: str  # name under which it is imported
    digest: str  # 12 hex digits that name its content
    source: bytes | None = None  # of a file, which may be missing where it is imported


_loaded: dict[str, Plugin] = {}  # what this process has imported, by name


def loaded() -> tuple[Plugin, ...]:
    """Return what this process has imported, in that order."""
    return tuple(_loaded.values())


def module_names() -> list[str]:
    """Return the names of those that are installed here, not given as files."""
    return [plugin.name for plugin in loaded() if plugin.source is None]


def digests() -> dict[str, str]:
    """Return the content of every plug-in of this process, by its name."""
    return {plugin.name: plugin.digest for plugin in sorted(loaded(), key=lambda p: p.name)}


def in_words(named: object) -> str:
    """Return for a sentence the plug-ins that a manifest states, with their digests."""
    stated = named if isinstance(named, Mapping) else {}
    found = [printable(f"{name} ({digest})") for name, digest in stated.items()]
    return ", ".join(found) or "none"


# --- what is loaded -------------------------------------------------------------------------------


def load_given(given: Iterable[str]) -> None:
    """Import what is installed with entry points, then what `--plugin` names: files and modules.

    Raises PluginError, as do all of these, where a plug-in is missing, its import fails, it
    registers nothing, or a name that it registers is taken.
    """
    load_installed()
    for name in given:
        if is_file(name):
            _load_file(Path(name))
        else:
            load_modules([name])


def is_file(given: str) -> bool:
    """Whether a plug-in is named by a path; else it is the name of a module."""
    return given.endswith(".py") or "/" in given


def load_modules(names: Sequence[str]) -> None:
    """Import modules or packages that are installed here."""
    for name in names:
        _load(Plugin(name=name, module=name, digest=_module_digest(name)))


def load_installed() -> None:
    """Import what installed distributions offer as entry points, each of them a module."""
    offered = {point.module: None for group in GROUPS for point in _entry_points(group)}
    load_modules(list(offered))


@functools.cache
def _entry_points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group=group))


def _load_file(path: Path) -> None:
    if path.suffix != ".py":
        raise PluginError(
            f"the plug-in {printable(str(path))} is not a .py file; give the path of one, or "
            "the name of a module."
        )
    try:
        source = regular(path).read_bytes()
    except OSError as error:
        raise PluginError(
            f"the plug-in {printable(str(path))} cannot be read ({error.strerror}); give the "
            "path of an existing .py file."
        ) from None
    _load(_of_source(path.name, source), path)


def _of_source(name: str, source: bytes) -> Plugin:
    digest = hashlib.sha256(source).hexdigest()[:12]
    return Plugin(name=name, module=f"lvm_plugin_{digest}", digest=digest, source=source)


# --- workers --------------------------------------------------------------------------------------


def packed() -> PackedPlugins:
    """Return what another process needs to import the same, in values that need no lvm."""
    return [asdict(plugin) for plugin in loaded()]


def load_packed(plugins: Iterable[Mapping[str, object]]) -> None:
    """Import what another process has packed; modules must be the same, files may be missing."""
    for plugin in (msgspec.convert(values, Plugin) for values in plugins):
        if plugin.source is None and (here := _module_digest(plugin.module)) != plugin.digest:
            raise PluginError(
                f"the plug-in {plugin.name} is {here} here but {plugin.digest} where the run "
                "started; install the same version here."
            )
        path = None if plugin.source is None else _kept(plugin)
        _load(plugin, path)


def _kept(plugin: Plugin) -> Path:
    """Return the path under which tracebacks and Triton find a file that came from elsewhere.

    Nothing is written: a worker that is killed would leave the file behind.
    """
    path = Path(f"<{plugin.name} {plugin.digest}>")
    lines = (plugin.source or b"").decode(errors="replace").splitlines(keepends=True)
    linecache.cache[str(path)] = (len(plugin.source or b""), None, lines, str(path))
    return path


# --- checkpoints ----------------------------------------------------------------------------------


def missing(stated: object) -> str:
    """Return in words the plug-ins of a manifest that this process lacks; "" where there are none.

    Another version is not refused: the outputs of the model show whether it fits.
    """
    wanted = stated if isinstance(stated, Mapping) else {}
    here = digests()
    lacking = {
        name: digest
        for name, digest in wanted.items()
        if name not in here and digest not in here.values()
    }
    if not lacking:
        return ""
    flags = printable(" ".join(f"--plugin {name}" for name in lacking))
    return f"trained with the plug-in {in_words(lacking)}, which is not loaded; add {flags}"


# --- one import -----------------------------------------------------------------------------------


def _load(plugin: Plugin, path: Path | None = None) -> None:
    """Import a plug-in once and keep it; `path` is where its source file is on this machine."""
    known = _loaded.get(plugin.name)
    if known == plugin:
        return
    if known is not None:
        raise PluginError(
            f"two plug-ins are named {plugin.name}, with the contents {known.digest} and "
            f"{plugin.digest}; rename one of them, or start a new process for a changed one."
        )
    run = functools.partial(_run_file, plugin, path) if path else importlib.import_module
    _imported(plugin, run, path)
    root = plugin.module.partition(".")[0]
    if not any(home.partition(".")[0] == root for _, home in FILED):
        raise PluginError(
            f"the plug-in {plugin.name} registers nothing; let it register a part, as in "
            '@MODELS.register("NAME"), or leave it out.'
        )
    _loaded[plugin.name] = plugin


def _imported(plugin: Plugin, run: Callable[[str], object], path: Path | None) -> None:
    """Import a plug-in, and the package's parts of the same kinds, to detect duplicate names."""
    before = len(FILED)
    try:
        run(plugin.module)
        for registry in {id(registry): registry for registry, _ in FILED[before:]}.values():
            registry.names()
    except LvmError as error:
        raise PluginError(f"the plug-in {plugin.name}: {error}") from None
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"the plug-in {plugin.name} cannot be imported: {type(error).__name__}"
            f"{_line(error, path or _origin(plugin.module))}: {_said(error)}; fix it or leave "
            "it out."
        ) from None


def _run_file(plugin: Plugin, path: Path, module: str) -> None:
    """Import the hashed bytes, and leave no cache next to the user's file."""
    made = types.ModuleType(module)
    made.__file__ = str(path)
    sys.modules[module] = made  # dataclasses look for it there
    try:
        code = compile(plugin.source or b"", str(path), "exec", dont_inherit=True)
        exec(code, vars(made))
    except BaseException:
        del sys.modules[module]
        raise


def _said(error: BaseException) -> str:
    """Return the message of an error in one short line, with control characters escaped."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return brief(said)[1:-1] if said else "without a message"


def _line(error: BaseException, path: Path | None) -> str:
    """Return " at line N" of the plug-in's own file, where the error came through it."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f" at line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f" at line {lines[-1]}" if lines else ""


# --- content of modules ---------------------------------------------------------------------------


def _module_digest(name: str) -> str:
    """Return 12 hex digits of the hash of a module's file, or of every .py file of its package."""
    root = name.partition(".")[0]
    if root in OWN_PACKAGES:
        raise PluginError(f"the plug-in {name} is part of lvm itself; leave it out.")
    found = _spec(root)
    if found is None or (root != name and not found.submodule_search_locations):
        raise PluginError(
            f"the plug-in {printable(name)} is not installed here; install it, add its folder "
            "to PYTHONPATH, or give the path of a .py file with --plugin."
        )
    digest = hashlib.sha256()
    for place in found.submodule_search_locations or ():
        for path in sorted(Path(place).rglob("*.py")):
            digest.update(f"{path.relative_to(place).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    if not found.submodule_search_locations and found.origin:
        digest.update(Path(found.origin).read_bytes())
    return digest.hexdigest()[:12]


def _spec(root: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(root)
    except (ImportError, ValueError, AttributeError):
        return None


def _origin(module: str) -> Path | None:
    """Return the file of a module whose parents are imported."""
    try:
        found = importlib.util.find_spec(module)
    except Exception:  # importing a parent failed
        return None
    return Path(found.origin) if found is not None and found.origin else None
