"""How small a defect the audit finds, how often it cries wolf, and which defects hide each other.

    python benchmarks/audit_limits.py [--write] [--seeds 50] [--ladder-seeds 3]

Three tables: blocking findings on clean corpora of many kinds; for every planted defect the
smallest share of rows at which its code is raised in every seed; all pairs of defects. The corpora
and plants are those of tests/planted.py and tests/planted_suite.py. Some minutes on one core;
`--write` keeps the output in reports/audit_limits/.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the plants are test data

import planted_suite as suite  # noqa: E402  # found through the path above
from planted import PLANTS, clean, plant  # noqa: E402

from lvm.audit.finding import Status  # noqa: E402
from lvm.audit.run import Audit  # noqa: E402
from lvm.core.provenance import environment, git_commit  # noqa: E402

OUT = ROOT / "reports" / "audit_limits" / "audit_limits.md"
SHARES = (0.005, 0.05, 0.5, 1.0)
# What these plants touch at share 1.
TOUCHED = {
    "nan": 0.01,
    "nan_in_bank": 0.01,
    "zero_rows": 0.01,
    "duplicates": 0.03,
    "rows_dropped": 0.27,
    "mixed_encoders": 0.5,
}


def main() -> None:
    """Print the three tables, and keep them when told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"keep the output in {OUT.parent}")
    parser.add_argument("--seeds", type=int, default=50, help="clean corpora of each kind")
    parser.add_argument("--ladder-seeds", type=int, default=3, help="seeds per defect and share")
    arguments = parser.parse_args()
    lines = []
    for line in report(arguments.seeds, arguments.ladder_seeds):
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")


def report(seeds: int, ladder_seeds: int) -> Iterator[str]:
    """Yield the report line by line."""
    versions = environment()["versions"]
    yield "# Limits of the data audit"
    yield ""
    yield f"- Question: {__doc__.splitlines()[0]}"
    command = f"python benchmarks/audit_limits.py --seeds {seeds} --ladder-seeds {ladder_seeds}"
    yield f"- Command: `{command}`"
    yield f"- Date: {datetime.date.today().isoformat()}, commit {git_commit()}"
    shown = ", ".join(f"{name} {versions[name]}" for name in ("python", "numpy", "torch"))
    yield f"- Versions: {shown}"
    yield ""
    yield from false_alarms(seeds)
    yield from ladder(ladder_seeds)
    yield from all_pairs()


# --- clean corpora --------------------------------------------------------------------------------


def false_alarms(seeds: int) -> Iterator[str]:
    """Yield how often clean corpora of each kind block or warn."""
    yield f"## Clean corpora, {seeds} of each kind"
    yield ""
    yield "| kind | blocked | warned | could not be judged | check failed |"
    yield "|---|---|---|---|---|"
    total = 0
    for name, family in suite.FAMILIES.items():
        counts: dict[str, Counter[str]] = {k: Counter() for k in ("block", "warn", "skip", "fail")}
        for seed in range(seeds):
            _count(suite.audit(clean(seed, family)), counts)
        total += counts["block"].total()
        yield f"| {name} | " + " | ".join(_words(c) for c in counts.values()) + " |"
    yield ""
    yield (
        f"{total} of {seeds * len(suite.FAMILIES)} clean corpora raised a blocking code. "
        "INDEX_MISMATCH is left out: no index is given here."
    )
    yield ""


def _count(found: Audit, counts: dict[str, Counter[str]]) -> None:
    counts["block"].update(suite.blocking(found))
    counts["warn"].update(suite.codes(found) - suite.blocking(found))
    for result in found.results:
        if result.code != "INDEX_MISMATCH" and result.status is Status.NOT_EVALUABLE:
            counts["skip"][result.code] += 1
        counts["fail"][result.code] += result.status is Status.FAILED


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{code} {n}" for code, n in sorted(counts.items()) if n) or "0"


# --- the smallest defect that is found ------------------------------------------------------------


def ladder(seeds: int) -> Iterator[str]:
    """Yield for every plant what is said at each share, and the smallest share that is found."""
    yield f"## Severity ladder, {seeds} seeds"
    yield ""
    yield (
        "A share is that of the rows that the defect touches: for keys, targets and contexts of "
        "the eval windows, for the order of the text of the articles (or pairs of them). A plant "
        "with a star touches only that part of the rows at 100 %. BLOCK or warn: so in every "
        "seed, or more; n/m: in some; -: in none. The limit is the smallest share at which the "
        "code is raised in every seed; the last column, the smallest at which any code is."
    )
    yield ""
    shares = " | ".join(f"{share:.1%}" for share in SHARES)
    yield f"| defect | code | {shares} | limit | any code |"
    yield "|---|---|" + "---|" * (len(SHARES) + 2)
    for name in PLANTS:
        found = {
            share: [suite.audit(plant(name, seed, share)) for seed in range(seeds)]
            for share in SHARES
        }
        part = f" *{TOUCHED[name]:.0%}" if name in TOUCHED else ""
        said = {share: _said(PLANTS[name].code, audits) for share, audits in found.items()}
        sure = [share for share in SHARES if said[share] in ("BLOCK", "warn")]
        any_code = [share for share in SHARES if all(audit.findings for audit in found[share])]
        cells = " | ".join([*said.values(), _least(sure), _least(any_code)])
        yield f"| {name}{part} | {PLANTS[name].code} | {cells} |"
    yield ""


def _least(shares: list[float]) -> str:
    return f"{min(shares):.1%}" if shares else "not found"


def _said(code: str, audits: list[Audit]) -> str:
    """Return the least that was said of a defect over all seeds."""
    said = []
    for found in audits:
        said.append("BLOCK" if code in suite.blocking(found) else "warn")
        if code not in suite.codes(found):
            said[-1] = "-"
    if "-" in said:
        raised = len(said) - said.count("-")
        return f"{raised}/{len(said)}" if raised else "-"
    return "warn" if "warn" in said else "BLOCK"


# --- two defects at once --------------------------------------------------------------------------


def all_pairs() -> Iterator[str]:
    """Yield the pairs of which one code is missed or a third one is raised."""
    pairs = suite.pairs()
    possible = [pair for pair in pairs if frozenset(pair) not in suite.IMPOSSIBLE]
    both = 0
    odd = []
    for pair in possible:
        found = suite.audit(suite.stacked(pair))
        missed, third = suite.hidden(pair, found), suite.unrelated(pair, found)
        both += not missed
        if missed or third:
            odd.append(f"| {' + '.join(pair)} | {_names(missed)} | {_names(third)} |")
    yield "## Pairs of defects"
    yield ""
    yield (
        f"Of {len(pairs)} pairs with two codes {len(possible)} are possible; in {both} of these "
        f"both codes are raised, and in {len(odd)} something is missed or an unrelated code blocks."
    )
    yield ""
    if odd:
        yield from ("| pair | missed | unrelated |", "|---|---|---|", *odd, "")
    yield "Pairs that are not possible, because one defect leaves no trace beside the other:"
    yield ""
    yield "| pair | why |"
    yield "|---|---|"
    for pair, reason in suite.IMPOSSIBLE.items():
        yield f"| {' + '.join(sorted(pair, key=suite.LAYERS.index))} | {reason} |"


def _names(codes: set[str]) -> str:
    return ", ".join(sorted(codes)) or "-"


if __name__ == "__main__":
    main()
