"""A study's network and its randomised versions under attack: one table, with what it rests on."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from torch import nn

from shaketable.data.data import Normalisation
from shaketable.defense.attacks import (
    ATTACK_SCHEMA,
    ATTACKS,
    Attack,
    attack_summary,
    attack_table,
    attacks_of,
    check_budget,
)
from shaketable.defense.classifier import (
    Normalised,
    RandomisedClassifier,
    check_whole,
    images_of,
    pixels,
    with_final_weights,
)
from shaketable.identity import fingerprint
from shaketable.params import state
from shaketable.probes.cells import Cells
from shaketable.probes.stored import Result, facts_of, identity_of, list_of, stored, time_taken
from shaketable.progress import progress
from shaketable.study import Study

VERSION = 1
BASELINE = "baseline"
"""The network itself."""


@dataclass(frozen=True, repr=False)
class Attacks(Result):
    """Accuracy with and without attacks on a network and on its randomised versions. It measures no safety.

    Attributes:
        table: one row per model, attack, gradient draws and repeat; see :func:`shaketable.defense.attack_table`. ``model`` is
            ``"baseline"``, or ``"r=4, s=1"`` and the like.
        provenance: what, with which arguments, versions, seeds and hashes.
    """

    NAME: ClassVar[str] = "attack"

    def __repr__(self) -> str:
        return f"<Attacks on {self.provenance.get('name', 'a network')}: {len(self.table)} rows>"

    def splits(self) -> list[str]:
        """The test data: nothing else is attacked."""
        return ["test"]

    def summary(self) -> pl.DataFrame:
        """Mean and standard deviation over repeats; see :func:`shaketable.defense.attack_summary`."""
        return attack_summary(self.table)


def attacked(
    study: Study,
    normalisation: Normalisation | None = None,
    *,
    r: int = 4,
    s: Iterable[int] = (1,),
    attacks: Sequence[Attack] = ATTACKS,
    eps: float = 8 / 255,
    steps: int = 20,
    step_size: float = 2 / 255,
    random_start: bool = True,
    gradient_draws: Iterable[int] = (1,),
    examples: int = 1000,
    repeats: int = 5,
    seed: int = 0,
    batch_size: int = 250,
    store: str | Path | None = None,
    command: str | None = None,
) -> Attacks:
    """Table 2: the accuracy of a network, and of the classifiers that randomise it, without and under attack.

    What is not done: see :func:`attack_table`; this is no defense (docs/defense.md).

    Args:
        study: the network, and the test data that are attacked.
        normalisation: what was applied to the data: it is taken back, and put inside of what is attacked. None: the data are
            pixels in [0, 1].
        r: weight sets a block, of each :class:`RandomisedClassifier`.
        s: stages that are randomised at each inference, for one classifier each; 0 is the network itself, which is always
            attacked. Only 0 attacks networks without residual blocks.
        attacks, eps, steps, step_size, random_start, examples, repeats, seed, batch_size: see :func:`attack_table`.
        gradient_draws: answers whose gradients an attack averages, for one attack each; above 1 it is expectation over
            transformation, and only randomised classifiers are attacked: others have nothing to average.
        store, command: as for :func:`shaketable.robustness`.

    Returns: an :class:`Attacks`.

    Raises:
        InputError: as in :func:`attack_table` and :class:`RandomisedClassifier`.
        RunError: a check of the library's attack failed.

    Cost: that of :func:`attack_table` for each classifier and each number of gradient draws.

    Example:
        >>> import torch
        >>> from shaketable.networks import build
        >>> study = Study(build("resn-1-1", (1, 4, 4), 2, width=0.1), test=(torch.zeros(2, 1, 4, 4), [0, 1]))
        >>> attacked(study, attacks=(), repeats=1).table["model"].to_list()
        ['baseline', 'r=4, s=1']

    References: C. Zhang, S. Bengio, Y. Singer, Are all layers created equal?, JMLR 2022, section 6, table 2.
    """
    started = time.monotonic()
    draws = list(dict.fromkeys(list_of(int, "a list of whole numbers from 1", gradient_draws=gradient_draws)))
    data, attacks = pixels(study.data("test"), normalisation), attacks_of(attacks)
    randomised = list_of(int, "a list of whole numbers from 0", s=s)
    check_whole(examples=examples, repeats=repeats, batch_size=batch_size, r=r)
    for number in draws or [0]:
        check_whole(gradient_draws=number)
    for attack in attacks:
        check_budget(attack, images_of(data), eps, steps, step_size, (0.0, 1.0))
    networks: dict[str, nn.Module] = {BASELINE: with_final_weights(study)}
    for stages in dict.fromkeys(randomised):
        if stages != 0:
            networks[f"r={r}, s={stages}"] = RandomisedClassifier(study, r=r, s=stages, seed=seed)
    arguments: dict[str, Any] = {
        "attacks": list(attacks),
        "eps": eps,
        "steps": steps,
        "step_size": step_size,
        "seed": seed,
    }
    arguments |= {"random_start": random_start, "examples": examples, "repeats": repeats}
    asked = arguments | {"models": list(networks), "gradient_draws": draws}
    shown = {"normalisation": normalisation and {"mean": normalisation.mean, "std": normalisation.std}}
    jobs = [(name, number) for name in networks for number in draws if number == draws[0] or name != BASELINE]

    def rows(name: str, number: int) -> list[dict[str, Any]]:
        network = networks[name] if normalisation is None else Normalised(networks[name], normalisation)
        own: dict[str, Any] = arguments | {"gradient_draws": 1 if name == BASELINE else number}
        found = attack_table({name: network}, data, batch_size=batch_size, **own)
        return found.filter((pl.col("attack") != "clean") | pl.lit(number == draws[0])).to_dicts()

    def measure(cells: Cells) -> Attacks:
        found = []
        with progress("attacks", len(jobs)) as advance:
            for name, number in jobs:
                found += cells.get(f"{name}; {number}", lambda name=name, number=number: {"rows": rows(name, number)})[
                    "rows"
                ]
                advance(1, name)
        facts = facts_of(study, {"test": study.data("test")}, **asked, **shown, command=command)
        return Attacks(pl.DataFrame(found, schema=ATTACK_SCHEMA), facts | time_taken(started))

    def identity() -> dict[str, Any]:
        weights = {name: fingerprint(state(network)) for name, network in networks.items()}
        return identity_of(study, "attack", VERSION, {"test": data}, **asked | {"models": weights})

    return stored(Attacks, store, identity, measure, command)
