"""What every test shares: shapes checked at run time, tiny data, one rule on markers."""

from __future__ import annotations

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Before anything imports these packages: every annotated function then checks its shapes and types.
install_import_hook(
    ["lvm.losses", "lvm.models", "lvm.evaluation", "lvm.training"], "beartype.beartype"
)

INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(items) -> None:
    """Refuse a test whose folder and marker disagree: `-m "not integration"` must mean fast."""
    for item in items:
        in_folder = INTEGRATION in item.path.parents
        marked = item.get_closest_marker("integration") is not None
        if in_folder and not marked:
            raise pytest.UsageError(
                f"{item.nodeid} lies in tests/integration without the marker integration; set "
                "pytestmark = pytest.mark.integration in its file."
            )
        if marked and not in_folder:
            raise pytest.UsageError(
                f"{item.nodeid} is marked integration outside tests/integration; move it there."
            )


@pytest.fixture(scope="session")
def tiny_bank():
    """360 unit vectors of width 16 in 24 articles; a chunk is the last one, turned, plus noise."""
    import tiny

    return tiny.bank()


@pytest.fixture(scope="session")
def tiny_dataset(tiny_bank):
    """The tiny bank in windows of 5 contexts, split by article."""
    import tiny

    return tiny.dataset(tiny_bank)


@pytest.fixture
def tiny_recipe():
    """A recipe that trains an epoch of the tiny dataset in about 20 ms."""
    import tiny

    return tiny.recipe()
