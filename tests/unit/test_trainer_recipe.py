"""A trainer in a recipe: how it is read, what its command is handed, which steps reach it."""

from __future__ import annotations

import dataclasses
import json
import os

import msgspec
import pytest

from lvm.core.config.plain import fingerprint, from_dict, to_dict
from lvm.core.config.read import load_run_config
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import RunConfig
from lvm.core.errors import ConfigError
from lvm.core.trainer import TrainerConfig
from lvm.jobs.own import trainer_code
from lvm.jobs.presets import laptop
from lvm.training.own.code import code_of
from lvm.training.own.template import check_trainable, fill_command, handed_values, unreached
from lvm.triage.reaching import propose_reachable
from lvm.triage.step import STEPS, Facts

COMMAND = [
    "python",
    "train.py",
    "--tau={objective.temperature}",
    "--con",
    "{objective.contrastive_weight}",
    "--epochs",
    "{training.epochs}",
    "--out",
    "{folder}",
]


def recipe(*more: str, **trainer) -> Recipe:
    return from_dict(Recipe, {"trainer": {"command": [*COMMAND, *more], **trainer}})


def test_a_recipe_without_a_trainer_keeps_its_id() -> None:
    assert "trainer" not in to_dict(Recipe())
    assert fingerprint(Recipe()) == "fdcf2db03269"


def test_a_trainer_survives_a_journal() -> None:
    own = recipe(options={"hidden": 3, "wide": True}, files=["a.py"])
    plain = json.loads(json.dumps(to_dict(own)))
    assert from_dict(Recipe, plain) == msgspec.convert(plain, Recipe) == own


def test_a_recipe_file_names_a_function_or_a_command(tmp_path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('trainer = "my_module:train"\n')
    assert load_run_config(file, laptop()).recipe.trainer == TrainerConfig(call="my_module:train")
    file.write_text(f"[trainer]\ncommand = {json.dumps(COMMAND)}\n")
    assert load_run_config(file, laptop()).recipe.trainer == TrainerConfig(command=tuple(COMMAND))


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({}, "must have a command or a call"),
        ({"command": ["a"], "call": "a:b"}, "got both"),
        ({"call": "no function"}, "as in my_module:train"),
        ({"command": "python train.py"}, "must be a list of words"),
        ({"command": ["a"], "keys": ["seed"]}, "trainer.keys goes with a call"),
        ({"comand": ["a"]}, "did you mean command"),
        ({"command": ["a"], "options": {"sizes": [1, 2]}}, "trainer.options.sizes must be"),
        (3, "must be a table"),
    ],
)
def test_what_is_no_trainer_is_refused_in_one_sentence(trainer, said) -> None:
    with pytest.raises(ConfigError) as error:
        from_dict(Recipe, {"trainer": trainer})
    assert said in str(error.value)


def test_a_command_is_filled_with_the_values_of_the_recipe() -> None:
    own = recipe("--wide={trainer.options.wide}", options={"wide": True, "hidden": 3})
    words = fill_command(own.with_changes({"objective.temperature": 0.005}), {"folder": "/here"})
    assert words[2:] == [
        "--tau=0.005",
        "--con",
        "0.7",
        "--epochs",
        "12",
        "--out",
        "/here",
        "--wide=true",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*COMMAND, "{objective.temprature}"], "did you mean objective.temperature"),
        ([w for w in COMMAND if "folder" not in w], "must hold {folder}"),
        ([w for w in COMMAND if "epochs" not in w], "must hold {training.epochs}"),
        (
            [w for w in COMMAND if "contrastive" not in w],
            "must hold {objective.contrastive_weight}, because AR-only",
        ),
    ],
)
def test_a_command_that_cannot_work_is_refused(words, said) -> None:
    with pytest.raises(ConfigError) as error:
        check_trainable(from_dict(Recipe, {"trainer": {"command": words}}))
    assert said in str(error.value)


def test_the_keys_of_a_function_are_checked_like_those_of_a_command() -> None:
    keys = ["objective.contrastive_weight", "training.epochs"]

    def called(*keys: str) -> Recipe:
        return from_dict(Recipe, {"trainer": {"call": "m:train", "keys": list(keys)}})

    check_trainable(called(*keys))
    check_trainable(called(), num_seeds=2)  # it is handed all of them
    assert handed_values(called(*keys)) == {keys[0]: 0.7, keys[1]: 12}
    changed = called(*keys).with_changes({"objective.temperature": 0.1})
    assert unreached(called(*keys), changed) == ["objective.temperature"]
    for wrong, said in (
        ((*keys, "objective.tau"), 'names "objective.tau", which is no key'),
        (keys[:1], 'trainer.keys must hold "training.epochs"'),
        ((*keys, "folder"), 'names "folder", which is no key'),
    ):
        with pytest.raises(ConfigError) as error:
            check_trainable(called(*wrong))
        assert said in str(error.value)


