"""What a measure is: a function of a study to one number, with what the number rests on; found by its name."""

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal

import polars as pl
import torch

from shaketable.errors import InputError, RunError
from shaketable.probes.stored import names_of
from shaketable.study import Study

CHATTERJI = "Chatterji, Neyshabur, Sedghi, The intriguing role of module criticality in the generalization of deep networks, 2020"
JIANG = "Jiang, Neyshabur, Mobahi, Krishnan, Bengio, Fantastic generalization measures and where to find them, 2020"
JIANG_MARGINS = "Jiang, Krishnan, Mobahi, Bengio, Predicting the generalization gap in deep networks with margin distributions, 2019"
KUHN = "Kuhn, Lyle, Gomez, Rothfuss, Gal, Robustness to pruning predicts generalization in deep neural networks, 2021"
Direction = Literal["lower", "higher"]
"""Which end of a measure means a smaller generalization gap."""
SMALLEST, LARGEST = math.log(sys.float_info.min), math.log(sys.float_info.max)
NEEDS = {
    "init": "init=..., the weights before training",
    "trajectory": "checkpoints=..., the weights at the end of two or more epochs",
    "train": "train=(inputs, labels)",
    "test": "test=(inputs, labels)",
}
"""What a measure may need of a study, and how a study gets it."""
SCHEMA = {
    "measure": pl.String,
    "symbol": pl.String,
    "value": pl.Float64,
    "log10": pl.Float64,
    "stderr": pl.Float64,
    "draws": pl.Int64,
    "direction": pl.String,
    "about": pl.String,
    "status": pl.String,
    "reason": pl.String,
    "paper": pl.String,
}


@dataclass(frozen=True)
class Measurement:
    """One number about a network, with what it rests on.

    Attributes:
        value: the number; None where it could not be computed, or is beyond a float's range (then ``log_value`` has it).
        log_value: its natural logarithm, -inf for 0; None where the number is negative or could not be computed.
        stderr: standard error, of a number that was estimated by drawing; None otherwise.
        draws: how many draws it rests on.
        status: ``"ok"``; ``"unavailable"`` (something that it needs is not there), or another word, with a reason.
        reason: why there is no number, or what is to be known of it.
        layers: the terms that it is made of, one row a layer, where there are such.
        name: of the measure, put in by the decorator.
    """

    value: float | None
    log_value: float | None = None
    stderr: float | None = None
    draws: int | None = None
    status: str = "ok"
    reason: str | None = None
    layers: pl.DataFrame | None = field(default=None, repr=False)
    name: str = ""


class Unavailable(Exception):
    """Raised inside a measure where something that it needs is not there; becomes a row with this reason."""


@dataclass(frozen=True)
class Measure:
    """A measure: the function, and what there is to know before calling it.

    Attributes:
        name: how it is called everywhere: in Python, at the command line, as a column.
        symbol: the short form that its paper prints.
        about: one line: what number this is.
        direction: ``"lower"``: a lower value means a smaller gap.
        needs: what a study must have: ``"init"``, ``"trajectory"``, ``"train"``, ``"test"``.
        version: raised when the same arguments give another number.
        paper: where it was defined.
        extra: a package that it needs, which comes with ``shaketable[<package>]``; None for most.
    """

    name: str
    symbol: str
    about: str
    direction: Direction
    needs: tuple[str, ...]
    version: int
    paper: str
    function: Callable[..., Measurement]
    extra: str | None = None

    @property
    def installed(self) -> bool:
        """Whether the package that it needs is there, if it needs one."""
        return self.extra is None or find_spec(self.extra) is not None

    def __call__(self, study: Study, **arguments: Any) -> Measurement:
        """The measurement on a study; a row with the reason where something that it needs is not there."""
        accepted = inspect.signature(self.function).parameters
        for name in arguments:
            if name not in accepted:
                known = ", ".join(list(accepted)[1:]) or "none"
                raise InputError(f"measure {self.name!r} has no argument {name!r}; it has {known}.")
        if self.extra and not self.installed:
            reason = f"the package {self.extra} is not installed; pip install 'shaketable[{self.extra}]'"
            return Measurement(None, status="unavailable", reason=reason, name=self.name)
        has = {
            "init": study.init is not None,
            "trajectory": len(study.epochs) > 1,
            "train": study.train is not None,
            "test": study.test is not None,
        }
        missing = [need for need in self.needs if not has[need]]
        if missing:
            reason = f"the study has no {missing[0]}; make it with {NEEDS[missing[0]]}"
            return Measurement(None, status="unavailable", reason=reason, name=self.name)
        on_cuda = study.device.type == "cuda"
        try:  # some networks draw random numbers in every pass
            with torch.random.fork_rng([study.device] if on_cuda else []):
                return replace(self.function(study, **arguments), name=self.name)
        except Unavailable as error:
            return Measurement(None, status="unavailable", reason=str(error), name=self.name)


