"""Studies of models of timm and torchvision, with the normalisation and the size that their weights were trained with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from shaketable.data import Data, as_data
from shaketable.errors import InputError
from shaketable.progress import progress
from shaketable.study import Study

Transform = Callable[[Any], Tensor]


def from_timm(
    name_or_model: Any,
    data: Any = None,
    *,
    train: Any = None,
    pretrained: bool = True,
    transform: Transform | None = None,
    **arguments: Any,
) -> Study:
    """The study of a model of the timm library.

    Args:
        name_or_model: a name, made with ``timm.create_model(name, pretrained=pretrained)`` and put into evaluation mode, or a
            model in evaluation mode.
        data: the test data: (images, labels) with PIL images, or a ``torch`` data set of such; these go through
            ``transform``. Tensors of floats are taken as they are: normalised already. Unsigned bytes are refused.
        train: the training data, in the same forms.
        pretrained: whether a model by name gets its published weights.
        transform: of one image; the model's own, made by ``timm.data.create_transform`` from its configuration, if left out.
        arguments: of :class:`shaketable.Study`.

    Returns: the study. Fresh draws come from the modules' ``reset_parameters``, not from timm's rule for the architecture:
        give ``initialise`` where that matters.

    Raises:
        InputError: timm is not installed (for a name, or PIL images without a transform), or data that do not fit.

    Cost: all transformed images are kept in memory.

    Deviates: written from timm's documentation (1.0) and tested with stand-ins, not with the library.
    """
    model = name_or_model
    if isinstance(model, str):
        timm = _library("timm")
        model = _named(lambda: timm.create_model(name_or_model, pretrained=pretrained), name_or_model, "timm").eval()
        arguments.setdefault("name", name_or_model)

    def own() -> Transform:
        data = _library("timm").data
        return data.create_transform(**data.resolve_model_data_config(model), is_training=False)

    return _study(model, data, train, transform or own, transform is None, arguments)


def from_torchvision(
    name_or_model: Any,
    data: Any = None,
    *,
    train: Any = None,
    weights: Any = "DEFAULT",
    transform: Transform | None = None,
    **arguments: Any,
) -> Study:
    """The study of a model of the torchvision library.

    Args:
        name_or_model: a name, made with ``torchvision.models.get_model(name, weights=weights)`` and put into evaluation mode,
            or a model in evaluation mode.
        data: the test data: (images, labels) with PIL images, or a ``torch`` data set of such; these go through
            ``transform``. Tensors of floats are taken as they are: normalised already. Unsigned bytes are refused.
        train: the training data, in the same forms.
        weights: the published weights of a model by name, such as ``"IMAGENET1K_V2"``; None for random ones. For a model that
            you made: the member of its ``..._Weights`` that it was loaded with, for its transform.
        transform: of one image; ``weights.transforms()`` if left out.
        arguments: of :class:`shaketable.Study`.

    Returns: the study. Fresh draws come from the modules' ``reset_parameters``, not from torchvision's rule for the
        architecture: give ``initialise`` where that matters.

    Raises:
        InputError: torchvision is not installed (for a name), PIL images without a transform, or data that do not fit.

    Cost: all transformed images are kept in memory.

    Deviates: written from torchvision's documentation (0.14 and later) and tested with stand-ins, not with the library.
    """
    model = name_or_model
    if isinstance(model, str):
        models = _library("torchvision.models")
        if isinstance(weights, str):
            weights = _named(lambda: models.get_model_weights(name_or_model)[weights], name_or_model, "torchvision")
        model = _named(lambda: models.get_model(name_or_model, weights=weights), name_or_model, "torchvision").eval()
        arguments.setdefault("name", name_or_model)

    def own() -> Transform:
        if not hasattr(weights, "transforms"):
            raise InputError(
                "these are PIL images, and nothing says how they were prepared for this model; give transform=, or "
                "weights=, the member of its Weights that it was loaded with."
            )
        return weights.transforms()

    return _study(model, data, train, transform or own, transform is None, arguments)


def _study(
    model: Any, test: Any, train: Any, transform: Callable[..., Any], is_maker: bool, arguments: dict[str, Any]
) -> Study:
    """The study, with the images of both splits transformed; ``transform`` is made where it is needed, or given."""
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}; give a torch.nn.Module, or its name.")
    parts = {}
    for split, given in (("test", test), ("train", train)):
        try:
            parts[split] = _transformed(given, transform, is_maker)
        except InputError as error:
            raise InputError(f"{split} data: {error}") from error
    return Study(model, **parts, **arguments)


def _transformed(given: Any, transform: Callable[..., Any], is_maker: bool) -> Any:
    """Data with PIL images turned into what the model takes; anything else as it is, except bytes."""
    if given is None or isinstance(given, Data | Tensor):
        return given
    if isinstance(given, tuple) and len(given) == 2:
        images, labels = given
        if not isinstance(images, list | tuple):
            dtype = getattr(images, "dtype", None)
            if dtype == torch.uint8 or str(dtype) == "uint8":
                raise InputError(
                    "images are unsigned bytes; give PIL images, or floats normalised as the model wants them."
                )
            return given
        pairs = None
    elif hasattr(given, "__len__") and hasattr(given, "__getitem__") and len(given):
        pairs = given
        first = given[0]
        images, labels = ([first[0]], None) if isinstance(first, tuple | list) and len(first) == 2 else ([], None)
    else:
        return given
    if not len(images) or not hasattr(images[0], "getbands"):  # a PIL image, told without importing PIL
        return given
    chosen: Transform = transform() if is_maker else transform
    count = len(images) if pairs is None else len(pairs)
    found, numbers = [], []
    with progress("transforming images", count) as advance:
        for index in range(count):
            pixels, number = (images[index], None) if pairs is None else pairs[index]
            found.append(chosen(pixels))
            numbers.append(number)
            advance()
    if any(image.shape != found[0].shape for image in found):
        raise InputError("the transformed images differ in shape; give a transform that resizes and crops to one.")
    return as_data((torch.stack(found), labels if pairs is None else [int(number) for number in numbers]))


def _library(name: str) -> Any:
    """A library that only these functions need."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = name.partition(".")[0]
        raise InputError(
            f"{extra} is not installed; pip install 'shaketable[{extra}]', or give the model itself and tensors."
        ) from error


def _named(make: Callable[[], Any], name: str, library: str) -> Any:
    """What a library makes of a name."""
    try:
        return make()
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{library} cannot make {name!r} ({reason}); look at its list of models and weights."
        ) from error
