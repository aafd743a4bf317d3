"""A loss term and two models in one file outside the package arrive wherever they should."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pickle
import sys
from pathlib import Path

import pytest
import tape
import tiny
import torch

from lvm.audit.training import training_findings
from lvm.audit.training_log import log_from_epochs
from lvm.core.config.plain import fingerprint, from_dict, to_dict
from lvm.core.config.read import load_run_config
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import GateConfig, ScheduleConfig
from lvm.core.errors import ConfigError
from lvm.core.parts import TERMS
from lvm.evaluation.gates import success_gates
from lvm.evaluation.metrics import PerQuery
from lvm.jobs.presets import preset
from lvm.models.base import MODELS, build_model
from lvm.models.predictor import Predictor
from lvm.training import loop, updates
from lvm.training import state as training_state
from lvm.training.forward import Outputs
from lvm.training.objective import objective, terms_of
from lvm.training.report_checkpoint import read_report_checkpoint
from lvm.training.report_fit import fit_report_checkpoint
from lvm.training.state import TrainingState
from lvm.training.terms.base import Term
from lvm.training.world import World
from lvm.triage import arm
from lvm.triage.runner import objective_name
from lvm.triage.step import Role

PARTS = """
from dataclasses import dataclass
import torch
from torch import nn
from lvm.core.parts import Options
from lvm.models.base import MODELS
from lvm.core.setting import require
from lvm.training.terms.base import TERMS, Term

@TERMS.register("uniformity")
@dataclass(frozen=True, kw_only=True)
class Uniformity(Term):
    sharpness: float = 2.0

    def __post_init__(self):
        super().__post_init__()
        require(self.sharpness > 0, "sharpness", self.sharpness, "above 0")

    def value(self, outputs, world, log):
        log["largest"] = outputs.predictions.max()
        return world.over_global_batch(self.of_rows, outputs.predictions)

    def of_rows(self, rows):
        near = torch.cdist(rows, rows).square().mul(-self.sharpness).exp()
        return near.mean().log()

class Last(nn.Module):
    def __init__(self, config, width):
        super().__init__()
        self.through = nn.Linear(width, width)

    def forward(self, contexts):
        return self.through(contexts[:, -1])

class Tower(Last):
    @dataclass(frozen=True, kw_only=True)
    class Options(Options):
        rank: int = 3

        def __post_init__(self):
            require(self.rank >= 1, "rank", self.rank, "at least 1")

    def __init__(self, config, width):
        super().__init__(config, width)
        rank = config.own_options.rank
        self.moving = nn.Sequential(nn.Linear(width, rank), nn.Dropout(.5), nn.Linear(rank, width))

    def encode_documents(self, vectors):
        return vectors + self.moving(vectors)

    @staticmethod
    def sizes_of(shapes, args):
        rank, width = shapes["encoder.moving.0.weight"]
        return {"hidden": width, "options.my_tower.rank": rank}

