"""A study is checked once, when it is made; every bad input is one clear error that names the place and the fix."""

import warnings

import pytest
import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.params import snapshot
from shaketable.study import Study


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).eval()


X, Y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])


def changed(**tensors) -> dict[str, torch.Tensor]:
    weights = {**snapshot(network()), **{name.replace("_", ".", 1): tensor for name, tensor in tensors.items()}}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


@pytest.fixture(autouse=True)
def _keep_the_global_random_state():
    with torch.random.fork_rng():
        yield


def test_a_study_holds_weights_and_data_in_any_form_that_users_have(tmp_path):
    net = network()
    init = {name: torch.zeros_like(tensor) for name, tensor in snapshot(net).items()}
    torch.save(snapshot(net), tmp_path / "epoch1.pt")
    study = Study(
        net, init=init, checkpoints={1: tmp_path / "epoch1.pt"}, test=(X.numpy(), Y.numpy()), train=(X, Y.tolist())
    )
    assert study.epochs == (0, 1)
    assert study.classes == 3
    assert torch.equal(study.checkpoint(1)["0.weight"], net[0].weight)
    assert study.train.inputs.dtype == torch.float32


def test_the_final_weights_are_a_copy_that_later_training_does_not_reach():
    net = network()
    study = Study(net, test=(X, Y))
    with torch.no_grad():
        net[0].weight.zero_()
    assert study.final["0.weight"].abs().sum() > 0


def test_a_counter_that_older_files_leave_out_is_filled_in():
    weights = {name: tensor for name, tensor in snapshot(network()).items() if "num_batches" not in name}
    assert Study(network(), final=weights).final["1.num_batches_tracked"] == 0


def test_tied_names_in_a_state_dict_are_taken_once_and_must_agree():
    net = nn.Module()
    net.embed, net.predict = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    net.predict.weight = net.embed.weight
    net.eval()
    assert list(Study(net, final=net.state_dict()).final) == ["embed.weight"]
    assert list(Study(net, final={"predict.weight": torch.ones(5, 3)}).final) == ["embed.weight"]
    with pytest.raises(InputError, match="are one tied tensor in the network but differ here"):
        Study(net, final={"embed.weight": torch.ones(5, 3), "predict.weight": torch.zeros(5, 3)})


class NotFinite:
    weights = changed(**{"0_weight": torch.tensor([[1, float("nan")]] * 4)})


