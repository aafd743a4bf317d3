from __future__ import annotations

import dataclasses
import json
import math
import typing
from pathlib import Path

import pytest

from lvm.core.config.plain import canonical_json, fingerprint, from_dict, to_dict, with_changes
from lvm.core.config.read import load_run_config, recipe_file, recipe_names
from lvm.core.config.recipe import (
    ModelConfig,
    NegativesConfig,
    ObjectiveConfig,
    Recipe,
    TrainingConfig,
)
from lvm.core.config.run import GateConfig, RunConfig, ScheduleConfig
from lvm.core.errors import ConfigError, UsageError
from lvm.jobs.presets import PRESETS, load_config, preset


def leaves(cls=RunConfig, prefix=""):
    """Yield (dotted key, type) of every field of a run."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from leaves(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


LEAVES = dict(leaves())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", [k for k, hint in LEAVES.items() if hint in (float, float | None)])
def test_no_field_takes_a_number_that_is_not_finite(key, bad) -> None:
    with pytest.raises(ConfigError, match=r"must be .* \(got -?(nan|inf)\)\.$"):
        with_changes(RunConfig(), {key: bad})


@pytest.mark.parametrize("key", LEAVES)
def test_no_field_takes_another_type(key) -> None:
    with pytest.raises(ConfigError, match=r"must be (of type|a table)"):
        with_changes(RunConfig(), {key: ["a list"]})


@pytest.mark.parametrize("key", [k for k, hint in LEAVES.items() if hint is int])
def test_whole_numbers_are_whole_and_no_booleans(key) -> None:
    for bad in (2.5, 3.0, True, "3"):
        with pytest.raises(ConfigError, match="type int"):
            with_changes(RunConfig(), {key: bad})
    with pytest.raises(ConfigError):
        with_changes(RunConfig(), {key: -1})


@pytest.mark.parametrize(
    "key",
    [k for k, hint in LEAVES.items() if hint is str and k != "recipe.model.name"],
)
def test_a_choice_lists_what_is_allowed(key) -> None:
    with pytest.raises(ConfigError, match=r"must be one of \w+.* \(got 'sideways'\)"):
        with_changes(RunConfig(), {key: "sideways"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recipe.model.dropout", 1.0),
        ("recipe.model.input_dropout", -0.1),
        ("recipe.model.output_dropout", 1.0),
        ("recipe.objective.temperature", 0.0),
        ("recipe.objective.contrastive_weight", -0.1),
        ("recipe.training.epochs", 0),
        ("recipe.training.batch_size", 1),
        ("recipe.training.learning_rate", 0),
        ("recipe.training.warmup_fraction", 1.0),
        ("recipe.negatives.false_negative_margin", 0.0),
        ("recipe.context_length", 513),
        ("gates.stage_eval_cosine", 1.1),
        ("gates.confidence", 0.5),
        ("gates.success_r_at_5", 0.0),
        ("schedule.reduction_factor", 1),
        ("schedule.first_rung", 6),
    ],
)
def test_values_out_of_range_are_refused_by_name(key, value) -> None:
    with pytest.raises(ConfigError, match=key.removeprefix("recipe.").replace(".", r"\.")):
        with_changes(RunConfig(), {key: value})


def test_an_objective_without_any_term_is_refused() -> None:
    with pytest.raises(ConfigError, match="sum of the weights"):
        Recipe().with_changes({"objective.contrastive_weight": 0, "objective.ar_weight": 0})


STOPPED = {"stop_gradient": "prediction", "ar_weight": 0.0}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (STOPPED, "objective.stop_gradient"),
        ({**STOPPED, "mmd_weight": 0.3, "mmd_balance": "gradient"}, "objective.mmd_balance"),
        (
            {
                "contrastive_weight": 0.0,
                "ar_weight": 0.0,
                "mmd_weight": 0.3,
                "mmd_balance": "gradient",
            },
            "objective.mmd_balance",
        ),
    ],
)
def test_an_objective_that_trains_no_network_is_refused(changes, named) -> None:
    with pytest.raises(ConfigError, match=rf"^{named} = .*objective\.ar_weight") as refused:
        ObjectiveConfig(**changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {**STOPPED, "space": "raw"},
        {**STOPPED, "mmd_weight": 0.3},
        {**STOPPED, "ar_weight": 0.1, "mmd_weight": 0.3, "mmd_balance": "gradient"},
    ],
)
def test_an_objective_with_another_way_to_the_network_is_not(changes) -> None:
    assert ObjectiveConfig(**changes)


@pytest.mark.parametrize(
    "changes", [{"objective.space": "raw"}, {"objective.contrastive_weight": 0.0}]
)
def test_a_search_behind_a_head_that_is_not_trained_is_refused(changes) -> None:
    with pytest.raises(ConfigError, match=r"^search_space = \"projected\" needs"):
        Recipe().with_changes({"search_space": "projected", **changes})


def test_an_unknown_key_is_answered_with_a_suggestion() -> None:
    with pytest.raises(
        ConfigError,
        match=r"unknown key 'objective.temprature' in section \[objective\] "
        r"\(did you mean temperature\?\); allowed: ar_weight, ",
    ):
        Recipe().with_changes({"objective.temprature": 0.1})
    with pytest.raises(ConfigError, match="unknown key 'zzz'; allowed: context_length"):
        Recipe().with_changes({"zzz": 1})


def test_changes_touch_what_they_name_and_nothing_else() -> None:
    base = Recipe()
    changed = base.with_changes(
        {"objective.temperature": 1, "training.epochs": 3, "seed": 5, "search_space": "projected"}
    )
    assert base == Recipe()
    want = to_dict(base)
    want["objective"]["temperature"] = 1.0  # a whole number becomes the float it stands for
    want["training"]["epochs"], want["seed"], want["search_space"] = 3, 5, "projected"
    assert to_dict(changed) == want
    assert type(changed.objective.temperature) is float
    assert base.with_changes({}) == base
    sampled = base.with_changes({"negatives": NegativesConfig(random=3)})
    assert sampled.negatives.random == 3


def test_ar_only_keeps_the_network_and_the_schedule() -> None:
    base = Recipe(
        model=ModelConfig(hidden=64), training=TrainingConfig(epochs=3), seed=4
    ).with_changes({"negatives.random": 2, "objective.mmd_weight": 0.1, "context_length": 7})
    ar = base.ar_only()
    assert (ar.model, ar.training, ar.seed, ar.context_length) == (
        base.model,
        base.training,
        4,
        7,
    )
    weights = ar.objective.contrastive_weight, ar.objective.ar_weight, ar.objective.mmd_weight
    assert weights == (0, 1, 0)
    assert (ar.search_space, ar.has_head, ar.negatives) == ("raw", False, NegativesConfig())


def test_has_head() -> None:
    assert Recipe().has_head
    assert not Recipe().with_changes({"objective.space": "raw"}).has_head
    assert not Recipe().with_changes({"objective.contrastive_weight": 0}).has_head


def test_round_trip_through_json() -> None:
    for name in PRESETS:
        config = preset(name)
        assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config


# --- files ---------------------------------------------------------------------------------------


def test_toml_and_json_say_the_same(tmp_path) -> None:
    toml, js = tmp_path / "r.toml", tmp_path / "r.json"
    toml.write_text(
        "seed = 3\n[model]\nhidden = 64\n[objective]\ntemperature = 0.1\n"
        "[gates]\nstage_eval_cosine = 0.4\n[schedule]\nshort_epochs = 3\n"
    )
    values = {
        "seed": 3,
        "model": {"hidden": 64},
        "objective": {"temperature": 0.1},
        "gates": {"stage_eval_cosine": 0.4},
        "schedule": {"short_epochs": 3},
    }
    js.write_text(json.dumps(values))
    base = preset("laptop")
    one, two = load_run_config(toml, base), load_run_config(js, base)
    assert one == two
    assert (one.recipe.seed, one.recipe.model.hidden, one.recipe.objective.temperature) == (
        3,
        64,
        0.1,
    )
    assert one.gates == GateConfig(stage_eval_cosine=0.4)
    assert one.schedule == dataclasses.replace(base.schedule, short_epochs=3)
    assert one.recipe.training == base.recipe.training  # what is not named keeps the preset's
    assert load_config("laptop", toml) == one


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.toml", "model = 3", "model must be a table"),
        ("r.toml", "gates = 3", "gates must be a table"),
        ("r.toml", "[objective]\ntemprature = 1", "did you mean temperature"),
        ("r.toml", "[gates]\nstage = 1", r"unknown key 'gates\.stage'"),
        (
            "r.toml",
            "[objective]\ntemperature = nan",
            r"objective.temperature must be .* \(got nan\)",
        ),
        ("r.toml", "seed = ", "write it as TOML or JSON"),
        ("r.json", "{", "write it as TOML or JSON"),
        ("r.json", "[1]", "holds no keys"),
        ("r.json", '{"seed": "3"}', "seed must be of type int"),
        ("r.json", '{"seed": null}', "seed must be of type int"),
        ("r.json", '{"training": {"learning_rate": NaN}}', r"learning_rate must be .* \(got nan\)"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(name, text, message, tmp_path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_run_config(path, RunConfig())
    assert str(path) in str(caught.value)


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_run_config(tmp_path / "none.toml", RunConfig())
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run_config(tmp_path / "r.toml", RunConfig())
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run_config(tmp_path, RunConfig())


@pytest.mark.parametrize("name", recipe_names())
def test_a_packaged_recipe_is_known_by_its_name_and_an_own_file_comes_first(
    name, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = recipe_file(name)
    assert load_config("laptop", file) == load_run_config(file, preset("laptop"))
    (tmp_path / name).write_text("")
    assert recipe_file(name) == Path(name)


def test_an_unknown_recipe_lists_those_that_come_with_the_package() -> None:
    assert "wrong_width" in recipe_names()
    assert recipe_file("wrong_widths") == Path("wrong_widths")
    with pytest.raises(ConfigError, match=r"wrong_widths does not exist.*wrong_width"):
        load_config("laptop", recipe_file("wrong_widths"))


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'labtop' \(did you mean laptop\?\); allowed: cluster"):
        preset("labtop")


# --- fingerprints --------------------------------------------------------------------------------


def test_every_field_changes_the_fingerprint() -> None:
    base = RunConfig()
    plain = to_dict(base)
    seen = {fingerprint(base)}
    for key in LEAVES:
        changed = json.loads(json.dumps(plain))
        *path, last = key.split(".")
        place = changed
        for part in path:
            place = place[part]
        place[last] = "changed"
        seen.add(fingerprint(changed))
    assert len(seen) == 1 + len(LEAVES)


def test_canonical_json_does_not_depend_on_order() -> None:
    assert canonical_json({"b": 1, "a": {"d": 2, "c": 3}}) == '{"a":{"c":3,"d":2},"b":1}'


def test_a_schedule_whose_first_rung_lies_beyond_a_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most the budget of a step"):
        ScheduleConfig(first_rung=3, short_epochs=2)
