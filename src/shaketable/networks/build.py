"""From a name such as ``resnet18-v2-bn`` and plain arguments to a network."""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import torch
from torch import nn

from shaketable.errors import InputError
from shaketable.identity import generator_from
from shaketable.networks.cells import CELL, cells_from
from shaketable.networks.densenet import densenet
from shaketable.networks.double_descent import cnn5, resnet18k
from shaketable.networks.fcn import fcn
from shaketable.networks.initialisers import Network
from shaketable.networks.linked import linked, linked_mlp
from shaketable.networks.mixer import mixer
from shaketable.networks.mobilenet import mobilenet
from shaketable.networks.nin import nin
from shaketable.networks.resnet import DEPTHS, resn, resnet
from shaketable.networks.transformer import decoder
from shaketable.networks.vgg import CONVOLUTIONS, vgg
from shaketable.networks.vit import vit

LAYERS_EQUAL = "Zhang, Bengio, Singer, Are all layers created equal?"
CRITICALITY = "Chatterji, Neyshabur, Sedghi, The intriguing role of module criticality"
PRUNABILITY = "Kuhn, Lyle, Gomez, Rothfuss, Gal, Robustness to pruning predicts generalization in deep neural networks"
SPARSITY = "Zhao, Zhang, Hu, Estimating the generalization in deep neural networks via sparsity"
NN_MASS = "Towards unifying neural architecture space exploration and generalization (NN-Mass)"


@dataclass(frozen=True)
class Argument:
    """One argument of a family: its default, and what else it may be (a type's name, or the values)."""

    default: Any
    allowed: str | tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """A family of networks: how its names read, and the function that builds one.

    Args:
        names: its names for people; each may end in ``-bn`` where ``batch_norm`` is among the arguments.
        example: a name.
        about: one line.
        papers: where the networks stand.
        pattern: a regular expression for a name without ``-bn``.
        read: what the match says: the positional arguments of ``function`` after input shape and classes.
        function: builds the network; its keyword arguments are those of :func:`build`.
        known: names to propose to those who mistype.
    """

    names: str
    example: str
    about: str
    papers: tuple[str, ...]
    pattern: str
    read: Callable[[re.Match[str]], tuple[Any, ...]]
    function: Callable[..., Network]
    known: tuple[str, ...]

    @property
    def arguments(self) -> dict[str, Argument]:
        """The arguments of :func:`build` for this family, by name."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: Argument(p.default, _allowed(p.annotation)) for p in parameters if p.kind is p.KEYWORD_ONLY}


def _allowed(annotation: Any) -> str | tuple[str, ...]:
    """The values of a Literal (or of a union of them), or the name of the type."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_args(annotation):
        return tuple(value for part in get_args(annotation) for value in _allowed(part))
    return annotation.__name__


def _fcn_widths(match: re.Match[str]) -> tuple[tuple[int, ...]]:
    if match["depth"]:
        return ((int(match["width"]),) * int(match["depth"]),)
    return (tuple(int(width) for width in match["widths"].split("-")),)


