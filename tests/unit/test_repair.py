"""Repairs: what was broken is right again, what was right is untouched, and nothing is lost."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import planted
import pytest
from report_form import write_window_file

from lvm.audit.location import SEARCHED, nearest
from lvm.audit.material import Material, Side
from lvm.audit.repair import files as repair_files
from lvm.audit.repair import repair
from lvm.audit.repair.streams import Stream, selected, write_streams
from lvm.audit.run import run_checks
from lvm.core.errors import UsageError
from lvm.data.bank import Bank
from lvm.data.files import read_bank, write_bank
from lvm.data.npz import open_npz, write_npz
from lvm.data.payload import read_payload
from lvm.data.window_files import open_window_file
from lvm.data.windows import dataset_from_bank

CODES = [
    "SCHEMA",
    "NONFINITE",
    "ZERO_ROWS",
    "UNNORMALISED",
    "DUPLICATES",
    "KEYS_DEGENERATE",
    "KEYS_WRONG",
    "TARGET_NOT_IN_BANK",
    "ROWS_DROPPED",
    "EVAL_UNPAIRED",
    "TARGET_SHIFTED",
    "SPACE_MISMATCH",
    "ORDER_BROKEN",
    "EASY_REGION",
    "SPLIT_LEAK",
]
SMALL = planted.Family(articles=90, chunks=24, width=48)


def replica(seed=0):
    """Keys counted off from row numbers, targets fetched by them, contexts left as they were."""
    parts = planted.clean(seed, SMALL)
    row_of = {tuple(key): row for row, key in enumerate(parts.bank.keys.tolist())}
    rows = np.arange(len(parts.eval))
    keys = np.column_stack([rows // 10, rows % 10]).astype(np.int32)
    fetched = [row_of.get(tuple(key), 0) for key in keys.tolist()]
    targets = parts.bank.vectors[fetched]
    broken = planted.change(parts.eval, targets=targets, truth_keys=keys)
    return dataclasses.replace(parts, eval=broken)


def broken(name, seed=0, **options):
    return (
        replica(seed) if name == "replica" else planted.plant(name, seed, family=SMALL, **options)
    )


def on_disk(parts, folder):
    """Write the three files; return their paths by name."""
    folder.mkdir(exist_ok=True)
    paths = {name: folder / f"{name}.npz" for name in ("train", "eval", "payload")}
    for name in ("train", "eval"):
        file = getattr(parts, name)
        write_window_file(
            paths[name], file.contexts, file.targets, file.truth_keys, file.provenance
        )
    bank = parts.bank
    provenance = np.array(json.dumps(dict(bank.manifest)))
    write_npz(
        paths["payload"],
        {"vectors": bank.vectors, "keys": bank.keys, "provenance": provenance},
    )
    return paths


def opened(paths, **more):
    sides = {
        name: Side(name, str(paths[name]), file=open_window_file(paths[name]))
        for name in ("train", "eval")
        if name in paths
    }
    return Material(**sides, bank=read_payload(paths["payload"]), **more)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def window_rows(file, clean):
    """Return, for every window of a file, the clean window with the same contexts."""
    row_of = {c.tobytes(): row for row, c in enumerate(clean.contexts)}
    return np.array([row_of[c.tobytes()] for c in file.contexts])


REPAIRABLE = [
    "replica",
    "keys_made_up",
    "keys_next_article",
    "keys_next_chunk",
    "unpaired_targets",
    "unpaired_keys_kept",
    "target_is_last",
    "target_two_ahead",
    "order_reversed",
    "keys_collapsed",
    "nan",
]


@pytest.mark.parametrize("name", REPAIRABLE)
def test_every_window_gets_the_chunk_that_follows_it(tmp_path, name):
    clean = planted.clean(0, SMALL)
    paths = on_disk(broken(name), tmp_path / "given")
    before = {path: digest(path) for path in paths.values()}
    assert run_checks(opened(paths), codes=CODES).blocking

    done = repair(opened(paths), tmp_path / "out")

    assert list(done.files) == ["eval"]
    assert {path: digest(path) for path in paths.values()} == before
    audit = run_checks(opened(paths | done.files), codes=CODES)
    assert audit.blocking == [], audit.findings
    assert not [f.code for f in audit.findings if f.code == "ROWS_DROPPED"]
    file = open_window_file(done.files["eval"])
    rows = window_rows(file, clean.eval)
    np.testing.assert_array_equal(file.targets, clean.eval.targets[rows])
    np.testing.assert_array_equal(file.truth_keys, clean.eval.truth_keys[rows])
    given = open_window_file(paths["eval"])
    assert done.kept == len(file) == len(given), done.dropped
    if name != "order_reversed":
        np.testing.assert_array_equal(file.contexts, given.contexts)
    assert done.dropped == []
    assert done.steps


def test_the_clean_set_and_the_repaired_one_have_nothing_to_repair(tmp_path):
    paths = on_disk(planted.clean(0, SMALL), tmp_path / "clean")
    with pytest.raises(UsageError, match="nothing to repair"):
        repair(opened(paths), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    paths = on_disk(replica(), tmp_path / "given")
    once = repair(opened(paths), tmp_path / "once")
    with pytest.raises(UsageError, match="nothing to repair"):
        repair(opened(paths | once.files), tmp_path / "twice")


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("name", ["unpaired_keys_kept", "keys_next_chunk", "order_reversed"])
def test_some_bad_windows_among_good_ones(tmp_path, name, share):
    clean = planted.clean(3, SMALL)
    parts = broken(name, 3, share=share)
    done = repair(parts.material(), tmp_path / "out")
    file = open_window_file(done.files["eval"])
    rows = window_rows(file, clean.eval)
    assert len(file) == len(clean.eval)
    np.testing.assert_array_equal(file.truth_keys, clean.eval.truth_keys[rows])


def test_windows_that_no_run_explains_are_counted(tmp_path):
    parts = planted.plant("windows_across_articles", 0, family=SMALL)
    done = repair(parts.material(), tmp_path / "out")
    (reason, count), *rest = done.dropped
    assert "consecutive chunks" in reason
    assert done.kept + count + sum(n for _, n in rest) == len(parts.eval)
    file = open_window_file(done.files["eval"])
    assert run_checks(with_eval(parts, file), codes=CODES).blocking == []


def with_eval(parts, file):
    return dataclasses.replace(parts, eval=file).material()


def test_shuffled_contexts_come_back_in_order(tmp_path):
    parts = planted.plant("eval_order_shuffled", 0, family=SMALL)
    done = repair(parts.material(), tmp_path / "out")
    file = open_window_file(done.files["eval"])
    np.testing.assert_array_equal(file.contexts, planted.clean(0, SMALL).eval.contexts)


def test_missing_keys_are_written_from_content(tmp_path):
    clean = planted.clean(0, SMALL)
    parts = dataclasses.replace(clean, eval=planted.change(clean.eval, truth_keys=None))
    done = repair(parts.material(), tmp_path / "out")
    file = open_window_file(done.files["eval"])
    np.testing.assert_array_equal(file.truth_keys, clean.eval.truth_keys)
    np.testing.assert_array_equal(file.targets, clean.eval.targets)


def test_keys_off_by_one_are_moved_though_no_bit_agrees(tmp_path, monkeypatch):
    """Of vectors stored with other rounding a few are searched: all keys move by the step found."""
    searched = []

    def counted(bank, vectors):
        searched.append(len(vectors))
        return nearest(bank, vectors)

    monkeypatch.setattr("lvm.audit.repair.places.nearest", counted)
    parts = planted.plant("keys_next_article", 0, family=SMALL)
    turned = (parts.eval.contexts * np.float32(1.0001), parts.eval.targets * np.float32(1.0001))
    file = planted.change(parts.eval, contexts=turned[0], targets=turned[1])
    done = repair(with_eval(parts, file), tmp_path / "out")
    written = open_window_file(done.files["eval"])
    np.testing.assert_array_equal(written.truth_keys, planted.clean(0, SMALL).eval.truth_keys)
    np.testing.assert_array_equal(written.targets, turned[1])
    assert done.steps == [f"keys of {len(written)} windows moved by article -1, chunk +0"]
    assert sum(searched) <= SEARCHED < len(written)


def test_contexts_without_direction_are_filled_from_the_bank(tmp_path):
    clean = planted.clean(0, SMALL)
    contexts = clean.eval.contexts.copy()
    contexts[::7, 2] = np.nan
    contexts[::11, 0] = 0
    parts = dataclasses.replace(clean, eval=planted.change(clean.eval, contexts=contexts))
    done = repair(parts.material(), tmp_path / "out")
    file = open_window_file(done.files["eval"])
    np.testing.assert_array_equal(file.contexts, clean.eval.contexts)


def test_float16_stays_float16(tmp_path):
    parts = replica()
    file = planted.change(
        parts.eval,
        contexts=parts.eval.contexts.astype(np.float16),
        targets=parts.eval.targets.astype(np.float16),
    )
    done = repair(with_eval(parts, file), tmp_path / "out")
    written = open_window_file(done.files["eval"])
    assert written.contexts.dtype == written.targets.dtype == np.float16
    expected = planted.clean(0, SMALL).eval.targets.astype(np.float16)
    np.testing.assert_array_equal(written.targets, expected)


# --- lengths, copies, spoilt rows -----------------------------------------------------------------


def test_lengths_are_one_and_vectors_of_the_bank_take_its_bits(tmp_path):
    clean = planted.clean(0, SMALL)
    paths = on_disk(broken("unnormalised"), tmp_path / "given")
    done = repair(opened(paths), tmp_path / "out")
    file = open_window_file(done.files["eval"])
    np.testing.assert_array_equal(file.contexts, clean.eval.contexts)
    np.testing.assert_array_equal(file.targets, clean.eval.targets)
    audit = run_checks(opened(paths | done.files), codes=CODES)
    assert not [f for f in audit.findings if f.code in ("UNNORMALISED", *audit.blocking)]


def test_a_payload_that_is_off_is_scaled_with_the_windows_cut_from_it(tmp_path):
    parts = planted.clean(0, SMALL)
    factors = np.random.default_rng(0).uniform(0.5, 2, len(parts.bank)).astype(np.float32)
    parts = planted.parts_of(parts.bank.vectors * factors[:, None], parts.bank.keys)
    paths = on_disk(parts, tmp_path / "given")
    done = repair(opened(paths), tmp_path / "out")
    assert set(done.files) == {"eval", "train", "payload"}
    material = opened(done.files)
    audit = run_checks(material, codes=CODES)
    assert not audit.findings, audit.findings
    rows = np.arange(len(material.eval))
    assert (material.content.find(material.eval.targets(rows)) >= 0).all()


def test_duplicates_under_one_key_are_merged(tmp_path):
    clean = planted.clean(0, SMALL)
    paths = on_disk(broken("duplicates"), tmp_path / "given")
    done = repair(opened(paths), tmp_path / "out")
    assert list(done.files) == ["payload"]
    bank = read_payload(done.files["payload"])  # its counts are checked
    np.testing.assert_array_equal(bank.keys, clean.bank.keys)
    np.testing.assert_array_equal(bank.vectors, clean.bank.vectors)
    audit = run_checks(opened(paths | done.files), codes=CODES)
    assert not [f for f in audit.findings if f.code == "DUPLICATES"]
    assert audit.blocking == []


def test_copies_under_other_keys_go_only_where_no_window_needs_them(tmp_path):
    """Text that stands in many articles: without it in one, that article's windows would break."""
    clean = planted.clean(0, SMALL)
    vectors = clean.bank.vectors.copy()
    rng = np.random.default_rng(0)
    same = rng.choice(len(vectors), len(vectors) // 30, replace=False)
    vectors[same] = vectors[rng.integers(len(vectors), size=len(same))]
    parts = planted.parts_of(vectors, clean.bank.keys)
    foreign = clean.bank.keys + np.array([10_000, 0])  # articles that no window is from
    bank = Bank(
        np.concatenate([vectors, vectors[:200]]),
        np.concatenate([clean.bank.keys, foreign[:200]]).astype(np.int32),
    )
    parts = dataclasses.replace(parts, bank=bank)
    done = repair(parts.material(), tmp_path / "out")
    written = read_payload(done.files["payload"])
    np.testing.assert_array_equal(written.keys, clean.bank.keys)
    audit = run_checks(dataclasses.replace(parts, bank=written).material(), codes=CODES)
    assert audit.blocking == [], audit.findings


@pytest.mark.parametrize("name", ["nan_in_bank", "zero_rows"])
def test_spoilt_bank_rows_are_taken_from_windows_that_hold_them(tmp_path, name):
    clean = planted.clean(0, SMALL)
    done = repair(planted.plant(name, 0, family=SMALL).material(), tmp_path / name)
    assert list(done.files) == ["payload"]
    bank = read_payload(done.files["payload"])
    np.testing.assert_array_equal(bank.vectors, clean.bank.vectors)
    np.testing.assert_array_equal(bank.keys, clean.bank.keys)


def test_spoilt_bank_rows_go_and_windows_that_ask_for_them_with_them(tmp_path):
    """The windows were cut after the damage, so that no file holds the vectors any more."""
    for name in ("nan_in_bank", "zero_rows"):
        bank = planted.plant(name, 0, family=SMALL).bank
        parts = planted.parts_of(bank.vectors, bank.keys)
        done = repair(parts.material(), tmp_path / name)
        bank = read_payload(done.files["payload"])
        assert dict(done.dropped)["bank rows that are zero or not finite"] == len(parts.bank) - len(
            bank
        )
        files = {side: open_window_file(done.files[side]) for side in ("train", "eval")}
        audit = run_checks(dataclasses.replace(parts, bank=bank, **files).material(), codes=CODES)
        assert audit.blocking == [], audit.findings


# --- split ----------------------------------------------------------------------------------------


def articles(file):
    return set(file.truth_keys[:, 0].tolist())


def test_articles_on_both_sides_leave_the_eval_file(tmp_path):
    clean = planted.clean(0, SMALL)
    some = sorted(articles(clean.eval))[:4]
    rows = np.isin(clean.eval.truth_keys[:, 0], some)
    train = planted.change(
        clean.train,
        contexts=np.concatenate([clean.train.contexts, clean.eval.contexts[rows]]),
        targets=np.concatenate([clean.train.targets, clean.eval.targets[rows]]),
        truth_keys=np.concatenate([clean.train.truth_keys, clean.eval.truth_keys[rows]]),
    )
    parts = dataclasses.replace(clean, train=train)
    done = repair(parts.material(), tmp_path / "out")
    assert list(done.files) == ["eval"]
    file = open_window_file(done.files["eval"])
    assert articles(file) == articles(clean.eval) - set(some)
    assert done.kept == len(file) == int((~rows).sum())
    assert run_checks(with_eval(parts, file), codes=CODES).blocking == []


def test_the_train_file_gives_way_where_little_of_the_eval_file_is_left(tmp_path):
    clean = planted.clean(0, SMALL)
    train = planted.change(
        clean.train,
        contexts=np.concatenate([clean.eval.contexts, clean.train.contexts]),
        targets=np.concatenate([clean.eval.targets, clean.train.targets]),
        truth_keys=np.concatenate([clean.eval.truth_keys, clean.train.truth_keys]),
        provenance={"num_windows": len(clean.eval) + len(clean.train)},
    )
    parts = dataclasses.replace(clean, train=train)
    for quick in (False, True):
        done = repair(parts.material(quick=quick), tmp_path / f"out{quick}")
        assert list(done.files) == ["train"]
        written = open_window_file(done.files["train"])
        np.testing.assert_array_equal(written.contexts, clean.train.contexts)
        np.testing.assert_array_equal(written.truth_keys, clean.train.truth_keys)
        assert isinstance(written.contexts, np.memmap)
        assert written.provenance["num_windows"] == len(clean.train)


def test_a_random_split_of_windows_becomes_one_of_articles(tmp_path):
    paths = on_disk(broken("split_leak"), tmp_path / "given")
    done = repair(opened(paths), tmp_path / "out")
    assert set(done.files) == {"eval", "train"}
    train, eval_ = (open_window_file(done.files[name]) for name in ("train", "eval"))
    assert not articles(train) & articles(eval_)
    audit = run_checks(opened(paths | done.files), codes=CODES)
    assert audit.blocking == [], audit.findings


# --- provenance -----------------------------------------------------------------------------------


def test_rows_that_were_missing_before_are_still_missed(tmp_path):
    parts = planted.plant("windows_across_articles", 0, family=SMALL)
    declared = round(len(parts.eval) / 0.7)
    was = {"num_windows": declared, "made_by": "someone", "counts": {"source_windows": declared}}
    parts = dataclasses.replace(parts, eval=planted.change(parts.eval, provenance=was))
    done = repair(parts.material(), tmp_path / "out")
    file = open_window_file(done.files["eval"])
    gone = len(parts.eval) - len(file)
    assert gone > 0
    assert file.provenance["num_windows"] == declared - gone
    assert file.provenance["counts"] == {"source_windows": declared - gone}
    assert file.provenance["made_by"] == "someone"
    assert file.provenance["repaired_from"] == parts.eval.source
    assert file.provenance["repairs"] == done.steps
    assert json.loads(file.provenance["original_provenance"]) == was
    audit = run_checks(with_eval(parts, file), codes=["ROWS_DROPPED"])
    assert [f.code for f in audit.findings] == ["ROWS_DROPPED"]


# --- banks ----------------------------------------------------------------------------------------


def test_a_bank_folder_becomes_a_new_bank_folder(tmp_path):
    clean = planted.clean(0, SMALL).bank
    again = np.concatenate([np.arange(len(clean)), np.arange(0, len(clean), 20)])
    texts = [f"text {row}" for row in again]
    folder, out = tmp_path / "bank", tmp_path / "out"
    write_bank(folder, clean.vectors[again] * 3, clean.keys[again], {"embedder": "x"}, texts)
    bank = read_bank(folder)
    dataset = dataset_from_bank(clean, planted.T)
    sides = {
        name: Side(name, str(folder), bank=bank, windows=windows)
        for name, windows in (("train", dataset.train), ("eval", dataset.test))
    }
    with pytest.raises(UsageError, match="folder"):
        repair(Material(**sides, bank=bank), tmp_path / "out.npz")
    done = repair(Material(**sides, bank=bank), out)
    assert done.files == {"bank": out}
    written = read_bank(out, check_sha256=True)
    np.testing.assert_array_equal(written.keys, clean.keys)
    np.testing.assert_allclose(np.linalg.norm(written.vectors, axis=1), 1, atol=1e-6)
    assert written.load_texts() == texts[: len(clean)]
    assert written.manifest["embedder"] == "x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bank", "out"]


