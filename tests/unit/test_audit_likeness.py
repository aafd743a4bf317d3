"""Text in other words, in two parts, overlapping, partly centred, and a pool that is too easy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made import reported
from planted import Family, Parts, clean, corpus, parts_of, plant, some
from planted_suite import FAMILIES, QUICK

from lvm.audit.coherence import coherence
from lvm.audit.counts import LEAST, overlapping, partial_memory
from lvm.audit.finding import Severity
from lvm.audit.gates import easy_pool
from lvm.audit.paraphrase import bank_twins, find_twins, paraphrases
from lvm.audit.space import shifted_articles
from lvm.audit.target_keys import article_means, halves, target_keys
from lvm.data.bank import Bank

shifted_articles = reported("SPACE_MISMATCH", shifted_articles)
easy_pool = reported("POOL", easy_pool)
halves = reported("SPLIT_LEAK", halves)
overlapping = reported("DUPLICATES", overlapping)
bank_twins = reported("DUPLICATES", bank_twins)
paraphrases = reported("SPLIT_LEAK", paraphrases)


def of_split(look, material) -> list:
    sides = (target_keys(material, material.side(name)) for name in ("eval", "train"))
    return list(look(material, *sides))


def everything(parts: Parts) -> list:
    """All that this file is about."""
    material = parts.material()
    split = [of_split(look, material) for look in (paraphrases, halves)]
    return [
        *bank_twins(material),
        *overlapping(material),
        *shifted_articles(material),
        *easy_pool(material),
        *split[0],
        *split[1],
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_no_kind_of_clean_text_raises_any(name: str) -> None:
    for seed in range(2):
        assert everything(clean(seed, FAMILIES[name])) == []


# --- twins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["base", "centred", "anisotropic", "16 wide"])
def test_twins_are_found_in_every_space(family: str) -> None:
    """A cosine of .98 is a copy in one space and any two texts in another."""
    parts = plant("reworded_in_bank", 0, family=FAMILIES[family])
    (finding,) = bank_twins(parts.material())
    assert (finding.code, finding.severity) == ("DUPLICATES", Severity.WARN)
    assert finding.values["twins"] > 0.8


@pytest.mark.parametrize("family", ["base", "centred", "anisotropic", "16 wide"])
def test_boilerplate_is_told_from_text_that_two_articles_share(family: str) -> None:
    vectors, keys = corpus(0, FAMILIES[family])
    rng, rows = np.random.default_rng(1), keys[:, 1] % 5 == 3
    noise = rng.standard_normal((int(rows.sum()), vectors.shape[1])) / vectors.shape[1] ** 0.5
    vectors[rows] = vectors[0] + 0.1 * np.linalg.norm(vectors[0] - vectors[50]) * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (finding,) = bank_twins(parts_of(vectors, keys).material())
    assert (finding.code, finding.severity) == ("DUPLICATES", Severity.WARN)
    assert finding.values["common"] == pytest.approx(0.2, abs=0.06)
    assert "twins" not in finding.values


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_a_text_in_several_versions_has_twins(copies: int) -> None:
    vectors, keys = corpus(0, QUICK)
    rng = np.random.default_rng(0)
    rows = [vectors + 0.2 * rng.standard_normal(vectors.shape) / 8 for _ in range(copies)]
    articles = [keys[:, 0] + 100 * i for i in range(copies)]
    found = find_twins(*[np.concatenate(rows), np.concatenate(articles)] * 2)
    assert found is not None
    assert found.is_twin.mean() > 0.9
    assert (found.articles % 100 == found.partner % 100).mean() > 0.9


def test_a_heading_that_many_articles_share_is_no_twin() -> None:
    vectors, keys = corpus(0, QUICK)
    vectors = vectors.copy()
    heads = keys[:, 1] == 0
    rng = np.random.default_rng(0)
    vectors[heads] = vectors[0] + 0.2 * rng.standard_normal(vectors[heads].shape) / 8
    found = find_twins(vectors, keys[:, 0], vectors, keys[:, 0])
    assert found is not None
    assert not found.is_twin[heads].any()


@pytest.mark.parametrize(("share", "severity"), [(1.0, Severity.BLOCK), (0.1, Severity.WARN)])
def test_text_of_train_in_other_words_is_a_leak(share: float, severity: Severity) -> None:
    material = plant("reworded_across", 0, share).material()
    (finding,) = of_split(paraphrases, material)
    assert (finding.code, finding.severity) == ("SPLIT_LEAK", severity)
    assert finding.values["share"] == pytest.approx(share, abs=0.05)


# --- two parts of one article ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_halves_of_articles_on_both_sides_block(seed: int) -> None:
    material = plant("articles_cut_in_two", seed).material()
    (finding,) = of_split(halves, material)
    assert (finding.code, finding.severity) == ("SPLIT_LEAK", Severity.BLOCK)
    assert finding.values["share"] > 0.5


def test_articles_of_one_subject_on_both_sides_are_no_halves() -> None:
    """Five articles share each subject, and train articles show how alike such articles are."""
    vectors, keys = corpus(0, Family(articles=100, chunks=24, article=0.0))
    rng = np.random.default_rng(1)
    subjects = rng.standard_normal((20, vectors.shape[1])) / 8
    subject = subjects[keys[:, 0] % 20]
    vectors = vectors + 0.7 * subject
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert of_split(halves, parts_of(vectors, keys).material()) == []


def test_the_means_of_an_article_are_those_of_its_chunks() -> None:
    material = clean(0).material()
    side = material.side("train")
    keys, known = target_keys(material, side)
    means = article_means(side, keys, known)
    article = means.articles[0]
    rows = np.flatnonzero(keys[:, 0] == article)
    assert len(rows) <= 32
    assert np.allclose(means.whole[0], side.targets(rows).mean(axis=0), atol=1e-6)
    half = len(rows) // 2
    assert np.allclose(means.first[0], side.targets(rows[:half]).mean(axis=0), atol=1e-6)
    assert np.allclose(means.second[0], side.targets(rows[half:]).mean(axis=0), atol=1e-6)


# --- a mean that was subtracted -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_half_of_the_articles_centred_block(seed: int) -> None:
    (finding,) = shifted_articles(plant("eval_partly_centred", seed).material())
    assert (finding.code, finding.severity) == ("SPACE_MISMATCH", Severity.BLOCK)
    assert finding.values["outside"] > 0.4


@pytest.mark.parametrize("seed", range(3))
def test_half_of_the_mean_subtracted_is_named(seed: int) -> None:
    parts = clean(seed)
    vectors = np.array(parts.bank.vectors)
    mine = np.isin(parts.bank.articles, np.unique(parts.eval.truth_keys[:, 0]))
    vectors[mine] -= 0.5 * vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (finding,) = shifted_articles(parts_of(vectors, parts.bank.keys).material())
    assert finding.code == "SPACE_MISMATCH"
    assert finding.values["shift"] < -0.25 * finding.values["usual"]


# --- chunks that overlap --------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["base", "centred", "anisotropic", "384 wide"])
def test_chunks_that_share_half_their_text_are_named(family: str) -> None:
    (finding,) = overlapping(plant("chunks_overlap", 0, family=FAMILIES[family]).material())
    assert (finding.code, finding.severity) == ("DUPLICATES", Severity.WARN)
    assert finding.values["partial"] < -0.1


@pytest.mark.parametrize("fade", [0.3, 0.6, 0.9])
def test_a_chain_without_memory_is_the_edge_and_stays_quiet(fade: float) -> None:
    """No noise and no subject: all that chunks share is handed on from one to the next."""
    parts = parts_of(*corpus(0, Family(article=0.0, common=0.0, local=1.0, fade=fade)))
    memory = partial_memory(coherence(parts.material(), "train"))
    assert abs(memory.value) < max(LEAST, 4 * memory.error)
    assert list(overlapping(parts.material())) == []


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8, 0.9])
def test_text_that_changes_smoothly_is_no_overlap(share: float) -> None:
    """Each chunk goes on from the one before it, and hands on what it got."""
    vectors, keys = corpus(0, QUICK)
    smooth = vectors.astype(np.float64)
    for row in range(1, len(keys)):
        if keys[row, 0] == keys[row - 1, 0]:
            smooth[row] = share * smooth[row - 1] + (1 - share**2) ** 0.5 * vectors[row]
    smooth /= np.linalg.norm(smooth, axis=1, keepdims=True)
    material = parts_of(smooth.astype(np.float32), keys).material()
    assert list(overlapping(material)) == []


def test_speakers_who_take_turns_are_no_overlap() -> None:
    vectors, keys = corpus(0, QUICK)
    rng = np.random.default_rng(0)
    voice = rng.standard_normal((2, vectors.shape[1])) / 8
    vectors = vectors + voice[keys[:, 1] % 2]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    assert list(overlapping(parts_of(vectors, keys).material())) == []


# --- the pool -------------------------------------------------------------------------------------


def pool_with(share: float) -> Parts:
    """The clean data with so many of the train articles in the payload."""
    parts = clean(0)
    mine = np.unique(parts.eval.truth_keys[:, 0])
    others = np.setdiff1d(np.unique(parts.bank.articles), mine)
    rng = np.random.default_rng(0)
    kept = others[some(len(others), share, rng)] if share else others[:0]
    rows = np.isin(parts.bank.articles, np.concatenate([mine, kept]))
    bank = Bank(
        parts.bank.vectors[rows],
        parts.bank.keys[rows],
        {"count": int(rows.sum())},
        source="payload.npz",
    )
    return dataclasses.replace(parts, bank=bank)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_pool_of_eval_articles_is_an_easy_search(share: float) -> None:
    parts = pool_with(share)
    (finding,) = easy_pool(parts.material())
    assert (finding.code, finding.severity) == ("POOL", Severity.WARN)
    assert finding.values["pool_size"] == len(parts.bank)
    assert finding.values["other_articles"] < 0.5 * finding.values["train_articles"]


def test_a_pool_with_most_of_the_train_articles_is_none() -> None:
    assert list(easy_pool(pool_with(0.8).material())) == []