MODELS.register("my_last")(lambda config, width: Last(config, width))
MODELS.register("my_tower")(Tower)
"""
WEIGHED = {"objective.terms.uniformity.weight": 0.5}
OWN = ("contrastive", "ar")


@pytest.fixture
def registries(monkeypatch):
    """The registries, as they are and will be again."""
    for registry in (TERMS, MODELS):
        registry.names()
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))


@pytest.fixture
def plugged(registries, tmp_path, monkeypatch):
    """The parts above, imported from a folder of their own."""
    (tmp_path / "parts_of_mine.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("parts_of_mine")
    del sys.modules["parts_of_mine"]


def outputs(rows: int = 8) -> Outputs:
    """Predictions with a gradient, and the targets of all as candidates."""
    generator = torch.Generator().manual_seed(0)
    p, t = torch.nn.functional.normalize(
        torch.randn(2, rows, tiny.WIDTH, generator=generator), dim=-1
    )
    p.requires_grad_()
    none = torch.empty(0, 2, dtype=torch.int64)
    return Outputs(p, t, p, t, t, torch.arange(rows), none)


def arm_of(recipe: Recipe, folder: Path, **about) -> arm.ArmSpec:
    return arm.ArmSpec(
        id="x",
        step="s",
        name="x",
        role=Role.ARM,
        recipe=recipe,
        folder=folder,
        gates=GateConfig(),
        **about,
    )


def trained(recipe: Recipe, folder: Path, **about) -> list[dict]:
    epochs = tiny.records(arm.run_arm(arm_of(recipe, folder, **about), tiny.dataset()))
    return [epoch.record() for epoch in epochs]


# --- a term --------------------------------------------------------------------------------------


def test_a_term_weighs_in_the_total_with_its_gradient(plugged) -> None:
    given, recipe = outputs(), tiny.recipe(**WEIGHED)
    found = objective(recipe, given, World())
    before = objective(tiny.recipe(), given, World())
    term = plugged.Uniformity().of_rows(given.predictions)
    assert found.terms["uniformity"] == term
    assert found.weights == {"contrastive": 0.7, "ar": 0.3, "uniformity": 0.5}
    torch.testing.assert_close(found.total, before.total + 0.5 * term)
    of = given.predictions
    one, rest, own = (
        torch.autograd.grad(loss, of, retain_graph=True)[0]
        for loss in (found.total, before.total, term)
    )
    assert own.norm() > 0
    torch.testing.assert_close(one, rest + 0.5 * own)


def test_a_balanced_term_has_its_share_of_the_gradient(plugged) -> None:
    recipe = tiny.recipe(**WEIGHED, **{"objective.terms.uniformity.balance": "gradient"})
    given = outputs()
    found, rest = objective(recipe, given, World()), objective(tiny.recipe(), given, World())
    norms = [
        torch.autograd.grad(loss, given.predictions, retain_graph=True)[0].norm()
        for loss in (found.weights["uniformity"] * found.terms["uniformity"], rest.total)
    ]
    torch.testing.assert_close(norms[0], 0.5 * norms[1])


def test_a_term_is_recorded_under_its_name(plugged, tmp_path) -> None:
    recipe = tiny.recipe(**WEIGHED, **{"training.epochs": 1})
    (record,) = trained(recipe, tmp_path)
    assert list(record)[4:] == [
        "stage",
        "seconds",
        "backend",
        "loss",
        "ar",
        "contrastive",
        "gradient_norm",
        "num_negatives",
        "negatives",
        "health",
        "uniformity",
        "largest",
    ]
    weights = recipe.objective.weights
    summed = sum(weight * record[name] for name, weight in weights.items())
    assert record["loss"] == pytest.approx(summed, rel=1e-5)
    health = record["health"]
    assert {f"{kind}_uniformity" for kind in ("first", "dev", "gradient_ratio")} <= set(health)
    assert health["dev_loss"] == pytest.approx(
        sum(weight * health[f"dev_{name}"] for name, weight in weights.items())
    )
    weak = {**record, "health": {**health, "gradient_ratio_uniformity": 1e-4}}
    found = training_findings(log_from_epochs(recipe, [weak]))
    assert any('objective.terms.uniformity.balance = "gradient"' in f.next for f in found)


def test_a_term_alone_trains_and_is_judged(plugged, tmp_path) -> None:
    """It stands for the objective where the report's terms weigh nothing."""
    none = dict.fromkeys((f"objective.{name}_weight" for name in OWN), 0.0)
    recipe = tiny.recipe(**WEIGHED, **none)
    records = trained(recipe, tmp_path)
    assert records[-1]["uniformity"] < records[0]["uniformity"]
    assert log_from_epochs(recipe, records).term == "uniformity"
    training_findings(log_from_epochs(recipe, records))


def test_a_term_is_absent_where_ar_is_alone(plugged) -> None:
    recipe = tiny.recipe(**WEIGHED)
    assert objective_name(recipe) == "InfoNCE+AR+uniformity"
    alone = recipe.ar_only()
    assert alone == tiny.recipe().ar_only()
    assert fingerprint(alone) == fingerprint(tiny.recipe().ar_only())
    assert list(terms_of(alone)) == ["ar"]
    assert objective_name(alone) == "AR-only recipe"


