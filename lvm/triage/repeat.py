"""Repeated seeds: the models behind a verdict trained again, and what a seed changes.

A verdict rests on one seed. `--seeds N` trains AR-only, the base recipe and the arm behind the
verdict with N - 1 more, each in full and as it was trained before, and judges nothing anew: the
gains over all seeds are shown with the verdict, with an interval that holds what a seed changes as
well as what the articles do. Where the base recipe's model was handed in, as a checkpoint or as
predictions, nobody knows its seed: the recipe is trained with the other seeds alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lvm.core.config.recipe import Recipe
from lvm.core.metrics import METRICS
from lvm.evaluation.metrics import PerQuery, summarise
from lvm.triage.actions import COMBINATION, Attribution, Repeat, RepeatedOutcome
from lvm.triage.arm import ArmSpec
from lvm.triage.events import Repeated as RepeatedTold
from lvm.triage.events import event_of
from lvm.triage.full_training import FullTraining
from lvm.triage.judge import REACHED_ITS_END
from lvm.triage.judge_confirmation import Confirmation
from lvm.triage.over_seeds import gain_over_seeds, level_over_seeds
from lvm.triage.runner import AR_ONLY, Runner, objective_name
from lvm.triage.step import Role


@dataclass(kw_only=True)
class Repeated:
    """One model, seed by seed."""

    recipe: Recipe
    workers: int
    results: dict[int, PerQuery] = field(default_factory=dict)  # seed -> on test


class Repetitions:
    """Trains the models behind a verdict with other seeds."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._models: dict[str, Repeated] = {}

    def repeat(
        self, action: Repeat, confirmed: Sequence[tuple[FullTraining, Confirmation]]
    ) -> RepeatedOutcome:
        """Train the models with the seed of `action` and compare them over all seeds so far."""
        if not self._models:
            self._models = self._behind(behind_verdict(confirmed))
        runner, step = self._runner, f"seed_{action.seed}"
        specs = {
            name: self._spec(step, name, model, action.seed) for name, model in self._models.items()
        }
        about = {"title": f"Seed {action.seed}", "epochs": runner.budget, "seed": action.seed}
        runner.begin(step, list(specs.values()), **about)
        results = runner.race(step, list(specs.values()), runner.budget)
        for name, spec in specs.items():
            runner.judge_dev(results[spec.id])
            if results[spec.id].reason in REACHED_ITS_END:
                runner.note_test(spec)
            found = runner.test_results(spec)
            if found is not None:
                self._models[name].results[action.seed] = found
        self._note(action, specs)
        return RepeatedOutcome(seed=action.seed)

    def _behind(self, chosen: FullTraining | None) -> dict[str, Repeated]:
        """Return the models to repeat by name, with what their first seed left."""
        runner = self._runner
        base = runner.base_model if chosen is None else chosen.control
        models = {
            AR_ONLY: self._repeated(runner.phase1[AR_ONLY]),
            objective_name(runner.base): self._repeated(base),
        }
        if chosen is not None:
            models[chosen.arm] = self._repeated(chosen.result.spec)
        return models

    def _repeated(self, spec: ArmSpec | None) -> Repeated:
        """Return a model with what its first seed left; None is the base recipe, never trained."""
        runner = self._runner
        if spec is None:
            return Repeated(recipe=runner.base, workers=1)
        # What was searched another way without training is trained under another seed.
        repeated = Repeated(recipe=spec.recipe, workers=spec.workers)
        handed_in = spec.source is not None and spec.source == runner.request.checkpoint
        found = None if handed_in else runner.test_results(spec)
        if found is not None:
            repeated.results[runner.base.seed] = found
        return repeated

    def _spec(self, step: str, name: str, model: Repeated, seed: int) -> ArmSpec:
        recipe = model.recipe.with_changes({"seed": seed})
        return self._runner.spec(step, name, Role.REPEAT, recipe, test=True, workers=model.workers)

    def _note(self, action: Repeat, specs: Mapping[str, ArmSpec]) -> None:
        models = {
            name: {"arm": specs[name].id, **self._over_seeds(model)}
            for name, model in self._models.items()
        }
        event = event_of(
            RepeatedTold, seed=action.seed, models=models, comparisons=self._comparisons()
        )
        self._runner.once(event, "seed")

    def _over_seeds(self, model: Repeated) -> dict[str, object]:
        """Return a model's test metrics per seed, and their spread where there are two."""
        per_seed, shown = [], ("eval_cosine", *METRICS.judged)
        for seed, found in sorted(model.results.items()):
            masked, _ = summarise(found)
            per_seed.append({"seed": seed, **{metric: masked[metric] for metric in shown}})
        several = list(model.results.values())
        spread = {}
        if len(several) > 1:
            spread = {m: level_over_seeds(several, m, self._runner.gates) for m in shown}
        return {"per_seed": per_seed, "over_seeds": spread}

    def _comparisons(self) -> list[dict[str, object]]:
        """Return the gain of every model over those before it, over the seeds that both have."""
        gates = self._runner.gates
        names, found = list(self._models), []
        for later, name in enumerate(names):
            for other in names[:later]:
                ours, theirs = self._models[name].results, self._models[other].results
                seeds = sorted(ours.keys() & theirs.keys())
                if len(seeds) < 2:
                    continue
                pair = [ours[s] for s in seeds], [theirs[s] for s in seeds]
                for metric, success in gates.success_bounds.items():
                    estimate = gain_over_seeds(*pair, metric, gates)
                    bound = success if other == AR_ONLY else 0.0
                    found.append(
                        {
                            "model": name,
                            "over": other,
                            "metric": metric,
                            "bound": bound,
                            "seeds": seeds,
                            "estimate": estimate,
                        }
                    )
        return found


def behind_verdict(
    confirmed: Sequence[tuple[FullTraining, Confirmation]],
) -> FullTraining | None:
    """Return the training that the verdict rests on; None when that is the base recipe alone.

    The one whose step is the cause, else one whose cause is open, else any: a step alone before a
    combination, then the best by MRR. Where the unchanged recipe passes, nothing else is repeated.
    """
    seen = [judged.attribution for _, judged in confirmed]
    if Attribution.MORE_TRAINING in seen:
        return None
    for wanted in (Attribution.STEP, Attribution.OPEN, Attribution.NOBODY):
        found = [t for t, judged in confirmed if judged.attribution is wanted]
        if found:
            return max(found, key=lambda t: (t.step != COMBINATION, t.mrr))
    return None
