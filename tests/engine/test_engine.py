"""The engine's answers are the plain loop's: every layer, every level, ragged batches, any chunk size."""

import logging
from contextlib import suppress

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as some
from tests.engine.architectures import ARCHITECTURES
from tests.engine.random_networks import Plan, network_of, plans
from tests.engine.zoo import CASES, MIXES_EXAMPLES, STOCHASTIC, another, seeded
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.engine import Combination, Engine, decide, errors
from shaketable.errors import InputError, RunError
from shaketable.evaluate import evaluate
from shaketable.forward import forward, map_inputs, tensors_of
from shaketable.networks import build
from shaketable.params import layers, snapshot, state
from shaketable.study import Study

QUIETLY = {"deadline": None, "derandomize": True, "database": None, "phases": (Phase.explicit, Phase.generate)}


def variants_of(network: nn.Module, inputs, by="module", seeds=(0,)) -> list[dict[str, Tensor]]:
    """One variant a layer and seed: other parameters, and other running statistics."""
    found = layers(network, by, inputs)
    others = [another(network, seed) for seed in seeds]
    return [{name: other[name] for name in layer.params + layer.buffers} for layer in found for other in others]


def loop(network: nn.Module, inputs, variant) -> Tensor:
    """The reference: one call of the whole network with the changed tensors."""
    with torch.no_grad():
        return forward(network, map_inputs(torch.clone, inputs), {**state(network), **variant})


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def check_every_layer(make, **options) -> Engine:
    network, inputs = make()
    engine = Engine(network, batch_size=1000, workers=1, **options)
    variants = [{}, *variants_of(network, inputs), *variants_of(network, inputs, "block", seeds=(1,))]
    for variant, found in zip(variants, engine.logits(variants, inputs), strict=True):
        assert same(found, loop(network, inputs, variant)), sorted(variant)
    return engine


@pytest.mark.parametrize("name", CASES)
def test_every_layer_of_a_hard_network_has_the_logits_of_the_loop_bit_for_bit(name):
    check_every_layer(CASES[name])


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.usefixtures("transformers")
def test_every_layer_of_an_architecture_that_others_wrote_has_the_logits_of_the_loop_bit_for_bit(name):
    engine = check_every_layer(ARCHITECTURES[name])
    assert "level replay" in engine.choice
    assert "the loop for" not in engine.choice


@settings(max_examples=60, **QUIETLY)
@given(plan=plans())
def test_every_layer_of_a_random_network_is_replayed_bit_for_bit(plan: Plan):
    check_every_layer(lambda: network_of(plan), level="replay")


@settings(max_examples=25, **QUIETLY)
@given(plan=plans(), batch_size=some.integers(1, 9), workers=some.integers(1, 3), seed=some.integers(0, 99))
def test_errors_and_loss_are_those_of_the_loop_for_any_chunk_size_and_number_of_workers(
    plan, batch_size, workers, seed
):
    network, inputs = network_of(plan)
    drawn = torch.Generator().manual_seed(seed)
    count = len(next(iter(tensors_of(inputs).values())))
    rows = torch.randint(count, (23,), generator=drawn)
    inputs = map_inputs(lambda tensor: tensor[rows], inputs)
    with torch.no_grad():
        shape = forward(network, inputs).shape
    data = Data(inputs, torch.randint(shape[-1], shape[:-1], generator=drawn), shape[-1])
    variants = variants_of(network, inputs)
    found = Engine(network, batch_size=batch_size, workers=workers).sums(variants, data)
    for variant, sums in zip(variants, found, strict=True):
        expected = evaluate(network, {**state(network), **variant}, data, batch_size)
        assert (sums.examples, sums.errors, sums.not_finite) == (
            expected.examples,
            expected.errors,
            expected.not_finite,
        )
        assert sums.loss == pytest.approx(expected.loss, rel=1e-5)


def check_folded(make) -> Engine:
    network, inputs = make()
    engine = Engine(network, level="vmap", batch_size=1000, workers=1)
    variants = variants_of(network, inputs, seeds=range(5))
    for variant, found in zip(variants, engine.logits(variants, inputs), strict=True):
        expected = loop(network, inputs, variant)
        scale = expected.nan_to_num(0, 0, 0).abs().max().item()
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * scale, equal_nan=True), sorted(variant)
    return engine