def test_a_recipe_writes_a_term_and_a_change_touches_one_option(plugged, tmp_path) -> None:
    path, base = tmp_path / "mine.toml", preset("laptop")
    path.write_text("[objective.terms.uniformity]\nweight = 1\nsharpness = 3.0\n")
    recipe = load_run_config(path, base).recipe
    assert recipe.objective.terms == {"uniformity": plugged.Uniformity(weight=1.0, sharpness=3.0)}
    changed = recipe.with_changes({"objective.terms.uniformity.weight": 0.25})
    assert to_dict(changed)["objective"]["terms"] == {
        "uniformity": {"weight": 0.25, "balance": "fixed", "sharpness": 3.0}
    }
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(changed)))) == changed
    assert len({fingerprint(one) for one in (base.recipe, recipe, changed)}) == 3
    assert hash(changed) == hash(recipe)  # tables do not enter it


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sharpness": 0}, r"objective\.terms\.uniformity\.sharpness must be above 0 \(got 0\.0\)"),
        ({"sharpness": "2"}, r"objective\.terms\.uniformity\.sharpness .* type float .*'2'"),
        ({"weight": -1}, r"objective\.terms\.uniformity\.weight must be a finite .* \(got -1\.0\)"),
        (
            {"balance": "half"},
            r"objective\.terms\.uniformity\.balance must be one of fixed, "
            r"gradient \(got 'half'\)",
        ),
        (
            {"sharpnes": 2.0},
            r"unknown key 'objective\.terms\.uniformity\.sharpnes' in section "
            r"\[objective\.terms\.uniformity\] \(did you mean sharpness\?\); "
            r"allowed: balance, sharpness, weight\.",
        ),
    ],
)
def test_the_options_of_a_term_are_validated(plugged, changes, message) -> None:
    with pytest.raises(ConfigError, match=f"^{message}") as refused:
        Recipe().with_changes({f"objective.terms.uniformity.{k}": v for k, v in changes.items()})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (
            {"uniformty": {}},
            r"unknown loss term 'uniformty' \(did you mean uniformity\?\); "
            r"known: ar, contrastive, mmd, uniformity\.",
        ),
        ({"mmd": {}}, r"objective\.terms\.mmd is taken; write it as objective\.mmd_weight\."),
        ({"uniformity": 0.1}, r"objective\.terms\.uniformity must be a table.* \(got 0\.1\)"),
        (["uniformity"], r"objective\.terms must be a table.* \(got \['uniformity'\]\)"),
    ],
)
def test_a_table_that_names_no_term_of_its_own_is_refused(plugged, terms, message) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        from_dict(Recipe, {"objective": {"terms": terms}})


def test_a_balanced_term_alone_is_refused(plugged) -> None:
    balanced = {"weight": 0.5, "balance": "gradient"}
    values = {"contrastive_weight": 0, "ar_weight": 0, "terms": {"uniformity": balanced}}
    with pytest.raises(ConfigError, match=r"^objective\.terms\.uniformity\.balance = \"gradient\""):
        from_dict(Recipe, {"objective": values})


def test_a_term_whose_own_default_has_a_wrong_type_is_refused(registries) -> None:
    options = [("sharpness", int, dataclasses.field(default=2.5))]
    TERMS.register("mistyped")(
        dataclasses.make_dataclass("Mistyped", options, bases=(Term,), frozen=True, kw_only=True)
    )
    with pytest.raises(
        ConfigError, match=r"^objective\.terms\.mistyped\.sharpness .* type int .*2\.5"
    ):
        Recipe().with_changes({"objective.terms.mistyped.weight": 0.1})


class Two(World):
    """One of two workers; what the other has is known beforehand."""

    other: torch.Tensor

    def gather(self, rows):
        parts = [self.other, self.other]
        parts[self.rank] = rows
        return torch.cat(parts)

    def sum(self, tensor):
        return tensor


