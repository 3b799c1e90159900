"""Numbers to English: what the report says about layers reset together, searches, sensitivity and attacks."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from shaketable.defense import Attacks
from shaketable.defense.attacked import BASELINE
from shaketable.evaluate import guessing
from shaketable.probes import JointRobustness, LayerSets, Sensitivity
from shaketable.report.words import DONE, listing, percent, points

TOGETHER = DONE | {"remove": "removed"}
FREE = {
    "reinitialise": "may stay at their initial weights",
    "rerandomise": "may have any fresh draw of initial weights",
    "remove": "may be dropped",
}
DROP = 0.05
"""The loss of accuracy at which it is told what a layer bears."""
NO_DEFENSE = (
    "This is no defense. An accuracy under attack is an upper bound, by the attacks that were tried: it says how far "
    "randomness hides the gradient, and not how safe a network is."
)


def clean_error(result: JointRobustness, split: str) -> float:
    """The error of the final network as it is."""
    final = result.provenance.get("final_checkpoint")
    rows = result.table.filter(pl.col("position") < 0, pl.col("split") == split)
    return rows.filter(pl.col("checkpoint").eq_missing(pl.lit(final, pl.Int64)))["error"][0]


def done(how: str, checkpoint: int) -> str:
    """What is done to layers, in a word, and the checkpoint that they go back to where that is not the initial one."""
    return f"{TOGETHER[how]} to checkpoint {checkpoint}" if how == "reinitialise" and checkpoint else TOGETHER[how]


def searched(result: LayerSets) -> str:
    """What a search does to layers."""
    return done(result.provenance["how"], result.provenance["checkpoint"])


def group_rows(result: JointRobustness) -> list[dict[str, Any]]:
    """Each group in each way at the first checkpoint, fresh draws or removed: the mean error on each split."""
    reset = pl.col("perturbation") == "reinitialise"
    first: Any = result.table.filter(reset)["checkpoint"].min() or 0
    kept = result.summary().filter(~reset | (pl.col("checkpoint") == first), pl.col("position") >= 0)
    keys = ["group", "position", "layers", "parameters", "perturbation"]
    rows = []
    for _, found in kept.group_by(keys, maintain_order=True):
        splits = {row["split"]: row for row in found.to_dicts()}
        rows.append(
            found.select(keys).row(0, named=True) | {"splits": splits, "how": done(found["perturbation"][0], first)}
        )
    return sorted(rows, key=lambda row: row["position"])


def joint_paragraphs(result: JointRobustness, split: str) -> list[str]:
    """What each group costs when all of it is reset or dropped."""
    parts: dict[str, list[str]] = {}
    own = result.with_rest()
    for row in group_rows(result):
        found = row["splits"].get(split)
        if found and found["error"] is not None and row["group"] in own:
            parts.setdefault(row["group"], []).append(f"{percent(found['error'])} {row['how']}")
    said = [
        f"{group} ({len(result.groups[group])} of {len(result.provenance['layers'])} layers): {listing(errors)}"
        for group, errors in parts.items()
    ]
    if not said:
        return ["No group of layers could be reset or removed together; the reasons are below."]
    clean = percent(clean_error(result, split))
    first = (
        f"As trained, the network has a {split} error of {clean}. With all layers of a group changed together it is, "
    )
    return [
        f"{first}for {'; for '.join(said[:4])}.{' More groups are in the table.' if len(said) > 4 else ''}",
        "Nothing was retrained. Layers that are robust one by one need not be robust together.",
    ]


def search_paragraphs(result: LayerSets) -> list[str]:
    """The largest set, what it costs, and how far the search can be trusted."""
    facts, table = result.provenance, result.table
    split, how, candidates = facts["split"], searched(result), facts["candidates"]
    tolerance = f"within {points(facts['tolerance'])} of {split} accuracy"
    clean = table.filter(pl.col("step") == 0)["error"][0]
    if result.largest:
        found = row_of_largest(result)
        share = f"{len(result.largest)} of {len(candidates)} candidates, {found['parameters']:,} parameters"
        said = (
            f"The largest set of layers that can be {how} together {tolerance} has {share}: {listing(result.largest)}. "
            f"The {split} error goes from {percent(clean)} to {percent(found['error'])}."
        )
    else:
        said = f"No layer of {len(candidates)} candidates can be {how} {tolerance}."
    trust = (
        f"Every set of the candidates was tried ({len(table):,})."
        if result.complete
        else f"{len(table):,} sets were tried, and not all: a larger one may exist."
    )
    given_up = len(table.filter(pl.col("status") == "given up"))
    if given_up:
        trust += f" Given up early, as not among the best of their size: {given_up:,}."
    if result.largest:
        trust += f" The set was chosen on the {split} examples that its error is told on: look at the other split."
    return [said, trust]


def row_of_largest(result: LayerSets) -> dict[str, Any]:
    """The row of the set that was found."""
    return result.table.filter(pl.col("set") == " + ".join(result.largest)).row(0, named=True)


def recommendations(searches: Iterable[LayerSets], joint: JointRobustness | None) -> list[dict[str, Any]]:
    """For each search: what may be frozen or dropped, each step with its measured error, and the set on both splits."""
    found = []
    for search in searches:
        how, split, chance = search.provenance["how"], search.provenance["split"], _at_chance(search)
        steps = [] if chance else search.summary().filter(pl.col("within")).to_dicts()
        heading = {"remove": "What may be dropped"}.get(how, "What may be frozen")
        text = chance or _recommended(search, joint)
        found.append({"how": how, "heading": heading, "text": text, "split": split, "steps": steps})
    return found


def _at_chance(search: LayerSets) -> str | None:
    """Why nothing is recommended where the network as trained has nothing to lose."""
    clean, facts = search.table.row(by_predicate=pl.col("step") == 0, named=True), search.provenance
    said = guessing(clean["errors"] // clean["draws"], clean["examples"], facts["classes"], facts["split"])
    return (
        said and f"Nothing can be recommended: as trained, the network {said}. It has nothing to lose; train it first."
    )


def _recommended(search: LayerSets, joint: JointRobustness | None) -> str:
    """One recommendation with its numbers and its limits."""
    how, split, names = search.provenance["how"], search.provenance["split"], search.largest
    what, checkpoint = searched(search), search.provenance["checkpoint"] if how == "reinitialise" else 0
    if not names:
        return f"Nothing: no layer could be {what} within {points(search.provenance['tolerance'])}."
    errors = {split: row_of_largest(search)["error"]}
    errors |= {other: error for other, error in _measured(joint, search).items() if other != split}
    told = listing([f"{percent(error)} on {one} data" for one, error in errors.items()])
    one = len(names) == 1
    free = f"may stay as at checkpoint {checkpoint}" if checkpoint else FREE[how]
    said = f"{listing(names, 20)} {free.replace('their', 'its') if one else free}: with {'it' if one else 'them'} "
    said += f"{what}{'' if one else ' together'} the error is {told}, without any retraining."
    if how == "remove":
        return f"{said} Training anew without {'it' if one else 'them'} (shaketable train --remove) may give another error."
    return (
        f"{said} What training did to {'it' if one else 'them'}{f' after checkpoint {checkpoint}' if checkpoint else ''} is "
        f"not needed for this task, so that fine-tuning may leave {'it' if one else 'them'} frozen (shaketable train "
        "--freeze); fine-tuning itself was not measured."
    )


def _measured(joint: JointRobustness | None, search: LayerSets) -> Mapping[str, float]:
    """The error of the set of a search on each split, where joint robustness measured it as a group in the same way."""
    if joint is None or joint.provenance["statistics"] != search.provenance["statistics"]:
        return {}
    for row in group_rows(joint):
        if row["how"] == searched(search) and joint.groups[row["group"]] == search.largest:
            return {split: one["error"] for split, one in row["splits"].items() if one["error"] is not None}
    return {}


def sensitivity_paragraphs(result: Sensitivity, split: str, drop: float = DROP) -> list[str]:
    """Which layers bear least noise and least pruning."""
    said = []
    for perturbation, verb in (("noise", "noise of a relative size of"), ("prune", "the removal of a share of")):
        if not len(result.table.filter(pl.col("perturbation") == perturbation)):
            continue
        found = result.tolerated(perturbation, drop, split).drop_nulls("tolerated").sort("tolerated")
        if len(found):
            least = found.row(0, named=True)
            names = found.filter(pl.col("tolerated") == least["tolerated"])["layer"].to_list()
            most = (
                f"{verb} {least['tolerated']:g}" if least["tolerated"] else "not even the smallest one that was tried"
            )
            what = "Noise" if perturbation == "noise" else "Pruning"
            who = f"layer, {names[0]}, bears" if len(names) == 1 else f"layers, {listing(names)}, bear"
            said.append(f"{what}: the most sensitive {who} {most} at a loss of at most {points(drop)}.")
    said.append(
        "One layer is changed at a time, and nothing is retrained; noise has the scale of each tensor of its own."
    )
    return said


def attack_paragraphs(result: Attacks) -> list[str]:
    """Accuracy before and under attack, and that this is no defense."""
    rows = [row for row in result.summary().to_dicts() if row["accuracy"] is not None]
    clean = {row["model"]: row["accuracy"] for row in rows if row["attack"] == "clean"}
    said = []
    for model, accuracy in clean.items():
        under = [row for row in rows if row["model"] == model and row["attack"] != "clean"]
        worst = min(under, key=lambda row: row["accuracy"], default=None)
        name = "The network itself" if model == BASELINE else f"Randomised ({model}) it"
        least = f", and {percent(worst['accuracy'])} under the strongest attack" if worst else ""
        said.append(f"{name} gets {percent(accuracy)} of the examples right{least}.")
    return [NO_DEFENSE, " ".join(said)]
