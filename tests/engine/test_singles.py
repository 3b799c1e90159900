"""Each unit removed alone: the logits of the network with that unit at zero."""

import pytest
import torch
from tests.engine.test_removals import Deciding, case
from torch import nn

from shaketable.engine import singles
from shaketable.engine.singles import single_removals
from shaketable.intervene import ablated, site_of
from shaketable.params import snapshot


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18-bn", "stage4.resblk2.conv2"),
        ("functional", "conv1"),
        ("concatenating", "left"),
        ("fcn-2x12", "layer2"),
    ],
)
def test_single_units_removed_are_those_of_the_network_with_a_mask(name, layer):
    network, x, _ = case(name)
    before, state = snapshot(network), torch.get_rng_state()
    site = site_of(network, layer, x)
    found = single_removals(network, site, x)
    assert found.shape[:2] == (site.units, len(x))
    for unit in range(site.units):
        with torch.no_grad(), ablated(network, site, [unit]):
            assert torch.allclose(found[unit], network(x), atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in snapshot(network).items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize(("room", "passes"), [(0, 48), (2**23, 2)])
def test_as_many_units_go_through_one_pass_as_there_is_room_for(room, passes, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, x = nn.Sequential(nn.Linear(3, 48), nn.ReLU(), nn.Linear(48, 4)).eval(), torch.randn(5, 3)
    site, calls = site_of(network, "0", x), []
    network[2].register_forward_hook(lambda *_: calls.append(1))
    expected = []
    for unit in range(site.units):
        with torch.no_grad(), ablated(network, site, [unit]):
            expected.append(network(x))
    monkeypatch.setattr(singles, "ROOM", room)
    around = 5  # how many passes are not for a group: finding the mask, the base pass and the check
    calls.clear()
    found = single_removals(network, site, x)
    assert passes < len(calls) <= passes + around
    assert torch.allclose(found, torch.stack(expected), atol=1e-5)


def test_any_code_the_params_given_and_tokens_are_carried():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, x = Deciding().eval(), torch.randn(4, 3)
        tokens, words = (
            nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 5)).eval(),
            torch.ones(2, 3).long(),
        )
    params = {name: tensor + 0.1 for name, tensor in snapshot(network).items()}
    found = single_removals(network, site_of(network, "one", x), x, params)
    network.load_state_dict(params)
    with torch.no_grad(), ablated(network, site_of(network, "one", x), [2]):
        assert torch.allclose(found[2], network(x), atol=1e-5)
    site = site_of(tokens, "1", words)
    with torch.no_grad(), ablated(tokens, site, [5]):
        assert torch.allclose(single_removals(tokens, site, words)[5], tokens(words), atol=1e-5)


class Random(nn.Module):
    """Draws in every pass: cannot be replayed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.relu, self.two = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        return self.two(self.relu(self.one(x))) + 0 * torch.rand(())


def test_a_network_that_cannot_be_replayed_is_run_whole():
    network, x = Random().eval(), torch.randn(3, 3)
    site = site_of(network, "one", x)
    with torch.no_grad(), ablated(network, site, [1]):
        expected = network(x)
    assert torch.allclose(single_removals(network, site, x)[1], expected, atol=1e-6)


def test_a_unit_that_is_infinite_is_zero_when_it_is_removed():
    network = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1, 0], [0, 1], [3e38, 3e38]]))
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.5, 1.5]])
    found = single_removals(network, site_of(network, "0", x), x)
    torch.testing.assert_close(found[2], nn.functional.linear(x, network[2].weight[:, :2], network[2].bias).detach())