FAMILIES: Mapping[str, Family] = {
    "fcn": Family(
        names="fcn-<depth>x<width>, fcn-<width>-<width>-...",
        example="fcn-3x256",
        about="fully connected, hidden layers of equal or of listed widths",
        papers=(LAYERS_EQUAL, CRITICALITY),
        pattern=r"fcn-(?:(?P<depth>[1-9]\d*)x(?P<width>[1-9]\d*)|(?P<widths>[1-9]\d*(?:-[1-9]\d*)*))",
        read=_fcn_widths,
        function=fcn,
        known=("fcn-3x256", "fcn-5x256", "fcn-5000-1000", "fcn-10000-2000"),
    ),
    "vgg": Family(
        names="vgg11, vgg13, vgg16, vgg19",
        example="vgg16",
        about="plain stack of 3x3 convolutions and three linear layers",
        papers=(LAYERS_EQUAL, CRITICALITY, SPARSITY),
        pattern=rf"vgg({'|'.join(map(str, CONVOLUTIONS))})",
        read=lambda match: (int(match[1]),),
        function=vgg,
        known=tuple(f"vgg{depth}" for depth in CONVOLUTIONS),
    ),
    "resnet": Family(
        names="resnet18, resnet34, resnet50, resnet101, resnet152, each with -v1 (the same) or -v2",
        example="resnet18-v2-bn",
        about="residual blocks, basic or bottleneck, v1 or v2 (pre-activation)",
        papers=(LAYERS_EQUAL, CRITICALITY, SPARSITY),
        pattern=rf"resnet({'|'.join(map(str, DEPTHS))})(?:-v([12]))?",
        read=lambda match: (int(match[1]), int(match[2] or 1)),
        function=resnet,
        known=tuple(f"resnet{depth}{version}" for depth in DEPTHS for version in ("", "-v1", "-v2")),
    ),
    "densenet": Family(
        names="densenet121",
        example="densenet121",
        about="each layer sees all layers before it in its stage",
        papers=(CRITICALITY,),
        pattern="densenet121",
        read=lambda match: (),
        function=densenet,
        known=("densenet121",),
    ),
    "mobilenet": Family(
        names="mobilenet",
        example="mobilenet",
        about="blocks of a depthwise and a pointwise convolution, with batch norm",
        papers=(SPARSITY,),
        pattern="mobilenet",
        read=lambda match: (),
        function=mobilenet,
        known=("mobilenet",),
    ),
    "nin": Family(
        names="nin-<blocks>x<channels>",
        example="nin-3x192-bn",
        about="Network in Network: blocks of a 3x3 and two 1x1 convolutions, a convolution at the end",
        papers=(PRUNABILITY,),
        pattern=r"nin-([1-9]\d*)x([1-9]\d*)",
        read=lambda match: (int(match[1]), int(match[2])),
        function=nin,
        known=("nin-2x192", "nin-3x192", "nin-4x192", "nin-3x288", "nin-3x384"),
    ),
    "cnn5": Family(
        names="cnn5-<k>",
        example="cnn5-64-bn",
        about="four convolutions of k to 8k channels and a linear layer (double descent)",
        papers=(PRUNABILITY,),
        pattern=r"cnn5-([1-9]\d*)",
        read=lambda match: (int(match[1]),),
        function=cnn5,
        known=("cnn5-8", "cnn5-64"),
    ),
    "resnet18k": Family(
        names="resnet18k-<k>",
        example="resnet18k-64",
        about="ResNet-18 v2 with batch norm, of k to 8k channels (double descent)",
        papers=(PRUNABILITY,),
        pattern=r"resnet18k-([1-9]\d*)",
        read=lambda match: (int(match[1]),),
        function=resnet18k,
        known=("resnet18k-8", "resnet18k-64"),
    ),
    "resn": Family(
        names="resn-<blocks>-<blocks>-...",
        example="resn-4-4",
        about="residual blocks with identity skips alone, a down-sampling layer between stages",
        papers=(LAYERS_EQUAL,),
        pattern=r"resn-([1-9]\d*(?:-[1-9]\d*)*)",
        read=lambda match: (tuple(map(int, match[1].split("-"))),),
        function=resn,
        known=("resn-4-4", "resn-4-4-4-4"),
    ),
    "linked": Family(
        names="linked-<depth>x<width>t<links>-..., one for each cell",
        example="linked-20x32t90-20x64t170-20x128t300",
        about="cells of convolutions, each linked to earlier channels of its cell drawn at random",
        papers=(NN_MASS,),
        pattern=rf"linked-({CELL}(?:-{CELL})*)",
        read=lambda match: (cells_from(match[1]),),
        function=linked,
        known=("linked-20x32t90-20x64t170-20x128t300", "linked-4x2t3-4x3t4-4x4t5"),
    ),
    "linked-mlp": Family(
        names="linked-mlp-<depth>x<width>t<links>-...",
        example="linked-mlp-8x16t20",
        about="the same with fully connected layers",
        papers=(NN_MASS,),
        pattern=rf"linked-mlp-({CELL}(?:-{CELL})*)",
        read=lambda match: (cells_from(match[1]),),
        function=linked_mlp,
        known=("linked-mlp-8x16t20",),
    ),
    "vit": Family(
        names="vit-<blocks>x<width>",
        example="vit-4x64",
        about="vision transformer: patches of an image attend to each other",
        papers=(LAYERS_EQUAL,),
        pattern=r"vit-([1-9]\d*)x([1-9]\d*)",
        read=lambda match: (int(match[1]), int(match[2])),
        function=vit,
        known=("vit-4x64", "vit-12x768", "vit-24x1024"),
    ),
    "mixer": Family(
        names="mixer-<blocks>x<width>",
        example="mixer-4x64",
        about="MLP-Mixer: dense layers over patches and over channels in turn",
        papers=(LAYERS_EQUAL,),
        pattern=r"mixer-([1-9]\d*)x([1-9]\d*)",
        read=lambda match: (int(match[1]), int(match[2])),
        function=mixer,
        known=("mixer-4x64", "mixer-12x768", "mixer-24x1024"),
    ),
    "decoder": Family(
        names="decoder-<blocks>x<width>",
        example="decoder-4x128",
        about="language model: causal attention and two dense layers a block; takes tokens [N, T]",
        papers=(LAYERS_EQUAL,),
        pattern=r"decoder-(?P<blocks>[1-9]\d*)x(?P<width>[1-9]\d*)",
        read=lambda match: (int(match["blocks"]), int(match["width"])),
        function=decoder,
        known=("decoder-4x128", "decoder-12x768"),
    ),
}


