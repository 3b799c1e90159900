"""Randomised classifiers, and attacks on them. No defense: see docs/defense.md."""

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from shaketable.data import Data
from shaketable.data.data import Normalisation
from shaketable.errors import InputError, RunError
from shaketable.evaluate import outcomes
from shaketable.forward import evaluation_mode, logits_of
from shaketable.identity import generator_from, seed_from
from shaketable.params import Layer, layers
from shaketable.perturb import fresh_params, source_of
from shaketable.study import Study

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
ACCURACY_SCHEMA = {name: ATTACK_SCHEMA[name] for name in ("repeat", "examples", "correct", "accuracy")}


class Normalised(nn.Module):
    """A network that takes pixels: the normalisation that its training data had is its first layer.

    .. math:: x \\mapsto f\\bigl((x - \\mu) / \\sigma\\bigr)

    Attacks bound pixels, not normalised values, and so the normalisation must lie inside of what is attacked. Gradients
    pass through; mean :math:`\\mu` and standard deviation :math:`\\sigma` are no parameters.

    Args:
        network: f, for normalised inputs.
        normalisation: one mean and one standard deviation per channel, as in ``Dataset.normalisation``.

    Example:
        >>> network = Normalised(nn.Flatten(), Normalisation((0.5,), (0.25,)))
        >>> network(torch.ones(1, 1, 1, 1)).tolist()
        [[2.0]]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = network
        like = next((tensor for tensor in network.parameters()), torch.zeros(()))
        for name in ("mean", "std"):
            values = like.new_tensor(getattr(normalisation, name)).reshape(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.train(network.training)

    def forward(self, images: Tensor) -> Any:
        return self.network((images - self.mean) / self.std)


def pixels(data: Data, normalisation: Normalisation | None) -> Data:
    """The data as they were before a normalisation: pixels in [0, 1].

    Args:
        data: images [N, C, H, W].
        normalisation: what was applied to them; None leaves them as they are.

    Returns: the same examples; what rounding puts beyond 0 or 1 is put back onto it.
    """
    images = _images(data)
    if normalisation is None:
        return data
    mean, std = (images.new_tensor(value).reshape(-1, 1, 1) for value in (normalisation.mean, normalisation.std))
    raw = images * std + mean
    slack = 1e-4  # of float32 beside a normalisation with nine digits
    if float(raw.min()) < -slack or float(raw.max()) > 1 + slack:
        raise InputError(
            "these data, brought back, are not in [0, 1]; give the normalisation that was applied to them."
        )
    return Data(raw.clamp(0, 1), data.labels, data.classes, data.corrupted)


class _Choice(nn.Module):
    """A block with trained weights beside copies with fresh ones; each example takes the one that was chosen for it."""

    chosen: Tensor | None

    def __init__(self, block: nn.Module, alternatives: list[nn.Module]) -> None:
        super().__init__()
        self.variants = nn.ModuleList([block, *alternatives])
        self.chosen = None

    def forward(self, inputs: Tensor) -> Tensor:
        chosen = self.chosen
        assert chosen is not None
        numbers = chosen.unique().tolist()
        if len(numbers) == 1:
            return self.variants[numbers[0]](inputs)
        rows = [(chosen == number).nonzero().flatten() for number in numbers]
        parts = [self.variants[n](inputs.index_select(0, row)) for n, row in zip(numbers, rows, strict=True)]
        return torch.cat(parts).index_select(0, torch.cat(rows).argsort())


class RandomisedClassifier(nn.Module):
    r"""A trained residual network whose answers are random: at each inference some blocks have weights of chance.

    For each example of each call, s of the S stages are drawn without replacement; in each of them one residual block is
    drawn, and its parameters :math:`\theta_d` are replaced by one of r sets
    :math:`\tilde\theta_d^1, \dots, \tilde\theta_d^r`, drawn once, here, from the distribution of its initial weights. All
    other layers keep their trained weights. Nothing is retrained.

    What is not done: running statistics of normalisations stay as trained. It is no defense (docs/defense.md).

    Args:
        study: the network with its final weights; it is copied, never written to. Fresh weights come as in
            :func:`shaketable.robustness`.
        r: weight sets per residual block, at least 1.
        s: stages that are randomised at each inference, from 0 (the network itself) to the number of stages.
        seed: of the weight sets and of the choices.

    Call it as the network: inputs [N, ...] to logits [N, classes]. It draws from its own generator (``reseed`` puts that
    back), so that two calls differ; inside ``with classifier.fixed(choices)`` it takes the choices given.

    Raises:
        InputError: no residual blocks, r or s out of range, or a block whose initial distribution is unknown.

    Cost: r + 1 times the weights of the blocks; a call costs what the network does, in at most r + 1 parts a block.

    Deviates: the paper says "during each inference step", which may mean one draw for a whole batch: here each example has
    its own, so that the result does not depend on the batch size. It does not say how block and weight set are drawn:
    uniformly here. All residual blocks of a stage can be drawn, in the paper's networks all with identity skips.

    Example:
        >>> from shaketable.networks import build
        >>> network = build("resn-2-2", (1, 8, 8), 3, width=0.1)
        >>> classifier = RandomisedClassifier(Study(network), r=4, s=1)
        >>> {stage: len(blocks) for stage, blocks in classifier.stages.items()}
        {'stage1': 2, 'stage2': 2}
        >>> classifier(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 3])

    References: C. Zhang, S. Bengio, Y. Singer, Are all layers created equal?, JMLR 2022, section 6, table 2.
    """

    def __init__(self, study: Study, *, r: int = 4, s: int = 1, seed: int = 0) -> None:
        super().__init__()
        found = layers(study.network, "block", study.example_inputs())
        blocks = [layer for layer in found if layer.stage]
        stages = list(dict.fromkeys(layer.stage for layer in blocks))
        if not blocks:
            raise InputError(f"{study.name} has no residual blocks to randomise; give a residual network.")
        if not _whole(r, 1):
            raise InputError(f"r={r!r}: the number of weight sets per block must be a whole number from 1.")
        if not _whole(s, 0, len(stages)):
            raise InputError(
                f"s={s!r}: the number of stages to randomise must be a whole number from 0 to {len(stages)}."
            )
        self.r, self.s, self.seed = r, s, seed
        self.stages = {stage: tuple(b.name for b in blocks if b.stage == stage) for stage in stages}
        self.network = copy.deepcopy(study.network)
        self._write(self.network, study.final)
        copies: dict[str, list[nn.Module]] = {block.name: [] for block in blocks}
        for number in range(r if s else 0):
            self._draw_set(study, blocks, number, copies)
        self._choices: list[_Choice] = []
        for block in blocks:
            choice = _Choice(self.network.get_submodule(block.name), copies[block.name])
            around, _, name = block.name.rpartition(".")
            setattr(self.network.get_submodule(around), name, choice)
            self._choices.append(choice)
        self.requires_grad_(False).eval()
        self._fixed: Tensor | None = None
        self.reseed(seed)

    def _draw_set(self, study: Study, blocks: list[Layer], number: int, copies: dict[str, list[nn.Module]]) -> None:
        """One more weight set for every block."""
        fresh, sources = fresh_params(
            study.network, seed_from(self.seed, "weight set", number), study.init, study.initialise
        )
        for block in blocks:
            if source_of(block, sources) is None:
                raise InputError(
                    f"block {block.name!r}: its initial distribution is unknown; make the study with init or initialise."
                )
            module = copy.deepcopy(self.network.get_submodule(block.name))
            prefix = f"{block.name}."
            self._write(module, {name.removeprefix(prefix): fresh[name] for name in block.params})
            copies[block.name].append(module)

    @staticmethod
    @torch.no_grad()
    def _write(module: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Copy tensors into a module of our own, by name."""
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, value in values.items():
            own[name].copy_(value)

    def reseed(self, seed: int) -> None:
        """Begin the choices of a seed anew."""
        self._generator = generator_from(seed, "choices")

    def draw(self, examples: int, generator: torch.Generator) -> Tensor:
        """Choices for so many examples [examples, blocks]: 0 is the trained weights, 1 to r a weight set."""
        count = len(self.stages)
        uniform = torch.rand(examples, 3 * count, generator=generator, dtype=torch.float64)
        chosen = uniform[:, :count].argsort(1).argsort(1) < self.s  # the stages of the s smallest numbers
        columns = []
        for number, names in enumerate(self.stages.values()):
            block = (uniform[:, count + number] * len(names)).long()
            weights = 1 + (uniform[:, 2 * count + number] * self.r).long()
            taken = one_hot(block, len(names)) * weights[:, None]
            columns.append(taken * chosen[:, number : number + 1])
        return torch.cat(columns, 1)

    @contextmanager
    def fixed(self, choices: Tensor) -> Iterator[None]:
        """Inside, the examples of each call take these choices [N, blocks], as :meth:`draw` gives them."""
        before, self._fixed = self._fixed, choices
        try:
            yield
        finally:
            self._fixed = before

    def forward(self, inputs: Tensor) -> Any:
        choices = self.draw(len(inputs), self._generator) if self._fixed is None else self._fixed
        if choices.shape != (len(inputs), len(self._choices)):
            wanted = [len(inputs), len(self._choices)]
            raise InputError(f"choices have the shape {list(choices.shape)}, and these inputs need {wanted}.")
        for choice, column in zip(self._choices, choices.to(inputs.device).unbind(1), strict=True):
            choice.chosen = column
        return self.network(inputs)


