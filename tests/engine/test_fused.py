"""The fused level: its logits are those of the plain loop to the rounding of float32, or it says why it cannot."""

import pytest
import torch
import torch.nn.functional as F
from tests.engine import zoo
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.engine import Engine
from shaketable.engine.batch import Batch
from shaketable.engine.fused import Fused
from shaketable.engine.kernels import KERNELS, Dense, Geometry, OneDNN, Patches, Plain, Winograd
from shaketable.engine.levels import Levels
from shaketable.engine.replica import Unsuitable
from shaketable.forward import forward, map_inputs
from shaketable.networks import build
from shaketable.params import layers, snapshot, state

EXACT = 1e-5
"""Of the largest logit; Winograd's convolutions keep it too (see the tests of their own)."""


def settled(network: nn.Module) -> nn.Module:
    """With running statistics that are not 0 and 1."""
    with zoo.seeded("fused"):
        return zoo.settled(network)


def images(count: int, channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(count))


def distance(logits: Tensor, truth: Tensor) -> float:
    """Largest difference, of the largest logit."""
    assert logits.shape == truth.shape
    assert logits.dtype == torch.float32
    return float((logits - truth).abs().max() / truth.abs().max())


def worst(network: nn.Module, inputs, by="module", counts=(5, 1), every=1, dtype=torch.float32) -> float:
    """The largest distance over the base and a variant of each layer, for several numbers of examples."""
    params, other = state(network), zoo.another(network, 1)
    with torch.no_grad():
        forward(network, inputs, {})  # some networks fill a cache
        fused = Fused(network, params, inputs)
        fused = fused if dtype == torch.float32 else fused.rounded()
        found = []
        for count in counts:
            part = map_inputs(lambda tensor, count=count: tensor[:count], inputs)
            found.append(distance(fused.base(part), forward(network, part, params)))
            for layer in layers(network, by, inputs)[::every]:
                changes = {name: other[name] for name in layer.params + layer.buffers}
                found.append(distance(fused.logits(changes), forward(network, part, {**params, **changes})))
    return max(found)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 5, padding=2)
        self.three = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.norm, self.head = nn.BatchNorm2d(27), nn.Linear(27, 5)

    def forward(self, x):
        pooled = F.max_pool2d(x, 3, 1, 1)
        x = torch.cat([self.one(x), F.relu(self.two(x)), F.silu(self.three(x)), pooled], 1)
        return self.head(F.adaptive_avg_pool2d(F.relu6(self.norm(x)), 1).flatten(1))


class Convolutions(nn.Module):
    """Grouped, depth-wise, strided, dilated, without padding; odd sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.c, self.d = nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 32, 3, dilation=2, padding=(2, 1))
        self.e, self.f = nn.Conv2d(32, 40, 3, padding=(0, 2)), nn.Conv2d(40, 32, 3, stride=2, padding=1)
        self.g, self.h = nn.Conv2d(32, 8, (1, 3), stride=(2, 1)), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        x = self.b(F.gelu(self.a(x)))
        x = torch.tanh(self.d(F.leaky_relu(self.c(x), 0.1)))
        x = self.f(self.e(x).relu()).sigmoid()
        return self.last(self.h(self.g(x)).mean((2, 3)))


class InPlace(nn.Module):
    """``out += x``, in-place ReLU on a sum and on a shortcut, scales and biases as parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.scale, self.shift = (
            nn.BatchNorm2d(8),
            nn.Parameter(torch.rand(1)),
            nn.Parameter(torch.rand(8, 1, 1)),
        )
        self.c, self.relu, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.a(x))
        y = self.norm(self.b(x)) * self.scale + self.shift
        y += x
        y = self.relu(y)
        z = 0.5 * self.c(self.relu(y + 0.1)) - 0.2
        z += self.relu(y)
        return self.head(z.mul_(2).mean((2, 3)))


