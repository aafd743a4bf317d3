"""Code from outside: what is imported, by which name, what is refused, and what hangs on it."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import foreign
import made
import pytest
import tiny

from lvm import cli
from lvm.audit.loaded import open_checkpoint
from lvm.core import plugins
from lvm.core.command import run_command
from lvm.core.config.plain import fingerprint, to_dict
from lvm.core.config.read import load_run_config, run_config_of
from lvm.core.config.run import RunConfig
from lvm.core.errors import CheckpointError, ConfigError, PluginError, ResumeError, UsageError
from lvm.core.parts import TERMS
from lvm.core.printed import eval_command, triage_command
from lvm.jobs import request as asked
from lvm.jobs.doors import triage_parser
from lvm.jobs.flags import options_of
from lvm.jobs.options import TriageOptions
from lvm.jobs.presets import preset
from lvm.models.base import MODELS
from lvm.training import loop
from lvm.training.checkpoint import load_checkpoint, read_manifest
from lvm.triage.arm import arm_id
from lvm.triage.events import ArmEnded, RunStarted
from lvm.triage.journal import Journal
from lvm.triage.on_ray.nodes import refused
from lvm.triage.request import Request, identity
from lvm.triage.step import STEPS, steps_in_order

ROOT = Path(__file__).resolve().parents[2]
MODEL = '''
import torch
from lvm.models.base import MODELS


@MODELS.register("my_last")
class Last(torch.nn.Module):
    """Moves the last vector of a context."""

    def __init__(self, config, width):
        super().__init__()
        self.through = torch.nn.Linear(width, width)

    def forward(self, contexts):
        return self.through(contexts[:, -1])
'''
STEP = """
from lvm.triage.step import STEPS, Arm, Hypothesis, Proposal, Step

STEPS.register("my_step")(
    Step(
        name="my_step", number=50, title="Mine", question="Does another seed help?",
        hypotheses=[Hypothesis(id="M1", claim="The seed is bad.", predicts="Another is better.")],
        rules_out="the seed", epochs=lambda schedule: 1,
        propose=lambda recipe, facts: Proposal(arms=[Arm(name="a", changes={"seed": 5}, why="")]),
    )
)
"""
MINE = {"model.name": "my_last", "training.epochs": 1}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """A process that has imported no plug-in, and leaves none behind."""
    for registry in (TERMS, MODELS, STEPS):
        registry.names()
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))
    monkeypatch.setattr(plugins, "_loaded", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("lvm_plugin_", "outside")):
            del sys.modules[name]


def forget(monkeypatch) -> None:
    """Be as a process that was started anew."""
    monkeypatch.setattr(plugins, "_loaded", {})
    for registry in (TERMS, MODELS):
        kept = {k: v for k, v in registry._parts.items() if not k.startswith("my_")}
        monkeypatch.setattr(registry, "_parts", kept)
    for name in [name for name in sys.modules if name.startswith("lvm_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "mine.py").write_text(MODEL)
    return tmp_path / "mine.py"


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package that is installed, as PYTHONPATH installs one."""
    folder = tmp_path / "site" / "outside"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "models.py").write_text(MODEL + "\nfrom outside import sizes\n")
    (folder / "sizes.py").write_text("SIZE = 1\n")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


# --- what is imported -----------------------------------------------------------------------------


def test_a_file_is_imported_once_under_the_name_of_its_content(file, tmp_path) -> None:
    plugins.load_given([str(file)])
    (found,) = plugins.loaded()
    assert (found.name, found.module) == ("mine.py", f"lvm_plugin_{found.digest}")
    assert found.source == MODEL.encode()
    assert MODELS.get("my_last").__module__ == found.module
    assert plugins.digests() == {"mine.py": found.digest}
    moved = tmp_path / "elsewhere" / "mine.py"
    moved.parent.mkdir()
    moved.write_text(MODEL)
    plugins.load_given([str(file), str(moved)])
    assert plugins.loaded() == (found,)
    assert not (tmp_path / "__pycache__").exists()


def test_a_file_is_compiled_as_it_is_written(file) -> None:
    """Without what this package asks of the compiler: annotations stay values there."""
    file.write_text(MODEL + "\nsize: int = 1\n")
    plugins.load_given([str(file)])
    (found,) = plugins.loaded()
    assert sys.modules[found.module].__annotations__ == {"size": int}