def randomised_accuracy(
    classifier: nn.Module, data: Data, *, repeats: int = 5, seed: int = 0, batch_size: int = 250
) -> pl.DataFrame:
    r"""The accuracy of a classifier with random answers, several times over: the column "Clean" of table 2.

    .. math:: \frac{1}{N} \sum_i \left[\arg\max_c f_{\omega_{k,i}}(x_i)_c = y_i\right]

    with a draw :math:`\omega_{k,i}` for each example i and repeat k. A network that draws nothing gives equal rows.

    Args:
        classifier: a :class:`RandomisedClassifier`, a network around one, or any other.
        data: the N examples.
        repeats: how many times each example is asked.
        seed: of the choices.
        batch_size: examples per forward pass; changes memory, not the result.

    Returns: one row per repeat: ``repeat``, ``examples``, ``correct``, ``accuracy`` in [0, 1].

    Raises:
        InputError: repeats or a batch size below 1.

    Cost: a forward pass over the data per repeat.
    """
    _check_whole(repeats=repeats, batch_size=batch_size)
    rows = []
    for repeat in range(repeats):
        correct, _ = _answers(classifier, data, _draws(classifier, len(data), seed, repeat, "answer"), batch_size)
        rows.append((repeat, len(data), int(correct.sum()), int(correct.sum()) / len(data)))
    return pl.DataFrame(rows, schema=ACCURACY_SCHEMA, orient="row")


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
        data: inputs and true labels.
        attack: ``"fgsm"`` (one step of eps) or ``"pgd"``.
        eps: the budget, in units of the inputs, from 0 to the length of the bounds.
        steps, step_size, random_start: of PGD; it starts at a random point of the ball, or at x.
        gradient_draws: k; 1 is the attacker of the paper, who takes each random answer for the network's own.
        bounds: the lowest and the highest value of an input.
        seed, repeat: of draws and starts. Torch's global random state is left alone.
        batch_size: examples at once; changes memory, not the result (up to the rounding of sums).

    Returns: the adversarial examples, in the shape and order of the inputs.

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
    images = _images(data)
    _check_budget(attack, images, eps, steps, step_size, bounds)
    _check_whole(gradient_draws=gradient_draws, batch_size=batch_size)
    count = steps if attack == "pgd" else 1
    draws = [
        [_draws(network, len(data), seed, repeat, "gradient", step, draw) for draw in range(gradient_draws)]
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
            moved = _attacked(
                network, images[part], start[part], data.labels[part], attack, eps, count, step_size, bounds, chosen
            )
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
    images: Tensor,
    start: Tensor,
    labels: Tensor,
    attack: Attack,
    eps: float,
    steps: int,
    step_size: float,
    bounds: tuple[float, float],
    draws: list[list[Tensor | None]],
) -> Tensor:
    """One batch through captum."""
    fgsm, pgd = _captum()
    step = -1

    def loss_of(inputs: Tensor) -> Tensor:
        """The loss of each example at the next step, averaged over the draws of that step."""
        nonlocal step
        step += 1
        losses = [_loss(network, inputs, labels, chosen) for chosen in draws[step]]
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
    _check_whole(examples=examples, repeats=repeats, batch_size=batch_size, gradient_draws=gradient_draws)
    for attack in attacks:
        _check_budget(attack, _images(data), eps, steps, step_size, bounds)
    order = torch.randperm(len(data), generator=generator_from(seed, "examples"))[:examples].sort().values
    attacked = data.subset(order)
    rows = []
    for name, network in named.items():
        found: list[dict[str, Any]] = []
        for attack in ("clean", *attacks):
            about: dict[str, Any] = {"model": name, "attack": attack, "status": "ok"}
            if attack != "clean":
                _check_nothing_moves(network, attacked, attack, bounds)
                about |= {"eps": eps, "gradient_draws": gradient_draws}
                about |= {"steps": steps, "step_size": step_size} if attack == "pgd" else {}
            for repeat in range(repeats):
                shown = data if attack == "clean" else attacked
                draws = _draws(network, len(shown), seed, repeat, "answer")
                clean, bad = _answers(network, shown, draws, batch_size)
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
                    correct, more = _answers(network, Data(moved, shown.labels, shown.classes), draws, batch_size)
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
    if not torch.equal(moved, _images(few)):
        raise RunError(f"captum's {attack} changes inputs at a budget of 0; its version does not do for this.")