class Several(nn.Module):
    """Layer and group norm, one convolution used twice, the output of an operator used before and after its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.group, self.layer, self.head = nn.GroupNorm(2, 8), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.a(x)
        x = self.b(x.relu()) + self.b(x)
        x = self.group(x).relu() + x
        return self.head(self.layer(x.mean((2, 3)))) / 3


CARRIED = {
    "inception", "conv_relu_in_place", "residual_in_place_add", "preactivation_residual", "densely_connected",
    "attention", "rotary_attention", "language_model", "cache_passed_through_blocks",
    "preallocated_output",
}  # fmt: skip
"""Cases of the zoo that it must not give up on."""

NETWORKS = {
    "inception": Inception,
    "convolutions": Convolutions,
    "in place": InPlace,
    "several": Several,
    "fixup": lambda: build("resnet18", (3, 32, 32), 5, width=0.0625, init="fixup"),
}


@pytest.mark.parametrize("name", ["resnet18", "resnet18-bn", "resnet18-v2", "resnet18-v2-bn", "vgg11", "vgg11-bn"])
def test_each_layer_of_our_networks_has_the_logits_of_the_loop(name: str) -> None:
    network = settled(build(name, (3, 32, 32), 10, width=0.125))
    assert worst(network, images(3), counts=(3, 1), every=4) < EXACT
    assert worst(network, images(3), "block", counts=(3,)) < EXACT


def test_wide_residual_blocks_use_winograd_within_the_tolerance() -> None:
    network = settled(build("resnet18-bn", (3, 16, 16), 10, width=0.5))
    assert worst(network, images(4, size=16), "block", counts=(4,)) < EXACT


def test_fully_connected_networks_too() -> None:
    assert worst(settled(build("fcn-3x64-bn", (3, 8, 8), 10)), images(7, size=8), counts=(7, 1)) < EXACT
    assert worst(build("fcn-3x64", (3, 8, 8), 10), images(7, size=8), "block") < EXACT


@pytest.mark.slow
def test_densely_connected_networks_too() -> None:
    network = settled(build("densenet121-bn", (3, 16, 16), 10, width=0.125))
    assert worst(network, images(2, size=16), every=20, counts=(2,)) < EXACT


@pytest.mark.parametrize("name", NETWORKS)
def test_branches_and_unusual_convolutions_and_writing_in_place(name: str) -> None:
    with zoo.seeded(name):
        network = NETWORKS[name]()
    network, inputs = settled(network), images(6, size=11)
    assert worst(network, inputs, counts=(6, 1, 4)) < EXACT
    assert worst(network, inputs, "block") < EXACT


@pytest.mark.parametrize("name", zoo.CASES)
def test_a_network_of_the_zoo_is_right_or_unsuitable(name: str) -> None:
    network, inputs = zoo.CASES[name]()
    count = len(
        next(iter(inputs.values())) if isinstance(inputs, dict) else inputs[0] if isinstance(inputs, tuple) else inputs
    )
    try:
        found = worst(network, inputs, counts=(count,))
    except Unsuitable:
        assert name not in CARRIED
    else:
        assert found < EXACT


@pytest.mark.parametrize("name", zoo.STOCHASTIC)
def test_what_draws_random_numbers_is_unsuitable(name: str) -> None:
    with pytest.raises(Unsuitable):
        Fused(*(lambda network, inputs: (network, state(network), inputs))(*zoo.STOCHASTIC[name]()))


class Makes(nn.Module):
    """Sequences [N, T, 8] through attention with what a kind of forward pass makes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places, self.last = nn.Linear(8, 8), nn.Embedding(12, 8), nn.Linear(8, 5)

    def made(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.made(torch.tanh(self.embed(x)))))


class Sines(Makes):
    """Positions as numbers, a table of their sines, and a row of it set to one."""

    def made(self, x):
        angles = torch.arange(x.shape[1], dtype=torch.float32)[:, None] / 10 ** torch.arange(8)
        table = torch.zeros_like(angles)
        table[:, ::2], table[:, 1::2] = angles[:, ::2].sin(), angles[:, 1::2].cos()
        table[0].fill_(1)
        return x + table


class Causal(Makes):
    """Attention by hand, behind a mask of minus infinity."""

    def made(self, x):
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        return (x @ x.transpose(1, 2) + mask).softmax(-1) @ x


