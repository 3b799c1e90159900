"""Tasks on executors: retried when a worker dies, and no task takes another with it."""

from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from functools import partial

import pytest
from tests.zoo.plans import die, die_once, stumble, write, write_later

from shaketable.errors import InputError, RunError
from shaketable.zoo import EXECUTORS, Resources, open_executor
from shaketable.zoo.work import Borrowed, work_through


def ended(tasks, folder, executor="local", jobs=1, retries=2, options=None):
    """How each task ended: None, or why it failed."""
    found = {}
    start = partial(open_executor, executor, jobs, Resources(), options or {}, folder / "jobs")
    made = {name: (function, (str(folder), name)) for name, function in tasks.items()}
    work_through(made, start, jobs, retries, lambda name, reason, unsaid: found.update({name: reason}))
    return found


class Pool(ThreadPoolExecutor):
    """A process pool in small: a task that returns Death breaks it, and what comes after it fails."""

    opened = 0

    def __init__(self):
        super().__init__(1)
        Pool.opened += 1
        self.broken = False

    def submit(self, fn, /, *args):
        return super().submit(self.done, fn, args)

    def done(self, function, args):
        self.broken = self.broken or function(*args) is Death
        if self.broken:
            raise BrokenExecutor("a worker died")


class Death:
    """What a task returns that kills its worker."""


def test_where_one_death_breaks_a_whole_pool_the_suspects_are_tried_one_at_a_time_and_only_the_guilty_one_fails():
    tried, found = [], {}

    def task(name):
        tried.append(name)
        return Death if name == "b" else None

    Pool.opened = 0
    tasks = {name: (task, (name,)) for name in "abcdef"}
    work_through(tasks, Pool, 3, 1, lambda name, reason, unsaid: found.update({name: (reason, unsaid)}))
    reason, unsaid = found.pop("b")
    assert "its worker died" in reason
    assert "tried 2 times" in reason
    assert unsaid
    assert found == dict.fromkeys("acdef", (None, False))
    assert tried.count("b") == 3  # once beside others, which does not count, and twice alone
    assert Pool.opened == 4


@pytest.mark.slow
def test_a_worker_that_dies_is_retried_and_takes_no_other_task_with_it(tmp_path):
    pytest.importorskip("loky")
    tasks = {"a": write_later, "b": die_once, "c": write, "d": write}
    assert ended(tasks, tmp_path, "loky", jobs=2) == dict.fromkeys("abcd")
    assert all((tmp_path / name).is_file() for name in "abcd")


@pytest.mark.slow
def test_a_task_that_always_kills_its_worker_fails_alone_after_its_retries(tmp_path):
    pytest.importorskip("loky")
    found = ended({"a": write_later, "b": die, "c": write_later, "d": write}, tmp_path, "loky", jobs=2, retries=1)
    assert "worker died" in found.pop("b")
    assert found == dict.fromkeys("acd")
    assert len((tmp_path / "b.tries").read_text()) == 3  # once beside others, which does not count, and twice alone


def test_an_error_that_is_not_of_the_task_is_retried_and_told_when_it_stays(tmp_path):
    assert ended({"a": stumble, "b": write}, tmp_path) == {"a": None, "b": None}
    found = ended({"c": stumble}, tmp_path, retries=0)
    assert found["c"].startswith("OSError: the disk went away")


def test_an_executor_of_ones_own_does_the_work_and_stays_open(tmp_path):
    with ThreadPoolExecutor(2) as executor:
        tasks = {name: (write, (str(tmp_path), name)) for name in "abc"}
        work_through(tasks, Borrowed(executor).start, 2, 0, lambda *told: None)
        assert executor.submit(int, "3").result() == 3
    assert all((tmp_path / name).is_file() for name in "abc")


def test_an_executor_of_ones_own_that_breaks_is_one_clear_error():
    with pytest.raises(RunError, match="given from outside"):
        work_through({"a": (lambda: Death, ())}, Borrowed(Pool()).start, 1, 0, lambda *told: None)


def test_a_package_that_is_not_installed_is_an_error_that_names_the_extra(tmp_path, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("shaketable.zoo.executors.importlib.import_module", absent)
    for name in EXECUTORS[1:]:
        with pytest.raises(InputError, match=rf"pip install 'shaketable\[{name}\]'"):
            open_executor(name, 1, Resources(), {}, tmp_path)


def test_an_unknown_executor_and_options_that_nobody_takes_are_errors(tmp_path):
    with pytest.raises(InputError, match="there is no executor 'lokie'; there are local, loky"):
        open_executor("lokie", 1, Resources(), {}, tmp_path)
    with pytest.raises(InputError, match="takes no options, and address is given"):
        open_executor("loky", 1, Resources(), {"address": "here"}, tmp_path)
    with pytest.raises(InputError, match="cpus=0"):
        Resources(cpus=0)
    with pytest.raises(InputError, match="minutes=-1"):
        Resources(minutes=-1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray itself
def test_a_ray_cluster_does_the_work_and_a_worker_that_is_killed_there_is_retried(tmp_path):
    pytest.importorskip("ray")
    tasks = {"a": write_later, "b": die_once, "c": stumble, "d": write}
    assert ended(tasks, tmp_path, "ray", jobs=2) == dict.fromkeys("abcd")
    assert "died" in ended({"e": die}, tmp_path, "ray", retries=0)["e"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Dask itself
def test_a_dask_cluster_does_the_work_and_a_worker_that_is_killed_there_is_retried(tmp_path):
    pytest.importorskip("distributed")
    assert ended(
        {"a": write_later, "b": die_once, "c": stumble, "d": write}, tmp_path, "dask", jobs=2
    ) == dict.fromkeys("abcd")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of submitit itself
def test_submitits_local_executor_does_the_work_and_a_worker_that_is_killed_there_is_retried(tmp_path):
    pytest.importorskip("submitit")
    tasks = {"a": write_later, "b": die_once, "c": stumble, "d": write}
    assert ended(tasks, tmp_path, "slurm", jobs=2, options={"cluster": "local"}) == dict.fromkeys("abcd")


def test_a_machine_without_slurm_is_one_clear_error(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(RunError, match="the executor 'slurm' does not start"):
        open_executor("slurm", 1, Resources(), {}, tmp_path)
