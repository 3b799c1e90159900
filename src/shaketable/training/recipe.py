"""The recipe of a training run: plain values that say everything that decides the final weights."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from shaketable import identity
from shaketable.data.augmentation import Augmentation
from shaketable.errors import InputError

OPTIMISERS = ("sgd", "adam")
SCHEDULES = ("stages", "cosine", "linear", "constant")
PRECISIONS = ("float32", "bfloat16", "float16")
_LATER = {
    "sam_rho": 0.0,
    "removed": (),
}  # fields that came later name a run only where they do something: older runs keep their names
DATA_ARGUMENTS = ("normalise", "train_examples", "test_examples", "pad", "seed", "tokens", "vocabulary")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the final weights of a run, as plain JSON values.

    Two recipes with equal values have one :attr:`digest`, and so one run folder; whatever is left out has a default,
    and the default is part of the digest. Where the data lies, the device and the folder are not part of a recipe.

    What is not done: neither the device nor the number of threads is part of the recipe, and both change the last
    bits of sums.

    Args:
        network: a name of :mod:`shaketable.networks`.
        network_args: its arguments.
        data: a name of :mod:`shaketable.data`.
        data_args: arguments of ``data.load``: ``normalise``, ``train_examples``, ``test_examples``, ``pad``, ``seed``
            (of the choice of examples; the recipe's own seed does not change which examples are trained on); for a text
            ``tokens`` and ``vocabulary``.
        optimiser: ``"sgd"`` or ``"adam"``.
        learning_rate: of the first epoch.
        momentum: of SGD; for Adam it is beta1 (beta2 is 0.999, epsilon 1e-8).
        weight_decay: this much of the weight is added to its gradient (an L2 penalty of half of it; for Adam as well,
            which is not AdamW), biases and normalisations included.
        sam_rho: sharpness-aware minimisation (Foret et al. 2021): each step takes the gradient from the point at this
            distance uphill, at the cost of a second pass; 0 does without. See :class:`shaketable.training.loop.Trainer`.
        schedule: ``"stages"``, ``"cosine"``, ``"linear"`` or ``"constant"``, see :func:`learning_rate`.
        milestones: epochs at the end of which the learning rate is multiplied by ``factor`` (stages); or the two between which
            it falls to ``factor`` of itself (linear).
        factor: in (0, 1].
        batch_size: the last batch of an epoch holds what is left.
        epochs: at most so many passes over the training data.
        stop_below: stop after the first epoch that ends with a training cross-entropy below this, in nats, where it is
            evaluated (``evaluate_every``); None trains all epochs.
        label_corruption: this fraction of the training labels is redrawn, seeded by ``seed``.
        augmentation: steps of :mod:`shaketable.data.augmentation`, in order, e.g. ``("pad-crop:4", "flip")``.
        frozen: names of layers (by block, or else by module) that do not train: no step, no weight decay, and batch
            normalisations in them use and keep the statistics that they start with.
        removed: names of residual blocks (by block) that the network is trained without: the identity stands in their place, the
            others start as they would beside them. See :func:`shaketable.removal.without`.
        checkpoints: epochs at the end of which the weights are kept; None keeps each. 0 and the last are always kept.
        evaluate_every: epochs between evaluations on all data; checkpoints and the last epoch are always evaluated.
        precision: of forward and backward passes of training (autocast; ``"float16"`` with a gradient scaler). Weights,
            optimiser and evaluation are in float32.
        seed: of the initial weights, the label corruption, the order of examples, the augmentation and dropout.

    Raises:
        InputError: the first field with a value that is not allowed, and what is.

    Deviates: the defaults are those of appendix A of Zhang et al., which gives no learning rate: 0.1 is ours.

    Example:
        >>> recipe = Recipe(network="fcn-3x256", data="digits", epochs=10)
        >>> recipe.folder_name
        'fcn-3x256-digits-...'
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True
        >>> recipe.replace(seed=1).digest == recipe.digest
        False

    References: C. Zhang, S. Bengio, Y. Singer, Are All Layers Created Equal?, 2022, appendix A. P. Foret, A. Kleiner,
    H. Mobahi, B. Neyshabur, Sharpness-aware minimization for efficiently improving generalization, ICLR 2021.
    """

    network: str = "fcn-3x256"
    network_args: dict[str, Any] = field(default_factory=dict)
    data: str = "digits"
    data_args: dict[str, Any] = field(default_factory=dict)
    optimiser: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    sam_rho: float = 0.0
    schedule: str = "stages"
    milestones: tuple[int, ...] = (30, 60, 90)
    factor: float = 0.2
    batch_size: int = 128
    epochs: int = 100
    stop_below: float | None = None
    label_corruption: float = 0.0
    augmentation: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    checkpoints: tuple[int, ...] | None = None
    evaluate_every: int = 1
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name, hint in hints.items():
            value = getattr(self, name)
            try:
                value = msgspec.convert(value, hint)
                if hint == dict[str, Any]:  # a copy of its own, with tuples as the lists that JSON makes of them
                    value = json.loads(identity.canonical(value))
            except (msgspec.ValidationError, TypeError, ValueError) as error:
                raise InputError(f"recipe: {name} = {value!r} is of a wrong type: {error}.") from error
            object.__setattr__(self, name, value)
            allowed, what = _RULES.get(name, (lambda value: True, ""))
            if not allowed(value):
                raise InputError(f"recipe: {name} = {value!r} is not allowed; give {what}.")
        beyond = [epoch for epoch in self.checkpoints or () if epoch > self.epochs]
        if beyond:
            raise InputError(
                f"recipe: checkpoints = {beyond[0]} is beyond epochs = {self.epochs}; keep checkpoints up to that."
            )
        if self.schedule == "linear" and len(self.milestones) != 2:
            raise InputError(
                f"recipe: milestones = {self.milestones} is not allowed with schedule = 'linear'; give two epochs, between which "
                "the learning rate falls."
            )
        refuse_unknown("data_args", self.data_args, DATA_ARGUMENTS)
        try:
            Augmentation(self.augmentation)
        except InputError as error:
            raise InputError(f"recipe: augmentation = {self.augmentation!r} is not allowed: {error}") from error

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """A recipe from plain values; types are checked strictly, and unknown fields are refused."""
        if not isinstance(values, Mapping):
            raise InputError(f"a recipe is a table of fields, not {type(values).__name__}.")
        refuse_unknown("recipe", values, tuple(field.name for field in dataclasses.fields(cls)))
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | Path) -> "Recipe":
        """A recipe from a ``.toml`` or ``.json`` file."""
        path = Path(path)
        decode = {".toml": msgspec.toml.decode, ".json": msgspec.json.decode}.get(path.suffix)
        if decode is None:
            raise InputError(f"{path}: a recipe is a .toml or a .json file.")
        try:
            values = decode(path.read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{path}: this recipe cannot be read ({error}).") from error
        try:
            return cls.from_dict(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values, a copy."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def canonical(self) -> str:
        """All fields, defaults included, as one JSON text: the identity of the run."""
        return identity.canonical(dataclasses.asdict(self))

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that name the recipe."""
        values = dataclasses.asdict(self)
        later = [name for name, default in _LATER.items() if values[name] == default]
        return identity.digest({name: value for name, value in values.items() if name not in later})

    @property
    def folder_name(self) -> str:
        """The name of the run's folder: network, data and digest."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{self.network}-{self.data}-{self.digest}")

    def changed(self, **changes: Any) -> "Recipe":
        """The same recipe with some fields changed; ``network_args`` and ``data_args`` are changed key by key."""
        kept = self.to_dict()
        merged = {name: {**kept[name], **changes[name]} for name in ("network_args", "data_args") if name in changes}
        return Recipe.from_dict({**kept, **changes, **merged})

    def replace(self, **changes: Any) -> "Recipe":
        """This recipe with some fields changed."""
        return Recipe.from_dict({**self.to_dict(), **changes})


def learning_rate(recipe: Recipe, epoch: int) -> float:
    r"""The learning rate of all steps of one epoch.

    .. math::
        \eta_e = \eta_1 f^{|\{m : m < e\}|} \quad\text{(stages)}, \qquad
        \eta_e = \tfrac{\eta_1}{2} \left(1 + \cos \pi \tfrac{e - 1}{T}\right) \quad\text{(cosine)}, \qquad
        \eta_e = \eta_1 \left(1 - (1 - f) \operatorname{clip}\left(\tfrac{e - 1 - m_1}{m_2 - m_1}, 0, 1\right)\right)
        \quad\text{(linear)}

    with :math:`\eta_1` the ``learning_rate``, :math:`f` the ``factor``, :math:`m` the ``milestones`` and :math:`T` the
    ``epochs``.

    Args:
        recipe: the recipe.
        epoch: from 1.

    Deviates: "on epoch 30" is read as: 30 epochs are done at the full rate, and epoch 31 is the first at the lower one.
    The cosine falls to zero once, at the end of the last epoch, without restarts or warm-up, in one step an epoch.

    Example:
        >>> [round(learning_rate(Recipe(), epoch), 6) for epoch in (1, 30, 31, 61, 91, 100)]
        [0.1, 0.1, 0.02, 0.004, 0.0008, 0.0008]
    """
    if not 1 <= epoch <= recipe.epochs:
        raise InputError(f"epoch {epoch} is outside of the recipe's 1 to {recipe.epochs}.")
    if recipe.schedule == "stages":
        return recipe.learning_rate * recipe.factor ** sum(milestone < epoch for milestone in recipe.milestones)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / recipe.epochs)) / 2
    if recipe.schedule == "linear":
        start, end = recipe.milestones
        share = min(1.0, max(0.0, (epoch - 1 - start) / (end - start)))
        return recipe.learning_rate * (1 - (1 - recipe.factor) * share)
    return recipe.learning_rate