MEASURES: dict[str, Measure] = {}
"""Every measure by its name."""


def measure(
    *,
    symbol: str,
    direction: Direction,
    needs: tuple[str, ...] = (),
    version: int = 1,
    paper: str,
    extra: str | None = None,
) -> Callable[[Callable[..., Measurement]], Measure]:
    """Make a measure of a function; it is then found by its name in :data:`MEASURES`."""
    assert set(needs) <= set(NEEDS)

    def made(function: Callable[..., Measurement]) -> Measure:
        about = (inspect.getdoc(function) or "").partition("\n")[0]
        found = Measure(function.__name__, symbol, about, direction, needs, version, paper, function, extra)
        vars(found).update(__doc__=function.__doc__, __module__=function.__module__, __wrapped__=function)
        MEASURES[found.name] = found
        return found

    return made


def from_log(log_value: float, layers: pl.DataFrame | None = None, **more: Any) -> Measurement:
    """A measurement from the natural logarithm of its value; the value itself is None where it is no float."""
    is_float = log_value == -math.inf or SMALLEST <= log_value <= LARGEST
    return Measurement(math.exp(log_value) if is_float else None, log_value, layers=layers, **more)


def from_value(value: float, layers: pl.DataFrame | None = None, **more: Any) -> Measurement:
    """A measurement from its value, with the logarithm where there is one."""
    if not math.isfinite(value):
        reason = (
            f"the number came out as {value}: the weights are too large for float64, or some logits for their own type"
        )
        more["reason"] = reason
        return Measurement(None, status="failed", layers=layers, **more)
    log_value = math.log(value) if value > 0 else -math.inf if value == 0 else None
    return Measurement(value, log_value, layers=layers, **more)


def from_factors(factors: Iterable[float], layers: pl.DataFrame | None = None, **more: Any) -> Measurement:
    """A measurement from the factors, none negative, of which it is the product."""
    factors = list(factors)
    log_value = -math.inf if 0 in factors else math.fsum(map(math.log, factors))
    found = from_log(log_value, layers, **more)
    product = math.prod(factors)  # more exact than the exponential, where nothing on the way is no float
    return replace(found, value=product) if found.value and 0 < product < math.inf else found


def check_arguments(arguments: Any) -> None:
    """One error for arguments of measures that are not given by the names of measures."""
    if not isinstance(arguments or {}, Mapping) or not all(
        isinstance(one, Mapping) for one in (arguments or {}).values()
    ):
        raise InputError(
            f"arguments={arguments!r}: give them by measure, such as {{'path_norm': {{'batch_norm': 'keep'}}}}."
        )


def measurements(
    study: Study, names: str | Iterable[str] | None = None, arguments: Mapping[str, Mapping[str, Any]] | None = None
) -> pl.DataFrame:
    """A table of measures of one network, a row each.

    Args:
        study: the network with its data.
        names: which measures, one or several; all that there are, without it.
        arguments: by the name of a measure, what it is called with beside the study.

    Returns: columns ``measure``, ``symbol``, ``value``, ``log10`` (of the value), ``stderr``, ``draws``, ``direction``,
        ``about``, ``status``, ``reason``, ``paper``. What cannot be computed is a row with its reason.

    Raises:
        InputError: a name that is no measure, or an argument that it does not have.

    Cost: the sum of those of the measures.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2, bias=False).eval()
        >>> study = Study(network, final={"weight": 3 * torch.eye(2)})
        >>> measurements(study, ["product_of_spectral_norms"]).select("value", "status").row(0)
        (3.0, 'ok')
    """
    chosen = list(MEASURES) if names is None else names_of("the name of a measure, or a list of them", names=names)
    check_arguments(arguments)
    for name in (*chosen, *(arguments or {})):
        if name not in MEASURES:
            raise InputError(f"there is no measure {name!r}; there are {', '.join(MEASURES)}.")
    rows = []
    for name in chosen:
        kind = MEASURES[name]
        try:
            found = kind(study, **(arguments or {}).get(name, {}))
        except RunError as error:
            found = Measurement(None, status="failed", reason=str(error), name=name)
        rows.append(
            {
                "measure": name,
                "symbol": kind.symbol,
                "value": found.value,
                "log10": None if found.log_value is None else found.log_value / math.log(10),
                "stderr": found.stderr,
                "draws": found.draws,
                "direction": kind.direction,
                "about": kind.about,
                "status": found.status,
                "reason": found.reason,
                "paper": kind.paper,
            }
        )
    return pl.DataFrame(rows, schema=SCHEMA)