def test_a_process_that_never_had_the_file_imports_the_same(file) -> None:
    """A class in it is pickled by reference there as well."""
    plugins.load_given([str(file)])
    sent = [plugins.packed(), pickle.dumps(MODELS.get("my_last"))]
    file.unlink()
    code = (
        "import pickle, sys, inspect; from lvm.core import plugins\n"
        "packed, cls = pickle.load(sys.stdin.buffer)\n"
        "plugins.load_packed(packed); plugins.load_packed(packed)\n"
        "cls = pickle.loads(cls)\n"
        "print(cls.__module__, cls.__doc__, len(inspect.getsource(cls)) > 200)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(sent), capture_output=True, check=True
    )
    (one,) = plugins.loaded()
    assert done.stdout.decode() == f"{one.module} Moves the last vector of a context. True\n"


def test_a_recipe_imports_modules_before_its_keys_are_read(package, tmp_path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        'plugins = ["outside.models"]\n[model]\nname = "my_last"\n'
        "[model.options.my_last]\n[gates]\nsuccess_mrr = 0.2\n"
    )
    base = preset("laptop")
    config = load_run_config(path, base)
    assert config.plugins == ("outside.models",)
    assert (config.recipe.model.name, config.gates.success_mrr) == ("my_last", 0.2)
    assert list(plugins.digests()) == ["outside.models"]
    kept = json.loads(json.dumps(to_dict(config)))
    assert run_config_of(kept) == config
    assert "plugins" not in to_dict(base)
    assert fingerprint(base) == "1917f766b37c"


@pytest.mark.parametrize("value", ["'outside'", "[1]", "{a = 1}"])
def test_a_list_of_plugins_that_is_none_is_refused(value, tmp_path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f"plugins = {value}\n")
    with pytest.raises(ConfigError, match=r"plugins must be a list of module names"):
        load_run_config(path, RunConfig())


def test_entry_points_of_what_is_installed_are_imported(package, monkeypatch) -> None:
    info = package.parent / "outside-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[lvm.models]\nlast = outside.models\n[lvm.terms]\nlast = outside.models:Last\n"
    )
    plugins._entry_points.cache_clear()
    try:
        assert importlib.metadata.version("outside") == "1"
        plugins.load_given([])
    finally:
        plugins._entry_points.cache_clear()
    assert plugins.module_names() == ["outside.models"]
    assert "my_last" in MODELS.names()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"the plug-in bad\.py registers nothing; let it register a part"),
        (
            "x = 1\n\nraise ValueError('no\\nway')\n",
            r"the plug-in bad\.py cannot be imported: ValueError at line 3: no\\nway; fix it",
        ),
        ("def f(:\n", r"the plug-in bad\.py cannot be imported: SyntaxError at line 1: .+; fix"),
        (
            "import json\njson.loads('{')\n",
            r"the plug-in bad\.py cannot be imported: JSONDecodeError at line 2: ",
        ),
        (
            "import no_such_module\n",
            r"the plug-in bad\.py cannot be imported: ModuleNotFoundError at line 1: No module",
        ),
        (
            "import sys\nsys.exit()\n",
            r"the plug-in bad\.py cannot be imported: SystemExit at line 2: without a message",
        ),
        (
            MODEL.replace("my_last", "gru"),
            r"the plug-in bad\.py: two models are named 'gru', from .* and .*; rename",
        ),
    ],
)
def test_a_file_that_cannot_serve_is_one_sentence(text, message, tmp_path) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(PluginError, match=f"^{message}") as refused:
        plugins.load_given([str(tmp_path / "bad.py")])
    assert "\n" not in str(refused.value)
    assert plugins.loaded() == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("./none.py", r"the plug-in none\.py cannot be read \(No such file or directory\)"),
        ("./", r"the plug-in \. is not a \.py file; give the path of one, or the name of a module"),
        ("no_such_module", r"the plug-in no_such_module is not installed here; install it"),
        ("os.nothing", r"the plug-in os\.nothing is not installed here"),
        ("lvm.models", r"the plug-in lvm\.models is part of lvm itself; leave it out"),
        ("outside.none", r"the plug-in outside\.none cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_is_not_there_is_one_sentence(
    given, message, package, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError, match=f"^{message}"):
        plugins.load_given([given])


def test_a_name_is_taken_also_where_the_package_was_not_searched_yet(file) -> None:
    """A process that has imported no model of ours meets them when it looks for names."""
    file.write_text(MODEL.replace("my_last", "gru"))
    code = f"from lvm.core import plugins; plugins.load_given([{str(file)!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PluginError: the plug-in mine.py: two models are named 'gru'" in done.stderr


