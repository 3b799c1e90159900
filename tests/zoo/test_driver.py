"""A zoo trained and measured: what is recorded, what is done again, and what survives being killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import polars as pl
import pytest
from tests.zoo.plans import BASE, MEASURES, tiny

from shaketable import zoo
from shaketable.errors import InputError, RunError
from shaketable.files import locked
from shaketable.measures import MEASURES as REGISTRY
from shaketable.measures import Measurement
from shaketable.measures.measure import measure as decorated
from shaketable.study import Study
from shaketable.training import train_together
from shaketable.zoo import Plan, Zoo
from shaketable.zoo.plan import Entry

ROOT = Path(__file__).parents[2]


def without_times(table):
    return table.drop("seconds", "training_seconds")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A zoo of four networks and three measures, undisturbed."""
    made = zoo.run(tiny(), tmp_path_factory.mktemp("zoo"))
    return zoo.measure(made, MEASURES)


def test_the_table_has_a_row_for_each_network_and_measure_with_hyperparameters_versions_and_hashes(whole):
    table = whole.table()
    assert len(table) == 4 * 3
    assert table["hp_width"].to_list() == [2] * 6 + [3] * 6
    assert set(table["status"]) == {"ok"}
    assert table["network"].unique(maintain_order=True).to_list() == [entry.name for entry in whole.plan.networks]
    row = table.filter(measure="squared_distance_to_init").row(0, named=True)
    study = Study.from_run(whole.runs / row["network"])
    assert row["value"] == REGISTRY["squared_distance_to_init"](study).value
    assert row["gap"] == row["test_error"] - row["train_error"]
    assert (row["train_data"], row["test_data"]) == tuple(study.data(one).fingerprint() for one in ("train", "test"))
    assert row["version"] == REGISTRY["squared_distance_to_init"].version
    assert table.select(pl.struct("network", "result").n_unique()).item() == len(table)
    assert zoo.read_table(whole.table_path).equals(table)


def test_the_table_is_read_by_pandas_and_duckdb(whole):
    pandas = pytest.importorskip("pandas")
    assert pandas.read_parquet(whole.table_path)["hp_width"].tolist() == [2] * 6 + [3] * 6
    duckdb = pytest.importorskip("duckdb")
    query = f"select hp_width, count(distinct network) from '{whole.table_path}' group by hp_width order by hp_width"
    assert duckdb.sql(query).fetchall() == [(2, 2), (3, 2)]


def test_what_is_there_is_neither_trained_nor_measured_again(whole, monkeypatch):
    def forbidden(*arguments, **named):
        raise AssertionError("there was nothing left to do")

    before = without_times(whole.table())
    monkeypatch.setattr("shaketable.zoo.driver.work_through", forbidden)
    zoo.run(tiny(), whole.path)
    zoo.measure(whole, MEASURES)
    assert without_times(whole.table()).equals(before)


def test_a_measure_with_other_arguments_or_of_a_newer_version_is_taken_anew(tmp_path, monkeypatch):
    made = zoo.measure(zoo.run(tiny((2,), (0,)), tmp_path), ["squared_distance_to_init"])
    first = made.table().row(0, named=True)
    zoo.measure(made, ["squared_distance_to_init"], {"squared_distance_to_init": {"parameters": "all"}})
    second = made.table().row(0, named=True)
    assert len(made.table()) == 1
    assert second["value"] > first["value"]
    assert json.loads(second["arguments"]) == {"parameters": "all"}
    monkeypatch.setitem(vars(REGISTRY["squared_distance_to_init"]), "version", 99)
    zoo.measure(made, ["squared_distance_to_init"])
    assert made.table().row(0, named=True)["version"] == 99


def test_arguments_that_give_no_number_do_not_replace_one_that_holds(tmp_path, monkeypatch):
    name = "prunability"
    made = zoo.measure(zoo.run(tiny((2,), (0,)), tmp_path), [name])
    (network,) = (entry.name for entry in made.plan.networks)
    first = made.table()
    zoo.measure(made, [name], {name: {"beta": -1}})
    assert made.table().equals(first)
    refused = made.record(network)["measures"][name]["refused"]
    assert (refused["status"], refused["arguments"]) == ("unavailable", '{"beta": -1}')
    with monkeypatch.context() as patched:  # what gave no number is not tried again, and the number is still there
        patched.setattr("shaketable.zoo.driver.measure_one", None)
        zoo.measure(made, [name], {name: {"beta": -1}})
        zoo.measure(made, [name])
    zoo.measure(made, [name], {name: {"beta": 0.5}})  # another number takes the place of both
    row = made.record(network)["measures"][name]
    assert (row["status"], json.loads(row["arguments"]), "refused" in row) == ("ok", {"beta": 0.5}, False)
    monkeypatch.setitem(vars(REGISTRY[name]), "version", 99)  # the old number no longer holds
    zoo.measure(made, [name], {name: {"beta": -1}})
    assert made.table().select("status", "value").row(0) == ("unavailable", None)


