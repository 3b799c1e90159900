"""Names, arguments, refusals, and the parameter counts printed in the papers."""

import json
import math

import pytest
import torch

from shaketable.errors import InputError
from shaketable.identity import fingerprint
from shaketable.networks import FAMILIES, build, construct, describe

CIFAR = (3, 32, 32)

SMALL = {
    "fcn-3x16": {},
    "fcn-16-8-bn": {},
    "vgg11": {"width": 0.05},
    "vgg11-bn": {"width": 0.05},
    "resnet18": {"width": 0.1},
    "resnet18-bn": {"width": 0.1, "pool": "max"},
    "resnet50-v2": {"width": 0.1},
    "resnet50-v2-bn": {"width": 0.1, "stem": "imagenet"},
    "resnet50-v1": {"width": 0.1, "init": "fixup"},
    "resnet18-v2": {"width": 0.1, "bias": True},
    "densenet121": {"width": 0.1, "bias": True},
    "densenet121-bn": {"width": 0.1, "stem": "imagenet"},
    "resn-2-1": {"width": 0.1},
    "resn-1-2-bn": {"width": 0.1, "stem": "imagenet"},
    "vit-2x16": {"patch": 8},
    "mixer-2x16": {"patch": 8},
}
small = pytest.mark.parametrize(("name", "arguments"), list(SMALL.items()), ids=list(SMALL))


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def shape_for(name: str) -> tuple[int, ...]:
    """The shape of an example that a network takes."""
    return (16,) if name.startswith("decoder") else CIFAR


def two_digits(count: int) -> set[str]:
    """The count to two digits as the papers print it, rounded and truncated."""
    exponent = len(str(count)) - 1
    mantissa = count / 10**exponent
    return {f"{number / 10:.1f}e{exponent}" for number in (round(mantissa * 10), math.floor(mantissa * 10))}


# Column NoP of the tables 2 (classes 10) and 3 (classes 100), then 4 and 5, of "module criticality".
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "densenet121", "vgg11", "vgg16")
FULLY_CONNECTED = ("fcn-5000-1000-bn", "fcn-10000-2000-bn")
TABLE_2 = ("1.1e7", "2.1e7", "2.3e7", "4.2e7", "6.8e6", "2.8e7", "3.4e7", "2.0e7", "5.0e7")
TABLE_3 = ("1.1e7", "2.1e7", "2.3e7", "4.2e7", "6.9e6", "2.8e7", "3.4e7", "2.0e7", "5.0e7")
ROWS = [
    *((2, name, {}, 10, printed) for name, printed in zip(ARCHITECTURES + FULLY_CONNECTED, TABLE_2, strict=True)),
    *((3, name, {}, 100, printed) for name, printed in zip(ARCHITECTURES + FULLY_CONNECTED, TABLE_3, strict=True)),
    *(
        (table, "resnet18", {"width": width}, classes, printed)
        for table, classes, column in (
            (4, 10, ("6.9e5", "2.7e6", "1.1e7", "4.4e7")),
            (5, 100, ("7.1e5", "2.8e6", "1.1e7", "4.4e7")),
        )
        for width, printed in zip((0.25, 0.5, 1.0, 2.0), column, strict=True)
    ),
]


@pytest.mark.parametrize(("table", "name", "arguments", "classes", "printed"), ROWS)
def test_the_number_of_parameters_is_the_one_printed(table, name, arguments, classes, printed):
    assert printed in two_digits(parameters(construct(name, CIFAR, classes, **arguments)))


def test_biases_in_the_convolutions_would_miss_a_printed_number():
    assert "6.9e5" not in two_digits(parameters(construct("resnet18", CIFAR, 10, width=0.25, bias=True)))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "count"),
    [
        # torchvision, ImageNet
        ("resnet18-bn", (3, 224, 224), 1000, 11_689_512),
        ("resnet34-bn", (3, 224, 224), 1000, 21_797_672),
        ("resnet50-bn", (3, 224, 224), 1000, 25_557_032),
        ("resnet101-bn", (3, 224, 224), 1000, 44_549_160),
        ("resnet152-bn", (3, 224, 224), 1000, 60_192_808),
        ("densenet121-bn", (3, 224, 224), 1000, 7_978_856),
        ("vgg11", (3, 224, 224), 1000, 132_863_336),
        ("vgg13", (3, 224, 224), 1000, 133_047_848),
        ("vgg16", (3, 224, 224), 1000, 138_357_544),
        ("vgg19", (3, 224, 224), 1000, 143_667_240),
        # kuangliu/pytorch-cifar; its pre-activation network lacks the last norm (2 x 512)
        ("resnet18-bn", CIFAR, 10, 11_173_962),
        ("resnet18-v2-bn", CIFAR, 10, 11_171_146 + 1024),
        ("densenet121-bn", CIFAR, 10, 6_956_298),
    ],
)
def test_the_number_of_parameters_is_that_of_other_implementations(name, shape, classes, count):
    assert parameters(construct(name, shape, classes)) == count


