"""Zoos: many networks trained over hyper-parameters, every measure of each, and which of the measures predict the gap."""

from shaketable.zoo.driver import measure, run
from shaketable.zoo.executors import EXECUTORS, Resources, open_executor
from shaketable.zoo.plan import Entry, Plan
from shaketable.zoo.ranking import TARGETS, Ranking, rank
from shaketable.zoo.store import Zoo, read_table

__all__ = [
    "EXECUTORS",
    "TARGETS",
    "Entry",
    "Plan",
    "Ranking",
    "Resources",
    "Zoo",
    "measure",
    "open_executor",
    "rank",
    "read_table",
    "run",
]
