"""Measures of training: the training loss, and its sum over epochs."""

import math

from shaketable.errors import InputError
from shaketable.evaluate import evaluate
from shaketable.measures.measure import KUHN, Measurement, Unavailable, from_value, measure
from shaketable.params import Params
from shaketable.study import Study

RU = "Ru, Lyle, Schut, Fil, van der Wilk, Gal, Speedy performance estimation for neural architecture search, 2021"


@measure(symbol="train loss", direction="lower", needs=("train",), paper=KUHN)
def training_loss(study: Study) -> Measurement:
    r"""Training loss: the mean cross-entropy of the final weights on the training data.

    .. math:: L(f_w, S)

    in nats. Not done: no augmentation, no weight decay.

    Args:
        study: with training data.

    Returns: at least 0.

    Cost: a pass over the training data.

    Example:
        >>> import torch
        >>> study = Study(torch.nn.Linear(2, 2, bias=False).eval(), final={"weight": torch.zeros(2, 2)}, train=(torch.eye(2), [0, 1]))
        >>> round(training_loss(study).value, 6)
        0.693147

    References: Kuhn, Lyle, Gomez, Rothfuss, Gal, "Robustness to pruning predicts generalization in deep neural networks", 2021,
        appendix A.2.
    """
    return from_value(_loss(study, study.final))


@measure(symbol="SoTL", direction="lower", needs=("trajectory", "train"), paper=RU)
def sum_of_training_losses(study: Study, last: int | None = None, running: bool = False) -> Measurement:
    r"""Sum of training losses (SoTL): over the epochs of training; it is small where training was fast.

    .. math:: \sum_{t=1}^{T} L(f_{w_t}, S)

    with the weights :math:`w_t` at the end of epoch t, as the run's history has them or else from a checkpoint of each epoch.
    With ``running`` the mean loss of each epoch as training saw it, over weights that still move, with augmentation and dropout:
    that of Ru et al., which needs no evaluation between epochs. Not done: the losses of single steps, which the history does not have.

    Args:
        study: with training data, and a history or a checkpoint of every epoch.
        last: only so many of the last epochs (SoTL-E, whose E is this number).
        running: take the running losses of the history.

    Returns: at least 0, in nats. Unavailable where an epoch is missing.

    Raises:
        InputError: ``last`` below 1, or more than there are epochs.

    Cost: none with a history; a pass over the training data for each checkpoint without.

    Deviates: the prunability paper takes its negative; here the direction says that lower is better.

    Example:
        >>> import torch
        >>> network, still = torch.nn.Linear(2, 2, bias=False).eval(), {"weight": torch.zeros(2, 2)}
        >>> study = Study(network, checkpoints={0: {"weight": torch.eye(2)}, 1: still, 2: still}, final=still, final_epoch=2,
        ...               train=(torch.eye(2), [0, 1]))
        >>> round(sum_of_training_losses(study).value / math.log(2), 6), round(sum_of_training_losses(study, last=1).value, 3)
        (2.0, 0.693)

    References: Ru, Lyle, Schut, Fil, van der Wilk, Gal, "Speedy performance estimation for neural architecture search", NeurIPS
        2021, equation 2. Kuhn et al., 2021, section 5.1.
    """
    final = study.final_epoch if study.final_epoch is not None else max(study.epochs)
    if last is not None and (isinstance(last, bool) or not isinstance(last, int) or not 1 <= last <= final):
        raise InputError(f"last={last!r}: give a number of epochs from 1 to {final}.")
    wanted = range(1 if last is None else final - last + 1, final + 1)
    told, column = {}, "running_loss" if running else "train_loss"
    if study.history is not None and {"epoch", column} <= set(study.history.columns):
        told = dict(zip(study.history["epoch"].to_list(), study.history[column].to_list(), strict=True))
    losses = []
    for epoch in wanted:
        loss = told.get(epoch)
        if loss is None and running:
            raise Unavailable(f"the history has no running loss of epoch {epoch}")
        if loss is None and epoch not in study.epochs:
            raise Unavailable(f"epoch {epoch} has neither a training loss in the history nor a checkpoint")
        losses.append(_loss(study, study.checkpoint(epoch)) if loss is None else loss)
    return from_value(math.fsum(losses))


@measure(symbol="SoTL-E", direction="lower", needs=("trajectory", "train"), paper=RU)
def last_training_loss(study: Study, last: int = 1) -> Measurement:
    r"""Sum of the training losses of the last epochs (SoTL-E).

    .. math:: \sum_{t=T-E+1}^{T} L(f_{w_t}, S)

    as for :func:`sum_of_training_losses`. Not done: as there.

    Args:
        study: as there.
        last: E.

    Returns: as there; with E = 1 the training loss at the end.

    Raises:
        InputError: as there.

    Cost: as there.

    Deviates: Ru et al. sum the losses of the steps within these epochs, with weights that still move.

    Example:
        >>> import torch
        >>> network, still = torch.nn.Linear(2, 2, bias=False).eval(), {"weight": torch.zeros(2, 2)}
        >>> study = Study(network, checkpoints={0: {"weight": torch.eye(2)}, 1: still}, final=still, train=(torch.eye(2), [0, 1]))
        >>> round(last_training_loss(study).value, 3)
        0.693

    References: Ru et al., 2021, section 3.
    """
    return sum_of_training_losses.function(study, last)


def _loss(study: Study, params: Params) -> float:
    """The mean training loss."""
    sums = evaluate(study.network, params, study.data("train"))
    if sums.not_finite:
        raise Unavailable(f"{sums.not_finite} training examples have NaN or infinite logits")
    return sums.mean_loss
