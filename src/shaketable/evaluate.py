"""Errors and loss of one set of weights on all the data: the plain loop, and the reference of everything that is faster."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shaketable.data import Data
from shaketable.data.data import IGNORED
from shaketable.errors import InputError
from shaketable.forward import evaluation_mode, forward
from shaketable.params import Params


@dataclass(frozen=True)
class Sums:
    """Sums over examples, each divided once.

    ``examples`` counts labels (tokens in a language model, those with label -100 left out), ``errors`` the wrong ones,
    ``loss`` is the sum of cross-entropies in nats, ``not_finite`` counts examples with a NaN or infinite logit: these
    are errors, and the loss is not a number.
    """

    examples: int
    errors: int
    loss: float
    not_finite: int = 0

    @property
    def error(self) -> float:
        """0-1 error, in [0, 1]."""
        return self.errors / self.examples

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return self.loss / self.examples


def rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, C] or [N, T, C] in float32 as one row per label, and labels [N] or [N, T] as one vector.

    Raises:
        InputError: there is not one row of logits per label.
    """
    if logits.shape[:-1] != labels.shape:
        raise InputError(
            f"the network gave logits of shape {list(logits.shape)} for labels of shape {list(labels.shape)}; "
            "it must give one row of class scores per label."
        )
    return logits.float().flatten(0, -2), labels.flatten()


def evaluate(network: nn.Module, params: Params, data: Data, batch_size: int = 500) -> Sums:
    """Errors and loss of a network with the given params on all of the data.

    .. math:: \\sum_i [\\arg\\max_c f_\\theta(x_i)_c \\ne y_i], \\qquad -\\sum_i \\log \\operatorname{softmax}(f_\\theta(x_i))_{y_i}

    The network runs in evaluation mode whatever mode it is in, and is left as it was. No augmentation.

    Args:
        network: any module; its own weights are not used where ``params`` has the name.
        params: parameters and buffers :math:`\\theta` by name.
        data: N examples, on the device of the params.
        batch_size: examples per forward pass; changes memory, not the result (up to the rounding of sums).

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
    device = data.labels.device
    examples, errors, not_finite = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(3))
    loss = torch.zeros((), dtype=torch.float64, device=device)
    with evaluation_mode(network), torch.no_grad():
        for inputs, labels in data.batches(batch_size):
            logits, labels = rows(forward(network, inputs, params), labels)
            counted = labels != IGNORED
            finite = logits.isfinite().all(-1)
            errors += (((logits.argmax(-1) != labels) | ~finite) & counted).sum()
            not_finite += (~finite & counted).sum()
            loss += nn.functional.cross_entropy(logits, labels, reduction="none").sum(dtype=torch.float64)
            examples += counted.sum()
    if not examples:
        raise InputError("no label counts: every one is -100; give data with labels.")
    return Sums(int(examples), int(errors), float(loss), int(not_finite))
