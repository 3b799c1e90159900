"""FGSM and PGD on classifiers, randomised ones among them, by captum; a table of what is left of the accuracy."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from shaketable.data import Data
from shaketable.defense.classifier import answers, check_whole, choosing, draws_of, images_of, with_images
from shaketable.errors import InputError, RunError
from shaketable.forward import Inputs, evaluation_mode, forward, map_inputs
from shaketable.identity import generator_from
from shaketable.probes.stored import names_of

Attack = Literal["fgsm", "pgd"]
ATTACKS: tuple[Attack, ...] = ("fgsm", "pgd")

ATTACK_SCHEMA = {
    "model": pl.String,
    "attack": pl.String,
    "eps": pl.Float64,
    "steps": pl.Int64,
    "step_size": pl.Float64,
    "gradient_draws": pl.Int64,
    "repeat": pl.Int64,
    "examples": pl.Int64,
    "correct": pl.Int64,
    "accuracy": pl.Float64,
    "clean_accuracy": pl.Float64,
    "status": pl.String,
    "reason": pl.String,
}


def adversarial_examples(
    network: nn.Module,
    data: Data,
    attack: Attack,
    *,
    eps: float,
    steps: int = 20,
    step_size: float = 2 / 255,
    random_start: bool = True,
    gradient_draws: int = 1,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    repeat: int = 0,
    batch_size: int = 250,
) -> Tensor:
    r"""Inputs within eps of the given ones, moved uphill in the loss, by captum's FGSM or PGD.

    .. math::
        x' = \Pi\bigl(x + \varepsilon \operatorname{sign} g(x)\bigr) \;\text{(FGSM)}, \qquad
        x_{t+1} = \Pi\bigl(x_t + \alpha \operatorname{sign} g(x_t)\bigr) \;\text{(PGD)}, \qquad
        g(x) = \nabla_x \frac{1}{k} \sum_{j=1}^k L\bigl(f_{\omega_j}(x), y\bigr)

    with :math:`\varepsilon` ``eps``, :math:`\alpha` ``step_size``, k ``gradient_draws``, L the cross-entropy, and
    :math:`\Pi` the projection on the ball of the infinity norm around x and on the bounds. Each step of each example has
    k draws :math:`\omega` of its own; with k above 1 this is expectation over transformation.

    What is not done: no restarts, no other losses or norms, no attack without gradients.

    Args:
        network: takes what ``bounds`` bound: put a normalisation inside, by :class:`Normalised`. In evaluation mode here.
        data: inputs and true labels; the inputs may be a dict or a tuple that holds one tensor (``{"pixel_values": ...}``).
        attack: ``"fgsm"`` (one step of eps) or ``"pgd"``.
        eps: the budget, in units of the inputs, from 0 to the length of the bounds.
        steps, step_size, random_start: of PGD; it starts at a random point of the ball, or at x.
        gradient_draws: k; 1 is the attacker of the paper, who takes each random answer for the network's own.
        bounds: the lowest and the highest value of an input.
        seed, repeat: of draws and starts. Torch's global random state is left alone.
        batch_size: examples at once; changes memory, not the result (up to the rounding of sums).

    Returns: the adversarial examples, in the shape and order of the inputs, as the tensor.

    Raises:
        InputError: no captum, an unknown attack, a budget that is negative or larger than the range of the inputs, inputs
            outside of the bounds.
        RunError: the library's attack left the ball or the bounds, or moved inputs at a budget of 0.

    Cost: FGSM k, PGD k times ``steps`` passes forward and backward.

    Deviates: the paper gives no budget, number of steps or step size; ours are arguments, and 8/255, 20 and 2/255, usual for
    CIFAR-10, are what the studies use. captum takes gradients up to 1e-6 for 0, and cross-entropy as usually computed
    loses the label's part of the gradient beyond a margin of 17 (float32): both make attacks weaker on confident networks.
    Here the threshold is 0, and the loss is computed from differences to the label's logit.

    References: I. Goodfellow, J. Shlens, C. Szegedy, Explaining and harnessing adversarial examples, ICLR 2015. A. Madry et
    al., Towards deep learning models resistant to adversarial attacks, ICLR 2018. A. Athalye et al., Synthesizing robust
    adversarial examples, ICML 2018.
    """
    images = images_of(data)
    check_budget(attack, images, eps, steps, step_size, bounds)
    check_whole(gradient_draws=gradient_draws, batch_size=batch_size)
    count = steps if attack == "pgd" else 1
    draws = [
        [draws_of(network, len(data), seed, repeat, "gradient", step, draw) for draw in range(gradient_draws)]
        for step in range(count)
    ]
    start = images
    if attack == "pgd" and random_start:
        uniform = torch.rand(images.shape, generator=generator_from(seed, "start", repeat), dtype=torch.float64)
        start = images + ((2 * uniform - 1) * eps).to(images)
    found = []
    with evaluation_mode(network):
        for first in range(0, len(data), batch_size):
            part = slice(first, first + batch_size)
            chosen = [[None if draw is None else draw[part] for draw in step] for step in draws]
            some = data.subset(range(first, min(first + batch_size, len(data))))
            moved = _attacked(network, some, start[part], attack, eps, count, step_size, bounds, chosen)
            found.append(moved)
    adversarial = torch.cat(found)
    slack = 4 * torch.finfo(images.dtype).eps * max(1.0, *map(abs, bounds))
    outside = bool((adversarial < bounds[0]).any()) or bool((adversarial > bounds[1]).any())
    if outside or not float((adversarial - images).abs().max()) <= eps + slack:
        raise RunError(
            f"captum's {attack} left the ball of radius {eps:g} or the bounds; its version does not do for this."
        )
    return adversarial


def _attacked(
    network: nn.Module,
    data: Data,
    start: Tensor,
    attack: Attack,
    eps: float,
    steps: int,
    step_size: float,
    bounds: tuple[float, float],
    draws: list[list[Tensor | None]],
) -> Tensor:
    """One batch through captum."""
    fgsm, pgd = _captum()
    images, labels = images_of(data), data.labels
    step = -1

    def loss_of(inputs: Tensor) -> Tensor:
        """The loss of each example at the next step, averaged over the draws of that step."""
        nonlocal step
        step += 1
        given = map_inputs(lambda _: inputs, data.inputs)
        losses = [_loss(network, given, labels, chosen) for chosen in draws[step]]
        return torch.stack(losses).mean(0)

    def take(loss: Tensor, _: Any) -> Tensor:
        return loss

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input Tensor", UserWarning)  # that it asks for gradients of inputs
        if attack == "fgsm":
            method = fgsm(loss_of, take, *bounds)
            method.zero_thresh = 0.0
            return method.perturb(images.clone(), eps, labels).detach()
        method = pgd(loss_of, take, *bounds)
        method.fgsm.zero_thresh = 0.0
        # captum draws the start from torch's global state, batch by batch; ours is drawn for all the data, from a seed.
        method._random_point = lambda *_: start
        return method.perturb(images.clone(), eps, step_size, steps, labels, random_start=True).detach()


def attack_table(
    models: Mapping[str, nn.Module] | nn.Module,
    data: Data,
    *,
    attacks: Sequence[Attack] = ATTACKS,
    eps: float = 8 / 255,
    steps: int = 20,
    step_size: float = 2 / 255,
    random_start: bool = True,
    gradient_draws: int = 1,
    examples: int = 1000,
    repeats: int = 5,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    batch_size: int = 250,
) -> pl.DataFrame:
    r"""Accuracy without and under attack, of networks and of their randomised versions: table 2, a row per repeat.

    Each repeat draws the gradients' randomness, PGD's start and the answers anew; the attacked examples and the weight
    sets of a :class:`RandomisedClassifier` stay. The choices that answer are never those that the attacker saw.

    Checked while it runs: a budget of 0 leaves inputs as they are, adversarial examples lie in ball and bounds, and PGD is at
    least as strong as FGSM on the same examples; where it is not, by more than three standard errors, its rows say
    ``"suspect"``: an attack that one step beats says nothing of robustness.

    What is not done: this is an upper bound on accuracy under attack, by two attacks, and no measure of safety.

    Args:
        models: networks by name, or one; each takes what ``bounds`` bound (see :class:`Normalised`).
        data: all of it gives the clean accuracy.
        attacks: some of ``"fgsm"``, ``"pgd"``.
        eps, steps, step_size, random_start, gradient_draws, bounds: see :func:`adversarial_examples`.
        examples: so many of the data, drawn once, are attacked; all where there are fewer.
        repeats: of everything that is drawn.
        seed: of everything that is drawn.
        batch_size: examples at once; changes memory, not the result (up to the rounding of sums).

    Returns: one row per model, attack (``"clean"`` first) and repeat: ``accuracy`` = ``correct`` / ``examples`` in [0, 1];
        ``clean_accuracy`` is that of the same examples before the attack, with the same choices; ``steps`` and
        ``step_size`` are null but for PGD. ``status`` is ``"ok"``, ``"suspect"`` or, where logits are NaN or infinite
        (these count as wrong), ``"not finite"``, with a ``reason``. :func:`attack_summary` has mean and deviation.

    Raises:
        InputError: as in :func:`adversarial_examples`; no models, attacks, repeats or examples.
        RunError: a check of the library's attack failed.

    Cost: per model and repeat a pass over the data, and over the examples ``gradient_draws`` (FGSM) and ``gradient_draws``
        x ``steps`` (PGD) passes forward and backward.

    Deviates: see :func:`adversarial_examples`. Some accuracies in table 2 (12.75%, 8.45 ± 0.00%) cannot be means of five counts in
        1000 examples, whatever the paper averaged; here each is a count over the examples.

    Example:
        >>> from shaketable.networks import build
        >>> data = Data(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), 2)
        >>> attack_table(build("fcn-1x4", (1, 2, 2), 2), data, attacks=(), repeats=1)["attack"].to_list()
        ['clean']

    References: C. Zhang, S. Bengio, Y. Singer, Are all layers created equal?, JMLR 2022, section 6, table 2.
    """
    named = {type(models).__name__: models} if isinstance(models, nn.Module) else dict(models)
    if not named:
        raise InputError("there are no models to attack; give at least one.")
    check_whole(examples=examples, repeats=repeats, batch_size=batch_size, gradient_draws=gradient_draws)
    attacks = attacks_of(attacks)
    for attack in attacks:
        check_budget(attack, images_of(data), eps, steps, step_size, bounds)
    order = torch.randperm(len(data), generator=generator_from(seed, "examples"))[:examples].sort().values
    attacked = data.subset(order)
    rows = []
    for name, network in named.items():
        found: list[dict[str, Any]] = []
        for attack in dict.fromkeys(("clean", *attacks)):
            about: dict[str, Any] = {"model": name, "attack": attack, "status": "ok"}
            if attack != "clean":
                _check_nothing_moves(network, attacked, attack, bounds)
                about |= {"eps": eps, "gradient_draws": gradient_draws}
                about |= {"steps": steps, "step_size": step_size} if attack == "pgd" else {}
            for repeat in range(repeats):
                shown = data if attack == "clean" else attacked
                draws = draws_of(network, len(shown), seed, repeat, "answer")
                clean, bad = answers(network, shown, draws, batch_size)
                correct = clean
                if attack != "clean":
                    moved = adversarial_examples(
                        network,
                        shown,
                        attack,
                        eps=eps,
                        steps=steps,
                        step_size=step_size,
                        random_start=random_start,
                        gradient_draws=gradient_draws,
                        bounds=bounds,
                        seed=seed,
                        repeat=repeat,
                        batch_size=batch_size,
                    )
                    correct, more = answers(network, with_images(shown, moved), draws, batch_size)
                    bad += more
                row = about | {"repeat": repeat, "examples": len(shown), "correct": int(correct.sum())}
                row |= {"accuracy": row["correct"] / len(shown), "clean_accuracy": int(clean.sum()) / len(shown)}
                if bad:
                    row |= {"status": "not finite", "reason": f"{bad} answers had a NaN or infinite logit"}
                found.append(row)
        rows += _suspected(found)
    return pl.DataFrame([dict.fromkeys(ATTACK_SCHEMA) | row for row in rows], schema=ATTACK_SCHEMA)


def attack_summary(table: pl.DataFrame) -> pl.DataFrame:
    """Mean and standard deviation over repeats of :func:`attack_table`: the numbers of table 2.

    Returns: one row per model and attack: ``repeats``, ``examples``, ``accuracy`` and ``accuracy_std`` (divisor repeats - 1;
        null for a single one), ``clean_accuracy``, ``status`` and ``reason`` (the first that is not ok), and the budget.
    """
    keys = ["model", "attack", "eps", "steps", "step_size", "gradient_draws"]
    return table.group_by(keys, maintain_order=True).agg(
        pl.len().alias("repeats"),
        pl.col("examples").first(),
        pl.col("accuracy").mean(),
        pl.col("accuracy").std(ddof=1).alias("accuracy_std"),
        pl.col("clean_accuracy").mean(),
        pl.col("status").sort_by(pl.col("status") == "ok").first(),
        pl.col("reason").drop_nulls().first(),
    )


def attacks_of(attacks: Any) -> list[Attack]:
    """The names of some attacks."""
    return [*dict.fromkeys(names_of("'fgsm', 'pgd' or both", attacks=attacks))]  # pyright: ignore


def _suspected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one model, those of PGD marked where FGSM is stronger by more than three standard errors."""
    rates, variance = {}, 0.0
    for attack in ATTACKS:
        own = [row for row in rows if row["attack"] == attack]
        if not own:
            return rows
        asked = sum(row["examples"] for row in own)
        rate = rates[attack] = sum(row["correct"] for row in own) / asked
        variance += rate * (1 - rate) / asked
    if rates["pgd"] - rates["fgsm"] <= 3 * math.sqrt(variance):
        return rows
    reason = (
        f"FGSM leaves {rates['fgsm']:.1%} right and PGD {rates['pgd']:.1%}: PGD is too weak here; "
        "give it more steps, another step size, or more gradient draws"
    )
    return [row | {"status": "suspect", "reason": reason} if row["attack"] == "pgd" else row for row in rows]


