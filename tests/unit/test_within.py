"""What articles of one part say of each other: another encoder, another order, another code."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made import reported
from planted import Family, Parts, clean, corpus, parts_of, plant
from planted_suite import audit_of

from lvm.audit.articles import Article, draw, parts
from lvm.audit.finding import Finding, Severity
from lvm.audit.material import Material
from lvm.audit.mixed import agree, axes_of, mixed_spaces
from lvm.audit.number_code import contexts_elsewhere, number_code, own_rows
from lvm.audit.other_orders import best_reading, mistakes
from lvm.audit.stored_order import stored_order
from lvm.data.bank import Bank
from lvm.data.sample import load_sample

mixed_spaces = reported("SPACE_MISMATCH", mixed_spaces)
number_code = reported("SPACE_MISMATCH", number_code)
contexts_elsewhere = reported("SPACE_MISMATCH", contexts_elsewhere)
stored_order = reported("ORDER_BROKEN", stored_order)

SMALL = Family(articles=60)


def only(code: str, name: str) -> Finding:
    (finding,) = [f for f in audit_of(name).findings if f.code == code]
    return finding


def material(vectors: np.ndarray, keys: np.ndarray) -> Material:
    return Material(bank=Bank(vectors.astype(np.float32), keys.astype(np.int32)))


def rotation(width: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((width, width))
    return np.linalg.qr(drawn)[0].astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


# --- articles of another encoder ------------------------------------------------------------------


def test_articles_of_another_encoder_on_both_sides_are_named() -> None:
    finding = only("SPACE_MISMATCH", "mixed_encoders")
    assert finding.severity is Severity.BLOCK
    assert finding.where["input"] == "bank"
    before, after = clean(0).bank, plant("mixed_encoders", 0).bank
    changed = set(before.articles[(before.vectors != after.vectors).any(axis=1)].tolist())
    named = set(finding.where["articles"])
    # Halves are of one size: either of them is the other encoder.
    assert named <= changed or not named & changed
    assert finding.values["share"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("share", [0.25, 0.2, 0.1])
def test_a_part_of_real_articles_in_another_space_is_told_article_by_article(share: float) -> None:
    bank = load_sample()
    vectors = np.array(bank.vectors, dtype=np.float32)
    ids = np.unique(bank.articles)
    other = np.random.default_rng(1).choice(ids, round(share * len(ids)), replace=False)
    mine = np.isin(bank.articles, other)
    vectors[mine] = vectors[mine] @ rotation(bank.width)
    (finding,) = mixed_spaces(material(vectors, bank.keys))
    assert set(finding.where["articles"]) <= set(other.tolist())
    assert finding.where["count"] >= 0.8 * len(other)
    assert abs(finding.values["agreement"]) < 0.05


def test_agreement_is_one_for_halves_of_one_text_and_zero_between_spaces() -> None:
    vectors, keys = corpus(3)
    half = keys[:, 0] % 2 == 0
    turned = vectors.copy()
    turned[half] = vectors[half] @ rotation(64)
    for rows, expected, apart in ((vectors, 1.0, False), (turned, 0.0, True)):
        given = material(rows, keys)
        (part,) = parts(given)
        axes = axes_of(draw(given, part, least=5, chunks=24, spread=True, rows=6144))
        assert axes is not None
        found = agree(axes, np.flatnonzero(axes.ids % 2 == 0), np.flatnonzero(axes.ids % 2))
        assert found is not None
        assert found.r == pytest.approx(expected, abs=0.12)
        assert found.apart is apart


def test_articles_of_one_side_alone_name_that_side() -> None:
    """Where the comparison of files is silent, as for a bank without windows of its own."""
    parts_ = plant("eval_and_its_rows_rotated", 0)
    (finding,) = mixed_spaces(parts_.material())
    assert finding.where["input"] == "eval"


def subjects(seed: int) -> tuple[np.ndarray, np.ndarray]:
    vectors, keys = corpus(seed, SMALL)
    subject = unit(np.random.default_rng([seed, 3]).standard_normal((5, 64)))
    return unit(vectors + 1.2 * subject[keys[:, 0] % 5]), keys


def two_languages(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Another mean, and other scales of the axes."""
    vectors, keys = corpus(seed, SMALL)
    rng = np.random.default_rng([seed, 4])
    foreign = keys[:, 0] % 3 == 0
    scales = np.where(foreign[:, None], np.exp(0.4 * rng.standard_normal(64)), 1.0)
    means = unit(rng.standard_normal((2, 64)))
    return unit(vectors * scales + means[foreign.astype(int)]), keys


