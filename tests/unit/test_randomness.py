from __future__ import annotations

import numpy as np
import torch

from lvm.core.randomness import derive_seed, numpy_generator, torch_generator


def test_streams_are_what_they_were() -> None:
    """Golden values: changing the derivation would change every run with the same seed."""
    assert derive_seed(0, "shuffle", 1) == 9039233566760333659
    assert numpy_generator(0, "shuffle", 1).integers(1000, size=4).tolist() == [801, 499, 140, 21]
    assert torch_generator(3, "probe").initial_seed() == derive_seed(3, "probe")


def test_a_stream_depends_on_the_seed_and_on_every_part_of_its_purpose() -> None:
    purposes = [
        (0, "a"),
        (1, "a"),
        (0, "b"),
        (0, "a", 0),
        (0, "a", 1),
        (0, "a", "b"),
        (0, "b", "a"),
    ]
    seeds = [derive_seed(*purpose) for purpose in purposes]
    assert len(set(seeds)) == len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_same_purpose_gives_the_same_numbers_whatever_was_drawn_in_between() -> None:
    first = numpy_generator(0, "x", 1).random(5)
    numpy_generator(0, "y").random(100)
    np.random.random(3)  # the global stream must not matter
    torch.rand(3)
    np.testing.assert_array_equal(numpy_generator(0, "x", 1).random(5), first)
    one, two = (torch.randn(4, generator=torch_generator(0, "x")) for _ in range(2))
    assert torch.equal(one, two)


def test_no_global_stream_is_moved() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    torch.randn(100, generator=torch_generator(0, "x"))
    assert torch.equal(torch.rand(2), wanted)
