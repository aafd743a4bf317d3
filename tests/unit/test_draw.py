"""The draw of dev windows: whole articles, one for a run, known again by a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import tiny
from made import reported

from lvm.audit import own_numbers
from lvm.audit.checkpoint import loader
from lvm.audit.finding import NotEvaluable
from lvm.audit.loaded import as_trained, open_checkpoint
from lvm.audit.material import Material
from lvm.audit.open import open_material
from lvm.audit.samples import draw_samples
from lvm.audit.session import own_data
from lvm.core.config.run import GateConfig, RunConfig
from lvm.data.bank import Bank
from lvm.data.files import write_bank
from lvm.data.load import DataRequest
from lvm.data.windows import Dataset, Size, article_windows, count_by_article, drawn, leading, recut
from lvm.training.loop import train
from lvm.training.manifest import Stated, stated_in
from lvm.triage.preflight import dataset_of

loader = reported("LOADER", loader)

T = 5


def world(sizes: list[int], seed: int = 0) -> Dataset:
    """A dataset whose dev split has articles of so many windows; train and test are small."""
    rng = np.random.default_rng(seed)
    everything = [*sizes, 9, 9, 9, 9, 3, 3, 3]  # windows of each article
    keys = [(a, c) for a, size in enumerate(everything) for c in range(size + T)]
    vectors = rng.standard_normal((len(keys), 8)).astype(np.float32)
    bank = Bank(vectors, np.array(keys, dtype=np.int32))
    windows, dev = article_windows(bank.keys, T), len(sizes)

    def part(first: int, last: int):
        return windows.select((windows.articles >= first) & (windows.articles < last))

    return Dataset(bank, part(dev, dev + 4), part(0, dev), part(dev + 4, dev + 7))


def sizes_of(data: Dataset) -> dict[int, int]:
    return count_by_article(data.dev)


# --- what is drawn --------------------------------------------------------------------------------


def test_a_dev_split_that_is_small_enough_stays_as_it_is() -> None:
    data = world([4, 5, 6])
    assert drawn(data, 15, 0) is data
    assert drawn(data, 8192, 0) is data
    assert drawn(data, 14, 0) is not data


def test_articles_are_whole_and_about_as_many_windows_as_asked_for() -> None:
    data = world([int(n) for n in np.random.default_rng(1).integers(5, 40, 300)])
    found = drawn(data, 2000, 7)
    whole, kept = sizes_of(data), sizes_of(found)
    assert all(kept[article] == whole[article] for article in kept)
    assert 2000 - 40 < len(found.dev) <= 2000
    assert found.dev_drawn_from == Size(windows=len(data.dev), articles=300)
    assert (found.train, found.test, found.bank) == (data.train, data.test, data.bank)


def test_windows_keep_their_order() -> None:
    data = world([9] * 60)
    found = drawn(data, 200, 0)
    place = {int(t): i for i, t in enumerate(data.dev.targets)}
    places = [place[int(t)] for t in found.dev.targets]
    assert places == sorted(places)


def test_the_draw_depends_on_the_seed_and_on_nothing_else() -> None:
    data = world([9] * 60)
    first, again, other = (drawn(data, 200, seed).dev.targets for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert set(first.tolist()) != set(other.tolist())
    seen = {a for seed in range(40) for a in sizes_of(drawn(data, 200, seed))}
    assert seen == set(range(60))  # every article has its chance


def test_long_articles_have_the_chance_of_short_ones() -> None:
    """Drawing until the next one does not fit; passing it over would leave the long ones out."""
    data = world([1] * 40 + [20] * 40)
    long = [sum(a >= 40 for a in sizes_of(drawn(data, 400, s))) for s in range(60)]
    short = [sum(a < 40 for a in sizes_of(drawn(data, 400, s))) for s in range(60)]
    assert np.mean(long) == pytest.approx(np.mean(short), rel=0.15)


@pytest.mark.parametrize(
    ("sizes", "asked", "articles", "most"),
    [
        ([500], 100, 1, 100),  # one article alone is cut
        ([500, 500, 500, 500], 100, 4, 25),  # few: all of them, cut alike
        ([500, *[3] * 100], 160, 32, 5),  # the long one leaves room for 31 others at least
        ([500, *[3] * 39], 300, 40, 183),  # and takes all that they leave
        ([2, 50, 50, 2], 40, 4, 18),  # two short ones, and two that share the rest
        ([4] * 10, 1, 2, 1),  # one article has no interval
    ],
)
def test_only_articles_that_leave_no_room_for_others_are_cut(sizes, asked, articles, most) -> None:
    for seed in range(5):
        data = world(sizes)
        kept = sizes_of(drawn(data, asked, seed))
        assert len(kept) >= articles
        assert max(kept.values()) <= most
        assert 0.9 * asked <= sum(kept.values()) <= max(asked, 2)
        whole = sizes_of(data)
        assert all(n == min(whole[a], most) for a, n in kept.items())


def test_a_cut_article_keeps_its_first_windows() -> None:
    data = world([500, 3, 3])
    kept = drawn(data, 60, 0)
    targets = kept.dev.targets[kept.dev.articles == 0]
    np.testing.assert_array_equal(targets, data.dev.targets[:54])  # what the short ones leave


def test_windows_are_found_again_by_their_counts_in_whatever_order_they_lie() -> None:
    data = world([7, 5, 9])
    mixed = data.dev.select(np.random.default_rng(0).permutation(len(data.dev)))
    part = leading(mixed, {0: 3, 2: 4, 77: 5})
    assert count_by_article(part) == {0: 3, 2: 4}
    wanted = [t for a in (0, 2) for t in mixed.targets[mixed.articles == a][: 3 if a == 0 else 4]]
    assert set(part.targets.tolist()) == set(np.array(wanted).tolist())


# --- what a draw decides --------------------------------------------------------------------------


def test_the_draw_is_part_of_the_name_of_the_data() -> None:
    data = world([9] * 60)
    names = [drawn(data, n, seed).fingerprint for n, seed in ((200, 0), (200, 1), (100, 0))]
    assert len({*names, data.fingerprint}) == 4
    assert drawn(data, 200, 0).fingerprint == names[0]


def test_longer_windows_are_cut_from_the_same_draw() -> None:
    data = world([30] * 20)
    small = drawn(data, 100, 0)  # five windows of each article
    longer = recut(small, 7)
    assert set(longer.dev.targets.tolist()) < set(small.dev.targets.tolist())
    assert count_by_article(longer.dev) == dict.fromkeys(range(20), 3)  # two have too short a past
    whole = recut(data, 7)
    assert len(whole.dev) == len(data.dev) - 2 * 20  # without a draw none is lost but the first


def test_a_shorter_context_of_a_draw_is_the_same_draw() -> None:
    small = drawn(world([9] * 60), 200, 0)
    narrow = small.narrowed(2)
    np.testing.assert_array_equal(narrow.dev.targets, small.dev.targets)
    assert narrow.dev.context_length == 2
    assert narrow.dev_drawn_from == small.dev_drawn_from


def test_a_run_is_judged_on_the_draw_of_its_gates_and_seed(tmp_path) -> None:
    bank = tiny.bank()
    write_bank(tmp_path / "bank", bank.vectors, bank.keys, {})
    config = RunConfig(recipe=tiny.recipe(seed=5), gates=GateConfig(dev_windows=12))
    material = open_material(DataRequest(bank=tmp_path / "bank"), config)
    dataset, _ = dataset_of(material, T)
    whole = tiny.dataset()
    np.testing.assert_array_equal(dataset.dev.targets, drawn(whole, 12, 5).dev.targets)
    assert len(dataset.test) == len(whole.test)  # whole


def test_the_audit_asks_of_the_draw_whether_its_articles_are_enough() -> None:
    """UNDERPOWERED speaks of the windows that judge an epoch, not of the whole split."""
    data = world([int(n) for n in np.random.default_rng(1).integers(5, 40, 300)])
    material = Material(bank=data.bank, dataset=data, gates=GateConfig(dev_windows=900), seed=3)
    sizes = draw_samples(material)[1]["dev"].sizes
    assert sizes.sum() == len(drawn(data, 900, 3).dev)
    assert len(sizes) == drawn(data, 900, 3).dev.num_articles


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint that was validated on a draw, with what its data were."""
    folder, whole = tmp_path_factory.mktemp("drawn"), tiny.dataset()
    data = drawn(whole, 12, 0)
    recipe = tiny.recipe(**{"training.epochs": 1, "objective.space": "raw"})

    def validate(predictor, epoch):
        part = SimpleNamespace(manifest={}, predictor=predictor.eval(), recipe=recipe)
        return {"eval_cosine": own_numbers._dev_cosine(part, data, Material()).value}

    for _ in train(recipe, data, folder, validate=validate):
        pass
    return SimpleNamespace(place=folder / "checkpoint", data=data, whole=whole)