BAD = {
    "not a module": (dict(network="resnet18"), "network is a str; give a torch.nn.Module"),
    "training mode": (dict(network=network().train()), r"in training mode.*call network\.eval\(\) first"),
    "wrong shape": (
        dict(final=changed(**{"0_weight": torch.ones(4, 3)})),
        r"final: '0.weight' has shape \[4, 3\].*has \[4, 2\]",
    ),
    "missing key": (dict(final=changed(**{"3_bias": None})), "final: lacks '3.bias'; give the state dict"),
    "extra key": (
        dict(final=changed(**{"9_bias": torch.ones(1)})),
        "final: has '9.bias', which the network does not have",
    ),
    "NaN weights": (dict(final=NotFinite.weights), "final: '0.weight' has 4 NaN or infinite values"),
    "NaN init": (dict(init=NotFinite.weights), "init: '0.weight' has 4 NaN or infinite values"),
    "init equal to final": (dict(init=changed()), "init equals final.*saved before training"),
    "empty data": (dict(test=(X[:0], Y[:0])), "test data: there are no examples"),
    "labels out of range": (
        dict(test=(X, Y + 1)),
        "test data: label 3 at index 2 is beyond the network's 3 classes; labels go from 0 to 2",
    ),
    "negative labels": (dict(train=(X, Y - 1)), "train data: .*-1"),
    "lengths differ": (dict(test=(X, Y[:5])), "test data: .*6.*5"),
    "wrong inputs": (
        dict(test=(torch.ones(6, 5), Y)),
        r"does not accept one example of the test data \(inputs \[5\]\)",
    ),
    "NaN inputs": (dict(test=(X * float("nan"), Y)), "test data: .*NaN"),
    "checkpoint name": (dict(checkpoints={"last": {}}), "checkpoint 'last': .*whole number from 0"),
    "no such file": (dict(final="nowhere.pt"), "nowhere.pt: there is no such file"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_a_bad_input_is_one_clear_error(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        Study(**({"network": network(), "final": changed()} | arguments))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_checked_when_it_is_read_and_a_missing_one_lists_those_there_are():
    study = Study(network(), checkpoints={2: changed(**{"3_bias": None}), 5: changed()})
    with pytest.raises(InputError, match="checkpoint 2: lacks '3.bias'"):
        study.checkpoint(2)
    with pytest.raises(InputError, match="there is no checkpoint 3; there are 2, 5"):
        study.checkpoint(3)


def test_data_that_a_study_does_not_have_is_asked_for_by_name():
    with pytest.raises(InputError, match=r"has no train data; make it with train=\(inputs, labels\)"):
        Study(network(), test=(X, Y)).data("train")


def test_the_fingerprint_of_the_weights_sees_init_and_final():
    studies = [Study(network()), Study(network(), init=changed(**{"3_bias": torch.ones(3)}))]
    studies.append(Study(network(), final=changed(**{"3_bias": torch.ones(3)})))
    assert len({study.weights_fingerprint for study in studies}) == 3
    assert Study(network()).weights_fingerprint == studies[0].weights_fingerprint


def test_the_study_stays_as_it_is_when_the_callers_tensors_change():
    given, init = snapshot(network()), changed(**{"3_bias": torch.ones(3)})
    study = Study(network(), final=given, init=init)
    for tensor in (*given.values(), *init.values()):
        tensor.zero_()
    assert study.final["0.weight"].abs().sum() > 0
    assert study.init["3.bias"].sum() == 3


def test_a_mask_of_minus_infinity_in_a_buffer_is_fine_and_a_nan_is_not():
    net = network()
    net[2].register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    assert Study(net, test=(X, Y)).classes == 3
    net[2].mask[0] = float("nan")
    with pytest.raises(InputError, match=r"2\.mask"):
        Study(net)


def test_the_prefix_of_data_parallel_is_taken_off_unless_the_network_has_a_part_of_that_name(tmp_path):
    weights = {f"module.{name}": tensor for name, tensor in changed().items()}
    assert "0.weight" in Study(network(), final=weights).final
    own = nn.Module()
    own.module = nn.Linear(2, 2)
    torch.save(own.state_dict(), tmp_path / "own.pt")
    assert "module.weight" in Study(own.eval(), final=tmp_path / "own.pt").final


def test_a_loss_before_the_logits_is_passed_over():
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 3)

        def forward(self, x):
            return x.sum(), self.fc(x)

    assert Study(WithLoss().eval(), test=(X, Y)).classes == 3


def test_a_network_written_down_is_short():
    assert (
        repr(Study(network(), test=(X, Y))) == "<Study of Sequential: 35 parameters, checkpoints [], 6 test examples>"
    )


class Shape(nn.Module):
    """Logits of a shape that does not fit."""

    def __init__(self, shape) -> None:
        super().__init__()
        self.fc, self.shape = nn.Linear(2, 3), shape

    def forward(self, x):
        return self.fc(x).reshape(len(x), *self.shape)


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.LazyLinear(3).eval()


MORE_BAD = {
    "lazy": (lambda: Study(lazy()), "has no shape yet; run one batch"),
    "complex": (lambda: Study(nn.Linear(2, 2, dtype=torch.complex64).eval()), "is complex"),
    "module as weights": (lambda: Study(network(), final=network()), "final is a Sequential; give a state dict"),
    "arrays as weights": (lambda: Study(network(), final={"0.weight": 3.0}), "'0.weight' is a float"),
    "list of checkpoints": (lambda: Study(network(), checkpoints=[changed()]), "give a mapping from epochs to weights"),
    "two inits": (
        lambda: Study(
            network(), init=changed(**{"3_bias": torch.ones(3)}), checkpoints={0: changed(**{"3_bias": None})}
        ),
        "checkpoint 0: lacks '3.bias'",
    ),
    "inits that differ": (
        lambda: Study(
            network(),
            init=changed(**{"3_bias": torch.ones(3)}),
            checkpoints={0: changed(**{"3_bias": torch.zeros(3)})},
        ),
        "init and checkpoint 0 .* differ",
    ),
    "final epoch": (
        lambda: Study(network(), checkpoints={5: changed(**{"3_bias": torch.ones(3)})}, final_epoch=5),
        "checkpoint 5 is not the final weights",
    ),
    "final epoch's name": (lambda: Study(network(), final_epoch=-1), "whole number from 0"),
    "overflow in the cast": (
        lambda: Study(network(), final=changed(**{"3_bias": torch.full((3,), 1e300, dtype=torch.float64)})),
        "'3.bias' has 3 NaN or infinite values",
    ),
    "logits with more dimensions": (
        lambda: Study(Shape((3, 1)).eval(), test=(X, Y)),
        "one row of class scores per label",
    ),
    "nothing labelled": (
        lambda: Study(nn.Embedding(3, 3).eval(), test=(torch.zeros(2, 4).long(), torch.full((2, 4), -100))),
        "every label is -100",
    ),
    "device": (lambda: Study.from_run("nowhere", device="abacus"), "device 'abacus' is unknown"),
}


@pytest.mark.parametrize(("make", "message"), MORE_BAD.values(), ids=MORE_BAD)
def test_what_cannot_be_studied_is_one_clear_error(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
