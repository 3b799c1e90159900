"""Similarity of representations: how much of each layer's output is left when one layer is rewound."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.errors import InputError
from shaketable.forward import Inputs, count_of, evaluation_mode, forward, map_inputs
from shaketable.identity import generator_from
from shaketable.params import Grouping, Layer, Params, layers
from shaketable.perturb import Statistics, changed_tensors
from shaketable.probes.stored import LAYERS, names_of
from shaketable.progress import progress
from shaketable.study import Study

SCHEMA = {
    "rewound": pl.String,
    "rewound_position": pl.Int64,
    "checkpoint": pl.Int64,
    "layer": pl.String,
    "position": pl.Int64,
    "split": pl.String,
    "class": pl.Int64,
    "cka": pl.Float64,
    "examples": pl.Int64,
    "status": pl.String,
    "reason": pl.String,
}
FEWEST = 4
"""Examples below which the unbiased estimator is not defined."""


def cka(x: Tensor, y: Tensor, unbiased: bool = True) -> float:
    r"""Linear centered kernel alignment of two representations of the same examples.

    .. math:: \operatorname{CKA} = \frac{\operatorname{HSIC}(K, L)}
                                         {\sqrt{\operatorname{HSIC}(K, K) \, \operatorname{HSIC}(L, L)}},
              \qquad K = X X^\top, \; L = Y Y^\top

    for ``x`` :math:`X` and ``y`` :math:`Y`. With ``unbiased`` HSIC is the estimator of Song et al., here in the form that
    it has for linear kernels of centred features,

    .. math:: \frac{1}{n (n - 3)} \Bigl[ \lVert X^\top Y \rVert_F^2 - \frac{n}{n - 2} \sum_i a_i b_i
                                         + \frac{\sum_i a_i \sum_i b_i}{(n - 1) (n - 2)} \Bigr],
              \qquad a_i = \lVert x_i \rVert_2^2, \; b_i = \lVert y_i \rVert_2^2,

    else :math:`\lVert X^\top Y \rVert_F^2`, which grows with the number of features: for independent noise with many more
    features than examples it gives nearly 1, the unbiased one 0. Computed in float64.

    Args:
        x, y: [N, ...] and [N, ...], one row an example, flattened: any number of features each.
        unbiased: which estimator of HSIC; the ratio of unbiased estimates has itself a small bias.

    Returns: 1 for representations that are the same up to rotation, scale and shift; 0 for unrelated ones (unbiased: on
        average, so it may be negative, or a little above 1: it is not clipped).

    Raises:
        InputError: another number of rows, fewer than four (biased: two), NaN or infinite values, a constant
            representation, or one whose own unbiased HSIC is not positive.

    Cost: three products of N p q, or N^2 p where that is less (p and q features).

    Example:
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> round(cka(x, 2 * x.flip(1) + 1), 6)
        1.0

    References: Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited", 2019, section 3.
        Song, Smola, Gretton, Bedo, Borgwardt, "Feature Selection via Dependence Maximization", 2012, equation 5.
    """
    if x.ndim < 2 or y.ndim < 2 or len(x) != len(y):
        raise InputError(
            f"x has the shape {list(x.shape)} and y {list(y.shape)}; give two tensors [N, ...] of one number of examples."
        )
    fewest = FEWEST if unbiased else 2
    if len(x) < fewest:
        raise InputError(f"there are {len(x)} examples; this CKA needs {fewest} or more.")
    centred = []
    for name, given in (("x", x), ("y", y)):
        given = given.detach().double().flatten(1)
        if not bool(given.isfinite().all()):
            raise InputError(f"{name} has NaN or infinite values; CKA is not defined.")
        if bool((given == given[:1]).all()):
            raise InputError(f"{name} is the same for every example; CKA is not defined.")
        centred.append(given - given.mean(0))
    estimate = _hsic if unbiased else _biased
    own, other, both = (
        estimate(_cross(u, v), u.square().sum(1), v.square().sum(1))
        for u, v in (centred[:1] * 2, centred[1:] * 2, centred)
    )
    if min(own, other) <= 0:
        raise InputError(
            f"the unbiased HSIC of {'x' if own <= 0 else 'y'} with itself is not positive; give more examples."
        )
    return both / math.sqrt(own) / math.sqrt(other)


def similarity(
    study: Study,
    rewound: Iterable[str] | str | None = None,
    *,
    by: Grouping = "module",
    checkpoint: int = 0,
    split: str = "train",
    per_class: bool = False,
    statistics: Statistics = "keep",
    examples: int | None = 1000,
    minibatch: int = 1000,
    batch_size: int = 250,
    memory: int = 2**29,
    seed: int = 0,
) -> pl.DataFrame:
    r"""Similarity of each layer's output in the trained network to its output when one layer is rewound.

    .. math:: \frac{\sum_b n_b \operatorname{HSIC}(K_b, L_b)}
                   {\sqrt{\sum_b n_b \operatorname{HSIC}(K_b, K_b) \, \sum_b n_b \operatorname{HSIC}(L_b, L_b)}}

    for the outputs' inner products :math:`K_b` in the trained network, :math:`L_b` in the one with a layer rewound, on
    minibatch :math:`b` of :math:`n_b` examples, with the unbiased estimator of :func:`cka`. As long as ``examples`` is at
    most ``minibatch`` there is one minibatch, and the number is the full-batch unbiased CKA, whatever ``batch_size`` is;
    beyond that it is an average over minibatches (Nguyen et al.), unbiased in the same sense, with more variance.

    Not done: the output is that of the layer's module itself, so in front of a ReLU that follows it; of a block its end;
    of several modules that make a layer the last one's. A module that is called twice counts with its last call. Maps
    [N, C, H, W] are flattened, not pooled: each position is a feature. No augmentation; evaluation mode.

    Args:
        study: the final weights, the checkpoints, the data.
        rewound: names of the layers to rewind, one after the other; all, if left out. Every layer is measured.
        by: the grouping into layers, for both.
        checkpoint: where layers are rewound to.
        split: ``"train"`` or ``"test"``.
        per_class: also for the examples of each label alone.
        statistics: ``"keep"`` or ``"rewind"``, of :func:`shaketable.perturb.replace_layer`.
        examples: so many, drawn without replacement; None takes all.
        minibatch: examples whose inner products are held at once, two matrices of so many rows and columns a layer.
        batch_size: examples per forward pass; changes memory only.
        memory: bytes of outputs that are held at once; layers beyond that wait for another pass.
        seed: of the draw of examples.

    Returns: one row per rewound layer, measured layer and class: ``rewound``, ``rewound_position``, ``checkpoint``,
        ``layer``, ``position`` (forward order, from 0), ``split``, ``class`` (null: all examples), ``cka`` (1: the same up
        to rotation and scale, exactly 1 where nothing changed; 0: unrelated; not clipped), ``examples`` that it rests on,
        ``status`` and ``reason``: ``"undefined"`` where an output is constant or examples are too few, ``"not finite"``,
        ``"unavailable"`` where a layer has no output with one row an example; there ``cka`` is null.

    Raises:
        InputError: no such layer, checkpoint or data, ``per_class`` for a language model, or a number below its least.

    Cost: 1 + (rewound layers) passes over the examples, times the number of groups of layers that fit into ``memory``;
        N^2 p for each changed layer of p features; outputs in front of the rewound layer are seen to be the same.

    Deviates: the paper does not say which estimator, split, number of examples, or side of the ReLU it takes.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).eval()
        >>> init = {name: torch.randn(tensor.shape) for name, tensor in network.state_dict().items()}
        >>> study = Study(network, init=init, train=(torch.randn(20, 2), [0, 1] * 10))
        >>> table = similarity(study)
        >>> table.filter(rewound="1").select("layer", "cka").row(0)  # what comes before a rewound layer is as it was
        ('0', 1.0)

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
        networks", 2020, section 2.3, figure 9. Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network
        Representations Revisited", 2019. Nguyen, Raghu, Kornblith, "Do Wide and Deep Networks Learn the Same Things?",
        2021, section 3.
    """
    least = {"minibatch": FEWEST, "batch_size": 1, "memory": 1, "examples": FEWEST}
    for name, value in {
        "minibatch": minibatch,
        "batch_size": batch_size,
        "memory": memory,
        "examples": examples,
    }.items():
        if (value is not None or name != "examples") and (type(value) is not int or value < least[name]):
            raise InputError(f"{name}={value!r}: give a whole number from {least[name]}.")
    data = study.data(split)
    if per_class and study.task != "classification":
        raise InputError("per_class=True needs one label an example, and a language model has one a position.")
    found = layers(study.network, by, study.example_inputs())
    chosen = _chosen(found, rewound)
    if study.init is None and checkpoint == 0:
        raise InputError(
            "the study has no initial weights to rewind to; make it with init, or give another checkpoint."
        )
    source = study.checkpoint(checkpoint)
    variants = {position: changed_tensors(found[position], source, statistics) for position in chosen}
    data = _drawn(data, examples, seed, split)
    parts = _minibatches(data, minibatch)
    observed = _Observed(study.network, found, map_inputs(lambda tensor: tensor[:2], data.inputs), study.final)
    groups = observed.groups(memory // (12 * max(map(len, parts))))  # two outputs and a copy, four bytes each
    classes = [None, *range(study.classes)] if per_class else [None]
    sums = {(rewind, layer, label): _Sums() for rewind in chosen for layer in range(len(found)) for label in classes}
    with progress("similarity", len(parts) * len(groups) * (1 + len(chosen))) as advance:
        for part in parts:
            members = {label: _members(part, label) for label in classes}
            for group in groups:
                outputs = observed.outputs(group, study.final, part, batch_size)
                own = {layer: _inner(outputs[layer], members) for layer in group}
                advance()
                for rewind, change in variants.items():
                    others = observed.outputs(group, {**study.final, **change}, part, batch_size)
                    for layer in group:
                        same = torch.equal(outputs[layer], others[layer])
                        other = own[layer] if same else _inner(others[layer], members)
                        for label in classes:
                            sums[rewind, layer, label].add(own[layer][label], other[label], same)
                    advance()
    rows = [
        {
            "rewound": found[rewind].name,
            "rewound_position": rewind,
            "checkpoint": checkpoint,
            "layer": found[layer].name,
            "position": layer,
            "split": split,
            "class": label,
            **(_no_cka("unavailable", observed.reasons[layer]) if layer in observed.reasons else total.row()),
        }
        for (rewind, layer, label), total in sums.items()
    ]
    return pl.DataFrame([dict.fromkeys(SCHEMA) | row for row in rows], schema=SCHEMA)


def _hsic(cross: float, a: Tensor, b: Tensor) -> float:
    """The unbiased estimate, from ||X'Y||^2 and the squared norms [n] of the rows of centred X and Y."""
    n = len(a)
    same = float(a @ b) * n / (n - 2)
    return (cross - same + float(a.sum()) * float(b.sum()) / ((n - 1) * (n - 2))) / (n * (n - 3))