def test_two_workers_share_the_gradient_of_a_term(plugged) -> None:
    """Each differentiates by its own rows; DDP's mean of both is that of the whole batch."""
    term, whole = plugged.Uniformity(), outputs().predictions
    wanted = torch.autograd.grad(term.of_rows(whole), whole)[0]
    found = []
    for rank, half in enumerate((slice(0, 4), slice(4, 8))):
        world = Two(rank, 2)
        object.__setattr__(world, "other", whole.detach()[4:] if rank == 0 else whole.detach()[:4])
        own = whole.detach()[half].clone().requires_grad_()
        given = Outputs(own, own, own, own, own, torch.arange(4), torch.empty(0, 2).long())
        value = term.value(given, world, {})
        assert value.item() == pytest.approx(term.of_rows(whole).item(), abs=1e-6)
        found.append(torch.autograd.grad(value, own)[0] / 2)  # DDP's mean over two workers
    torch.testing.assert_close(torch.cat(found), wanted)


def test_an_update_with_a_term_can_be_recorded(plugged, tmp_path, monkeypatch) -> None:
    """As a CUDA graph is: the recording refuses whatever waits for the device."""
    recipe = tiny.recipe(**WEIGHED)
    plain = list(loop.train(recipe, tiny.dataset(), tmp_path / "a", validate=lambda p, e: {}))
    build, made = TrainingState._device_updates, []

    def recording(state):
        made.append(build(state))
        made[-1]._may_capture = True
        return made[-1]

    monkeypatch.setattr(training_state, "_is_gpu", lambda device: True)
    monkeypatch.setattr(TrainingState, "_device_updates", recording)
    monkeypatch.setattr(updates, "capture", tape.capture)
    recorded = list(loop.train(recipe, tiny.dataset(), tmp_path / "b", validate=lambda p, e: {}))
    assert [one.is_captured for one in made] == [True]
    for one, other in zip(recorded, plain, strict=True):
        assert one.train == pytest.approx(other.train, rel=1e-4, abs=1e-4)


# --- a model -------------------------------------------------------------------------------------


def test_a_model_of_ones_own_trains(plugged, tmp_path) -> None:
    recipe = tiny.recipe(**{"model.name": "my_last"})
    records = trained(recipe, tmp_path)
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["backend"] == "torch"
    baseline = Path("ar_only.npz")
    assert arm.stage_baseline(arm_of(recipe, tmp_path, baseline=baseline)) is None


@pytest.mark.parametrize("name", ["two_tower", "my_tower"])
def test_a_model_that_moves_the_space_is_judged_in_its_space(name, plugged, tmp_path) -> None:
    recipe = tiny.recipe(**{"model.name": name, "training.epochs": 1, "objective.space": "raw"})
    trained(recipe.ar_only(), tmp_path / "ar")
    baseline = arm.dev_file(tmp_path / "ar", 1)
    (record,) = trained(recipe, tmp_path / "own", baseline=baseline)
    own = PerQuery.load(arm.dev_file(tmp_path / "own", 1))
    gain = success_gates(own, PerQuery.load(baseline), GateConfig(), recipe.seed)[0]
    assert record["stage"] == str(gain)
    assert arm.learns_its_space(arm_of(recipe, tmp_path))


def test_documents_are_moved_by_parameters_of_any_name(plugged, tmp_path) -> None:
    """No contrastive term trains them, and that is no defect; nothing is drawn to find them."""
    recipe = tiny.recipe(**{"model.name": "my_tower", "training.epochs": 1}).ar_only()
    model = build_model(recipe.model, tiny.WIDTH, 0)
    model.train()
    state = torch.random.get_rng_state()
    named = {id(parameter) for parameter in model.document_parameters()}
    assert torch.equal(torch.random.get_rng_state(), state)
    found = {name for name, parameter in model.named_parameters() if id(parameter) in named}
    assert found == {n for n, _ in model.named_parameters() if n.startswith("encoder.moving.")}
    assert all(module.training for module in model.modules())
    (record,) = trained(recipe, tmp_path)
    assert record["health"]["dead_all"] == 0


def test_a_task_comes_to_a_process_that_has_yet_to_load_its_plug_in(
    plugged, tmp_path, monkeypatch
) -> None:
    from lvm.triage.on_ray.shared import Common, Task

    recipe = tiny.recipe(**{"model.name": "my_tower", "model.options.my_tower.rank": 5})
    spec = arm_of(recipe, tmp_path)
    common = Common(data=None, plugins=None, schedule=ScheduleConfig(), spare=0)
    sent = pickle.dumps(Task(pickled=pickle.dumps(spec), known=0, common=common))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, plugged.__name__, None)
        task = pickle.loads(sent)
        with pytest.raises(ImportError):
            _ = task.spec
    assert task.spec == spec


