"""Recipes of the papers, by name."""

from difflib import get_close_matches
from typing import Any

from shaketable.errors import InputError
from shaketable.training.recipe import Recipe

_CHATTERJI = {
    "network": "resnet18",
    "network_args": {"init": "xavier-uniform"},
    "data": "cifar10",
    "learning_rate": 0.1,
    "milestones": (60, 120, 180, 240),
    "factor": 0.2,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "epochs": 300,
    "stop_below": 0.15,
    "augmentation": ("pad-crop:4", "flip"),
}

_DOUBLE_DESCENT = {
    "network": "cnn5-64-bn",
    "data": "cifar100",
    "learning_rate": 0.01,
    "weight_decay": 1e-4,
    "schedule": "linear",
    "milestones": (100, 180),
    "factor": 0.01,
    "batch_size": 128,
    "epochs": 200,
    "augmentation": ("pad-crop:4", "flip"),
    "checkpoints": (0, 200),
}

_SPARSITY = {
    "network": "vgg16-bn",
    "data": "cifar100",
    "learning_rate": 0.05,
    "milestones": (60, 120, 160),
    "factor": 0.2,
    "batch_size": 128,
    "epochs": 200,
    "stop_below": 0.01,
    "checkpoints": (0,),
}

_SPARSITY_IMAGENET_E = {
    "network": "vgg16",
    "data": "imagenet.npz",
    "learning_rate": 0.01,
    "momentum": 0.0,
    "milestones": (20, 40, 60),
    "factor": 0.1,
    "batch_size": 256,
    "epochs": 74,
    "checkpoints": (0,),
}
_SPARSITY_IMAGENET_D = {
    **_SPARSITY_IMAGENET_E,
    "weight_decay": 5e-4,
    "network_args": {"dropout": 0.3, "dropped": 1},
}
_SPARSITY_IMAGENET_C = {**_SPARSITY_IMAGENET_D, "network_args": {"dropout": 0.5}}
_SPARSITY_IMAGENET_B = {**_SPARSITY_IMAGENET_C, "momentum": 0.9}
_SPARSITY_IMAGENET_A = {**_SPARSITY_IMAGENET_B, "augmentation": ("pad-crop:32", "flip")}

NAMED: dict[str, dict[str, Any]] = {
    "demo": {
        "network": "fcn-3x256",
        "data": "digits",
        "data_args": {"normalise": False},
        "batch_size": 32,
        "checkpoints": (0, 1, 2, 5, 10, 20, 50, 100),
        "evaluate_every": 5,
    },
    "all-layers-equal": {"network": "fcn-3x256", "data": "mnist"},
    "all-layers-equal-cifar10": {
        "network": "resnet50-v2",
        "network_args": {"init": "xavier-uniform"},
        "data": "cifar10",
        "augmentation": ("pad-crop:4", "flip"),
    },
    "all-layers-equal-text": {
        "network": "decoder-4x128",
        "data": "tinyshakespeare",
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "schedule": "constant",
        "batch_size": 32,
        "epochs": 20,
        "checkpoints": (0, 1, 2, 5, 10, 15, 20),
    },
    "module-criticality": _CHATTERJI,
    "module-criticality-cifar100": {**_CHATTERJI, "data": "cifar100", "stop_below": 0.25},
    "module-criticality-fcn": {
        **_CHATTERJI,
        "network": "fcn-5000-1000-bn",
        "network_args": {},
        "milestones": (200, 400, 600, 800),
        "epochs": 1000,
    },
    "demogen": {
        "network": "nin-3x192-bn",
        "data": "cifar10",
        "learning_rate": 0.01,
        "milestones": (100, 200, 300),
        "factor": 0.1,
        "batch_size": 128,
        "epochs": 380,
        "checkpoints": (0, 380),
    },
    "nn-mass": {
        "network": "linked-20x32t90-20x64t170-20x128t300",
        "data": "cifar10",
        "learning_rate": 0.05,
        "schedule": "cosine",
        "weight_decay": 5e-4,
        "augmentation": ("pad-crop:4", "flip", "cutout:16"),
        "epochs": 200,
        "checkpoints": (0,),
        "evaluate_every": 50,
    },
    "double-descent": _DOUBLE_DESCENT,
    "double-descent-resnet": {**_DOUBLE_DESCENT, "network": "resnet18k-64"},
    "sparsity": _SPARSITY,
    "sparsity-mobilenet": {**_SPARSITY, "network": "mobilenet"},
    "sparsity-resnet34": {**_SPARSITY, "network": "resnet34-bn"},
    "sparsity-imagenet-a": _SPARSITY_IMAGENET_A,
    "sparsity-imagenet-b": _SPARSITY_IMAGENET_B,
    "sparsity-imagenet-c": _SPARSITY_IMAGENET_C,
    "sparsity-imagenet-d": _SPARSITY_IMAGENET_D,
    "sparsity-imagenet-e": _SPARSITY_IMAGENET_E,
}
"""The fields of each named recipe that are not the defaults of :class:`Recipe`."""