class CausalByExample(Makes):
    """Torch's attention with a mask for each example, which its own numbers fill."""

    def made(self, x):
        mask = torch.ones(len(x), 1, x.shape[1], x.shape[1], dtype=torch.bool).tril()
        mask = mask & ((x[:, None, None, :, 0] > -0.5) | torch.eye(x.shape[1], dtype=torch.bool))
        heads = x.unflatten(2, (2, -1)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads, mask).transpose(1, 2).flatten(2)


class Numbered(Makes):
    """Embedded positions of each example, a token in front, two halves of the channels swapped."""

    def made(self, x):
        x = torch.cat([x.new_zeros(len(x), 1, 8), x], 1)
        one, two = (x + self.places(torch.arange(x.shape[1]).expand(len(x), -1))).chunk(2, -1)
        return torch.cat([two, one], -1)


class NumberedExamples(Makes):
    """An example's number in the batch is added to it."""

    def made(self, x):
        return x + torch.arange(len(x), dtype=torch.float32)[:, None, None] / 10


class RandomTable(Makes):
    def made(self, x):
        return x + torch.rand(x.shape[1:])


class DropsAttention(Makes):
    def made(self, x):
        return nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], dropout_p=0.5)[:, 0]


MAKERS = {
    "positions": Sines,
    "causal mask": Causal,
    "masks by example": CausalByExample,
    "numbered": Numbered,
    "numbered examples": NumberedExamples,
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_a_network_makes_in_its_forward_pass_is_in_the_graph(name: str) -> None:
    with zoo.seeded(name):
        network, inputs = settled(MAKERS[name]()), torch.randn(6, 7, 8)
    assert worst(network, inputs, counts=(6, 1, 4)) < EXACT
    assert worst(network, inputs, counts=(6, 5), dtype=torch.bfloat16) < 0.03


class Doubles(nn.Module):
    """Most of it is computed in float64: products, a convolution, scales and shifts, made or not, and a sum with float32."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Conv1d(1, 2, 3), nn.Linear(12, 5)

    def forward(self, x):
        x = torch.tanh(self.a(x)) + (x.double() @ self.a.weight.double().t() * 0.1 + 1 / 3)
        x = x * torch.linspace(0.1, 1, 8, dtype=torch.float64) + self.a.bias.double()
        x = F.conv1d(x[:, None], self.b.weight.double(), self.b.bias.double()).relu()
        return self.c(x.flatten(1).float())


def test_what_a_network_computes_in_float64_is_computed_so_bit_for_bit() -> None:
    with zoo.seeded("doubles"):
        network, inputs, other = settled(Doubles()), torch.randn(30, 8), zoo.another(Doubles())
    with torch.no_grad():
        fused = Fused(network, state(network), inputs)
        assert fused.plain
        assert torch.equal(fused.base(inputs), forward(network, inputs))
        for layer in layers(network):
            changes = {name: other[name] for name in layer.params}
            assert torch.equal(fused.logits(changes), forward(network, inputs, {**state(network), **changes}))


class Expands(nn.Module):
    """A made row and a weight in front of each example, all by convolutions: a row is an example."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.conv, self.last = nn.Parameter(torch.rand(1, 3, 1)), nn.Conv1d(3, 4, 3), nn.Conv1d(4, 5, 7)

    def forward(self, x):
        x = torch.cat([torch.ones(len(x), 3, 1), self.token.expand(len(x), -1, -1), x], 2)
        return self.last(self.conv(x).relu()).flatten(1)


class Counted(Expands):
    """The number of an example in the batch is added to it."""

    def forward(self, x):
        return super().forward(x + torch.arange(len(x), dtype=torch.float32)[:, None, None])


def test_picked_rows_get_what_is_made_for_each_example_and_none_are_picked_where_the_batch_is_counted() -> None:
    with zoo.seeded("expands"):
        network, inputs = settled(Expands()), torch.randn(9, 3, 7)
    assert not Fused(Counted().eval(), state(Counted()), inputs).picks
    fused, other, rows = Fused(network, state(network), inputs), zoo.another(network), torch.tensor([7, 2, 3])
    fused.base(inputs)
    assert fused.picks
    for name in other:
        whole = fused.logits({name: other[name]})
        assert distance(fused.picked([({name: other[name]}, rows)])[0], whole[rows]) < EXACT


@pytest.mark.parametrize("network", [RandomTable(), DropsAttention()], ids=["table", "attention"])
def test_random_numbers_that_a_network_makes_are_unsuitable(network: nn.Module) -> None:
    with pytest.raises(Unsuitable, match="rand|attention|bernoulli"):
        Fused(network.eval(), state(network), torch.randn(6, 7, 8))


class Table(Makes):
    """A tensor that is no buffer."""

    table = torch.ones(8)

    def made(self, x):
        return x + self.table


class ByNumPy(Makes):
    def made(self, x):
        return x + torch.from_numpy(x.detach().numpy().mean(0, keepdims=True))


def test_code_that_asks_whether_padding_is_at_the_end_is_unsuitable() -> None:
    network, inputs = zoo.CASES["transformer_encoder_with_padding"]()
    with pytest.raises(Unsuitable, match="looks at values"):
        Fused(network, state(network), inputs)


@pytest.mark.parametrize("network", [Table(), ByNumPy()], ids=["attribute", "numpy"])
def test_tensors_that_it_does_not_make_are_unsuitable(network: nn.Module) -> None:
    with pytest.raises(Unsuitable, match="neither parameters nor buffers"):
        Fused(network.eval(), state(network), torch.randn(6, 7, 8))


class Branches(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class Counts(nn.BatchNorm1d):
    def forward(self, x):
        self.running_mean += 1
        return super().forward(x)


class Sorts(nn.Linear):
    def forward(self, x):
        return super().forward(x).sort(1)[0]


class Remembers(nn.Linear):
    def forward(self, x):
        self.last = x
        return super().forward(x)


class OnlyThreeExamples(nn.Linear):
    def forward(self, x):
        return super().forward(x.view(3, -1))


UNSUITABLE = {
    "cannot be traced": Branches(4, 4),
    "writes": Counts(4),
    "sort": Sorts(4, 4),
    "store": Remembers(4, 4),
    "shape": OnlyThreeExamples(4, 4),
    "batch norm over the batch": nn.BatchNorm1d(4, track_running_stats=False),
    "not float32": nn.Linear(4, 4).double(),
}


@pytest.mark.parametrize("reason", UNSUITABLE)
def test_what_it_cannot_carry_is_unsuitable_and_it_says_why(reason: str) -> None:
    network = UNSUITABLE[reason].eval()
    with pytest.raises(Unsuitable, match=reason):
        Fused(network, state(network), torch.randn(3, 4, dtype=next(network.parameters(), torch.zeros(1)).dtype))


def test_inputs_of_another_size_are_unsuitable_for_the_same_graph() -> None:
    network = Inception().eval()
    fused = Fused(network, state(network), images(2, size=8))
    with pytest.raises(Unsuitable, match="shape"):
        fused.base(images(2, size=9))


def test_the_network_and_the_params_and_the_inputs_are_left_as_they_were() -> None:
    network, inputs = settled(build("resnet18-bn", (3, 16, 16), 10, width=0.125)), images(3, size=16)
    before, given = snapshot(network), inputs.clone()
    network.train()
    fused = Fused(network, state(network), inputs)
    logits = fused.base(inputs).clone()
    fused.logits(zoo.another(network))
    assert torch.equal(fused.logits({}), logits)
    assert all(module.training for module in network.modules())
    assert torch.equal(inputs, given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(network).items())


def test_variants_do_not_change_what_is_recorded_and_it_can_be_dropped() -> None:
    network, inputs = settled(InPlace()), images(4, size=8)
    fused, other = Fused(network, state(network), inputs), zoo.another(network)
    fused.base(inputs)
    assert fused.recorded_bytes() > 0
    found = [{n: fused.logits({n: other[n]}) for n in order} for order in (sorted(other), sorted(other)[::-1])]
    assert all(distance(found[0][name], found[1][name]) < 1e-6 for name in other)
    fused.clear()
    assert fused.recorded_bytes() == 0


def test_a_variant_runs_whole_on_other_inputs_than_those_recorded() -> None:
    network, inputs = settled(build("resnet18-bn", (3, 16, 16), 10, width=0.125)), images(6, size=16)
    other, last = zoo.another(network), layers(network, "module", inputs)[-1].params[0]
    fused = Fused(network, state(network), inputs)
    recorded = fused.base(inputs[:4])
    for changes in (other, {}, {last: other[last]}):
        found = fused.whole(changes, inputs[1:])
        truth = forward(network, inputs[1:], {**state(network), **changes}).detach()
        assert distance(found, truth) < 2 * EXACT
        rough = fused.rounded().whole(changes, inputs[1:])
        assert EXACT < distance(rough, truth) < 0.05
    assert torch.equal(fused.logits({}), recorded), "what is recorded stays, of four examples"
    assert not fused.uses_base(frozenset(other))
    assert fused.uses_base(frozenset({last}))


def test_several_changes_of_a_norm_or_as_weighted_sums_have_the_logits_of_the_loop() -> None:
    network, inputs = settled(build("resnet18-bn", (3, 16, 16), 10, width=0.125)), images(4, size=16)
    params, draws = state(network), [zoo.another(network, seed) for seed in range(2)]
    fused = Fused(network, params, inputs)
    with torch.no_grad():
        for count in (4, 3):
            fused.base(inputs[:count])
            for layer in layers(network, "module", inputs)[::3]:
                names = layer.params + layer.buffers
                sources = [{name: source[name] for name in names} for source in (params, *draws)]
                for factors in ((0.5, 0.5, 0.0), (0.2, 1.0, -0.3), (0.0, 1.0, 0.0), (1.0, 0.0, 0.1)):
                    terms = list(zip(factors, sources))
                    changes = {name: sum(f * source[name] for f, source in terms) for name in names}
                    changes = {name: tensor.abs() if "var" in name else tensor for name, tensor in changes.items()}
                    given = terms if layer.kind in ("Conv2d", "Linear") else ()
                    truth = forward(network, inputs[:count], {**params, **changes})
                    assert distance(fused.logits(changes, given), truth) < 2 * EXACT


@pytest.mark.parametrize("name", ["resnet18-bn", "vgg11"])
def test_bfloat16_gives_the_logits_of_bfloat16(name: str) -> None:
    network = settled(build(name, (3, 32, 32), 10, width=0.125))
    assert worst(network, images(4), "block", counts=(4,), dtype=torch.bfloat16) < 0.05


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize(
    ("shape", "outputs", "field", "stride", "padding", "dilation"),
    [
        ((3, 33, 9, 7), 34, (3, 3), (1, 1), (1, 1), (1, 1)),
        ((70, 32, 4, 4), 48, (3, 3), (1, 1), (1, 1), (1, 1)),
        ((5, 32, 6, 9), 32, (3, 3), (1, 1), (0, 2), (1, 1)),
        ((3, 6, 2, 2), 5, (3, 3), (1, 1), (1, 1), (1, 1)),
        ((3, 6, 2, 2), 5, (3, 3), (2, 1), (1, 2), (1, 2)),
        ((3, 6, 1, 1), 5, (1, 1), (2, 2), (0, 0), (1, 1)),
    ],
)
def test_each_kernel_is_a_convolution_with_a_bias_a_sum_and_a_relu(
    kernel, shape, outputs, field, stride, padding, dilation
) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draw).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(outputs, shape[1], *field, generator=draw), torch.randn(outputs, generator=draw)
    geometry = Geometry(stride, padding, dilation, 1, x.shape, field)
    if not kernel.fits(geometry, weight):
        assert isinstance(kernel, Dense | Winograd | Patches)
        return
    truth = F.conv2d(x.double(), weight.double(), None, stride, padding, dilation)
    other = torch.randn(truth.shape, generator=draw).contiguous(memory_format=torch.channels_last)
    packed, kept = kernel.pack(geometry, weight, torch.empty), other.clone()
    for given, added, relu in ((None, None, False), (bias, None, True), (bias, other, False), (None, other, True)):
        wanted = truth + (0 if given is None else given.double().view(-1, 1, 1)) + (0 if added is None else added)
        wanted = wanted.relu() if relu else wanted
        found = kernel.run(geometry, x, packed, given, added, relu)
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() < 5e-6 * truth.abs().max()
    assert torch.equal(other, kept)


def test_winograd_errs_a_few_times_as_much_as_a_plain_convolution() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, 128, 8, 8, generator=draw).relu().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3, generator=draw)
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1, x.shape, (3, 3))
    truth = F.conv2d(x.double(), weight.double(), padding=1)
    errors = {}
    for kernel in (Plain(), OneDNN(), Winograd()):
        found = kernel.run(geometry, x, kernel.pack(geometry, weight, torch.empty), None, None, False)
        errors[type(kernel).__name__] = float((found - truth).norm() / truth.norm())
    assert errors["Winograd"] < 3e-6
    assert errors["Plain"] < errors["Winograd"] < 10 * errors["Plain"]


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(4, 1, (1, 1)), (8, 2, (1, 1)), (2, 1, (1, 0)), (5, 2, (0, 2))]
)
def test_patches_in_bfloat16_are_a_convolution_to_its_rounding(size, stride, padding) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 32, size, size, generator=draw).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(16, 32, 3, 2, generator=draw).bfloat16()
    geometry = Geometry((stride, stride), padding, (1, 1), 1, x.shape, (3, 2))
    truth = F.conv2d(x.double(), weight.double(), None, stride, padding)
    kernel, other = Patches(), torch.randn(truth.shape, generator=draw).bfloat16()
    assert kernel.fits(geometry, weight)
    packed = kernel.pack(geometry, weight, lambda count: torch.empty(count, dtype=torch.bfloat16))
    found = kernel.run(geometry, x, packed, None, other, True)
    assert (found - (truth + other).relu()).abs().max() < 2**-7 * truth.abs().max()