def _answers(network: nn.Module, data: Data, draws: Tensor | None, batch_size: int) -> tuple[Tensor, int]:
    """Which examples are classified right [N], and how many have a NaN or infinite logit."""
    right, bad = [], 0
    with evaluation_mode(network), torch.no_grad():
        for number, (inputs, labels) in enumerate(data.batches(batch_size)):
            part = slice(number * batch_size, number * batch_size + len(labels))
            with _choosing(network, None if draws is None else draws[part]):
                wrong, _, finite = outcomes(logits_of(network(inputs)).float(), labels)
            right.append(~wrong)
            bad += 0 if finite is None else int((~finite).sum())
    return torch.cat(right), bad


def _loss(network: nn.Module, inputs: Tensor, labels: Tensor, draws: Tensor | None) -> Tensor:
    """The cross-entropy of each example, from the other classes' distances to the label's logit.

    The softmax of the label rounds to 1 beyond a margin of 17 in float32, and its part of the gradient would be lost.
    """
    with _choosing(network, draws):
        logits = logits_of(network(inputs))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    behind = logits - logits.gather(1, labels[:, None])
    return softplus(behind.scatter(1, labels[:, None], float("-inf")).logsumexp(1))


def _randomised(network: nn.Module) -> RandomisedClassifier | None:
    """The randomised classifier that a network is, or holds."""
    return next((module for module in network.modules() if isinstance(module, RandomisedClassifier)), None)


