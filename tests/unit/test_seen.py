"""What a person states that a model has read: every form of it, and the audit that follows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from made import reported
from report_form import write_window_file

from lvm.audit.finding import NotEvaluable, Severity
from lvm.audit.open import open_material
from lvm.audit.session import complete
from lvm.audit.split import split_leak
from lvm.audit.stated import check_stated, stated_articles
from lvm.core.command import run_command
from lvm.core.config.run import RunConfig
from lvm.core.errors import DataError, UsageError
from lvm.data.bank import Bank
from lvm.data.files import write_bank
from lvm.data.load import DataRequest
from lvm.data.seen import SeenArticles, read_seen
from lvm.data.windows import dataset_from_bank
from lvm.models.predictor import Predictor

split_leak = reported("SPLIT_LEAK", split_leak)

IDS = [3, 5, 8]


def bank_of(*articles: int, shift: int = 0, seed: int = 0) -> Bank:
    """Some articles of the tiny bank, their ids moved by `shift`."""
    whole = tiny.bank(seed)
    kept = np.isin(whole.articles, articles or np.unique(whole.articles))
    return Bank(whole.vectors[kept], (whole.keys[kept] + [shift, 0]).astype(np.int32))


def written(folder: Path, bank: Bank) -> Path:
    write_bank(folder, bank.vectors, bank.keys, {})
    return folder


def windows_of(path: Path, bank: Bank) -> Path:
    data = dataset_from_bank(bank, 5)
    contexts, targets = data.train.contexts, data.train.targets
    write_window_file(path, bank.rows(contexts), bank.rows(targets), bank.keys[targets])
    return path


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["3\n5\n8\n", "# read\n8\n3 # twice\n3\n\n5", "[8, 5, 3, 3]", "\n [3,\n 5, 8]"]
)
def test_ids_are_read_from_text_and_json(tmp_path, text) -> None:
    path = tmp_path / "ids"
    path.write_text(text)
    found = read_seen(path)
    assert (found.articles.tolist(), found.text) == (IDS, None)


def test_ids_are_read_from_arrays(tmp_path) -> None:
    keys = np.array([[8, 0], [3, 1], [5, 0], [3, 2]])
    np.save(tmp_path / "ids.npy", keys[:, 0].astype(np.uint16))
    np.save(tmp_path / "pairs.npy", keys)
    for name in ("keys", "truth_keys", "articles"):
        np.savez(tmp_path / f"{name}.npz", **{name: keys})
    for path in tmp_path.iterdir():
        found = read_seen(path)
        assert (found.articles.tolist(), found.text) == (IDS, None), path


def test_banks_and_windows_bring_their_text(tmp_path) -> None:
    bank = bank_of(*IDS)
    written(tmp_path / "bank", bank)
    np.savez(tmp_path / "bank.npz", vectors=bank.vectors, keys=bank.keys)
    for path in (tmp_path / "bank", tmp_path / "bank.npz"):
        found = read_seen(path)
        assert found.articles.tolist() == IDS
        assert found.text is not None
        assert len(found.text) == len(bank)
    found = read_seen(windows_of(tmp_path / "windows.npz", tiny.bank()))
    assert found.text is not None
    assert set(found.articles.tolist()) == set(dataset_from_bank(tiny.bank(), 5).train.articles)


def test_none_is_a_statement_and_an_empty_file_is_not(tmp_path) -> None:
    (tmp_path / "none").write_text("# trained on other text\nNone\n")
    assert read_seen(tmp_path / "none").articles.tolist() == []
    (tmp_path / "empty").write_text("# nothing yet\n")
    with pytest.raises(DataError, match="names no article"):
        read_seen(tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"3\nfour\n", "line 2 must be an article id"),
        (b"3.5\n", "line 1 must be an article id"),
        (b"none\n3\n", "line 1 must be an article id"),
        (b"99999999999\n", "line 1 must be an article id"),
        (b"[1, 2.5]", "item 2 must be an article id"),
        (b"[true]", "item 1 must be an article id"),
        (b"[1, 2", "is not a JSON list"),
        (b"[]", "names no article"),
        (b"\xff\xfe3", "cannot be read as text"),
        (b"%PDF-1.7 and more", "is a PDF"),
        (b"PK\x03\x04 cut off", "not a complete .npz"),
    ],
)
def test_what_names_no_articles_is_refused(tmp_path, content, words) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_seen(tmp_path / "file")


def test_arrays_that_name_no_articles_are_refused(tmp_path) -> None:
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2), np.int64))
    np.save(tmp_path / "none.npy", np.zeros(0, np.int64))
    np.save(tmp_path / "floats.npy", np.ones(3))
    np.savez(tmp_path / "other.npz", weights=np.ones(3))
    for path in [*tmp_path.iterdir(), tmp_path / "gone"]:
        with pytest.raises(DataError):
            read_seen(path)


def test_a_statement_is_known_by_what_it_says(tmp_path) -> None:
    for name, text in (("a", "3\n5\n8"), ("b", "[8, 3, 5]"), ("c", "3\n5")):
        (tmp_path / name).write_text(text)
    first, same, other = (read_seen(tmp_path / name).fingerprint for name in "abc")
    assert first == same != other
    assert read_seen(written(tmp_path / "bank", bank_of(*IDS))).fingerprint != first


# --- against the bank -----------------------------------------------------------------------------


def named(stated: SeenArticles, bank: Bank) -> list[int]:
    check_stated(stated, bank)
    return stated_articles(stated, bank, bank.vectors, bank.articles).tolist()


def with_text(bank: Bank) -> SeenArticles:
    return SeenArticles(source="other", articles=np.unique(bank.articles), text=bank)


def test_ids_alone_are_taken_at_their_word() -> None:
    stated = SeenArticles(source="ids", articles=np.array([*IDS, 900]))
    assert named(stated, tiny.bank()) == IDS
    nothing = SeenArticles(source="ids", articles=np.empty(0, np.int64))
    assert named(nothing, tiny.bank()) == []
    with pytest.raises(DataError, match="has articles 0 to 59"):
        named(SeenArticles(source="ids", articles=np.array([900])), tiny.bank())


def test_text_is_known_under_any_number_and_numbers_where_the_text_agrees() -> None:
    assert named(with_text(bank_of(*IDS)), tiny.bank()) == IDS
    assert named(with_text(bank_of(*IDS, shift=4)), tiny.bank()) == IDS
    assert named(with_text(bank_of(*IDS, shift=500)), tiny.bank()) == IDS
    assert named(with_text(bank_of(*IDS, shift=500, seed=1)), tiny.bank()) == []
    # Article 8 was cut anew: its text is another, and its number the same as that of the rest.
    mixed = bank_of(*IDS)
    mixed.vectors[mixed.articles == 8] *= -1
    assert named(with_text(mixed), tiny.bank()) == IDS


def test_numbers_that_may_mean_other_text_are_refused() -> None:
    with pytest.raises(DataError, match="3 article ids in common but no vector"):
        named(with_text(bank_of(*IDS, seed=1)), tiny.bank())
    narrow = Bank(np.ones((2, 4), np.float32), np.array([[3, 0], [3, 1]], np.int32))
    with pytest.raises(DataError, match="vectors of width 4"):
        named(with_text(narrow), tiny.bank())


# --- the audit ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A bank, a model without a word of its articles, and its predictions on the test split."""
    folder = tmp_path_factory.mktemp("seen")
    written(folder / "bank", tiny.bank())
    model = Predictor(tiny.recipe(), tiny.WIDTH).model
    torch.save({"model_state_dict": model.state_dict(), "args": {}}, folder / "m.pt")
    data = tiny.dataset()
    np.save(folder / "p.npy", data.bank.rows(data.test.contexts[:, -1]))
    test, train = (np.unique(data.split(name).articles) for name in ("test", "train"))
    np.save(folder / "test.npy", test)
    np.save(folder / "train.npy", train)
    (folder / "none.txt").write_text("none\n")
    return folder


