"""From what a person names on the command line to a Dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lvm.core.errors import UsageError
from lvm.data.bank import check_vectors
from lvm.data.windows import Dataset, dataset_from_bank


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """A bank, or the report's three files, or nothing for the bundled sample."""

    bank: Path | None = None
    train: Path | None = None
    evaluation: Path | None = None
    payload: Path | None = None


def check_request(request: DataRequest, *, whole: bool = True) -> None:
    """Raise UsageError unless the request names one source of data, and all of it if `whole`."""
    report = {"--train": request.train, "--eval": request.evaluation, "--payload": request.payload}
    given = [flag for flag, path in report.items() if path is not None]
    if given and request.bank is not None:
        raise UsageError(f"--data and {given[0]} both name the data; give only one.")
    if whole and given and len(given) < len(report):
        missing = [flag for flag in report if flag not in given]
        raise UsageError(
            f"{' and '.join(given)} came without {' and '.join(missing)}; the Phase 1 format "
            "needs all three."
        )


def load_dataset(request: DataRequest, context_length: int) -> tuple[Dataset, str]:
    """Return the dataset and a name for it. Raises UsageError or DataError."""
    check_request(request)
    if request.train and request.evaluation and request.payload:
        from lvm.data.report_files import dataset_from_report_files

        dataset = dataset_from_report_files(
            request.train, request.evaluation, request.payload, context_length
        )
        return dataset, str(request.payload)
    if request.bank is not None:
        from lvm.data.files import read_bank

        bank, name = read_bank(request.bank), str(request.bank)
    else:
        from lvm.data.sample import load_sample

        bank, name = load_sample(), "bundled sample (Wikipedia)"
    check_vectors(bank.vectors, bank.source)
    return dataset_from_bank(bank, context_length), name
