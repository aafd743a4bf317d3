"""Is a model of ours worth more than no training at all, on three kinds of text?

    python benchmarks/quality.py [--write] [--banks FOLDER]

The front of predictions without training is `mix + a * last` (benchmarks/quality_front.py). Against
it stand the remedy of the step `context_path`, trained by the product's own loop, and a small model
with an R@5 hinge (benchmarks/quality_model.py): three seeds of each, and the average of their
predictions. Judged are the test split of the bundled text, and by 4-fold cross-fitting every
article of the two small texts. Some four minutes on one quiet core, and two more for embedding;
`--banks` keeps the banks for another run, `--write` keeps the output in reports/quality/.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import quality_model
import torch
from jaxtyping import Float
from keep import REPORTS, origin, show
from quality_front import PULLS, Above, Front, Scores, front_members
from quality_texts import Text, bundled_text, texts
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]  # the presets

from lvm.core.records import Estimate  # noqa: E402
from lvm.data.windows import Dataset  # noqa: E402  # beside what is found through the path above
from lvm.evaluation.inference import predict  # noqa: E402
from lvm.jobs.presets import laptop  # noqa: E402
from lvm.models.predictor import Predictor  # noqa: E402
from lvm.training.loop import train  # noqa: E402

OUT = REPORTS / "quality" / "quality.md"
SEEDS = (0, 1, 2)
REMEDY = {
    "model.residual": True,
    "model.dropout": 0.5,
    "model.input_dropout": 0.3,
    "model.output_dropout": 0.5,
    "objective.space": "raw",
    "objective.contrastive_weight": 0.1,
    "objective.ar_weight": 0.9,
    "objective.temperature": 0.07,
}
SHOWN_PULLS = (0.0, 0.2, 0.4, 1.0)
Predict = Callable[[Text, Dataset, int], Float[Tensor, "M D"]]


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"keep the output in {OUT}")
    parser.add_argument("--banks", type=Path, help="keep the embedded banks here, for another run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        banks = arguments.banks or Path(scratch)
        show(report(banks), OUT if arguments.write else None)


def report(banks: Path) -> Iterator[str]:
    """Yield the report line by line; embedded banks go to the folder `banks`."""
    yield from origin(
        "Models against the front", __doc__.splitlines()[0], "python benchmarks/quality.py --write"
    )
    yield from HEAD
    for text in texts(banks):
        yield from _table(text)
    yield f"{time.process_time():.0f} CPU seconds on one thread, without banks that lay there."


def _table(text: Text) -> Iterator[str]:
    """Yield the table of one text: the front, then every model."""
    folds = [front_members(dataset) for dataset in text.datasets]
    members = [Scores.joined(parts) for parts in zip(*folds, strict=True)]
    front = Front(members)
    judged = members[0]
    yield f"## {text.name.capitalize()}"
    yield ""
    yield (
        f"{len(judged.cosine):,} windows of {len(np.unique(judged.articles))} articles, "
        f"pool of {len(text.datasets[0].bank):,} rows, {text.split}."
    )
    yield ""
    yield "| predictor | cosine | R@5 | MRR | R@5 at equal cosine | cosine at equal R@5 |"
    yield "|---|--:|--:|--:|--:|--:|"
    for pull, member in zip(PULLS, members, strict=True):
        if pull in SHOWN_PULLS:
            yield _row(f"mix + {pull:g} last" if pull else "weighted mix", member)
    yield _row("copy-last", _judged(text, lambda dataset: _last(dataset)))
    for name, predictor in MODELS.items():
        predictions = [[predictor(text, d, seed) for d in text.datasets] for seed in SEEDS]
        for seed, of_folds in zip(SEEDS, predictions, strict=True):
            yield _compared(f"{name}, seed {seed}", text, of_folds, front)
        average = [torch.stack(of_seeds).mean(0) for of_seeds in zip(*predictions, strict=True)]
        yield _compared(f"**{name}, average of {len(SEEDS)}**", text, average, front)
    yield ""


def _compared(name: str, text: Text, predictions: Sequence[Tensor], front: Front) -> str:
    given = dict(zip(map(id, text.datasets), predictions, strict=True))
    scores = _judged(text, lambda dataset: given[id(dataset)])
    return _row(name, scores, front.below(scores, purpose=text.name))


def _judged(text: Text, predictions: Callable[[Dataset], Tensor]) -> Scores:
    """Return the scores of all judged windows of a text, fold after fold."""
    return Scores.joined([Scores.of(predictions(d), d.test, d.bank) for d in text.datasets])


def _last(dataset: Dataset) -> Float[Tensor, "M D"]:
    return dataset.bank.tensor[torch.from_numpy(dataset.test.contexts[:, -1])]


def _row(name: str, scores: Scores, above: Above | None = None) -> str:
    means = (scores.cosine.mean(), scores.hit.mean(), scores.reciprocal.mean())
    gains = ("", "") if above is None else (_interval(above.hit), _interval(above.cosine))
    return f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} | {' | '.join(gains)} |"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:+.4f} [{estimate.lower:+.4f}, {estimate.upper:+.4f}]"


def _remedy(text: Text, dataset: Dataset, seed: int) -> Float[Tensor, "M D"]:
    """Train the remedy by the product's own loop and return its predictions for test."""
    changes = {**REMEDY, "training.batch_size": text.batch_size, "seed": seed}
    last: list[Predictor] = []  # the object is one and the same in every epoch

    def hold(predictor: Predictor, epoch: int) -> dict[str, float]:
        last[:] = [predictor]
        return {}

    with tempfile.TemporaryDirectory() as folder:
        recipe = laptop().recipe.with_changes(changes)
        for _ in train(recipe, dataset, Path(folder), validate=hold):
            pass
    return predict(last[0], dataset, dataset.test, "raw")


def _context_mix(
    text: Text, dataset: Dataset, seed: int, *, hinge: float, reads: bool = False
) -> Float[Tensor, "M D"]:
    """Train the small model; on a small text it goes on from that of the bundled text."""
    model = _of_bundled_text(seed, hinge, reads)
    if not text.is_bundled:
        schedule = quality_model.Schedule(hinge=hinge)
        model = quality_model.fit(dataset, seed, schedule, start=model)
    return quality_model.predict(model, dataset.bank, dataset.test)


@functools.cache
def _of_bundled_text(seed: int, hinge: float, reads: bool) -> quality_model.ContextMix:
    schedule = quality_model.Schedule(hinge=hinge)
    return quality_model.fit(bundled_text().datasets[0], seed, schedule, reads=reads)


MODELS: dict[str, Predict] = {
    "remedy": _remedy,
    "context mix, hinge .45": functools.partial(_context_mix, hinge=0.45),
    "context mix, hinge 2": functools.partial(_context_mix, hinge=2.0),
    "context mix, hinge .45, reads the index": functools.partial(
        _context_mix, hinge=0.45, reads=True
    ),
}
HEAD = (
    "The front is `mix + a * last` without training, fitted on train. The two right columns say "
    "how far a model lies above the front at equal cosine and at equal R@5 (beyond an end of the "
    "front: above its last member), with 95 % intervals over articles. The place on the front "
    "is picked on the judged windows, which favours the front, and anew in each resample.",
    "",
    "Remedy: the recipe of the step context_path. Context mix: benchmarks/quality_model.py, "
    "trained on the bundled text's train split; for a small text it is trained further on the "
    "train folds. The hinge trades cosine for R@5. A model that reads the index "
    "sees the rows that it is judged among (its own contexts left out), the right one included.",
    "",
)

if __name__ == "__main__":
    main()