def _biased(cross: float, a: Tensor, b: Tensor) -> float:
    """The biased one, up to the factor (n - 1)^2, which the ratio does not see."""
    return cross


def _cross(x: Tensor, y: Tensor) -> float:
    """||X'Y||^2 of x [n, p] and y [n, q], by the smaller of the two ways."""
    if x.shape[1] * y.shape[1] <= len(x) ** 2:
        return float((x.mT @ y).square().sum())
    return float(((x @ x.mT) * (y @ y.mT)).sum())


@dataclass(frozen=True)
class _Gram:
    """Inner products [n, n] of the centred outputs of some examples, in float64."""

    products: Tensor

    def hsic(self, other: "_Gram") -> float:
        """The unbiased estimate of two such."""
        cross = float((self.products * other.products).sum())
        return _hsic(cross, self.products.diagonal(), other.products.diagonal())

    @cached_property
    def own(self) -> float:
        """The estimate of these with themselves."""
        return self.hsic(self)


def _inner(outputs: Tensor, members: dict[int | None, Tensor]) -> dict[int | None, _Gram]:
    """One layer's outputs [n, p] as inner products: of the examples of each class, or of all."""
    largest = outputs.abs().amax(1).nan_to_num(math.inf, math.inf)
    # a shift changes nothing but rounding: a large common part would drown the differences
    shifted = outputs - outputs[int(largest.argmin())]
    products = (shifted @ shifted.mT).double()  # what is not finite stays in its own row and column
    grams = {}
    for label, which in members.items():
        whole = len(which) == len(outputs)
        part = products if whole else products[which][:, which]
        rows = outputs if whole else outputs[which]
        if len(which) and bool((rows == rows[:1]).all()):
            part = torch.zeros_like(part)  # without rounding: constant
        part = part - part.mean(0)
        grams[label] = _Gram(part - part.mean(1, keepdim=True))
    return grams