@pytest.mark.parametrize("name", CASES)
def test_variants_folded_together_have_the_logits_of_the_loop_to_rounding(name):
    check_folded(CASES[name])


@settings(max_examples=30, **QUIETLY)
@given(plan=plans())
def test_variants_of_a_random_network_folded_together_have_the_logits_of_the_loop_to_rounding(plan: Plan):
    assert "vmap for" in check_folded(lambda: network_of(plan)).choice


def settled_by(make, **options) -> Engine:
    """An engine whose errors were those of the loop, on examples some of which are near ties."""
    network, inputs = make()
    with torch.no_grad():
        shape = forward(network, map_inputs(torch.clone, inputs)).shape
    data = Data(inputs, torch.randint(shape[-1], shape[:-1], generator=torch.Generator().manual_seed(0)), shape[-1])
    engine = Engine(network, batch_size=1000, workers=1, **options)
    variants = variants_of(network, inputs, seeds=range(2))
    losses = options.get("precision") != "bfloat16"
    for variant, sums in zip(variants, engine.sums(variants, data, losses=losses), strict=True):
        expected = evaluate(network, {**state(network), **variant}, data, 1000)
        assert (sums.examples, sums.errors, sums.not_finite) == (
            expected.examples,
            expected.errors,
            expected.not_finite,
        )
        assert not losses or sums.loss == pytest.approx(expected.loss, rel=1e-4, nan_ok=True)
    return engine


def wide(make):
    """The same network with 150 examples, drawn as its own were."""

    def made():
        network, inputs = make()
        drawn = torch.Generator().manual_seed(1)
        count = len(next(iter(tensors_of(inputs).values())))
        rows = torch.randint(count, (150,), generator=drawn)

        def more(tensor):
            picked = tensor[rows]
            return picked + 0.3 * torch.randn(picked.shape, generator=drawn) if picked.is_floating_point() else picked

        return network, map_inputs(more, inputs)

    return made


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@settings(max_examples=12, **QUIETLY)
@given(plan=plans())
def test_errors_of_random_networks_on_a_traced_graph_are_those_of_the_loop(precision, plan: Plan):
    with suppress(RunError):  # a graph of operations that it does not know
        settled_by(wide(lambda: network_of(plan)), level="fused", precision=precision)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "arguments"), [("resnet18-bn", {"width": 0.125}), ("vgg11", {"width": 0.125}), ("fcn-3x64", {})]
)
def test_errors_of_our_networks_on_a_traced_graph_are_those_of_the_loop(name, arguments, precision):
    def make():
        network = build(name, (3, 32, 32), 10, **arguments).eval()
        return network, torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    engine = settled_by(make, level="fused", precision=precision)
    assert "fused for" in engine.choice
    assert ("in bfloat16, near ties again in float32" in engine.choice) == (precision == "bfloat16")


@settings(max_examples=25, **QUIETLY)
@given(plan=plans())
def test_errors_of_random_networks_by_replay_in_bfloat16_are_those_of_the_loop(plan: Plan):
    settled_by(wide(lambda: network_of(plan)), precision="bfloat16")


@pytest.mark.parametrize("name", [name for name in CASES if name not in MIXES_EXAMPLES])
@pytest.mark.slow
def test_errors_of_the_zoo_by_replay_in_bfloat16_are_those_of_the_loop(name):
    settled_by(CASES[name], precision="bfloat16")


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_network_that_draws_random_numbers_goes_to_the_loop_repeats_and_leaves_the_random_state(name):
    network, inputs = STOCHASTIC[name]()
    variants, random = variants_of(network, inputs), torch.get_rng_state()
    engine = Engine(network)
    once = engine.logits(variants, inputs)
    assert torch.equal(random, torch.get_rng_state())
    assert all(map(same, once, engine.logits(variants, inputs)))
    assert "draws random numbers" in engine.choice


def digits_like(examples: int = 40) -> tuple[nn.Module, Data]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 3)).eval()
    return network, Data(torch.randn(examples, 5), torch.randint(3, (examples,)), classes=3)


