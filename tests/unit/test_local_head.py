"""The process that holds a cluster of this machine: what it answers, and how it ends."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from lvm.core.errors import ClusterError
from lvm.triage import local_head
from lvm.triage.local_head import ENVIRONMENT, Answer, LocalHead, ray_environment

ANSWERS = """
import json, sys
print(json.dumps({"address": "here:1", "texts": [sys.stdin.readline()]}), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch):
    """Let another program take the place of the head's; return how."""

    monkeypatch.setattr(local_head, "of_its_own", dict)  # a token here would outlive this test

    def put(text: str) -> None:
        path = tmp_path / "program.py"
        path.write_text(text)
        monkeypatch.setattr(local_head, "PROGRAM", path)

    return put


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_it_starts_when_asked_and_ends_when_closed(program):
    program(ANSWERS)
    head = LocalHead()
    head.ask(3, {"a": 2})
    head.ask(5, {})  # changes nothing
    answer = head.address()
    assert answer.address == "here:1"
    assert json.loads(answer.texts[0]) == {"num_cpus": 3, "resources": {"a": 2}}
    head.close()
    assert gone(head.pid)


def test_what_was_not_asked_to_start_is_ended_at_once(program, monkeypatch):
    monkeypatch.delitem(sys.modules, "ray", raising=False)  # which another test may have joined
    program("import time; time.sleep(60)")
    began = time.monotonic()
    with local_head.local_head(wanted=True) as head:
        assert head is not None
    assert time.monotonic() - began < 10
    assert gone(head.pid)


def test_one_that_ends_without_an_answer_says_its_last_words(program):
    program("raise SystemExit('no ray here')")
    head = LocalHead()
    head.ask(1, {})
    assert head.address() == Answer(texts=["no ray here"])
    head.close()


def test_one_that_does_not_start_is_waited_for_no_longer_than_stated(program, monkeypatch):
    program("import time; time.sleep(60)")
    monkeypatch.setattr(local_head, "START_SECONDS", 0.1)
    monkeypatch.setattr(local_head, "END_SECONDS", 0.1)
    head = LocalHead()
    head.ask(1, {})
    with pytest.raises(ClusterError, match="did not start on this machine"):
        head.address()
    head.close()
    assert gone(head.pid)


def test_a_process_that_belongs_to_a_cluster_needs_no_other(monkeypatch):
    with local_head.local_head(wanted=False) as head:
        assert head is None
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    with local_head.local_head(wanted=True) as head:
        assert head is None


def test_what_a_person_set_for_ray_stays(monkeypatch):
    assert ray_environment().items() >= ENVIRONMENT.items()
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    assert ray_environment()["RAY_USAGE_STATS_ENABLED"] == "1"


def test_a_user_without_a_home_folder_gets_one_that_ray_can_name(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)  # a container's user without an entry
    assert ray_environment()["HOME"] == tempfile.gettempdir()
    monkeypatch.setenv("HOME", "/somewhere")
    assert ray_environment()["HOME"] == "/somewhere"


def test_a_user_without_a_token_gets_one_that_nobody_else_knows(tmp_path, monkeypatch):
    for name in local_head.TOKENS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    first, second = (local_head.of_its_own()["RAY_AUTH_TOKEN"] for _ in range(2))
    assert first != second
    assert len(first) == 64
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    assert "RAY_AUTH_TOKEN" not in local_head.of_its_own()
    (tmp_path / ".ray" / "auth_token").unlink()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    assert "RAY_AUTH_TOKEN" not in local_head.of_its_own()


def test_a_temporary_folder_too_long_for_sockets_is_not_used(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(local_head.tempfile, "gettempdir", lambda: "/scratch/" + "long" * 20)
    assert local_head.of_its_own()["RAY_TMPDIR"] == "/tmp"
    monkeypatch.setattr(local_head.tempfile, "gettempdir", lambda: "/tmp")
    assert "RAY_TMPDIR" not in local_head.of_its_own()
    monkeypatch.setenv("RAY_TMPDIR", "/mine")
    monkeypatch.setattr(local_head.tempfile, "gettempdir", lambda: "/scratch/" + "long" * 20)
    assert "RAY_TMPDIR" not in local_head.of_its_own()