def test_a_model_brings_its_options(plugged) -> None:
    recipe = tiny.recipe(**{"model.name": "my_tower", "model.options.my_tower.rank": 5})
    assert build_model(recipe.model, tiny.WIDTH, 0).encoder.moving[0].out_features == 5
    assert to_dict(recipe)["model"]["options"] == {"my_tower": {"rank": 5}}
    plain = tiny.recipe(**{"model.name": "my_tower"})
    assert build_model(plain.model, tiny.WIDTH, 0).encoder.moving[0].out_features == 3
    assert "options" not in to_dict(plain)["model"]
    other = recipe.with_changes({"model.name": "gru"})  # and back: its table waits
    assert other.with_changes({"model.name": "my_tower"}) == recipe
    for changes, message in (
        ({"my_tower.rank": 0}, r"model\.options\.my_tower\.rank must be at least 1 \(got 0\)"),
        (
            {"my_tower.rank": 2.5},
            r"model\.options\.my_tower\.rank must be of type int \(got 2\.5\)",
        ),
        ({"my_last.rank": 2}, r"unknown key 'model\.options\.my_last\.rank' in .*; allowed: none"),
        ({"my_towel.rank": 2}, r"unknown model 'my_towel' \(did you mean my_tower\?\)"),
    ):
        with pytest.raises(ConfigError, match=f"^{message}"):
            recipe.with_changes({f"model.options.{key}": v for key, v in changes.items()})


def test_a_model_reads_checkpoints_made_elsewhere(plugged, tmp_path) -> None:
    recipe = tiny.recipe(**{"model.name": "my_tower", "model.options.my_tower.rank": 7}).ar_only()
    made = Predictor(recipe, tiny.WIDTH).eval()
    weights = {f"module.{name}": w for name, w in made.model.encoder.state_dict().items()}
    torch.save({"model_state_dict": weights}, tmp_path / "made.pt")
    read = read_report_checkpoint(tmp_path / "made.pt")
    predictor, found = fit_report_checkpoint(read, tiny.WIDTH, 5)
    assert (found.model.name, found.model.own_options.rank) == ("my_tower", 7)
    contexts = tiny.bank().tensor[:10].view(2, 5, -1)
    torch.testing.assert_close(predictor.queries(contexts, "raw"), made.queries(contexts, "raw"))


def test_a_function_that_hides_what_its_model_moves_is_refused(plugged) -> None:
    moving = type("Moving", (plugged.Last,), {"encode_documents": lambda self, vectors: vectors})
    MODELS.register("hidden_tower")(lambda config, width: moving(config, width))
    recipe = tiny.recipe(**{"model.name": "hidden_tower"})
    with pytest.raises(ConfigError, match=r"^model 'hidden_tower' has encode_documents"):
        build_model(recipe.model, tiny.WIDTH, 0)


# --- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "name", "kind"),
    [(TERMS, "ar", "loss term"), (MODELS, "gru", "model"), (MODELS, "my_last", "model")],
)
def test_two_parts_of_one_name_are_one_sentence(registry, name, kind, plugged) -> None:
    with pytest.raises(ConfigError, match=rf"^two {kind}s are named '{name}', .*parts_of_mine"):
        registry.register(name)(plugged.Tower)


def test_recipes_without_parts_of_ones_own_keep_their_ids() -> None:
    """Names of arms and folders that runs have been resumed by."""
    laptop = preset("laptop").recipe
    both = laptop.with_changes({"objective.mmd_weight": 0.5, "model.name": "two_tower"})
    found = [fingerprint(preset(name)) for name in ("cluster", "gpu", "laptop")]
    assert found == ["d4acce4efaa4", "0990e5934c01", "1917f766b37c"]
    balanced = both.with_changes({"objective.mmd_balance": "gradient"})
    assert [fingerprint(laptop.ar_only()), fingerprint(balanced)] == [
        "77e767dc8f4e",
        "4a74fed48c1d",
    ]