def test_two_contents_of_one_name_are_refused(file) -> None:
    plugins.load_given([str(file)])
    file.write_text(MODEL.replace("my_last", "my_second"))
    with pytest.raises(PluginError, match=r"^two plug-ins are named mine\.py, with the contents"):
        plugins.load_given([str(file)])


def test_a_node_with_another_version_of_a_module_says_so(package) -> None:
    plugins.load_modules(["outside.models"])
    sent = plugins.packed()
    assert refused(sent) == ""
    (package / "sizes.py").write_text("SIZE = 2\n")
    told = refused(sent)
    assert told.startswith("the plug-in outside.models is ")
    assert told.endswith("install the same version here.")


def test_the_library_of_plugins_needs_nothing_heavy() -> None:
    code = "import sys, lvm.core.plugins; print({'torch', 'ray', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# --- what hangs on the content --------------------------------------------------------------------


def request(**values: Any) -> Request:
    config = tiny.config(base=tiny.recipe())
    return Request(config=config, out=Path("/run"), steps=steps_in_order(), code="c", **values)


def test_a_byte_of_a_plugin_changes_every_arm(file, monkeypatch) -> None:
    def ids() -> tuple[str, dict[str, str]]:
        forget(monkeypatch)
        plugins.load_given([str(file)])
        own = plugins.digests()
        return arm_id(tiny.recipe(), data="d", code="c", plugins=own), identity(
            request(plugins=own), "d"
        )

    one, before = ids()
    assert ids() == (one, before)
    file.write_text(MODEL + "\n")
    other, after = ids()
    assert other != one
    assert {key for key in after if after[key] != before[key]} == {"plug-in mine.py"}
    assert arm_id(tiny.recipe(), data="d", code="c") not in (one, other)
    assert arm_id(tiny.recipe(), data="d", code="c") == arm_id(
        tiny.recipe(), data="d", code="c", plugins={}
    )


def test_every_file_of_a_package_counts(package, monkeypatch) -> None:
    plugins.load_modules(["outside.models"])
    before = plugins.digests()
    monkeypatch.setattr(plugins, "_loaded", {})
    (package / "sizes.py").write_text("SIZE = 2\n")
    plugins.load_modules(["outside.models"])
    assert plugins.digests() != before


def journal_of(folder: Path, options: TriageOptions, found: dict[str, str]) -> Journal:
    journal = Journal(folder)
    about = {"arguments": asked.arguments(options), "identity": found}
    journal.append(made.event(RunStarted, **about, code="c", config=tiny.config()))
    return journal


def test_a_resumed_run_whose_plugin_changed_is_refused_by_name(tmp_path) -> None:
    options = TriageOptions(plugin=("mine.py",))
    before = identity(request(plugins={"mine.py": "1", "a.b": "2"}), "d")
    journal = journal_of(tmp_path, options, before)
    asked.refuse_changes(journal, before, "c", options)
    for now, named in (
        ({"mine.py": "3", "a.b": "2"}, "the plug-in mine.py changed"),
        ({"mine.py": "1"}, "the plug-in a.b changed"),
        ({"mine.py": "1", "a.b": "2", "c": "1"}, "the plug-in c changed"),
    ):
        own = identity(request(plugins=now), "d")
        with pytest.raises(ResumeError, match=f"cannot continue: {named} since it started"):
            asked.refuse_changes(journal, own, "c", options)


def test_a_resumed_run_finds_its_plugins(file, tmp_path) -> None:
    options = TriageOptions(plugin=(str(file), "outside.models"))
    journal = journal_of(tmp_path / "run", options, {})
    resume = TriageOptions(resume=tmp_path / "run")
    assert asked.resumed(resume, journal).plugin == (str(file), "outside.models")
    moved = file.rename(tmp_path / "run" / "mine.py")
    with pytest.raises(ResumeError, match=rf"started with --plugin {file}, which does not exist"):
        asked.resumed(resume, journal)
    typed = triage_parser().parse_args(["--resume", "x", "--plugin", str(moved)])
    again = options_of(TriageOptions, typed)
    assert asked.resumed(again, journal).plugin == (str(moved), "outside.models")
    plain = journal_of(tmp_path / "plain", TriageOptions(), {})
    with pytest.raises(UsageError, match="--plugin cannot be combined with --resume"):
        asked.resumed(again, plain)