def build(name: str, input_shape: Sequence[int], classes: int, *, seed: int = 0, **arguments: Any) -> Network:
    """A network from its name, on the CPU, in evaluation mode, with initial weights drawn from a seed.

    What is not done: nothing is trained or downloaded, and torch's global random state is neither used nor changed.

    Args:
        name: e.g. ``fcn-3x256``, ``fcn-5000-1000-bn``, ``vgg16``, ``resnet18-v2-bn``, ``densenet121``; the ending
            ``-bn`` is ``batch_norm=True``.
        input_shape: shape of one example, [C, H, W] (a fully connected network takes any shape, a decoder [T]).
        classes: number of outputs; for a decoder the size of the vocabulary.
        seed: of the initial weights.
        arguments: plain values (texts, numbers, truth values): those of the family, see :func:`describe`.

    Returns:
        The network: [N, C, H, W] to logits [N, classes], a decoder [N, T] to [N, T, classes]. Its method ``initialise``
        redraws its weights.

    Raises:
        InputError: an unknown name, argument or value, or an input shape that the network cannot take.

    Cost:
        The draw of the weights: 0.2 s for ResNet-18 (11 million), 1 s for VGG-16 (34 million), on one thread.

    Example:
        >>> import torch
        >>> network = build("resnet18", (3, 32, 32), 10, width=0.25)
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> sum(parameter.numel() for parameter in network.parameters())
        699066
    """
    network = construct(name, input_shape, classes, **arguments)
    for module in network.modules():
        # Not Module.to_empty: that loads 0.4 seconds of Python for its first meta tensor.
        for key, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, key, nn.Parameter(torch.empty(parameter.shape)))
        for key, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(key, torch.empty(buffer.shape, dtype=buffer.dtype))
    network.initialise(generator_from(seed, "init"))
    return network.eval()


def construct(name: str, input_shape: Sequence[int], classes: int, **arguments: Any) -> Network:
    """The same network on the device "meta": names and shapes without values, in milliseconds; see :func:`build`.

    Example:
        >>> sum(parameter.numel() for parameter in construct("resnet152-bn", (3, 224, 224), 1000).parameters())
        60192808
    """
    family, positional, implied = _parse(name)
    for key, value in implied.items():
        if arguments.get(key, value) != value:
            raise InputError(
                f"{name}: the name says {key}={value}, the argument {arguments[key]}; leave out one of the two."
            )
    arguments = implied | arguments
    for key, value in arguments.items():
        _check(name, family, key, value)
    shape = checked_shape(name, input_shape, classes, images=family.function not in (fcn, linked_mlp, decoder))
    with torch.device("meta"):
        return family.function(shape, classes, *positional, **arguments)


