"""One epoch against hand-computed steps; evaluation against one big batch; what is frozen stays."""

from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shaketable.data import Augmentation, Data
from shaketable.errors import InputError
from shaketable.params import snapshot
from shaketable.training import Recipe
from shaketable.training.loop import Trainer

W0 = [[0.5, -0.25], [0.125, 1.0]]


def two_examples():
    return Data(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([0, 1]), 2)


def linear():
    network = nn.Linear(2, 2, bias=False)
    network.weight.data = torch.tensor(W0)
    return network


def gradient(weight):
    """Of the mean cross-entropy of the two examples: (softmax - one-hot)' x / 2."""
    data = two_examples()
    inputs = data.inputs.double()
    return (torch.softmax(inputs @ weight.T, 1) - torch.eye(2, dtype=torch.float64)).T @ inputs / 2


def test_sgd_steps_are_the_closed_form_with_momentum_and_weight_decay():
    recipe = Recipe(learning_rate=0.1, momentum=0.9, weight_decay=0.01, milestones=(1,), factor=0.5, epochs=3)
    network = linear()
    trainer = Trainer(recipe, network, two_examples())
    weight, velocity = torch.tensor(W0, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    for epoch, rate in ((1, 0.1), (2, 0.05), (3, 0.05)):
        trainer.epoch(epoch)
        velocity = 0.9 * velocity + gradient(weight) + 0.01 * weight
        weight = weight - rate * velocity
        torch.testing.assert_close(network.weight.double(), weight, rtol=1e-6, atol=1e-7)


def test_adam_steps_are_the_closed_form_with_weight_decay_in_the_gradient():
    recipe = Recipe(optimiser="adam", learning_rate=0.01, momentum=0.8, weight_decay=0.1, epochs=3)
    network = linear()
    trainer = Trainer(recipe, network, two_examples())
    weight = torch.tensor(W0, dtype=torch.float64)
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in (1, 2, 3):
        trainer.epoch(step)
        slope = gradient(weight) + 0.1 * weight
        first = 0.8 * first + 0.2 * slope
        second = 0.999 * second + 0.001 * slope**2
        weight = weight - 0.01 * (first / (1 - 0.8**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.testing.assert_close(network.weight.double(), weight, rtol=1e-5, atol=1e-6)


def uphill(weight, rho):
    """The point of SAM: at distance rho from the weight, along its gradient."""
    slope = gradient(weight)
    return weight + rho * slope / slope.square().sum().sqrt()


def test_sam_takes_the_sgd_step_with_the_gradient_from_uphill_and_the_decay_from_where_it_is():
    recipe = Recipe(learning_rate=0.1, momentum=0.9, weight_decay=0.01, sam_rho=0.5, milestones=(), epochs=3)
    network = linear()
    trainer = Trainer(recipe, network, two_examples())
    weight, velocity = torch.tensor(W0, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    for epoch in (1, 2, 3):
        trainer.epoch(epoch)
        velocity = 0.9 * velocity + gradient(uphill(weight, 0.5)) + 0.01 * weight
        weight = weight - 0.1 * velocity
        torch.testing.assert_close(network.weight.double(), weight, rtol=1e-6, atol=1e-7)


def test_sam_takes_the_adam_step_with_the_gradient_from_uphill():
    recipe = Recipe(optimiser="adam", learning_rate=0.01, momentum=0.8, sam_rho=0.5, epochs=3)
    network = linear()
    trainer = Trainer(recipe, network, two_examples())
    weight = torch.tensor(W0, dtype=torch.float64)
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in (1, 2, 3):
        trainer.epoch(step)
        slope = gradient(uphill(weight, 0.5))
        first = 0.8 * first + 0.2 * slope
        second = 0.999 * second + 0.001 * slope**2
        weight = weight - 0.01 * (first / (1 - 0.8**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.testing.assert_close(network.weight.double(), weight, rtol=1e-5, atol=1e-6)


def test_the_norm_of_sam_is_that_of_all_trained_parameters_and_what_is_frozen_stays_in_both_passes():
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    before, data = snapshot(network), two_examples()

    def loss(trained):
        logits = torch.func.functional_call(network, {**before, **trained}, data.inputs)
        return F.cross_entropy(logits, data.labels)

    trained = {name: value for name, value in before.items() if not name.startswith("2.")}
    slope = torch.func.grad(loss)(trained)
    length = sum(g.square().sum() for g in slope.values()).sqrt()
    expected = torch.func.grad(loss)({name: value + 0.7 * slope[name] / length for name, value in trained.items()})
    recipe = Recipe(learning_rate=0.1, momentum=0.0, sam_rho=0.7, frozen=("2",))
    Trainer(recipe, network, data).epoch(1)
    for name, value in snapshot(network).items():
        step = before[name] - 0.1 * expected[name] if name in expected else before[name]
        torch.testing.assert_close(value, step, rtol=1e-5, atol=1e-6)


def test_sam_updates_running_statistics_once_a_step_with_those_of_the_first_pass():
    def statistics(rho):
        network = with_norm()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.arange(1.0, parameter.numel() + 1).reshape(parameter.shape) / 10)
        Trainer(Recipe(sam_rho=rho), network, numbers()).epoch(1)  # one batch: one step
        assert int(network[1].num_batches_tracked) == 1
        return network[1].running_mean, network[1].running_var, network[0].weight.detach()

    plain, sharp = statistics(0.0), statistics(0.5)
    assert torch.equal(plain[0], sharp[0])
    assert torch.equal(plain[1], sharp[1])
    assert not torch.equal(plain[2], sharp[2])


def test_both_passes_of_sam_drop_the_same_units_and_the_next_step_others():
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.linear, self.seen = nn.Dropout(0.5), nn.Linear(20, 2), []

        def forward(self, inputs):
            kept = self.drop(torch.ones(len(inputs), 20))
            self.seen.append(kept[0].tolist())
            return self.linear(kept * inputs)

    network = Drops()
    Trainer(Recipe(sam_rho=0.1, batch_size=5), network, numbers()).epoch(1)
    first, second, third, fourth = network.seen
    assert first == second
    assert third == fourth
    assert first != third


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sam_in_mixed_precision_is_near_float32(precision):
    data = two_examples()
    data = Data(data.inputs / 8, data.labels, 2)  # gradients that the first scale of 65536 takes into float16

    def trained(precision):
        network = linear()
        trainer = Trainer(Recipe(precision=precision, sam_rho=0.5), network, data)
        for epoch in (1, 2, 3):
            trainer.epoch(epoch)
        return network.weight.detach()

    assert not torch.equal(trained(precision), torch.tensor(W0))
    torch.testing.assert_close(trained(precision), trained("float32"), rtol=0.01, atol=0.002)


def test_sam_at_a_flat_point_stays_there():
    network = nn.Linear(1, 2)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.zero_()
    data = Data(torch.ones(2, 1), torch.tensor([0, 1]), 2)  # one example of each class: the gradient is 0
    Trainer(Recipe(sam_rho=0.5), network, data).epoch(1)
    assert not network.weight.any()
    assert not network.bias.any()


class Recorder(nn.Module):
    """A linear network that notes the first feature of what it sees in training."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2)
        self.seen = []

    def forward(self, inputs):
        if self.training:
            self.seen.append(inputs[:, 0].tolist())
        return self.linear(inputs)


def numbers(count=10):
    return Data(torch.arange(float(count)).reshape(-1, 1), torch.arange(count) % 2, 2)


def test_every_example_is_seen_once_an_epoch_in_a_new_order_and_the_ragged_batch_is_kept():
    network = Recorder()
    trainer = Trainer(Recipe(batch_size=4), network, numbers())
    trainer.epoch(1)
    trainer.epoch(2)
    assert [len(batch) for batch in network.seen] == [4, 4, 2] * 2
    first, second = list(chain(*network.seen[:3])), list(chain(*network.seen[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    def order(seed, epoch):
        network = Recorder()
        Trainer(Recipe(seed=seed), network, numbers()).epoch(epoch)
        return network.seen

    expected = order(3, 5)
    torch.rand(7)
    assert order(3, 5) == expected
    assert order(4, 5) != expected


def test_the_running_loss_is_the_mean_over_examples_of_ragged_batches():
    recipe = Recipe(learning_rate=1e-30, momentum=0.0, batch_size=4)
    network, data = nn.Linear(1, 2), numbers()
    expected = F.cross_entropy(network(data.inputs), data.labels).item()
    assert Trainer(recipe, network, data).epoch(1) == pytest.approx(expected, rel=1e-6)


def test_positions_without_a_label_do_not_count_in_the_running_loss():
    network = nn.Embedding(3, 3)
    network.weight.data = 5 * torch.eye(3)
    tokens = torch.tensor([[0, 1], [2, 0]])
    data = Data(tokens, torch.tensor([[0, -100], [1, -100]]), 3)
    right = F.cross_entropy(torch.tensor([[5.0, 0, 0]]), torch.tensor([0])).item()
    assert Trainer(Recipe(learning_rate=1e-30), network, data).epoch(1) == pytest.approx(right + 2.5, rel=1e-6)


def test_dropout_is_a_function_of_seed_and_epoch_and_the_global_random_state_is_left_alone():
    def weights():
        network = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 2))
        network[1].weight.data.fill_(0.5)
        network[1].bias.data.zero_()
        Trainer(Recipe(), network, numbers()).epoch(1)
        return network[1].weight

    expected = weights()
    torch.rand(3)
    before = torch.get_rng_state()
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 2))
    torch.set_rng_state(before)
    trainer = Trainer(Recipe(), network, numbers())
    trainer.epoch(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(), expected)


def with_norm():
    return nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def test_a_frozen_layer_is_bit_identical_after_training_with_weight_decay_and_its_statistics_too():
    network = with_norm()
    before = snapshot(network)
    Trainer(Recipe(frozen=("0",), weight_decay=0.1, batch_size=4), network, numbers()).epoch(1)
    after = snapshot(network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"3.weight", "3.bias"}


def test_a_frozen_module_leaves_the_normalisation_behind_it_free():
    network = with_norm()
    before = snapshot(network)
    Trainer(Recipe(frozen=("3",), batch_size=4), network, numbers()).epoch(1)
    assert torch.equal(before["3.weight"], network[3].weight)
    assert not torch.equal(before["1.running_mean"], network[1].running_mean)


def test_an_unknown_frozen_layer_is_answered_with_the_closest():
    network = nn.Sequential()
    network.add_module("layer1", nn.Linear(1, 2))
    with pytest.raises(InputError, match=r"'layer_1'.*did you mean 'layer1'"):
        Trainer(Recipe(frozen=("layer_1",)), network, numbers())


def test_a_network_that_is_frozen_whole_is_refused():
    with pytest.raises(InputError, match="at least one"):
        Trainer(Recipe(frozen=("0", "3")), with_norm(), numbers())


def test_a_batch_of_one_example_before_a_batch_norm_is_refused_with_a_way_out():
    with pytest.raises(InputError, match="batch_size"):
        Trainer(Recipe(batch_size=3), with_norm(), numbers(10)).epoch(1)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_near_float32_with_weights_in_float32(precision):
    data = two_examples()
    data = Data(data.inputs / 8, data.labels, 2)  # gradients that the first scale of 65536 takes into float16

    def trained(precision):
        network = linear()
        trainer = Trainer(Recipe(precision=precision), network, data)
        for epoch in (1, 2, 3):
            trainer.epoch(epoch)
        return network.weight.detach()

    assert trained(precision).dtype == torch.float32
    assert not torch.equal(trained(precision), trained("float32"))
    torch.testing.assert_close(trained(precision), trained("float32"), rtol=0.01, atol=0.001)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_float16_step_that_overflows_is_left_out_and_the_scale_is_found_again_on_restoring(optimiser):
    recipe = Recipe(optimiser=optimiser, precision="float16", learning_rate=0.001)
    network = linear()
    trainer = Trainer(recipe, network, two_examples())
    trainer.epoch(1)
    assert trainer.scaler.get_scale() == 32768
    assert torch.equal(network.weight, torch.tensor(W0))

    other = linear()
    restored = Trainer(recipe, other, two_examples())
    restored.restore(trainer.optimiser_tensors(), trainer.scaler.state_dict())
    exact = linear()
    float32 = Trainer(recipe.replace(precision="float32"), exact, two_examples())
    for epoch in (2, 3):
        for each in (trainer, restored, float32):
            each.epoch(epoch)
    assert torch.equal(other.weight, network.weight)
    assert not torch.equal(exact.weight, torch.tensor(W0))
    torch.testing.assert_close(network.weight, exact.weight, rtol=0, atol=2e-5)


def test_augmentation_is_drawn_anew_each_epoch_and_does_not_touch_the_data():
    class Sees(Recorder):
        def forward(self, inputs):
            return super().forward(inputs.flatten(1)[:, :1])

    data = Data(torch.arange(16.0).reshape(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]), 2)
    before = data.inputs.clone()
    network = Sees()
    trainer = Trainer(Recipe(), network, data, Augmentation(("shift:1",), (-9.0,)))
    trainer.epoch(1)
    trainer.epoch(2)
    assert sorted(network.seen[0]) != sorted(network.seen[1])
    assert -9.0 in chain(*network.seen)
    assert torch.equal(data.inputs, before)
