"""What a result is the result of: digests of plain values and fingerprints of tensors."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def canonical(value: Any) -> str:
    """Plain values (dicts, lists, strings, numbers, None) as one JSON text: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that name a plain value."""
    return hashlib.blake2b(canonical(value).encode(), digest_size=8).hexdigest()


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that name a set of tensors: names, types, shapes and every bit of the values."""
    whole = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def seed_from(seed: int, *words: str | int) -> int:
    """A seed of 63 bits for one purpose, e.g. ``seed_from(0, "epoch", 3)``: streams for different words are unrelated."""
    text = "|".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_from(seed: int, *words: str | int) -> torch.Generator:
    """A CPU generator seeded by :func:`seed_from`."""
    return torch.Generator().manual_seed(seed_from(seed, *words))