def describe() -> list[dict[str, Any]]:
    """The families as plain records: family, names, example, about, papers, arguments with default and allowed values.

    Example:
        >>> [record["family"] for record in describe()]
        ['fcn', 'vgg', 'resnet', 'densenet', 'mobilenet', 'nin', 'cnn5', 'resnet18k', 'resn', 'linked', 'linked-mlp',
        'vit', 'mixer', 'decoder']
        >>> describe()[0]["arguments"]["batch_norm"]
        {'default': False, 'allowed': 'bool'}
    """
    return [
        {
            "family": key,
            "names": family.names + ("; each may end in -bn" if "batch_norm" in family.arguments else ""),
            "example": family.example,
            "about": family.about,
            "papers": list(family.papers),
            "arguments": {
                name: {
                    "default": argument.default,
                    "allowed": argument.allowed if isinstance(argument.allowed, str) else list(argument.allowed),
                }
                for name, argument in family.arguments.items()
            },
        }
        for key, family in FAMILIES.items()
    ]


def _parse(name: str) -> tuple[Family, tuple[Any, ...], dict[str, Any]]:
    """The family, the positional arguments and the keyword arguments that a name says."""
    plain = name.removesuffix("-bn")
    for family in FAMILIES.values():
        if match := re.fullmatch(family.pattern, plain):
            return family, family.read(match), {"batch_norm": True} if plain != name else {}
    known = [known + ending for family in FAMILIES.values() for known in family.known for ending in _endings(family)]
    there_is = "; ".join(record["names"] for record in describe())
    raise InputError(f"no network is called {name!r}.{_closest(name, known)} There is: {there_is}.")


def _endings(family: Family) -> tuple[str, ...]:
    """What may stand behind a name of this family."""
    return ("", "-bn") if "batch_norm" in family.arguments else ("",)


def _closest(word: str, words: Sequence[str]) -> str:
    """A sentence that proposes the closest word, or nothing."""
    matches = difflib.get_close_matches(word.lower(), words, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _check(name: str, family: Family, key: str, value: Any) -> None:
    """Raise unless the family has this argument and the argument takes this value."""
    arguments = family.arguments
    if key not in arguments:
        raise InputError(
            f"{name} has no argument {key!r}.{_closest(key, list(arguments))} It has: {', '.join(arguments)}."
        )
    allowed = arguments[key].allowed
    if isinstance(allowed, tuple):
        if value not in allowed:
            hint = _closest(str(value), allowed)
            raise InputError(f"{name}: {key}={value!r} is unknown.{hint} Choose one of {', '.join(allowed)}.")
    elif allowed == "bool":
        if not isinstance(value, bool):
            raise InputError(f"{name}: {key} must be true or false, not {value!r}.")
    elif value != arguments[key].default and not _positive(value, int if allowed == "int" else (int, float)):
        kind = "whole number" if allowed == "int" else "finite number"
        raise InputError(f"{name}: {key} must be a {kind} above 0, not {value!r}.")


def checked_shape(name: str, input_shape: Sequence[int], classes: int, images: bool) -> tuple[int, ...]:
    """The shape as a tuple, if it and the number of classes make sense."""
    if not _positive(classes, int) or classes < 2:
        raise InputError(f"{name}: classes must be a whole number of at least 2, not {classes!r}.")
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if not shape or not all(_positive(size, int) for size in shape):
        raise InputError(
            f"{name}: the input shape of one example must be whole numbers above 0, e.g. (3, 32, 32), not {input_shape}."
        )
    if images and len(shape) != 3:
        raise InputError(
            f"{name} takes images [channels, height, width], not examples of shape {shape}; fcn-... takes any shape."
        )
    return shape


def _positive(value: Any, types: type | tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool) and math.isfinite(value) and value > 0