def test_printed_commands_name_the_plugins(file, monkeypatch) -> None:
    monkeypatch.chdir(file.parent)
    given = {"plugin": (str(file), "outside.models")}
    assert triage_command(given).endswith(" --plugin mine.py --plugin outside.models")
    assert triage_command(given, kept=True).endswith(f"--plugin {file} --plugin outside.models")
    told = eval_command(Path("c"), {"plugin": [str(file)]}, ["outside.models"])
    assert told.endswith(" eval c --plugin mine.py --plugin outside.models")


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_names_the_plugin_of_its_model(file, tmp_path, monkeypatch) -> None:
    plugins.load_given([str(file)])
    recipe, dataset, folder = tiny.recipe(**MINE), tiny.dataset(), tmp_path / "run"
    list(loop.train(recipe, dataset, folder, validate=lambda p, e: {}))
    checkpoint = folder / "checkpoint"
    own = plugins.digests()
    assert read_manifest(checkpoint).plugins == own
    load_checkpoint(checkpoint)
    forget(monkeypatch)
    message = (
        f"{checkpoint} was trained with the plug-in mine.py ({own['mine.py']}), which is not "
        "loaded; add --plugin mine.py."
    )
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(checkpoint)
    assert str(refused.value) == message
    assert open_checkpoint(checkpoint, None, 5).problem == message
    file.write_text(MODEL + "# another version of the same model\n")
    plugins.load_given([str(file)])
    load_checkpoint(checkpoint)  # its probe outputs tell that it is the same model
    with pytest.raises(CheckpointError, match=r"was trained with other plug-ins \(mine\.py \("):
        list(loop.train(recipe, dataset, folder, validate=lambda p, e: {}))


def test_a_checkpoint_of_our_model_needs_no_plugin(file, tmp_path, monkeypatch) -> None:
    plugins.load_given([str(file)])
    recipe = tiny.recipe(**{"training.epochs": 1})
    list(loop.train(recipe, tiny.dataset(), tmp_path / "run", validate=lambda p, e: {}))
    forget(monkeypatch)
    load_checkpoint(tmp_path / "run" / "checkpoint")


# --- through a run and the commands ---------------------------------------------------------------


def test_the_example_of_the_page_goes_through_phase_1_and_a_step(tmp_path) -> None:
    (tmp_path / "my_model.py").write_text(foreign.example())
    plugins.load_given([str(tmp_path / "my_model.py")])
    config = tiny.config(base=tiny.recipe(**{"model.name": "last_two"}), stage=0.99)
    _, journal = tiny.triage(
        tmp_path / "run", tiny.dataset(), config, num_steps=1, plugins=plugins.digests()
    )
    ended = [(event.step, event.reason) for event in journal.events.of(ArmEnded)]
    assert {step for step, _ in ended} >= {"phase_1", "projection_head"}
    assert {reason for _, reason in ended} <= {"finished", "pruned"}
    (manifest, *_) = (read_manifest(path) for path in tmp_path.glob("run/arms/*/checkpoint"))
    assert manifest.plugins == plugins.digests()


@pytest.mark.parametrize(
    "words",
    [
        ["triage", "--show"],
        ["triage"],
        ["train", "--out", "trained"],
        ["eval", "checkpoint"],
        ["audit"],
    ],
)
def test_a_command_refuses_a_plugin_before_anything_starts(
    words, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    status = run_command(cli.main, [*words, "--plugin", "none.py"])
    assert status == 2
    said = capsys.readouterr()
    assert "the plug-in none.py cannot be read (No such file or directory)" in said.err
    assert said.out == ""
    assert not any(tmp_path.iterdir())


def test_show_knows_the_models_of_a_plugin(file, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text('model = {name = "my_last", options = {my_last = {}}}\n')
    assert run_command(cli.main, ["triage", "--show", "--recipe", "r.toml"]) == 2
    assert "unknown model 'my_last'" in capsys.readouterr().err
    show = ["triage", "--show", "--recipe", "r.toml", "--plugin", "mine.py"]
    assert run_command(cli.main, show) == 0
    assert "step 1, projection_head" in capsys.readouterr().out


def test_a_step_of_a_plugin_is_asked(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step.py").write_text(STEP)
    assert run_command(cli.main, ["triage", "--show", "--plugin", "step.py"]) == 0
    shown = capsys.readouterr().out
    assert "step 50, my_step: Does another seed help? (1 epochs and a control)\n  a: seed" in shown
