"""The command about randomised classifiers and attacks on them: attack."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from shaketable.cli.report import written
from shaketable.cli.source import Source, command_typed, normalisation_of, opened
from shaketable.cli.terminal import Json, app, finish, percent, table, wrapped

if TYPE_CHECKING:
    from shaketable.defense import Attacks

Whole = Annotated[list[int] | None, Parameter(negative=())]


@app.command(
    name="attack",
    help_epilogue="""Examples:
  shaketable attack runs/RUN --s 1 --s 2 --eps 0.1 --steps 10 --step-size 0.025
  shaketable attack runs/RUN --gradient-draws 1 --gradient-draws 10
  shaketable attack runs/RUN --s 0 --attack pgd --steps 50""",
)
def attack_(
    run: Path | None = None,
    *,
    eps: float = 8 / 255,
    steps: int = 20,
    step_size: float = 2 / 255,
    attack: Annotated[list[Literal["fgsm", "pgd"]] | None, Parameter(negative=())] = None,
    r: int = 4,
    s: Whole = None,
    gradient_draws: Whole = None,
    random_start: bool = True,
    examples: int = 1000,
    repeats: int = 5,
    seed: int = 0,
    batch_size: int = 250,
    source: Source | None = None,
    json: Json = False,
) -> None:
    """Attack a residual network and its randomised versions; writes a table and the report. It is no defense.

    At each inference the randomised network has, in s of its stages, one block with fresh weights. What is measured is how
    far that hides the gradient from an attacker, and not how safe a network is: see docs/defense.md. Either RUN, or
    --network with --final and --data. Interrupted, the same command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    eps
        How far an attack may move each pixel, of a range from 0 to 1; the paper gives none: 8/255.
    steps
        Of PGD.
    step_size
        Of PGD.
    attack
        fgsm or pgd; may be repeated; default both.
    r
        Fresh weight sets of each residual block.
    s
        Stages that are randomised at each inference; may be repeated; 0: only the network itself, which is always attacked.
        Default 1.
    gradient_draws
        Random answers whose gradients an attack averages (above 1: expectation over transformation); may be repeated;
        default 1 and 10.
    random_start
        Whether PGD starts at a random point.
    examples
        So many test examples are attacked.
    repeats
        Of everything that is drawn.
    seed
        Of everything that is drawn.
    batch_size
        Examples at once.
    """
    from shaketable.defense import attacked
    from shaketable.defense.attacks import ATTACKS

    study, folder = opened(run, source)
    result = attacked(
        study,
        normalisation_of(run, source),
        r=r,
        s=s or (1,),
        attacks=attack or ATTACKS,
        eps=eps,
        steps=steps,
        step_size=step_size,
        random_start=random_start,
        gradient_draws=gradient_draws or (1, 10),
        examples=examples,
        repeats=repeats,
        seed=seed,
        batch_size=batch_size,
        store=folder / "attack",
        command=command_typed(),
    )
    report = written(folder, result)
    finish(
        {"report": str(report), "defense": False, "models": result.summary().to_dicts()}, _told(result, report), json
    )


def _told(result: "Attacks", report: Path) -> list[object]:
    """What a person reads: accuracies with their spread, and that this is no defense."""
    from shaketable.report.together_words import attack_paragraphs

    facts = result.provenance
    rows = [
        (
            row["model"],
            "none" if row["attack"] == "clean" else row["attack"].upper(),
            "–" if row["gradient_draws"] is None else str(row["gradient_draws"]),
            percent(row["accuracy"]) + ("" if row["accuracy_std"] is None else f" ± {100 * row['accuracy_std']:.1f}"),
            f"{row['examples']:,}",
            row["status"] if row["reason"] is None else f"{row['status']}: {row['reason']}",
        )
        for row in result.summary().to_dicts()
    ]
    budget = f"eps {facts['eps']:.4g}; PGD: {facts['steps']} steps of {facts['step_size']:.4g}; pixels from 0 to 1"
    columns = ("model", "attack", "gradients averaged", "accuracy", "examples", "status")
    return [f"\n  {budget}", table(columns, rows), wrapped(attack_paragraphs(result)), "", f"report: {report}"]
