"""Joining a cluster in a thread: what is waited for, and what an early end leaves."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from lvm.core.config.run import ScheduleConfig
from lvm.core.errors import ClusterError
from lvm.triage.local_head import Answer
from lvm.triage.on_ray import early
from lvm.triage.on_ray.early import EarlyJoin


class Head:
    """A head that answers when told to, or hears that nobody wants it."""

    def __init__(self, answer: Answer | None) -> None:
        self.answer, self.told, self.left = answer, threading.Event(), False
        if answer is not None:
            self.told.set()

    def address(self) -> Answer:
        assert self.told.wait(20)
        return self.answer or Answer(texts=["its process ended with status 0"])

    def leave(self) -> None:
        self.left = True
        self.told.set()


@pytest.fixture
def joined(monkeypatch) -> list[Any]:
    """The answers that were joined with."""
    found: list[Any] = []

    def connect(ray: Any, address: Any, schedule: Any, answer: Answer) -> None:
        if not answer.address:
            raise ClusterError("Ray did not start")
        found.append(answer.address)

    monkeypatch.setattr(early, "import_ray", lambda **_: SimpleNamespace())
    monkeypatch.setattr(early, "connect", connect)
    return found


def join(head: Head) -> EarlyJoin:
    return EarlyJoin(head, ScheduleConfig())  # type: ignore[arg-type]  # a stand-in


def test_it_is_joined_once_waited_for(joined) -> None:
    head = Head(Answer(address="here:1"))
    join(head).wait()
    assert joined == ["here:1"]
    assert not head.left


def test_what_went_wrong_is_raised_where_it_is_waited_for(joined) -> None:
    with pytest.raises(ClusterError, match="did not start"):
        join(Head(Answer(problem="Exception", texts=["no disk"]))).wait()


def test_a_run_that_ends_before_joins_nothing_and_waits_for_no_cluster(joined) -> None:
    head = Head(None)
    assert join(head).end() is False
    assert head.left
    assert joined == []


def test_a_run_that_ends_after_the_join_has_something_to_leave(joined) -> None:
    head = Head(Answer(address="here:1"))
    one = join(head)
    one.wait()
    assert one.end() is True
    assert not head.left  # not before this process has left it
