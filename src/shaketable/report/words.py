"""Numbers to English: the sentences of the report."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from shaketable.probes import Robustness

HOW = {
    "reinitialise": "set back to its values before training",
    "rerandomise": "given fresh random values from the distribution of its initial weights",
}
DONE = {"reinitialise": "re-initialised", "rerandomise": "re-randomised"}
VERDICTS = ("critical", "between", "robust")
NAMES_SHOWN = 6


def listing(names: Sequence[str], most: int = NAMES_SHOWN) -> str:
    """Names as one reads them; a long list is cut.

    Example:
        >>> listing(["a"]), listing(["a", "b"]), listing(["a", "b", "c"])
        ('a', 'a and b', 'a, b and c')
        >>> listing(list("abcdefgh"), most=2)
        'a, b and 6 more'
    """
    parts = list(names) if len(names) <= most + 1 else [*names[:most], f"{len(names) - most} more"]
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def of_the_layers(names: Sequence[str], total: int, one: str, many: str) -> str:
    """A sentence about some of the layers, which it names: ``one`` and ``many`` are its verb and what follows.

    Example:
        >>> of_the_layers(["a"], 3, "is robust", "are robust")
        'One of the 3 layers is robust: a.'
        >>> of_the_layers([], 3, "is robust", "are robust")
        'No layer is robust.'
        >>> of_the_layers(["a", "b"], 2, "is robust", "are robust")
        'All 2 layers are robust: a and b.'
    """
    if not names:
        return f"No layer {one}."
    if total == 1:
        return f"The only layer, {names[0]}, {one}."
    if len(names) == 1:
        return f"One of the {total} layers {one}: {names[0]}."
    who = f"All {total} layers" if len(names) == total else f"{len(names)} of the {total} layers"
    return f"{who} {many}: {listing(names)}."


def points(share: float, digits: int = 4) -> str:
    """A share as percentage points.

    Example:
        >>> points(0.25), points(0.01), points(0.005)
        ('25 points', '1 point', '0.5 points')
    """
    number = f"{100 * share:.{digits}g}"
    return f"{number} point{'' if number == '1' else 's'}"


def percent(share: float) -> str:
    """A share in per cent, at most two decimals.

    Example:
        >>> percent(0.9), percent(0.0181), percent(2 / 3)
        ('90%', '1.81%', '66.67%')
    """
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def clean_row(robustness: Robustness, split: str) -> dict[str, Any]:
    """The row of the final network as it is; empty where the table has none."""
    rows = robustness.table.filter(
        pl.col("perturbation") == "none",
        pl.col("split") == split,
        pl.col("checkpoint").eq_missing(pl.lit(robustness.provenance.get("final_checkpoint"), pl.Int64)),
    )
    return rows.row(0, named=True) if len(rows) else {}


def paragraphs(robustness: Robustness, split: str) -> list[str]:
    """Which layers hold this network up, by the verdicts on one split; then what each verdict rests on."""
    verdicts = robustness.verdicts("train" if split == "train" else "test")
    measured = [how for how in HOW if verdicts[how].is_not_null().any()]
    if not measured:
        return [
            "Which layers hold this network up could not be measured; the reasons are below.",
            _reference(robustness, split),
        ]
    how, others = measured[0], measured[1:]
    critical, rest = _judged(verdicts, how)
    loss, little = points(robustness.critical), points(robustness.robust)
    first = [
        of_the_layers(critical, len(verdicts), "holds this network up", "hold this network up"),
        f"Such a layer is called critical: the network loses at least {loss} of {split} accuracy when that layer alone",
        f"is {DONE[how]}, that is, {HOW[how]}, and nothing is retrained. It is called robust if that costs at most {little}.",
        rest,
    ]
    if how == "rerandomise":
        tried = robustness.table.filter(pl.col("perturbation") == "reinitialise", pl.col("checkpoint") == 0)
        first.append(
            f"Re-initialisation {'could not be measured' if len(tried) else 'to checkpoint 0 was not asked for'}."
        )
    found = [" ".join(first)]
    for other in others:
        critical, rest = _judged(verdicts, other)
        subject = of_the_layers(critical, len(verdicts), "is critical", "are critical")
        found.append(
            f"When a layer is {DONE[other]} instead, that is, {HOW[other]}: {subject[0].lower()}{subject[1:]} {rest}"
        )
    return [*found, _reference(robustness, split)]


def _judged(verdicts: pl.DataFrame, how: str) -> tuple[list[str], str]:
    """The critical layers, and sentences about the others."""
    names = {verdict: verdicts.filter(pl.col(how) == verdict)["layer"].to_list() for verdict in VERDICTS}
    total, missing = len(verdicts), int(verdicts[how].is_null().sum())
    rest = [of_the_layers(names["robust"], total, "is robust", "are robust")]
    if names["between"]:
        rest.append(of_the_layers(names["between"], total, "lies in between", "lie in between"))
    if missing:
        who = "One layer has" if missing == 1 else f"{missing} layers have"
        rest.append(f"{who} no verdict, for reasons given below.")
    return names["critical"], " ".join(rest)


def _reference(robustness: Robustness, split: str) -> str:
    """How good the network is as it stands, and how bad guessing would be."""
    clean, classes = clean_row(robustness, split), robustness.provenance.get("classes")
    if not clean:
        return "How good the network is as it stands was not measured."
    said = f"As trained, the network gets {percent(clean['error'])} of the {clean['examples']:,} {split} examples wrong"
    if not classes or classes < 2:
        return f"{said}."
    chance = 1 - 1 / classes
    said += f"; guessing among {classes} classes would get {percent(chance)} wrong."
    if chance - clean["error"] < robustness.critical:
        said += (
            f" Mind that it is so close to guessing that a loss of {points(robustness.critical)} is hardly possible: "
            "that a layer is not critical then says little."
        )
    return said