def test_class_counts_and_margins_are_those_of_a_reference_in_float64():
    network, data = digits_like()
    variant = {"3.weight": torch.randn(3, 8)}
    (sums,) = Engine(network, batch_size=7).sums([variant], data, per_class=True, margins=True)
    logits = loop(network, data.inputs, variant).double()
    wrong = logits.argmax(1) != data.labels
    assert sums.class_examples == tuple((data.labels == c).sum().item() for c in range(3))
    assert sums.class_errors == tuple((wrong & (data.labels == c)).sum().item() for c in range(3))
    assert sums.class_error[1] == sums.class_errors[1] / sums.class_examples[1]
    picked = logits[range(40), data.labels]
    others = logits.masked_fill(nn.functional.one_hot(data.labels, 3).bool(), -torch.inf).amax(1)
    assert sums.mean_margin == pytest.approx((picked - others).mean().item(), rel=1e-5)


def test_a_span_is_those_examples_alone():
    network, data = digits_like()
    (part,) = Engine(network).sums([{"3.bias": torch.ones(3)}], data, span=(5, 30))
    assert (
        part.errors == evaluate(network, {**state(network), "3.bias": torch.ones(3)}, data.subset(range(5, 30))).errors
    )
    assert part.examples == 25


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_that_runs_out_halves_the_chunk_with_a_line_of_log_and_the_same_result(workers, caplog, monkeypatch):
    network, data = digits_like()
    variants = variants_of(network, data.inputs, seeds=(0, 1))
    expected = Engine(network, batch_size=16).sums(variants, data)

    real = nn.functional.linear

    def scarce(x, *rest):
        if len(x) > 9:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return real(x, *rest)

    monkeypatch.setattr(nn.functional, "linear", scarce)
    engine = Engine(network, batch_size=16, workers=workers)
    with caplog.at_level(logging.WARNING, "shaketable.engine"):
        found = engine.sums(variants, data)
    assert [sums.errors for sums in found] == [sums.errors for sums in expected]
    assert [sums.loss for sums in found] == pytest.approx([sums.loss for sums in expected])
    assert "memory ran out with 16 examples in flight; 8 from now on" in caplog.messages


def test_memory_too_small_for_one_example_is_the_original_error(monkeypatch):
    network, data = digits_like()

    def scarce(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = Engine(network, level="loop")
    monkeypatch.setattr(nn.functional, "linear", scarce)
    with pytest.raises(torch.OutOfMemoryError):
        engine.sums([{"3.bias": torch.ones(3)}], data)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("level", ["auto", "loop"])
@pytest.mark.parametrize("workers", [1, 2])
def test_after_an_interruption_the_network_hooks_modes_and_random_state_are_as_before(stop, level, workers):
    network, data = digits_like()
    network[1].train()
    handle = network[3].register_forward_hook(lambda module, args, output: output)
    kept, modes = snapshot(network), [module.training for module in network.modules()]
    attributes = [dict(vars(module)) for module in network.modules()]
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    calls = []

    def function(logits, labels):
        calls.append(len(labels))
        if len(calls) == 6:
            raise stop("in the middle")
        return 0

    engine = Engine(network, level=level, batch_size=5, workers=workers)
    with pytest.raises(stop):
        list(engine.map(variants_of(network, data.inputs), data, function))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state(network).items())
    assert [module.training for module in network.modules()] == modes
    assert [dict(vars(module)) for module in network.modules()] == attributes
    assert list(network[3]._forward_hooks) == [handle.id]
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert engine.sums([{}], data)[0].examples == 40  # and it goes on


def test_a_combination_has_the_logits_of_its_sum_and_near_ties_are_settled_by_the_loop():
    network, data = digits_like(200)
    layer = layers(network, "module", data.inputs)[0]
    one, two = ({name: another(network, seed)[name] for name in layer.params} for seed in (0, 1))
    variants = [Combination([(1 - a, one), (a, two)]) for a in (0, 0.25, 1)]
    engine = Engine(network, batch_size=64)
    for variant, logits in zip(variants, engine.logits(variants, data.inputs), strict=True):
        expected = loop(network, data.inputs, variant.tensors())
        assert torch.allclose(logits, expected, rtol=1e-5, atol=1e-5)
    tie = {"3.weight": torch.zeros(3, 8), "3.bias": torch.tensor([1.0, 1.0, 0.0])}
    unequal = {"3.weight": torch.zeros(3, 8), "3.bias": torch.tensor([1.0, 1.0 + 2**-22, 0.0])}
    variants = [Combination([(0.1, tie), (0.9, unequal)]), Combination([(0.3, tie), (0.7, tie)])]
    for variant, sums in zip(variants, engine.sums(variants, data), strict=True):
        assert sums.errors == evaluate(network, {**state(network), **variant.tensors()}, data).errors


