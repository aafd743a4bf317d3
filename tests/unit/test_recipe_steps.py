"""Steps in a recipe: what is read, and what is refused in one sentence before anything starts."""

from __future__ import annotations

import json

import msgspec
import pytest

from lvm import cli
from lvm.core.command import run_command
from lvm.core.config.plain import fingerprint, to_dict
from lvm.core.config.read import load_run_config, run_config_of
from lvm.core.config.run import RunConfig
from lvm.core.config.steps import OwnArm, Sweep, Values
from lvm.core.errors import ConfigError, UsageError
from lvm.core.records import to_plain
from lvm.jobs import start
from lvm.jobs.options import TriageOptions
from lvm.jobs.presets import preset
from lvm.jobs.steps import chosen_steps

RATES = """
[[steps]]
name = "rate"
question = "Is the learning rate too low?"
budget = 3
arms = [
  { name = "twice", changes = { "training.learning_rate" = 2e-3 }, why = "faster" },
  { name = "half", changes.training.learning_rate = 5e-4 },
]
"""
TUNED = """
[[steps]]
name = "tuned"
question = "Is the network badly tuned?"
[steps.sweep]
arms = 8
sampler = "random"
training.learning_rate = { log_uniform = [1e-4, 1e-2] }
"training.batch_size" = [64, 128]
model.num_layers = { int = [1, 3] }
"""


def read(text, tmp_path, base=None):
    (tmp_path / "recipe.toml").write_text(text)
    return load_run_config(tmp_path / "recipe.toml", base or RunConfig())


def sweep(*lines: str) -> str:
    head = '[[steps]]\nname = "tuned"\nquestion = "Tuned?"\n[steps.sweep]\n'
    return head + "\n".join(lines)


def arm(changes: str, more: str = "") -> str:
    return (
        f'[[steps]]\nname = "rate"\nquestion = "Rate?"\n{more}\n'
        f'arms = [{{ name = "one", changes = {{ {changes} }} }}]\n'
    )


# --- what is read --------------------------------------------------------------------------------


def test_arms_and_sweeps_are_read_with_or_without_quotation_marks(tmp_path) -> None:
    rates, tuned = read(RATES + TUNED, tmp_path).steps
    assert rates.arms == (
        OwnArm(name="twice", changes={"training.learning_rate": 2e-3}, why="faster"),
        OwnArm(name="half", changes={"training.learning_rate": 5e-4}),
    )
    assert tuned.sweep == Sweep(
        keys={
            "training.learning_rate": Values(kind="log_uniform", values=(1e-4, 1e-2)),
            "training.batch_size": Values(kind="list", values=(64, 128)),
            "model.num_layers": Values(kind="int", values=(1, 3)),
        },
        arms=8,
        sampler="random",
    )


def test_steps_come_back_from_a_journal_as_they_were(tmp_path) -> None:
    config = read(RATES + TUNED, tmp_path)
    kept = json.loads(json.dumps(to_plain(config)))
    assert msgspec.convert(kept, RunConfig) == config
    assert run_config_of(kept) == config


def test_steps_are_part_of_what_a_run_is(tmp_path) -> None:
    with_rates = read(RATES, tmp_path)
    other = read(RATES.replace("2e-3", "3e-3"), tmp_path)
    assert len({fingerprint(c) for c in (RunConfig(), with_rates, other)}) == 3
    assert "steps" not in to_dict(RunConfig())  # runs without them keep their identity


# --- what becomes of them ------------------------------------------------------------------------


def test_a_step_comes_after_all_others_unless_it_says_where(tmp_path) -> None:
    config = read(RATES + TUNED.replace("[steps.sweep]", "order = 40\n[steps.sweep]"), tmp_path)
    steps = chosen_steps(TriageOptions(), config).steps
    assert [step.name for step in steps][-3:] == ["context_path", "tuned", "rate"]
    assert (steps[-2].number, steps[-1].number) == (40, 41)
    first = chosen_steps(TriageOptions(), config, order=["41", "2"]).steps  # the audit's order
    assert [step.name for step in first][:2] == ["rate", "temperature"]


def test_a_subset_and_an_order_of_steps(tmp_path) -> None:
    config = read(RATES, tmp_path)
    options = TriageOptions(steps=("rate", "temperature", "stop_gradient"))
    chosen = chosen_steps(options, config, order=["12"])
    assert [step.name for step in chosen.steps] == ["rate", "temperature"]
    assert [step.name for step in chosen.extended] == ["stop_gradient"]
    options = TriageOptions(order=("negatives", "rate"))
    chosen = chosen_steps(options, config, order=["2"])  # the audit has no say then
    names = [step.name for step in chosen.steps]
    assert names[:4] == ["negatives", "rate", "projection_head", "temperature"]


