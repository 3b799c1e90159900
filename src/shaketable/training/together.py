"""Several networks of one shape trained at once: their weights ride in a leading dimension."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy

from shaketable.errors import InputError, RunError
from shaketable.identity import digest
from shaketable.progress import silent
from shaketable.training.loop import Trainer
from shaketable.training.recipe import Recipe
from shaketable.training.run import Run, session

OWN = (
    *("seed", "learning_rate", "momentum", "weight_decay", "schedule", "milestones", "factor", "epochs", "stop_below"),
    *("label_corruption", "augmentation", "checkpoints", "evaluate_every"),
)
"""The fields of a recipe in which networks that are trained together may differ."""


def shape_of(recipe: Recipe) -> str | None:
    """What recipes that can be trained together have in common, as a hash; None of one that is trained alone.

    Example:
        >>> shape_of(Recipe(seed=0)) == shape_of(Recipe(seed=1)), shape_of(Recipe(sam_rho=0.1))
        (True, None)
    """
    alone = recipe.sam_rho or recipe.frozen or recipe.precision != "float32" or recipe.network.startswith("decoder-")
    return None if alone else digest({name: one for name, one in recipe.to_dict().items() if name not in OWN})


def train_together(
    recipes: Sequence[Recipe], *, out: str | Path = "runs", data_root: str | Path | None = None, device: str = "cpu"
) -> list[Run | InputError | RunError]:
    """The finished runs of recipes whose networks share a shape, as :func:`shaketable.train` leaves them, trained at once.

    One step of all is one ``torch.func.vmap`` of the gradient over a leading dimension; each network has its own order of
    examples, augmentation, labels, learning rate, checkpoints and end. It pays where the steps of one network do not fill the
    device, and costs where they are so small that ``vmap`` itself takes longer. What is not done: networks that drop units at
    random are trained one by one; those of which :func:`shape_of` is None are refused.

    Args:
        recipes: that differ in fields of ``OWN`` alone.
        out, data_root, device: as for :func:`shaketable.train`.

    Returns: of each recipe its run, or the error that :func:`shaketable.train` would raise.

    Raises:
        InputError: recipes that cannot be trained together.

    Cost: that of the runs one by one; memory for as many networks, batches and copies of the data as there are recipes.

    Deviates: weights differ from those of runs one by one by rounding, as sums are taken in another order. Adam makes
        steps of full size of gradients that are rounding alone (a bias before a batch norm), which change no output.

    Example:
        >>> import tempfile
        >>> recipes = [Recipe(network="fcn-1x4", epochs=1, data_args={"train_examples": 20}, seed=seed) for seed in (0, 1)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [run.finished for run in train_together(recipes, out=folder)]
        [True, True]
    """
    shapes = {shape_of(recipe) for recipe in recipes}
    if len(shapes) != 1 or None in shapes:
        raise InputError(
            f"these {len(recipes)} recipes cannot be trained together; they may differ in {', '.join(OWN)}."
        )
    sessions = [session(recipe, out, data_root, device) for recipe in recipes]
    ended: dict[int, Run | InputError | RunError] = {}
    waiting: dict[int, tuple[Trainer, int]] = {}

    def step(index: int, loss: float | None) -> None:
        """Let one run go on to its next epoch, or to its end."""
        try:
            waiting[index] = next(sessions[index]) if loss is None else sessions[index].send(loss)
        except StopIteration as end:
            ended[index] = end.value
        except (InputError, RunError) as error:
            ended[index] = error

    try:
        with silent():
            for index in range(len(recipes)):
                step(index, None)
            while waiting:
                indices, pairs = list(waiting), list(waiting.values())
                waiting.clear()
                drops = any(isinstance(m, nn.Dropout) and m.p > 0 for m in pairs[0][0].network.modules())
                losses = [one.epoch(epoch) for one, epoch in pairs] if drops else _epoch(pairs)
                for index, loss in zip(indices, losses, strict=True):
                    step(index, loss)
    finally:
        for one in sessions:
            one.close()
    return [ended[index] for index in range(len(recipes))]


def _epoch(pairs: Sequence[tuple[Trainer, int]]) -> list[float]:
    """Train each network one epoch of its own; returns the mean losses of their examples as they were seen."""
    trainers = [trainer for trainer, _ in pairs]
    network = trainers[0].network
    weights = _stacked([dict(trainer.network.named_parameters()) for trainer in trainers])
    buffers = _stacked([dict(trainer.network.named_buffers()) for trainer in trainers])

    def loss_of(
        weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one network on its batch, and its running statistics after that."""
        return cross_entropy(functional_call(network, (weights, buffers), (inputs,)), labels), buffers

    gradients_of = vmap(grad_and_value(loss_of, has_aux=True))
    total = torch.zeros(len(pairs), dtype=torch.float64, device=trainers[0].train.device)
    for batches in zip(*(trainer.batches(epoch) for trainer, epoch in pairs), strict=True):
        inputs, labels = (torch.stack(parts) for parts in zip(*batches, strict=True))
        gradients, (losses, after) = gradients_of(weights, buffers, inputs, labels)
        for index, trainer in enumerate(trainers):
            for name, parameter in trainer.trained.items():
                parameter.grad = gradients[name][index]
            trainer.optimiser.step()  # the parameters are views of the stacked weights
        for name, tensor in buffers.items():
            tensor.copy_(after[name])
        total += losses.detach() * labels.shape[1]
    return (total / len(trainers[0].train)).tolist()


def _stacked(each: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of several networks in one with a leading dimension, of which theirs become views."""
    stacked = {name: torch.stack([tensors[name].detach() for tensors in each]) for name in each[0]}
    for index, tensors in enumerate(each):
        for name, tensor in tensors.items():
            tensor.data = stacked[name][index]
    return stacked
