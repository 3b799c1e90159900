"""Any forward: inputs and outputs of every form."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.forward import forward, logits_of


class Two(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.linear, self.wrap = nn.Linear(2, 3), wrap

    def forward(self, a, b):
        return self.wrap(self.linear(a + b))


WRAPS = [lambda y: y, lambda y: (y, None), lambda y: SimpleNamespace(logits=y, loss=None), lambda y: {"logits": y}]


@pytest.mark.parametrize("wrap", WRAPS, ids=["tensor", "tuple", "object", "dict"])
@pytest.mark.parametrize("form", [tuple, lambda pair: dict(zip("ab", pair))], ids=["tuple", "dict"])
def test_every_form_of_inputs_and_outputs_gives_the_same_logits(wrap, form):
    network, pair = Two(wrap), (torch.ones(4, 2), torch.ones(4, 2))
    assert torch.equal(forward(network, form(pair)), network.linear(sum(pair)))


def test_params_replace_the_networks_own_without_writing_to_it():
    network = nn.Linear(2, 1)
    before = network.weight.clone()
    out = forward(network, torch.ones(1, 2), {"weight": torch.full((1, 2), 5.0), "bias": torch.zeros(1)})
    assert out.item() == 10
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize("output", [None, "text", {"loss": torch.ones(1)}, ()])
def test_an_output_without_logits_is_one_clear_error(output):
    with pytest.raises(InputError, match="no logits were found"):
        logits_of(output)
