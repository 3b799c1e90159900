"""Randomised classifiers: which of several weight sets each block has is drawn at each inference."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from shaketable.data import Data
from shaketable.data.data import Normalisation
from shaketable.errors import InputError
from shaketable.evaluate import outcomes
from shaketable.forward import evaluation_mode, forward, map_inputs, tensors_of
from shaketable.identity import generator_from, seed_from
from shaketable.params import Layer, layers
from shaketable.perturb import fresh_params, source_of
from shaketable.study import Study

ACCURACY_SCHEMA = {"repeat": pl.Int64, "examples": pl.Int64, "correct": pl.Int64, "accuracy": pl.Float64}


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

    def forward(self, *images: Tensor, **named: Tensor) -> Any:
        scaled = [(one - self.mean) / self.std for one in images]
        return self.network(*scaled, **{name: (one - self.mean) / self.std for name, one in named.items()})


def pixels(data: Data, normalisation: Normalisation | None) -> Data:
    """The data as they were before a normalisation: pixels in [0, 1].

    Args:
        data: images [N, C, H, W].
        normalisation: what was applied to them; None leaves them as they are.

    Returns: the same examples; what rounding puts beyond 0 or 1 is put back onto it.
    """
    images = images_of(data)
    if normalisation is None:
        return data
    mean, std = (images.new_tensor(value).reshape(-1, 1, 1) for value in (normalisation.mean, normalisation.std))
    raw = images * std + mean
    slack = 1e-4  # of float32 beside a normalisation with nine digits
    if float(raw.min()) < -slack or float(raw.max()) > 1 + slack:
        raise InputError(
            "these data, brought back, are not in [0, 1]; give the normalisation that was applied to them."
        )
    return with_images(data, raw.clamp(0, 1))


def with_final_weights(study: Study) -> nn.Module:
    """A copy of a study's network that holds the final weights, whatever weights the network itself has."""
    network = copy.deepcopy(study.network)
    _write(network, study.final)
    return network


@torch.no_grad()
def _write(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module of our own, by name."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, value in values.items():
        own[name].copy_(value)


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
        self.network = with_final_weights(study)
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
            _write(module, {name.removeprefix(prefix): fresh[name] for name in block.params})
            copies[block.name].append(module)

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

    def forward(self, *args: Tensor, **named: Tensor) -> Any:
        inputs = (*args, *named.values())[0]
        choices = self.draw(len(inputs), self._generator) if self._fixed is None else self._fixed
        if choices.shape != (len(inputs), len(self._choices)):
            wanted = [len(inputs), len(self._choices)]
            raise InputError(f"choices have the shape {list(choices.shape)}, and these inputs need {wanted}.")
        for choice, column in zip(self._choices, choices.to(inputs.device).unbind(1), strict=True):
            choice.chosen = column
        return self.network(*args, **named)


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
    check_whole(repeats=repeats, batch_size=batch_size)
    rows = []
    for repeat in range(repeats):
        correct, _ = answers(classifier, data, draws_of(classifier, len(data), seed, repeat, "answer"), batch_size)
        rows.append((repeat, len(data), int(correct.sum()), int(correct.sum()) / len(data)))
    return pl.DataFrame(rows, schema=ACCURACY_SCHEMA, orient="row")


def answers(network: nn.Module, data: Data, draws: Tensor | None, batch_size: int) -> tuple[Tensor, int]:
    """Which examples are classified right [N], and how many have a NaN or infinite logit."""
    right, bad = [], 0
    with evaluation_mode(network), torch.no_grad():
        for number, (inputs, labels) in enumerate(data.batches(batch_size)):
            part = slice(number * batch_size, number * batch_size + len(labels))
            with choosing(network, None if draws is None else draws[part]):
                wrong, _, finite = outcomes(forward(network, inputs).float(), labels)
            right.append(~wrong)
            bad += 0 if finite is None else int((~finite).sum())
    return torch.cat(right), bad


def _randomised(network: nn.Module) -> RandomisedClassifier | None:
    """The randomised classifier that a network is, or holds."""
    return next((module for module in network.modules() if isinstance(module, RandomisedClassifier)), None)


def draws_of(network: nn.Module, examples: int, seed: int, repeat: int, *words: str | int) -> Tensor | None:
    """The choices of each example for one purpose, or None where a network draws nothing."""
    classifier = _randomised(network)
    return classifier and classifier.draw(examples, generator_from(seed, "repeat", repeat, *words))


def choosing(network: nn.Module, draws: Tensor | None) -> Any:
    """A context in which the randomised classifier in a network takes these choices."""
    classifier = _randomised(network)
    return nullcontext() if classifier is None or draws is None else classifier.fixed(draws)


def images_of(data: Data) -> Tensor:
    """The inputs of data, where they can be attacked: a tensor, or a dict or tuple with one in it, such as ``pixel_values``."""
    held = tensors_of(data.inputs)
    inputs = next(iter(held.values()))
    if len(held) > 1 or not inputs.is_floating_point() or data.labels.ndim != 1:
        kinds = ", ".join(f"{name} of {str(one.dtype).removeprefix('torch.')}" for name, one in held.items())
        raise InputError(
            "attacks need one floating-point tensor of inputs and one label an example, for they move inputs by small steps; here "
            f"are {kinds}, and labels of shape {list(data.labels.shape)}."
        )
    return inputs


def with_images(data: Data, images: Tensor) -> Data:
    """Data with other images, in the form of its inputs, and the labels that it has."""
    return Data(map_inputs(lambda _: images, data.inputs), data.labels, data.classes, data.corrupted)


def check_whole(**numbers: Any) -> None:
    """An error for what is no whole number from 1."""
    for name, value in numbers.items():
        if not _whole(value, 1):
            raise InputError(f"{name}={value!r}: give a whole number from 1.")


def _whole(value: Any, lowest: int, highest: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest
