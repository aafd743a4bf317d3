"""What import-linter cannot say: heavy packages are imported lazily, and the flags are frozen."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
DOORS = {
    "faiss": {"lvm/evaluation/faiss_apart.py"},
    "mlflow": {"lvm/views/tracking/__init__.py"},
    "sentence_transformers": {"lvm/data/encoder.py"},
    "mamba_ssm": {"lvm/models/mamba_ssm_backend.py"},
    "ray": {
        *(
            f"lvm/triage/on_ray/{name}.py"
            for name in (
                "__init__",
                "cluster",
                "early",
                "head",
                "quiet",
                "remote",
                "scheduler",
                "shared",
                "trainable",
                "workers",
            )
        ),
        "lvm/training/distributed.py",
        "lvm/doctor/ray_schema.py",
        "lvm/doctor/live.py",
    },
    "triton": {f"lvm/models/kernels/{name}.py" for name in ("mix", "pieces", "small")},
    "optuna": {"lvm/triage/tpe.py"},
    "yaml": {"lvm/doctor/yaml_file.py"},
    "botocore": {"lvm/doctor/ec2.py"},
}
# Ray pickles these by reference or they extend its classes, and Triton compiles what it finds at
# the top of a module; whoever needs them imports them in functions.
BEHIND_THE_DOOR = {
    *(f"lvm/triage/on_ray/{name}.py" for name in ("scheduler", "trainable", "workers")),
    *DOORS["triton"],
}
SOURCES = sorted([*(ROOT / "lvm").rglob("*.py"), *(ROOT / "tune_jobs").rglob("*.py")])


@functools.cache
def imports(path):
    """Return (top package, whether importing the file leaves it alone) for a source file."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING")
        for node in ast.walk(outer)
    }
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module",
            "__import__",
            "import_module",
        ):
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                names = [argument.value]
        found += [(name.split(".")[0], id(node) in inside) for name in names]
    return found


@pytest.mark.parametrize("package", DOORS)
def test_a_heavy_package_has_one_door_and_is_imported_inside_functions(package) -> None:
    found = {}
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        lazy = [inside for name, inside in imports(path) if name == package]
        if lazy and not (package == "ray" and place.startswith("tune_jobs/")):
            found[place] = all(lazy) or place in BEHIND_THE_DOOR
    assert set(found) <= DOORS[package], f"{package} is imported elsewhere"
    assert found, f"the door of {package} no longer imports it: change DOORS"
    assert all(found.values()), f"{package} is imported when its module is"


def test_what_lies_behind_a_door_is_imported_inside_functions() -> None:
    behind = {place.removesuffix(".py").replace("/", ".") for place in BEHIND_THE_DOOR}
    for path in SOURCES:
        if path.relative_to(ROOT).as_posix() in BEHIND_THE_DOOR:
            continue
        for node in ast.parse(path.read_text()).body:
            module = getattr(node, "module", None)
            names = {f"{module}.{alias.name}" for alias in getattr(node, "names", ())}
            assert not {module, *names} & behind, path


def test_the_finder_of_imports_finds(tmp_path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "import ray.tune\ndef f():\n    from faiss import x\n"
        "    importlib.import_module('mlflow.a')\n"
        "class A:\n    import mamba_ssm\n"
        "if TYPE_CHECKING:\n    import optuna\nif True:\n    import yaml\n"
    )
    assert sorted(imports(path)) == [
        ("faiss", True),
        ("mamba_ssm", False),
        ("mlflow", True),
        ("optuna", True),
        ("ray", False),
        ("yaml", False),
    ]


def test_no_module_of_the_core_imports_plots_or_rich_at_the_top() -> None:
    """A trial of Ray starts as fast as its imports are."""
    for folder in ("training", "evaluation", "models", "losses", "data"):
        for path in (ROOT / "lvm" / folder).rglob("*.py"):
            top = {name for name, inside in imports(path) if not inside}
            assert not top & {"matplotlib", "rich", "sklearn", "gensim", "psutil"}, path


def test_the_library_names_its_jobs_in_one_place() -> None:
    """What is written as one word is a package or a module; commands and sentences are longer."""
    named = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and re.fullmatch(r"tune_jobs(\.\w+)*", str(node.value))
    }
    assert named == {"lvm/core/packages.py"}


# --- frozen flags --------------------------------------------------------------------------------

HELP = {"--help"}
FLAGS = {
    "tune_jobs.triage": {
        "--data",
        "--train",
        "--eval",
        "--payload",
        "--checkpoint",
        "--predictions",
        "--recipe",
        "--preset",
        "--out",
        "--resume",
        "--address",
        "--independent",
        "--all-steps",
        "--extended",
        "--seeds",
        "--seen",
        "--show",
        "--allow",
        "--json",
        "--five-steps",
        "--steps",
        "--order",
        "--plugin",
    },
    "tune_jobs.train": {
        "--data",
        "--recipe",
        "--plugin",
        "--preset",
        "--workers",
        "--out",
        "--address",
    },
}
COMMANDS = {
    "embed": {"files", "--model", "--out", "--skip"},
    "triage": FLAGS["tune_jobs.triage"],
    "train": FLAGS["tune_jobs.train"],
    "eval": {"--data", "--train", "--eval", "--payload", "--other-data", "--plugin", "checkpoint"},
    "audit": {
        "--data",
        "--train",
        "--eval",
        "--payload",
        "--checkpoint",
        "--predictions",
        "--index",
        "--encoder",
        "--texts",
        "--seen",
        "--recipe",
        "--plugin",
        "--preset",
        "--allow",
        "--repair",
        "--out",
    },
    "windows": {"--data", "--train", "--eval", "--payload", "--recipe", "--preset", "--out"},
    "init-trainer": {"out"},
    "report": {"run"},
    "status": {"run", "--json"},
    "track": {"run"},
    "ui": {"run"},
    "doctor": {"--cluster", "--address", "--runs"},
}


def options(parser):
    """Return the long options and the positional names of a parser."""
    found = set()
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            found |= {s for s in action.option_strings if s.startswith("--")} or {action.dest}
    return found


@pytest.mark.parametrize("module", FLAGS)
def test_the_flags_of_a_job_are_frozen(module) -> None:
    """A knob is a key of the recipe file; a flag is for what a person types every day."""
    assert options(importlib.import_module(module).parser()) == FLAGS[module] | HELP


def test_the_flags_of_every_command_are_frozen() -> None:
    parser = importlib.import_module("lvm.cli").parser()
    assert options(parser) == HELP
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    found = {name: options(command) - HELP for name, command in commands.choices.items()}
    assert found == COMMANDS


def _room(module):
    """Return the folder of the top two floors that a module lies in; the two doors are one."""
    job, *rest = module.split(".")
    return f"{job}/{rest[0]}" if job == "lvm" and rest and rest[0] not in ("api", "cli") else job


def test_few_arrows_join_the_rooms_of_the_top_two_floors():
    graph = grimp.build_graph("lvm", "tune_jobs", cache_dir=None)
    joined = {
        (_room(module), _room(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    arrows = sorted((above, below) for above, below in joined if above != below)
    assert len(arrows) <= 40, arrows
    assert not [arrow for arrow in arrows if arrow[::-1] in arrows]
