"""Study: one trained network with its initial weights, its trajectory and its data, checked once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from shaketable.data import Data, as_data
from shaketable.data.data import IGNORED
from shaketable.data.text import tokens_checked
from shaketable.errors import InputError
from shaketable.files import load_tensors
from shaketable.forward import evaluation_mode, forward, map_inputs, tensors_of, usable_device
from shaketable.identity import digest, fingerprint
from shaketable.params import Params, aliases, state
from shaketable.perturb import Initialise

SPLITS = ("test", "train")
NEEDS_INIT = (
    "robustness to re-initialisation",
    "distances from init",
    "criticality",
    "paths and valleys from init",
    "similarity under rewinding to init",
    "norms of the way from init",
)
"""What asks for the weights before training. Re-randomisation, noise, pruning, spectra and norms of weights do not."""
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
        share: take the network's own tensors as the final weights, not a copy of them: for a network that does not fit
            twice, or lies on several devices. It must not change while the study is in use.

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
        share: bool = False,
    ) -> None:
        if not isinstance(network, nn.Module):
            raise InputError(f"network is a {type(network).__name__}; give a torch.nn.Module.")
        if any(module.training for module in network.modules()):
            raise InputError(
                "the network is in training mode, where dropout and batch norm change its answers; call network.eval() first."
            )
        _refuse_unusable(network)
        set_field = partial(object.__setattr__, self)  # frozen for everybody else
        set_field("network", network)
        if checkpoints is not None and not isinstance(checkpoints, Mapping):
            kind = type(checkpoints).__name__
            raise InputError(
                f"checkpoints is a {kind}; give a mapping from epochs to weights, such as {{0: init, 5: weights}}."
            )
        set_field("checkpoints", {} if checkpoints is None else checkpoints)
        for epoch in (*self.checkpoints, *(() if final_epoch is None else (final_epoch,))):
            if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
                raise InputError(f"checkpoint {epoch!r}: a checkpoint's name is its epoch, a whole number from 0.")
        if share and final is not None:
            raise InputError("share=True takes the network's own weights as final; leave final out, or share=False.")
        set_field("final", self._weights(state(network) if final is None else final, "final", copy=not share))
        first = self._weights(self.checkpoints[0], "checkpoint 0") if 0 in self.checkpoints else None
        if init is not None:
            given = self._weights(init, "init")
            if first is not None and not _equal(given, first):
                raise InputError("init and checkpoint 0 are the same thing, but differ here; give one of them.")
            first = given
        set_field("init", first)
        last = self.checkpoint(final_epoch) if final_epoch is not None and final_epoch in self.epochs else None
        if last is not None and not _equal(last, self.final):
            raise InputError(
                f"checkpoint {final_epoch} is not the final weights, though final_epoch={final_epoch} says so; "
                "give the epoch at whose end the final weights were taken, or leave final_epoch out."
            )
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

        place = usable_device(device)
        run = Run.open(path)
        dataset = run.dataset(data_root)
        checkpoints = run.checkpoints
        last = max(checkpoints)
        return cls(
            run.network().to(place).eval(),
            final=checkpoints[last],
            checkpoints=checkpoints,
            train=dataset.train,
            test=dataset.test,
            final_epoch=last,
            name=f"{run.recipe.network} on {run.recipe.data}",
            history=run.history,
            provenance={"network": run.recipe.network, "run": Path(path).name, "recipe": run.recipe.to_dict()},
        )

    @classmethod
    def from_huggingface(
        cls, model: Any, data: Any = None, tokenizer: Any = None, processor: Any = None, **arguments: Any
    ) -> "Study":
        """The study of a transformers model; see :func:`shaketable.foreign.from_huggingface`."""
        from shaketable.foreign import from_huggingface

        return from_huggingface(model, data, tokenizer, processor, **arguments)

    @classmethod
    def from_timm(cls, name_or_model: Any, data: Any = None, **arguments: Any) -> "Study":
        """The study of a timm model; see :func:`shaketable.foreign.from_timm`."""
        from shaketable.foreign import from_timm

        return from_timm(name_or_model, data, **arguments)

    @classmethod
    def from_torchvision(cls, name_or_model: Any, data: Any = None, **arguments: Any) -> "Study":
        """The study of a torchvision model; see :func:`shaketable.foreign.from_torchvision`."""
        from shaketable.foreign import from_torchvision

        return from_torchvision(name_or_model, data, **arguments)

    @classmethod
    def from_lightning(cls, path: str | Path, network: nn.Module, data: Any = None, **arguments: Any) -> "Study":
        """The study of a network in a Lightning checkpoint; see :func:`shaketable.foreign.from_lightning`."""
        from shaketable.foreign import from_lightning

        return from_lightning(path, network, data, **arguments)

    @property
    def needs_init(self) -> tuple[str, ...]:
        """What cannot be computed because there are no initial weights; empty where there are. All else works without."""
        return () if self.init is not None else NEEDS_INIT

    @property
    def device(self) -> torch.device:
        """Where the network is; its data and weights are there too."""
        return next((tensor.device for tensor in state(self.network).values()), torch.device("cpu"))

    @cached_property
    def task(self) -> str:
        """``"classification"``, or ``"language modelling"`` where each example has a row of labels [N, T]."""
        return "classification" if self._any_data().labels.ndim == 1 else "language modelling"

    @cached_property
    def forward_fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name what the network computes: its class, its modules, and the logits of two
        examples to two digits, so that another forward pass with the same weights is another network."""
        logits = [f"{value:.2g}" for value in self._logits(self._any_data()).flatten()[:20].tolist()]
        modules = re.sub(r" at 0x[0-9a-f]+", "", repr(self.network))
        return digest([type(self.network).__module__, type(self.network).__qualname__, modules, logits])

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.network.parameters())
        data = ", ".join(
            f"{len(self.data(split)):,} {split} examples" for split in SPLITS if getattr(self, split) is not None
        )
        return f"<Study of {self.name}: {size:,} parameters, checkpoints {list(self.epochs)}, {data or 'no data'}>"

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
        found = getattr(self, split) if split in SPLITS else None
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
        """Logits of the first two examples, by the final weights."""
        with evaluation_mode(self.network), torch.no_grad():
            return forward(self.network, map_inputs(lambda tensor: tensor[:2], data.inputs), self.final)

    def _weights(self, weights: Weights, what: str, copy: bool = True) -> dict[str, Tensor]:
        """A state dict that fits the network, on its device, tied weights once."""
        from_file = isinstance(weights, str | Path)
        where = f"{what} ({weights})" if from_file else what
        if not from_file and not isinstance(weights, Mapping):
            raise InputError(
                f"{where} is a {type(weights).__name__}; give a state dict, or the path of a file that holds one."
            )
        given = load_tensors(weights) if isinstance(weights, str | Path) else dict(weights)
        for name, tensor in given.items():
            if not isinstance(tensor, Tensor):
                raise InputError(f"{where}: {name!r} is a {type(tensor).__name__}; a state dict holds torch tensors.")
        wanted = state(self.network)
        for prefix in ("module.", "_orig_mod."):  # DataParallel and torch.compile put these before every name
            if (
                given
                and all(name.startswith(prefix) for name in given)
                and not any(n.startswith(prefix) for n in wanted)
            ):
                given = {name.removeprefix(prefix): tensor for name, tensor in given.items()}
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
        # a copy: the study stays as it is when the caller's tensors change
        kept = {
            name: given[name].detach().to(tensor.device, tensor.dtype, copy=copy and not from_file)
            for name, tensor in wanted.items()
        }
        _refuse_not_finite(kept, {name for name, _ in self.network.named_parameters()}, where)
        return kept

    def _data(self, given: Any, split: str) -> Data:
        """Data on the network's device that the network accepts."""
        try:
            data = as_data(given)
        except InputError as error:
            raise InputError(f"{split} data: {error}") from error
        data = data.to(self.device)
        try:
            with tokens_checked(self.network, data):
                logits = self._logits(data)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            shapes = ", ".join(f"{name} {list(t.shape[1:])}" for name, t in tensors_of(data.inputs).items())
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the network does not accept one example of the {split} data ({shapes}): {reason}"
            ) from error
        if logits.shape[:-1] != data.labels[:2].shape:
            raise InputError(
                f"{split} data: the network gives logits of shape {list(logits.shape)} for two examples with labels of shape "
                f"{list(data.labels[:2].shape)}; it must give one row of class scores per label."
            )
        if not (data.labels != IGNORED).any():
            raise InputError(f"{split} data: every label is {IGNORED}, which means left out; give data with labels.")
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


def _equal(one: Params, other: Params) -> bool:
    """Whether two sets of weights are the same, bit for bit."""
    return all(torch.equal(one[name], other[name]) for name in one)


def _refuse_unusable(network: nn.Module) -> None:
    """One error for a network whose weights cannot be perturbed."""
    for name, parameter in network.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise InputError(
                f"{name!r} has no shape yet; run one batch through the network, so that its lazy modules get theirs."
            )
        if parameter.is_complex():
            raise InputError(f"{name!r} is complex; networks with complex parameters are not supported.")


def _refuse_not_finite(weights: Params, parameters: set[str], where: str) -> None:
    """One error that names the first tensor with a NaN, or the first parameter with an infinite value."""
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            continue
        bad = ~tensor.isfinite() if name in parameters else tensor.isnan()  # a buffer may be a mask of -inf
        if bad.any():
            raise InputError(
                f"{where}: {name!r} has {int(bad.sum())} NaN or infinite values; training diverged, or the file is damaged."
            )
