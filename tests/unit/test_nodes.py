"""What must be equal on every node of a cluster, and what may differ."""

from __future__ import annotations

import pytest
import torch

from lvm.triage.on_ray.nodes import SAME, difference, facts

THERE = "10.0.0.7"


def test_a_process_like_this_one_differs_in_nothing() -> None:
    assert difference(facts(), dict(facts()), THERE) is None
    assert facts()["cuda"] == (torch.version.cuda or "")


@pytest.mark.parametrize("name", SAME)
def test_what_differs_is_one_sentence_with_node_values_and_remedy(name: str) -> None:
    other = {**facts(), name: "0.0.1+other", "package": "/opt/other/lvm"}
    said = difference(facts(), other, THERE)
    assert said is not None
    for part in (THERE, name, "0.0.1+other", "/opt/other/lvm", facts()[name], "install"):
        assert part in said
    assert said.count("\n") == 0


def test_a_process_that_does_not_tell_differs() -> None:
    told = {key: value for key, value in facts().items() if key != "code"}
    assert difference(facts(), told, THERE) is not None


def test_the_builds_of_torch_on_a_head_and_on_its_workers_may_differ() -> None:
    head, worker = {**facts(), "torch": "2.13.0+cpu"}, {**facts(), "torch": "2.13.0+cu130"}
    assert difference(head, worker, THERE) is None


def test_two_checkouts_of_one_version_are_other_code() -> None:
    here, there = {**facts(), "code": "0.1.0+abc"}, {**facts(), "code": "0.1.0+def"}
    assert difference(here, there, THERE) is not None
