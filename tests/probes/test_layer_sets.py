"""The search for the largest set against brute force: every set, evaluated by the plain loop."""

import json
from functools import cache
from itertools import combinations, pairwise

import polars as pl
import pytest
import torch
from torch import nn

from shaketable.errors import InputError, RunError
from shaketable.evaluate import evaluate
from shaketable.identity import seed_from
from shaketable.networks import build
from shaketable.params import layers, snapshot
from shaketable.perturb import fresh_params
from shaketable.probes import set_search
from shaketable.probes.joint_robustness import joint_robustness
from shaketable.probes.layer_sets import SCHEMA, LayerSets, largest_set
from shaketable.study import Study


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


@cache
def trained(depth: int = 5) -> Study:
    """A trained network of so many linear layers, of unequal width, with its init."""
    with torch.random.fork_rng():
        torch.manual_seed(depth)
        widths = [4, *(12 + 4 * (i % 3) for i in range(depth - 1)), 3]
        modules: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            linear = nn.Linear(inputs, outputs)
            nn.init.kaiming_normal_(linear.weight)
            modules += [linear, nn.ReLU()]
        network = nn.Sequential(*modules[:-1])
        init = snapshot(network)
        x, y = data(200, 1)
        optimiser = torch.optim.Adam(network.parameters(), lr=0.003)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimiser.step()
    return Study(network.eval(), init=init, test=data(151, 2), train=(x, y))


def brute_force(study: Study, sources: list[dict], split: str) -> dict[frozenset[str], int]:
    """Errors of every set of layers, summed over draws, by the plain loop."""
    found = layers(study.network, "block", study.example_inputs())
    errors = {}
    for size in range(len(found) + 1):
        for chosen in combinations(found, size):
            names = [name for layer in chosen for name in layer.params]
            counts = [
                evaluate(study.network, {**study.final, **{n: s[n] for n in names}}, study.data(split)).errors
                for s in sources
            ]
            errors[frozenset(layer.name for layer in chosen)] = sum(counts)
    return errors


def tried(result: LayerSets) -> dict[frozenset[str], int]:
    rows = result.table.select("set", "errors").rows()
    return {frozenset(names.split(" + ") if names else ()): errors for names, errors in rows}


def weights_of(study: Study) -> dict[str, int]:
    found = layers(study.network, "block")
    return {layer.name: sum(study.final[name].numel() for name in layer.params) for layer in found}


def test_looking_ahead_changes_nothing_where_every_set_is_tried():
    whole = largest_set(trained(), split="test")
    ahead = largest_set(trained(), split="test", beam=None, beyond=None, look_ahead=3)
    assert whole.complete
    assert ahead.complete
    assert tried(ahead) == tried(whole)
    assert ahead.largest == whole.largest


@pytest.mark.parametrize("size", ["count", "parameters"])
@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.3])
def test_with_every_set_kept_the_search_is_exhaustive_and_its_answer_that_of_brute_force(size, tolerance):
    study = trained()
    assert study.init is not None
    wanted = brute_force(study, [study.init], "test")
    result = largest_set(study, split="test", tolerance=tolerance, size=size, beam=None, beyond=None)
    assert tried(result) == wanted
    weights = weights_of(study)

    def large(names: frozenset[str]) -> int:
        return len(names) if size == "count" else sum(weights[name] for name in names)

    limit = wanted[frozenset()] + tolerance * 151
    best = max(large(names) for names, errors in wanted.items() if errors <= limit)
    found = frozenset(result.largest)
    assert large(found) == best
    assert wanted[found] == min(e for names, e in wanted.items() if large(names) == best)
    curve = result.summary()
    for row in curve.to_dicts():
        reach = [
            e
            for names, e in wanted.items()
            if (large(names) == row["size"] if size == "count" else large(names) >= row["size"])
        ]
        assert row["errors"] == min(reach)