@small
def test_images_become_one_logit_a_class(name, arguments):
    network = build(name, CIFAR, 7, **arguments)
    logits = network(torch.ones(2, *CIFAR))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@small
def test_a_fresh_network_is_in_evaluation_mode_on_the_cpu_and_complete(name, arguments):
    network = build(name, CIFAR, 7, **arguments)
    assert not any(module.training for module in network.modules())
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in network.parameters())
    skeleton = construct(name, CIFAR, 7, **arguments).state_dict()
    assert {k: (v.shape, v.dtype) for k, v in network.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in skeleton.items()
    }


@small
def test_building_leaves_the_global_random_state_alone(name, arguments):
    before = torch.random.get_rng_state()
    build(name, CIFAR, 7, **arguments)
    assert torch.equal(before, torch.random.get_rng_state())


@small
def test_double_precision_agrees_with_single_precision(name, arguments):
    network = build(name, CIFAR, 7, **arguments)
    images = torch.randn(2, *CIFAR, generator=torch.Generator().manual_seed(0))
    single = network(images).double()
    double = network.double()(images.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-3 * double.abs().max().item())


@small
def test_examples_of_a_batch_do_not_see_each_other(name, arguments):
    network = build(name, CIFAR, 7, **arguments).double()
    images = torch.randn(3, *CIFAR, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]))


@small
def test_no_module_writes_to_its_input(name, arguments):
    network = build(name, CIFAR, 7, **arguments)
    calls, writers, versions = [], [], {}

    def before(module, args):
        calls.append(module)
        versions[module] = args[0]._version

    def after(module, args, output):
        if args[0]._version != versions[module]:
            writers.append(module)

    for module in network.modules():
        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
    network(torch.ones(1, *CIFAR))
    assert len(calls) == len(set(calls)) == len(list(network.modules()))
    assert writers == []


def test_equal_seeds_give_equal_weights_and_others_do_not():
    prints = [fingerprint(build("resnet18-bn", CIFAR, 10, seed=seed, width=0.1).state_dict()) for seed in (3, 3, 4)]
    assert prints[0] == prints[1] != prints[2]


def test_the_ending_bn_and_the_argument_say_the_same():
    one, other = build("vgg11-bn", CIFAR, 10, width=0.05), build("vgg11", CIFAR, 10, width=0.05, batch_norm=True)
    assert fingerprint(one.state_dict()) == fingerprint(other.state_dict())


def test_version_1_is_the_default():
    one, other = build("resnet18", CIFAR, 10, width=0.1), build("resnet18-v1", CIFAR, 10, width=0.1)
    assert fingerprint(one.state_dict()) == fingerprint(other.state_dict())