def test_a_checkpoint_says_which_windows_its_cosine_is_of(trained) -> None:
    manifest = json.loads((trained.place / "manifest.json").read_text())
    assert dict(manifest["val_articles"]) == count_by_article(trained.data.dev)
    found = as_trained(trained.whole, stated_in(manifest))
    np.testing.assert_array_equal(found.dev.contexts, trained.data.dev.contexts)
    digest = hashlib.sha256(found.dev.targets.tobytes()).hexdigest()
    assert manifest["val_ids_sha256"] == digest
    assert manifest["data"] == found.fingerprint == trained.data.fingerprint


@pytest.mark.parametrize("stated", [None, 3, "ab", [[1]], [["x", 1]], {"a": 1}])
def test_a_manifest_that_states_no_windows_leaves_the_split_alone(trained, stated) -> None:
    assert as_trained(trained.whole, stated_in({"val_articles": stated})) is trained.whole
    assert as_trained(trained.whole, Stated()) is trained.whole


def judged(trained, **changes) -> list:
    part = open_checkpoint(trained.place, trained.whole.bank.width, T)
    part = dataclasses.replace(part, manifest=msgspec.structs.replace(part.manifest, **changes))
    return list(loader(Material(bank=trained.whole.bank, dataset=trained.whole, checkpoint=part)))


def test_the_audit_reproduces_a_cosine_that_was_measured_on_a_draw(trained) -> None:
    assert judged(trained) == []


def test_the_audit_still_finds_a_cosine_that_is_another_models(trained) -> None:
    stored = json.loads((trained.place / "manifest.json").read_text())["val_cosine"]
    (finding,) = judged(trained, val_cosine=stored + 0.3)
    assert finding.code == "LOADER"
    drawn_windows = len(trained.data.dev)
    assert (finding.where["count"], finding.where["of"]) == (drawn_windows, drawn_windows)
    assert drawn_windows < len(trained.whole.dev)


def test_the_audit_says_so_where_the_windows_are_others(trained) -> None:
    with pytest.raises(NotEvaluable, match="windows other than the dev split"):
        judged(trained, val_articles=[[1, 2]])


def test_a_checkpoint_alone_finds_the_data_it_was_trained_on(trained) -> None:
    material = Material(bank=trained.whole.bank, dataset=trained.whole)
    assert own_data(material, trained.place) is material
    other = tiny.dataset(tiny.bank(seed=1))
    assert own_data(Material(bank=other.bank, dataset=other), trained.place).dataset is None
