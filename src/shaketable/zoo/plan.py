"""The plan of a zoo: which networks are trained, from a base recipe and axes or from a list."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from shaketable.data.sources import source
from shaketable.data.text import is_text
from shaketable.errors import InputError
from shaketable.networks import construct
from shaketable.training import Recipe, named
from shaketable.training.recipe import DATA_ARGUMENTS, refuse_unknown

TABLES = ("network_args", "data_args")
"""The fields of a recipe that hold arguments of their own, named ``network_args.x``."""
IMAGE, TOKENS = (3, 64, 64), (16,)
"""Examples that every network takes: whether a name is one does not depend on them."""
SECTIONS = ("recipe", "base", "axes", "networks")


@dataclass(frozen=True)
class Entry:
    """One network of a plan: its recipe, and the values of the hyper-parameters that the plan varies."""

    recipe: Recipe
    hyperparameters: dict[str, Any]

    @property
    def name(self) -> str:
        """Its identity: the name of its run's folder, with the hash of the recipe."""
        return self.recipe.folder_name


@dataclass(frozen=True)
class Plan:
    """Which networks a zoo has.

    Nothing is trained here. Every recipe is checked: its fields, and that its network can be built; data are not read.

    Args:
        networks: each with a recipe of its own.

    Raises:
        InputError: no network, two with equal recipes, a name of a network, or an argument, that there is not.

    Example:
        >>> plan = Plan.grid(Recipe(network="fcn-{depth}x16", epochs=1), {"depth": [1, 2], "seed": [0, 1, 2]})
        >>> len(plan), plan.axes, plan.networks[0].hyperparameters
        (6, ('depth', 'seed'), {'depth': 1, 'seed': 0})
    """

    networks: tuple[Entry, ...]

    def __post_init__(self) -> None:
        if not self.networks:
            raise InputError("plan: there is no network in it; give axes, or a list of networks.")
        first: dict[str, int] = {}
        for number, entry in enumerate(self.networks, 1):
            if entry.name in first:
                raise InputError(
                    f"plan: networks {first[entry.name]} and {number} are the same one ({_told(entry.hyperparameters)}); "
                    "leave out one, or give them different seeds."
                )
            first[entry.name] = number
        recipes = (entry.recipe for entry in self.networks)
        for recipe in {(one.network, repr(one.network_args), one.data): one for one in recipes}.values():
            if "{" in recipe.network:
                raise InputError(
                    f"plan: network = {recipe.network!r} has a name in braces that is no axis; make it one."
                )
            try:
                if not is_text(recipe.data) and not recipe.data.endswith(".npz"):
                    source(recipe.data)
                construct(recipe.network, TOKENS if is_text(recipe.data) else IMAGE, 10, **recipe.network_args)
            except InputError as error:
                raise InputError(f"plan: {error}") from error

    def __len__(self) -> int:
        return len(self.networks)

    @property
    def axes(self) -> tuple[str, ...]:
        """The hyper-parameters that the plan varies."""
        return tuple(self.networks[0].hyperparameters)

    @classmethod
    def grid(cls, base: Recipe, axes: Mapping[str, Sequence[Any]]) -> "Plan":
        """Every combination of the values of some hyper-parameters.

        Args:
            base: what all networks have in common.
            axes: by hyper-parameter, its values: a field of :class:`Recipe`, ``network_args.x``, ``data_args.x``, or a name that
                stands in braces in the base's network, as in ``"nin-{blocks}x{channels}-bn"``.

        Raises:
            InputError: no axis, one without values, one that is no hyper-parameter, or as for a plan.
        """
        if not isinstance(axes, Mapping) or not axes:
            raise InputError("plan: there is no axis; give at least one, such as seed = [0, 1, 2].")
        for name, values in axes.items():
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise InputError(f"plan: axis {name!r} is {values!r}; give a list of values.")
            if not values:
                raise InputError(f"plan: axis {name!r} is empty; give at least one value, or leave it out.")
        chosen = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
        return cls(tuple(Entry(_changed(base, changes), changes) for changes in chosen))

    @classmethod
    def listed(cls, base: Recipe, networks: Iterable[Mapping[str, Any]]) -> "Plan":
        """The networks of a list; their hyper-parameters are the fields in which they differ.

        Args:
            base: what all networks have in common.
            networks: of each, the fields that are its own, named as the axes of :meth:`grid`.

        Raises:
            InputError: as for a plan.

        Example:
            >>> plan = Plan.listed(Recipe(epochs=1), [{"network": "fcn-1x4"}, {"network": "fcn-2x4", "momentum": 0.9}])
            >>> plan.axes
            ('network',)
        """
        given = [dict(changes) for changes in networks]
        recipes = [_changed(base, changes) for changes in given]
        values = [_flat(recipe) for recipe in recipes]
        for one, changes in zip(values, given, strict=True):  # what stands in the network's name is told by its own
            one |= {name: value for name, value in changes.items() if f"{{{name}}}" in base.network}
        every = list(dict.fromkeys(name for one in values for name in one))
        differing = [name for name in every if len({repr(one.get(name)) for one in values}) > 1]
        if "{" in base.network:
            differing = [name for name in differing if name != "network"]
        return cls(
            tuple(Entry(recipe, {name: one.get(name) for name in differing}) for recipe, one in zip(recipes, values))
        )

    @classmethod
    def from_file(cls, path: str | Path) -> "Plan":
        """The plan in a TOML file: ``recipe`` (a paper's name) and ``[base]`` (fields), then ``[axes]`` or ``[[networks]]``.

        Raises:
            InputError: it cannot be read, or as for a plan; says which file.
        """
        path = Path(path)
        try:
            values = msgspec.toml.decode(path.read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{path}: this plan cannot be read ({error}).") from error
        try:
            return cls.from_dict(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """The plan of what a TOML file says."""
        refuse_unknown("plan", values, SECTIONS)
        if ("axes" in values) == ("networks" in values):
            raise InputError("plan: give either [axes], or a list of [[networks]].")
        start = named(values["recipe"]) if "recipe" in values else Recipe()
        base = _changed(start, _unnested(values.get("base", {})))
        if "axes" in values:
            return cls.grid(base, _unnested(values["axes"]))
        if not isinstance(values["networks"], list):
            raise InputError("plan: networks is no list; write [[networks]] above each.")
        return cls.listed(base, map(_unnested, values["networks"]))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values: the recipes in full."""
        return {
            "networks": [
                {"recipe": entry.recipe.to_dict(), "hyperparameters": entry.hyperparameters} for entry in self.networks
            ]
        }

    @classmethod
    def of_recipes(cls, values: Mapping[str, Any]) -> "Plan":
        """What :meth:`to_dict` made plain."""
        made = ((Recipe.from_dict(one["recipe"]), one["hyperparameters"]) for one in values["networks"])
        return cls(tuple(Entry(recipe, hyperparameters) for recipe, hyperparameters in made))


def _changed(base: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with some hyper-parameters changed, each by its full name."""
    fields = base.to_dict()
    braces = [name for name in changes if f"{{{name}}}" in base.network]
    known = (*fields, *braces, *(f"data_args.{name}" for name in DATA_ARGUMENTS))
    for name, value in changes.items():
        table, _, argument = name.partition(".")
        if table in TABLES and argument:
            fields[table][argument] = value
        elif name in braces:
            fields["network"] = fields["network"].replace(f"{{{name}}}", str(value))
        else:
            refuse_unknown("plan", {name: value}, known)
            fields[name] = value
    try:
        return Recipe.from_dict(fields)
    except InputError as error:
        raise InputError(f"plan: {_told(changes)}: {error}") from error


def _flat(recipe: Recipe) -> dict[str, Any]:
    """All hyper-parameters of a recipe by their full names."""
    fields = recipe.to_dict()
    arguments = {f"{table}.{name}": value for table in TABLES for name, value in fields.pop(table).items()}
    return fields | arguments


def _unnested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes by their full names, where TOML made tables of dotted ones."""
    if not isinstance(changes, Mapping):
        raise InputError(f"plan: {changes!r} is no table of hyper-parameters.")
    found = {}
    for name, value in changes.items():
        inner = value.items() if name in TABLES and isinstance(value, Mapping) else None
        found |= {name: value} if inner is None else {f"{name}.{argument}": one for argument, one in inner}
    return found


def _told(hyperparameters: Mapping[str, Any]) -> str:
    """Hyper-parameters as one reads them."""
    return ", ".join(f"{name} = {value!r}" for name, value in hyperparameters.items()) or "all fields equal"


def cell(value: Any) -> Any:
    """A hyper-parameter as a column holds it: a number, text or truth value as it is, anything else as JSON text."""
    return value if value is None or isinstance(value, int | float | str) else msgspec.json.encode(value).decode()
