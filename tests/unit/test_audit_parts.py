"""Every finding names the part that is broken; a repair touches that part, and loses no sound row.

The plants of tests/planted.py break the eval file above all; those of tests/planted_parts.py break
train, the payload, or look broken and are not.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from planted import PLANTS, Parts, clean, plant
from planted_parts import CLEAN, DAMAGES, PLANTED, damaged
from planted_suite import DATA_CODES, QUICK, audit, audit_of, blocking
from test_repair import digest, on_disk, opened

from lvm.audit.finding import NotEvaluable, Severity
from lvm.audit.material import Material, once
from lvm.audit.repair import repair
from lvm.audit.run import Audit, run_checks
from lvm.core.errors import UsageError
from lvm.data.window_files import WindowFile, open_window_file

CODES = {name: PLANTS[name].code for name in PLANTED} | {n: d.code for n, d in DAMAGES.items()}
BROKEN = dict(PLANTED) | {name: damage.parts for name, damage in DAMAGES.items()}
# Files whose sound windows a repair takes out on purpose: the other file has their articles.
GIVES_WAY = {"split_leak"}
# Nothing in the files says what would be right.
REFUSED = {name for name, damage in DAMAGES.items() if not damage.repaired} | {
    "easy_region",
    "rows_dropped",
    "order_interleaved",
    "order_shuffled",
    "eval_not_in_bank",
    "eval_rotated",
    "eval_mean_flipped",
    "eval_through_a_layer",
    "eval_and_its_rows_rotated",
    "reworded_in_bank",
    "reworded_across",
    "articles_cut_in_two",
    "chunks_overlap",
    "eval_partly_centred",
    "eval_signs_alone",
    "eval_cut_and_padded",
    "mixed_encoders",
    "contexts_in_another_space",
    "order_as_text",
    "order_pairs_swapped",
    "order_batches_shuffled",
    "order_merged_in_runs",
}


def parts_with(name: str) -> Parts:
    return plant(name, 0) if name in PLANTED else damaged(name)


@functools.cache
def audited(name: str) -> Audit:
    return audit_of(name) if name in PLANTED else audit(damaged(name))


@pytest.mark.parametrize("name", BROKEN)
def test_every_finding_names_the_part_that_was_broken(name: str) -> None:
    found = audited(name)
    mine = [f for f in found.findings if f.code == CODES[name]]
    assert mine
    assert {str(f.where["input"]) for f in mine} <= BROKEN[name]
    blamed = {str(f.where["input"]) for f in found.findings if f.severity is Severity.BLOCK}
    assert blamed <= BROKEN[name]


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_to_a_part_blocks_where_no_number_would_be_right(name: str) -> None:
    assert (DAMAGES[name].code in blocking(audited(name))) is DAMAGES[name].blocks


@pytest.mark.parametrize("name", sorted(set(BROKEN) - {"index_rolled"}))
def test_a_repair_touches_the_broken_part_alone_and_loses_no_sound_row(
    name: str, tmp_path: Path
) -> None:
    given = parts_with(name)
    paths = on_disk(given, tmp_path / "given")
    before = {path: digest(path) for path in paths.values()}
    try:
        done = repair(opened(paths), tmp_path / "out")
    except UsageError:
        assert name in REFUSED
        assert not (tmp_path / "out").exists()
        return
    assert name not in REFUSED
    assert {path: digest(path) for path in paths.values()} == before
    written = {"bank" if file == "payload" else file for file in done.files}
    assert written <= BROKEN[name]
    again = opened(paths | done.files)
    assert CODES[name] not in blocking(run_checks(again, codes=DATA_CODES))
    for file in {"train", "eval"} & written - given_way(name):
        now = windows_of(open_window_file(done.files[file]))
        sound = windows_of(clean(0).train) | windows_of(clean(0).eval)
        assert windows_of(getattr(given, file)) & sound <= now


def given_way(name: str) -> set[str]:
    return {"train", "eval"} if name in GIVES_WAY else set()


def windows_of(file: WindowFile) -> set[bytes]:
    return {c.tobytes() + t.tobytes() for c, t in zip(file.contexts, file.targets, strict=True)}


@pytest.mark.parametrize("kind", CLEAN)
def test_what_only_looks_like_damage_does_not_block(kind: str) -> None:
    for seed in range(2):
        found = audit(CLEAN[kind](seed, QUICK))
        assert blocking(found) == set()
        assert {f.severity for f in found.findings} <= {Severity.INFO}
        with_gaps = {f.code for f in found.findings}
        assert with_gaps <= ({"ROWS_DROPPED"} if "gaps" in kind or "left out" in kind else set())


def test_what_is_measured_once_is_kept_for_each_argument_and_so_is_why_it_could_not_be() -> None:
    calls: list[tuple[str, ...]] = []

    @once
    def measure(material: Material, *names: str) -> list[str]:
        calls.append(names)
        if "odd" in names:
            raise NotEvaluable("nothing to look at")
        return list(names)

    material = Material()
    assert measure(material, "a") is measure(material, "a")
    assert measure(material, "b") == ["b"]
    for _ in range(2):
        with pytest.raises(NotEvaluable, match="nothing to look at"):
            measure(material, "odd")
    assert calls == [("a",), ("b",), ("odd",)]
    assert measure(Material(), "a") is not measure(material, "a")
