"""What comes from outside: odd JSON is refused in one line, odd text obeys no terminal."""

from __future__ import annotations

import json
import shlex
import subprocess

import numpy as np
import pytest

from lvm.audit.finding import CheckResult, Finding, Severity, Status
from lvm.core.command import run_command
from lvm.core.config.read import load_run_config
from lvm.core.config.run import RunConfig
from lvm.core.errors import ConfigError, DataError, UsageError
from lvm.core.outside import harmless, parse_json, printable, quoted
from lvm.data.files import read_bank, write_bank

HOSTILE = "\x1b[2Jclean\n\x07\x9b1m\u202e\ud800 \\ 'x'"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ("1" + "0" * 5000, "a number with 5001 digits"),
        ("[-" + "9" * 20 + "]", "a number with 20 digits"),
        ("{", "Expecting"),
        ("", "Expecting value"),
    ],
)
def test_json_that_cannot_be_read_is_a_value_error_of_one_line(text: str, words: str):
    with pytest.raises(ValueError, match=words) as raised:
        parse_json(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_a_mark_before_a_text_is_no_part_of_it(ending: str, tmp_path):
    """Some editors on Windows write one."""
    text = "seed = 7" if ending == "toml" else '{"seed": 7}'
    path = tmp_path / f"recipe.{ending}"
    path.write_text(text, encoding="utf-8-sig")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert load_run_config(path, RunConfig()).recipe.seed == 7
    assert parse_json("\ufeff[1]") == [1]


def test_a_bank_with_marked_texts_is_read(tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    write_bank(tmp_path / "b", vectors, np.zeros((4, 2), np.int32), {"titles": {"0": "a"}})
    for name, text in (("texts.jsonl", '{"text": "one"}\n' * 4), ("manifest.json", None)):
        path = tmp_path / "b" / name
        path.write_text(text or path.read_text(), encoding="utf-8-sig")
    bank = read_bank(tmp_path / "b")
    assert bank.titles() == {0: "a"}
    assert bank.load_texts() == ["one"] * 4


def test_json_of_this_program_is_read_as_it_was_written():
    value = {"a": [1, -(2**62), 1.5, None, "é"], "b": {"c": True}}
    assert parse_json(json.dumps(value)) == value


def test_harmless_text_keeps_lines_spaces_and_scripts():
    kept = "Écriture\n\t名\u3000\u00a0می\u200cخواهم 👩\u200d🔬 עברית"
    assert harmless(kept) == kept
    assert harmless("\x1b[2Ja\nb\x07\x00\x9b\u202ec\u2066\ud800") == (
        "\\x1b[2Ja\nb\\x07\\x00\\x9b\\u202ec\\u2066\\ud800"
    )


def test_printable_text_stays_and_everything_else_is_escaped():
    assert printable("Écriture 名 'x'") == "Écriture 名 'x'"
    assert printable(HOSTILE) == "\\x1b[2Jclean\\n\\x07\\x9b1m\\u202e\\ud800 \\ 'x'"


@pytest.mark.parametrize("name", ["plain", 'it\'s "odd" $HOME;é 名', "nl\nname", "esc\x1b[31m'\\"])
def test_a_quoted_word_is_that_word_for_a_shell(name: str):
    word = quoted(name)
    assert word.isprintable()
    shell = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, text=True)
    assert shell.stdout == name
    if name.isprintable():
        assert word == shlex.quote(name)


def test_findings_and_reasons_obey_no_terminal():
    finding = Finding(
        code="SCHEMA",
        severity=Severity.BLOCK,
        seen=HOSTILE,
        allowed=HOSTILE,
        where={"input": "eval", "source": HOSTILE, "count": 3},
        meaning=HOSTILE,
        next=HOSTILE,
    )
    told = (finding.seen, finding.allowed, finding.meaning, finding.next, finding.where["source"])
    assert all(text == printable(HOSTILE) for text in told)
    assert finding.where["count"] == 3
    result = CheckResult(code="SCHEMA", status=Status.FAILED, reason=HOSTILE, next=HOSTILE)
    assert (result.reason, result.next) == (printable(HOSTILE),) * 2


def test_an_error_is_one_line_whatever_it_names(capsys):
    def fails(_argv) -> int:
        raise UsageError(f"{HOSTILE} is no file.")

    assert run_command(fails, []) == 2
    assert capsys.readouterr().err == f"error: {printable(HOSTILE)} is no file.\n"


def test_a_recipe_that_is_nested_too_deeply(tmp_path):
    for name, text in (("r.toml", "a = " + "[" * 100_000), ("r.json", "[" * 100_000)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match="cannot be read"):
            load_run_config(tmp_path / name, RunConfig())


# --- manifests ------------------------------------------------------------------------------------

ODD = {
    "split": [
        None,
        [1, 2, 3],
        "hash",
        {"train": 5},
        {"train": None},
        {"train": ["a"]},
        {"train": [0.5]},
        {"train": [True]},
        {"dev": {"a": 1}},
        {"holdout": [1]},
    ],
    "titles": [None, ["a", "b"], "x", {"a/b": "x"}],
    "count": ["20", None, 1.5, True, [20]],
    "width": ["8", {}],
    "sha256": [["x"], "x", {"../../etc/passwd": "x"}, {"vectors.npy": 3}],
}


@pytest.fixture
def folder(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = np.array([(i // 5, i % 5) for i in range(20)])
    write_bank(tmp_path / "bank", vectors, keys, {"titles": {"0": "a"}})
    return tmp_path / "bank"


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in ODD.items() for v in vs])
def test_a_manifest_with_another_kind_of_value_is_refused_by_its_key(folder, key, value):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(DataError, match=rf"manifest.json: {key}.* must be") as raised:
        read_bank(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"a":' * 100_000, '{"count": 20}'.encode("utf-16"), b'{"count": 1e}']
)
def test_a_manifest_that_is_no_json_object(folder, text: bytes):
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(DataError, match=r"manifest.json (is not JSON|must hold a JSON object)"):
        read_bank(folder)


def test_a_manifest_that_is_a_folder(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_bank(folder)


def test_what_other_writers_do_is_read(folder):
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), "count": 20.0, "own": {"deep": [1, None]}}
    path.write_text("\ufeff" + json.dumps(manifest).replace(",", ",\r\n"), encoding="utf-8")
    assert len(read_bank(folder)) == 20
