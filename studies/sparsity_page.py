"""The page of the sparsity study, made of what was measured: what is not in the folder is not on the page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shaketable.files import write_text
from studies.sparsity_zoo import CORRUPTION, SLICE, SMALL_DROPOUT, SMALL_RATES, WIDTHS

TITLE = "# The gap from sparsity: what the paper shows, and what we measured"
SAYS = {
    "2": "The paper: with more corrupted labels n_0 grows, n_0^r falls, the area shrinks, and classes move from the upper left to the "
    "lower right.",
    "3": "The paper: zeta grows with the gap and kappa falls, both nearly on a line; Pearson 0.979 on the networks of the fit; the margins "
    "reach 0.75.",
    "4": "The paper, on ImageNet: Pearson with the gap 0.998 (zeta) and 0.967 (kappa, in size), SSR of the fit on all five 0.004.",
    "5": "The paper: SSR of the fit on all networks 0.074.",
    "6": "The paper: SSR of the fit on all networks 0.122.",
}
NAMES = {
    "2": "Figures 1 and 2: VGG-16, corrupted labels alone",
    "3": "Figure 3: all VGG-16",
    "4": "Figure 4: models A to E",
    "5": "Figure 5: MobileNet",
    "6": "Figure 6: ResNet-34",
}


def write_page(folder: Path) -> Path:
    """Write the page beside the folder of results."""
    facts = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    parts = [TITLE, _opening(facts, folder)]
    if "tables" in facts:
        parts += [
            "## Estimates of the gap",
            _counts(facts["tables"]["counts"]),
            (folder / "estimates.md").read_text().strip(),
            _reading(),
            _verdicts(facts["tables"]),
        ]
    for part, name in NAMES.items():
        if facts.get(part):
            parts += [f"## {name}", *_figure(part, facts[part], folder)]
    path = folder.with_suffix(".md")
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _opening(facts: Mapping[str, Any], folder: Path) -> str:
    """Whose paper, how it was made, and in what the setting differs."""
    commands = "\n".join(
        dict.fromkeys(one["command"] for one in facts.values() if isinstance(one, dict) and "command" in one)
    )
    setting, images, epochs = facts["setting"], SLICE["data_args"], SLICE["epochs"]
    text = f"""Zhao, Zhang and Hu, "Estimating the generalization in deep neural networks via sparsity" (2021), by this code. This page is
written by `studies.sparsity_figures`; every number on it was measured. After `python -m studies.sparsity_zoo --setting {setting}` with
the same `--runs`:

```sh
{commands}
```

Made with shaketable {facts["shaketable"]}, PyTorch {facts["torch"]}."""
    if setting != "small":
        return text
    dropout = ", ".join(f"{one:g}" for one in SMALL_DROPOUT)
    rates = ", ".join(f"{name} {rate:g}" for name, rate in SMALL_RATES.items())
    widths = ", ".join(f"{name} {width:g}" for name, width in WIDTHS.items())
    return f"""{text}

**These networks are tiny.** Read this page as a check that the method works end to end, not as a repetition of the paper's numbers.

