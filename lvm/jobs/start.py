"""The first event of a journal, and what `--show` prints without one."""

from __future__ import annotations

from lvm.audit.material import Material
from lvm.core.config.plain import to_dict
from lvm.core.config.run import RunConfig
from lvm.core.provenance import environment
from lvm.core.text import title_of
from lvm.data.load import load_dataset
from lvm.data.windows import SPLITS, Dataset
from lvm.jobs import request as asked
from lvm.jobs.options import TriageOptions
from lvm.jobs.own import check_trainer
from lvm.jobs.steps import Chosen, chosen_steps
from lvm.triage.events import RunStarted, event_of
from lvm.triage.events.parts import DataSeen, Size
from lvm.triage.forecast import Forecast, forecast
from lvm.triage.journal import SCHEMA
from lvm.triage.plan import plan_races
from lvm.triage.probe import probe, slots_here
from lvm.triage.reaching import propose_reachable
from lvm.triage.request import Request
from lvm.triage.step import Facts


def started(
    options: TriageOptions,
    command: str,
    request: Request,
    data: DataSeen,
    identity: dict[str, str],
) -> RunStarted:
    """Return the event with which a run begins."""
    return event_of(
        RunStarted,
        schema=SCHEMA,
        command=command,
        again=asked.again(options, kept=True),
        address=options.address,
        arguments=asked.arguments(options),
        config=to_dict(request.config),
        code=request.code,
        commit=request.commit,
        environment=environment(),
        plan=[step.name for step in (*request.steps, *request.extended)],
        data=data,
        identity=identity,
    )


def data_of(dataset: Dataset, source: str) -> DataSeen:
    """Return what the journal keeps about the data."""
    whole = dataset.dev_drawn_from
    return DataSeen(
        source=source,
        rows=len(dataset.bank),
        width=dataset.bank.width,
        fingerprint=dataset.fingerprint,
        windows={name: len(dataset.split(name)) for name in SPLITS},
        articles={name: dataset.split(name).num_articles for name in SPLITS},
        drawn_from={} if whole is None else {"dev": Size(**vars(whole))},
    )


def data_seen(material: Material) -> DataSeen:
    """Return what is known of data that was never loaded."""
    bank, sides = material.bank, material.sides
    return DataSeen(
        source=bank.source if bank else ", ".join(side.source for side in sides) or "unreadable",
        rows=len(bank) if bank else 0,
        width=next((side.width for side in sides), bank.width if bank else 0),
        fingerprint=None,
        windows={side.name: len(side) for side in sides},
        articles={},
    )


def predicted_time(request: Request, dataset: Dataset) -> Forecast:
    """Predict how long all steps or the open questions will take on this machine."""
    config = request.config
    races = plan_races(
        config,
        request.steps,
        request.extended,
        dataset,
        all_steps=request.all_steps,
        from_bank=request.from_bank,
        more_seeds=request.more_seeds,
        given=request.checkpoint is not None or request.predictions is not None,
    )
    costs, slots = probe(config, dataset, races), slots_here(config.schedule)
    return forecast(races, costs, config.schedule, num_windows=len(dataset.train), slots=slots)


def show(options: TriageOptions) -> None:
    """Print the tree that would be walked, with its arms for this recipe."""
    config = asked.configuration(options)
    check_trainer(config, options)
    config, _ = asked.opened(options, config)
    chosen = chosen_steps(options, config)  # refused before anything is printed
    dataset, _ = load_dataset(options.request, config.recipe.context_length)
    gates, schedule = config.gates, config.schedule
    print(f"phase 1: AR-only and the base recipe, {config.recipe.training.epochs} epochs")
    bounds = " or ".join(f"{title_of(m)} +{b:.2f}" for m, b in gates.success_bounds.items())
    print(f"  success gate on test: {bounds} over AR-only")
    _show_steps(config, dataset, chosen)
    print(
        f"an arm with dev cosine >= {gates.stage_eval_cosine} is trained in full on "
        f"{schedule.confirm_workers} workers and judged by the success gate"
    )
    if options.seeds and options.seeds > 1:
        more = ", ".join(str(config.recipe.seed + i) for i in range(1, options.seeds))
        print(f"then AR-only, the base recipe and the arm behind the verdict with seeds {more}")


def _show_steps(config: RunConfig, dataset: Dataset, chosen: Chosen) -> None:
    facts = Facts(num_train_windows=len(dataset.train), width=dataset.bank.width)
    for step in (*chosen.steps, *chosen.extended):
        epochs = step.epochs(config.schedule)
        base = config.recipe.with_changes({"training.epochs": epochs})
        proposal = propose_reachable(step, base, facts)
        print(f"step {step.number}, {step.name}: {step.question} ({epochs} epochs and a control)")
        for arm in proposal.arms:
            changes = ", ".join(f"{k} = {v}" for k, v in arm.changes.items())
            print(f"  {arm.name}: {changes}{'' if arm.trains else ' (no training)'}")
        for name, reason in proposal.left_out.items():
            print(f"  left out, {name}: {reason}")
        if step.later is not None:
            more = len(step.later.count_on(base, facts).arms) - len(proposal.arms)
            print(f"  and {more} more, proposed in rounds from what those before them reach")