def named(name: str, **changes: Any) -> Recipe:
    """A recipe of a paper, with some fields changed.

    Args:
        name: a key of :data:`NAMED`.
        changes: fields of :class:`Recipe`, such as ``network``, ``seed`` or ``epochs``; ``network_args`` and ``data_args``
            change the recipe's own key by key.

    Raises:
        InputError: an unknown name or field, or a value that is not allowed.

    Deviates: ``"demo"`` is ours: the paper's settings on scikit-learn's digits, but with batches of 32 and pixels in
    [0, 1] (docs/results/demo).
    Convolutional networks without batch norm start from Xavier-uniform: from Kaiming-normal, which Chatterji et al. name,
    they diverge within an epoch at these learning rates (seen at a quarter of the width; their Fixup is
    ``network_args={"init": "fixup"}``, for ResNets).
    ``"all-layers-equal-text"`` has the optimiser, the epochs and the checkpoints of section 5.1; the paper's own network is
    ``decoder-12x768`` with 30,000 tokens, on a text that is not at hand (LM1B), and neither its learning rate nor its batch
    is printed.
    The networks are one of those that each paper studies. The learning rate of Zhang
    et al. is not printed; it is 0.1 here. Chatterji et al. print no upper limit of epochs: 300 (1000 for the fully
    connected networks) is ours. They say that weight decay was used to train all networks, and at the end of the
    appendix that it was not; the latter is read as about the runs with corrupted labels alone, which had no
    augmentation either:
    ``named("module-criticality", label_corruption=0.2, weight_decay=0.0, augmentation=())``.

    ``"demogen"`` is one of the 324 networks of Kuhn et al.: change ``network`` (2, 3 or 4 blocks of 192, 288 or 384),
    ``network_args={"dropout": ...}`` (0, 0.2, 0.5), ``weight_decay`` (0, 0.001, 0.005), ``augmentation`` (none, or
    ``("pad-crop:4", "flip")``: their cropping, flipping and shifting) and ``seed``. Their weight decay is on kernels alone, ours
    on all parameters. ``"double-descent"`` is any of their widths 2, 4, ... 64 (``cnn5-<k>-bn``, ``resnet18k-<k>``): the schedule
    that they call piecewise constant is linear in the paper that they name, from half of the epochs to nine tenths, with
    the last rate a hundredth of the first.

    ``"sparsity"`` is one of the 80 networks of Zhao, Zhang and Hu: change ``network`` (with and without ``-bn``),
    ``network_args={"dropout": ...}`` (0, 0.3, 0.5), ``momentum`` (0, 0.5, 0.9), ``weight_decay`` (0, 1e-4), ``batch_size`` (128, 256,
    512), ``augmentation`` (none, or ``("pad-crop:4", "flip", "rotation:15")``) and ``label_corruption`` (0 to 1). They print neither
    learning rates nor schedule, nor epochs, nor how far they rotate: these are ours, as is the loss at which training stops for their
    "almost 1.0 accuracy". Their labels are corrupted within each class, ours over all. ``"sparsity-imagenet-a"`` to ``-e`` are
    their five VGG-16 on ImageNet, of which ``imagenet.npz`` is any slice that fits the memory. Model A is that of Simonyan and
    Zisserman, who lower the rate by hand and augment by scale and colour too: the epochs 20, 40 and 60 are ours, and the
    augmentation is cropping and flipping alone.

    Example:
        >>> named("all-layers-equal", seed=1).milestones
        (30, 60, 90)

    References: C. Zhang, S. Bengio, Y. Singer, Are All Layers Created Equal?, 2022, appendix A.
    N. Chatterji, B. Neyshabur, H. Sedghi, The intriguing role of module criticality in the generalization of deep
    networks, 2020, appendix C. L. Kuhn, C. Lyle, A. Gomez, J. Rothfuss, Y. Gal, Robustness to pruning predicts generalization
    in deep neural networks, 2021, appendices A.3 and A.4. P. Izmailov et al., Averaging weights leads to wider optima and
    better generalization, UAI 2018. Y. Zhao, H. Zhang, X. Hu, Estimating the generalization in deep neural networks via sparsity,
    2021, appendix D. K. Simonyan, A. Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015.
    """
    if name not in NAMED:
        close = get_close_matches(name, NAMED, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(NAMED)}."
        raise InputError(f"there is no named recipe {name!r}; {hint}")
    return Recipe.from_dict(NAMED[name]).changed(**changes)
