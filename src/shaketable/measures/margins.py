"""Measures of margins: at the output, and at the hidden layers as distances over their spread."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from shaketable.errors import InputError
from shaketable.evaluate import rows
from shaketable.forward import evaluation_mode, forward, map_inputs, tensors_of
from shaketable.measures.derivatives import BATCH, some
from shaketable.measures.measure import JIANG, JIANG_MARGINS, Measurement, Unavailable, from_value, measure
from shaketable.params import linear_layers
from shaketable.study import Study

Statistic = Literal["lower_fence", "first_quartile", "median", "third_quartile", "upper_fence"]
STATISTICS = ("lower_fence", "first_quartile", "median", "third_quartile", "upper_fence")
SCHEMA = {"layer": pl.String, "position": pl.Int64, "kind": pl.String, "parameters": pl.Int64}


@measure(symbol="1/margin", direction="lower", needs=("train",), paper=JIANG)
def inverse_margin(study: Study, quantile: float = 0.1) -> Measurement:
    r"""Inverse squared margin at the output, of which a tenth of the training examples fall short.

    .. math:: 1 / \gamma^2

    where :math:`\gamma` is the ``quantile`` of the label's logit minus the highest other one, over the training data. Not
    done: no normalisation by norms.

    Args:
        study: with training data.
        quantile: in (0, 1): of m examples, the margin of rank ceil(quantile x m) from below.

    Returns: above 0. Unavailable where the margin is not positive: then more examples than that are wrong.

    Cost: a pass over the training data.

    Deviates: Jiang et al.'s code takes the absolute value of a negative margin, and the rank m // 10.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": 2 * torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> inverse_margin(study).value
        0.25

    References: Jiang et al., "Fantastic generalization measures and where to find them", 2020, equation 22.
    """
    margin = margin_quantile(study, quantile)
    if margin <= 0:
        raise Unavailable(f"the margin is {margin:.3g}: so many training examples are on the wrong side")
    return from_value(1 / margin**2)


@measure(symbol="norm. margin", direction="higher", needs=("train",), paper=JIANG_MARGINS)
def normalised_margin(
    study: Study, layer: str | None = None, statistic: Statistic = "median", examples: int = 1000, seed: int = 0
) -> Measurement:
    r"""Normalised margin at a layer: a statistic of distances to the decision boundary over their spread.

    .. math:: \hat d_l(x) = \frac{f_y(x) - f_j(x)}{\lVert \nabla_{x_l} f_y - \nabla_{x_l} f_j \rVert_2} \Big/ \sqrt{\nu_l},
              \qquad \nu_l = \frac1n \sum_i \lVert x_l^{(i)} - \bar x_l \rVert_2^2

    for the representation :math:`x_l` that enters a linear layer, the label y and the highest other class j; the distance is
    that of the linearised boundary. Not done: the linear model on all statistics of all layers, for which many networks are
    needed (:func:`shaketable.statistics.r2` with :func:`normalised_margins`).

    Args:
        study: with training data of real numbers.
        layer: a linear layer, at whose input it is measured; the first one, which is the input itself, if left out.
        statistic: a quartile, or a fence: the furthest distance within 1.5 interquartile ranges of the quartiles.
        examples: so many of the training examples, drawn from the seed.
        seed: of the choice.

    Returns: negative where most examples are wrong. ``layers`` has all five statistics of every layer.

    Raises:
        InputError: an unknown layer or statistic.

    Cost: a forward and a backward pass over the examples.

    Deviates: the paper measures at four layers evenly spaced; here at the input of every linear layer. Examples that are
        wrong have negative distances and stay in; the paper's networks have hardly any.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, train=(torch.tensor([[2.0, 0], [0, 2]]), [0, 1]))
        >>> round(normalised_margin(study).value, 6)  # a distance of sqrt 2, a spread of sqrt 2
        1.0

    References: Jiang, Krishnan, Mobahi, Bengio, "Predicting the generalization gap in deep networks with margin
    distributions", 2019, section 3. Kuhn et al., 2021, section 5.1.
    """
    if statistic not in STATISTICS:
        raise InputError(f"unknown statistic={statistic!r}; use one of {', '.join(STATISTICS)}.")
    table = normalised_margins(study, examples, seed)
    chosen = table["layer"][0] if layer is None else layer
    if chosen not in table["layer"]:
        raise InputError(f"there is no linear layer {layer!r}; there are {', '.join(table['layer'])}.")
    return from_value(table.filter(pl.col("layer") == chosen)[statistic][0], table)


def normalised_margins(study: Study, examples: int | None = 1000, seed: int = 0) -> pl.DataFrame:
    """Five statistics of the normalised margins at the input of every linear layer; see :func:`normalised_margin`.

    Args:
        study: with training data.
        examples: so many of them, drawn from the seed; all without.
        seed: of the choice.

    Returns: a row a layer: ``layer``, ``position``, ``kind``, ``parameters``, the five statistics.

    Raises:
        InputError: no training data.

    Example:
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": torch.eye(2)}, train=(torch.eye(2), [0, 1]))
        >>> normalised_margins(study).select("lower_fence", "median").row(0) == (1.0, 1.0)
        False
    """
    found = linear_layers(study.network, study.example_inputs())
    paths = [layer.modules[0] for layer in found]
    distances, spreads = _distances(study, paths, examples, seed)
    rows_ = []
    for position, (layer, path) in enumerate(zip(found, paths, strict=True)):
        if path not in distances:
            raise Unavailable(f"layer {layer.name!r} takes no tensor of real numbers that the logits depend on")
        parameters = sum(study.final[name].numel() for name in layer.params)
        values = distances[path] / (math.sqrt(spreads[path]) or math.nan)
        bad = int((~np.isfinite(values)).sum())
        if bad:
            why = "the slope of their logits is 0 there" if spreads[path] else "all examples are alike there"
            raise Unavailable(f"at layer {layer.name!r} {bad} of {len(values)} examples have no finite margin: {why}")
        facts = {"layer": layer.name, "position": position, "kind": layer.kind, "parameters": parameters}
        rows_.append(facts | dict(zip(STATISTICS, five_statistics(values), strict=True)))
    return pl.DataFrame(rows_, schema=SCHEMA | dict.fromkeys(STATISTICS, pl.Float64))


def five_statistics(values: Iterable[float]) -> tuple[float, ...]:
    """Lower fence, first quartile, median, third quartile and upper fence of numbers.

    Example:
        >>> five_statistics([1, 2, 3, 4, 100])
        (1.0, 2.0, 3.0, 4.0, 4.0)
    """
    numbers = np.asarray(list(values), dtype=np.float64)
    first, median, third = np.quantile(numbers, [0.25, 0.5, 0.75])
    reach = 1.5 * (third - first)
    low, high = numbers[numbers >= first - reach].min(), numbers[numbers <= third + reach].max()
    return float(low), float(first), float(median), float(third), float(high)


def margin_quantile(study: Study, quantile: float = 0.1) -> float:
    """The margin at the output of which a share of the training examples fall short."""
    if isinstance(quantile, bool) or not isinstance(quantile, int | float) or not 0 < quantile < 1:
        raise InputError(f"quantile={quantile!r}: give a share of the examples, inside (0, 1).")
    found = []
    with evaluation_mode(study.network), torch.no_grad():
        for inputs, labels in study.data("train").batches(BATCH):
            logits = forward(study.network, map_inputs(torch.clone, inputs), study.final)
            found.append(_gaps(*rows(logits.float(), labels)).double().cpu())
    margins = torch.cat(found).sort().values
    bad = int((~margins.isfinite()).sum())
    if bad:
        raise Unavailable(f"{bad} training examples have no finite margin: NaN or infinite logits, or a single class")
    return float(margins[math.ceil(quantile * len(margins)) - 1])


def _gaps(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus the highest other one."""
    label = labels.unsqueeze(1)
    return logits.gather(1, label).squeeze(1) - logits.scatter(1, label, -math.inf).amax(1)


