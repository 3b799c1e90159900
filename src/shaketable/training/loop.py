"""One epoch of training. No step waits for the device."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from shaketable import params
from shaketable.data import Data
from shaketable.data.augmentation import Augmentation
from shaketable.errors import InputError
from shaketable.evaluate import rows
from shaketable.forward import Inputs, forward, map_inputs
from shaketable.identity import generator_from, seed_from
from shaketable.params import Params
from shaketable.training.recipe import Recipe, learning_rate


class Trainer:
    r"""A network with its optimiser: what changes from step to step, apart from the network itself.

    With the recipe's ``sam_rho`` :math:`\rho` above 0, a step (of SGD or Adam, weight decay and momentum included) is
    taken from w with the gradient of the batch's loss L at

    .. math:: w + \rho \frac{\nabla L(w)}{\lVert \nabla L(w) \rVert_2}

    where the norm is that of all trained parameters together. Both passes see the same batch and drop the same units.
    Running statistics of batch norms are updated once a step, in the first pass, at w; the second pass uses the
    statistics of its batch, and writes none. The running loss is that of the first pass.

    Args:
        recipe: how to train.
        network: trained in place, on the device of the data.
        train: the training data.
        augment: changes the inputs of a batch, with a generator; None leaves them.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, train: Data, augment: Augmentation | None = None) -> None:
        self.recipe, self.network, self.train, self.augment = recipe, network, train, augment
        self._frozen_statistics = freeze(network, recipe.frozen)
        self.trained = {name: param for name, param in network.named_parameters() if param.requires_grad}
        if not self.trained:
            raise InputError("recipe: frozen names all layers with parameters; leave at least one to train.")
        values, momentum, decay = list(self.trained.values()), recipe.momentum, recipe.weight_decay
        # Where a scaler leaves out the first step, the fused SGD of torch 2.13 goes on from a momentum never written to.
        fused = recipe.precision != "float16"
        self.optimiser: torch.optim.Optimizer
        if recipe.optimiser == "sgd":
            self.optimiser = torch.optim.SGD(values, recipe.learning_rate, momentum, weight_decay=decay, fused=fused)
        else:
            self.optimiser = torch.optim.Adam(
                values, recipe.learning_rate, (momentum, 0.999), weight_decay=decay, fused=fused
            )
        self.scaler = torch.amp.GradScaler(train.device.type, enabled=recipe.precision == "float16")

    def epoch(self, epoch: int) -> float:
        """Train one epoch, from 1; returns the mean loss of its examples as they were seen."""
        device = self.train.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        counted = 0
        with _torch_seeded(seed_from(self.recipe.seed, "torch", epoch), device):
            for inputs, labels in self.batches(epoch):
                loss, count = self._gradients(inputs, labels)
                self.scaler.step(self.optimiser)
                self.scaler.update()
                total += loss * count
                counted += count
        return total.item() / counted

    def batches(self, epoch: int) -> Iterator[tuple[Inputs, Tensor]]:
        """Make ready for an epoch; its batches, in the order and with the augmentation that seed and epoch give."""
        recipe, augment = self.recipe, self.augment
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(recipe, epoch)
        self.network.train()
        for module in self._frozen_statistics:
            module.eval()
        draws = generator_from(recipe.seed, "epoch", epoch)
        order = torch.randperm(len(self.train), generator=draws).to(self.train.device)
        for inputs, labels in self.train.batches(recipe.batch_size, order):
            yield map_inputs(lambda images: augment(images, draws), inputs) if augment else inputs, labels

    def _gradients(self, inputs: Inputs, labels: Tensor) -> tuple[Tensor, int]:
        """Set the gradients of one step; returns the loss of the batch at the present weights, and how many labels count."""
        self.optimiser.zero_grad(set_to_none=True)
        if not self.recipe.sam_rho:
            loss, count = self._loss(inputs, labels)
            self.scaler.scale(loss).backward()
            return loss.detach(), count
        device = self.train.device
        # What the second pass draws (dropout) is what the first one drew: both are of one loss function.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            loss, count = self._loss(inputs, labels)
        self.scaler.scale(loss).backward()
        gradients = {name: param.grad for name, param in self.trained.items() if param.grad is not None}
        norm = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients.values()]).norm()
        reach = self.recipe.sam_rho / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        moved = {name: (self.trained[name] + reach * g).detach().requires_grad_() for name, g in gradients.items()}
        uphill, _ = self._loss(inputs, labels, moved)
        found = torch.autograd.grad(self.scaler.scale(uphill), list(moved.values()), allow_unused=True)
        for name, gradient in zip(moved, found, strict=True):
            self.trained[name].grad = gradient
        return loss.detach(), count

    def _loss(self, inputs: Inputs, labels: Tensor, weights: Params | None = None) -> tuple[Tensor, int]:
        """The mean loss of a batch, at other weights where they are given, and how many labels count.

        With other weights no running statistic is written to.
        """
        precision = self.recipe.precision
        with torch.autocast(self.train.device.type, getattr(torch, precision), enabled=precision != "float32"):
            logits = self._logits(inputs, weights)
        logits, labels = rows(logits.float(), labels)
        return cross_entropy(logits, labels), len(labels)

    def _logits(self, inputs: Inputs, weights: Params | None) -> Tensor:
        """The forward pass of a step."""
        try:
            return forward(self.network, inputs, weights)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InputError(
                f"recipe: batch_size = {self.recipe.batch_size} leaves a batch of one of the {len(self.train)} training "
                "examples, and batch normalisation cannot train on that; choose another batch_size."
            ) from error

    def optimiser_tensors(self) -> dict[str, Tensor]:
        """The optimiser's tensors by ``<parameter>/<name>``."""
        return {
            f"{name}/{key}": value
            for name, param in self.trained.items()
            for key, value in self.optimiser.state[param].items()
            if isinstance(value, Tensor)
        }

    def restore(self, tensors: Mapping[str, Tensor], scaler: dict[str, object]) -> None:
        """Put back what :meth:`optimiser_tensors` and the scaler's ``state_dict`` gave."""
        for name, value in tensors.items():
            parameter, _, key = name.rpartition("/")
            self.optimiser.state[self.trained[parameter]][key] = value.to(self.train.device)
        self.scaler.load_state_dict(scaler)


def freeze(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Take the parameters of some layers out of training.

    Args:
        network: changed in place: ``requires_grad`` of these parameters is set to False.
        names: of layers by block, or else by module.

    Returns: the modules in these layers that keep statistics, which must stay in evaluation mode to keep them.

    Raises:
        InputError: a name that no layer has.
    """
    if not names:
        return []
    known = {layer.name: layer for by in ("module", "block") for layer in params.layers(network, by)}
    named = dict(network.named_parameters())
    keeping = []
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"layers are {', '.join(known)}."
            raise InputError(f"recipe: frozen names no layer {name!r} of {type(network).__name__}; {hint}")
        for param in known[name].params:
            named[param].requires_grad_(False)
        keeping += [network.get_submodule(path) for path in {path.rpartition(".")[0] for path in known[name].buffers}]
    return keeping


@contextmanager
def _torch_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What draws from torch's global generators (dropout) draws from this seed; afterwards they are as they were."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