def dialogues(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two speakers of each article take turns."""
    vectors, keys = corpus(seed, SMALL)
    speakers = unit(np.random.default_rng([seed, 5]).standard_normal((SMALL.articles, 2, 64)))
    return unit(vectors + 1.2 * speakers[keys[:, 0], keys[:, 1] % 2]), keys


def records(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of five fields."""
    vectors, keys = corpus(seed, SMALL)
    rng = np.random.default_rng([seed, 6])
    fields = unit(rng.standard_normal((5, 64)))
    entities = unit(rng.standard_normal((SMALL.articles, 200, 64)))
    about = entities[keys[:, 0], keys[:, 1] // 5]
    return unit(vectors + fields[keys[:, 1] % 5] + 0.6 * about), keys


def no_text(seed: int) -> tuple[np.ndarray, np.ndarray]:
    _, keys = corpus(seed, SMALL)
    rows = np.random.default_rng([seed, 7]).standard_normal((len(keys), 64))
    return unit(rows + 0.5), keys


@pytest.mark.parametrize("kind", [subjects, two_languages, dialogues, records, no_text])
def test_kinds_of_healthy_text_say_nothing(kind) -> None:
    for seed in range(2):
        vectors, keys = kind(seed)
        given = material(vectors, keys)
        assert [*mixed_spaces(given), *stored_order(given), *number_code(given)] == []


# --- contexts -------------------------------------------------------------------------------------


def test_contexts_of_both_sides_in_another_space_are_named_and_keys_are_not() -> None:
    found = audit_of("contexts_in_another_space")
    named = [f for f in found.findings if f.code == "SPACE_MISMATCH"]
    assert {f.where["input"] for f in named} == {"train", "eval"}
    assert {f.where["part"] for f in named} == {"contexts"}
    assert all(f.severity is Severity.BLOCK for f in named)
    assert "KEYS_WRONG" not in {f.code for f in found.findings}


def test_an_added_mean_is_the_same_text_and_other_text_is_not() -> None:
    healthy = clean(0)
    added = 0.3 * unit(np.random.default_rng(0).standard_normal(64))
    prefixed = _with_contexts(healthy, unit(healthy.eval.contexts + added))
    (finding,) = contexts_elsewhere(prefixed.material())
    assert finding.where["input"] == "eval"
    assert 0.9 < finding.values["cosine"] < 0.999
    foreign = corpus(9)[0]
    unrelated = _with_contexts(
        healthy,
        foreign[np.random.default_rng(1).integers(len(foreign), size=(len(healthy.eval), 5))],
    )
    assert list(contexts_elsewhere(unrelated.material())) == []
    own = own_rows(unrelated.material(), "eval")
    assert own is not None
    assert own.share == 1.0
    assert own.same_text < 0.5


def _with_contexts(healthy: Parts, contexts: np.ndarray) -> Parts:
    changed = dataclasses.replace(healthy.eval, contexts=contexts.astype(np.float32))
    return dataclasses.replace(healthy, eval=changed)


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mistake", mistakes(), ids=lambda m: m.name.replace(" ", "-"))
def test_undoing_a_mistake_reads_every_chunk_once(mistake) -> None:
    for n in (1, 7, 12, 113):
        assert sorted(mistake.undo(n).tolist()) == list(range(n))


@pytest.mark.parametrize(
    "name",
    [
        "sorted as text",
        "numbered as text",
        "pairs swapped",
        "batches of 5 last one first",
        "2 documents merged in runs of 3",
        "3 documents merged in runs of 1",
    ],
)
def test_a_mistake_is_told_from_the_others_and_by_its_name(name: str) -> None:
    (mistake,) = [m for m in mistakes() if m.name == name][:1]
    ways = int(name[0]) if "merged" in name else 1
    vectors, keys = corpus(2)
    whole = [vectors[keys[:, 0] == a] for a in np.unique(keys[:, 0])]
    articles = []
    for i in range(0, len(whole) - ways + 1, ways):
        length = min(len(rows) for rows in whole[i : i + ways]) // 3 * 3
        text = np.concatenate([rows[:length] for rows in whole[i : i + ways]])
        if ways == 1:
            text = whole[i]
        stored = np.empty_like(text)
        stored[mistake.undo(len(text))] = text
        articles.append(Article(i, np.arange(len(text)), stored, len(text)))
    reading = best_reading(articles)
    assert reading is not None
    assert reading.mistake.name == name
    assert reading.hit.mean() > 0.9


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("order_as_text", "sorted as text"),
        ("order_pairs_swapped", "pairs swapped"),
        ("order_merged_in_runs", "2 documents merged in runs of 3"),
        ("order_batches_shuffled", "shuffled within batches of 5"),
    ],
)
def test_disorder_of_both_sides_is_named_and_blocks(name: str, word: str) -> None:
    finding = only("ORDER_BROKEN", name)
    assert finding.severity is Severity.BLOCK
    assert finding.where["input"] == "bank"
    assert finding.seen.startswith(word)


