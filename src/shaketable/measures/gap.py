"""The number that measures are to predict: the generalization error."""

from shaketable.evaluate import evaluate
from shaketable.measures.measure import CHATTERJI, Measurement, from_value, measure
from shaketable.study import Study


@measure(symbol="GE", direction="lower", needs=("train", "test"), paper=CHATTERJI)
def generalization_error(study: Study, batch_size: int = 500) -> Measurement:
    r"""Generalization error, or gap: the error on test data minus the error on training data.

    .. math:: \mathcal{L}_D(f_\Theta) - \mathcal{L}_S(f_\Theta)

    with the 0-1 error :math:`\mathcal{L}` of the final weights :math:`\Theta` on the study's test data, which stand for
    the distribution :math:`D`, and on its training data :math:`S`. Not done: no augmentation; labels are taken as they
    are, corrupted ones included; the uncertainty of a finite test set is not in ``stderr``, as nothing is drawn.

    Args:
        study: a network with training and test data.
        batch_size: examples per forward pass; changes memory, not the result.

    Returns: in [-1, 1]; 0 means as many errors on new data as on the training data. Without ``log_value`` where it is
        negative.

    Cost: one forward pass over the training data and one over the test data.

    Deviates: the paper prints per cent; this is a fraction.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> inputs = torch.eye(2)
        >>> study = Study(network, final={"weight": torch.eye(2)}, train=(inputs, [0, 1]), test=(inputs, [0, 0]))
        >>> generalization_error(study).value
        0.5

    References: Chatterji, Neyshabur, Sedghi, "The intriguing role of module criticality in the generalization of deep
    networks", 2020, table 1.
    """
    train, test = (
        evaluate(study.network, study.final, study.data(split), batch_size).error for split in ("train", "test")
    )
    return from_value(test - train)