def test_other_seeds_need_the_seed_in_the_command() -> None:
    check_trainable(recipe())
    with pytest.raises(ConfigError, match=r"must hold \{seed\}"):
        check_trainable(recipe(), num_seeds=3)


def test_a_projected_search_needs_vectors_that_a_trainer_does_not_give() -> None:
    own = recipe().with_changes({"search_space": "projected"})
    with pytest.raises(ConfigError, match='search_space must be "raw"'):
        check_trainable(own)


def test_only_what_the_command_names_reaches_a_trainer() -> None:
    own = recipe(options={"hidden": 3})
    changes = {"objective.temperature": 0.1, "seed": 4, "search_space": "projected"}
    assert unreached(own, own.with_changes(changes)) == ["seed"]
    assert unreached(own, own.with_changes({"trainer.options.hidden": 4})) == [
        "trainer.options.hidden"
    ]
    call = from_dict(Recipe, {"trainer": "m:train"})
    assert unreached(call, call.with_changes(changes)) == []


@pytest.mark.parametrize("name", sorted(STEPS.names()))
def test_every_step_keeps_the_arms_that_reach_a_trainer(name) -> None:
    own, step = recipe("{objective.space}"), STEPS.get(name)
    facts = Facts(num_train_windows=10**6, width=64)
    before, after = step.propose(own, facts), propose_reachable(step, own, facts)
    kept = [arm.name for arm in after.arms]
    for arm in before.arms:
        reaches = arm.trains and not unreached(own, own.with_changes(arm.changes))
        assert (arm.name in kept) == reaches
        assert reaches or "trainer" in after.left_out[arm.name]
    if name == "temperature":
        assert len(kept) == 3
    if name == "contrastive_weight":  # the other weight is not in the command
        assert not kept
        assert "{objective.ar_weight}" in next(iter(after.left_out.values()))


# --- its files ------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path):
    """A folder with a script, a module and a package that it imports, and other files."""
    (tmp_path / "net").mkdir()
    for name, text in {
        "train.py": "import numpy\nfrom net.blocks import Block\nimport losses\n",
        "losses.py": "import math\n",
        "net/__init__.py": "",
        "net/blocks.py": "from .layers import Layer\nimport net.norms\n",
        "net/norms.py": "",
        "net/layers.py": "Layer = 1\n",
        "other.py": "",
        "vocabulary.txt": "a",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_script_is_known_with_what_it_imports_from_beside_it(home, tmp_path) -> None:
    code = code_of(TrainerConfig(command=tuple(COMMAND), files=("vocabulary.txt",)), home)
    assert code.files == [
        "losses.py",
        "net/__init__.py",
        "net/blocks.py",
        "net/layers.py",
        "net/norms.py",
        "train.py",
        "vocabulary.txt",
    ]
    before = code.digests
    (home / "net/layers.py").write_text("Layer = 2\n")
    assert {k for k, v in code.digests.items() if before[k] != v} == {"net/layers.py"}


def test_a_script_that_is_run_as_a_module_is_known_too(home) -> None:
    code = code_of(TrainerConfig(command=("python", "-m", "net.blocks", "--x")), home)
    assert {"net/__init__.py", "net/blocks.py", "net/layers.py"} <= set(code.files)


def test_a_run_keeps_its_own_copy(home) -> None:
    run, trainer = home / "run", TrainerConfig(call="train:main")
    code_of(trainer, home).keep(run)
    (home / "losses.py").write_text("changed")
    code_of(trainer, home).keep(run)
    assert (run / "trainer/losses.py").read_text() == "import math\n"
    kept = code_of(trainer, run / "trainer")
    assert kept.files == code_of(trainer, home).files
    assert not [p for p in run.rglob("*") if "new" in p.name]
    assert os.access(run / "trainer/train.py", os.R_OK)


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"command": ("python", "absent.py")}, "names absent.py, which is not in"),
        ({"command": ("x",), "files": ("../up.py",)}, "names ../up.py, which is not in"),
        ({"command": ("x",), "files": ("gone",)}, "names gone, which is not in"),
    ],
)
def test_files_that_are_not_there_are_named(home, trainer, said) -> None:
    with pytest.raises(ConfigError) as error:
        code_of(TrainerConfig(**trainer), home)
    assert said in str(error.value)


def test_a_run_whose_recipe_is_elsewhere_has_the_files_of_its_trainer(home) -> None:
    trainer = TrainerConfig(command=tuple(COMMAND), files=("vocabulary.txt", "net"))
    config = RunConfig(recipe=dataclasses.replace(Recipe(), trainer=trainer))
    (home / "recipe.toml").write_text("")
    here = trainer_code(config, home / "recipe.toml", home / "run")
    here.keep(home / "run")
    there = trainer_code(config, home / "gone" / "recipe.toml", home / "run")
    assert there.digests == here.digests
    assert "net/__init__.py" in here.digests
    assert trainer_code(RunConfig(), None, home / "run") is None
