"""timm and torchvision: stand-ins that behave as their documentation says, for they cannot be installed beside this torch."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from shaketable.errors import InputError
from shaketable.study import Study


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3))  # in training mode, as these libraries make them


def normalised(image: Image.Image) -> torch.Tensor:
    """As ToTensor and Normalize(0.5, 0.25) do it."""
    return (torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1) - 0.5) / 0.25


def images(count: int = 4) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


@pytest.fixture
def timm(monkeypatch):
    def create_model(name, pretrained=False):
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        assert pretrained
        return network()

    def create_transform(input_size, mean, std, is_training):
        assert (input_size, mean, std, is_training) == ((3, 4, 4), (0.5,) * 3, (0.25,) * 3, False)
        return normalised

    data = SimpleNamespace(
        resolve_model_data_config=lambda model: {"input_size": (3, 4, 4), "mean": (0.5,) * 3, "std": (0.25,) * 3},
        create_transform=create_transform,
    )
    module = ModuleType("timm")
    module.create_model, module.data = create_model, data
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.fixture
def torchvision(monkeypatch):
    weights = SimpleNamespace(transforms=lambda: normalised, meta={"categories": list("abc")})

    def get_model(name, weights=None):
        return network()

    def get_model_weights(name):
        if name != "tiny":
            raise ValueError(f"Unknown model {name}")
        return {"DEFAULT": weights}

    module, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    models.get_model, models.get_model_weights, module.models = get_model, get_model_weights, models
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_model_by_name_gets_the_transform_of_its_weights_and_is_put_into_evaluation_mode(library, request):
    request.getfixturevalue(library)
    make = getattr(Study, f"from_{library}")
    expected = torch.stack([normalised(image) for image in images()])
    pair = make("tiny", (images(), [0, 1, 2, 1]))
    items = make("tiny", list(zip(images(), [0, 1, 2, 1])))
    for study in (pair, items):
        assert torch.equal(study.data("test").inputs, expected)
        assert study.data("test").labels.tolist() == [0, 1, 2, 1]
        assert not study.network.training
        assert study.name == "tiny"


@pytest.mark.parametrize("make", [Study.from_timm, Study.from_torchvision])
def test_floats_are_taken_as_they_are_and_need_no_library(make):
    inputs = torch.randn(4, 3, 4, 4)
    study = make(network().eval(), (inputs, [0, 1, 2, 1]), train=(inputs, [0, 0, 0, 0]))
    assert torch.equal(study.data("test").inputs, inputs)
    assert len(study.data("train")) == 4
    assert "robustness to re-initialisation" in study.needs_init


@pytest.mark.parametrize("make", [Study.from_timm, Study.from_torchvision])
def test_a_transform_of_ones_own_goes_first(make):
    study = make(network().eval(), (images(), [0, 1, 2, 1]), transform=lambda image: normalised(image) * 0 + 1)
    assert torch.equal(study.data("test").inputs, torch.ones(4, 3, 4, 4))


@pytest.mark.parametrize("make", [Study.from_timm, Study.from_torchvision])
def test_bytes_and_images_of_several_sizes_are_refused(make):
    with pytest.raises(InputError, match="test data: images are unsigned bytes"):
        make(network().eval(), (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0, 1]))
    with pytest.raises(InputError, match="differ in shape"):
        made = [images()[0], images()[0].resize((5, 5))]
        make(network().eval(), (made, [0, 1]), transform=normalised)
    with pytest.raises(InputError, match="the model is a int"):
        make(3)


def test_a_name_without_the_library_names_the_extra(monkeypatch):
    for library, make in (("timm", Study.from_timm), ("torchvision", Study.from_torchvision)):
        monkeypatch.setitem(sys.modules, library, None)
        monkeypatch.setitem(sys.modules, f"{library}.models", None)
        with pytest.raises(InputError, match=rf"pip install 'shaketable\[{library}\]'"):
            make("tiny")


@pytest.mark.usefixtures("timm", "torchvision")
def test_an_unknown_name_is_one_clear_error():
    with pytest.raises(InputError, match=r"timm cannot make 'huge' \(Unknown model"):
        Study.from_timm("huge")
    with pytest.raises(InputError, match="torchvision cannot make 'huge'"):
        Study.from_torchvision("huge")
    with pytest.raises(InputError, match="torchvision cannot make 'tiny'"):
        Study.from_torchvision("tiny", weights="OTHER")


def test_pil_images_for_a_torchvision_model_of_ones_own_need_its_weights():
    with pytest.raises(InputError, match="nothing says how they were prepared"):
        Study.from_torchvision(network().eval(), (images(), [0, 1, 2, 1]))