def test_a_combination_runs_its_layer_once_a_term_and_not_once_a_variant(monkeypatch):
    network, data = digits_like(30)
    layer = layers(network, "module", data.inputs)[0]
    one, two = ({name: another(network, seed)[name] for name in layer.params} for seed in (0, 1))
    variants = [Combination([(1 - a / 50, one), (a / 50, two)]) for a in range(50)]
    engine = Engine(network, level="replay", batch_size=30, workers=1)
    engine.sums(variants[:1], data)
    ran, real = [], nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *args: ran.append(args[1].shape) or real(*args))
    engine.sums(variants, data)
    assert ran.count((8, 5)) < 10  # the base pass, each term, and what settles near ties
    assert ran.count((3, 8)) >= 50


def test_a_study_that_shares_and_its_engine_hold_no_second_copy_of_the_network():
    network, data = digits_like()
    study = Study(network, test=data, share=True)
    engine = Engine(study.network, study.final, workers=2)
    engine.sums([{"3.bias": torch.ones(3)}], data)
    own = {name: parameter.data_ptr() for name, parameter in network.named_parameters()}
    for tensors in (study.final, engine.params, *(worker.replay.replica.base for worker in engine._levels.workers)):
        assert {name: tensors[name].data_ptr() for name in own} == own
    assert len(engine._levels.workers) == 2
    with pytest.raises(InputError, match="share=True takes the network's own weights"):
        Study(network, final=study.final, test=data, share=True)


def test_a_level_that_is_forced_says_why_it_cannot():
    network, inputs = CASES["counts_its_calls_in_a_buffer"]()
    with pytest.raises(RunError, match="cannot carry this network: it writes its weights or buffers"):
        Engine(network, level="replay").logits(variants_of(network, inputs), inputs)
    engine = Engine(network, level="loop")
    engine.logits(variants_of(network, inputs), inputs)
    assert engine.choice == "level loop, as asked"
    network, inputs = CASES["branch_on_data"]()
    with pytest.raises(RunError, match="level='fused' cannot carry this network"):
        Engine(network, level="fused").logits(variants_of(network, inputs), inputs)


def test_one_line_of_log_says_which_level_and_why(caplog):
    network, data = digits_like()
    with caplog.at_level(logging.INFO, "shaketable.engine"):
        Engine(network).sums(variants_of(network, data.inputs), data)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("level replay for 3 of 3 layers, logits bit-identical")


def test_the_batch_follows_from_the_memory_budget():
    network, data = digits_like()
    engine = Engine(network, memory=5_000, workers=1)
    sizes = [size for size, _ in engine.map(variants_of(network, data.inputs), data, lambda logits, labels: None)]
    assert 1 < max(sizes) < 40
    assert sum(sizes) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "fastest"}, "level='fastest': use one of"),
        ({"memory": 0}, "memory=0: give the budget in bytes"),
        ({"batch_size": 0}, "batch_size=0: give a whole number from 1"),
        ({"workers": True}, "workers=True: give a whole number from 1"),
        ({"params": {"4.weight": torch.ones(1)}}, "changes '4.weight', which the network does not have"),
    ],
)
def test_bad_arguments_are_one_clear_error(arguments, message):
    with pytest.raises(InputError, match=message):
        Engine(digits_like()[0], **arguments)


def test_a_variant_that_does_not_fit_is_one_clear_error():
    network, data = digits_like()
    with pytest.raises(InputError, match=r"variant 1: '3.bias' is \[2\], the network's has \[3\]"):
        Engine(network).sums([{}, {"3.bias": torch.ones(2)}], data)
    with pytest.raises(InputError, match="same names"):
        Combination([(1, {"a": torch.ones(1)}), (1, {"b": torch.ones(1)})])