def test_the_mean_over_fresh_draws_decides_a_rerandomised_set():
    study = trained(4)
    sources = [fresh_params(study.network, seed_from(5, "draw", draw), study.init)[0] for draw in range(3)]
    wanted = brute_force(study, sources, "train")
    result = largest_set(study, "rerandomise", split="train", draws=3, seed=5, beam=None, beyond=None)
    assert tried(result) == wanted
    row = result.table.row(-1, named=True)
    assert row["error"] == pytest.approx(row["errors"] / (3 * 200))
    assert row["accuracy_drop"] == pytest.approx((row["errors"] - wanted[frozenset()]) / 600)
    assert row["error_std"] > 0


def test_the_greedy_search_takes_the_layer_with_the_fewest_errors_at_each_step():
    study = trained()
    assert study.init is not None
    wanted = brute_force(study, [study.init], "test")
    result = largest_set(study, split="test", beam=1, beyond=None, tolerance=0.999)
    names = frozenset(weights_of(study))
    chosen: frozenset[str] = frozenset()
    for step in range(1, 6):
        rows = result.table.filter(pl.col("step") == step)
        assert len(rows) == 6 - step
        lowest = min(wanted[chosen | {name}] for name in names - chosen)
        kept = rows.filter(pl.col("kept"))
        assert kept["errors"].to_list() == [lowest]
        now = frozenset(kept["set"][0].split(" + "))
        assert now - chosen == {kept["added"][0]}
        chosen = now


@pytest.mark.parametrize("first", [8, 40])
@pytest.mark.parametrize(
    ("how", "beam"),
    [("reinitialise", 1), ("reinitialise", 2), ("rerandomise", 3)],
)
def test_sets_that_cannot_win_are_given_up_and_nothing_else_changes(how, beam, first, monkeypatch):
    study = fitted(6, 3)
    asked = {"split": "test", "beam": beam, "tolerance": 0.2, "beyond": None, "draws": 2}
    with monkeypatch.context() as patch:
        patch.setattr(set_search, "FIRST", 10**6)
        whole = largest_set(study, how, **asked)
    monkeypatch.setattr(set_search, "FIRST", first)
    early = largest_set(study, how, **asked)
    assert set(whole.table["status"]) == {"ok"}
    assert early.largest == whole.largest
    assert early.summary().equals(whole.summary())
    both = early.table.join(whole.table, on="set", suffix="_whole")
    assert len(both) == len(whole.table) == len(early.table)
    assert both["kept"].equals(both["kept_whole"])
    ok, given_up = both.filter(pl.col("status") == "ok"), both.filter(pl.col("status") == "given up")
    assert ok["errors"].equals(ok["errors_whole"])
    assert len(given_up) > 2
    assert set(largest_set(study, how, **{**asked, "size": "parameters"}).table["status"]) == {"ok"}
    assert (given_up["examples"] < 60).all()
    assert (given_up["errors"] <= given_up["errors_whole"]).all()
    assert given_up["error"].is_null().all()
    assert not given_up["kept"].any()
    assert "worse than the sets kept" in given_up["reason"][0]


def test_a_race_that_was_interrupted_goes_on_in_the_same_order(tmp_path, monkeypatch):
    monkeypatch.setattr(set_search, "FIRST", 8)
    whole = largest_set(fitted(6, 3), split="test", beam=1)
    counted = set_search.SetSearch._counted
    calls = []

    def failing(self, *args):
        calls.append(args)
        if len(calls) == 9:
            raise RunError("pulled the plug")
        return counted(self, *args)

    monkeypatch.setattr(set_search.SetSearch, "_counted", failing)
    with pytest.raises(RunError):
        largest_set(fitted(6, 3), split="test", beam=1, store=tmp_path)
    first = calls[:8]
    calls += [()] * 10
    again = largest_set(fitted(6, 3), split="test", beam=1, store=tmp_path)
    assert again.table.equals(whole.table)
    assert not [one for one in calls[19:] if any(one[:3] == old[:3] and one[3].equal(old[3]) for old in first)]


