"""A study is checked once, when it is made; every bad input is one clear error that names the place and the fix."""

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
    studies = [Study(network()), Study(network(), init=NotFinite and changed(**{"3_bias": torch.ones(3)}))]
    studies.append(Study(network(), final=changed(**{"3_bias": torch.ones(3)})))
    assert len({study.weights_fingerprint for study in studies}) == 3
    assert Study(network()).weights_fingerprint == studies[0].weights_fingerprint
