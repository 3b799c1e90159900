"""Study: one trained network with its initial weights, its trajectory and its data, checked once."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shaketable.data import Data, as_data
from shaketable.errors import InputError
from shaketable.files import load_tensors
from shaketable.forward import forward, map_inputs, tensors_of
from shaketable.identity import fingerprint
from shaketable.params import Params, aliases, snapshot, state
from shaketable.perturb import Initialise

Weights = Params | str | Path
"""A state dict, or the path of a file that holds one (safetensors, or a PyTorch file read with ``weights_only=True``)."""


@dataclass(frozen=True, eq=False, init=False)
class Study:
    """A trained network with everything that probes and measures ask for; frozen, and checked when it is made.

    Args:
        network: any module in evaluation mode. It is called, never written to.
        final: the weights after training; those that the network has now, if left out.
        init: the weights before training; without them nothing can be re-initialised.
        checkpoints: weights at the end of epoch t, by t; files are read when they are needed. Epoch 0 is ``init``.
        train, test: :class:`shaketable.data.Data`, a pair (inputs [N, ...], labels [N]), or a ``torch`` data set.
            Moved to the device of the network.
        final_epoch: the epoch at whose end the final weights were taken, where it is known.
        name: for titles and files.
        history: the training history, a data frame with a row per epoch, for the report.
        initialise: redraws the network in place from a generator: the distribution of the initial weights. Networks of
            this package bring it as a method.

    Raises:
        InputError: a network in training mode; weights with missing or extra keys, other shapes, NaN or infinite values;
            ``init`` equal to ``final``; data that are empty, that the network does not accept, or with labels beyond its
            classes. Each names the key or the place, and what to do.

    Example:
        >>> network = nn.Linear(2, 3).eval()
        >>> init = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
        >>> study = Study(network, init=init, test=(torch.eye(2), [0, 2]))
        >>> study.epochs, study.classes, len(study.test)
        ((0,), 3, 2)
    """

    network: nn.Module
    final: dict[str, Tensor]
    init: dict[str, Tensor] | None
    checkpoints: Mapping[int, Weights]
    train: Data | None
    test: Data | None
    final_epoch: int | None
    name: str
    initialise: Initialise | None
    history: Any
    provenance: Mapping[str, Any]

    def __init__(
        self,
        network: nn.Module,
        *,
        final: Weights | None = None,
        init: Weights | None = None,
        checkpoints: Mapping[int, Weights] | None = None,
        train: Any = None,
        test: Any = None,
        final_epoch: int | None = None,
        name: str | None = None,
        initialise: Initialise | None = None,
        history: Any = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(network, nn.Module):
            raise InputError(f"network is a {type(network).__name__}; give a torch.nn.Module.")
        if any(module.training for module in network.modules()):
            raise InputError(
                "the network is in training mode, where dropout and batch norm change its answers; call network.eval() first."
            )
        set_field = partial(object.__setattr__, self)  # frozen for everybody else
        set_field("network", network)
        set_field("checkpoints", dict(checkpoints) if isinstance(checkpoints, dict) else checkpoints or {})
        for epoch in self.checkpoints:
            if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
                raise InputError(f"checkpoint {epoch!r}: a checkpoint's name is its epoch, a whole number from 0.")
        set_field("final", self._weights(snapshot(network) if final is None else final, "final"))
        first = init if init is not None else self.checkpoints.get(0)
        set_field("init", None if first is None else self._weights(first, "init"))
        if self.init is not None and all(
            torch.equal(self.init[n], self.final[n]) for n, _ in network.named_parameters()
        ):
            raise InputError(
                "init equals final, parameter for parameter: the initial weights must be saved before training "
                "(shaketable.snapshot(network) copies them); give those, or leave init out."
            )
        set_field("train", None if train is None else self._data(train, "train"))
        set_field("test", None if test is None else self._data(test, "test"))
        set_field("final_epoch", final_epoch)
        set_field("name", name or type(network).__name__)
        set_field("initialise", initialise)
        set_field("history", history)
        set_field("provenance", dict(provenance or {}))

    @classmethod
    def from_run(cls, path: str | Path, data_root: str | Path | None = None, device: str = "cpu") -> "Study":
        """The study of a run's folder, as :func:`shaketable.train` wrote it.

        Args:
            path: the folder.
            data_root: where data sets are, for runs on data that are not bundled.
            device: where the network and its data are put.

        Raises:
            InputError: the folder is no finished run, or its data are missing.
        """
        from shaketable.training import Run

        run = Run.open(path)
        dataset = run.dataset(data_root)
        checkpoints = run.checkpoints
        last = max(checkpoints)
        return cls(
            run.network().to(device).eval(),
            final=checkpoints[last],
            init=checkpoints[0],
            checkpoints=checkpoints,
            train=dataset.train,
            test=dataset.test,
            final_epoch=last,
            name=f"{run.recipe.network} on {run.recipe.data}",
            history=run.history,
            provenance={"network": run.recipe.network, "run": Path(path).name, "recipe": run.recipe.to_dict()},
        )

    @property
    def device(self) -> torch.device:
        """Where the network is; its data and weights are there too."""
        return next(iter(state(self.network).values())).device

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """The checkpoints that there are, ascending; 0 where there are initial weights."""
        return tuple(sorted(set(self.checkpoints) | ({0} if self.init is not None else set())))

    def checkpoint(self, epoch: int) -> Params:
        """The weights at the end of an epoch, read and checked now.

        Raises:
            InputError: there is no such checkpoint, or its weights do not fit.
        """
        if epoch == 0 and self.init is not None:
            return self.init
        if epoch not in self.checkpoints:
            raise InputError(f"there is no checkpoint {epoch}; there are {', '.join(map(str, self.epochs)) or 'none'}.")
        return self._weights(self.checkpoints[epoch], f"checkpoint {epoch}")

    @cached_property
    def classes(self) -> int:
        """The number of classes: the width of the logits."""
        return int(self._logits(self._any_data()).shape[-1])

    @cached_property
    def weights_fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name the final and the initial weights."""
        both = {f"final.{name}": tensor for name, tensor in self.final.items()}
        return fingerprint(both | {f"init.{name}": tensor for name, tensor in (self.init or {}).items()})

    def data(self, split: str) -> Data:
        """The data of a split, ``"train"`` or ``"test"``.

        Raises:
            InputError: the study was made without them.
        """
        found = getattr(self, split) if split in ("train", "test") else None
        if found is None:
            raise InputError(f"the study has no {split} data; make it with {split}=(inputs, labels).")
        return found

    def example_inputs(self) -> Any:
        """The inputs of at most two examples, or None without data: enough to see in which order modules run."""
        data = self.test if self.test is not None else self.train
        return None if data is None else map_inputs(lambda tensor: tensor[:2], data.inputs)

    def _any_data(self) -> Data:
        return self.data("test" if self.test is not None else "train")

    def _logits(self, data: Data) -> Tensor:
        """Logits of the first two examples."""
        with torch.no_grad():
            return forward(self.network, map_inputs(lambda tensor: tensor[:2], data.inputs))

    def _weights(self, weights: Weights, what: str) -> dict[str, Tensor]:
        """A state dict that fits the network, on its device, tied weights once."""
        given = load_tensors(weights) if isinstance(weights, str | Path) else dict(weights)
        where = f"{what} ({weights})" if isinstance(weights, str | Path) else what
        wanted = state(self.network)
        for alias, kept in aliases(self.network).items():
            tied = given.pop(alias, None)
            if tied is not None and not torch.equal(tied, given.setdefault(kept, tied)):
                raise InputError(f"{where}: {alias!r} and {kept!r} are one tied tensor in the network but differ here.")
        for name in wanted:  # a counter that older files leave out
            if name.endswith("num_batches_tracked"):
                given.setdefault(name, wanted[name])
        missing, extra = [name for name in wanted if name not in given], [name for name in given if name not in wanted]
        if missing or extra:
            lacks = f"lacks {_some(missing)}" if missing else ""
            has = f"has {_some(extra)}, which the network does not have" if extra else ""
            raise InputError(
                f"{where}: {' and '.join(filter(None, (lacks, has)))}; give the state dict of this very network."
            )
        for name, tensor in wanted.items():
            if given[name].shape != tensor.shape:
                raise InputError(
                    f"{where}: {name!r} has shape {list(given[name].shape)}, the network's has {list(tensor.shape)}; "
                    "build the network with the arguments that it was trained with."
                )
        _refuse_not_finite(given, where)
        return {name: given[name].detach().to(tensor.device, tensor.dtype) for name, tensor in wanted.items()}

    def _data(self, given: Any, split: str) -> Data:
        """Data on the network's device that the network accepts."""
        try:
            data = as_data(given)
        except InputError as error:
            raise InputError(f"{split} data: {error}") from error
        data = data.to(self.device)
        try:
            logits = self._logits(data)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            shapes = ", ".join(f"{name} {list(t.shape[1:])}" for name, t in tensors_of(data.inputs).items())
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the network does not accept one example of the {split} data ({shapes}): {reason}"
            ) from error
        highest, classes = int(data.labels.max()), int(logits.shape[-1])
        if highest >= classes:
            where = (data.labels == highest).nonzero()[0].tolist()
            raise InputError(
                f"{split} data: label {highest} at index {where[0] if len(where) == 1 else where} is beyond the network's "
                f"{classes} classes; labels go from 0 to {classes - 1}."
            )
        return data


def _some(names: list[str]) -> str:
    """At most three names, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def _refuse_not_finite(weights: Params, where: str) -> None:
    """One error that names the first tensor with a NaN or infinite value."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise InputError(
                f"{where}: {name!r} has {count} NaN or infinite values; training diverged, or the file is damaged."
            )