def _draws(network: nn.Module, examples: int, seed: int, repeat: int, *words: str | int) -> Tensor | None:
    """The choices of each example for one purpose, or None where a network draws nothing."""
    classifier = _randomised(network)
    return classifier and classifier.draw(examples, generator_from(seed, "repeat", repeat, *words))


def _choosing(network: nn.Module, draws: Tensor | None) -> Any:
    """A context in which the randomised classifier in a network takes these choices."""
    classifier = _randomised(network)
    return nullcontext() if classifier is None or draws is None else classifier.fixed(draws)


def _captum() -> tuple[Any, Any]:
    """captum's FGSM and PGD."""
    try:
        from captum.robust import FGSM, PGD  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "attacks need the library captum; install it with `pip install 'shaketable[attacks]'`."
        ) from error
    return FGSM, PGD


def _images(data: Data) -> Tensor:
    """The inputs of data, where they can be attacked."""
    inputs = data.inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or data.labels.ndim != 1:
        raise InputError("attacks need one floating-point tensor of inputs and one label an example.")
    return inputs


def _check_budget(
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
    _check_whole(steps=steps)


def _check_whole(**numbers: Any) -> None:
    """An error for what is no whole number from 1."""
    for name, value in numbers.items():
        if not _whole(value, 1):
            raise InputError(f"{name}={value!r}: give a whole number from 1.")


def _whole(value: Any, lowest: int, highest: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest
