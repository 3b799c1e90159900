"""What the report says about layers reset together, searches for sets of them, sensitivity and attacks."""

from collections.abc import Iterable

import polars as pl

from shaketable import plots
from shaketable.defense import Attacks
from shaketable.probes import JointRobustness, LayerSets, Sensitivity
from shaketable.report.parts import Part, missing_rows, network_facts
from shaketable.report.together_words import (
    TOGETHER,
    attack_paragraphs,
    clean_error,
    group_rows,
    joint_paragraphs,
    recommendations,
    search_paragraphs,
    searched,
    sensitivity_paragraphs,
)
from shaketable.report.words import percent, points

DRAWN = 6
"""Groups of which heat maps are drawn."""
STEPS = 400
"""Steps of a search that its table shows."""


def joint_part(result: JointRobustness, size: int) -> Part:
    """A heat map for each group, its layers marked, and the numbers of all groups."""
    splits, groups = _splits(result.splits()), result.groups
    own = result.with_rest()
    columns = result.table["checkpoint"].n_unique() + 2
    room = min(DRAWN, size // (columns * len(result.provenance["layers"])))
    notes = []
    if len(own) > room:
        notes.append(f"Layers together: figures show {room} of {len(own)} groups; the table has them all.")
    classes = result.provenance.get("classes")
    drawn = {f"joint-{number}": name for number, name in enumerate(list(own)[:room])}
    figures = {
        key: result.plot(split=splits[0], group=own[name], classes=classes).to_dict() for key, name in drawn.items()
    }
    missing = result.table.with_columns(
        layer="group",
        what=pl.col("perturbation").replace(TOGETHER),
        where=pl.format("checkpoint {}", "checkpoint").fill_null("–"),
    )
    return {
        "template": "joint.html",
        "paragraphs": joint_paragraphs(result, splits[0]),
        "facts": [
            *network_facts(result),
            ("Groups", f"{len(groups):,}"),
            _clean(clean_error(result, splits[0]), splits[0]),
        ],
        "notes": notes,
        "figures": figures,
        "missing": missing_rows(missing, size),
        "drawn": drawn,
        "splits": splits,
        "rows": group_rows(result)[:size],
    }


def layer_sets_part(result: LayerSets, size: int) -> Part:
    """The trade-off curve, the sets on it, and the steps of the search."""
    curve, table, how = result.summary(), result.table.drop_nulls("error"), result.provenance["how"]
    room, notes, counted = max(1, size // 3), [], len(table)
    if counted > room:
        best = pl.col("set").is_in(curve["set"].implode())
        others = table.filter(~best)
        some = others.gather_every(max(1, -(-len(others) // room)))
        table = pl.concat([table.filter(best), some]).sort("step", maintain_order=True)
        notes.append(
            f"The search: the figure shows {len(table):,} of {counted:,} sets that were counted on all examples; the result's own "
            "table has them all."
        )
    facts = result.provenance
    given = {"tolerance": facts["tolerance"], "size": facts["size"]}
    left = [
        {"layer": layer, "what": TOGETHER[how], "where": [], "split": [facts["split"]], "status": "no candidate"}
        | {"reason": reason}
        for layer, reason in facts["left_out"].items()
    ]
    return {
        "template": "layer_sets.html",
        "paragraphs": search_paragraphs(result),
        "facts": [
            *network_facts(result),
            ("Candidates", f"{len(facts['candidates']):,} layers"),
            ("Tolerance", f"{points(facts['tolerance'])} of {facts['split']} accuracy"),
            _clean(result.table.filter(pl.col("step") == 0)["error"][0], facts["split"]),
        ],
        "notes": notes,
        "figures": {f"trade-off-{how}": plots.trade_off_curve(table, curve, **given).to_dict()},
        "missing": left[:size],
        "how": how,
        "done": searched(result),
        "split": facts["split"],
        "curve": curve.to_dicts()[:size],
        "steps": result.table.head(min(size, STEPS)).to_dicts(),
        "tried": len(result.table),
    }


def recommendation_part(searches: Iterable[LayerSets], joint: JointRobustness | None) -> Part:
    """What may be frozen or dropped, with the error at each step."""
    found = recommendations(searches, joint)
    return {
        "template": "recommendation.html",
        "paragraphs": [],
        "facts": [],
        "notes": [],
        "figures": {},
        "missing": [],
        "found": found,
    }


def sensitivity_part(result: Sensitivity, size: int) -> Part:
    """Heat maps of the error under noise and pruning."""
    splits, summary, notes = _splits(result.splits()), result.summary(), []
    names = summary.filter(pl.col("position") >= 0)["layer"].unique(maintain_order=True).to_list()
    columns = summary.select("perturbation", "magnitude").n_unique()
    room = max(1, size // columns)
    if len(names) > room:
        notes.append(f"Sensitivity: the figures show the first {room:,} of {len(names):,} layers.")
    shown = summary.filter(pl.col("layer").is_in(names[:room]))
    classes = result.provenance.get("classes")
    figures = {f"sensitivity-{one}": plots.sensitivity_heatmap(shown, one, classes=classes).to_dict() for one in splits}
    where = result.table.with_columns(
        what=pl.col("perturbation").replace("prune", "pruned"), where=pl.col("magnitude").cast(pl.String).fill_null("–")
    )
    return {
        "template": "sensitivity.html",
        "paragraphs": sensitivity_paragraphs(result, splits[0]),
        "facts": [*network_facts(result), ("Layers", f"{len(names):,}")],
        "notes": notes,
        "figures": figures,
        "missing": missing_rows(where, size),
        "splits": splits,
    }


def attack_part(result: Attacks, size: int) -> Part:
    """The table of accuracies under attack."""
    rows = result.summary().to_dicts()
    budget = (
        f"{result.provenance['eps']:.4g}, {result.provenance['steps']} steps of {result.provenance['step_size']:.4g}"
    )
    return {
        "template": "attack.html",
        "paragraphs": attack_paragraphs(result),
        "facts": [*network_facts(result), ("Budget of attacks", f"{budget} (pixels from 0 to 1)")],
        "notes": [],
        "figures": {},
        "missing": [],
        "rows": rows[:size],
    }


def _splits(splits: list[str]) -> list[str]:
    """The splits measured, test data first."""
    return [split for split in ("test", "train") if split in splits]


def _clean(error: float, split: str) -> tuple[str, str]:
    """The error of the final network."""
    return (f"Clean {split} error", percent(error))