def test_weights_that_are_gone_leave_the_numbers_that_are_there(tmp_path):
    name = "squared_distance_to_init"
    made = zoo.measure(zoo.run(tiny((2,), (0,)), tmp_path), [name])
    first = made.table()
    for file in made.runs.glob("**/*.safetensors"):
        file.unlink()
    zoo.measure(made, [name, "path_norm"], {name: {"parameters": "all"}})
    assert made.table().filter(measure=name).equals(first)
    assert made.table().filter(measure="path_norm")["status"].to_list() == ["failed"]


def test_a_network_that_fails_is_recorded_with_its_reason_while_the_rest_goes_on_and_is_tried_again(tmp_path):
    plan = Plan.listed(BASE, [{"width": 2}, {"width": 3, "learning_rate": 1e30}, {"width": 4}])
    made = zoo.run(plan, tmp_path)
    table = made.table()
    assert table["status"].to_list() == ["ok", "failed", "ok"]
    assert "lower the learning rate" in table["reason"][1]
    zoo.measure(made, MEASURES[:1])
    assert made.table()["measure"].to_list() == [MEASURES[0], None, MEASURES[0]]
    record = made.record(plan.networks[1].name)
    (made.folder(plan.networks[1].name) / "record.json").unlink()
    zoo.run(plan, tmp_path)
    assert made.record(plan.networks[1].name) == record


def test_networks_of_a_plan_may_have_hyperparameters_of_their_own(tmp_path):
    first, second = (entry.recipe for entry in tiny((2,), (0, 1)).networks)
    plan = Plan((Entry(first, {"width": 2}), Entry(second, {"seed": 1})))
    assert zoo.run(plan, tmp_path).table().select("hp_width", "hp_seed").rows() == [(2, None), (None, 1)]


def test_a_damaged_plan_and_a_file_in_the_place_of_the_folder_are_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is a file, and a zoo needs a folder"):
        zoo.run(tiny(), tmp_path / "file")
    (tmp_path / "plan.json").write_text('{"schema": 1}')
    with pytest.raises(InputError, match=r"plan.json: is damaged \(no 'networks'\); delete it"):
        zoo.measure(tmp_path)


def test_a_measure_that_fails_in_a_way_of_its_own_or_gives_nan_is_a_row_with_the_reason(tmp_path, monkeypatch):
    for name in ("breaking", "not_a_number"):
        monkeypatch.setitem(REGISTRY, name, None)  # so that what the decorator adds is taken out again

    tried = []

    def breaking(study: Study) -> Measurement:
        """Breaks the first time."""
        tried.append(study)
        if len(tried) == 1:
            raise ZeroDivisionError("no such thing")
        return Measurement(1.0)

    def not_a_number(study: Study) -> Measurement:
        """Is none."""
        return Measurement(float("nan"))

    for function in (breaking, not_a_number):
        decorated(symbol="-", direction="lower", paper="-")(function)
    made = zoo.measure(zoo.run(tiny((2,), (0,)), tmp_path), ["breaking", "not_a_number", MEASURES[0]])
    rows = made.table().select("measure", "value", "status", "reason").rows()
    assert rows[:2] == [
        ("breaking", None, "failed", "ZeroDivisionError: no such thing"),
        ("not_a_number", None, "not finite", "the measure gave nan"),
    ]
    assert rows[2][2] == "ok"
    zoo.measure(made, ["breaking"])
    assert made.table().filter(measure="breaking")["status"].item() == "ok"


class Losing(Executor):
    """An executor that loses every task."""

    def submit(self, fn, /, *args):
        future = Future()
        future.set_exception(OSError("the machine went away"))
        return future


