"""What the levels give for a batch is what the loop gives, example by example, for networks and variants made to mislead them."""

from collections.abc import Sequence

import pytest
import torch
from tests.engine import zoo
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.engine import Combination, Engine, Variant, decide, levels
from shaketable.engine.fused import Fused
from shaketable.engine.kernels import KERNELS, Geometry, product
from shaketable.engine.steps import Program
from shaketable.errors import InputError
from shaketable.forward import forward
from shaketable.params import state

PRECISIONS = ("float32", "bfloat16")


def decisions(engine: Engine, variants: Sequence[Variant], inputs: Tensor) -> list[list[int]]:
    """The class of each example for each variant, -1 where its logits are not finite: each class is asked for in turn."""
    columns = []
    for label in range(5):
        data = Data(inputs, torch.full((len(inputs),), label), classes=5)

        def decided(logits: Tensor, labels: Tensor) -> Tensor:
            return (logits.argmax(-1) == labels).long().where(logits.isfinite().all(-1), -1)

        found = [part for _, part in engine.map(variants, data, decided, decisions=True, planned=10**8)]
        columns.append([torch.cat(column).tolist() for column in zip(*found, strict=True)])

    def only_class(is_class: tuple[int, ...]) -> int:
        return -1 if set(is_class) == {-1} else is_class.index(1) if sorted(is_class) == [0, 0, 0, 0, 1] else -2

    return [[only_class(one) for one in zip(*column, strict=True)] for column in zip(*columns, strict=True)]


def check(network: nn.Module, variants: Sequence[Variant], inputs: Tensor, precision: str, size: int = 64) -> Engine:
    """The fused level decides as the loop does, for this base and where it had another one before."""
    truth = decisions(Engine(network.eval(), level="loop", batch_size=size), variants, inputs)
    engine = Engine(network, level="fused", precision=precision, batch_size=size, workers=1)  # pyright: ignore
    own, another = state(network), zoo.another(network)
    assert decisions(engine, variants, inputs) == truth
    assert decisions(engine.rebased(another).rebased(own), variants, inputs) == truth
    assert ("in bfloat16" in engine.choice) == (precision == "bfloat16")
    return engine


def drawn(network: nn.Module, count: int, prefixes: str) -> list[dict[str, Tensor]]:
    """Variants of the parameters whose names begin so."""
    names = [name for name in state(network) if name.startswith(tuple(prefixes))]
    return [{n: t + 0.3 * torch.randn(t.shape) for n, t in state(network).items() if n in names} for _ in range(count)]


class Turns(nn.Module):
    """The examples change places, and go back: some rows of what is between are not those of the same examples."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        if tied:
            self.b = self.a

    def forward(self, x):
        x = torch.tanh(self.a(x))
        x = torch.tanh(self.b(torch.cat([x[1:], x[:1]])))
        return self.c(torch.cat([x[-1:], x[:-1]]))


@pytest.mark.parametrize(("layers", "tied"), [("b", False), ("ab", False), ("a", True)])
def test_near_ties_are_run_again_on_the_right_examples_where_these_change_places(layers: str, tied: bool) -> None:
    with zoo.seeded(layers):
        network, inputs = Turns(tied), torch.randn(192, 8)
        check(network, drawn(network, 6, layers), inputs, "bfloat16")


class Token(nn.Module):
    """A parameter is expanded to the number of examples."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.token, self.joined = nn.Parameter(torch.randn(1, 4, 8)), joined
        self.a, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        token, x = self.token.expand(len(x), -1, -1), torch.tanh(self.a(x))
        return self.head(torch.tanh(torch.cat([token, x], 1) if self.joined else x + token).mean(1))


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_parameter_for_each_example_is_as_long_as_each_batch(
    joined: bool, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    with zoo.seeded("token"):
        network, inputs = Token(joined), torch.randn(65, 4, 8)
        check(network, [*drawn(network, 3, "a"), *drawn(network, 3, "t")], inputs, precision)
    assert "failed" not in caplog.text


class Squeezed(nn.Module):
    """A single example loses its dimension too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)).mean((2, 3), keepdim=True)).squeeze()


def test_no_rows_are_picked_where_a_single_one_would_lose_its_dimension(caplog: pytest.LogCaptureFixture) -> None:
    with zoo.seeded("squeezed"):
        network, inputs = Squeezed(), torch.randn(60, 3, 5, 5)
        check(network, drawn(network, 4, "a"), inputs, "bfloat16", size=20)
    assert "failed" not in caplog.text


class Images(nn.Module):
    """Channels last, as numbers of another range: the graph begins with operations without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.c, self.head = nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a((x * 2).permute(0, 3, 1, 2)))))
        return self.head(torch.relu(self.c(x.mean((2, 3)))))


