"""What every check owes: an answer, a reason where it has none, and no harm to the others."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator

import numpy as np
import planted
import pytest
import torch
from planted import PLANTS, Parts, change, clean, plant
from planted_suite import DATA_CODES, QUICK, audit, audit_of, blocking, codes

from lvm.audit.check import CHECKS, Check
from lvm.audit.finding import CheckResult, Finding, Severity, Status
from lvm.audit.material import Material, Side
from lvm.audit.run import Audit, AuditVerdict, audit_document, run_checks
from lvm.core.errors import ConfigError
from lvm.core.records import to_plain
from lvm.data.bank import Bank
from lvm.evaluation.index import FaissIndex, Index, TorchIndex

CATALOGUE = (
    *DATA_CODES,
    "GATE_INVALID",
    "GATE_BELOW_TRIVIAL",
    "POOL",
    "UNDERPOWERED",
    "LOADER",
    "IGNORES_INPUT",
    "COLLAPSE",
    "LOW_RANK",
    "HUBNESS",
    "SPLIT_SPACE",
    "ANN_LOSS",
    "NEGATIVES_FEWER",
    "UNDERTRAINED",
    "LOSS_SCALE",
    "DEAD_PARAMETERS",
    "OVERFIT",
    "DIVERGED",
    "PREDICTIONS_LEAKED",
    "PREDICTIONS_REPEATED",
    "PREDICTIONS_MISALIGNED",
)

# Which data checks cannot answer at all without a part.
NEEDS = {
    "bank": {"DUPLICATES", "TARGET_NOT_IN_BANK", "KEYS_WRONG", "INDEX_MISMATCH"},
    "eval": {"TARGET_NOT_IN_BANK", "EASY_REGION", "SPLIT_LEAK"},
    "train": {"SPACE_MISMATCH", "EASY_REGION", "SPLIT_LEAK"},
}


def result(code: str, material: Material) -> CheckResult:
    return run_checks(material, codes=[code]).results[0]


# --- the contract of every check ------------------------------------------------------------------


def test_every_code_of_the_catalogue_is_a_check() -> None:
    assert set(CATALOGUE) <= set(CHECKS.names())


@pytest.mark.parametrize("code", CHECKS.names())
def test_a_check_asks_a_question_and_passes_nothing_where_it_has_nothing(code: str) -> None:
    assert CHECKS.get(code).question.endswith("?")
    answer = result(code, Material())
    assert answer.status is Status.NOT_EVALUABLE
    assert answer.findings == ()
    assert answer.reason
    assert re.search(r"\b(give|write|fix|see|train|use|set|run)\b", answer.next), answer.next


def test_nothing_at_all_is_not_called_clean_by_any_check() -> None:
    statuses = {r.status for r in run_checks(Material()).results}
    assert statuses == {Status.NOT_EVALUABLE}


@pytest.mark.parametrize("part", NEEDS)
def test_a_missing_part_is_named_and_never_counts_as_passed(part: str) -> None:
    material = dataclasses.replace(clean(0).material(), **{part: None})
    results = {r.code: r for r in run_checks(material, codes=DATA_CODES).results}
    assert [r.reason for r in results.values() if r.status is Status.FAILED] == []
    for code in NEEDS[part]:
        assert results[code].status is Status.NOT_EVALUABLE, code
        assert results[code].reason
        assert results[code].next
    assert blocking(run_checks(material, codes=DATA_CODES)) == set()


def test_a_part_that_could_not_be_opened_is_given_as_the_reason() -> None:
    material = dataclasses.replace(
        clean(0).material(), bank=None, missing={"bank": "payload.npz is damaged"}
    )
    answer = result("TARGET_NOT_IN_BANK", material)
    assert answer.status is Status.NOT_EVALUABLE
    assert answer.reason == "payload.npz is damaged"


def test_a_few_windows_are_too_few_to_judge_and_do_not_pass() -> None:
    parts = clean(0)
    few = planted.WindowFile(
        parts.eval.contexts[:20],
        parts.eval.targets[:20],
        parts.eval.truth_keys[:20],
        {},
        "eval.npz",
    )
    material = dataclasses.replace(parts, eval=few).material()
    for code in ("EVAL_UNPAIRED", "EASY_REGION"):
        answer = result(code, material)
        assert answer.status is Status.NOT_EVALUABLE
        assert "need 30" in answer.reason


# --- what a finding says --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANTS)
def test_a_finding_says_what_where_why_and_what_next(name: str) -> None:
    parts = plant(name, 0)
    sizes = {"train": len(parts.train), "eval": len(parts.eval), "bank": len(parts.bank)}
    sizes["index"] = sizes["bank"]
    articles = {a for keys in (parts.bank.keys, clean(0).bank.keys) for a in keys[:, 0].tolist()}
    for finding in audit_of(name).findings:
        assert finding.seen
        assert finding.allowed
        assert re.fullmatch(r"[A-Z].*[.]", finding.meaning, re.DOTALL), finding.meaning
        assert re.search(
            r"lvm (audit|embed)|--allow|embed|remove|write|find out|add|sort|cut|draw|give|build",
            finding.next,
        )
        assert all(isinstance(v, float) for v in finding.values.values())
        assert_where(finding, sizes, articles)


def assert_where(finding: Finding, sizes: dict[str, int], articles: set[int]) -> None:
    where = finding.where
    size = sizes[where["input"]]
    rows = where.get("rows", [])
    assert len(rows) <= 10
    assert len(set(rows)) == len(rows)
    assert all(0 <= row < size for row in rows)
    of = where.get("of", size)
    assert 0 <= where.get("count", 0) <= of
    if finding.code != "ROWS_DROPPED":  # that is of the rows there once were
        assert of <= size
    assert len(where.get("articles", [])) <= 10
    if finding.code not in ("KEYS_WRONG", "KEYS_DEGENERATE"):  # these name the wrong ones
        assert set(where.get("articles", [])) <= articles | {-1}
    assert all(first <= last for first, last in where.get("blocks", []))


def test_the_rows_named_are_the_rows_broken() -> None:
    parts, targets = clean(0), clean(0).eval.targets.copy()
    targets[[7, 30]] = np.nan
    broken = dataclasses.replace(parts, eval=change(parts.eval, targets=targets)).material()
    (finding,) = run_checks(broken, codes=["NONFINITE"]).findings
    assert (finding.where["rows"], finding.where["count"]) == ([7, 30], 2)


def test_the_offset_that_repairs_shifted_keys_is_found() -> None:
    for name, offset in (("keys_next_article", (-1, 0)), ("keys_next_chunk", (0, -1))):
        found = [f for f in audit_of(name).findings if f.code == "KEYS_WRONG"]
        values = found[0].values
        assert (values["offset_article"], values["offset_chunk"]) == offset
        assert values["repaired_share"] > 0.95


# --- a check that breaks, a code that is allowed --------------------------------------------------


def _broken(material: Material) -> Iterator[Finding]:
    yield Finding(
        code="ZERO_ROWS",
        severity=Severity.WARN,
        seen="s",
        allowed="a",
        where={"input": "eval"},
        meaning="m",
        next="n",
    )
    raise ZeroDivisionError("odd data")


def _break(code: str, look, monkeypatch: pytest.MonkeyPatch) -> None:
    CHECKS.names()  # all are registered before one is replaced
    monkeypatch.setitem(CHECKS._parts, code, Check(code=code, question="?", look=look))


def test_a_check_that_breaks_is_named_and_the_others_still_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _break("ZERO_ROWS", _broken, monkeypatch)
    found = audit(plant("nan", 0))
    results = {r.code: r for r in found.results}
    assert results["ZERO_ROWS"].status is Status.FAILED
    assert results["ZERO_ROWS"].reason == "ZeroDivisionError: odd data"
    assert results["ZERO_ROWS"].next
    assert len(results["ZERO_ROWS"].findings) == 1  # what it had found before is kept
    assert blocking(found) == {"NONFINITE"}
    assert found.verdict is AuditVerdict.BLOCKED


def _said(*severities: Severity) -> CheckResult:
    findings = tuple(
        Finding(
            code="LOADER", severity=severity, seen="s", allowed="a", where={}, meaning="m", next="n"
        )
        for severity in severities
    )
    return CheckResult(code="LOADER", status=Status.FOUND, findings=findings)


PASSED, BLIND = (CheckResult(code="X", status=s) for s in (Status.PASS, Status.NOT_EVALUABLE))


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ([_said(Severity.INFO), *[PASSED] * 30], AuditVerdict.CLEAN),
        ([_said(Severity.INFO, Severity.WARN), *[PASSED] * 30], AuditVerdict.WARNINGS),
        ([_said(Severity.INFO), *[BLIND] * 30], AuditVerdict.NOT_EVALUABLE),
        ([_said(Severity.WARN), *[BLIND] * 30], AuditVerdict.NOT_EVALUABLE),
        ([_said(Severity.WARN), *[PASSED] * 8, *[BLIND] * 30], AuditVerdict.NOT_EVALUABLE),
        ([_said(Severity.WARN), *[PASSED] * 9, *[BLIND] * 30], AuditVerdict.WARNINGS),
        ([_said(Severity.BLOCK), *[BLIND] * 30], AuditVerdict.BLOCKED),
    ],
)
def test_the_answer_is_of_what_was_looked_at_and_found(results, verdict) -> None:
    assert Audit(results=results).verdict is verdict


def test_data_is_not_called_clean_when_a_check_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    assert audit(clean(0)).verdict is AuditVerdict.CLEAN
    _break("ZERO_ROWS", lambda material: 1 / 0, monkeypatch)
    assert audit(clean(0)).verdict is AuditVerdict.UNSURE


def test_an_allowed_code_is_found_and_does_not_block() -> None:
    material = plant("unpaired_targets", 0).material()
    both = run_checks(material, codes=DATA_CODES, allowed=["EVAL_UNPAIRED"])
    assert "EVAL_UNPAIRED" in blocking(both)  # its severity stays what it is
    assert both.blocking == ["KEYS_WRONG"]
    assert both.verdict is AuditVerdict.BLOCKED
    allowed = run_checks(material, codes=DATA_CODES, allowed=["EVAL_UNPAIRED", "KEYS_WRONG"])
    assert allowed.blocking == []
    assert allowed.verdict is AuditVerdict.WARNINGS
    document = audit_document(allowed, material, route={"blocked": []})
    assert document.allowed == ["EVAL_UNPAIRED", "KEYS_WRONG"]


def test_an_unknown_code_is_refused_with_the_nearest_one() -> None:
    for words in ({"allowed": ["EVAL_UNPAIRD"]}, {"codes": ["EVAL_UNPAIRD"]}):
        with pytest.raises(ConfigError, match=r"EVAL_UNPAIRD.*did you mean EVAL_UNPAIRED"):
            run_checks(Material(), **words)


def test_the_worst_stands_first() -> None:
    parts = PLANTS["duplicates"].apply(plant("nan", 0), np.random.default_rng(0), 1.0)
    ranks = [finding.severity.rank for finding in audit(parts).findings]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 2


# --- the index ------------------------------------------------------------------------------------


def _with_index(vectors: np.ndarray) -> CheckResult:
    parts = clean(0)
    index = TorchIndex(torch.from_numpy(np.array(vectors)))
    return result("INDEX_MISMATCH", parts.material(index=index))


def test_an_index_rolled_by_a_row_blocks_and_says_by_how_much() -> None:
    answer = _with_index(np.roll(clean(0).bank.vectors, 1, axis=0))
    assert answer.findings[0].severity is Severity.BLOCK
    assert answer.findings[0].values == {"share": 0.0, "shift": 1.0}


def test_an_honest_index_passes_and_a_short_one_does_not() -> None:
    vectors = clean(0).bank.vectors
    assert _with_index(vectors).status is Status.PASS
    assert _with_index(vectors[:-50]).status is Status.FOUND


def test_an_honest_index_over_copies_passes() -> None:
    """A row may find its copy: both have one content."""
    parts = plant("duplicates", 0)
    index = TorchIndex(torch.from_numpy(parts.bank.vectors))
    assert result("INDEX_MISMATCH", parts.material(index=index)).status is Status.PASS


def _untrained(width: int) -> Index:
    faiss = pytest.importorskip("faiss")
    flat = faiss.IndexFlatIP(width)
    return FaissIndex(faiss.IndexIVFFlat(flat, width, 4, faiss.METRIC_INNER_PRODUCT))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda v: TorchIndex(v[:0]), "is empty"),
        (lambda v: TorchIndex(v[:, :16].contiguous()), "has width 16"),
        (lambda v: _untrained(v.shape[1]), "is not trained"),
    ],
    ids=["empty", "narrow", "untrained"],
)
def test_an_index_that_cannot_be_searched_is_a_finding(make, words: str) -> None:
    parts = clean(0)
    material = parts.material(index=make(torch.from_numpy(np.array(parts.bank.vectors))))
    (finding,) = result("INDEX_MISMATCH", material).findings
    assert finding.severity is Severity.BLOCK
    assert words in finding.seen
    assert result("ANN_LOSS", material).status is Status.NOT_EVALUABLE


# --- files as people have them --------------------------------------------------------------------


def _as(parts: Parts, file: str, do) -> Parts:
    old = getattr(parts, file)
    new = change(old, contexts=do(old.contexts), targets=do(old.targets))
    return dataclasses.replace(parts, **{file: new})


def _scaled_again(vectors: np.ndarray) -> np.ndarray:
    """Unit rows once more, by other arithmetic: nearly no row keeps all its bits."""
    wide = vectors.astype(np.float64) * 3.7
    return (wide / np.linalg.norm(wide, axis=-1, keepdims=True)).astype(np.float32)


OTHER_BITS = {
    "float16": lambda vectors: vectors.astype(np.float16),
    "float64": lambda vectors: vectors.astype(np.float64),
    "scaled again": _scaled_again,
    "through bfloat16": lambda v: torch.tensor(v).bfloat16().float().numpy(),
}


@pytest.mark.parametrize("kind", OTHER_BITS)
def test_vectors_stored_with_other_bits_are_the_same_vectors(kind: str) -> None:
    parts = _as(clean(0, QUICK), "eval", OTHER_BITS[kind])
    assert codes(audit(parts)) == set()


@pytest.mark.parametrize("kind", OTHER_BITS)
@pytest.mark.parametrize(
    "name", ["keys_next_chunk", "keys_made_up", "target_two_ahead", "eval_order_shuffled"]
)
def test_defects_are_found_in_vectors_stored_with_other_bits(kind: str, name: str) -> None:
    found = audit(_as(plant(name, 0, family=QUICK), "eval", OTHER_BITS[kind]))
    assert PLANTS[name].code in codes(found)
    assert blocking(found) <= {PLANTS[name].code, *PLANTS[name].related}


def test_a_file_without_keys_says_so_once_and_is_judged_by_its_content() -> None:
    parts = clean(0)
    bare = dataclasses.replace(parts, eval=change(parts.eval, truth_keys=None))
    found = audit(bare)
    assert blocking(found) == {"SCHEMA"}
    assert {r.code: r.status for r in found.results}["KEYS_WRONG"] is Status.NOT_EVALUABLE
    shifted = plant("target_two_ahead", 0)
    bare = dataclasses.replace(shifted, eval=change(shifted.eval, truth_keys=None))
    assert blocking(audit(bare)) == {"SCHEMA", "TARGET_SHIFTED"}


def test_equal_vectors_under_other_keys_are_no_wrong_keys() -> None:
    """A sentence that stands in twenty articles: a vector has several places, its key is right."""
    rng = np.random.default_rng(0)
    vectors, keys = planted.corpus(0)
    rows = rng.choice(len(vectors), len(vectors) // 25, replace=False)
    said_again = rng.choice(rows, len(rows) // 10)
    vectors[rows] = vectors[rng.choice(said_again, len(rows))]
    found = audit(planted.parts_of(vectors, keys))
    assert codes(found) == {"DUPLICATES"}


def test_copies_under_one_key_block_and_text_that_repeats_itself_warns() -> None:
    vectors, keys = planted.corpus(0)
    rows = np.random.default_rng(0).choice(len(vectors), len(vectors) // 10, replace=False)
    for copies, severity in (
        (keys[rows], Severity.BLOCK),
        (keys[rows] + np.array([500, 0]), Severity.WARN),
    ):
        table = np.concatenate([keys, copies]).astype(np.int32)
        bank = Bank(np.concatenate([vectors, vectors[rows]]), table)
        (finding,) = run_checks(Material(bank=bank), codes=["DUPLICATES"]).findings
        assert finding.severity is severity
        assert finding.values["share"] == pytest.approx(1 / 11, abs=0.001)


def _degenerate(kind: str) -> np.ndarray:
    """Vectors of 40 articles of 20 chunks that no text has, in which many a statistic is 0."""
    rng = np.random.default_rng(0)
    article, chunk = np.divmod(np.arange(800), 20)
    few = rng.standard_normal((20, 16)).astype(np.float32)
    few /= np.linalg.norm(few, axis=1, keepdims=True)
    vectors = {
        "equal": few[np.zeros(800, dtype=int)],
        "two": few[chunk % 2],
        "same text": few[chunk],
        "by chunk": np.eye(20)[chunk],
        "by article": np.eye(40)[article],
        "signs": few[:1] * np.where(chunk % 2, 1, -1)[:, None],
        "circle": np.column_stack([np.cos(0.3 * chunk), np.sin(0.3 * chunk)]),
        "sparse": np.eye(64)[(article * 7 + chunk // 4) % 64],
    }
    return vectors[kind].astype(np.float32)


@pytest.mark.parametrize(
    "kind", ["equal", "two", "same text", "by chunk", "by article", "signs", "circle", "sparse"]
)
def test_no_check_breaks_on_vectors_that_are_no_text(kind: str) -> None:
    keys = np.column_stack(np.divmod(np.arange(800), 20)).astype(np.int32)
    parts = planted.parts_of(_degenerate(kind), keys)
    windows = planted.article_windows(keys, planted.T)
    split = planted.split_articles(windows.articles.tolist())
    sides = {
        name: Side(
            name,
            "bank",
            bank=parts.bank,
            windows=windows.select(np.isin(windows.articles, split[part])),
        )
        for name, part in (("train", "train"), ("eval", "test"))
    }
    for material in (parts.material(), Material(bank=parts.bank, **sides)):
        found = run_checks(material)
        assert [r.code for r in found.results if r.status is Status.FAILED] == []
        assert found.verdict is AuditVerdict.BLOCKED


def test_windows_cut_from_the_bank_need_no_files() -> None:
    parts = clean(0)
    windows = planted.article_windows(parts.bank.keys, planted.T)
    split = planted.split_articles(windows.articles.tolist())
    sides = {
        name: Side(
            name,
            "bank",
            bank=parts.bank,
            windows=windows.select(np.isin(windows.articles, split[part])),
        )
        for name, part in (("train", "train"), ("eval", "test"))
    }
    found = run_checks(Material(bank=parts.bank, **sides), codes=DATA_CODES)
    assert found.verdict is AuditVerdict.CLEAN


def test_a_bank_without_windows_is_looked_at() -> None:
    bank = plant("zero_rows", 0).bank
    assert blocking(run_checks(Material(bank=bank), codes=DATA_CODES)) == {"ZERO_ROWS"}


def test_the_same_material_gives_the_same_document_in_another_process(other_process) -> None:
    here = document()
    assert "BLOCKED" in here
    assert other_process(document) == here


def document() -> str:
    """Return the audit of three defects as text, without what differs by nature: seconds."""
    names = ("unpaired_targets", "duplicates", "keys_made_up")
    parts = clean(5)
    for name in names:
        parts = PLANTS[name].apply(parts, np.random.default_rng(1), 0.5)
    found = audit(parts)
    plain = to_plain(audit_document(found, parts.material(), route={"blocked": []}))
    plain.pop("seconds")
    for check in plain["checks"]:
        check.pop("seconds")
    return json.dumps(plain, sort_keys=True)
