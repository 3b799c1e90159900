"""The largest set of layers that may be reset or dropped together: a search, each step of it, and its trade-off curve."""

import time
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl

from shaketable.engine import Level, Precision
from shaketable.errors import InputError
from shaketable.identity import fingerprint
from shaketable.params import Grouping, Layer, layers
from shaketable.perturb import Statistics
from shaketable.probes.cells import Cells
from shaketable.probes.joint_robustness import HOWS, Change, How, changes
from shaketable.probes.robustness import check_statistics
from shaketable.probes.set_search import SetSearch
from shaketable.probes.stored import LAYERS, Result, check_whole, facts_of, identity_of, names_of, stored, time_taken
from shaketable.study import Study

VERSION = 2
EXHAUSTIVE = 16
"""Candidates up to which every set may be tried."""
COMPLETE = 8
"""Candidates up to which every set is tried unless a beam is given."""
BEAM = 3
"""Sets of each size that are kept where there are more candidates."""
SCHEMA = {
    "step": pl.Int64,
    "set": pl.String,
    "added": pl.String,
    "size": pl.Int64,
    "layers": pl.Int64,
    "parameters": pl.Int64,
    "split": pl.String,
    "draws": pl.Int64,
    "examples": pl.Int64,
    "errors": pl.Int64,
    "error": pl.Float64,
    "error_std": pl.Float64,
    "accuracy_drop": pl.Float64,
    "within": pl.Boolean,
    "kept": pl.Boolean,
    "status": pl.String,
    "reason": pl.String,
}


class LayerSets(Result):
    """Every set of layers that a search for the largest one tried.

    Attributes:
        table: one row per set, by the number of its layers. ``step``: the number of layers in it; ``set``: their names, joined by
            " + " (empty: the final network); ``added``: the last of them that the search put in; ``size``: what is made as
            large as possible, ``layers`` or ``parameters``; ``errors`` summed and ``error`` averaged over ``draws``, each on ``examples``
            examples, with ``error_std`` over draws; ``accuracy_drop`` = error - error of the final network; ``within`` the tolerance;
            ``kept``: the search went on from it. ``status`` and ``reason`` where logits were NaN or infinite, and where a set was
            ``given up``: its ``errors`` on the ``examples`` seen made it worse than the sets kept, so ``error``, ``accuracy_drop``
            and ``within`` are null.
        provenance: what, with which arguments, versions, seeds and hashes; ``largest``: the set found, ``complete``: whether every
            set was tried, ``left_out``: layers that were no candidates, each with the reason.
    """

    NAME: ClassVar[str] = "layer_sets"

    def __repr__(self) -> str:
        size, name = len(self.largest), self.provenance.get("name", "a network")
        return f"<LayerSets of {name}: {size} of {len(self.provenance['candidates'])} layers, {len(self.table)} sets tried>"

    @property
    def complete(self) -> bool:
        """Whether every set of the candidates was tried, so that no larger one is within the tolerance."""
        return bool(self.provenance.get("complete"))

    @property
    def largest(self) -> list[str]:
        """The layers of the largest set within the tolerance, in forward order; empty if no layer may go."""
        return self.provenance["largest"]

    def summary(self) -> pl.DataFrame:
        """The trade-off curve of set size against error.

        Returns: rows of the table, by size. By count: of each size the set with the lowest error that was tried (a minimum
            over all sets only where the search was exhaustive). By parameters: each set than which none tried is larger and
            has no higher error.
        """
        whole = self.table.drop_nulls("error")
        if self.provenance["size"] == "layers":
            return (
                whole.sort("error", "parameters", descending=[False, True], maintain_order=True)
                .unique("layers", keep="first", maintain_order=True)
                .sort("layers")
            )
        order = whole.sort("size", "error", descending=[True, False], maintain_order=True)
        lowest = pl.col("error").cum_min().shift(1)
        return order.filter(lowest.is_null() | (pl.col("error") < lowest)).sort("size")

    def plot(self, **arguments: Any) -> Any:
        """The trade-off curve; see :func:`shaketable.plots.layer_sets.trade_off_curve`."""
        from shaketable.plots.layer_sets import trade_off_curve  # drawn only when asked for

        given = {"tolerance": self.provenance["tolerance"], "size": self.provenance["size"]}
        return trade_off_curve(self.table, self.summary(), **(given | arguments))


