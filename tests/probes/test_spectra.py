"""Spectra and operator norms of layers: closed forms, the dense operator, and rows that say what is not there."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shaketable.errors import InputError
from shaketable.params import snapshot
from shaketable.probes.spectra import operator_norms, spectra
from shaketable.study import Study


def matrices(*values, **more):
    """A study of one linear layer whose weights are diagonal: one list of values a checkpoint, the final weights last."""
    weights = [{"weight": torch.diag(torch.tensor(value))} for value in values]
    network = nn.Linear(len(values[0]), len(values[0]), bias=False).eval()
    return Study(network, final=weights[-1], checkpoints=dict(enumerate(weights[:-1])), **more)


def convolutional(with_data=True):
    """A study of a convolution with stride 2, a normalisation and a classifier, on 6x6 maps."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 2))
    init = snapshot(network)
    final = {name: tensor + 0.1 * torch.randn_like(tensor.float()) for name, tensor in init.items()}
    test = (torch.zeros(2, 2, 6, 6), [0, 1]) if with_data else None
    return Study(network.eval(), init=init, final=final, test=test)


def test_a_spectrum_has_a_row_for_each_rank_and_checkpoint_with_the_final_weights_last():
    table = spectra(matrices([1.0, 2.0], [3.0, 5.0], [4.0, 0.0], final_epoch=9))
    assert table.select("checkpoint", "index", "singular_value").rows() == [
        *[(0, 0, 2.0), (0, 1, 1.0), (1, 0, 5.0), (1, 1, 3.0), (9, 0, 4.0), (9, 1, 0.0)]
    ]
    assert set(table["values"]) == {2}
    assert table.row(0)[:4] == ("linear", 0, "Linear", "weight")


def test_thinning_keeps_the_first_and_the_last_and_evenly_spaced_ranks_between():
    study = matrices([0.5] * 9, [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    table = spectra(study, checkpoints=[], values=3)
    assert table.select("index", "singular_value", "values").rows() == [(0, 9.0, 9), (4, 5.0, 9), (8, 1.0, 9)]
    assert len(spectra(study, checkpoints=[], values=None)) == len(spectra(study, checkpoints=[], values=99)) == 9


def test_the_norms_of_a_convolution_and_of_its_way_are_those_of_the_dense_operator_and_of_the_reshaped_kernel():
    study = convolutional()
    table = operator_norms(study)
    assert table["layer"].to_list() == ["0", "0", "3", "3"]
    assert table["checkpoint"].to_list() == [0, None, 0, None]

    def dense(weight):
        units = F.pad(torch.eye(72, dtype=torch.float64).reshape(-1, 2, 6, 6), (1, 1, 1, 1), mode="circular")
        return np.linalg.norm(F.conv2d(units, weight.double(), stride=2).flatten(1).numpy(), 2)

    init, final = study.init["0.weight"].double(), study.final["0.weight"].double()
    for row, weight in zip(table.head(2).rows(named=True), (init, final), strict=True):
        assert row["operator_norm"] == pytest.approx(dense(weight), rel=1e-10)
        assert row["operator_distance"] == pytest.approx(dense(final - weight), rel=1e-10)
        assert row["matrix_norm"] == pytest.approx(np.linalg.norm(weight.flatten(1).numpy(), 2), rel=1e-10)
        assert row["matrix_distance"] == pytest.approx(
            np.linalg.norm((final - weight).flatten(1).numpy(), 2), rel=1e-10
        )
    linear = table.row(2, named=True)
    assert linear["operator_distance"] == linear["matrix_distance"] > 0
    head = spectra(study, values=None).filter(layer="0", index=0)
    assert head["singular_value"].to_list() == pytest.approx(table["operator_norm"].to_list()[:2], rel=1e-12)


def test_a_checkpoint_that_is_the_final_one_is_there_once_with_distance_zero():
    study = matrices([1.0, 2.0], [3.0, 5.0], [4.0, 0.0])
    last = Study(study.network, final=study.final, checkpoints={0: study.init, 7: study.final}, final_epoch=7)
    table = operator_norms(last)
    assert table.select("checkpoint", "operator_norm", "operator_distance").rows() == [(0, 2.0, 3.0), (7, 4.0, 0.0)]


def test_without_data_a_convolution_has_a_reason_and_its_reshaped_kernel():
    rows = operator_norms(convolutional(with_data=False)).filter(layer="0").rows(named=True)
    assert [row["status"] for row in rows] == ["unavailable"] * 2
    assert "size" in rows[0]["reason"]
    assert rows[0]["operator_norm"] is None
    assert rows[0]["matrix_norm"] > 0
    (row, *_), linear = spectra(convolutional(with_data=False)).partition_by("layer", as_dict=False)
    assert row is not None
    assert set(linear["status"]) == {"ok"}


def test_without_init_the_rows_say_so_and_the_final_weights_are_there():
    study = Study(nn.Linear(2, 2, bias=False).eval())
    for table in (spectra(study), operator_norms(study)):
        assert table["checkpoint"].to_list()[:2] == [0, None]
        assert table["status"].to_list()[0] == "unavailable"
        assert "init" in table["reason"][0]
        assert table["status"].to_list()[1] == "ok"


class Own(nn.Module):
    """A convolution written by hand: its weight has four dimensions and no known operator."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(2, 1, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.kernel).mean((2, 3))


def test_a_weight_without_a_known_operator_is_a_row_that_says_so():
    study = Study(Own().eval(), test=(torch.zeros(1, 1, 4, 4), [0]))
    (row,) = operator_norms(study, checkpoints=[]).rows(named=True)
    assert row["status"] == "unavailable"
    assert "no linear operator is known" in row["reason"]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "computed", [nn.utils.spectral_norm, nn.utils.weight_norm, nn.utils.parametrizations.weight_norm]
)
def test_a_weight_that_is_computed_from_other_parameters_has_no_norm_and_says_why(computed):
    study = Study(nn.Sequential(computed(nn.Linear(6, 5)), nn.Linear(5, 2)).eval())
    for table in (operator_norms(study, checkpoints=[]), spectra(study, checkpoints=[])):
        rows = table.filter(layer="0")
        assert set(rows["status"]) == {"unavailable"}
        assert "computes its weight from other parameters" in rows["reason"][0]
        assert set(table.filter(layer="1")["status"]) == {"ok"}


def test_every_weight_of_a_block_has_its_own_spectrum():
    table = spectra(convolutional(), by={"both": ["0", "3"]}, checkpoints=[])
    assert table["weight"].unique(maintain_order=True).to_list() == ["0.weight", "3.weight"]
    assert set(table["layer"]) == {"both"}
    assert len(table) == 27 + 2


def test_wrong_arguments_end_in_one_sentence():
    study = matrices([1.0], [2.0])
    for values in (1, 2.5, True):
        with pytest.raises(InputError, match="give a whole number from 2"):
            spectra(study, values=values)
    with pytest.raises(InputError, match="there is no checkpoint 3"):
        operator_norms(study, checkpoints=[3])
    with pytest.raises(InputError, match="give a list of epochs"):
        operator_norms(study, checkpoints=3)
    with pytest.raises(InputError, match="no linear layer"):
        spectra(Study(nn.BatchNorm1d(2).eval()))
