"""The norm-based bound on the trained network itself (theorem B.2): noise that provably changes no logit by much."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from shaketable.bounds.bound import (
    Assumption,
    Bound,
    Status,
    check_error,
    check_positive,
    check_probability,
    check_same_length,
    check_whole,
    common,
    rows,
)
from shaketable.bounds.criticality import prior_indices
from shaketable.engine import Engine
from shaketable.errors import InputError
from shaketable.operators import operator_norm, operators
from shaketable.params import COMPUTED, Params, aliases, computes_weight, layers
from shaketable.study import Study

LIPSCHITZ = (nn.ReLU, nn.Identity, nn.Dropout, nn.Flatten)
"""Modules that stretch no difference and keep 0 at 0, as the proof needs of what stands between layers."""


def perturbation_sigmas(
    margin: float,
    norms: Sequence[float],
    kernels: Sequence[int],
    channels_in: Sequence[int],
    channels_out: Sequence[int],
    input_norm: float,
    image_size: int,
    form: Literal["derived", "printed"] = "derived",
) -> tuple[float, ...]:
    r"""Of each layer, how large noise may be that with probability 1/2 changes no logit by more than an eighth of the margin.

    .. math:: \sigma_i = \frac{\gamma}{8 e d B \, r_i \prod_{j \ne i} \lVert\theta_j\rVert_2}, \qquad
              r_i = q_i \Bigl(a_i (\sqrt{c_{i-1}} + \sqrt{c_i}) + \sqrt{2 \ln(4 d N^2)}\Bigr)

    for d layers with ``margin`` :math:`\gamma`, ``norms`` :math:`\lVert\theta_j\rVert_2`, ``kernels`` :math:`q_i`,
    ``channels_in`` and ``channels_out`` :math:`c_{i-1}, c_i`, ``input_norm`` B, ``image_size`` N, and :math:`a_i = 1` where
    :math:`q_i = 1`, else :math:`\sqrt 2`. :math:`\sigma_i r_i` is what the noise's operator norm stays below.

    Args:
        margin: above 0, in logits.
        norms: operator norms of the layers at the posterior's centre, above 0.
        kernels: kernel sizes; 1 for a linear layer.
        channels_in, channels_out: input and output channels of each layer (features of a linear one).
        input_norm: the largest 2-norm of an input.
        image_size: the largest width of a map that a convolution sees, its padding included; 1 without convolutions.
        form: ``"printed"`` is equation 10, :math:`\gamma / (32 e d B \prod_j \lVert\theta_j\rVert_2 \, q_i
            \sqrt{c_i \ln(4 d N^2)})`, with the product over all j.

    Returns: standard deviations above 0; 0 where a product is beyond floats.

    Raises:
        InputError: lengths that differ, or a number out of its range.

    Deviates: the product of equation 10 is printed over all j, the line before it needs :math:`j \ne i` (as equation 6 has
        it). Lemma B.4 is for as many input as output channels; here are both. Its blocks are complex where :math:`q_i > 1`,
        for which :math:`\sqrt 2` is what a comparison of Gaussians proves of their mean norm.

    Example:
        >>> sigma, = perturbation_sigmas(8 * math.e, [3.0], [1], [4], [4], 1.0, 1)
        >>> round(1 / sigma, 4)  # 2 + 2 + sqrt(2 ln 4)
        5.6651

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, appendix B, equations 9 and 10. Pitas, Davies, Vandergheynst, "PAC-Bayesian margin bounds for convolutional neural
        networks", 2017.
    """
    count = check_same_length(norms=norms, kernels=kernels, channels_in=channels_in, channels_out=channels_out)
    check_positive(margin, "margin")
    check_positive(input_norm, "input_norm")
    check_whole(image_size, "image_size", 1)
    if form not in ("derived", "printed"):
        raise InputError(f"form={form!r}: use 'derived' or 'printed'.")
    logs = [math.log(check_positive(norm, "norms")) for norm in norms]
    spread = math.log(4 * count * image_size**2)
    found = []
    for i, (q, before, after) in enumerate(zip(kernels, channels_in, channels_out, strict=True)):
        for value, name in ((q, "kernels"), (before, "channels_in"), (after, "channels_out")):
            check_whole(value, name, 1)
        if form == "printed":
            radius, others = 4 * q * math.sqrt(after * spread), sum(logs)
        else:
            widths = math.sqrt(before) + math.sqrt(after)
            radius = q * ((1 if q == 1 else math.sqrt(2)) * widths + math.sqrt(2 * spread))
            others = sum(logs) - logs[i]
        log_sigma = math.log(margin / (8 * math.e * count * input_norm * radius)) - others
        found.append(math.exp(min(log_sigma, 700.0)))
    return tuple(found)


def deterministic_bound(
    margin_loss: float,
    margin: float,
    parameters: Sequence[int],
    alphas: Sequence[float],
    squared_distances: Sequence[float],
    norms: Sequence[float],
    kernels: Sequence[int],
    channels_in: Sequence[int],
    channels_out: Sequence[int],
    input_norm: float,
    image_size: int,
    examples: int,
    delta: float = 0.05,
    *,
    form: Literal["derived", "printed"] = "derived",
) -> Bound:
    r"""The bound of theorem B.2 on the error of the trained network on new examples.

    .. math:: L_D(f_\Theta) \le L_{S,\gamma}(f_\Theta) + \sqrt{\frac{\frac12 \sum_i k_i \ln\bigl(1 +
              \frac{\alpha_i^2 D_i^2}{k_i \sigma_i^2}\bigr) + \frac d2 + \ln 2 + \frac12 \ln\frac m\delta +
              \sum_i \ln\frac{\pi j_i}{\sqrt 6}}{m - 1}}

    for a chain of d linear maps with ReLU between them, ``margin_loss`` :math:`L_{S,\gamma}` at ``margin`` :math:`\gamma`,
    ``parameters`` :math:`k_i`, ``alphas``, ``squared_distances`` :math:`D_i^2`, :math:`\sigma_i` of
    :func:`perturbation_sigmas` at ``norms``, and :math:`j_i` of :func:`shaketable.bounds.prior_indices`.

    Not done: the margin and the alphas are not searched.

    Args:
        margin_loss: the share of training examples whose logit exceeds the highest other one by ``margin`` or less.
        margin: above 0, fixed before training.
        parameters, alphas, squared_distances: as for :func:`shaketable.bounds.criticality_bound`.
        norms, kernels, channels_in, channels_out, input_norm, image_size: as for :func:`perturbation_sigmas`; norms of the
            layers on the path at ``alphas``.
        examples: from 2.
        delta: the probability that the bound fails.
        form: ``"derived"``, the formula above; ``"printed"``, equations 6 and 7.

    Returns: a :class:`Bound` with the values of both forms as terms (printed: NaN where equation 7 has no value). Its value
        is 1 at least where the margin is so large that no network with these norms reaches it.

    Raises:
        InputError: lengths that differ, or a number out of its range.

    Deviates: equation 6 as printed has the sum over layers whole where its proof (equation 8) has half of it, which makes it
        larger by up to :math:`\sqrt 2`; equation 7 has :math:`16 e \prod \ln(4 d N^2)` in place of
        :math:`32 e d B \prod q_i \sqrt{c_i \ln(4 d N^2)}`, a 1 in place of :math:`d / 2`, and
        :math:`\ln(7 m + \dots)` in place of :math:`\ln(\pi j_i / \sqrt 6)` (see
        :func:`shaketable.bounds.criticality_bound`). The first step of the last display of the proof needs
        :math:`c_{i-1} \ge c_i`, lemma B.4 the opposite: printed, the theorem is for equal channels. Lemma B.1 has 1 where
        the conditioned posterior of its proof gives :math:`2 \ln 2`. Lemma B.3 asks for
        :math:`\lVert u_i\rVert \le \lVert\theta_i\rVert`; its proof for :math:`\lVert\theta_i\rVert / d`, which these sigmas
        give wherever :math:`\gamma \le 8 e B \prod_j \lVert\theta_j\rVert`. The last line of equation 8 has the margin loss
        at :math:`\Theta^\alpha`, the theorem at :math:`\Theta`: both follow.

    Example:
        >>> bound = deterministic_bound(0.1, 1.0, [16], [0.5], [0.01], [1.0], [1], [4], [4], 1.0, 1, 10000)
        >>> round(bound.value, 3), bound.vacuous
        (0.153, False)

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, theorem B.2. Neyshabur, Bhojanapalli, Srebro, "A PAC-Bayesian approach to spectrally-normalized margin bounds for
        neural networks", 2018.
    """
    if form not in ("derived", "printed"):
        raise InputError(f"form={form!r}: use 'derived' or 'printed'.")
    check_error(margin_loss, "margin_loss")
    check_probability(delta, "delta")
    check_whole(examples, "examples", 2)
    count = check_same_length(
        parameters=parameters, alphas=alphas, squared_distances=squared_distances, norms=norms, kernels=kernels
    )
    shape = (kernels, channels_in, channels_out, input_norm, image_size)
    sigmas = [min(1.0, sigma) for sigma in perturbation_sigmas(margin, norms, *shape)]
    if min(sigmas) < 1e-150:
        raise InputError(
            "the product of the norms is too large for floats; the bound would be far above 1 all the same."
        )
    indices = prior_indices(parameters, alphas, sigmas, squared_distances, examples)
    numbers = list(zip(parameters, alphas, squared_distances, sigmas, strict=True))
    complexity = sum(k * math.log1p(a * a * d / (k * s * s)) for k, a, d, s in numbers) / 2
    log_term = math.log(examples / delta) / 2
    union = sum(math.log(math.pi * max(1, index) / math.sqrt(6)) for index in indices)
    total = complexity + count / 2 + math.log(2) + log_term + union
    derived = margin_loss + math.sqrt(total / (examples - 1))
    # beyond this margin the noise may exceed a layer's share, and the margin loss of any network is 1
    reach = math.log(8 * math.e * input_norm) + sum(map(math.log, norms)) - math.log(margin)
    within = reach >= 0
    if not within:
        derived = max(1.0, derived)
    printed = _printed(margin_loss, margin, numbers, norms, channels_out, input_norm, image_size, examples, delta)
    value = derived if form == "derived" else printed
    if math.isnan(value):
        raise InputError("equation 7 as printed takes the logarithm of a negative number here; use form='derived'.")
    terms = [
        ("margin loss", margin_loss, f"share of training examples with a margin of {margin:g} or less"),
        ("complexity", complexity, "half of the sum of k log(1 + alpha^2 D^2 / (k sigma^2))"),
        ("layers", count / 2, "a half for each layer, for the steps between priors"),
        ("log 2", math.log(2), "for the noise that changes a logit by too much"),
        ("log(m / delta) / 2", log_term, ""),
        ("priors", union, "sum of log(pi j / sqrt(6)): the choice of the priors"),
        ("log10 of the product of norms", sum(map(math.log10, norms)), "of the operator norms at alpha"),
        ("smallest sigma", min(sigmas), "of the noise"),
        ("derived", derived, "theorem B.2 with the constants of its proof"),
        ("printed", printed, "theorem B.2 as printed"),
    ]
    given = "numbers that the caller gave"
    assumptions = [
        *common("the initial weights, the layers, the margin"),
        Assumption("no input has a 2-norm above the one given", "not checked", given),
        Assumption("moving to alpha changes no logit by more than an eighth of the margin", "not checked", given),
        Assumption("the network is a chain of the given linear maps with ReLU between them", "not checked", given),
        Assumption(
            "noise moves each layer by a fraction 1 / d of its norm at most",
            "checked",
            "margin at most 8 e B times the product of norms"
            if within
            else "the margin is above that of every network with these norms: the margin loss is 1",
        ),
    ]
    if form == "printed":
        assumptions.append(
            Assumption("the printed constants are right", "fails", "the proof gives others; see Deviates")
        )
    form_words = "with the constants of its proof" if form == "derived" else "as printed"
    return Bound(
        theorem=f"theorem B.2 of Chatterji et al. 2020, {form_words}",
        subject="0-1 error on new examples of the trained network",
        value=value,
        delta=delta,
        examples=examples,
        assumptions=tuple(assumptions),
        terms=rows(terms),
    )


def _printed(
    margin_loss: float,
    margin: float,
    numbers: Sequence[tuple[int, float, float, float]],
    norms: Sequence[float],
    channels: Sequence[int],
    input_norm: float,
    image_size: int,
    examples: int,
    delta: float,
) -> float:
    """Equations 6 and 7 as printed; NaN where the latter has no value, infinite where a product is beyond floats."""
    count = len(numbers)
    spread = math.log(4 * count * image_size**2)
    total = math.log(examples / delta) + 1
    for i, ((k, a, d, _), c) in enumerate(zip(numbers, channels, strict=True)):
        log_product = sum(map(math.log, norms[:i])) + sum(map(math.log, norms[i + 1 :]))
        if abs(log_product) > 250:
            return math.inf
        product = math.exp(log_product)
        distance = 32 * math.e * count * input_norm * a * math.sqrt(d) * product * math.sqrt(spread)
        total += k * math.log1p(distance**2 / (c * margin**2))
        inner = 7 * examples + 2 * math.log(k / (k * (margin / (16 * math.e * product * spread)) ** 2 + a * a * d))
        if inner <= 0:
            return math.nan
        total += math.log(inner)
    return margin_loss + math.sqrt(total / (examples - 1))


def study_deterministic_bound(
    study: Study, margin: float, alphas: float | Sequence[float] = 1.0, delta: float = 0.05
) -> Bound:
    r"""The bound of theorem B.2 on a trained network, with what it needs gathered from the study.

    Layers are the linear and convolution modules, in forward order. A linear layer with a bias counts as the matrix
    :math:`\begin{pmatrix} W & b \\ 0 & 1 \end{pmatrix}` on inputs with a 1 behind them, which is the same network without
    biases. Norms are those of the true operators: of a convolution that of circular padding on maps that are larger by the
    kernel less one, which is at least that of zero padding.

    Not done: input norms and changes of logits are looked at on the training set, and the theorem needs them for every
    input that there may be.

    Args:
        study: with init and training data; inputs are one tensor.
        margin: :math:`\gamma`, above 0, in logits; fixed before training.
        alphas: one for all layers, or one each.
        delta: the probability that the bound fails.

    Returns: as :func:`deterministic_bound`, with assumptions looked at here; the change of logits on the path as a term.

    Raises:
        InputError: no init, no training data, labels per token, grouped convolutions, computed weights (weight norm), or no
            such layers.

    Cost: two passes over the training data, and a spectral norm each layer.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2, bias=False)).eval()
        >>> data = (torch.eye(2), torch.tensor([0, 1]))
        >>> final, init = {"0.weight": 9 * torch.eye(2)}, {"0.weight": 8 * torch.eye(2)}
        >>> bound = study_deterministic_bound(Study(network, final=final, init=init, train=data), margin=1.0)
        >>> bound.term("margin loss"), bound.vacuous
        (0.0, True)

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep networks",
        2020, theorem B.2.
    """
    if study.init is None:
        raise InputError(
            "the bound needs the initial weights; make the study with init=..., the weights before training."
        )
    check_positive(margin, "margin")
    data = study.data("train")
    if study.task != "classification" or not isinstance(data.inputs, Tensor):
        raise InputError("the bound is for classification of inputs that are one tensor.")
    chain = [
        (path, module) for path, module in study.network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    if not chain:
        raise InputError("the network has no linear layer and no two-dimensional convolution.")
    for path, module in chain:
        if computes_weight(module):
            raise InputError(f"layer {path!r} {COMPUTED}.")
    names = _names(study, chain)
    found = layers(study.network, "module", study.example_inputs())
    order = [path for layer in found for path in layer.modules]
    chain.sort(key=lambda item: order.index(item[0]))
    given = [float(alphas)] * len(chain) if isinstance(alphas, int | float) else list(alphas)
    check_same_length(layers=range(len(chain)), alphas=given)
    centre = dict(study.final)
    for (path, _), alpha in zip(chain, given, strict=True):
        for name in names[path].values():
            centre[name] = torch.lerp(study.init[name], study.final[name], alpha)
    engine = Engine(study.network, study.final, precision="float32")
    change, small = 0.0, 0
    moved = {name: centre[name] for path, _ in chain for name in names[path].values()}
    for start in range(0, len(data), 500):
        part = data.subset(range(start, min(start + 500, len(data))))
        before, after = engine.logits([{}, moved], part.inputs)
        change = max(change, float((before - after).abs().max()))
        label = part.labels.unsqueeze(1)
        others = before.scatter(1, label, -math.inf).amax(1)
        small += int((~(before.gather(1, label).squeeze(1) > margin + others)).sum())
    sizes = operators(study.network, study.example_inputs())
    biased = any(module.bias is not None for _, module in chain)
    norms, kernels, before, after, widest = [], [], [], [], 1
    for i, (path, module) in enumerate(chain):
        weight = centre[names[path]["weight"]]
        if isinstance(module, nn.Conv2d):
            if module.groups != 1 or module.kernel_size[0] != module.kernel_size[1]:
                raise InputError(f"layer {path!r}: the theorem is for square kernels without groups.")
            size = sizes[names[path]["weight"]].get("size") or (1, 1)
            reach = module.dilation[0] * (module.kernel_size[0] - 1)
            padded = tuple(n + reach for n in size)
            norm = operator_norm(weight, padded, dilation=module.dilation)
            norms.append(max(1.0, norm) if biased else norm)  # the 1 behind the inputs passes it by
            kernels.append(module.kernel_size[0])
            widest = max(widest, *padded)
        else:
            norms.append(operator_norm(_augmented(centre, names[path], biased, last=i == len(chain) - 1)))
            kernels.append(1)
        before.append(weight.shape[1] + (module.bias is not None and isinstance(module, nn.Linear)))
        after.append(weight.shape[0])
    largest = max(float(torch.linalg.vector_norm(part.double())) for part in data.inputs)
    bound = deterministic_bound(
        small / len(data),
        margin,
        [sum(centre[name].numel() for name in names[path].values()) for path, _ in chain],
        given,
        [_squared_distance(study, tuple(names[path].values())) for path, _ in chain],
        norms,
        kernels,
        before,
        after,
        math.hypot(largest, 1.0) if biased else largest,
        widest,
        len(data),
        delta,
    )
    held = change <= margin / 8
    assumptions = {assumption.what: assumption for assumption in bound.assumptions}
    looked_at: list[tuple[str, Status, str]] = [
        ("no input has a 2-norm above the one given", "not checked", "the largest of the training set, assumed beyond"),
        (
            "moving to alpha changes no logit by more than an eighth of the margin",
            "fails" if not held else "holds" if all(alpha == 1 for alpha in given) else "not checked",
            f"at most {change:.4g} on the training set, {margin / 8:.4g} allowed; assumed beyond",
        ),
        ("the network is a chain of the given linear maps with ReLU between them", *_structure(study, chain)),
    ]
    for what, status, how in looked_at:
        assumptions[what] = Assumption(what, status, how)
    terms = [*bound.terms.rows(), ("change of logits", change, "the largest on the training set, from final to alpha")]
    return replace(bound, assumptions=tuple(assumptions.values()), terms=rows(terms), chance=1 - 1 / study.classes)


def _names(study: Study, chain: Sequence[tuple[str, nn.Module]]) -> dict[str, dict[str, str]]:
    """What the study's weights call weight and bias of each module: a tied one by its first name."""
    known = {id(parameter): name for name, parameter in study.network.named_parameters()}
    return {
        path: {
            own: known[id(module._parameters[own])] for own in ("weight", "bias") if module._parameters[own] is not None
        }
        for path, module in chain
    }


