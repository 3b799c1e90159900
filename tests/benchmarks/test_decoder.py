"""The benchmark of the decoder: the naive loop counts tokens, a small case runs in both precisions, memory adds up."""

import math

import pytest
import torch

from benchmarks import common, decoder
from shaketable.evaluate import evaluate


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder of two blocks on eight sequences."""
    monkeypatch.setattr(decoder, "TOKENS", 6)
    monkeypatch.setattr(decoder, "SEQUENCES", 8)
    monkeypatch.setattr(decoder, "SLICE", 4)
    whole = decoder.decoder_case
    monkeypatch.setattr(decoder, "decoder_case", lambda dtype=torch.float32: whole(dtype, "decoder-2x16", 40))


def test_the_naive_loop_on_sequences_gives_what_evaluate_gives_for_every_token() -> None:
    case = decoder.decoder_case()
    variants = case.variants([(0, 0), (5, 1)])
    found = common.Naive(case.network, 3).sums(variants, case.data)
    for (errors, loss), variant in zip(found, variants, strict=True):
        sums = evaluate(case.network, variant, case.data)
        assert errors == sums.errors
        assert math.isclose(loss, sums.loss, rel_tol=1e-5)


def test_every_sub_layer_is_measured_and_both_precisions_give_the_naive_loops_answers() -> None:
    rows = decoder.speed("robustness-decoder", common.Options(repeats=1))
    assert [row.work for row in rows] == ["robustness-decoder-float32", "robustness-decoder-bfloat16"]
    assert {row.variants for row in rows} == {(1 + 2 * 8 + 2) * decoder.CHECKPOINTS}
    assert all(row.identical for row in rows)
    assert all(row.ratio and row.ratio > 0 for row in rows)


def test_memory_counts_the_weights_of_a_checkpoint() -> None:
    case = decoder.decoder_case()
    found = decoder.engine_growth(case, 2**26)
    assert found["weights"] == 4 * sum(parameter.numel() for parameter in case.network.parameters())


def test_a_forward_pass_grows_the_process_by_at_least_what_it_allocates() -> None:
    class Wide(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.ones(2**20 * len(tokens) * tokens.shape[1])

    data = decoder.decoder_case().data
    assert decoder.forward_growth(Wide(), data)["growth"] > 0.95 * 4 * 2**20 * 8 * 6