def test_real_chunks_in_the_order_of_file_names_are_found() -> None:
    bank = load_sample()
    vectors = np.array(bank.vectors, dtype=np.float32)
    for article in np.unique(bank.articles):
        rows = np.flatnonzero(bank.articles == article)
        vectors[rows] = bank.vectors[rows[sorted(range(len(rows)), key=str)]]
    (finding,) = stored_order(material(vectors, bank.keys))
    assert finding.seen.startswith("sorted as text")
    assert list(stored_order(material(np.array(bank.vectors), bank.keys))) == []


def test_an_article_stored_backwards_leaves_no_trace() -> None:
    """Every cosine stays as it is, so nothing may be said."""
    vectors, keys = corpus(1)
    turned = np.concatenate([vectors[keys[:, 0] == a][::-1] for a in np.unique(keys[:, 0])])
    assert list(stored_order(material(turned, keys))) == []


# --- codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eval_signs_alone", "eval_cut_and_padded"])
def test_another_code_of_the_eval_articles_blocks_and_names_eval(name: str) -> None:
    finding = only("SPACE_MISMATCH", name)
    assert finding.severity is Severity.BLOCK
    assert finding.where["input"] == "eval"


def test_the_part_in_another_code_is_named() -> None:
    healthy = clean(0)
    contexts, targets = _signs(healthy.train.contexts), _signs(healthy.train.targets)
    signs = dataclasses.replace(healthy.train, contexts=contexts, targets=targets)
    bank = dataclasses.replace(healthy.bank, vectors=_signs(healthy.bank.vectors))
    cases = {
        "train": dataclasses.replace(healthy, train=signs),
        "bank": dataclasses.replace(healthy, bank=bank),
    }
    for name, broken in cases.items():
        (finding,) = number_code(broken.material())
        assert finding.where["input"] == name


def _signs(rows: np.ndarray) -> np.ndarray:
    return unit(np.sign(rows)).astype(np.float32)


def test_a_code_that_all_files_share_is_no_defect() -> None:
    vectors, keys = corpus(0)
    for coded in (_signs(vectors), unit(vectors * (np.arange(64) < 32)).astype(np.float32)):
        assert list(number_code(parts_of(coded, keys).material())) == []


def test_bytes_are_fine_enough_and_sparse_vectors_are_not_cut() -> None:
    vectors, keys = corpus(0)
    mine = np.isin(keys[:, 0], np.unique(keys[:, 0])[::3])
    rounded = vectors.copy()
    rounded[mine] = unit(np.round(vectors[mine] * 127 / np.abs(vectors[mine]).max()))
    assert list(number_code(parts_of(rounded, keys).material())) == []
    words = np.random.default_rng(0).random((len(keys), 300)) < 0.03
    words[:, 0] |= ~words.any(axis=1)
    sparse = unit(words * np.random.default_rng(1).random(300)).astype(np.float32)
    assert list(number_code(parts_of(sparse, keys).material())) == []


def test_a_share_of_all_articles_in_another_code_names_the_bank() -> None:
    vectors, keys = corpus(0)
    mine = keys[:, 0] % 4 == 0
    mixed = vectors.copy()
    mixed[mine] = _signs(vectors[mine])
    (finding,) = number_code(parts_of(mixed, keys).material())
    assert finding.where["input"] == "bank"
    assert finding.severity is Severity.BLOCK