def _augmented(params: Params, names: dict[str, str], biased: bool, last: bool) -> Tensor:
    """A linear layer's matrix, with its bias as one more column and the row that passes the 1 on."""
    weight = params[names["weight"]].double()
    if not biased:
        return weight
    bias = params[names["bias"]].double() if "bias" in names else weight.new_zeros(len(weight))
    matrix = torch.cat((weight, bias.unsqueeze(1)), 1)
    if last:
        return matrix
    row = torch.zeros(1, matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    row[0, -1] = 1
    return torch.cat((matrix, row))


def _squared_distance(study: Study, names: Sequence[str]) -> float:
    """From init to final, of some parameters as one vector."""
    assert study.init is not None
    return sum(float((study.final[name].double() - study.init[name].double()).square().sum()) for name in names)


def _structure(study: Study, chain: Sequence[tuple[str, nn.Module]]) -> tuple[Status, str]:
    """Whether the network is such a chain, as far as its modules tell."""
    known = {path for path, _ in chain}
    if len(list(study.network.named_modules(remove_duplicate=False))) > len(list(study.network.modules())):
        return "fails", "a module is used in more than one place, which the proof does not cover"
    if aliases(study.network):
        return "fails", "a parameter is used in more than one place, which the proof does not cover"
    for path, module in study.network.named_modules():
        if any(True for _ in module.children()) or path in known:
            continue
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            kernel, stride = _pair(module.kernel_size), _pair(module.stride)
            if not any(_pair(module.padding)) and all(s >= k for s, k in zip(stride, kernel, strict=True)):
                continue
        if not isinstance(module, LIPSCHITZ):
            return "fails", f"{path!r} is a {type(module).__name__}, which the proof does not cover"
    held = {id(parameter) for _, module in chain for parameter in (module.weight, module.bias)}
    for name, parameter in study.network.named_parameters():
        if id(parameter) not in held:
            return "fails", f"{name!r} is no weight or bias of these linear maps, and the proof does not cover it"
    for path, module in chain:
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            return "fails", f"the convolution {path!r} has a bias, which the proof does not cover"
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            return "fails", f"the convolution {path!r} pads by {module.padding_mode!r}, which the proof does not cover"
    if isinstance(study.network, nn.Sequential) and all(
        isinstance(module, nn.Sequential) for module in study.network.modules() if any(True for _ in module.children())
    ):
        return "checked", "a Sequential of such modules"
    return "not checked", "its modules fit, but what its forward does with them was not read"


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """One number for each dimension."""
    return (value, value) if isinstance(value, int) else value