@dataclass
class _Sums:
    """Sums over minibatches of HSIC, between the trained network and a rewound one."""

    both: float = 0.0
    own: float = 0.0
    other: float = 0.0
    examples: int = 0
    same: bool = True

    def add(self, own: _Gram, other: _Gram, same: bool) -> None:
        """A minibatch of the two; one with fewer than four examples gives nothing."""
        n = len(own.products)
        if n >= FEWEST:
            self.both += n * (own.own if same else own.hsic(other))
            self.own += n * own.own
            self.other += n * other.own
            self.examples += n
            self.same &= same

    def row(self) -> dict[str, Any]:
        """What a row says of them."""
        if not self.examples:
            return _no_cka("undefined", f"no minibatch has {FEWEST} examples")
        if not math.isfinite(self.own + self.other + self.both):
            return _no_cka(
                "not finite", "outputs of this layer, or their inner products, are NaN or infinite", self.examples
            )
        for value, where in ((self.own, "trained"), (self.other, "rewound")):
            if value == 0:
                reason = f"the output of this layer is the same for every example in the {where} network"
                return _no_cka("undefined", reason, self.examples)
            if value < 0:
                reason = f"too few examples: the unbiased HSIC of the {where} network with itself is negative"
                return _no_cka("undefined", reason, self.examples)
        value = 1.0 if self.same else self.both / math.sqrt(self.own) / math.sqrt(self.other)
        return {"cka": value, "examples": self.examples, "status": "ok"}


def _no_cka(status: str, reason: str, examples: int = 0) -> dict[str, Any]:
    return {"examples": examples, "status": status, "reason": reason}


class _Observed:
    """A network whose layers' outputs can be seen: the module of each layer, how many features it gives, or why none."""

    def __init__(self, network: nn.Module, found: tuple[Layer, ...], inputs: Inputs, params: Params) -> None:
        self._network = network
        self._modules = {position: _module(network, layer) for position, layer in enumerate(found)}
        self.sizes: dict[int, int] = {}
        self.reasons = {
            p: "this layer is no module, so it has no output" for p, m in self._modules.items() if m is None
        }
        count = count_of(inputs)
        with self._watching(tuple(p for p in self._modules if p not in self.reasons)) as seen:
            forward(network, map_inputs(torch.clone, inputs), params)
        for position, module in self._modules.items():
            output = seen.get(position)
            if output is not None and output.ndim > 1 and len(output) == count:
                self.sizes[position] = output[0].numel()
            elif module is not None:
                what = (
                    "is not called as a module"
                    if output is None
                    else f"gives {list(output.shape)} for {count} examples"
                )
                self.reasons[position] = f"this layer {what}, so it has no output with one row an example"

    def groups(self, features: int) -> list[list[int]]:
        """The layers that can be seen, in groups of at most so many features (or of one layer)."""
        found: list[list[int]] = []
        room = 0
        for position, size in self.sizes.items():
            if size > room:
                found.append([])
                room = max(features, size)
            found[-1].append(position)
            room -= size
        return found

    def outputs(self, group: list[int], params: Params, data: Data, batch_size: int) -> dict[int, Tensor]:
        """The outputs [N, p] of some layers, in float32 or float64."""
        parts: dict[int, list[Tensor]] = {position: [] for position in group}
        with self._watching(group) as seen:
            for inputs, _ in data.batches(batch_size):
                forward(self._network, map_inputs(torch.clone, inputs), params)
                for position in group:
                    parts[position].append(seen[position].flatten(1))
        return {position: torch.cat(parts.pop(position)) for position in group}

    @contextmanager
    def _watching(self, group: Iterable[int]) -> Iterator[dict[int, Tensor]]:
        """The last output of each layer's module, by position, as long as the block runs; evaluation mode."""
        seen: dict[int, Tensor] = {}

        def note(position: int, module: nn.Module, args: object, output: Any) -> None:
            tensor = _tensor(output)
            if tensor is not None:  # a copy: what comes next may work in place
                seen[position] = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)

        handles = []
        try:
            for position in group:
                module = self._modules[position]
                if module is not None:
                    handles.append(module.register_forward_hook(partial(note, position)))
            with evaluation_mode(self._network), torch.no_grad():
                yield seen
        finally:
            for handle in handles:
                handle.remove()


