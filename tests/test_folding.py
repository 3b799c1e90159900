"""Folding of batch norms: the same function, weights known by hand, and networks that cannot be folded."""

import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.folding import folded
from shaketable.forward import forward
from shaketable.networks import build
from shaketable.params import snapshot, state


def trained(network: nn.Module) -> nn.Module:
    """Statistics and scales that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in state(network).items():
            if "running_var" in name:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return network.eval()


@pytest.mark.parametrize("name", ["resnet18-bn", "vgg11-bn", "fcn-2x16-bn", "resnet18-v2-bn", "densenet121"])
def test_the_folded_network_computes_the_same(name):
    arguments = {} if "fcn" in name else {"width": 0.125}
    if "densenet" in name:
        arguments = {"growth": 4} if "growth" in str(build.__doc__) else {}
    network = trained(build(name, (3, 32, 32), 10, **arguments))
    inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    params, before = state(network), snapshot(network)
    found = folded(network, params, inputs)
    assert list(found) == list(params)
    torch.testing.assert_close(forward(network, inputs, found), forward(network, inputs, params), rtol=1e-3, atol=1e-3)
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(network).items())


def test_every_batch_norm_behind_a_convolution_only_adds_a_constant():
    network = trained(build("resnet18-bn", (3, 16, 16), 10, width=0.125))
    found = folded(network, state(network), torch.zeros(2, 3, 16, 16))
    norms = [path for path, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    for path in norms:
        assert (found[f"{path}.weight"] == 1).all()
        assert (found[f"{path}.running_mean"] == 0).all()
        assert (found[f"{path}.running_var"] == 1 - network.get_submodule(path).eps).all()


def test_a_transposed_convolution_is_scaled_along_its_outputs():
    network = trained(nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2)))
    inputs = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = folded(network, state(network), inputs)
    assert (found["1.weight"] == 1).all()
    torch.testing.assert_close(forward(network, inputs, found), network(inputs), rtol=1e-4, atol=1e-4)


def unchanged(network: nn.Module, inputs: torch.Tensor) -> bool:
    found = folded(network, state(network), inputs)
    return all(torch.equal(tensor, found[name]) for name, tensor in state(network).items())


class Two(nn.Module):
    """The output of the linear layer goes to a batch norm and elsewhere too."""

    def __init__(self, by_module: bool) -> None:
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)
        self.other = nn.Identity() if by_module else None
        self.relu = nn.ReLU()

    def forward(self, inputs):
        x = self.linear(inputs)
        y = self.relu(x) if self.other is not None else x.relu()
        return self.head(self.norm(x) + y)


def test_a_batch_norm_whose_input_goes_elsewhere_stays():
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for by_module in (True, False):
        network = trained(Two(by_module))
        assert unchanged(network, inputs)


def test_a_batch_norm_without_a_scale_is_refused_and_one_before_the_operator_stays():
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    bare = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)).eval()
    with pytest.raises(InputError, match="batch norm '1' has no scale and bias"):
        folded(bare, state(bare), inputs)
    before = trained(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)))
    assert unchanged(before, inputs)