def refuse_unknown(where: str, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """An error that names the first unknown key and the known one that is most like it."""
    for name in values:
        if name not in known:
            close = get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."
            raise InputError(f"{where}: unknown field {name!r}; {hint}")


def _one_of(names: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    """A rule: one of these names."""
    return lambda value: value in names, "one of " + ", ".join(names)


_NAMES = (lambda value: all(value) and len(set(value)) == len(value), "names of layers, each once")


def _increasing(smallest: int) -> Callable[[Any], bool]:
    """A rule: epochs from the smallest on, each larger than the one before; or None."""
    return lambda value: value is None or all(a < b for a, b in zip((smallest - 1, *value), value, strict=False))


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "network": (bool, "the name of a network"),
    "network_args": (
        lambda value: not {"input_shape", "classes", "seed"} & value.keys(),
        "arguments without input_shape, classes and seed: data and recipe give these",
    ),
    "data": (bool, "the name of a data set"),
    "optimiser": _one_of(OPTIMISERS),
    "learning_rate": (lambda value: 0 < value < math.inf, "a finite number above 0"),
    "momentum": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "a finite number from 0 on"),
    "sam_rho": (lambda value: 0 <= value < math.inf, "a finite number from 0 on"),
    "schedule": _one_of(SCHEDULES),
    "milestones": (_increasing(1), "increasing epochs from 1 on"),
    "factor": (lambda value: 0 < value <= 1, "a number above 0 and up to 1"),
    "batch_size": (lambda value: value >= 1, "a whole number from 1 on"),
    "epochs": (lambda value: value >= 1, "a whole number from 1 on"),
    "stop_below": (lambda value: value is None or 0 < value < math.inf, "a finite number above 0, or None"),
    "label_corruption": (lambda value: 0 <= value <= 1, "a fraction from 0 to 1"),
    "frozen": _NAMES,
    "removed": _NAMES,
    "checkpoints": (_increasing(0), "increasing epochs from 0 on, or None for each epoch"),
    "evaluate_every": (lambda value: value >= 1, "a whole number from 1 on"),
    "precision": _one_of(PRECISIONS),
    "seed": (lambda value: 0 <= value < 2**63, "a whole number from 0 to below 2**63"),
}