# --- where files go -------------------------------------------------------------------------------


def test_a_name_with_npz_is_the_eval_file_and_others_stand_beside_it(tmp_path):
    parts = broken("duplicates")
    parts = dataclasses.replace(parts, eval=replica().eval)
    out = tmp_path / "new" / "fixed.npz"
    done = repair(parts.material(), out)
    assert done.files == {"eval": out, "payload": tmp_path / "new" / "fixed.payload.npz"}
    assert sorted(p.name for p in out.parent.iterdir()) == ["fixed.npz", "fixed.payload.npz"]
    assert f"--eval {out}" in done.next
    assert "--train train.npz" in done.next


def test_nothing_is_ever_overwritten(tmp_path):
    parts = dataclasses.replace(broken("duplicates"), eval=replica().eval)
    taken = tmp_path / "taken.npz"
    taken.write_text("mine")
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("mine")
    beside = tmp_path / "beside.payload.npz"
    beside.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for out in (taken, full, tmp_path / "beside.npz"):
        with pytest.raises(UsageError, match="exists"):
            repair(parts.material(), out)
    assert sorted(tmp_path.rglob("*")) == before
    assert {p.read_text() for p in before if p.is_file()} == {"mine"}


@pytest.mark.parametrize("out", ["deep/er/folder", "deep/er/eval.npz"])
def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch, out):
    parts = dataclasses.replace(broken("duplicates"), eval=replica().eval)

    def full_disk(path, members):
        path.write_text("half")
        if "vectors" in members:
            raise OSError("no space left")

    monkeypatch.setattr(repair_files, "write_streams", full_disk)
    with pytest.raises(OSError, match="no space"):
        repair(parts.material(), tmp_path / out)
    assert list(tmp_path.iterdir()) == []