def leaks(files: Path, given: str, seen: str | None):
    material = open_material(DataRequest(bank=files / "bank"), RunConfig())
    name = {"m.pt": "checkpoint", "p.npy": "predictions"}[given]
    stated = None if seen is None else files / seen
    return list(split_leak(complete(material, seen=stated, **{name: files / given})))


@pytest.mark.parametrize("given", ["m.pt", "p.npy"])
def test_the_audit_believes_what_is_stated_and_nothing_without_it(files, given) -> None:
    with pytest.raises(NotEvaluable) as unknown:
        leaks(files, given, None)
    assert "--seen FILE" in unknown.value.next
    assert leaks(files, given, "train.npy") == leaks(files, given, "none.txt") == []
    (finding,) = leaks(files, given, "test.npy")
    assert finding.severity is Severity.BLOCK
    assert finding.where["articles"] == np.load(files / "test.npy").tolist()[:10]
    assert finding.where["input"] == {"m.pt": "checkpoint", "p.npy": "predictions"}[given]


def test_a_statement_without_a_model_is_refused(files) -> None:
    material = open_material(DataRequest(bank=files / "bank"), RunConfig())
    with pytest.raises(UsageError, match="give --checkpoint or --predictions"):
        complete(material, seen=files / "none.txt")


def test_lvm_audit_blocks_on_what_is_stated(files, tmp_path, monkeypatch, capsys) -> None:
    import lvm.cli

    monkeypatch.chdir(tmp_path)
    asked = ["audit", "--data", str(files / "bank"), "--checkpoint", str(files / "m.pt"), "--seen"]
    assert run_command(lvm.cli.main, [*asked, str(files / "test.npy"), "--out", "a"]) == 3
    found = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert "SPLIT_LEAK" in [f["code"] for f in found["findings"] if f["severity"] == "block"]
    (tmp_path / "ids").write_text("777\n")
    capsys.readouterr()
    for wrong in ("ids", "gone"):
        assert run_command(lvm.cli.main, [*asked, wrong]) == 2
        said = capsys.readouterr().err.strip()
        assert len(said.splitlines()) == 1
        assert wrong in said
