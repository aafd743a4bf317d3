from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import planted
import pytest
import torch

from lvm.audit.coherence import coherence
from lvm.audit.material import Material
from lvm.audit.profiles import NUM_BINS, plot_data

PARTS = {
    "position_profile",
    "lag_profile",
    "offset_sweep",
    "coherence_blocks",
    "cosine_histograms",
}
FAMILY = planted.Family(articles=120, chunks=25, width=32)


def data(name: str | None = None, **changes):
    parts = planted.plant(name, 3, family=FAMILY) if name else planted.clean(3, FAMILY)
    return plot_data(parts.material(**changes))


@pytest.fixture(scope="module")
def clean():
    return data()


def sweep_peak(plots, side: str = "eval") -> int:
    sweep = plots["offset_sweep"][side]
    return sweep["x"][int(np.argmax(sweep["mean"]))]


def test_a_sound_data_set_has_every_plot_as_plain_numbers(clean) -> None:
    assert set(clean) == PARTS
    text = json.dumps(clean, allow_nan=False)  # no NaN, no array, no NumPy number
    assert json.loads(text) == clean


def test_position_profile_is_the_cosine_of_each_context_with_the_target(clean) -> None:
    material = planted.clean(3, FAMILY).material()
    side = material.eval
    rows = np.arange(len(side))
    contexts, targets = side.contexts(rows), side.targets(rows)
    profile = clean["position_profile"]["eval"]
    assert profile["x"] == [-5, -4, -3, -2, -1]
    for i, mean in enumerate(profile["mean"]):
        want = (contexts[:, i] * targets).sum(axis=1).mean()
        assert mean == pytest.approx(want, abs=1e-4)
    assert all(0 < error < 0.05 for error in profile["error"])


def test_lag_one_is_the_cosine_of_neighbours(clean) -> None:
    profile = clean["lag_profile"]["train"]
    assert profile["x"] == [1, 2, 3, 4, 5]
    material = planted.clean(3, FAMILY).material()
    side = coherence(material, "train")
    every = np.concatenate([side.contexts, side.targets[:, None]], axis=1)
    want = np.mean([(every[:, i] * every[:, i + 1]).sum(axis=1) for i in range(5)])
    assert profile["mean"][0] == pytest.approx(want, abs=1e-4)
    assert profile["mean"][4] < profile["mean"][0]


@pytest.mark.parametrize(
    ("defect", "peak"),
    [(None, -1), ("target_is_last", 0), ("target_two_ahead", -2), ("order_reversed", -5)],
)
def test_the_sweep_peaks_where_the_last_context_lies(defect, peak, clean) -> None:
    plots = data(defect) if defect else clean
    if peak == -5:  # newest first: the last context lies outside the sweep, its nearest end wins
        assert sweep_peak(plots) == -4
        assert max(plots["offset_sweep"]["eval"]["mean"]) < 0.9
    else:
        assert sweep_peak(plots) == peak
        assert max(plots["offset_sweep"]["eval"]["mean"]) == pytest.approx(1, abs=1e-3)
    assert sweep_peak(plots, "train") == -1


def test_unpaired_targets_flatten_the_sweep_and_close_the_histograms() -> None:
    plots = data("unpaired_targets")
    means = plots["offset_sweep"]["eval"]["mean"]
    assert max(means) - min(means) < 0.1
    eval_, train = (plots["cosine_histograms"][side] for side in ("eval", "train"))
    assert abs(eval_["paired_mean"] - eval_["shuffled_mean"]) < 0.05
    assert train["paired_mean"] - train["shuffled_mean"] > 0.2


def test_histograms_hold_every_window_and_share_their_bins(clean) -> None:
    sides = clean["cosine_histograms"]
    assert sides["eval"]["edges"] == sides["train"]["edges"]
    for part in sides.values():
        assert len(part["edges"]) == NUM_BINS + 1
        for name in ("paired", "shuffled"):
            assert len(part[name]) == NUM_BINS
            assert sum(part[name]) == pytest.approx(1, abs=NUM_BINS * 5e-5)
        centres = np.add(part["edges"][1:], part["edges"][:-1]) / 2
        assert np.dot(centres, part["paired"]) == pytest.approx(part["paired_mean"], abs=0.02)


def test_blocks_hold_all_articles_in_order(clean) -> None:
    part = clean["coherence_blocks"]
    blocks = part["blocks"]
    side = coherence(planted.clean(3, FAMILY).material(), "eval")
    assert sum(b["articles"] for b in blocks) == len(np.unique(side.clusters))
    assert sum(b["windows"] for b in blocks) == len(side.rows)
    assert all(a["last"] < b["first"] for a, b in itertools.pairwise(blocks))
    assert all(6 <= b["articles"] <= 12 for b in blocks)
    assert part["low"] == pytest.approx(0.8 * part["train"]["near"], abs=1e-4)
    assert part["high"] == pytest.approx(1.2 * part["train"]["near"], abs=1e-4)


def test_one_odd_block_of_articles_stands_out() -> None:
    parts = planted.clean(3, FAMILY)
    articles = np.unique(parts.eval.truth_keys[:, 0])
    odd = np.flatnonzero(np.isin(parts.eval.truth_keys[:, 0], articles[:9]))
    targets = parts.eval.targets.copy()
    targets[odd] = parts.eval.contexts[odd, -1]
    file = planted.change(parts.eval, targets=targets)
    plots = plot_data(dataclasses.replace(parts, eval=file).material())
    part = plots["coherence_blocks"]
    first, *rest = (b["near"] for b in part["blocks"])
    assert first > part["high"]
    assert max(rest) < first - 0.2


def test_predictions_are_held_against_their_own_targets() -> None:
    material = planted.clean(3, FAMILY).material()
    perfect = torch.from_numpy(material.eval.targets(np.arange(len(material.eval))))
    part = data(predictions=perfect)["prediction_histogram"]
    assert part["paired_mean"] == pytest.approx(1, abs=1e-4)
    assert part["shuffled_mean"] < 0.4


@pytest.mark.parametrize("shape", [(7, 32), (4000, 31), (4000,)])
def test_predictions_that_do_not_fit_are_left_out(shape) -> None:
    assert set(data(predictions=torch.ones(shape))) == PARTS


def test_predictions_that_are_no_numbers_are_left_out() -> None:
    assert set(data(predictions=torch.full((4000, 32), torch.nan))) == PARTS


def test_what_is_missing_is_left_out() -> None:
    assert plot_data(Material()) == {}
    assert set(data(bank=None)) == PARTS - {"offset_sweep"}
    alone = data(train=None)
    assert set(alone["position_profile"]) == {"eval"}
    assert "train" not in alone["coherence_blocks"]
    trained = data(eval=None)
    assert set(trained["lag_profile"]) == {"train"}
    assert "coherence_blocks" not in trained


def test_targets_that_are_not_in_the_bank_leave_their_side_out_of_the_sweep() -> None:
    assert set(data("eval_not_in_bank")["offset_sweep"]) == {"train"}


def test_broken_bank_rows_do_not_reach_the_numbers() -> None:
    plots = data("nan_in_bank")
    json.dumps(plots, allow_nan=False)
    assert sweep_peak(plots) == -1
