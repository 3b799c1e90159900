"""Plausible tables of criticality, paths, valleys and measures, without training anything."""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from shaketable.bounds import Bound, criticality_bound
from shaketable.defense import Attacks
from shaketable.defense.attacks import ATTACK_SCHEMA
from shaketable.measures.measure import SCHEMA as MEASURES
from shaketable.probes import JointRobustness, LayerSets, Sensitivity
from shaketable.probes.ablation import SCHEMA as ABLATION
from shaketable.probes.ablation import Ablation
from shaketable.probes.criticality import SCHEMA as CRITICALITY
from shaketable.probes.criticality import Criticality
from shaketable.probes.joint_robustness import SCHEMA as JOINT
from shaketable.probes.layer_sets import SCHEMA as SETS
from shaketable.probes.paths import SCHEMA as PATH
from shaketable.probes.paths import Paths
from shaketable.probes.prunability import TESTS, Prunability
from shaketable.probes.pruning_curve import SCHEMA as PRUNING
from shaketable.probes.sensitivity import SCHEMA as SENSITIVITY
from shaketable.probes.valleys import SCHEMA as VALLEY
from shaketable.probes.valleys import Valley

LAYERS = ("in", "mid", "out")
FACTS = {"name": "fcn on digits", "network": "FCN", "split": "train", "seed": 0, "weights": "b7e23ec29af22b0b"}


def criticality(
    layers: Sequence[str] = LAYERS,
    epsilons: Sequence[float] = (0.05, 0.1),
    infeasible: Sequence[str] = (),
    **facts: Any,
) -> Criticality:
    """The first layer has the largest criticality, the last one 0; those in ``infeasible`` have none."""
    rows = []
    for epsilon in epsilons:
        for position, layer in enumerate(layers):
            row = {"layer": layer, "position": position, "kind": "Linear", "parameters": 6, "epsilon": epsilon}
            row |= {"bound": epsilon, "distance": 2.0, "draws": 10, "examples": 1000, "status": "ok"}
            if layer in infeasible:
                rows.append(row | {"status": "infeasible", "reason": "its error exceeds the bound"})
                continue
            last = position == len(layers) - 1
            alpha, sigma = 0.0 if last else 0.5, epsilon * (1 + position)
            value = (alpha * 2.0 / sigma) ** 2
            row |= {
                "alpha": alpha,
                "sigma": sigma,
                "criticality": value,
                "criticality_stderr": 0.1 * value,
                "error": epsilon,
            }
            rows.append(row | {"pac_bayes": 4 / sigma**2, "pac_bayes_stderr": 0.4, "pac_bayes_sigma": sigma})
    table = pl.DataFrame([dict.fromkeys(CRITICALITY) | row for row in rows], schema=CRITICALITY)
    given = {"epsilon": list(epsilons), "threshold": "absolute", "layers_by": "module", "draws": 10, "clean": 0.0}
    return Criticality(table, FACTS | given | {"command": "shaketable criticality runs/RUN"} | facts)


def paths(layers: Sequence[str] = LAYERS, splits: Sequence[str] = ("test", "train"), **facts: Any) -> Paths:
    """Error and loss fall from init to final weights; the later the layer, the earlier."""
    rows = []
    for position, layer in [(-1, "all layers"), *enumerate(layers)]:
        for split in splits:
            for step in range(5):
                error = 0.9 * (1 - step / 4) ** (position + 2)
                row = {"layer": layer, "position": position, "kind": "Linear", "parameters": 6, "alpha": step / 4}
                rows.append(row | {"split": split, "examples": 100, "error": error, "loss": 3 * error, "status": "ok"})
    table = pl.DataFrame([dict.fromkeys(PATH) | row for row in rows], schema=PATH)
    return Paths(table, FACTS | {"command": "shaketable path runs/RUN"} | facts)