@pytest.mark.parametrize("size", [2, 6])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_variants_that_are_not_finite_are_found_to_be_so(size: int, precision: str) -> None:
    with zoo.seeded("images"):
        network, inputs = Images(), torch.randn(96, size, size, 3)
        variants = [variant for layer in "abch" for variant in drawn(network, 3, layer)]
        for variant, value in zip(variants[1::3], (float("nan"), float("inf"), -float("inf"), float("nan"))):
            next(iter(variant.values())).view(-1)[5] = value
        check(network, variants, inputs, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_variants_that_overflow_for_some_examples_are_found_to_do_so(precision: str) -> None:
    with zoo.seeded("overflow"):
        network, inputs = Images(), torch.randn(192, 5, 5, 3) * 10 ** torch.randn(192, 1, 1, 1)
        drawn_weights = [
            {name: torch.randn(t.shape) for name, t in state(network).items() if name[0] in "ab"} for _ in "12"
        ]
    scales = [1.0, *(10 ** (18 + 0.25 * step) for step in range(8))]
    variants = [{name: scale * t for name, t in some.items()} for some in drawn_weights for scale in scales]
    truth = decisions(Engine(network, level="loop"), variants, inputs)
    assert any(0 < classes.count(-1) < len(inputs) for classes in truth)
    check(network, variants, inputs, precision)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize("added", [True, False])
def test_each_kernel_hands_on_what_is_not_a_number(kernel, added: bool) -> None:
    x = torch.ones(2, 32, 4, 4).contiguous(memory_format=torch.channels_last)
    x[1, 3, 2, 2] = float("nan")
    weight, geometry = torch.ones(32, 32, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 1, x.shape, (3, 3))
    if kernel.fits(geometry, weight):
        other = torch.ones_like(x) if added else None
        found = kernel.run(geometry, x, kernel.pack(geometry, weight, torch.empty), None, other, True)
        assert found[1, :, 1:, 1:].isnan().all()
        assert found[0].isfinite().all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_terms_of_a_combination_that_cancel_are_summed_as_weights(precision: str) -> None:
    with zoo.seeded("cancel"):
        network, inputs = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Flatten()), torch.randn(3000, 3, 3, 3)
        one, bias = torch.randn(32, 3, 3, 3), torch.zeros(32)
        two = one + 1e-4 * torch.randn(one.shape)
    terms = [{"0.weight": weight, "0.bias": bias} for weight in (one, two)]
    check(network, [Combination([(-1e4, terms[0]), (1e4 + k, terms[1])]) for k in range(6)], inputs, precision, 1000)


def test_logits_of_any_size_are_decided_rightly() -> None:
    with zoo.seeded("tiny"):
        network = nn.Sequential(nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 5, bias=False))
        variants = [{"2.weight": 1e-34 * torch.randn(5, 16)} for _ in range(6)]
        check(network, variants, torch.randn(4000, 32), "bfloat16", 250)