def test_what_no_worker_could_do_is_recorded_by_the_driver_and_done_by_the_same_call_later(tmp_path):
    made = zoo.run(tiny((2,), (0,)), tmp_path, executor=Losing(), retries=1)
    (row,) = made.table().to_dicts()
    assert (row["status"], row["measure"]) == ("failed", None)
    assert row["reason"] == "OSError: the machine went away (tried 2 times)"
    zoo.measure(zoo.run(tiny((2,), (0,)), tmp_path), MEASURES[:1])
    zoo.measure(made, MEASURES[:2], executor=Losing(), retries=0)
    assert made.table().select("measure", "status").rows() == [(MEASURES[0], "ok"), (MEASURES[1], "failed")]
    zoo.measure(made, MEASURES[:2])
    assert made.table()["status"].to_list() == ["ok", "ok"]


def test_networks_of_one_shape_that_are_trained_together_have_the_table_of_one_by_one_but_for_rounding(
    tmp_path, whole, monkeypatch
):
    sizes = []

    def noted(recipes, **where):
        sizes.append(len(recipes))
        return train_together(recipes, **where)

    monkeypatch.setattr("shaketable.zoo.tasks.train_together", noted)
    table = zoo.measure(zoo.run(tiny(), tmp_path, together=3), MEASURES).table()
    assert sizes == [2, 2]  # widths are shapes, seeds are not
    assert table["value"].to_list() == pytest.approx(whole.table()["value"].to_list(), rel=1e-4)
    assert table["network"].equals(whole.table()["network"])
    failing = Plan.listed(BASE, [{"width": 3, "seed": 1}, {"width": 3, "learning_rate": 1e30}])
    assert zoo.run(failing, tmp_path / "failing", together=2).table()["status"].to_list() == ["ok", "failed"]
    lost = zoo.run(tiny((2,)), tmp_path / "lost", executor=Losing(), retries=0, together=2)
    assert lost.table()["status"].to_list() == ["failed", "failed"]


def test_a_plan_may_grow_and_may_not_lose_networks(tmp_path):
    zoo.run(tiny((2,), (0,)), tmp_path)
    grown = zoo.run(tiny((2,), (0, 1)), tmp_path)
    assert grown.table()["status"].to_list() == ["ok", "ok"]
    with pytest.raises(InputError, match="the zoo of another plan, of which 1 networks are not in this one"):
        zoo.run(tiny((2,), (0,)), tmp_path)


def test_two_runs_of_the_same_zoo_at_once_are_one_clear_sentence(tmp_path):
    made = Zoo(tmp_path)
    with locked(made.table_path.parent), pytest.raises(RunError, match="another process runs or measures this zoo"):
        zoo.run(tiny(), tmp_path)


def test_what_is_wrong_is_one_sentence(tmp_path, whole):
    with pytest.raises(InputError, match=r"not the folder of a zoo \(it has no plan.json\)"):
        zoo.measure(tmp_path)
    Zoo(tmp_path).claim(tiny())
    with pytest.raises(InputError, match="none of its 4 networks is trained"):
        zoo.measure(tmp_path)
    with pytest.raises(InputError, match="no measure 'path_nrm'; did you mean 'path_norm'"):
        zoo.measure(whole, ["path_nrm"])
    with pytest.raises(InputError, match="measure 'path_norm' has no argument 'epsilon'"):
        zoo.measure(whole, ["path_norm"], {"path_norm": {"epsilon": 1}})
    with pytest.raises(InputError, match="jobs=0"):
        zoo.run(tiny(), tmp_path, jobs=0)
    with pytest.raises(InputError, match="no executor 'lokie'"):
        zoo.run(tiny(), tmp_path, executor="lokie")


def test_a_table_or_a_record_of_another_version_is_refused_and_a_table_is_made_anew_from_the_records(whole, tmp_path):
    whole.table().with_columns(schema=pl.lit(0)).write_parquet(tmp_path / "old.parquet")
    with pytest.raises(InputError, match=r"old.parquet: this table is of schema 0, and this version reads 1"):
        zoo.read_table(tmp_path / "old.parquet")
    whole.table().drop("schema").write_parquet(whole.table_path)
    with pytest.raises(InputError, match="write it anew from the folder of its zoo"):
        zoo.read_table(whole.table_path)
    zoo.measure(whole, MEASURES)
    assert len(zoo.read_table(whole.table_path)) == 12
    (tmp_path / "plan.json").write_text('{"schema": 0}')
    with pytest.raises(InputError, match="is of schema 0"):
        _ = Zoo.open(tmp_path).plan
    (tmp_path / "no.parquet").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read"):
        zoo.read_table(tmp_path / "no.parquet")