def valley(layers: Sequence[str] = ("in",), draws: int = 2, **facts: Any) -> Valley:
    """A valley along alpha whose floor rises towards the init, and whose walls rise with sigma."""
    rows = []
    for position, layer in enumerate(layers):
        for alpha in (0.0, 0.5, 1.0):
            for sigma in (0.0, 0.1, 1.0):
                for draw, sign in [(d, s) for d in range(draws) for s in (1, -1)] if sigma else [(None, None)]:
                    loss = 2 * (1 - alpha) ** 2 + 3 * sigma * (1 + 0.1 * (draw or 0)) + 0.05 * sigma * (sign or 0)
                    row = {"layer": layer, "position": position, "kind": "Linear", "parameters": 6, "distance": 2.0}
                    row |= {"alpha": alpha, "sigma": sigma, "draw": draw, "sign": sign, "norm": sigma * math.sqrt(6)}
                    numbers = {"error": min(0.9, loss / 5), "loss": loss, "examples": 100, "status": "ok"}
                    rows.append(row | numbers | {"split": "train"})
    table = pl.DataFrame([dict.fromkeys(VALLEY) | row for row in rows], schema=VALLEY)
    return Valley(table, FACTS | {"command": "shaketable path runs/RUN --valley in"} | facts)


def measures() -> pl.DataFrame:
    """One measure with a number, one beyond a float's range, one without a number."""
    known = {"status": "ok", "direction": "lower", "paper": "Chatterji, Neyshabur, Sedghi, 2020"}
    rows = [
        {"measure": "number_of_parameters", "symbol": "NoP", "value": 1234.0, "log10": 3.0913, "about": "How many."},
        {"measure": "product_of_norms", "symbol": "PFN", "log10": 312.5, "about": "A product."},
        {"measure": "network_criticality", "symbol": "NC", "value": 4e5, "stderr": 2e4, "draws": 10, "about": "A sum."},
        {
            "measure": "generalization_error",
            "symbol": "GE",
            "about": "A gap.",
            "status": "unavailable",
            "reason": "no test",
        },
    ]
    return pl.DataFrame([dict.fromkeys(MEASURES) | known | row for row in rows], schema=MEASURES)


def bound(error: float = 0.02) -> Bound:
    """A bound of two layers."""
    return criticality_bound(error, [1000, 100], [0.5, 1.0], [0.2, 0.1], [4.0, 1.0], 5000, form="inverse")


def prunability(noise: int = 0, methods: Sequence[str] = ("magnitude",), **facts: Any) -> Prunability:
    """Magnitude pruning that keeps 0.3 of the weights, random pruning 0.8 and 0.9, and curves at three sparsities."""
    tests, rows = [], []
    for method in methods:
        for draw, kept in enumerate((0.3,) if method == "magnitude" else (0.8, 0.9)):
            what = {"method": method, "draw": None if method == "magnitude" else draw}
            for tested, holds in ((kept, True), (kept - 0.1, False)):
                size = {"kept": tested, "removed": round(1000 * (1 - tested)), "parameters": 1000, "bound": 0.11}
                seen = {"holds": holds, "seen": 500 if holds else 100, "loss": 0.1 if holds else 0.12}
                tests.append(dict.fromkeys(TESTS) | what | size | seen | {"in_float32": seen["seen"]})
            for split in ("train", "test"):
                for sparsity in (0.0, 0.5, 1.0):
                    for number in (None, *range(noise)):
                        loss = 0.1 + sparsity + (number or 0) / 100 + (split == "test") / 10
                        told = {"perturbation": "pruning" if number is None else "noise", "noise_draw": number}
                        numbers = {"loss": loss, "error": sparsity / 2, "accuracy": 1 - sparsity / 2}
                        place = {"sparsity": sparsity, "size": 3 * sparsity, "split": split, "status": "ok"}
                        rows.append(dict.fromkeys(PRUNING) | what | told | place | numbers)
    known = FACTS | {"clean": 0.1, "bound": 0.11, "beta": 0.1, "tolerance": "relative", "search": "bisection"} | facts
    return Prunability(pl.DataFrame(rows, schema=PRUNING), known, pl.DataFrame(tests, schema=TESTS))


