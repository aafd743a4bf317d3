"""What a checkpoint was trained on, known in any bank: by ids in its own, by text in another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from made import reported
from planted import Family, clean, corpus

from lvm.audit.finding import NotEvaluable, Severity
from lvm.audit.lineage import read_lineage, seen_articles
from lvm.audit.open import open_material
from lvm.audit.session import complete
from lvm.audit.split import split_leak
from lvm.core.command import run_command
from lvm.core.config.run import RunConfig
from lvm.data import sketch as sketches
from lvm.data.bank import Bank
from lvm.data.files import read_bank, write_bank
from lvm.data.load import DataRequest
from lvm.data.sketch import AXES, MAX_CHUNKS, Sketches, articles_again, sketch
from lvm.data.windows import article_windows, dataset_from_bank
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import save_checkpoint
from lvm.training.manifest import Stated, stated_in

split_leak = reported("SPLIT_LEAK", split_leak)

OWN = ("bank", "data", "articles_seen", "text_seen", "parents")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, Path]:
    """A bank; its texts numbered in another order; other texts numbered from 0; and rounded."""
    folder, bank = tmp_path_factory.mktemp("banks"), clean(0).bank
    vectors, keys = np.array(bank.vectors), np.array(bank.keys)
    order = np.random.default_rng(1).permutation(keys[:, 0].max() + 1)
    renumbered = np.column_stack([order[keys[:, 0]], keys[:, 1]]).astype(np.int32)
    banks = {
        "own": (vectors, keys),
        "renumbered": (vectors, renumbered),
        "rounded": (vectors.astype(np.float16), renumbered),
        "other": corpus(1, Family(articles=150)),
    }
    return {name: write_to(folder / name, *parts) for name, parts in banks.items()}


def write_to(folder: Path, vectors, keys) -> Path:
    write_bank(folder, vectors, keys, {})
    return folder


def dataset_of(folder: Path):
    return dataset_from_bank(read_bank(folder), 5)


def stated(folder: Path, *without: str, **more) -> dict:
    """What a training on a bank writes of it."""
    dataset = dataset_of(folder)
    whole = {
        "width": dataset.bank.width,
        "data": dataset.fingerprint,
        "bank": dataset.bank.fingerprint,
        "articles_seen": np.unique(dataset.train.articles).tolist(),
        "text_seen": sketch(dataset.bank, dataset.train).to_plain(),
        **more,
    }
    return {key: value for key, value in whole.items() if key not in without}


def checkpoint(folder: Path, manifest: dict) -> Path:
    recipe, width = tiny.recipe(), manifest["width"]
    save_checkpoint(folder, Predictor(recipe, width), recipe, stated=stated_in(manifest))
    return folder


def look(bank: Path, manifest: dict, folder: Path):
    material = open_material(DataRequest(bank=bank), RunConfig())
    found = list(split_leak(complete(material, checkpoint=checkpoint(folder, manifest))))
    return [finding for finding in found if finding.where["input"] == "checkpoint"]


def truly_seen(texts, name: str) -> set[int]:
    """Held-out articles of another bank whose text the own bank trains on."""
    own, other = dataset_of(texts["own"]), dataset_of(texts[name])
    order = np.random.default_rng(1).permutation(own.bank.keys[:, 0].max() + 1)
    trained = {int(order[article]) for article in np.unique(own.train.articles)}
    held_out = np.unique(np.concatenate([other.dev.articles, other.test.articles]))
    return trained & set(held_out.tolist())


@pytest.mark.parametrize("name", ["renumbered", "rounded"])
def test_text_that_was_trained_on_blocks_under_any_number(texts, name, tmp_path) -> None:
    expected = truly_seen(texts, name)
    assert len(expected) > 15
    (finding,) = look(texts[name], stated(texts["own"]), tmp_path / "c")
    assert finding.severity is Severity.BLOCK
    assert finding.values["articles"] == len(expected)
    assert set(finding.where["articles"]) <= expected


@pytest.mark.parametrize("name", ["own", "other"])
def test_equal_numbers_of_other_text_are_no_leak(texts, name, tmp_path) -> None:
    assert look(texts[name], stated(texts["own"]), tmp_path / "c") == []


def test_numbers_count_in_the_bank_they_are_of(texts, tmp_path) -> None:
    """Another split of the same bank: what was trained on is held out now."""
    dataset = dataset_of(texts["own"])
    held_out = np.unique(dataset.test.articles).tolist()
    odd = [2**40, -(2**40), 1.5, "1", None]  # what no key can be
    manifest = stated(texts["own"], "text_seen", articles_seen=held_out + odd)
    (finding,) = look(texts["own"], manifest, tmp_path / "c")
    assert finding.values == {"articles": float(len(held_out)), "by_text": 0.0}


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"articles_seen": [0, 1]},
        {"articles_seen": [0], "bank": "0" * 12},
        {"articles_seen": [0], "bank": "0" * 12, "text_seen": {"width": 64}},
    ],
)
def test_numbers_of_an_unknown_bank_are_not_evaluable(texts, manifest, tmp_path) -> None:
    with pytest.raises(NotEvaluable, match="whether the checkpoint has seen"):
        look(texts["own"], {"width": 64, **manifest}, tmp_path / "c")


@pytest.mark.parametrize("embedded", [True, False])
def test_a_parent_on_another_bank_is_known_by_its_text(texts, embedded, tmp_path) -> None:
    """The parent read the renumbered text, the child a bank of other text."""
    parent = {key: value for key, value in stated(texts["own"]).items() if key in OWN}
    if not embedded:
        checkpoint(tmp_path / "parent", stated(texts["own"]))
    manifest = stated(texts["other"], parents=[parent if embedded else "parent"])
    (finding,) = look(texts["renumbered"], manifest, tmp_path / "c")
    assert finding.values["articles"] == len(truly_seen(texts, "renumbered"))


def test_a_parent_that_cannot_be_compared_leaves_the_question_open(texts, tmp_path) -> None:
    manifest = stated(texts["own"], parents=[{"articles_seen": [1, 2], "id": "an old one"}])
    with pytest.raises(NotEvaluable, match="an old one"):
        look(texts["own"], manifest, tmp_path / "c")


def test_lvm_eval_says_what_it_has_read(texts, tmp_path, capsys) -> None:
    import lvm.cli

    folder = checkpoint(tmp_path / "c", stated(texts["own"]))
    asked = ["eval", "--data", str(texts["renumbered"]), str(folder)]
    assert run_command(lvm.cli.main, asked) == 2
    assert run_command(lvm.cli.main, [*asked, "--other-data"]) == 0
    test = set(np.unique(dataset_of(texts["renumbered"]).test.articles).tolist())
    count = len(truly_seen(texts, "renumbered") & test)
    said = capsys.readouterr().out
    assert f"warning: {count} of {len(test)} test articles were in its training data" in said
    assert run_command(lvm.cli.main, ["eval", "--data", str(texts["own"]), str(folder)]) == 0
    assert "warning" not in capsys.readouterr().out


# --- the sketches ---------------------------------------------------------------------------------


def bank_of(vectors, keys) -> Bank:
    return Bank(np.asarray(vectors, np.float32), np.asarray(keys, np.int32))


def test_sketches_survive_json_and_refuse_anything_else() -> None:
    bank = clean(0).bank
    made = sketch(bank, article_windows(bank.keys, 5))
    read = Sketches.from_plain(json.loads(json.dumps(made.to_plain())))
    assert read is not None
    assert np.array_equal(read.codes, made.codes)
    assert np.array_equal(read.articles, made.articles)
    plain = made.to_plain()
    odd = [
        None,
        [],
        "x",
        {},
        {**plain, "codes": 5},
        {**plain, "codes": "!"},
        {**plain, "articles": plain["codes"]},
        {**plain, "width": "x"},
        {"width": 4, "articles": "", "codes": ""},
    ]
    assert [Sketches.from_plain(one) for one in odd] == [None] * len(odd)


@pytest.mark.parametrize("num_articles", [3, 300, 3000])
def test_what_is_kept_is_bounded(num_articles, monkeypatch) -> None:
    monkeypatch.setattr(sketches, "MAX_CHUNKS", 1000)
    rng = np.random.default_rng(0)
    keys = np.column_stack(
        [np.repeat(np.arange(num_articles), 9), np.tile(np.arange(9), num_articles)]
    )
    vectors = rng.standard_normal((len(keys), 24))
    made = sketch(bank_of(vectors, keys), article_windows(keys, 5))
    assert len(made.codes) == {3: 12, 300: 900, 3000: 1000}[num_articles]
    assert MAX_CHUNKS * (AXES + 8) * 4 / 3 < 700_000  # bytes of the manifest


def test_texts_of_a_cosine_of_98_are_not_the_same_and_rounding_is() -> None:
    bank = clean(0).bank
    windows = article_windows(bank.keys, 5)
    seen = sketch(bank, windows)
    rng = np.random.default_rng(0)
    rows, articles = bank.vectors, bank.articles
    noise = rng.standard_normal(rows.shape) / bank.width**0.5
    everything = set(np.unique(windows.articles).tolist())
    assert set(articles_again(seen, rows + 0.01 * noise, articles).tolist()) == everything
    assert set(articles_again(seen, rows + 0.2 * noise, articles).tolist()) == set()


def test_a_heading_that_all_articles_share_makes_nothing_known() -> None:
    """Half the chunks read the same in two corpora of different text."""
    found = []
    for seed in (0, 1):
        bank = clean(seed).bank
        vectors = np.array(bank.vectors)
        vectors[bank.keys[:, 1] % 2 == 0] = clean(0).bank.vectors[0]
        found.append(bank_of(vectors, bank.keys))
    seen = sketch(found[0], article_windows(found[0].keys, 5))
    assert len(articles_again(seen, found[1].vectors, found[1].articles)) == 0


def test_ids_without_a_bank_to_compare_with_are_not_known() -> None:
    bank = clean(0).bank
    line = read_lineage(Stated(articles_seen=[0], bank=bank.fingerprint), Path("c"))
    seen = seen_articles(line, None, None, bank.vectors[:9], bank.articles[:9])
    assert list(seen.unknown) == ["the checkpoint"]
    seen = seen_articles(line, bank, None, bank.vectors[:9], bank.articles[:9])
    assert seen.articles.tolist() == [0]
