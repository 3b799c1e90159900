"""What should be a list, or a name, and is something else."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

import shaketable as st
from shaketable.defense import attacked
from shaketable.errors import InputError
from shaketable.probes.distances import distances
from shaketable.probes.similarity import similarity
from shaketable.probes.spectra import operator_norms, spectra

LISTS = {
    st.ablation: ("layers", "over", "classes"),
    st.robustness: ("checkpoints", "splits"),
    st.joint_robustness: ("checkpoints", "splits"),
    st.largest_set: ("candidates",),
    st.prunability: ("methods", "sparsities", "splits"),
    st.sensitivity: ("splits", "noise", "pruning"),
    st.path: ("layers", "splits"),
    st.valley: ("layer", "sigmas"),
    st.criticality: ("epsilon", "alphas", "sigmas"),
    similarity: ("rewound",),
    spectra: ("checkpoints",),
    operator_norms: ("checkpoints",),
    distances: ("checkpoints",),
    st.measurements: ("names", "arguments"),
    attacked: ("attacks", "gradient_draws", "s"),
}
REQUIRED = {"groups": {"one": ["1"]}, "layer": "1", "split": "test"}


@pytest.fixture(scope="module")
def study():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    init = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    final = {name: tensor + 1 for name, tensor in init.items()}
    inputs, labels = torch.rand(6, 4), [0, 1, 2, 0, 1, 2]
    return st.Study(network, init=init, final=final, train=(inputs, labels), test=(inputs, labels))


@pytest.mark.parametrize("value", [[[1]], {"x": 1}, object()], ids=["a list in a list", "a dict", "an object"])
@pytest.mark.parametrize(
    ("probe", "argument"), [(probe, argument) for probe, arguments in LISTS.items() for argument in arguments]
)
def test_what_is_no_list_of_the_right_things_is_one_sentence_about_that_argument(study, probe, argument, value):
    parameters = inspect.signature(probe).parameters
    others = {name: given for name, given in REQUIRED.items() if name in parameters and name != argument}
    with pytest.raises(InputError, match=rf"\b{argument}"):
        probe(study, **others, **{argument: value})


@pytest.mark.parametrize(
    ("probe", "argument", "said"),
    [
        (st.ablation, "classes", "classes=3: give a list of classes, such as"),
        (st.ablation, "over", "over=3: give 'class', 'all' or both"),
        (st.robustness, "splits", "splits=3: give a list of 'test' and 'train'"),
        (st.robustness, "checkpoints", "checkpoints=3: give a list of epochs"),
        (st.prunability, "methods", "methods=3: give 'magnitude', 'random' or both"),
        (similarity, "rewound", "rewound=3: give the name of a layer, or a list of them"),
    ],
)
def test_a_number_in_the_place_of_a_list_is_told_with_what_to_give(study, probe, argument, said):
    with pytest.raises(InputError, match=said):
        probe(study, **{argument: 3})


@pytest.mark.parametrize(
    ("probe", "given"),
    [
        (st.robustness, {"checkpoints": np.array([0])}),
        (st.joint_robustness, {"groups": {"one": ["1"]}, "checkpoints": np.array([0])}),
        (st.ablation, {"classes": np.array([1]), "layers": np.array(["1"])}),
        (st.prunability, {"sparsities": np.array([0.5], dtype=np.float32)}),
    ],
)
def test_lists_of_numpy_are_taken_and_stored_like_others(study, probe, given, tmp_path):
    lists = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in given.items()}
    probe(study, **given, store=tmp_path)
    probe(study, **lists, store=tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