def ablation(classes: Sequence[int | None] = (0, 1), never: bool = False, **facts: Any) -> Ablation:
    """Four units, of which class 0 needs two and the others one; ``never``: the accuracy stays above chance."""
    rows = []
    for group in classes:
        lost = 2 if group == 0 else 1
        for order, falls in (("most first", lost), ("least first", 4)):
            for removed in range(5):
                accuracy = (0.9 if removed < falls else 0.5 if never else 0.0) if removed else 1.0
                numbers = {"removed": removed, "examples": 10, "right": round(10 * accuracy), "accuracy": accuracy}
                place = {"layer": "conv2", "position": 0, "activation": "relu2", "split": "train", "status": "ok"}
                rows.append(dict.fromkeys(ABLATION) | place | {"class": group, "order": order} | numbers)
    known = (
        FACTS | {"classes": 10, "rule": "paper", "ties": "last", "attribute": "activation", "split": "train"} | facts
    )
    return Ablation(pl.DataFrame(rows, schema=ABLATION), known)


def sensitivity(layers: Sequence[str] = ("in", "norm", "out"), unpruned: Sequence[str] = ()) -> Sensitivity:
    """The error grows with the magnitude, and falls with depth; layers in ``unpruned`` could not be pruned."""
    rows = []
    for split in ("test", "train"):
        known = {"split": split, "examples": 100, "parameters": 6, "kind": "Linear", "status": "ok"}
        clean = {"perturbation": "none", "errors": 1, "error": 0.01, "loss": 0.1, "accuracy_drop": 0.0}
        rows.append(known | clean | {"layer": "full model", "position": -1})
        for position, layer in enumerate(layers):
            for perturbation, magnitudes in (("noise", (0.1, 1.0)), ("prune", (0.5, 0.9))):
                for magnitude, draw in [
                    (m, d) for m in magnitudes for d in ((0, 1) if perturbation == "noise" else (None,))
                ]:
                    what = {"layer": layer, "position": position, "perturbation": perturbation, "magnitude": magnitude}
                    error = 0.01 + min(0.8, magnitude / (2 + 10 * position)) + 0.01 * (draw or 0)
                    numbers = {"error": error, "loss": 3 * error, "accuracy_drop": error - 0.01, "normalised_l2": 0.1}
                    if perturbation == "prune" and layer in unpruned:
                        numbers = {"status": "unavailable", "reason": "it has no matrix"}
                    rows.append(known | what | {"draw": draw} | numbers)
    table = pl.DataFrame([dict.fromkeys(SENSITIVITY) | row for row in rows], schema=SENSITIVITY)
    return Sensitivity(table, FACTS | {"classes": 10, "draws": 2, "command": "shaketable sensitivity runs/RUN"})


def joint(groups: dict[str, list[str]] | None = None, removable: bool = True, **facts: Any) -> JointRobustness:
    """Groups of five blocks: each layer more costs ten points; removal half of that."""
    blocks = [f"block{i}" for i in range(5)]
    groups = groups or {"every-other": ["block1", "block3"], "rest of every-other": ["block0", "block2", "block4"]}
    rows = []
    for split in ("test", "train"):
        known = {"split": split, "examples": 100, "status": "ok", "layers": 5, "parameters": 500}
        for checkpoint, error in ((0, 0.9), (3, 0.1)):
            numbers = {"errors": round(100 * error), "error": error, "loss": error, "accuracy_drop": error - 0.1}
            reference = {"group": "full model", "position": -1, "perturbation": "none", "checkpoint": checkpoint}
            rows.append(known | reference | numbers)
        for position, (group, members) in enumerate(groups.items()):
            own = known | {
                "group": group,
                "position": position,
                "layers": len(members),
                "parameters": 100 * len(members),
            }
            for how, checkpoint, draw, share in (
                ("reinitialise", 0, None, 0.1),
                ("reinitialise", 3, None, 0.0),
                ("rerandomise", None, 0, 0.2),
                ("rerandomise", None, 1, 0.24),
                ("remove", None, None, 0.05),
            ):
                error = 0.1 + share * len(members)
                numbers = {"errors": round(100 * error), "error": error, "loss": error, "accuracy_drop": error - 0.1}
                if how == "remove" and not removable:
                    numbers = {"status": "unavailable", "reason": "block1: shapes do not fit without it"}
                rows.append(own | {"perturbation": how, "checkpoint": checkpoint, "draw": draw} | numbers)
    table = pl.DataFrame([dict.fromkeys(JOINT) | row for row in rows], schema=JOINT)
    given = {"groups": groups, "layers": blocks, "classes": 10, "draws": 2, "final_checkpoint": 3, "statistics": "keep"}
    return JointRobustness(table, FACTS | given | {"command": "shaketable joint runs/RUN"} | facts)


