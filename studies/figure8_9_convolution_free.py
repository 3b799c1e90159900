"""Figures 8 and 9 of Zhang, Bengio, Singer, "Are All Layers Created Equal?": ViT and MLP-Mixer, with and without SAM.

The paper re-randomises the modules of released ImageNet networks (ViT-B/16, ViT-L/16, Mixer-B/16, Mixer-L/16) and has no
checkpoint before training. Here small ones are trained on CIFAR-10 by Adam, once plainly and once by sharpness-aware
minimisation with rho = 0.05, the default of Foret et al., so that re-initialisation can be seen too. Learning rate and sizes
are ours; the paper names none of its own.

The small setting has four blocks of width 64 and a slice of the data.
"""

from collections.abc import Sequence

from shaketable.training import Recipe
from studies.common import Options, Setting, options, probe, write_robustness

RHO = 0.05


def pair(network: str, **fields: object) -> list[Recipe]:
    """A network trained plainly and by SAM."""
    defaults = {
        "data": "cifar10",
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "augmentation": ("pad-crop:4", "flip"),
    }
    plain = Recipe.from_dict({"network": network} | defaults | fields)
    return [plain, plain.replace(sam_rho=RHO)]


SLICE = {
    "data_args": {"train_examples": 2_000, "test_examples": 1_000},
    "batch_size": 64,
    "epochs": 12,
    "checkpoints": (0, 1, 5),
    "evaluate_every": 12,
    "precision": "bfloat16",
}
SETTINGS = {
    "small": Setting([*pair("vit-4x64", **SLICE), *pair("mixer-4x64", **SLICE)], draws=3),
    "full": Setting(
        [
            one
            for name in ("vit-6x256", "vit-12x384", "mixer-6x256", "mixer-12x384")
            for one in pair(name, network_args={"heads": 4} if name.startswith("vit") else {})
        ]
    ),
}


def name_of(one: Recipe) -> str:
    """A network and its optimiser, as the paper calls them."""
    return one.network + ("-sam" if one.sam_rho else "")


def study(setting: Setting, chosen: Options) -> None:
    """Train, probe module by module, write: files are named for the networks."""
    write_robustness(probe(setting, chosen, "module"), [name_of(one) for one in setting.recipes], chosen)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study from the command line."""
    chosen = options("figure8_9_convolution_free", __doc__.partition("\n")[0], arguments)
    study(SETTINGS[chosen.setting], chosen)


if __name__ == "__main__":
    main()
