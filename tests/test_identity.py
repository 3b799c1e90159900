"""Digests, fingerprints and seeds."""

import torch

from shaketable.identity import digest, fingerprint, generator_from, seed_from


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_a_fingerprint_sees_every_bit_the_type_the_shape_and_the_name():
    ones = torch.ones(4)
    different = [
        ones.double(),
        ones.reshape(2, 2),
        torch.tensor([1.0, 1, 1, 1 + 2**-23]),
        torch.tensor([1.0, 1, 1, -1]),
    ]
    prints = [fingerprint({"a": tensor}) for tensor in (ones, *different)] + [fingerprint({"b": ones})]
    assert len(set(prints)) == len(prints)
    assert fingerprint({"a": ones}) == fingerprint({"a": torch.ones(8)[::2]})


def test_a_fingerprint_of_bfloat16_and_of_an_empty_tensor_works():
    assert fingerprint({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(0)})


def test_streams_for_different_purposes_differ_and_repeat():
    assert seed_from(0, "epoch", 1) == seed_from(0, "epoch", 1)
    seeds = {seed_from(s, w, n) for s in (0, 1) for w in ("epoch", "draw") for n in range(50)}
    assert len(seeds) == 200
    assert torch.equal(torch.rand(3, generator=generator_from(1, "a")), torch.rand(3, generator=generator_from(1, "a")))
