"""ResNet: structure, blocks by hand, Fixup."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shaketable.networks import build, construct
from shaketable.networks.parts import Bias, Scale
from shaketable.networks.resnet import ResidualBlock
from shaketable.params import layers

VERSIONS = ["-v1", "-v1-bn", "-v2", "-v2-bn"]


def randomised(name: str, **arguments) -> nn.Module:
    """A network in float64 in which every parameter and running statistic is random, scalars and norms too."""
    network = build(name, (3, 8, 8), 5, **arguments).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.1 + 0.4 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
    return network


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class ByHand:
    """Convolutions and norms of one block from its state dict; a norm that is not there does nothing."""

    def __init__(self, block: nn.Module):
        self.p = block.state_dict()

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.p[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, padding=weight.shape[-1] // 2)

    def bn(self, x: Tensor, name: str) -> Tensor:
        if f"{name}.weight" not in self.p:
            return x
        mean, var, weight, bias = (
            self.p[f"{name}.{k}"].view(-1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias


@pytest.mark.parametrize(
    ("depth", "blocks", "convolutions"), [(18, 8, 20), (34, 16, 36), (50, 16, 53), (101, 33, 104), (152, 50, 155)]
)
@pytest.mark.parametrize("version", VERSIONS)
def test_blocks_and_convolutions_are_as_many_as_the_depth_says(depth, blocks, convolutions, version):
    network = construct(f"resnet{depth}{version}", (3, 32, 32), 10)
    assert sum(isinstance(module, ResidualBlock) for module in network.modules()) == blocks
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == convolutions


def test_the_layers_of_resnet18_have_the_names_of_the_papers():
    network = construct("resnet18-bn", (3, 32, 32), 10)
    blocks = [name for name, module in network.named_modules() if isinstance(module, ResidualBlock)]
    assert blocks == [f"stage{i}.resblk{j}" for i in (1, 2, 3, 4) for j in (1, 2)]
    operators = [n for n, m in network.named_modules() if list(m.parameters(recurse=False))]
    assert operators[:2] == ["stage0.conv", "stage0.bn"]
    assert [n for n in operators if n.startswith("stage2.resblk1.")] == [
        f"stage2.resblk1.{part}" for part in ("conv1", "bn1", "conv2", "bn2", "downsample", "downsample_bn")
    ]
    assert operators[-1] == "final_linear"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("depth", "first"), [(18, []), (50, ["stage1.resblk1.downsample"])])
def test_only_the_first_block_of_a_stage_projects_and_only_where_the_shape_changes(depth, first, version):
    network = construct(f"resnet{depth}{version}", (3, 32, 32), 10)
    projections = [name for name, _ in network.named_modules() if name.endswith("downsample")]
    assert projections == first + [f"stage{i}.resblk1.downsample" for i in (2, 3, 4)]


def test_a_quarter_of_the_width_gives_the_channels_of_the_1x_width():
    network = construct("resnet18", (3, 32, 32), 10, width=0.25)
    channels = [network.stage0.conv.out_channels]
    channels += [network.get_submodule(f"stage{i}.resblk2.conv2").out_channels for i in (1, 2, 3, 4)]
    assert channels == [16, 16, 32, 64, 128]


@pytest.mark.parametrize(("depth", "stride_in", "not_in"), [(18, "conv1", "conv2"), (50, "conv2", "conv1")])
def test_the_first_3x3_convolution_of_a_stage_has_stride_2(depth, stride_in, not_in):
    block = construct(f"resnet{depth}", (3, 32, 32), 10).get_submodule("stage3.resblk1")
    assert block.get_submodule(stride_in).kernel_size == (3, 3)
    assert block.get_submodule(stride_in).stride == block.downsample.stride == (2, 2)
    assert block.get_submodule(not_in).stride == (1, 1)


@pytest.mark.parametrize("ending", ["", "-bn"])
@pytest.mark.parametrize("which", ["resblk1", "resblk2"])
def test_a_basic_block_v1_equals_a_computation_by_hand(ending, which):
    block = randomised("resnet18" + ending, width=0.05).get_submodule(f"stage2.{which}")
    x, h = noise(2, block.conv1.in_channels, 5, 5), ByHand(block)
    stride = 2 if which == "resblk1" else 1
    y = torch.relu(h.bn(h.conv(x, "conv1", stride), "bn1"))
    y = h.bn(h.conv(y, "conv2"), "bn2")
    skip = h.bn(h.conv(x, "downsample", 2), "downsample_bn") if which == "resblk1" else x
    torch.testing.assert_close(block(x), torch.relu(y + skip))


@pytest.mark.parametrize("ending", ["", "-bn"])
@pytest.mark.parametrize("which", ["resblk1", "resblk2"])
def test_a_bottleneck_v1_equals_a_computation_by_hand(ending, which):
    block = randomised("resnet50" + ending, width=0.05).get_submodule(f"stage2.{which}")
    x, h = noise(2, block.conv1.in_channels, 5, 5), ByHand(block)
    y = torch.relu(h.bn(h.conv(x, "conv1"), "bn1"))
    y = torch.relu(h.bn(h.conv(y, "conv2", 2 if which == "resblk1" else 1), "bn2"))
    y = h.bn(h.conv(y, "conv3"), "bn3")
    skip = h.bn(h.conv(x, "downsample", 2), "downsample_bn") if which == "resblk1" else x
    torch.testing.assert_close(block(x), torch.relu(y + skip))


@pytest.mark.parametrize("ending", ["", "-bn"])
@pytest.mark.parametrize("which", ["resblk1", "resblk2"])
@pytest.mark.parametrize("depth", [18, 50])
def test_a_block_v2_equals_a_computation_by_hand(depth, ending, which):
    block = randomised(f"resnet{depth}-v2{ending}", width=0.05).get_submodule(f"stage2.{which}")
    x, h = noise(2, block.conv1.in_channels, 5, 5), ByHand(block)
    stride = 2 if which == "resblk1" else 1
    activated = torch.relu(h.bn(x, "bn1"))
    if depth == 18:
        y = h.conv(activated, "conv1", stride)
        y = h.conv(torch.relu(h.bn(y, "bn2")), "conv2")
    else:
        y = h.conv(activated, "conv1")
        y = h.conv(torch.relu(h.bn(y, "bn2")), "conv2", stride)
        y = h.conv(torch.relu(h.bn(y, "bn3")), "conv3")
    skip = h.conv(activated, "downsample", 2) if which == "resblk1" else x
    torch.testing.assert_close(block(x), y + skip)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("which", ["resblk1", "resblk2"])
def test_a_fixup_block_equals_a_computation_by_hand(depth, which):
    block = randomised(f"resnet{depth}", width=0.05, init="fixup").get_submodule(f"stage2.{which}")
    x, h, p = noise(2, block.conv1.in_channels, 5, 5), ByHand(block), block.state_dict()
    m = 2 if depth == 18 else 3
    stride = 2 if which == "resblk1" else 1
    y = x
    for i in range(1, m + 1):
        y = h.conv(y + p[f"bias{i}a.bias"], f"conv{i}", stride if i == m - 1 else 1)
        if i == m:
            y = y * p["scale.scale"]
        y = y + p[f"bias{i}b.bias"]
        if i < m:
            y = torch.relu(y)
    skip = h.conv(x + p["bias1a.bias"], "downsample", 2) if which == "resblk1" else x
    torch.testing.assert_close(block(x), torch.relu(y + skip))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_stem_and_head_are_those_of_the_version(version, pool):
    network = randomised("resnet18" + version, width=0.05, pool=pool)
    h, images = ByHand(network), noise(2, 3, 8, 8)
    x = h.conv(images, "stage0.conv")
    if "v1" in version:
        x = torch.relu(h.bn(x, "stage0.bn"))
    torch.testing.assert_close(network.stage0(images), x)
    x = network.stage4(network.stage3(network.stage2(network.stage1(x))))
    if "v2" in version:
        x = torch.relu(h.bn(x, "final_bn"))
    x = x.mean((2, 3)) if pool == "avg" else x.amax((2, 3))
    torch.testing.assert_close(network(images), F.linear(x, h.p["final_linear.weight"], h.p["final_linear.bias"]))


@pytest.mark.parametrize(("depth", "m"), [(18, 2), (34, 2), (50, 3)])
class TestFixup:
    def test_at_the_start_every_branch_and_every_logit_is_zero(self, depth, m):
        network = build(f"resnet{depth}", (3, 8, 8), 5, width=0.1, init="fixup")
        seen = []
        for name, module in network.named_modules():
            if name.endswith(f"bias{m}b"):
                module.register_forward_hook(lambda module, args, output: seen.append(output))
        assert not network(noise(2, 3, 8, 8).float()).any()
        assert len(seen) == sum(isinstance(module, ResidualBlock) for module in network.modules())
        assert not any(output.any() for output in seen)
        assert network.stage4[-1](torch.ones(1, network.final_linear.in_features, 1, 1)).all()

    def test_the_other_convolutions_of_a_branch_are_kaiming_times_the_factor_of_the_paper(self, depth, m):
        network = build(f"resnet{depth}", (3, 8, 8), 5, init="fixup")
        blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
        factor = len(blocks) ** (-1 / (2 * m - 2))
        for block in blocks:
            for i in range(1, m):
                weight = block.get_submodule(f"conv{i}").weight
                std = factor * math.sqrt(2 / weight[0].numel())
                assert abs(weight.std().item() - std) < 4 * std / math.sqrt(2 * weight.numel())
        for weight in (network.stage0.conv.weight, network.stage3[0].downsample.weight):
            std = math.sqrt(2 / weight[0].numel())
            assert abs(weight.std().item() - std) < 4 * std / math.sqrt(2 * weight.numel())

    def test_scalars_stand_before_each_convolution_and_activation_and_once_as_a_multiplier(self, depth, m):
        network = build(f"resnet{depth}", (3, 8, 8), 5, width=0.1, init="fixup")
        for block in (module for module in network.modules() if isinstance(module, ResidualBlock)):
            assert sum(isinstance(module, Scale) for module in block.modules()) == 1
            assert sum(isinstance(module, Bias) for module in block.modules()) == 2 * m
        outside = [
            name for name, module in network.named_modules() if isinstance(module, Bias) and "resblk" not in name
        ]
        assert outside == ["stage0.bias", "final_bias"]
        plain = construct(f"resnet{depth}", (3, 8, 8), 5, width=0.1)
        extra = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in plain.parameters())
        blocks = sum(isinstance(module, ResidualBlock) for module in network.modules())
        assert extra == blocks * (2 * m + 1) + 2


def test_fixup_trains_a_network_of_50_layers_without_batch_norm():
    network = build("resnet50", (3, 8, 8), 5, width=0.1, init="fixup").train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 3, 8, 8, generator=generator)
    labels = torch.randint(5, (20,), generator=generator)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(5), rel=1e-5)
    assert all(math.isfinite(value) for value in losses)
    assert losses[-1] < losses[0]


def test_every_block_of_resn_has_an_identity_skip_and_a_layer_stands_between_stages():
    network = build("resn-4-4-4-4", (3, 32, 32), 10, width=0.1)
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 16
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for block in blocks:
            block.conv2.weight.zero_()
        plain = network.stage0(images)
        for stage in (2, 3, 4):  # with empty branches only the layers between stages are left
            plain = getattr(network, f"downsample{stage}").conv(plain.relu())
        assert plain.shape == (2, 8 * 6, 4, 4)
        expected = network.final_linear(plain.relu().mean((2, 3)))
        torch.testing.assert_close(network(images), expected)


def test_layers_of_resn_by_block_are_its_blocks_and_what_stands_between_stages():
    names = [layer.name for layer in layers(construct("resn-2-1-bn", (3, 8, 8), 10), "block")]
    assert names == [
        "stage0.conv",
        "stage1.resblk1",
        "stage1.resblk2",
        "downsample2.bn",
        "downsample2.conv",
        "stage2.resblk1",
        "final_bn",
        "final_linear",
    ]