def test_a_step_of_the_recipe_is_none_of_the_five(tmp_path) -> None:
    chosen = chosen_steps(TriageOptions(five_steps=True), read(RATES, tmp_path))
    assert [step.number for step in chosen.steps] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TriageOptions(steps=("rat",)), r"--steps names 'rat', .* \(did you mean rate\?\); known"),
        (TriageOptions(order=("nine",)), "--order names 'nine', which is no step of this run"),
        (
            TriageOptions(steps=("rate",), order=("temperature",)),
            "--order names 'temperature', which is no step of this run; known: rate",
        ),
        (TriageOptions(steps=("stop_gradient",)), "--steps names open questions alone"),
        (TriageOptions(steps=("rate",), five_steps=True), "--steps cannot be given with"),
        (TriageOptions(order=("rate",), five_steps=True), "--order cannot be given with"),
    ],
)
def test_flags_that_name_no_step_are_refused(options, message, tmp_path) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        chosen_steps(options, read(RATES, tmp_path))
    assert "\n" not in str(refused.value)


# --- what is refused -----------------------------------------------------------------------------

RATE = '"training.learning_rate"'
WRONG = {
    # the form
    "steps = 3": r"steps must be a list of tables, .*3",
    '[[steps]]\nquestion = "Why?"': r"steps\[0\]\.name is missing",
    '[[steps]]\nname = "Rate 1"\nquestion = "?"': "steps.Rate 1.name must be a lower-case word",
    '[[steps]]\nname = "rate"\nquestion = "?"': r"either arms or a sweep \(got neither\)",
    arm(f"{RATE} = 2e-3") + f"[steps.sweep]\n{RATE} = [1e-3]": r"arms or a sweep \(got both\)",
    '[[steps]]\nname = "rate"\nquestion = "?"\nbudgte = 3': r"'steps\.rate\.budgte'.*mean",
    arm(f"{RATE} = 2e-3", "budget = 2.5"): "steps.rate.budget .* type int .*2.5",
    arm(f"{RATE} = [1, 2]"): r"changes\.training\.learning_rate must be one value",
    arm(""): r"steps\.rate\.arms\[0\]\.changes must be at least one key",
    # a sweep
    sweep(f"{RATE} = []"): r"sweep\.training\.learning_rate: the list must be at least one value",
    sweep(f"{RATE} = [1e-3, 1e-3]"): "must be of values that differ",
    sweep(f"{RATE} = 3"): r"must be a list of values or \{ uniform = \[low, high\] \}.*got 3",
    sweep(f"{RATE} = {{ log_uniform = [0, 1] }}", "arms = 2", 'sampler = "random"'): (
        r"log_uniform must be \[low, high\] with low above 0 \(got \[0, 1\]\)"
    ),
    sweep(f"{RATE} = {{ uniform = [2, 1] }}"): r"uniform must be \[low, high\] with low < high",
    sweep(f"{RATE} = {{ uniform = [1] }}"): r"uniform must be two numbers, \[low, high\]",
    sweep('"model.num_layers" = { int = [1.5, 3] }'): "int must be two whole numbers",
    sweep("arms = 2"): "sweep must be at least one key of the recipe",
    sweep(f"{RATE} = [1e-3, 2e-3]", "arms = 3"): r"sweep\.arms must be the 2 of the grid, .*got 3",
    sweep(f"{RATE} = [1e-3, 2e-3]", "arms = 3", 'sampler = "random"'): (
        "sweep.arms must be from 1 to 2, which is all there are"
    ),
    sweep(f"{RATE} = {{ uniform = [1, 2] }}"): "sampler is grid, but training.learning_rate is a",
    sweep(f"{RATE} = {{ uniform = [1, 2] }}", 'sampler = "sobol"'): "arms must be from 1 to 1000",
    sweep(
        f"{RATE} = [1e-3]", 'sampler = "halton"'
    ): "sampler must be one of grid, random, sobol, tpe",
    sweep(f"{RATE} = [1e-3]", 'metric = "loss"'): "sweep.metric must be one of",
    arm(f'{RATE} = 2e-3, "training" = 3'): "has both 'training' and 'training.learning_rate'",
    sweep(f"{RATE} = [2e-3]", "minutes = -1"): "minutes must be a finite number of at least 0",
    sweep(f"{RATE} = [2e-3]", 'minutes = "5"'): "minutes .* type float .*'5'",
    sweep(f"{RATE} = [2e-3]", 'direction = "min"'): 'direction must be "max", because a higher mrr',
}
REFUSED = {
    # what stands in the way of a run
    arm(f"{RATE} = 2e-3").replace('"rate"', '"temperature"'): "two steps are named 'temperature'",
    arm(f"{RATE} = 2e-3") * 2: "two steps are named 'rate'",
    arm(f"{RATE} = 2e-3", "order = 6"): "'context_path' and 'rate' both have the number 6",
    arm(f"{RATE} = 2e-3").replace('"rate"', '"combination"'): "part of every run; choose another",
    arm('"training.batch_size" = 33'): "is 33, expected a multiple of the 2 workers of .*confirm",
    arm('"training.lr" = 2e-3'): r"unknown key 'training\.lr' in section \[training\]",
    arm(f"{RATE} = -1"): r"training\.learning_rate must be a finite number above 0",
    arm(f"{RATE} = 1e-3"): "the arm 'one': it changes nothing, the recipe has these values",
    arm('"training.epochs" = 5'): "must not change training.epochs; budget sets the epochs",
    arm("seed = 5"): "must not change seed; an arm must not win by its seed",
    arm("context_length = 9"): "must not change context_length; .* --extended asks about it",
    sweep('search_space = ["raw", "projected"]', 'metric = "eval_cosine"'): (
        "eval_cosine, which does not compare between the spaces"
    ),
    arm('"model.name" = "lstm"'): "unknown model 'lstm'",
    sweep('"training.lr" = [1e-3, 2e-3]'): r"steps\.tuned: unknown key 'training\.lr'",
    sweep("sampeler = [1]"): "unknown key 'sampeler'",
    sweep(f"{RATE} = {{ normal = [0, 1] }}"): r"learning_rate must be a list of values or .*normal",
    sweep(f'{RATE} = [2e-3, "fast"]'): "learning_rate .* type float .*'fast'",
    sweep(f"{RATE} = [1e-3]"): "it changes nothing",
    sweep(f"{RATE} = [1e-3]", '"model.num_layers" = [1, 3]'): (
        r"training\.learning_rate changes nothing, the recipe has the value 0\.001 already"
    ),
    sweep('"objective.mmd_balance" = ["gradient"]', f"{RATE} = [2e-3]"): (
        "mmd_balance changes nothing, because objective.mmd_weight is 0 in every arm"
    ),
    sweep('"model.options.gru.width" = [64]', 'model.name = ["mamba2"]'): "unknown key",
    sweep('"objective.terms.mine.weight" = [0.5]'): "unknown loss term 'mine'",
    sweep('"head.hidden" = [64]', '"objective.space" = ["raw"]'): (
        "head.hidden changes nothing, because no projection head is trained"
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_step_of_another_form_is_refused_by_name(text, tmp_path) -> None:
    with pytest.raises(ConfigError, match=WRONG[text]) as refused:
        read(text, tmp_path)
    assert "recipe.toml" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", REFUSED)
def test_a_step_that_cannot_be_asked_is_refused_by_name(text, tmp_path) -> None:
    with pytest.raises(ConfigError, match=REFUSED[text]) as refused:
        chosen_steps(TriageOptions(), read(text, tmp_path))
    assert "\n" not in str(refused.value)


def test_more_arms_than_differ_in_their_digits_are_refused(tmp_path) -> None:
    text = sweep(f"{RATE} = {{ uniform = [1.0, 1.001] }}", "arms = 9", 'sampler = "random"')
    with pytest.raises(ConfigError, match="only 2 arms were found that differ in 4 digits"):
        chosen_steps(TriageOptions(), read(text, tmp_path))


def test_a_key_is_read_where_another_key_of_the_sweep_says_so(tmp_path) -> None:
    keys = '"objective.mmd_balance" = ["gradient"]', '"objective.mmd_weight" = [0.0, 0.5]'
    steps = chosen_steps(TriageOptions(), read(sweep(*keys), tmp_path)).steps
    assert steps[-1].name == "tuned"


def test_a_wrong_step_ends_with_status_2_and_no_folder(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(sweep('"training.lr" = [1e-3]'))
    for more in (["--out", "run"], ["--show"]):
        assert run_command(cli.main, ["triage", "--recipe", "recipe.toml", *more]) == 2
        said = capsys.readouterr()
        assert "unknown key 'training.lr'" in said.err
        assert said.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_laptop_takes_the_steps_of_this_file(tmp_path) -> None:
    config = read(RATES + TUNED, tmp_path, preset("laptop"))
    assert [step.name for step in chosen_steps(TriageOptions(), config).steps][-2:] == [
        "rate",
        "tuned",
    ]


def test_names_of_steps_stand_between_commas(capsys) -> None:
    assert run_command(cli.main, ["triage", "--steps", "temperature,,rate"]) == 2
    assert "expected names with commas between them" in capsys.readouterr().err


def test_the_tree_is_shown_with_what_was_asked(tmp_path, capsys) -> None:
    (tmp_path / "recipe.toml").write_text(RATES + TUNED)
    start.show(TriageOptions(preset="laptop", recipe=tmp_path / "recipe.toml", steps=("tuned",)))
    shown = capsys.readouterr().out
    assert "step 13, tuned: Is the network badly tuned? (8 epochs and a control)" in shown
    assert shown.count("  learning_rate ") == 8
    assert "step 12" not in shown
    assert "step 2," not in shown