# --- what no repair is known for ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eval_rotated", "eval_not_in_bank", "order_shuffled"])
def test_what_cannot_be_repaired_is_left_alone(tmp_path, name):
    with pytest.raises(UsageError, match="nothing to repair"):
        repair(broken(name).material(), tmp_path / "out")


def test_without_keys_and_without_a_bank_row_no_key_is_invented(tmp_path):
    parts = broken("eval_rotated")
    parts = dataclasses.replace(parts, eval=planted.change(parts.eval, truth_keys=None))
    with pytest.raises(UsageError, match="contexts are not in the bank"):
        repair(parts.material(), tmp_path / "out")


@pytest.mark.parametrize("value", [0, np.nan])
def test_a_repair_that_would_leave_nothing_of_a_file_is_refused(tmp_path, value):
    bank = planted.clean(0, SMALL).bank
    parts = planted.parts_of(np.full_like(bank.vectors, value), np.array(bank.keys))
    with pytest.raises(UsageError, match=r"leave no rows in bank.*; write (it|them) again"):
        repair(parts.material(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- streams --------------------------------------------------------------------------------------


def test_a_stream_writes_what_savez_writes(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    array = rng.standard_normal((50, 3, 4)).astype(np.float16)
    rows = np.arange(1, 50, 2)
    monkeypatch.setattr("lvm.audit.repair.streams.BLOCK_BYTES", 100)  # four rows
    text = np.array("{}")
    streams = {
        "a": selected(array, rows),
        "t": Stream(shape=(), dtype=text.dtype, blocks=lambda: iter([text])),
    }
    write_streams(tmp_path / "mine.npz", streams)
    np.savez(tmp_path / "theirs.npz", a=array[rows], t=text)
    mine, theirs = np.load(tmp_path / "mine.npz"), np.load(tmp_path / "theirs.npz")
    assert mine.files == theirs.files
    for name in mine.files:
        np.testing.assert_array_equal(mine[name], theirs[name])
        assert mine[name].dtype == theirs[name].dtype
    mine.close()
    theirs.close()
    assert isinstance(open_npz(tmp_path / "mine.npz")["a"], np.memmap)