| | the paper | here |
| --- | --- | --- |
| data | CIFAR-100, 50,000 images; ImageNet (models A to E) | Fashion-MNIST, {images["train_examples"]} images; CIFAR-10 (models A to E) |
| test data | 10,000 images | {images["test_examples"]} images |
| channels | all | a share: {widths} |
| learning rate at momentum 0.9 | not said | {rates}; longer steps with less momentum |
| dropout | 0, 0.3, 0.5 | {dropout} |
| augmentation | cropping, flipping, rotation | flipping |
| stop | training accuracy almost 1.0 | training loss below {SLICE["stop_below"]} nats, {epochs} epochs (A to E: {2 * epochs}) at most |
| units | last convolution of VGG-16 | last convolution of each network |"""


def _counts(counts: Mapping[str, Mapping[str, Any]]) -> str:
    """How many networks there are, and how far their gaps reach."""
    lines = []
    for network, one in counts.items():
        reach = "" if one["lowest"] is None else f", with gaps from {one['lowest']:.3f} to {one['highest']:.3f}"
        guess = one["error_of_the_mean"]
        reach += "" if guess is None else f"; the mean gap of the others misses that of a network by {guess:.3f}"
        lines.append(
            f"- {network}: {one['trained']} trained, {one['learnt']} of them with a training error of at most 5%{reach}."
        )
    return (
        "Networks that did not learn their training data are left out, as the paper has none of them.\n\n"
        + "\n".join(lines)
    )


def _reading() -> str:
    """What the columns of the table are."""
    return (
        "Pearson: between estimated and true gap of the nine tenths of the networks that a fit saw, mean over the splits. SSR: the sum of "
        "squared residuals of the tenth that it did not see; it grows with the number of networks in that tenth, so that the paper's "
        "(8 networks) and ours compare by the error, the root of the mean square. Intervals: jackknife+, for boosting CV+, of the held-out "
        "networks of all splits, and of each network once, left out of a fit on all others (of n, the standard error of a share of 90% is "
        "0.3 / sqrt(n)). Margins: five statistics at four layers. Seven measures: zeta, kappa, training loss, normalised margin, "
        "product of spectral norms, path norm, squared distance to init."
    )


def _verdicts(facts: Mapping[str, Any]) -> str:
    """Which estimator is best on networks that it did not see, whether that beats the mean gap, and where margins beat ours."""
    lines = []
    for network, counts in facts["counts"].items():
        rows = {one["estimator"]: one for one in facts["estimators"] if one["architecture"] == network}
        tried = {name: one for name, one in rows.items() if one["error"] is not None}
        if not tried:
            continue
        best = min(tried, key=lambda name: tried[name]["error"])
        guess = counts["error_of_the_mean"]
        beats = "below" if tried[best]["error"] < guess else "**not below**"
        said = f"- {network}: the lowest error on held-out networks is that of {best} ({tried[best]['error']:.3f}), {beats} that of "
        said += f"the mean gap ({guess:.3f})."
        ours = tried.get("zeta, kappa")
        for name in ("margins", "margins, ridge"):
            if ours and name in tried:
                other = tried[name]
                fit = "higher" if other["pearson"] > ours["pearson"] else "lower"
                held = "lower" if other["error"] < ours["error"] else "higher"
                said += f" {name.capitalize()} have a {fit} Pearson on the fit than zeta and kappa, "
                said += f"and a {held} error on held-out networks."
        lines.append(said)
    return "\n".join(lines)


def _direction(zeta: float, kappa: float) -> str:
    """Whether both quantities go with the gap as the paper says, zeta up and kappa down."""
    agree = [name for name, right in (("zeta", zeta > 0), ("kappa", kappa < 0)) if right]
    if len(agree) == 2:
        return "Both go the paper's way."
    if agree:
        return f"**Only {agree[0]} goes the paper's way.**"
    return "**Both go against the paper.**"


def _figure(part: str, facts: Mapping[str, Any], folder: Path) -> list[str]:
    """The text and the pictures of one figure."""
    said = [SAYS[part]]
    if "networks" in facts:
        pairs = [f"{name} {facts[name]:.3f}" for name in ("zeta", "kappa") if facts.get(name) is not None]
        ssr = f"; SSR of the fit on all of them {facts['ssr']:.4f}" if "ssr" in facts else ""
        said.append(
            f"Here, {facts['networks']} networks: Pearson with the gap {', '.join(pairs) or 'is not defined'}{ssr}."
            + (f" {_direction(facts['zeta'], facts['kappa'])}" if len(pairs) == 2 else "")
        )
    if facts.get("reason"):
        said.append(f"No fit: {facts['reason']}")
    if facts.get("train_errors"):
        errors = ", ".join(f"{name} {error:.1%}" for name, error in facts["train_errors"].items())
        said.append(
            f"Training errors: {errors}. A network far from 0% has not learnt its data, and its gap says little."
        )
    if facts.get("means"):
        rows = [f"| {one['corruption']} | {one['zeta']:.3f} | {one['kappa']:.3f} |" for one in facts["means"]]
        said.append("\n".join(["| corrupted labels | zeta | kappa |", "| --- | --- | --- |", *rows]))
        first, last = facts["means"][0], facts["means"][-1]
        moved = _direction(last["zeta"] - first["zeta"], last["kappa"] - first["kappa"])
        said.append(f"From {first['corruption']} to {last['corruption']}: {moved}")
    order = {str(one): place for place, one in enumerate(CORRUPTION)}
    files = sorted(
        folder.glob(f"figure{part}*.png"),
        key=lambda file: (file.stem.split("-")[0], order.get(file.stem.split("-")[-1], 0), file.stem),
    )
    pictures = [f"![{file.stem}]({folder.name}/{file.name})" for file in files]
    return [*said, "\n".join(pictures)] if pictures else said