def test_some_rows_of_a_batch_have_the_logits_that_they_have_among_all() -> None:
    network, inputs = settled(build("resnet18-bn", (3, 16, 16), 10, width=0.125)), images(9, size=16)
    fused, other, rows = Fused(network, state(network), inputs), zoo.another(network), torch.tensor([7, 2, 3])
    fused.base(inputs)
    assert fused.picks
    for layer in layers(network):
        changes = {name: other[name] for name in layer.params}
        half = {name: 0.5 * tensor for name, tensor in changes.items()}
        whole, less = fused.logits(changes), fused.logits(half)
        found = fused.picked([(changes, rows), (half, rows[:1]), (changes, rows[1:])])
        assert [len(part) for part in found] == [3, 1, 2]
        for part, truth in zip(found, (whole[rows], less[rows[:1]], whole[rows[1:]]), strict=True):
            assert distance(part, truth) < EXACT
        assert torch.equal(fused.logits(changes), whole)
    assert torch.equal(fused.picked([({}, rows)])[0], fused.logits({})[rows])


def test_rows_of_variants_of_several_layers_are_those_of_each_variant() -> None:
    network, inputs = settled(build("resnet18-bn", (3, 16, 16), 10, width=0.125)), images(9, size=16)
    fused, other = Fused(network, state(network), inputs), zoo.another(network)
    fused.base(inputs)
    for layer in layers(network, "block", inputs):
        changes = {name: other[name] for name in layer.params}
        half = {name: 0.5 * tensor for name, tensor in changes.items()}
        found = fused.picked([(changes, torch.tensor([1, 8])), (half, torch.tensor([5, 0, 2]))])
        assert distance(found[0], fused.logits(changes)[[1, 8]]) < EXACT
        assert distance(found[1], fused.logits(half)[[5, 0, 2]]) < EXACT