@pytest.mark.parametrize(
    ("name", "shape", "classes", "arguments", "message"),
    [
        (
            "resnet19",
            CIFAR,
            10,
            {},
            "no network is called 'resnet19'. Did you mean 'resnet1.*There is: fcn-.*vgg11.*resnet18",
        ),
        ("Vgg-16", CIFAR, 10, {}, "Did you mean 'vgg16'"),
        ("fcn-0x5", CIFAR, 10, {}, "no network is called 'fcn-0x5'"),
        ("fcn", CIFAR, 10, {}, "no network is called 'fcn'"),
        ("vgg16-v2", CIFAR, 10, {}, "no network is called 'vgg16-v2'"),
        ("vgg16", (3, 8, 8), 10, {}, "vgg16 halves the image five times and needs at least 32x32, not 8x8"),
        ("densenet121", (3, 7, 32), 10, {}, "at least 8x8, not 7x32"),
        ("densenet121", (3, 28, 28), 10, {"stem": "imagenet"}, "at least 29x29, not 28x28"),
        ("resnet18", (784,), 10, {}, "resnet18 takes images"),
        ("decoder-2x16", CIFAR, 10, {}, r"decoder-2x16 takes sequences of T tokens, .* not .*\(3, 32, 32\)"),
        ("decoder-2x16-bn", (8,), 10, {}, "has no argument 'batch_norm'"),
        ("vit-2x16-bn", CIFAR, 10, {}, "has no argument 'batch_norm'"),
        ("vit-2x16", CIFAR, 10, {"patch": 5}, "vit-2x16: patches of 5x5 do not cover an image of 32x32"),
        ("vit-2x16", CIFAR, 10, {"heads": 3}, "3 heads do not divide the width 16"),
        ("mixer-2x16", (3, 32, 30), 10, {}, "mixer-2x16: patches of 4x4 do not cover an image of 32x30"),
        ("vit-4", CIFAR, 10, {}, "no network is called 'vit-4'. Did you mean 'vit-4x64'"),
        ("resn-4-0", CIFAR, 10, {}, "no network is called 'resn-4-0'"),
        ("resn-4-4-bn", CIFAR, 10, {"bias": True}, "without batch norm"),
        ("decoder-2x10", (8,), 10, {"head_width": 3}, "3 heads do not divide the width 10"),
        ("decoder-0x16", (8,), 10, {}, "no network is called"),
        ("resnet18", (3, 0, 32), 10, {}, "whole numbers above 0"),
        ("fcn-1x4", 784, 10, {}, "whole numbers above 0, e.g. .*, not 784"),
        ("fcn-1x4", (), 10, {}, "whole numbers above 0"),
        ("fcn-1x4", CIFAR, 1, {}, "classes must be a whole number of at least 2, not 1"),
        ("fcn-1x4", CIFAR, 10, {"width": 2.0}, "fcn-1x4 has no argument 'width'. It has: batch_norm, init"),
        ("resnet18", CIFAR, 10, {"batchnorm": True}, "Did you mean 'batch_norm'"),
        ("resnet18", CIFAR, 10, {"version": 2}, "has no argument 'version'"),
        (
            "resnet18",
            CIFAR,
            10,
            {"init": "kaiming"},
            "init='kaiming' is unknown. Did you mean 'kaiming-normal'.*Choose one of",
        ),
        ("vgg11", CIFAR, 10, {"init": "fixup"}, "init='fixup' is unknown"),
        ("resnet18", CIFAR, 10, {"pool": ["avg"]}, "pool=.* is unknown"),
        ("resnet18", CIFAR, 10, {"batch_norm": 1}, "batch_norm must be true or false"),
        ("resnet18-bn", CIFAR, 10, {"batch_norm": False}, "the name says batch_norm=True"),
        ("resnet18", CIFAR, 10, {"width": 0}, "width must be a finite number above 0"),
        ("resnet18", CIFAR, 10, {"width": float("inf")}, "width must be a finite number above 0"),
        ("vgg11", CIFAR, 10, {"hidden": 0.5}, "hidden must be a whole number above 0"),
        ("resnet18-bn", CIFAR, 10, {"init": "fixup"}, "without batch norm"),
        ("resnet18-v2", CIFAR, 10, {"init": "fixup"}, "version 1"),
        ("resnet18", CIFAR, 10, {"init": "fixup", "bias": True}, "scalar biases"),
        ("resnet18-bn", CIFAR, 10, {"bias": True}, "without batch norm"),
        ("densenet121-bn", CIFAR, 10, {"bias": True}, "without batch norm"),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_reason(name, shape, classes, arguments, message):
    with pytest.raises(InputError, match=message):
        build(name, shape, classes, **arguments)


def test_the_smallest_images_that_are_not_refused_work():
    for name, size, arguments in (
        ("vgg11", 32, {"width": 0.05}),
        ("densenet121", 8, {"width": 0.1}),
        ("densenet121", 29, {"width": 0.1, "stem": "imagenet"}),
        ("resnet18", 1, {"width": 0.1}),
        ("resnet18-v2", 1, {"width": 0.1, "stem": "imagenet"}),
    ):
        assert build(name, (1, size, size), 3, **arguments)(torch.ones(2, 1, size, size)).shape == (2, 3)


def test_every_family_builds_its_example_and_describes_it_in_plain_values():
    records = describe()
    assert json.loads(json.dumps(records)) == records
    assert [record["family"] for record in records] == list(FAMILIES)
    for record in records:
        defaults = {name: argument["default"] for name, argument in record["arguments"].items()}
        defaults.pop("batch_norm", None)
        assert construct(record["example"], shape_for(record["example"]), 10, **defaults)
        assert {"default", "allowed"} == set.intersection(*(set(argument) for argument in record["arguments"].values()))


@pytest.mark.parametrize("name", [name for family in FAMILIES.values() for name in family.known])
def test_every_name_that_is_proposed_can_be_built(name):
    for ending in (
        ("",) if name.startswith(("decoder", "vit", "mixer", "mobilenet", "resnet18k", "linked")) else ("", "-bn")
    ):
        assert parameters(construct(name + ending, shape_for(name), 10)) > 0
