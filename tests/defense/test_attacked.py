"""The table of a study's network and its randomised versions under attack: its rows, its store, what is refused."""

import copy
from types import SimpleNamespace

import pytest
import torch

from shaketable.data.data import Data, Normalisation
from shaketable.defense import Attacks, Normalised, RandomisedClassifier, attack_table, attacked, pixels
from shaketable.errors import InputError
from shaketable.study import Study

FEW = {"eps": 0.1, "steps": 2, "step_size": 0.05, "repeats": 2, "examples": 8}


@pytest.fixture(scope="module")
def attackable(study, data) -> Study:
    """The study with images as its network gets them: normalised."""
    normalised = Data((data.inputs - 0.5) / 0.25, data.labels, data.classes)
    return Study(study.network, init=study.init, test=normalised)


NORMALISATION = Normalisation((0.5,), (0.25,))


def test_the_rows_are_those_of_the_table_of_each_model_and_of_each_number_of_gradient_draws(captum, attackable):
    result = attacked(attackable, NORMALISATION, r=2, s=(0, 1), gradient_draws=(1, 3), **FEW)
    table, shown = result.table, pixels(attackable.data("test"), NORMALISATION)
    assert table["model"].unique(maintain_order=True).to_list() == ["baseline", "r=2, s=1"]
    counts = table.group_by("model", "attack", "gradient_draws", maintain_order=True).len().rows()
    assert counts == [
        ("baseline", "clean", None, 2),
        ("baseline", "fgsm", 1, 2),
        ("baseline", "pgd", 1, 2),
        ("r=2, s=1", "clean", None, 2),
        ("r=2, s=1", "fgsm", 1, 2),
        ("r=2, s=1", "pgd", 1, 2),
        ("r=2, s=1", "fgsm", 3, 2),
        ("r=2, s=1", "pgd", 3, 2),
    ]
    model = Normalised(RandomisedClassifier(attackable, r=2, s=1), NORMALISATION)
    for draws in (1, 3):
        alone = attack_table(model, shown, gradient_draws=draws, **FEW).filter(attack="pgd")
        own = table.filter(model="r=2, s=1", attack="pgd", gradient_draws=draws)
        assert own["correct"].to_list() == alone["correct"].to_list()


def with_named_inputs(study):
    """The same network as image classifiers of Hugging Face are: it takes ``pixel_values`` and returns an object with ``logits``."""
    plain = type(study.network)

    class Images(plain):
        def forward(self, pixel_values):
            return SimpleNamespace(logits=plain.forward(self, pixel_values))

    network = copy.deepcopy(study.network)
    network.__class__ = Images
    test = study.data("test")
    return Study(network, init=study.init, test=Data({"pixel_values": test.inputs}, test.labels, test.classes))


def test_inputs_in_a_dict_are_attacked_as_the_tensor_that_it_holds(captum, attackable):
    named = with_named_inputs(attackable)
    arguments = {"r": 2, "s": (0, 1), "gradient_draws": (1, 2), **FEW}
    found = attacked(named, NORMALISATION, **arguments).table
    assert found.equals(attacked(attackable, NORMALISATION, **arguments).table)
    (held,) = pixels(named.data("test"), NORMALISATION).inputs.values()
    assert torch.equal(held, pixels(attackable.data("test"), NORMALISATION).inputs)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"input_ids": torch.ones(4, 3, dtype=torch.int64)}, "here are inputs.input_ids of int64"),
        ({"a": torch.zeros(4, 3), "b": torch.zeros(4, 3)}, "here are inputs.a of float32, inputs.b of float32"),
    ],
)
def test_inputs_that_cannot_be_attacked_are_one_sentence_that_names_them(attackable, inputs, said):
    data = Data(inputs, torch.tensor([0, 1, 2, 0]), 3)
    with pytest.raises(InputError, match=f"attacks need one floating-point tensor .*{said}"):
        attack_table(attackable.network, data, **FEW)


def test_a_table_is_kept_goes_on_where_it_was_stopped_and_is_read_when_it_is_done(
    captum, attackable, tmp_path, monkeypatch
):
    from shaketable.defense import attacked as room

    done, whole = [], attacked(attackable, NORMALISATION, r=2, **FEW)
    original = room.__globals__["attack_table"]

    def failing(models, *args, **kwargs):
        done.extend(models)
        if len(done) == 2:
            raise KeyboardInterrupt
        return original(models, *args, **kwargs)

    monkeypatch.setitem(room.__globals__, "attack_table", failing)
    with pytest.raises(KeyboardInterrupt):
        attacked(attackable, NORMALISATION, r=2, store=tmp_path, **FEW)
    for _ in range(2):
        found = attacked(attackable, NORMALISATION, r=2, store=tmp_path, **FEW)
        assert found.table.equals(whole.table)
    assert done == ["baseline", "r=2, s=1", "r=2, s=1"], "the baseline was kept"
    (folder,) = tmp_path.iterdir()
    assert Attacks.load(folder).summary().equals(whole.summary())


def test_the_final_weights_are_attacked_whatever_weights_the_network_holds(captum, attackable):
    assert attackable.init is not None
    untrained = copy.deepcopy(attackable.network)
    untrained.load_state_dict(attackable.init)
    study = Study(untrained.eval(), final=attackable.final, init=attackable.init, test=attackable.test)
    expected = attacked(attackable, NORMALISATION, r=2, **FEW).table
    assert attacked(study, NORMALISATION, r=2, **FEW).table.equals(expected)
    assert not attacked(Study(untrained, test=attackable.test), NORMALISATION, s=(0,), **FEW).table.equals(
        expected.filter(model="baseline")
    )


def test_a_kept_table_is_not_read_for_fresh_weights_of_another_distribution(captum, attackable, tmp_path):
    def initialise(network, generator):
        for parameter in network.parameters():
            torch.nn.init.constant_(parameter, float(torch.rand((), generator=generator)))

    own = Study(attackable.network, init=attackable.init, test=attackable.test, initialise=initialise)
    few = {"r": 2, "attacks": (), "repeats": 1}
    kept = [attacked(study, NORMALISATION, **few, store=tmp_path) for study in (attackable, own)]
    assert kept[1].table.equals(attacked(own, NORMALISATION, **few).table)
    assert not kept[1].table.equals(kept[0].table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": -0.1}, "a budget must lie between 0 and 1"),
        ({"eps": 1.1}, "a budget must lie between 0 and 1"),
        ({"eps": float("nan")}, "a budget must lie between 0 and 1"),
        ({"gradient_draws": (0,)}, "gradient_draws=0"),
        ({"gradient_draws": ()}, "gradient_draws=0"),
        ({"s": (3,)}, "from 0 to 2"),
        ({"r": 0}, "r=0: give a whole number from 1"),
        ({"attacks": ("cw",)}, "attack 'cw' is unknown"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_attacked(arguments, message, attackable):
    with pytest.raises(InputError, match=message):
        attacked(attackable, NORMALISATION, **arguments)


def test_data_that_are_no_pixels_with_that_normalisation_are_refused(attackable):
    with pytest.raises(InputError, match="beyond bounds"):
        attacked(attackable)
    assert isinstance(attackable.data("test").inputs, torch.Tensor)
