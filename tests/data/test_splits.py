"""Stratified choices."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shaketable.data.splits import stratified


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), share=st.floats(0, 1), seed=st.integers(0, 3))
def test_a_choice_is_exact_sorted_distinct_and_within_one_of_proportional_in_every_class(labels, share, seed):
    labels = torch.tensor(labels)
    count = round(share * len(labels))
    chosen = stratified(labels, count, torch.Generator().manual_seed(seed))
    assert len(chosen) == count
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    for label in range(5):
        fair = int((labels == label).sum()) * count / len(labels)
        assert abs(int((labels[chosen] == label).sum()) - fair) < 1


def test_a_choice_repeats_with_its_seed_and_changes_with_another():
    labels = torch.arange(100) % 4
    first, again, other = (stratified(labels, 20, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