def _distances(
    study: Study, paths: list[str], examples: int | None, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """By the path of a module, the linearised distances at its input, and the variance of that input over examples."""
    data = some(study.data("train"), examples, seed)
    if data.labels.ndim > 1:
        raise Unavailable("it needs one label an example; a language model has a label per token")
    if not all(tensor.is_floating_point() for tensor in tensors_of(data.inputs).values()):
        raise Unavailable("it needs inputs that are real numbers; tokens have no gradient")
    seen: dict[str, Tensor] = {}

    def note(path: str):
        def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].requires_grad:
                seen.setdefault(path, args[0])

        return hook

    distances: dict[str, list[np.ndarray]] = {}
    sums: dict[str, tuple[float, Tensor]] = {}
    handles = [study.network.get_submodule(path).register_forward_pre_hook(note(path)) for path in paths]
    try:
        with evaluation_mode(study.network), torch.enable_grad():
            for inputs, labels in data.batches(BATCH):
                seen.clear()
                leaves = map_inputs(lambda tensor: tensor.detach().clone().requires_grad_(), inputs)
                gaps = _gaps(*rows(forward(study.network, leaves, study.final), labels))
                places = list(seen)
                slopes = torch.autograd.grad(gaps.sum(), [seen[path] for path in places], allow_unused=True)
                for path, slope in zip(places, slopes, strict=True):
                    if slope is None or len(slope) != len(labels):
                        continue
                    steep = slope.double().flatten(1).norm(dim=1)
                    distances.setdefault(path, []).append((gaps.detach().double() / steep).cpu().numpy())
                    flat = seen[path].detach().double().flatten(1)
                    square, total = sums.get(path, (0.0, torch.zeros(1, dtype=torch.float64, device=flat.device)))
                    sums[path] = (square + float(flat.square().sum()), total + flat.sum(0))
    finally:
        for handle in handles:
            handle.remove()
    count = len(data)
    spreads = {
        path: max(0.0, square / count - float((total / count).square().sum())) for path, (square, total) in sums.items()
    }
    return {path: np.concatenate(parts) for path, parts in distances.items()}, spreads
