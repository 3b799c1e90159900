"""The mean loss of a network as a function of its parameters, with derivatives: exact sums over batches."""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from shaketable.data import Data
from shaketable.data.data import IGNORED
from shaketable.evaluate import rows
from shaketable.forward import evaluation_mode, forward, map_inputs
from shaketable.identity import generator_from
from shaketable.params import linear_layers
from shaketable.study import Study

BATCH = 250
"""Examples in a pass."""
Parameters = Literal["weight", "all"]


class Objective:
    """The mean cross-entropy, at the final weights or elsewhere, with gradient and products with the Hessian.

    Parameters are one vector in float64, in the order of ``names``; passes are in the network's own precision, in
    evaluation mode. Labels in a language model count one each.

    Args:
        study: the network with training data.
        parameters: ``"weight"``: the weights of convolutions and linear layers; ``"all"`` of them.
        examples: so many, drawn from the seed; all, if there are no more.
        seed: of the choice.
    """

    def __init__(self, study: Study, parameters: Parameters, examples: int | None = None, seed: int = 0) -> None:
        self.study = study
        self.names = names_of(study, parameters)
        self.data = some(study.data("train"), examples, seed)
        self.final = self.flat([study.final[name] for name in self.names])
        self._kept: list[tuple[list[Tensor], tuple[Tensor, ...]]] | None = None
        self._labels = sum(len(rows_of(labels)) for _, labels in self.data.batches(BATCH))

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return len(self.final)

    @staticmethod
    def flat(tensors: "list[Tensor] | tuple[Tensor, ...]") -> np.ndarray:
        """Tensors as one vector."""
        return torch.cat([tensor.detach().double().flatten() for tensor in tensors]).cpu().numpy()

    def shaped(self, vector: np.ndarray) -> list[Tensor]:
        """A vector as the tensors of the parameters."""
        like = [self.study.final[name] for name in self.names]
        parts = torch.from_numpy(np.asarray(vector)).split([tensor.numel() for tensor in like])
        return [part.reshape(one.shape).to(one) for part, one in zip(parts, like, strict=True)]

    def losses(self, tensors: list[Tensor], data: Data | None = None) -> Iterator[Tensor]:
        """The losses [labels] of each batch, differentiable in the tensors."""
        params = self.study.final | dict(zip(self.names, tensors, strict=True))
        with evaluation_mode(self.study.network), sdpa_kernel(SDPBackend.MATH):
            for inputs, labels in (self.data if data is None else data).batches(BATCH):
                yield cross_entropies(forward(self.study.network, map_inputs(torch.clone, inputs), params), labels)

    def gradient(self, vector: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        """The mean loss and its gradient at a vector; at the final weights without one."""
        tensors = self._leaves(self.final if vector is None else vector)
        loss, total = 0.0, np.zeros(self.size)
        for losses in self.losses(tensors):
            loss += float(losses.detach().sum(dtype=torch.float64))
            total += self.flat(torch.autograd.grad(losses.sum(), tensors, materialize_grads=True))
        return loss / self._labels, total / self._labels

    def product(self, direction: np.ndarray) -> np.ndarray:
        """The Hessian of the mean loss at the final weights, times a vector."""
        along, total = self.shaped(direction), np.zeros(self.size)
        for tensors, slope in self._slopes():
            inner = torch.stack([(one * other).sum() for one, other in zip(slope, along, strict=True)]).sum()
            if inner.requires_grad:  # else the loss is linear here
                again = self._kept is not None
                total += self.flat(torch.autograd.grad(inner, tensors, retain_graph=again, materialize_grads=True))
        return total / self._labels

    def _slopes(self) -> Iterable[tuple[list[Tensor], tuple[Tensor, ...]]]:
        """Of each batch its own parameters and the gradient there, differentiable; of a single batch one graph for all products."""
        if self._kept is not None:
            return self._kept
        tensors = self._leaves(self.final)
        slopes = (
            (tensors, torch.autograd.grad(losses.sum(), tensors, create_graph=True, materialize_grads=True))
            for losses in self.losses(tensors)
        )
        if len(self.data) <= BATCH:
            self._kept = list(slopes)
        return self._kept or slopes

    def slopes(self, direction: np.ndarray) -> np.ndarray:
        r"""The derivative of each label's loss at the final weights along a vector: :math:`\langle \nabla \ell_i, v \rangle`."""
        tensors, along = self._leaves(self.final), self.shaped(direction)
        found = []
        for losses in self.losses(tensors):
            weights = torch.ones_like(losses, requires_grad=True)  # reverse mode twice: any operator has that
            slope = torch.autograd.grad((weights * losses).sum(), tensors, create_graph=True, materialize_grads=True)
            inner = torch.stack([(one * other).sum() for one, other in zip(slope, along, strict=True)]).sum()
            found.append(torch.autograd.grad(inner, weights)[0].double().cpu().numpy())
        return np.concatenate(found)

    def gradients(self) -> Iterator[np.ndarray]:
        """The gradient of each example's loss at the final weights, one after another."""
        tensors = self._leaves(self.final)
        for index in range(len(self.data)):
            for losses in self.losses(tensors, self.data.subset(torch.tensor([index], device=self.data.device))):
                yield self.flat(torch.autograd.grad(losses.sum(), tensors, materialize_grads=True))

    def _leaves(self, vector: np.ndarray) -> list[Tensor]:
        return [tensor.detach().clone().requires_grad_() for tensor in self.shaped(vector)]


def names_of(study: Study, parameters: Parameters) -> list[str]:
    """The names of the parameters that are meant."""
    if parameters == "all":
        return [name for name, tensor in study.network.named_parameters() if tensor.is_floating_point()]
    return [name for layer in linear_layers(study.network, study.example_inputs()) for name in layer.params]


def some(data: Data, examples: int | None, seed: int) -> Data:
    """So many of the examples, drawn from the seed; all where there are no more."""
    if examples is None or examples >= len(data):
        return data
    order = torch.randperm(len(data), generator=generator_from(seed, "examples"))[:examples]
    return data.subset(order.sort().values.to(data.device))


def rows_of(labels: Tensor) -> Tensor:
    """The labels that count."""
    return labels[labels != IGNORED] if labels.ndim > 1 else labels


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each label that counts, differentiable."""
    return torch.nn.functional.cross_entropy(*rows(logits.float(), labels), reduction="none")
