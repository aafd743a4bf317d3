"""Windows written out, and predictions for them read back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lvm.core.errors import DataError
from lvm.data.window_files import bad_rows, export_windows, read_prediction_file, window_ids
from lvm.data.windows import SPLITS


def test_the_windows_are_those_of_the_data_set(tiny_dataset, tmp_path) -> None:
    folder = export_windows(tiny_dataset, tmp_path / "windows")
    bank = tiny_dataset.bank
    for split in SPLITS:
        windows = tiny_dataset.split(split)
        with np.load(folder / f"{split}.npz", allow_pickle=False) as found:
            assert np.array_equal(found["contexts"], bank.rows(windows.contexts))
            assert np.array_equal(found["truth_keys"], bank.keys[windows.targets])
            assert np.array_equal(found["ids"], window_ids(tiny_dataset, split))
            assert ("targets" in found) == (split != "test")  # what is judged last stays here
            if split != "test":
                assert np.array_equal(found["targets"], bank.rows(windows.targets))


def test_a_folder_that_is_there_is_left_alone(tiny_dataset, tmp_path) -> None:
    folder = export_windows(tiny_dataset, tmp_path / "windows")
    before = (folder / "train.npz").stat().st_mtime_ns
    assert export_windows(tiny_dataset, folder) == folder
    assert (folder / "train.npz").stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == ["windows"]


def test_an_id_names_one_window_of_one_split_of_one_data_set(tiny_dataset) -> None:
    half = dataclasses.replace(
        tiny_dataset, dev=tiny_dataset.dev.select(np.arange(len(tiny_dataset.dev) // 2))
    )
    every = [window_ids(data, split) for data in (tiny_dataset, half) for split in SPLITS]
    assert len(np.unique(np.concatenate(every))) == sum(map(len, every))
    assert min(ids.min() for ids in every) >= 0
    assert np.array_equal(window_ids(tiny_dataset, "dev"), window_ids(tiny_dataset, "dev"))


IDS = np.arange(4)
ROWS = np.eye(4, 3, dtype=np.float32)


def saved(folder, **arrays):
    path = folder / "p.npz"
    np.savez(path, **arrays)
    return path


def test_predictions_come_back(tmp_path) -> None:
    path = saved(tmp_path, predictions=ROWS.astype(np.float64), ids=IDS)
    found = read_prediction_file(path, IDS, 3)
    assert found.dtype == np.float32
    assert np.array_equal(found, ROWS)
    assert bad_rows(found) == 1
    assert bad_rows(np.where(found == 1, np.nan, found)) == 4


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"predictions": ROWS}, "no array 'ids'"),
        ({"ids": IDS}, "no array 'predictions'"),
        ({"predictions": ROWS[:3], "ids": IDS[:3]}, "other windows, or in another order (3 of 4"),
        ({"predictions": ROWS[:3], "ids": IDS}, "expected (4, 3) floats"),
        ({"predictions": ROWS.astype(int), "ids": IDS}, "expected (4, 3) floats"),
        ({"predictions": ROWS, "ids": IDS + 2}, "other windows, or in another order (2 of 4"),
        ({"predictions": ROWS, "ids": IDS[::-1]}, "in another order (4 of 4"),
        ({"predictions": ROWS.astype(object), "ids": IDS}, "Python objects"),
    ],
)
def test_predictions_for_anything_else_are_refused(tmp_path, arrays, said) -> None:
    with pytest.raises(DataError) as error:
        read_prediction_file(saved(tmp_path, **arrays), IDS, 3)
    assert said in str(error.value)