def test_a_graph_is_of_any_number_of_examples_whatever_its_first_batch_was() -> None:
    with zoo.seeded("numbers"):
        network, inputs = Token(False).eval(), torch.randn(9, 4, 8)
        fused, other = Fused(network, state(network), inputs), drawn(network, 1, "t")[0]
    with torch.no_grad():
        for count in (9, 1, 4):
            part = inputs[:count]
            assert torch.allclose(fused.base(part), network(part), atol=1e-5)
            truth = forward(network, part, {**state(network), **other})
            assert torch.allclose(fused.logits(other), truth, atol=1e-5)
            rows = torch.tensor([count - 1])
            if fused.picks:
                assert torch.allclose(fused.picked([(other, rows)])[0], truth[rows], atol=1e-5)


def test_a_product_in_bfloat16_adds_any_matrix_and_leaves_it_as_it_was() -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw).bfloat16() for shape in ((9, 16), (8, 16), (8,)))
    for other in (
        torch.randn(9, 8, generator=draw),
        torch.randn(8, 9, generator=draw).t(),
        torch.ones(1, 8).expand(9, 8),
    ):
        added = other.bfloat16()
        truth = (x.double() @ weight.double().t() + bias.double() + added.double()).relu()
        kept = added.clone()
        assert torch.allclose(product(x, weight, bias, added, True).double(), truth, atol=0.05)
        assert torch.equal(added, kept)


def test_the_whole_network_runs_where_a_recorded_pass_for_so_few_variants_costs_more():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(500, 2000), nn.ReLU(), nn.Linear(2000, 2000), nn.ReLU(), nn.Linear(2000, 3))
    network.eval()
    draw = torch.Generator().manual_seed(0)
    data = Data(torch.randn(40, 500, generator=draw), torch.randint(3, (40,), generator=draw), classes=3)
    first, last = ({f"{i}.bias": torch.full((size,), 0.5)} for i, size in ((0, 2000), (4, 3)))
    engine = Engine(network, workers=1, precision="float32")
    assert engine.sums([first, last], data) == Engine(network, level="loop").sums([first, last], data)
    levels = engine._levels
    assert levels.runs_whole({frozenset(first): 1}, {"replay"}, False)
    assert not levels.runs_whole({frozenset(last): 20}, {"replay"}, False)
    assert not levels.runs_whole({frozenset(first): 1}, {"vmap"}, False)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 36, 5)).eval()


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("level", ["loop", "replay", "fused"])
def test_variants_that_are_wanted_on_some_examples_are_decided_there_as_everywhere(level, precision, size):
    network, inputs = small_network(), torch.randn(50, 3, 8, 8)
    variants = [*drawn(network, 4, ["0."]), {}, *drawn(network, 3, ["3."]), *drawn(network, 3, ["6."])]
    labels = torch.randint(5, (50,))
    data = Data(inputs, labels, classes=5)
    only = torch.rand(len(variants), 50) < 0.3
    only[2], only[6] = False, True
    order = torch.randperm(50)
    truth = decisions(Engine(network, level="loop"), variants, inputs)
    engine = Engine(network, level=level, precision=precision, batch_size=size, workers=1)  # pyright: ignore
    expected = [(torch.tensor(row) == labels)[order[wanted]].tolist() for row, wanted in zip(truth, only, strict=True)]

    def decided(logits: Tensor, labels: Tensor) -> list[bool]:
        return (logits.argmax(-1) == labels).tolist()

    found: list[list[bool]] = [[] for _ in variants]
    for _, parts in engine.map(variants, data, decided, order, True, 10**8, only):
        for known, part in zip(found, parts, strict=True):
            known += part or []
    assert found == expected


def test_the_recorded_pass_of_an_example_serves_all_draws_of_a_question(monkeypatch):
    network, inputs = small_network(), torch.randn(400, 3, 8, 8)
    data = Data(inputs, torch.zeros(400, dtype=torch.int64), classes=5)
    engine, passed = Engine(network, level="fused", precision="bfloat16", workers=1), []
    base = Fused.base
    monkeypatch.setattr(Fused, "base", lambda self, given: passed.append(len(given)) or base(self, given))
    draws = drawn(network, 10, ["3."])
    decide(engine, [draws], data, 0.5)
    passed.clear()
    decision = decide(engine, [draws], data, 1e-9)[0]
    low = 2  # a graph in bfloat16 starts from that in float32, whose pass is one
    assert sum(passed) <= low * (decision.examples + 10) < decision.outcomes * low


def test_rows_are_picked_where_the_graph_carries_every_layer():
    network, inputs = small_network(), torch.randn(20, 3, 8, 8)
    engine = Engine(network, level="fused", precision="float32", workers=1)
    variants = [drawn(network, 1, [prefix])[0] for prefix in ("0.", "3.")]
    layers = [frozenset(variant) for variant in variants]
    assert not engine._levels.picks(layers, True)
    decisions(engine, variants, inputs)
    assert engine._levels.picks(layers, True)
    engine._levels.routes[layers[1]] = "replay"
    assert engine._levels.picks(layers[:1], True)
    assert not engine._levels.picks(layers, True)


@pytest.mark.parametrize("level", ["loop", "fused"])
def test_a_variant_that_shares_nothing_runs_on_all_of_its_examples_at_once(level):
    network, inputs = small_network(), torch.randn(60, 3, 8, 8)
    variants, only, sizes = drawn(network, 6, ["0.", "3.", "6."]), torch.rand(6, 60) < 0.4, []
    engine = Engine(network, level=level, batch_size=60, workers=1)
    data = Data(inputs, torch.zeros(60, dtype=torch.int64), classes=5)
    for _ in engine.map(variants, data, lambda logits, labels: sizes.append(len(labels)), only=only):
        pass
    assert sizes == only.sum(1).tolist()


def test_no_pass_is_recorded_for_a_variant_that_leaves_nothing_of_it_as_it_is(monkeypatch):
    network, inputs = zoo.settled(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))), torch.randn(20, 6)
    engine, whole = Engine(network, level="fused", workers=1), zoo.another(network)
    truth = [forward(network, inputs, {**state(network), **changes}) for changes in (whole, {})]
    assert torch.allclose(engine.logits([whole], inputs)[0], truth[0], atol=1e-5)  # levels are tried
    monkeypatch.setattr(Fused, "base", None)
    assert torch.allclose(engine.logits([whole], inputs)[0], truth[0], atol=1e-5)
    monkeypatch.setattr(Fused, "whole", None)
    assert torch.equal(engine.logits([whole], inputs)[0], truth[0]), "where that fails, all of the user's network runs"


def test_an_engine_of_another_base_answers_as_one_made_for_it_and_traces_nothing_again(monkeypatch):
    network, inputs = small_network(), torch.randn(60, 3, 8, 8)
    data, other = Data(inputs, torch.arange(60) % 5, classes=5), drawn(network, 1, ["1.weight", "3."])[0]
    variants = [drawn(network, 1, [prefix])[0] for prefix in ("0.", "3.", "6.")]
    engine = Engine(network, level="fused", precision="bfloat16", workers=1)
    before = engine.sums(variants[:2], data, losses=False)
    monkeypatch.setattr(Program, "__init__", None)
    rebased = engine.rebased(other)
    found = rebased.sums(variants, data, losses=False)
    truth = Engine(network, {**state(network), **other}, level="loop").sums(variants, data)
    assert [sums.errors for sums in found] == [sums.errors for sums in truth]
    assert rebased._levels.routes == dict.fromkeys(map(frozenset, variants), "fused")
    assert [sums.errors for sums in found[:2]] != [sums.errors for sums in before]
    assert engine.sums(variants[:2], data, losses=False) == before
    with pytest.raises(InputError, match="nothing"):
        engine.rebased({"nothing": inputs})


def interrupted(*args):
    raise KeyboardInterrupt


def test_a_layer_that_its_level_does_not_carry_with_another_base_is_tried_again(monkeypatch):
    network, inputs = small_network(), torch.randn(60, 3, 8, 8)
    data, other = Data(inputs, torch.arange(60) % 5, classes=5), drawn(network, 1, ["1.weight"])[0]
    variants = [drawn(network, 1, [prefix])[0] for prefix in ("0.", "3.")]
    engine = Engine(network, level="fused", precision="bfloat16", workers=1)
    engine.sums(variants, data, losses=False)
    monkeypatch.setattr(levels, "close", lambda one, other: False)
    rebased = engine.rebased(other)
    monkeypatch.setattr(rebased._levels, "looped", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rebased.sums(variants, data, losses=False)
    monkeypatch.undo()
    monkeypatch.setattr(levels, "close", lambda one, other: False)
    found = rebased.sums(variants, data, losses=False)
    assert set(rebased._levels.routes.values()) == {"replay"}
    monkeypatch.setattr(rebased._levels, "looped", interrupted)
    assert rebased.sums(variants, data, losses=False) == found, "once is enough"
    truth = Engine(network, {**state(network), **other}, level="loop").sums(variants, data)
    assert [sums.errors for sums in found] == [sums.errors for sums in truth]
    assert set(engine._levels.routes.values()) == {"fused"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_levels_are_compared_in_little_memory_with_the_same_choice(precision, monkeypatch):
    network, inputs = small_network(), torch.randn(60, 3, 8, 8)
    variants = [drawn(network, 1, [prefix])[0] for prefix in ("0.", "3.", "6.")]
    kept = []
    keep = levels.Logits.keep
    monkeypatch.setattr(levels.Logits, "keep", lambda self, *args: (keep(self, *args), kept.append(len(self))))
    for room in (levels.ROOM, 2**60):
        monkeypatch.setattr(levels, "ROOM", room)
        kept.clear()
        engine = check(network, variants, inputs, precision)
        assert engine._levels.routes == dict.fromkeys(map(frozenset, variants), "fused")
        assert max(kept) == (4 if room == 8 else 1)  # the base pass is always there


def test_a_graph_that_was_bit_for_bit_the_loop_is_trusted_so_with_another_base_once_that_is_shown(monkeypatch):
    torch.manual_seed(0)
    network, inputs = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 6)).eval(), torch.randn(500, 8)
    with torch.no_grad():
        network[2].weight[1::2] = network[2].weight[::2] * (1 + 1e-7)  # all examples are near a tie
        network[2].bias.zero_()
    data, layer = Data(inputs, torch.arange(500) % 6, classes=6), {"2.bias": torch.full((6,), 1e-8)}
    engine = Engine(network, level="fused", precision="float32", workers=1)
    engine.sums([{}, layer], data)
    assert engine._levels.bitwise == {frozenset(), frozenset(layer)}
    other = drawn(network, 1, ["0."])[0]
    rebased = engine.rebased(other)
    graph = rebased._levels.workers[0].fused
    assert graph is not None
    base = graph.base
    monkeypatch.setattr(graph, "base", lambda inputs: base(inputs) + 1e-7 * torch.randn(len(inputs), 6))
    truth = Engine(network, {**state(network), **other}, level="loop").sums([{}, layer], data, losses=False)
    assert [sums.errors for sums in rebased.sums([{}, layer], data, losses=False)] == [sums.errors for sums in truth]


def speaks() -> nn.Module:
    """A module that leaves what another one reads in a global variable."""
    said = []

    class Says(nn.Linear):
        def forward(self, x):
            said[:] = [super().forward(x)]
            return x

    class Hears(nn.Linear):
        def forward(self, x):
            return super().forward(x + said[0])

    torch.manual_seed(0)
    return nn.Sequential(Says(8, 8), Hears(8, 8), nn.Linear(8, 5)).eval()


def test_an_engine_of_another_base_knows_that_threads_would_share_state():
    network, inputs = speaks(), torch.randn(40, 8)
    engine, data = Engine(network, level="replay", workers=2, batch_size=4), Data(inputs, torch.arange(40) % 5, 5)
    engine.sums(drawn(network, 1, ["2."]), data)
    assert engine._levels.alone
    assert engine.rebased({"2.bias": torch.ones(5)})._levels.alone


