"""Errors and loss of one set of weights on all the data: the plain loop, and the reference of everything that is faster."""

import math
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.data.data import IGNORED
from shaketable.errors import InputError
from shaketable.forward import evaluation_mode, forward, map_inputs
from shaketable.params import Params

LOGITS = 2**24
"""Logits of a language model that are alive at a time: 64 MiB."""
WIDE = 2**18
"""Logits that are looked at together on a CPU: 1 MiB."""


@dataclass(frozen=True)
class Sums:
    """Sums over examples, each divided once.

    ``examples`` counts labels (tokens in a language model, those with label -100 left out), ``errors`` the wrong ones,
    ``loss`` is the sum of cross-entropies in nats, ``not_finite`` counts examples with a NaN or infinite logit: these
    are errors, and the loss is not a number. ``class_examples`` and ``class_errors`` are the same counts for each label,
    ``margin`` is the sum of label logit minus highest other logit; empty and None where they were not asked for.
    """

    examples: int
    errors: int
    loss: float
    not_finite: int = 0
    class_examples: tuple[int, ...] = ()
    class_errors: tuple[int, ...] = ()
    margin: float | None = None

    @property
    def error(self) -> float:
        """0-1 error, in [0, 1]."""
        return self.errors / self.examples

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return self.loss / self.examples

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss; see :func:`perplexity`."""
        return perplexity(self.mean_loss)

    @property
    def class_error(self) -> tuple[float, ...]:
        """0-1 error of the examples of each label, in [0, 1]; NaN for a label that no example has."""
        pairs = zip(self.class_errors, self.class_examples, strict=True)
        return tuple(wrong / count if count else float("nan") for wrong, count in pairs)

    @property
    def mean_margin(self) -> float:
        """Mean margin of the label's logit over the highest other one."""
        return float("nan") if self.margin is None else self.margin / self.examples

    def __add__(self, other: "Sums") -> "Sums":
        """The sums over both sets of examples."""
        classes = len(self.class_examples)
        return Sums(
            self.examples + other.examples,
            self.errors + other.errors,
            self.loss + other.loss,
            self.not_finite + other.not_finite,
            tuple(self.class_examples[c] + other.class_examples[c] for c in range(classes)),
            tuple(self.class_errors[c] + other.class_errors[c] for c in range(classes)),
            None if self.margin is None or other.margin is None else self.margin + other.margin,
        )


def perplexity(loss: float) -> float:
    r"""The perplexity of a language model.

    .. math:: \exp\Bigl(-\frac{1}{n} \sum_{i=1}^n \log p(y_i)\Bigr)

    It is per token: two networks are comparable only where their tokenizer is the same.

    Args:
        loss: the mean cross-entropy in nats, such as ``test_loss`` in a history or ``loss`` in a table of robustness.

    Returns: 1 for a network that is right and certain, the number of classes for one that guesses; infinite where the loss is
        beyond 709.

    Example:
        >>> perplexity(0.0), round(perplexity(math.log(1000)))
        (1.0, 1000)
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def guessing(errors: int, examples: int, classes: int, what: str) -> str | None:
    """That a network is at chance, as a clause about it; None of one that is better.

    .. math:: a \\le \\frac{1}{C} + \\min\\Bigl\\{2 \\sqrt{\\tfrac1C (1 - \\tfrac1C) / n},\\; \\tfrac{1}{10} (1 - \\tfrac1C)\\Bigr\\}

    for the accuracy :math:`a` on :math:`n` ``examples`` of :math:`C` ``classes``: within two standard errors of guessing, and within a
    tenth of what there is between guessing and always being right. What is not done: a network that names the commonest class
    is not found out.

    Example:
        >>> guessing(899, 1000, 10, "training")
        'gets 101 of 1,000 training examples right, no more than guessing among 10 classes would'
        >>> guessing(800, 1000, 10, "training") is None
        True
    """
    chance = 1 / classes
    slack = min(2 * math.sqrt(chance * (1 - chance) / examples), 0.1 * (1 - chance))
    if 1 - errors / examples > chance + slack:
        return None
    right = f"{examples - errors:,} of {examples:,} {what} examples right"
    return f"gets {right}, no more than guessing among {classes:,} classes would"


def rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, C] or [N, T, C] as one row per label that counts, and labels [N] or [N, T] as one vector.

    Raises:
        InputError: there is not one row of logits per label.
    """
    if logits.shape[:-1] != labels.shape:
        raise InputError(
            f"the network gave logits of shape {list(logits.shape)} for labels of shape {list(labels.shape)}; "
            "it must give one row of class scores per label."
        )
    if labels.ndim == 1:
        return logits, labels  # one label an example: Data sees to it that each counts
    logits, labels = logits.flatten(0, -2), labels.flatten()
    counted = labels != IGNORED
    return (logits, labels) if bool(counted.all()) else (logits[counted], labels[counted])


