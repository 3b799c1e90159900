"""The generalization error: counted by hand."""

import pytest
import torch
from torch import nn

from shaketable.measures import generalization_error
from shaketable.study import Study

IDENTITY = {"weight": torch.eye(3)}
INPUTS = torch.eye(3)[[0, 1, 2, 0, 1, 2, 0]]
RIGHT = [0, 1, 2, 0, 1, 2, 0]


def gap(train: list[int], test: list[int], **arguments):
    network = nn.Linear(3, 3, bias=False).eval()
    study = Study(network, final=IDENTITY, train=(INPUTS[: len(train)], train), test=(INPUTS[: len(test)], test))
    return generalization_error(study, **arguments)


def test_the_generalization_error_is_test_error_minus_train_error_as_a_fraction():
    wrong_in_two_of_seven = [1, 0, *RIGHT[2:]]
    assert gap(RIGHT, wrong_in_two_of_seven).value == pytest.approx(2 / 7)
    assert gap([1, 1, 2, 0], wrong_in_two_of_seven).value == pytest.approx(2 / 7 - 1 / 4)


def test_fewer_errors_on_new_data_make_it_negative_without_a_logarithm():
    found = gap([1, 1, 2, 0], RIGHT)
    assert (found.value, found.log_value, found.status) == (-0.25, None, "ok")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_a_ragged_last_batch_counts_as_much_as_its_examples(batch_size):
    assert gap(RIGHT, [1, 0, *RIGHT[2:]], batch_size=batch_size).value == 2 / 7
