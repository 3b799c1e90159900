"""Figure 1 of Zhang, Bengio, Singer, "Are All Layers Created Equal?": the layers of FCN 3x256 on MNIST.

The paper prints no learning rate. Ours is the recipe's default, 0.1; a second network is trained with a tenth of it,
because how far layers move, and so what a reset undoes, may depend on it.
The small setting is the full one: 100 epochs on all of MNIST take minutes on one core.
"""

from collections.abc import Sequence

from shaketable.training import Recipe
from studies.common import Options, Setting, options, probe, write_robustness

CHECKPOINTS = (0, 1, 2, 5, 10, 20, 50, 100)
FULL = Setting(
    [
        Recipe(network="fcn-3x256", data="mnist", learning_rate=rate, checkpoints=CHECKPOINTS, evaluate_every=5)
        for rate in (0.1, 0.01)
    ]
)
SETTINGS = {"small": FULL, "full": FULL}


def study(setting: Setting, chosen: Options) -> None:
    """Train, probe, write; the first network's files carry no name, the others' their learning rate."""
    names = [f"rate-{recipe.learning_rate:g}" for recipe in setting.recipes]
    write_robustness(probe(setting, chosen), ["", *names[1:]], chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("figure1_fcn", __doc__.partition("\n")[0], arguments)
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