class Folds(nn.Sequential):
    """Tokens of all examples as the rows of one matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view(*x.shape[:2], -1).mean(1)


def test_where_a_row_is_not_an_example_no_rows_are_picked() -> None:
    network, inputs = Folds(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval(), torch.randn(6, 2, 4)
    assert not Fused(network, state(network), inputs).picks


class Transposed(nn.Module):
    """The normalisation sees [T, N, C]: some rows of what is recorded there are not some of the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, inputs):
        return self.head(torch.tanh(self.norm(torch.tanh(self.embed(inputs)).transpose(0, 1))).mean(0))


def test_near_ties_are_run_again_on_the_right_examples_where_the_batch_is_not_the_first_dimension():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Transposed().eval()
    inputs = 0.3 * torch.randn(96, 12, 8, generator=generator)
    with torch.no_grad():
        data = Data(inputs, network(inputs).argmax(-1), classes=5)
    variants = [{"norm.weight": 1 + 0.3 * torch.randn(8, generator=generator)} for _ in range(8)]
    expected = [sums.errors for sums in Engine(network, level="loop").sums(variants, data, losses=False)]
    engine = Engine(network, level="fused", precision="bfloat16", batch_size=12, workers=1)  # as many as positions
    found = [sums.errors for sums in engine.sums(variants, data, losses=False, planned=10**8)]
    assert "bfloat16" in engine.choice
    assert found == expected


