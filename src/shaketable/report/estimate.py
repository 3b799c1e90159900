"""What the report says about an estimated gap."""

from shaketable import plots
from shaketable.estimators import Estimate
from shaketable.report.parts import Part, network_facts
from shaketable.report.words import percent

MODELS = {"linear": "least squares", "ridge": "ridge regression", "boosting": "gradient boosting"}
GUARANTEES = {
    "split": "at least {coverage} of networks that could as well have been drawn for the zoo lie within (split conformal)",
    "jackknife+": "of networks that could as well have been drawn for the zoo, about {coverage} lie within, and never less than "
    "{least} on average (jackknife+)",
    "cv+": "of networks that could as well have been drawn for the zoo, about {coverage} lie within (CV+)",
}


def estimate_part(result: Estimate, size: int) -> Part:
    """The estimated gap, its interval, and what it rests on."""
    facts = result.provenance
    return {
        "template": "estimate.html",
        "paragraphs": estimate_paragraphs(result),
        "facts": [
            *network_facts(result),
            *_numbers(result),
            ("Networks it rests on", f"{facts['networks']:,}"),
        ],
        "notes": [f"Estimate: {warning}" for warning in result.warnings],
        "figures": {},
        "missing": [],
        "rows": result.features.head(size).to_dicts(),
    }


def _numbers(result: Estimate) -> list[tuple[str, str]]:
    """The estimate and its interval; none of a network at chance."""
    target = result.provenance["target"]
    if result.provenance.get("at_chance"):
        return []
    return [
        (f"Estimated {plots.TARGETS.get(target, target)}", f"{result.value:.3f}"),
        (f"Interval, {percent(result.coverage)}", f"{result.low:.3f} to {result.high:.3f}"),
    ]


def estimate_paragraphs(result: Estimate) -> list[str]:
    """The estimate, what its interval means, and on what it rests."""
    facts = result.provenance
    names = result.features["measure"].to_list()
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    guarantee = GUARANTEES[facts["interval"]].format(
        coverage=percent(result.coverage), least=percent(max(0.0, 2 * result.coverage - 1))
    )
    target = facts["target"].replace("_", " ")
    rests = (
        f"It rests on {facts['networks']:,} trained networks of known {target} ({facts['estimator_lowest']:.3f} to "
        f"{facts['estimator_highest']:.3f}), by {MODELS[facts['model']]} on {listed}, measured on training data alone. On networks that "
        f"it had not seen its error was {facts['error']:.3f} (root mean square). Of the interval: {guarantee}."
    )
    if facts.get("at_chance"):
        return [result.statement()]
    said = [result.statement(), rests]
    for what, name in (("Architectures", "architectures"), ("Data", "data")):
        if facts["covers"].get(name):
            said.append(f"{what} of these networks: {', '.join(facts['covers'][name])}.")
    if result.warnings:
        said.append(
            f"Do not rely on it without more: {' '.join(result.warnings)} Outside of its zoo an interval promises nothing."
        )
    return said
