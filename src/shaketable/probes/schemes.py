"""Groups of layers that are reset together: the schemes of Zhang et al. (2022) by name, and your own."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from shaketable.errors import InputError
from shaketable.params import Layer

SCHEMES: dict[str, int | None] = {"all-but-first": None, "two-in-three": 3, "every-other": 2}
"""Each scheme, and of how many layers in a row the first is left out; None: of a whole stage."""

Groups = str | Sequence[str] | Mapping[str, str | Sequence[str]]
"""A scheme, several of them, or a mapping from names of groups to a scheme, or to names of layers (``*`` is a wild card)."""


def scheme_group(found: Sequence[Layer], scheme: str) -> tuple[str, ...]:
    r"""The names of the layers that a scheme resets together, in forward order.

    In a stage whose blocks are numbered :math:`j = 1, 2, \dots`

    .. math:: j > 1, \qquad j \not\equiv 1 \pmod 3, \qquad j \not\equiv 1 \pmod 2

    for ``"all-but-first"``, ``"two-in-three"``, ``"every-other"``. Behind a colon stand the stages that count, as in
    ``"all-but-first:stage1,stage4"``. Layers outside of stages (stem, classifier) are left out; a network without
    stages (FCN, VGG) is one stage of all its layers.

    Args:
        found: the layers of a network, from :func:`shaketable.params.layers` with ``by="block"``.
        scheme: the name, and perhaps stages.

    Returns: at least one name.

    Raises:
        InputError: an unknown scheme or stage, or no layer left.

    Deviates: the figures' marks are not in the text. "All but the first" is said in words; for "two in every three" and
        "every other" it is our reading that the first block of a stage is never in the group, and that each stage counts anew.
        Of chosen stages the paper does not say whether first blocks are in; here they are not.

    Example:
        >>> layers = [Layer(f"s{s}.{b}", ("w",), (), ("m",), "Block", f"s{s}") for s in (1, 2) for b in (1, 2, 3, 4)]
        >>> scheme_group(layers, "every-other")
        ('s1.2', 's1.4', 's2.2', 's2.4')
        >>> scheme_group(layers, "two-in-three:s2")
        ('s2.2', 's2.3')

    References: Zhang, Bengio, Singer, "Are All Layers Created Equal?", JMLR 2022, section 4, appendix B.
    """
    check_scheme(scheme)
    name, colon, chosen = scheme.partition(":")
    period = SCHEMES[name]
    known = list(dict.fromkeys(layer.stage for layer in found if layer.stage))
    wanted = chosen.split(",") if colon else known or [""]
    for stage in wanted:
        if stage not in (known or [""]):
            there = f"there are {', '.join(known)}" if known else "it has no stages"
            raise InputError(f"scheme {scheme!r}: the network has no stage {stage!r}; {there}.")
    group = set()
    for stage in wanted:
        members = [layer.name for layer in found if layer.stage == stage]
        group |= {layer for j, layer in enumerate(members) if (j % period if period else j)}
    if not group:
        raise InputError(f"scheme {scheme!r} gives an empty group: no stage has two layers; name the layers yourself.")
    return tuple(layer.name for layer in found if layer.name in group)


def check_scheme(scheme: str) -> None:
    """One error for a scheme that there is not."""
    name = scheme.partition(":")[0]
    if name not in SCHEMES:
        near = get_close_matches(name, SCHEMES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SCHEMES)}."
        raise InputError(f"there is no scheme {name!r}; {hint}")


def is_scheme(name: str) -> bool:
    """Whether a name is that of a scheme, perhaps with stages behind it."""
    return name.partition(":")[0] in SCHEMES


def named_layers(found: Sequence[Layer], names: Sequence[str]) -> tuple[str, ...]:
    """Names of layers as given, those of a scheme in the place of its name; each once.

    Example:
        >>> layers = [Layer(f"s1.{b}", ("w",), (), ("m",), "Block", "s1") for b in (1, 2, 3)]
        >>> named_layers(layers, ["head", "all-but-first"])
        ('head', 's1.2', 's1.3')
    """
    groups = (scheme_group(found, name) if is_scheme(name) else (name,) for name in names)
    return tuple(dict.fromkeys(layer for group in groups for layer in group))


def layer_groups(found: Sequence[Layer], groups: Groups, rest: bool = False) -> dict[str, tuple[str, ...]]:
    """Groups by name: each the names of its layers in forward order.

    Args:
        found: the layers of a network.
        groups: a scheme, a list of schemes, or a mapping of your own; see :data:`Groups`.
        rest: behind each group one of all other layers, called ``rest of ...``: the paper divides the layers in two.

    Returns: at least one group. Two groups may share layers: they are not reset at the same time.

    Raises:
        InputError: an unknown scheme, stage or layer (near names are offered), an empty group, or a layer that a group
            names twice.
    """
    if isinstance(groups, str):
        groups = [groups]
    if not isinstance(groups, Mapping | Sequence) or not groups:
        raise InputError(f"groups={groups!r}: give a scheme ({', '.join(SCHEMES)}), or a mapping from names to layers.")
    named = groups if isinstance(groups, Mapping) else {str(scheme): scheme for scheme in groups}
    made: dict[str, tuple[str, ...]] = {}
    for group, given in named.items():
        if group in made:
            raise InputError(f"{group!r} is the name of a group and of the rest of another; rename yours.")
        if isinstance(given, str) and (is_scheme(given) or not isinstance(groups, Mapping)):
            made[str(group)] = scheme_group(found, given)
        else:
            made[str(group)] = _your_group(found, str(group), given)
        if rest:
            left = tuple(layer.name for layer in found if layer.name not in made[str(group)])
            if not left:
                raise InputError(f"group {group!r} holds all layers, so that there is no rest; use rest=False.")
            made[f"rest of {group}"] = left
    return made


def _your_group(found: Sequence[Layer], group: str, given: str | Sequence[str]) -> tuple[str, ...]:
    """The layers that a group names, each once."""
    patterns = [given] if isinstance(given, str) else given
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(f"group {group!r}: give names of layers, one or a list, not {given!r}.")
    if not patterns:
        raise InputError(f"group {group!r} is empty; name at least one layer.")
    known = [layer.name for layer in found]
    taken: set[str] = set()
    for pattern in patterns:
        hits = [name for name in known if name == pattern] or [name for name in known if fnmatchcase(name, pattern)]
        if not hits:
            near = get_close_matches(pattern, known, 3)
            hint = f"near names: {', '.join(near)}" if near else f"there are {', '.join(known)}"
            raise InputError(f"group {group!r}: there is no layer {pattern!r}; {hint}.")
        twice = [name for name in hits if name in taken]
        if twice:
            raise InputError(f"group {group!r} names layer {twice[0]!r} twice ({pattern!r} again); name it once.")
        taken.update(hits)
    return tuple(name for name in known if name in taken)