def test_logits_may_stand_where_those_of_the_last_variant_stood() -> None:
    network, other = (build("decoder-2x16", (6,), 12, seed=seed).eval() for seed in range(2))
    inputs, changed = torch.arange(18).view(3, 6) % 12, state(other)
    with torch.no_grad():
        fused = Fused(network, state(network), inputs)
        recorded = fused.base(inputs).clone()
        places = set()
        for layer in layers(network):
            changes = {name: changed[name] for name in layer.params}
            found = fused.logits(changes, overwrite=True)
            assert torch.equal(found, forward(network, inputs, {**state(network), **changes}))
            places.add(found.data_ptr())
        assert len(places) == 1
        assert torch.equal(fused.logits({}), recorded)
        kept = fused.logits(changes)
        assert kept.data_ptr() not in places, "only where that is asked for"


def test_a_graph_of_the_networks_own_operations_leaves_nothing_near_a_tie_to_the_loop(monkeypatch) -> None:
    network, changed = build("decoder-2x16", (6,), 12, seed=0), state(build("decoder-2x16", (6,), 12, seed=1))
    with torch.no_grad():
        network.prediction.weight[1::2] = network.prediction.weight[::2]  # so that every label ties with another one
    tokens = torch.randint(12, (40, 7), generator=torch.Generator().manual_seed(0))
    data = Data(tokens[:, :-1], tokens[:, 1:], 12)
    variants = [{}, *({name: changed[name] for name in layer.params} for layer in layers(network)[:-1])]
    expected = Engine(network, level="loop", batch_size=20).sums(variants, data)
    engine = Engine(network, level="fused", batch_size=20, workers=1)
    again = []
    monkeypatch.setattr(Batch, "_whole", lambda self, *args: again.append(args))
    assert engine.sums(variants, data) == expected
    assert "bit-identical" in engine.choice.rpartition("fused")[2]
    assert not again


def test_what_is_near_a_tie_and_runs_again_counts_in_the_choice_of_the_graph(monkeypatch) -> None:
    network = settled(build("resnet18-bn", (3, 16, 16), 10, width=0.125))
    with torch.no_grad():
        network.final_linear.weight[1::2] = network.final_linear.weight[::2]
        network.final_linear.bias[1::2] = network.final_linear.bias[::2]
    data, other = Data(images(40, size=16), torch.zeros(40, dtype=torch.long), 10), zoo.another(network)
    variants = [{name: other[name] for name in layer.params} for layer in layers(network, "block", data.inputs)[1:4]]
    engine = Engine(network, batch_size=20, workers=1)
    monkeypatch.setattr(Levels, "_again", lambda *args: 100.0)
    engine.sums(variants, data, planned=10**8)
    assert "fused" not in engine.choice
    assert engine._levels.workers[0].fused is not None, "it was tried"