def test_engines_of_several_bases_share_what_they_have_in_bfloat16(monkeypatch):
    monkeypatch.setattr("shaketable.engine.levels.Levels._traces", lambda *args: False)
    network, inputs = small_network(), torch.randn(60, 3, 8, 8)
    data, other = Data(inputs, torch.arange(60) % 5, classes=5), drawn(network, 1, ["1.weight"])[0]
    variants = [drawn(network, 1, [prefix])[0] for prefix in ("0.", "3.")]
    engine = Engine(network, precision="bfloat16", workers=1)
    engine.sums(variants, data, losses=False, planned=10**8)
    rebased = engine.rebased(other)
    found = rebased.sums(variants, data, losses=False, planned=10**8)
    truth = Engine(network, {**state(network), **other}, level="loop").sums(variants, data)
    assert [sums.errors for sums in found] == [sums.errors for sums in truth]
    one, two = (which._levels.workers[0].half.replica.base for which in (engine, rebased))  # pyright: ignore
    own = {name for name in one if one[name].data_ptr() != two[name].data_ptr()}
    assert own == {"1.weight", *dict(network.named_buffers())}


class Gated(nn.Module):
    """What few of the examples get added cancels but for its rounding, where its weights are not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 5)
        self.plus, self.minus = (nn.Parameter(torch.zeros(32, 32)) for _ in range(2))

    def forward(self, x):
        h = torch.tanh(self.b(torch.tanh(self.a(x))))
        return self.c(h + (x[:, :1] - 2).relu() * (h @ self.plus - (3 * h) @ self.minus))


@pytest.mark.parametrize("traces", [False, True])
def test_decisions_in_bfloat16_are_those_of_the_loop_with_a_base_that_rounds_far_worse(traces, monkeypatch):
    if not traces:
        monkeypatch.setattr("shaketable.engine.levels.Levels._traces", lambda *args: False)
    torch.manual_seed(0)
    network, inputs, weight = Gated().eval(), torch.randn(3000, 8), 300 * torch.randn(32, 32)
    inputs[:, 0] = 3.0 * (torch.arange(3000) % 20 == 0)
    data, other = Data(inputs, torch.randint(5, (3000,)), classes=5), {"plus": weight, "minus": weight / 3}
    variants = [{"b.weight": 0.3 * torch.randn(32, 32)} for _ in range(8)]
    engine = Engine(network, precision="bfloat16", batch_size=500, workers=1)
    before = engine.sums(variants, data, losses=False, planned=10**8)
    bounds = dict(engine._levels.low)
    rebased = engine.rebased(other)
    found = rebased.sums(variants, data, losses=False, planned=10**8)
    assert rebased._levels.low.keys() == bounds.keys() == {frozenset(variants[0])}
    truth = Engine(network, {**state(network), **other}, level="loop", batch_size=500).sums(variants, data)
    assert [sums.errors for sums in found] == [sums.errors for sums in truth]
    assert engine.sums(variants, data, losses=False) == before
    assert engine._levels.low == bounds


class Scaled(nn.Module):
    """A weight that is made of two parameters in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 5), nn.Parameter(torch.rand(8, 1))

    def forward(self, x):
        return self.b(torch.relu(nn.functional.linear(x, self.a.weight * self.c.exp(), self.a.bias)))


def test_what_is_computed_of_weights_alone_is_computed_again_for_another_base():
    with zoo.seeded("scaled"):
        network, inputs = Scaled().eval(), torch.randn(60, 8)
        variants, other = drawn(network, 3, ["b."]), {"c": torch.rand(8, 1) + 1}
    engine = Engine(network, level="fused", precision="float32", workers=1)
    before = engine.logits(variants, inputs)
    rebased = engine.rebased(other)
    graph = engine._levels.workers[0].fused
    assert graph is not None
    assert graph.rebased(other).base(inputs).allclose(forward(network, inputs, {**state(network), **other}), atol=1e-5)
    for logits, old, variant in zip(rebased.logits(variants, inputs), before, variants, strict=True):
        assert logits.allclose(forward(network, inputs, {**state(network), **other, **variant}), atol=1e-5)
        assert not logits.allclose(old, atol=1e-2)