def layer_sets(
    how: str = "reinitialise", largest: Sequence[str] = ("block1", "block3"), complete: bool = True, **facts: Any
) -> LayerSets:
    """A search over three candidates whose largest set within five points is ``largest``, on training data."""
    sets = [
        (),
        ("block1",),
        ("block3",),
        ("block4",),
        ("block1", "block3"),
        ("block1", "block4"),
        ("block1", "block3", "block4"),
    ]
    rows = []
    for one in sets:
        drop = 0.01 * len(one) if set(one) <= set(largest) else 0.3 * len(one)
        sizes = {"step": len(one), "layers": len(one), "size": len(one), "parameters": 100 * len(one), "split": "train"}
        counts = {"draws": 1, "examples": 100, "errors": round(100 * (0.1 + drop)), "error": 0.1 + drop}
        judged = {"accuracy_drop": drop, "within": drop <= 0.05, "kept": True, "status": "ok"}
        rows.append({"set": " + ".join(one), "added": one[-1] if one else None} | sizes | counts | judged)
    if not complete:  # the last one of a size lost early
        early = {"status": "given up", "error": None, "accuracy_drop": None, "within": None, "kept": False}
        rows.insert(-1, rows[-2] | early | {"set": "block3 + block4", "examples": 60})
    table = pl.DataFrame([dict.fromkeys(SETS) | row for row in rows], schema=SETS)
    given = {"how": how, "split": "train", "tolerance": 0.05, "size": "layers", "largest": list(largest), "draws": 1}
    given |= {"candidates": ["block1", "block3", "block4"], "left_out": {"block0": "its shortcut is no identity"}}
    given |= {
        "complete": complete,
        "beam": None if complete else 3,
        "checkpoint": 0,
        "classes": 10,
        "statistics": "keep",
    }
    return LayerSets(table, FACTS | given | {"command": "shaketable joint runs/RUN --search"} | facts)


def attacks(suspect: bool = False) -> Attacks:
    """Two models under FGSM and PGD, the randomised one with averaged gradients too."""
    rows = []
    for model, draws in (("baseline", (1,)), ("r=4, s=1", (1, 10))):
        for attack, number, share in [
            ("clean", None, 0.9),
            *((a, n, s) for n in draws for a, s in (("fgsm", 0.5), ("pgd", 0.3))),
        ]:
            for repeat in range(2):
                row = {"model": model, "attack": attack, "gradient_draws": number, "repeat": repeat, "examples": 100}
                correct = round(100 * (share + 0.1 * (model != "baseline") - 0.1 * ((number or 1) > 1))) + repeat
                row |= {"correct": correct, "accuracy": correct / 100, "clean_accuracy": 0.9, "status": "ok"}
                if attack != "clean":
                    row |= {"eps": 8 / 255} | ({"steps": 20, "step_size": 2 / 255} if attack == "pgd" else {})
                if suspect and attack == "pgd":
                    row |= {"status": "suspect", "reason": "PGD is too weak here"}
                rows.append(row)
    table = pl.DataFrame([dict.fromkeys(ATTACK_SCHEMA) | row for row in rows], schema=ATTACK_SCHEMA)
    return Attacks(
        table, FACTS | {"eps": 8 / 255, "steps": 20, "step_size": 2 / 255, "command": "shaketable attack runs/RUN"}
    )