PROGRAM = """
import sys
from tests.zoo.plans import MEASURES, tiny
from shaketable import zoo
executor, jobs = sys.argv[2], int(sys.argv[3])
plan = tiny(range(2, int(sys.argv[4])))
zoo.measure(zoo.run(plan, sys.argv[1], executor=executor, jobs=jobs), MEASURES, executor=executor, jobs=jobs)
"""


def finished_results(folder):
    """Of each network, what its record says that is done."""
    found = {}
    for path in folder.glob("networks/*/record.json"):
        record = json.loads(path.read_text())
        found |= {(path.parent.name, "weights"): record.get("weights")}
        found |= {(path.parent.name, name): row for name, row in record["measures"].items()}
    return found


def processes(folder) -> int:
    """How many processes there are that the program in a folder has started, itself included."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += f"ZOO_OF_THIS_TEST={folder}".encode() in path.read_bytes().split(b"\0")
        except OSError:  # it has ended, or is not ours
            continue
    return found


def killed(folder, executor, jobs, widths, random_seconds) -> int:
    """Start the program, and kill it some time after it has finished one thing more; how many processes it had by then."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ZOO_OF_THIS_TEST": str(folder)}
    command = [sys.executable, "-c", PROGRAM, str(folder), executor, str(jobs), str(widths)]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE)
    before = len(finished_results(folder))
    while process.poll() is None and len(finished_results(folder)) == before:
        time.sleep(0.005)
    time.sleep(random_seconds)
    running = processes(folder)
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (0, -signal.SIGKILL), process.stderr.read().decode()
    process.stderr.close()
    return running if process.returncode else 0


def killed_often(folder, times, executor="local", jobs=1, widths=5):
    """Kill the program so many times, then let it end; nothing finished may be lost. The table, and the processes at each kill."""
    draws, running = random.Random(0), []
    for _ in range(times):
        kept = finished_results(folder)
        running.append(killed(folder, executor, jobs, widths, draws.uniform(0, 0.05)))
        now = finished_results(folder)
        assert {key: now.get(key) for key in kept} == kept
    made = zoo.measure(zoo.run(tiny(range(2, widths)), folder), MEASURES)
    return made.table(), [count for count in running if count]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return zoo.measure(zoo.run(tiny(range(2, 5)), tmp_path_factory.mktemp("undisturbed")), MEASURES).table()


def test_a_zoo_whose_driver_is_killed_has_the_table_of_an_undisturbed_one(tmp_path, undisturbed):
    table, running = killed_often(tmp_path, 2)
    assert running
    assert without_times(table).equals(without_times(undisturbed))


@pytest.mark.slow
def test_a_zoo_whose_driver_is_killed_twenty_times_has_the_table_of_an_undisturbed_one(tmp_path):
    table, running = killed_often(tmp_path / "killed", 20, widths=18)
    assert len(running) == 20
    undisturbed = zoo.measure(zoo.run(tiny(range(2, 18)), tmp_path / "undisturbed"), MEASURES).table()
    assert without_times(table).equals(without_times(undisturbed))
    assert len(table) == table.select("network", "measure").unique().height == 96


@pytest.mark.slow
def test_workers_whose_driver_is_killed_end_and_the_same_call_goes_on(tmp_path, undisturbed):
    pytest.importorskip("loky")
    table, running = killed_often(tmp_path, 2, "loky", 2)
    assert max(running) >= 3  # the driver and its two workers
    assert without_times(table).equals(without_times(undisturbed))
    deadline = time.monotonic() + 30
    while processes(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the packages themselves
@pytest.mark.parametrize(
    ("executor", "package", "options"),
    [
        ("loky", "loky", {}),
        ("ray", "ray", {}),
        ("dask", "distributed", {}),
        ("slurm", "submitit", {"cluster": "local"}),
    ],
)
def test_every_executor_makes_the_same_table(executor, package, options, tmp_path, whole):
    pytest.importorskip(package)
    where = {"executor": executor, "jobs": 2, "options": options}
    made = zoo.measure(zoo.run(tiny(), tmp_path, **where), MEASURES, **where)
    assert without_times(made.table()).equals(without_times(whole.table()))