def largest_set(
    study: Study,
    how: How = "reinitialise",
    by: Grouping = "block",
    *,
    split: str,
    tolerance: float = 0.05,
    size: Literal["count", "parameters"] = "count",
    beam: int | Literal["auto"] | None = "auto",
    look_ahead: int = 1,
    beyond: int | None = 2,
    candidates: Iterable[str] | None = None,
    checkpoint: int = 0,
    draws: int = 3,
    statistics: Statistics | Literal["reestimate"] = "keep",
    statistics_batches: int = 10,
    seed: int = 0,
    level: Level = "auto",
    precision: Precision = "auto",
    memory: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    command: str | None = None,
) -> LayerSets:
    r"""The largest set of layers whose joint reset, or removal, costs at most a tolerance of accuracy, as far as searched.

    .. math:: \max_G \; |G| \quad\text{such that}\quad L(f_{\theta \setminus G}) - L(f_\theta) \le t

    where :math:`L` is the 0-1 error on one split, :math:`\theta \setminus G` the final weights with the layers of :math:`G`
    reset or dropped together, and :math:`|G|` their number or that of their parameters. Nothing is retrained. Of at most 8
    candidates every set is tried, unless a beam is given. Else the search is greedy: from each of the ``beam`` best sets of
    k layers to all sets with one layer more, of which the best are kept, until ``beyond`` sizes in a row have no set within the
    tolerance. Better is: within the tolerance; then fewer errors; then more parameters; then earlier layers. By parameters,
    instead of fewer errors: fewer errors above those of the final network (plus one) per parameter. With ``look_ahead`` L a
    set is as good as the best set that L - 1 further layers make of it. By count and without look-ahead, errors are counted from
    the examples of the largest loss on, and a set is given up once it cannot be among the best.

    Args:
        study: the network, its weights, its data.
        how: ``"reinitialise"`` (to ``checkpoint``), ``"rerandomise"`` (``draws`` fresh draws; the error is their mean), or ``"remove"``
            (residual blocks with identity shortcuts).
        by: the layers, as for :func:`shaketable.robustness`.
        split: ``"train"`` or ``"test"``. The set is fitted to these examples: its error on others is a matter of measuring it there.
        tolerance: :math:`t`, in [0, 1).
        size: ``"count"`` or ``"parameters"``.
        beam: sets of each size that are kept; 1 is greedy. None: all, for at most 16 candidates. ``"auto"``: every set of at most 8
            candidates is tried (``beam=None``, ``beyond=None``), and 3 sets of each size are kept where there are more.
        look_ahead: layers that a step looks ahead, at least 1.
        beyond: sizes without a set within the tolerance after which the search ends; None: it goes to the set of all.
        candidates: names of the layers that may go; without it all for which the change is known. For the paper's sets
            see :func:`shaketable.probes.schemes.scheme_group`.
        checkpoint: that layers are re-initialised to.
        draws: of re-randomisation; those of :func:`shaketable.robustness` with the same seed.
        statistics, statistics_batches, seed, memory, batch_size, store, command: as for :func:`shaketable.robustness`; ``"reestimate"``
            for each set tried.
        level, precision: of the :class:`shaketable.engine.Engine`.

    Returns: a :class:`LayerSets`. Its ``largest`` is within the tolerance for certain, on this split; that no larger set is
        holds for certain where ``complete``: with ``beam=None``, ``beyond=None``.

    Raises:
        InputError: no data for the split, no candidate, an unknown or unfit one, numbers out of range.

    Cost: 2^D sets of D candidates where every set is tried (4096 of 12). Else at most D (D + 1) / 2 sets for ``beam=1``, times
        ``beam``, times about D^(L - 1) / L! for a look-ahead of L. For each set the part of a pass behind the layer that it has
        more than its base, and for each base one pass; sets that are given up take a part of the examples.

    Deviates: the paper names such a search ("one can enumerate all possible grouping schemes to find the best") and does
        not do it. No answer rests on a sample: the sets kept are those that counts on all examples would keep.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)).eval()
        >>> eye = torch.eye(2)
        >>> study = Study(network, final={"0.weight": eye, "1.weight": eye}, init={"0.weight": 2 * eye, "1.weight": -eye},
        ...               test=(eye, [0, 1]))
        >>> largest_set(study, split="test").largest
        ['0']

    References: Zhang, Bengio, Singer, "Are All Layers Created Equal?", JMLR 2022, section 4, appendix B.
    """
    started = time.monotonic()
    check_whole(seed=seed)
    given = {"beam": None if beam == "auto" else beam, "beyond": beyond}
    check_whole(1, draws=draws, look_ahead=look_ahead, **{name: one for name, one in given.items() if one is not None})
    check_whole(0, checkpoint=checkpoint)
    check_statistics(study, statistics, statistics_batches)
    if how not in HOWS:
        raise InputError(f"how={how!r}: use one of {', '.join(HOWS)}.")
    if size not in ("count", "parameters"):
        raise InputError(f"size={size!r}: use 'count' or 'parameters'.")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise InputError(f"tolerance={tolerance!r}: give a drop in accuracy, from 0 to below 1.")
    data = study.data(split)
    found = layers(study.network, by, study.example_inputs())
    numbers = range(draws) if how == "rerandomise" else [checkpoint if how == "reinitialise" else 0]
    with_layer: Statistics = "rewind" if statistics == "rewind" else "keep"
    made = [changes(study, found, how, number, with_layer, seed) for number in numbers]
    chosen, left_out = _candidates(found, made[0], candidates, how)
    if beam == "auto":
        beam, beyond = (None, None) if len(chosen) <= COMPLETE else (BEAM, beyond)
    if beam is None and len(chosen) > EXHAUSTIVE:
        raise InputError(
            f"beam=None tries every set of {len(chosen)} layers; give at most {EXHAUSTIVE} candidates, or a beam."
        )
    sizes = [sum(study.final[name].numel() for name in layer.params) for layer in chosen]
    engine_arguments = {"level": level, "precision": precision, "memory": memory, "batch_size": batch_size}
    asked = {"how": how, "split": split, "tolerance": tolerance, "beam": beam, "look_ahead": look_ahead}
    asked |= {"beyond": beyond, "checkpoint": checkpoint, "draws": len(made), "statistics": statistics, "seed": seed}
    asked |= {"size": "layers" if size == "count" else "parameters", "candidates": [layer.name for layer in chosen]}
    reestimate = statistics_batches if statistics == "reestimate" else None
    if reestimate:
        asked |= {"statistics_batches": reestimate}

    def identity() -> dict[str, Any]:
        changed = [[fingerprint(one[layer.name].tensors or {}) for layer in chosen] for one in made]
        train = {"reestimate": study.data("train").fingerprint()} if reestimate else {}
        return identity_of(study, "layer sets", VERSION, {split: data}, changes=changed, **train, **asked)

    def measure(cells: Cells) -> LayerSets:
        tensors = [[one[layer.name].tensors or {} for layer in chosen] for one in made]
        sets = SetSearch(
            study, data, tensors, sizes, size == "parameters", tolerance, reestimate, cells, engine_arguments
        )
        kept = sets.search(beam, look_ahead, beyond)
        names = [layer.name for layer in chosen]
        rows = [dict.fromkeys(SCHEMA) | row | {"split": split} for row in sets.rows(names, kept)]
        told = {"largest": [names[i] for i in sorted(sets.largest())], "left_out": left_out, "engine": sets.choice}
        told |= {"complete": beam is None and beyond is None, "layers_by": by if isinstance(by, str) else "your own"}
        told |= {"command": command}
        facts = facts_of(study, {split: data}, **asked, **told)
        return LayerSets(pl.DataFrame(rows, schema=SCHEMA), facts | time_taken(started))

    return stored(LayerSets, store, identity, measure, command)


def _candidates(
    found: Sequence[Layer], made: dict[str, Change], names: Iterable[str] | None, how: str
) -> tuple[list[Layer], dict[str, str]]:
    """The layers that may go, and the reasons of those that may not."""
    left_out = {name: change.reason for name, change in made.items() if change.reason}
    if names is not None:
        known = [layer.name for layer in found]
        wanted = names_of(LAYERS, candidates=names)
        for name in wanted:
            if name not in known:
                near = get_close_matches(str(name), known, 3)
                raise InputError(
                    f"there is no layer {name!r}; {'near names' if near else 'there are'}: {', '.join(near or known)}."
                )
            if name in left_out:
                raise InputError(f"layer {name!r} is no candidate for how={how!r}: {left_out[name]}.")
            if wanted.count(name) > 1:
                raise InputError(f"candidates name layer {name!r} twice; name it once.")
        left_out = {}
        found = [layer for layer in found if layer.name in wanted]
    chosen = [layer for layer in found if layer.name not in left_out]
    if not chosen:
        reason = next(iter(left_out.values()), "the list is empty")
        raise InputError(f"no layer is a candidate for how={how!r}: {reason}.")
    return chosen, left_out