def trap() -> Study:
    """Layers that scale by a factor: 1 and 2 go well together alone, 3 alone is best and goes with none."""

    class Trap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (nn.Linear(1, 1, bias=False) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b, c = self.one.weight.sum(), self.two.weight.sum(), self.three.weight.sum()
            # how many of ten examples are wrong: 1 for one or two alone or together, 0 for three alone, else all
            wrong = torch.where(c > 0, 10 * ((a + b) > 0), 1 * ((a + b) > 0))
            right = torch.arange(len(x)) >= wrong
            return torch.stack([right.float(), 1 - right.float()], 1)

    network = Trap().eval()
    names = [name for name, _ in network.named_parameters()]
    final, init = ({name: torch.full((1, 1), v) for name in names} for v in (0.0, 1.0))
    x = torch.zeros(10, 1)
    return Study(network, final=final, init=init, test=(x, torch.zeros(10, dtype=torch.int64)))


def test_looking_ahead_and_a_beam_each_find_the_pair_that_the_greedy_search_misses():
    arguments = {"split": "test", "tolerance": 0.1, "by": "module", "batch_size": 10}
    assert largest_set(trap(), beam=1, beyond=1, **arguments).largest == ["three"]
    ahead = largest_set(trap(), beam=1, look_ahead=2, beyond=1, **arguments)
    assert ahead.largest == ["one", "two"]
    assert ahead.table.filter(pl.col("kept") & (pl.col("step") < 3))["set"].to_list() == ["", "one", "one + two"]
    assert largest_set(trap(), beam=3, beyond=1, **arguments).largest == ["one", "two"]


def test_a_drop_of_exactly_the_tolerance_is_within_it_and_less_than_that_is_not():
    study = trap()
    assert largest_set(study, split="test", tolerance=0.1, by="module", beam=None, batch_size=10).largest == [
        "one",
        "two",
    ]
    assert largest_set(study, split="test", tolerance=0.099, by="module", beam=None, batch_size=10).largest == ["three"]


def test_removal_drops_blocks_that_can_be_dropped_and_names_the_others_with_the_reason():
    network = build("resnet18", (3, 8, 8), 10, width=0.0625, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, 8, 8, generator=generator), torch.randint(10, (40,), generator=generator)
    study = Study(network, test=(x, y))
    blocks = ["stage1.resblk1", "stage1.resblk2", "stage4.resblk2"]
    result = largest_set(study, "remove", split="test", candidates=blocks, beam=None, beyond=None)
    for names, errors in tried(result).items():
        hooks = [network.get_submodule(name).register_forward_hook(lambda m, args, out: args[0]) for name in names]
        with torch.no_grad():
            assert errors == int((network(x).argmax(1) != y).sum())
        for hook in hooks:
            hook.remove()
    assert len(result.table) == 8
    everything = largest_set(study, "remove", split="test", beam=1, beyond=1, tolerance=0)
    assert len(everything.provenance["candidates"]) == 5
    assert "shapes do not fit" in everything.provenance["left_out"]["stage2.resblk1"]


def test_an_interrupted_search_goes_on_from_what_it_counted_and_is_read_when_it_is_done(tmp_path, monkeypatch):
    whole = largest_set(trained(), split="test", beam=2)
    calls = []
    run = set_search.Engine.map

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise RunError("pulled the plug")
        return run(*args, **kwargs)

    monkeypatch.setattr(set_search.Engine, "map", failing)
    with pytest.raises(RunError):
        largest_set(trained(), split="test", beam=2, store=tmp_path)
    made = len(calls)
    resumed = largest_set(trained(), split="test", beam=2, store=tmp_path)
    counted = len(calls)
    again = largest_set(trained(), split="test", beam=2, store=tmp_path)
    assert whole.table.equals(resumed.table)
    assert again.table.equals(resumed.table)
    assert len(calls) == counted  # the finished one ran nothing
    largest_set(trained(), split="test", beam=2)
    assert counted - made == len(calls) - counted - 2  # what two runs gave was kept
    (folder,) = tmp_path.iterdir()
    assert LayerSets.load(folder).largest == whole.largest
    assert json.loads((folder / "provenance.json").read_text())["probe"] == "layer_sets"


def test_the_answer_does_not_depend_on_sections_or_batches(monkeypatch):
    whole = {beam: largest_set(trained(), split="test", beam=beam) for beam in (None, 3)}
    assert largest_set(trained(), split="test", beam=3, batch_size=7).table.equals(whole[3].table)
    monkeypatch.setattr(set_search, "SECTION", 40)
    assert largest_set(trained(), split="test", beam=None, batch_size=7).table.equals(whole[None].table)


def test_the_table_has_its_columns_and_the_final_network_first():
    result = largest_set(trained(), split="test")
    assert dict(result.table.schema) == SCHEMA
    first = result.table.row(0, named=True)
    assert (first["step"], first["set"], first["accuracy_drop"], first["within"]) == (0, "", 0.0, True)
    assert "of 5 layers" in repr(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"how": "reset"}, "use one of reinitialise, rerandomise, remove"),
        ({"size": "bytes"}, "use 'count' or 'parameters'"),
        ({"tolerance": 1.0}, "give a drop in accuracy"),
        ({"beam": 0}, "beam must be at least 1"),
        ({"beyond": 0}, "beyond must be at least 1"),
        ({"look_ahead": 0}, "look_ahead must be at least 1"),
        ({"candidates": ["0", "22"]}, "there is no layer '22'; near names: 2"),
        ({"candidates": ["0", "0"]}, "twice"),
        ({"candidates": []}, "no layer is a candidate"),
        ({"how": "remove"}, "no layer is a candidate for how='remove': it makes"),
        ({"how": "remove", "candidates": ["2"]}, "layer '2' is no candidate for how='remove'"),
        ({"split": "val"}, "no val data"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        largest_set(trained(), **({"split": "test"} | arguments))


def test_every_set_of_many_layers_is_refused():
    with pytest.raises(InputError, match="tries every set of 17 layers; give at most 16"):
        largest_set(trained(17), split="test", beam=None)


def fitted(depth: int, seed: int) -> Study:
    """So many linear layers with skips between them, so that some sets are within a tolerance; its init by chance."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(4, width), nn.Linear(width, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.7 * self.out(self.into(x).relu())

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(*(Block(2 + seed % 2 + i % 4) for i in range(depth)), nn.Linear(4, 3))
        init = snapshot(network)
        x, y = data(150, seed)
        optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(40):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimiser.step()
    return Study(network.eval(), init=init, test=data(60, seed + 1), train=(x, y))


def resets_of_blocks(study: Study, names: list[str]) -> dict[frozenset[str], int]:
    """Errors of every set of blocks of a chain, each block in turn from the outputs of those before it, by torch alone."""
    assert study.init is not None
    x, y = study.data("test").inputs, study.data("test").labels
    assert isinstance(x, torch.Tensor)
    outputs: dict[frozenset[str], torch.Tensor] = {frozenset(): x}
    with torch.no_grad():
        for name in names:
            module, prefix = study.network.get_submodule(name), f"{name}."
            final, init = (
                {key.removeprefix(prefix): value for key, value in source.items() if key.startswith(prefix)}
                for source in (study.final, study.init)
            )
            reset = {chosen | {name}: torch.func.functional_call(module, init, h) for chosen, h in outputs.items()}
            outputs = {chosen: torch.func.functional_call(module, final, h) for chosen, h in outputs.items()} | reset
        head = study.network.get_submodule(str(len(names)))
        return {chosen: int((head(h).argmax(1) != y).sum()) for chosen, h in outputs.items()}


CASES = [(0, "count", 0.05), (1, "parameters", 0.05), (2, "count", 0.15), (3, "parameters", 0.15), (4, "parameters", 0)]


@pytest.mark.parametrize(
    ("seed", "size", "tolerance"), [CASES[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:])]
)
def test_of_twelve_candidates_the_search_finds_what_brute_force_over_all_4096_sets_finds(seed, size, tolerance):
    study = fitted(12, seed)
    names = [str(i) for i in range(12)]
    weights = {name: weight for name, weight in weights_of(study).items() if name in names}
    wanted = resets_of_blocks(study, names)
    asked = {"size": size, "tolerance": tolerance, "beam": None, "beyond": None}
    result = largest_set(study, split="test", candidates=names, level="loop", **asked)
    assert result.complete
    assert len(result.table) == len(wanted) == 4096
    assert tried(result) == wanted

    def large(chosen: frozenset[str]) -> int:
        return len(chosen) if size == "count" else sum(weights[name] for name in chosen)

    limit = wanted[frozenset()] + tolerance * 60 + 1e-9
    assert large(frozenset(result.largest)) == max(large(one) for one, errors in wanted.items() if errors <= limit)
    assert 0 < len(result.largest) < 12


def test_of_more_than_eight_candidates_a_beam_keeps_some_and_the_result_says_so():
    study = fitted(9, 0)
    result = largest_set(study, split="test", candidates=[str(i) for i in range(9)], beyond=1, level="loop")
    assert not result.complete
    assert result.provenance["beam"] == 3
    assert len(result.table) < 200
    assert largest_set(study, split="test", candidates=["1", "2"]).complete
    assert not largest_set(study, split="test", candidates=["1", "2"], beam=1).complete


@pytest.mark.parametrize("beam", [1, "auto"])
def test_running_statistics_estimated_anew_for_each_set_are_those_of_joint_robustness(beam, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()]
        network = nn.Sequential(*parts, nn.Linear(8, 3))
        init = snapshot(network)
        x, y = data(300, 1)
        optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(40):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimiser.step()
    study = Study(network.eval(), init=init, test=data(80, 2), train=(x, y))
    arguments = {"statistics": "reestimate", "statistics_batches": 2}
    found = largest_set(study, split="test", beam=beam, tolerance=0.9, beyond=None, store=tmp_path, **arguments)
    sets = [names.split(" + ") for names in found.table["set"] if names]
    joint = joint_robustness(
        study, {" + ".join(s): s for s in sets}, checkpoints=[0], draws=0, remove=False, splits=["test"], **arguments
    )
    errors = dict(joint.table.filter(perturbation="reinitialise").select("group", "errors").rows())
    assert {name: count for name, count in found.table.select("set", "errors").rows() if name} == errors
    kept = largest_set(study, split="test", beam=beam, tolerance=0.9, beyond=None, store=tmp_path)
    assert kept.table["errors"].to_list() != found.table["errors"].to_list()
    with pytest.raises(InputError, match="give fewer batches"):
        largest_set(study, split="test", statistics="reestimate", statistics_batches=20)


@pytest.mark.slow
def test_over_nine_layers_the_search_of_every_set_is_brute_force_and_a_beam_is_at_most_one_layer_short():
    study = trained(9)
    assert study.init is not None
    wanted = brute_force(study, [study.init], "test")
    assert len(wanted) == 512
    limit = wanted[frozenset()] + 0.05 * 151
    best = max(len(names) for names, errors in wanted.items() if errors <= limit)
    whole = largest_set(study, split="test", tolerance=0.05, beam=None, beyond=None)
    assert tried(whole) == wanted
    assert len(whole.largest) == best
    some = largest_set(study, split="test", tolerance=0.05, beam=10)
    assert best - 1 <= len(some.largest) <= best
    assert wanted[frozenset(some.largest)] <= limit
    assert len(some.table) < 700