def _module(network: nn.Module, layer: Layer) -> nn.Module | None:
    """The module whose output is a layer's: the one of its name if that holds all of it, else the last of its modules."""
    if layer.kind == "Parameter":
        return None
    paths = dict(network.named_modules())
    holds = layer.name in paths and all(f"{path}.".startswith(f"{layer.name}.") for path in layer.modules)
    module = paths[layer.name if holds else layer.modules[-1]]
    return None if isinstance(module, torch.jit.ScriptModule) else module


def _tensor(output: Any) -> Tensor | None:
    """The first tensor in a module's output."""
    if isinstance(output, Tensor):
        return None if output.is_complex() else output
    items = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((tensor for tensor in map(_tensor, items) if tensor is not None), None)


def _chosen(found: tuple[Layer, ...], rewound: Iterable[str] | str | None) -> list[int]:
    """The positions of the layers to rewind, in forward order."""
    names = [layer.name for layer in found]
    wanted = names if rewound is None else names_of(LAYERS, rewound=rewound)
    for name in wanted:
        if name not in names:
            raise InputError(f"there is no layer {name!r} to rewind; there are {', '.join(names[:10])}.")
    if not wanted:
        raise InputError("rewound is empty; name at least one layer, or leave it out for all.")
    return [position for position, name in enumerate(names) if name in wanted]


def _drawn(data: Data, examples: int | None, seed: int, split: str) -> Data:
    """So many of the examples, in random order: a minibatch is a random sample too."""
    order = torch.randperm(len(data), generator=generator_from(seed, "similarity", split))
    return data.subset(order[:examples])


def _minibatches(data: Data, most: int) -> list[Data]:
    """The examples in minibatches of nearly equal size."""
    return [data.subset(part) for part in torch.arange(len(data)).tensor_split(math.ceil(len(data) / most))]


def _members(data: Data, label: int | None) -> Tensor:
    """The indices of the examples of a class, or of all."""
    if label is None:
        return torch.arange(len(data), device=data.device)
    return (data.labels == label).nonzero().flatten()