@pytest.mark.parametrize("name", [name for name in CASES if name not in MIXES_EXAMPLES])
@pytest.mark.slow
def test_workers_with_ragged_batches_give_the_logits_of_the_loop(name):
    network, inputs = CASES[name]()
    variants = variants_of(network, inputs)
    for variant, found in zip(variants, Engine(network, batch_size=4, workers=2).logits(variants, inputs), strict=True):
        expected = loop(network, inputs, variant)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item(), equal_nan=True)


def test_layers_that_speak_through_global_state_are_left_to_one_thread():
    network, inputs = CASES["global_state"]()
    found = variants_of(network, inputs, seeds=range(8))
    spoken = [variant for variant in found if any("writer" in name for name in variant)]  # replay carries these
    for _ in range(10):
        engine = Engine(network, batch_size=1, workers=2)
        for variant, logits in zip(spoken, engine.logits(spoken, inputs), strict=True):
            assert torch.allclose(logits, loop(network, inputs, variant), rtol=1e-4, atol=1e-4)
        assert "replay" in engine.choice


class Peak(nn.Module):
    """Remembers the largest value that it saw, as observers of quantisation do, and uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("peak", torch.tensor(50.0))

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max() > self.peak:
            self.peak.copy_(x.abs().max())
        return x / self.peak


def test_a_buffer_that_only_one_variant_writes_changes_no_other_answer():
    network, data = digits_like()
    network = nn.Sequential(network[0], Peak(), *network[1:]).eval()
    with torch.no_grad():
        network[2].running_mean.fill_(0.02)
    weights = [network[0].weight.detach() * factor for factor in (1.1, 300, 0.9)]
    variants = [*({"0.weight": weight} for weight in weights), {}, {"1.peak": torch.tensor(0.5)}]
    peak = variants[-1]["1.peak"].clone()
    for workers in (1, 2):
        found = Engine(network, batch_size=10, workers=workers).sums(variants, data)
        for variant, sums in zip(variants, found, strict=True):
            assert sums.loss == pytest.approx(evaluate(network, {**state(network), **variant}, data, 10).loss, rel=1e-6)
    assert torch.equal(variants[-1]["1.peak"], peak)
    assert network[1].peak == 50


def test_while_an_iteration_is_open_the_network_answers_as_always_and_the_engine_starts_no_other():
    network, data = digits_like(400)
    variants = variants_of(network, data.inputs, seeds=range(3))
    expected, random = network(data.inputs).detach(), torch.get_rng_state()
    engine = Engine(network, batch_size=10, workers=2)
    for _ in engine.map(variants, data, lambda logits, labels: None):
        assert torch.equal(network(data.inputs), expected)
        assert torch.equal(torch.get_rng_state(), random)
        with pytest.raises(InputError, match="at work already"):
            engine.sums(variants, data)
    assert len(engine.sums(variants, data)) == len(variants)


def test_weights_that_changed_in_place_are_one_clear_error():
    network, data = digits_like()
    engine = Engine(network)
    engine.sums([{"3.bias": torch.ones(3)}], data)
    with torch.no_grad():
        network[0].weight.mul_(2)
    with pytest.raises(InputError, match="weights changed since this engine was made"):
        engine.sums([{"3.bias": torch.ones(3)}], data)
    with pytest.raises(InputError, match="weights changed since this engine was made"):
        engine.rebased({"3.bias": torch.ones(3)})


def of_three_layers() -> nn.Module:
    with seeded("three layers"):
        return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("level", ["replay", "vmap", "fused"])
def test_an_answer_that_is_a_view_of_logits_is_not_that_of_the_next_variant(level):
    network, inputs = of_three_layers(), torch.randn(50, 6)
    data, variants = Data(inputs, torch.zeros(50, dtype=torch.long), 3), [{}, variants_of(network, inputs)[1]]
    variants += [{name: tensor * factor for name, tensor in variants[1].items()} for factor in (-3, 5)]
    expected = [loop(network, inputs, variant)[:, 0] for variant in variants]

    def first(logits: Tensor, labels: Tensor) -> Tensor:
        return logits[:, 0]

    ((_, found),) = Engine(network, level=level, workers=1).map(variants, data, first)
    for values, truth in zip(found, expected, strict=True):
        assert torch.allclose(values, truth, 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("level", "precision"), [("replay", "auto"), ("vmap", "auto"), ("fused", "float32"), ("fused", "bfloat16")]
)
def test_parameters_that_need_gradients_are_variants_and_a_base_as_others_are(level, precision, caplog):
    network, inputs = of_three_layers(), torch.randn(50, 6)
    data = Data(inputs, torch.arange(50) % 3, 3)
    variants = [{name: nn.Parameter(tensor) for name, tensor in one.items()} for one in variants_of(network, inputs)]
    base = {"4.bias": nn.Parameter(torch.ones(3))}
    engine, truth = Engine(network, level=level, precision=precision), Engine(network, level="loop")
    for one, other in ((engine, truth), (engine.rebased(base), truth.rebased(base))):
        found, expected = (which.sums(variants, data, losses=False) for which in (one, other))
        assert [sums.errors for sums in found] == [sums.errors for sums in expected]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_a_combination_whose_terms_cancel_is_summed_before_it_runs():
    network, data = digits_like(300)
    names = ("0.weight", "0.bias")
    large = {name: torch.full_like(state(network)[name], 1e5) for name in names}
    shifted = {name: large[name] - another(network)[name] for name in names}
    cancelling = Combination([(1, large), (-1, shifted)])
    assert not cancelling.is_steady
    engine = Engine(network)
    for variant, found in zip([cancelling], engine.logits([cancelling], data.inputs), strict=True):
        assert same(found, loop(network, data.inputs, variant.tensors()))
    assert "level replay for 1 of 1 layers" in engine.choice


def test_tokens_that_are_all_left_out_in_a_span_count_nothing():
    network = nn.Embedding(3, 3).eval()
    labels = torch.tensor([[-100, -100]] * 4 + [[1, -100]] * 4)
    data = Data(torch.zeros(8, 2, dtype=torch.int64), labels, classes=3)
    (none,) = Engine(network).sums([{"weight": torch.eye(3)}], data, span=(0, 4))
    (all_of_them,) = Engine(network).sums([{"weight": torch.eye(3)}], data)
    assert (none.examples, all_of_them.examples, all_of_them.errors) == (0, 4, 4)


def test_sequences_of_another_length_are_replayed_too():
    network = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)).eval()
    engine, variants = Engine(network, workers=1), [{"1.bias": torch.arange(9.0)}]
    sizes = []
    for length in (3, 300):
        inputs = torch.arange(8 * length).reshape(8, length) % 9
        (found,) = engine.logits(variants, inputs)
        assert same(found, loop(network, inputs, variants[0]))
        sizes.append(engine._levels.per_example)
    assert sizes[1] > 50 * sizes[0]


WRONG = [
    (lambda engine, data: engine.sums(None, data), "variants is a NoneType; give a list"),
    (
        lambda engine, data: engine.sums([{"3.bias": torch.ones(3).double()}], data),
        "is torch.float64, the network's is",
    ),
    (lambda engine, data: engine.sums([{}], (data.inputs, data.labels)), "data is a tuple"),
    (lambda engine, data: engine.sums([{}], data, span=(0, 1000)), r"span=\(0, 1000\): give the first example"),
    (lambda engine, data: engine.sums([{}], data, span=(5, 5)), r"span=\(5, 5\): give the first example"),
    (lambda engine, data: Engine(lambda x: x), "network is a function; give a torch.nn.Module"),
    (lambda engine, data: Combination(3), "made of pairs"),
    (lambda engine, data: Combination([(1.0, None)]), "made of pairs"),
    (lambda engine, data: decide(engine, [[{}]], data, "x"), "bound='x': give a number"),
    (lambda engine, data: decide(engine, [[{}]], data, 0.1, most=0), "most=0: give a whole number from 1"),
    (
        lambda engine, data: decide(engine, [[{}]], data, 0.1, quantity="errors"),
        "quantity='errors': use 'error', 'loss'",
    ),
    (lambda engine, data: errors(engine, [{}], data, precision="0.1"), "precision='0.1': give half the width"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_a_wrong_call_is_one_clear_error(call, message):
    network, data = digits_like()
    with pytest.raises(InputError, match=message):
        call(Engine(network), data)