def outcomes(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """What each label [R] makes of its row of logits [R, C]: wrong, cross-entropy in nats, and finite (None: all are).

    Among equal logits the lowest class is the decision (torch's argmax). A row with a NaN or infinite logit is wrong.
    """
    if logits.device.type == "cpu" and logits.numel() > WIDE:  # a part that fits a cache costs half
        parts = logits.split(max(1, WIDE // logits.shape[-1])), labels.split(max(1, WIDE // logits.shape[-1]))
        wrong, losses, finite = zip(*map(_outcomes, *parts), strict=True)
        ok = [torch.ones_like(w) if f is None else f for w, f in zip(wrong, finite, strict=True)]
        return torch.cat(wrong), torch.cat(losses), None if all(f is None for f in finite) else torch.cat(ok)
    return _outcomes(logits, labels)


def _outcomes(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same in one piece."""
    logits = logits.float()
    highest, label = logits.amax(-1, keepdim=True), logits.gather(1, labels.unsqueeze(1))
    wrong = (label != highest).squeeze(1)
    ties = (~wrong).nonzero().flatten()  # right, if no class before it is as high
    wrong[ties] = logits[ties].argmax(-1) != labels[ties]
    losses = (logits - highest).exp_().sum(-1).log_() - (label - highest).squeeze(1)
    if logits.sum().isfinite():
        return wrong, losses, None
    finite = logits.isfinite().all(-1)
    return wrong | ~finite, losses, finite


def tally(logits: Tensor, labels: Tensor, per_class: bool = False, margins: bool = False) -> Sums:
    """Sums over one batch, from logits [N, C] or [N, T, C] and labels [N] or [N, T]; see :class:`Sums`."""
    logits, labels = rows(logits, labels)
    if not len(labels):
        none = (0,) * logits.shape[-1] if per_class else ()
        return Sums(0, 0, 0.0, 0, none, none, 0.0 if margins else None)
    wrong, losses, finite = outcomes(logits, labels)
    not_finite = 0 if finite is None else int((~finite).sum())
    by_class: tuple[tuple[int, ...], ...] = ()
    if per_class:
        which = (labels, labels[wrong])
        by_class = tuple(tuple(torch.bincount(of, minlength=logits.shape[-1]).tolist()) for of in which)
    margin = None
    if margins:
        label = labels.unsqueeze(1)
        others = logits.scatter(1, label, float("-inf")).amax(1)
        margin = float((logits.gather(1, label).squeeze(1).float() - others).sum(dtype=torch.float64))
    loss = float(losses.sum(dtype=torch.float64))
    return Sums(len(labels), int(wrong.sum()), loss, not_finite, *by_class, margin=margin)


def evaluate(network: nn.Module, params: Params, data: Data, batch_size: int | None = None) -> Sums:
    """Errors and loss of a network with the given params on all of the data.

    .. math:: \\sum_i [\\arg\\max_c f_\\theta(x_i)_c \\ne y_i], \\qquad -\\sum_i \\log \\operatorname{softmax}(f_\\theta(x_i))_{y_i}

    The network runs in evaluation mode whatever mode it is in, and is left as it was. No augmentation.

    Args:
        network: any module; its own weights are not used where ``params`` has the name.
        params: parameters and buffers :math:`\\theta` by name.
        data: N examples, on the device of the params.
        batch_size: examples per forward pass; changes memory, not the result (up to the rounding of sums). Default 500, or
            fewer where an example has so many labels that their logits would fill memory.

    Returns: the sums. Among equal logits the lowest class counts as the decision (torch's argmax).

    Raises:
        InputError: there is not one row of logits per label, or every label is -100.

    Cost: one forward pass over the data; activations of one batch.

    Example:
        >>> from shaketable.params import state
        >>> network = nn.Linear(2, 2, bias=False).eval()
        >>> data = Data(torch.eye(2), torch.tensor([0, 0]), classes=2)
        >>> evaluate(network, {"weight": torch.eye(2)}, data).error
        0.5
    """
    if batch_size is None:
        logits = data.labels[0].numel() * data.classes  # of an example, in a language model
        batch_size = 500 if data.labels.ndim == 1 else min(500, max(1, LOGITS // logits))
    with evaluation_mode(network), torch.no_grad():
        batches = data.batches(batch_size)
        parts = [tally(forward(network, map_inputs(torch.clone, x), params), labels) for x, labels in batches]
    return checked(reduce(add, parts))


def checked(sums: Sums) -> Sums:
    """The sums, if there is anything to divide by.

    Raises:
        InputError: every label is -100.
    """
    if not sums.examples:
        raise InputError("no label counts: every one is -100; give data with labels.")
    return sums
