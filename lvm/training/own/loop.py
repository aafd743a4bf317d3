"""One training by a person's code, epoch by epoch: as `lvm.training.loop`, with another engine.

The code runs in a process of its own and writes files; an epoch is taken when its line is there,
and the process waits until the next one is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lvm.core.config.recipe import Recipe
from lvm.core.errors import NonFiniteLossError, TrainerDiedError, TrainerError
from lvm.core.files import write_json
from lvm.data.window_files import export_windows, window_ids
from lvm.data.windows import Dataset
from lvm.training.epochs import EpochRecord, read_epochs, write_epochs
from lvm.training.own.code import FOLDER, WINDOWS
from lvm.training.own.process import LOG, Process, begin_log, last_lines, wait_for_earlier
from lvm.training.own.results import TEST, Line, Lines, dev_name, drop_torn_line, predictions
from lvm.training.own.template import fill_command, handed_values

HANDED = "recipe.json"  # the values that a call is handed, in its folder
OWN = "own"  # folder of an arm that is the training's alone
CALLER = Path(__file__).with_name("caller.py")
LOOK_SECONDS = 0.05
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL
Validate = Callable[[Float[Tensor, "M D"], int], Mapping[str, float | str]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one training runs."""

    name: str  # of the arm, for sentences
    folder: Path  # of the arm
    run: Path  # holds the trainer's files and the windows of every arm

    @property
    def own(self) -> Path:
        """The folder that is handed to the training, again after an interruption."""
        return self.folder / OWN


def train_own(
    recipe: Recipe, dataset: Dataset, place: Place, *, validate: Validate, threads: int = 1
) -> Iterator[EpochRecord]:
    """Train by the recipe's trainer and yield an EpochRecord per epoch; resume by itself.

    Epochs that were taken before are yielded again, and not validated again. Raises TrainerError
    where the training writes no epoch, or predictions that cannot be judged, TrainerDiedError where
    it ends with an error, and NonFiniteLossError where it diverges: one sentence each, with the end
    of its log. Whatever ends the generator also ends the process and all that it started.
    """
    records = read_epochs(place.folder)
    yield from records
    if len(records) == recipe.training.epochs and (place.own / TEST).exists():
        return
    windows = export_windows(dataset, place.run / WINDOWS / dataset.fingerprint)
    with contextlib.closing(_Training(recipe, dataset, place, windows, threads)) as training:
        for record in training.epochs(len(records), validate):
            records.append(record)
            write_epochs(place.folder, records)
            # Only now: a kill before it leaves a line whose predictions must still be there.
            (place.own / dev_name(record.epoch)).unlink(missing_ok=True)
            yield record


def test_rows(dataset: Dataset, place: Place) -> Float[Tensor, "M D"]:
    """Return what a finished training predicts for the test windows; TrainerError without it."""
    ids = window_ids(dataset, "test")
    with _with_log(place):
        return predictions(place.own / TEST, ids, dataset.bank.width)


class _Training:
    """A training that runs, and what it has written."""

    def __init__(
        self, recipe: Recipe, dataset: Dataset, place: Place, windows: Path, threads: int
    ) -> None:
        self._recipe, self._dataset, self._place = recipe, dataset, place
        place.own.mkdir(parents=True, exist_ok=True)
        wait_for_earlier(place.folder)
        drop_torn_line(place.own)
        self._lines = Lines(place.own)
        words = command(recipe, place, windows)
        self._with_log = functools.partial(_with_log, place, begin_log(place.folder, words))
        environment = {"OMP_NUM_THREADS": str(threads), **_python(place.run / FOLDER)}
        self._process = Process(words, place.folder, place.own, environment, grace=GRACE_SECONDS)

    def close(self) -> None:
        """End the process and all that it started."""
        self._process.close()

    def epochs(self, known: int, validate: Validate) -> Iterator[EpochRecord]:
        """Yield every epoch after the `known` ones; the last one once the process has ended."""
        budget = self._recipe.training.epochs
        for epoch in range(known + 1, budget + 1):
            with self._with_log():
                started = time.perf_counter()
                line = self._wait_for(epoch)
                if epoch == budget:
                    self._wait_for_end()
                else:
                    self._process.hold()
                seconds = time.perf_counter() - started
                record = self._taken(line, seconds, validate)
            yield record
            self._process.go_on()
        if known == budget:  # only its predictions for test are still to come
            with self._with_log():
                self._wait_for_end()

    def _wait_for(self, epoch: int) -> Line:
        """Return the line of an epoch; lines of earlier ones are of a training that began again."""
        while True:
            ended = self._process.ended()  # before the last look, or its last line could be missed
            for line in self._lines.fresh():
                if line.epoch == epoch:
                    return line
                if line.epoch > epoch:
                    raise TrainerError(
                        f"it wrote epoch {line.epoch} where {epoch} comes next; write one line "
                        "per epoch, in order."
                    )
            if ended is not None:
                if not ended.went_well:
                    raise TrainerDiedError(f"it {ended.in_words} in epoch {epoch}")
                raise TrainerError(
                    f"it ended without an error after {epoch - 1} of "
                    f"{self._recipe.training.epochs} epochs; write a line to {{folder}}/"
                    "epochs.jsonl per epoch, and train for {training.epochs}."
                )
            time.sleep(LOOK_SECONDS)

    def _wait_for_end(self) -> None:
        while (ended := self._process.ended()) is None:
            time.sleep(LOOK_SECONDS)
        if not ended.went_well:
            raise TrainerDiedError(f"it {ended.in_words} after its last epoch")
        predictions(
            self._place.own / TEST, window_ids(self._dataset, "test"), self._dataset.bank.width
        )

    def _taken(self, line: Line, seconds: float, validate: Validate) -> EpochRecord:
        path = self._place.own / dev_name(line.epoch)
        ids = window_ids(self._dataset, "dev")
        rows = predictions(path, ids, self._dataset.bank.width)
        dev = dict(validate(rows, line.epoch))
        return EpochRecord(epoch=line.epoch, train=line.measured, dev=dev, seconds=seconds)


def command(recipe: Recipe, place: Place, windows: Path) -> list[str]:
    """Return the words of the process that trains in `place`."""
    trainer, code = recipe.trainer, (place.run / FOLDER).absolute()
    assert trainer is not None
    places = {"folder": place.own.absolute(), "windows": windows.absolute()}
    if trainer.call:
        write_json(place.own / HANDED, handed_values(recipe))
        return [sys.executable, str(CALLER), str(code), trainer.call, *map(str, places.values())]
    words = fill_command(recipe, places)
    words = [str(code / word) if _is_kept(code, word) else word for word in words]
    return [sys.executable if words[0] in ("python", "python3") else words[0], *words[1:]]


def _python(code: Path) -> dict[str, str]:
    """Return what lets Python find the trainer's modules, and write its log line by line."""
    paths = [str(code.absolute()), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def _is_kept(code: Path, word: str) -> bool:
    return bool(word) and not Path(word).is_absolute() and (code / word).is_file()


@contextlib.contextmanager
def _with_log(place: Place, since: int = 0) -> Iterator[None]:
    """Add whose training it is, and the end of its log, to what went wrong with it.

    The log holds earlier attempts as well: what counts begins after `since` bytes.
    """
    try:
        yield
    except (TrainerError, TrainerDiedError, NonFiniteLossError) as error:
        said = f"the trainer of {place.name}: {str(error).rstrip('.')}"
        raise type(error)(f"{said}; {last_lines(place.folder / LOG, since)}") from None
