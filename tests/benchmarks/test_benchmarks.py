"""The benchmarks: the naive loop is the plain loop, a row has its columns, medians are medians, samples add up."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import __main__ as command
from benchmarks import behaviour, common, early, heatmaps, setups
from shaketable.data import Data
from shaketable.engine import Decision, Engine, Estimate
from shaketable.evaluate import evaluate
from shaketable.params import snapshot

KEYS = {
    "work",
    "ratio",
    "wall_ratio",
    "goal",
    "goal_amx",
    "naive_seconds",
    "engine_seconds",
    "identical",
    "network",
} | {
    *("data", "examples", "variants", "batch_naive", "batch_engine", "level", "machine", "sampled", "sampled_how"),
}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def case() -> setups.Case:
    return setups.straight("fcn-2x8", "mnist", 3, 300, common.Options(data_root=Path("nowhere")))


def toy_heatmap(**changes: Any) -> heatmaps.Heatmap:
    values: dict[str, Any] = {
        "network": "fcn-2x8",
        "goal": 1.9,
        "goal_amx": 8,
        "about": "",
        "checkpoints": 3,
        "batches": (32, 100),
    }
    return heatmaps.Heatmap(**values | changes)


def test_the_naive_loop_gives_what_evaluate_gives_and_leaves_the_network_as_it_was(case: setups.Case) -> None:
    before = snapshot(case.network)
    variants = case.variants(case.cells())
    found = common.Naive(case.network, 64).sums(variants, case.data)
    wanted = [evaluate(case.network, {**before, **variant}, case.data) for variant in variants]
    assert [errors for errors, _ in found] == [sums.errors for sums in wanted]
    assert [loss for _, loss in found] == pytest.approx([sums.loss for sums in wanted], rel=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in snapshot(case.network).items())


def test_a_sample_has_every_layer_and_every_checkpoint(case: setups.Case) -> None:
    assert len(case.cells()) == 9
    cells = case.cells(1)
    assert [layer for layer, _ in cells] == [0, 1, 2]
    assert {t for _, t in cells} == {0, 1, 2}
    assert len(set(case.cells(2))) == 6


def test_checkpoints_stand_on_the_line_from_initial_to_final_weights() -> None:
    line = setups.Path({"w": torch.zeros(2)}, {"w": torch.ones(2)}, 4)
    assert [line[t]["w"].tolist() for t in range(4)] == [[0, 0], [0.25] * 2, [0.5] * 2, [0.75] * 2]


def test_a_row_has_medians_of_seconds_and_the_median_of_ratios_and_every_column() -> None:
    times = [(np.array([n, 2 * n]), np.array([e, e])) for n, e in ((10.0, 5.0), (30.0, 3.0), (20.0, 10.0))]
    found = common.row("toy", times, goal=2).record()
    assert found.keys() >= KEYS
    assert (found["ratio"], found["wall_ratio"]) == (2.0, 4.0)
    assert (found["naive_seconds"], found["engine_seconds"]) == (20.0, 5.0)
    assert found["ratios"] == (2.0, 10.0, 2.0)
    assert found["machine"].keys() == {"cpu", "bf16", "amx", "threads", "torch"}


def test_the_seconds_of_a_sample_add_up_to_those_of_the_whole() -> None:
    # Checks cost 7 once, a base pass 1 a slice, a variant 2 a slice: 10 slices of 2 x 3 variants are 7 + 10 (1 + 12).
    checks, base, variant = (np.array([value, value]) for value in (7.0, 1.0, 2.0))
    slices = heatmaps.Slices(checks + base + 3 * variant, base + 3 * variant, base, [], 10)
    assert slices.whole(2).tolist() == [137.0, 137.0]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "sampled"])
def test_a_heat_map_is_measured_whole_or_sampled_with_identical_answers(case: setups.Case, whole: bool) -> None:
    found = heatmaps.compare("toy", toy_heatmap(whole=whole), case, common.Options(repeats=2))
    assert found.identical
    assert found.more["bit_identical"]
    assert (found.variants, found.examples, found.sampled) == (9, 300, not whole)
    assert len(found.ratios) == 2
    assert found.naive_seconds
    assert bool(found.sampled_how) is found.sampled


def test_an_answer_that_differs_is_noticed(case: setups.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.Naive, "sums", lambda self, variants, data: [(0, 0.0)] * len(variants))
    assert not heatmaps.compare("toy", toy_heatmap(whole=True), case, common.Options(repeats=1)).identical


@pytest.mark.parametrize("alphas", [0, 4], ids=["precision", "decide"])
def test_early_answers_are_measured_and_compared(case: setups.Case, alphas: int) -> None:
    work = early.Early("", "test", 300, 5, 20, "", alphas=alphas, per_layer=1, images=100, batches=(50,))
    found = early.compare("toy", work, case, common.Options(repeats=1))
    assert found.identical
    assert found.sampled
    assert found.variants == 3 * (alphas or 3)
    assert 0 < found.more["examples_used"] <= 1


def test_an_early_answer_that_contradicts_the_naive_loop_is_noticed() -> None:
    assert early.holds(Estimate(0.3, 0.29, 0.31, 50), 30, 100, 100)
    assert not early.holds(Estimate(0.3, 0.29, 0.31, 50), 50, 100, 100)
    assert early.holds(Decision(True, True, 50, 1, 50, 0.05), 10, 100, 100)
    assert not early.holds(Decision(True, True, 50, 1, 50, 0.05), 11, 100, 100)
    assert not early.holds(Decision(True, True, 50, 1, 50, 0.05), 400, 1000, 5000)


def test_the_best_batch_is_the_fastest_that_the_data_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {10: 3.0, 20: 1.0, 30: 2.0, 40: 0.0}
    monkeypatch.setattr(common, "seconds_an_example", lambda network, data, size, enough: cost[size])
    data = Data(torch.zeros(30, 1), torch.zeros(30, dtype=torch.int64), 2)
    assert common.best_batch(nn.Linear(1, 2), data, (10, 20, 30, 40)) == 20


def test_the_necessary_operations_of_a_chain_are_those_from_the_changed_layer_on(case: setups.Case) -> None:
    base, behind = behaviour.necessary(case.network, torch.zeros(1, 1, 28, 28), case.layers)
    products = [2 * 784 * 8, 2 * 8 * 8, 2 * 8 * 10]
    assert base == sum(products)
    assert behind == [sum(products[layer:]) for layer in range(3)]


def test_points_on_a_line_have_its_slope_and_an_r2_of_one() -> None:
    assert behaviour.line([1, 2, 4], [3, 5, 9]) == pytest.approx({"slope_seconds": 2, "intercept_seconds": 1, "r2": 1})


def test_an_unknown_name_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["heatmap-fnc"]) == 2
    out, error = capsys.readouterr()
    assert (out, error) == ("", "no benchmark is called 'heatmap-fnc'; did you mean 'heatmap-fcn'?\n")


def test_json_is_one_list_of_rows_on_standard_output(
    case: setups.Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(heatmaps.HEATMAPS, "heatmap-fcn", toy_heatmap(whole=True))
    monkeypatch.setattr(heatmaps, "table", lambda *args, **kwargs: case)
    assert command.main(["heatmap-fcn", "--json", "--repeats", "1"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found.keys() >= KEYS


def test_what_is_missing_is_one_sentence_and_all_goes_on_without_it(
    case: setups.Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHAKETABLE_NETWORKS", str(tmp_path))
    assert command.main(["decide-resnet20"]) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"there is no {tmp_path}")
    assert sentence.count("\n") == 1
    works = {name: command.BENCHMARKS[name] for name in ("decide-resnet20", "heatmap-fcn")}
    monkeypatch.setattr(command, "BENCHMARKS", works)
    monkeypatch.setitem(heatmaps.HEATMAPS, "heatmap-fcn", toy_heatmap(whole=True))
    monkeypatch.setattr(heatmaps, "table", lambda *args, **kwargs: case)
    assert command.main(["all", "--json", "--repeats", "1"]) == 0
    out, error = capsys.readouterr()
    assert [found["work"] for found in json.loads(out)] == ["heatmap-fcn"]
    assert f"decide-resnet20 is left out: {sentence}" in error


def test_the_pretrained_network_answers_on_the_line_to_its_weights(data_root: Path, pretrained: Path) -> None:
    case = setups.pretrained("test", 8, 200, common.Options(data_root=data_root))
    assert len(case.layers) == 20
    ((errors, _),) = common.Naive(case.network, 100).sums([{}], case.data)
    assert errors / 200 < 0.15


def test_without_a_name_every_benchmark_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"heatmap-resnet18", "precision-fcn", "decide-resnet18", "scaling", "memory", "peak"} <= set(listed)


def test_the_engine_takes_the_batch_that_is_reported(case: setups.Case) -> None:
    size = heatmaps.engine_batch(case, common.Options())
    batches = Engine(case.network, workers=1).map(case.variants(case.cells()), case.data, lambda *_: None)
    assert next(batches)[0] == size