def _check_nothing_moves(network: nn.Module, data: Data, attack: Attack, bounds: tuple[float, float]) -> None:
    """An error where a budget of 0 changes inputs."""
    few = data.subset(torch.arange(min(16, len(data))))
    moved = adversarial_examples(network, few, attack, eps=0.0, steps=1, step_size=1.0, bounds=bounds)
    if not torch.equal(moved, images_of(few)):
        raise RunError(f"captum's {attack} changes inputs at a budget of 0; its version does not do for this.")


def _loss(network: nn.Module, inputs: Inputs, labels: Tensor, draws: Tensor | None) -> Tensor:
    """The cross-entropy of each example, from the other classes' distances to the label's logit.

    The softmax of the label rounds to 1 beyond a margin of 17 in float32, and its part of the gradient would be lost.
    """
    with choosing(network, draws):
        logits = forward(network, inputs)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    behind = logits - logits.gather(1, labels[:, None])
    return softplus(behind.scatter(1, labels[:, None], float("-inf")).logsumexp(1))


def _captum() -> tuple[Any, Any]:
    """captum's FGSM and PGD."""
    try:
        from captum.robust import FGSM, PGD  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "attacks need the library captum; install it with `pip install 'shaketable[attacks]'`."
        ) from error
    return FGSM, PGD


def check_budget(
    attack: str, images: Tensor, eps: float, steps: int, step_size: float, bounds: tuple[float, float]
) -> None:
    """One error for the first number that makes no sense."""
    if attack not in ATTACKS:
        raise InputError(f"attack {attack!r} is unknown; use one of {', '.join(ATTACKS)}.")
    lower, upper = bounds
    if not math.isfinite(upper - lower) or lower >= upper:
        raise InputError(f"bounds={bounds}: give the lowest and the highest value of an input, such as (0, 1).")
    low, high = float(images.min()), float(images.max())
    if low < lower or high > upper:
        raise InputError(
            f"the inputs go from {low:.3g} to {high:.3g}, beyond bounds={bounds}: give raw pixels, with the normalisation "
            "inside the network (shaketable.defense.pixels and Normalised)."
        )
    if not 0 <= eps <= upper - lower:
        raise InputError(f"eps={eps}: a budget must lie between 0 and {upper - lower:g}, the range of the inputs.")
    if not 0 < step_size < math.inf:
        raise InputError(f"step_size={step_size}: give a finite number above 0.")
    check_whole(steps=steps)
