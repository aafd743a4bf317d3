"""Which thresholds of the audit can real text of several kinds bear?

    python benchmarks/real_text.py [--write]

Every pair of kinds stands once as train and eval files of one encoder, and each kind once more with
its own eval file rotated, as another encoder of the same width would look: SPACE_MISMATCH has to
tell these apart, where it can. Then how often each kind repeats a chunk word for word, which
DUPLICATES has to bear. Two minutes on one core; `--write` keeps the output in
reports/audit_limits/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]  # the corpora are test data

import corpora  # noqa: E402  # found through the path above
from keep import REPORTS, origin, show  # noqa: E402
from report_form import write_report_files, write_window_file  # noqa: E402

from lvm.audit.bank import DUPLICATES_WARN, REPEATED_BLOCK  # noqa: E402
from lvm.audit.likeness import Likeness, likeness  # noqa: E402
from lvm.audit.open import open_material  # noqa: E402
from lvm.core.config.run import RunConfig  # noqa: E402
from lvm.core.randomness import numpy_generator  # noqa: E402
from lvm.data.bank import Bank  # noqa: E402
from lvm.data.load import DataRequest  # noqa: E402
from lvm.data.sample import load_sample  # noqa: E402
from lvm.data.window_files import open_window_file  # noqa: E402
from lvm.data.windows import dataset_from_bank  # noqa: E402

KINDS = (corpora.news, corpora.documentation, corpora.verse, corpora.docstrings)
OUT = REPORTS / "audit_limits" / "real_text.md"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"keep the output in {OUT}")
    show(report(), OUT if parser.parse_args().write else None)


def report() -> Iterator[str]:
    """Yield the report line by line."""
    yield from origin(
        "Real text and the audit",
        __doc__.splitlines()[0],
        "python benchmarks/real_text.py --write",
    )
    with tempfile.TemporaryDirectory() as folder:
        yield from _spaces(Path(folder))
    yield from _copies()


def _spaces(folder: Path) -> Iterator[str]:
    files = _files(folder)
    yield "## One encoder or two"
    yield ""
    yield (
        "Usual is the cosine of means of parts of the train file; length is the share of squared "
        "length in train's leading axes beside that of its parts. A pair of one kind should pass, "
        "a rotated one must block; two kinds in one encoder are what cannot be told from it."
    )
    yield ""
    yield "| train | eval | cosine of means | usual | length | says |"
    yield "|---|---|--:|--:|--:|---|"
    for train in files:
        for eval_ in files:
            yield _row(train, eval_, _likeness(files[train], files[eval_]))
        rotated = _rotated(files[train], folder / f"{train}_rotated")
        yield _row(train, f"{train}, rotated", _likeness(files[train], rotated))
    yield ""


def _row(train: str, eval_: str, found: Likeness) -> str:
    says = "blocks" if found.blocks else "warns" if found.warns else "passes"
    numbers = f"{found.mean_cosine:.2f} | {found.mean_usual:.2f} | {found.energy:.2f}"
    return f"| {train} | {eval_} | {numbers} | {says} |"


def _files(folder: Path) -> dict[str, tuple[Path, Path, Path]]:
    """Return train, eval and payload files of every kind of text."""
    encoder, sample = corpora.encoder(), load_sample()
    banks = {
        kind.__name__: corpora.embedded(kind, encoder, folder / kind.__name__) for kind in KINDS
    }
    few = np.isin(sample.articles, np.unique(sample.articles)[::4])
    banks["wikipedia"] = Bank(np.float32(sample.vectors[few]), sample.keys[few])
    found = {}
    for name, bank in banks.items():
        (folder / f"{name}_files").mkdir()
        found[name] = write_report_files(dataset_from_bank(bank, 5), folder / f"{name}_files")
    return found


def _rotated(files: tuple[Path, Path, Path], folder: Path) -> tuple[Path, Path, Path]:
    """Return the files with their eval side turned by one random rotation of all axes."""
    folder.mkdir()
    file, path = open_window_file(files[1]), folder / "eval.npz"
    draws = numpy_generator(0, "benchmark", "rotation").standard_normal((file.width, file.width))
    turn = np.linalg.qr(draws)[0].astype(np.float32)
    turned = (np.float32(rows) @ turn for rows in (file.contexts, file.targets))
    write_window_file(path, *turned, file.truth_keys, file.provenance)
    return files[0], path, files[2]


def _likeness(train: tuple[Path, Path, Path], eval_: tuple[Path, Path, Path]) -> Likeness:
    request = DataRequest(train=train[0], evaluation=eval_[1], payload=eval_[2])
    return likeness(open_material(request, RunConfig()), "eval")


def _copies() -> Iterator[str]:
    yield "## Chunks that repeat another one word for word"
    yield ""
    yield (
        f"DUPLICATES warns above {DUPLICATES_WARN:.0%} and, each row having a key of its own, "
        f"blocks above {REPEATED_BLOCK:.0%}. All chunks of a kind, none left out."
    )
    yield ""
    yield "| kind | chunks | repeat another |"
    yield "|---|--:|--:|"
    for kind in KINDS:
        chunks = [chunk for document in kind() for chunk in document.chunks]
        yield f"| {kind.__name__} | {len(chunks):,} | {1 - len(set(chunks)) / len(chunks):.1%} |"


if __name__ == "__main__":
    main()
