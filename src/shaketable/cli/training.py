"""The command train."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from shaketable.cli.terminal import Device, Json, Pairs, Root, app, finish, pairs, percent

if TYPE_CHECKING:
    from shaketable.training import Recipe


@app.command(
    name="train",
    help_epilogue="""Examples:
  shaketable train --network fcn-3x256 --data mnist --data-root ~/data
  shaketable train --recipe module-criticality --network resnet18 --device cuda
  shaketable train --recipe runs/RUN/recipe.json --seed 1
  shaketable train --network resnet50 --data cifar10 --data-root ~/data --freeze all-but-first
  shaketable train --network resnet50 --data cifar10 --data-root ~/data --remove stage1.resblk2
  shaketable train --network resnet18-bn --network-arg width=0.25 \\
      --data cifar10 --data-arg train_examples=10000 --epochs 30 \\
      --augment pad-crop:4 --augment flip --checkpoint 1 --checkpoint 10""",
)
def train_(
    *,
    recipe: str | None = None,
    network: str | None = None,
    network_arg: Pairs = None,
    data: str | None = None,
    data_arg: Pairs = None,
    optimiser: Literal["sgd", "adam"] | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    sam_rho: float | None = None,
    schedule: Literal["stages", "cosine", "constant"] | None = None,
    milestone: Annotated[list[int] | None, Parameter(negative=())] = None,
    factor: float | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    stop_below: float | None = None,
    label_corruption: float | None = None,
    augment: Annotated[list[str] | None, Parameter(negative=())] = None,
    freeze: Annotated[list[str] | None, Parameter(negative=())] = None,
    remove: Annotated[list[str] | None, Parameter(negative=())] = None,
    checkpoint: Annotated[list[int] | None, Parameter(negative=())] = None,
    evaluate_every: int | None = None,
    precision: Literal["float32", "bfloat16", "float16"] | None = None,
    seed: int | None = None,
    out: Path = Path("runs"),
    data_root: Root = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Train a network and keep its trajectory; the same command goes on where it was stopped.

    The run's folder is named for network, data, and a hash of all settings. Defaults are those of Zhang et al. (2022),
    appendix A: SGD with momentum 0.9, 100 epochs, learning rate times 0.2 at epochs 30, 60 and 90, batches of 128.

    Parameters
    ----------
    recipe
        A .toml or .json file, or the name of a paper's recipe; the other options change it.
    network
        Such as fcn-3x256, vgg16-bn, resnet18-v2; `shaketable networks` lists them.
    network_arg
        An argument of the network as NAME=VALUE, such as width=0.25; may be repeated.
    data
        Such as digits, mnist, cifar10; `shaketable data` lists them.
    data_arg
        An argument of the data as NAME=VALUE, such as train_examples=10000; may be repeated.
    optimiser
        SGD with momentum, or Adam.
    learning_rate
        Of the first epoch.
    momentum
        Of SGD; beta1 of Adam.
    weight_decay
        Added to the gradient, per unit of weight.
    sam_rho
        Sharpness-aware minimisation: take each gradient from the point at this distance uphill.
    schedule
        Of the learning rate.
    milestone
        An epoch at the end of which the learning rate is multiplied by the factor; may be repeated.
    factor
        See milestone.
    batch_size
        Examples per step.
    epochs
        Passes over the training data, at most.
    stop_below
        Stop when the training cross-entropy (nats) falls below this.
    label_corruption
        Fraction of training labels that are redrawn.
    augment
        pad-crop:4, flip, shift:1, rotation:10 or cutout:8; in order; may be repeated.
    freeze
        A layer that stays as it is at the start, or a scheme of them, such as all-but-first; may be repeated.
    remove
        A residual block that the network is without, or a scheme of them; may be repeated.
    checkpoint
        An epoch whose weights are kept; may be repeated; default every one. 0 and the last are kept anyway.
    evaluate_every
        Epochs between evaluations.
    precision
        Of the forward and backward passes.
    seed
        Of everything random.
    out
        Where run folders lie.
    """
    from shaketable.training import Recipe, train
    from shaketable.training.recipes import NAMED, named

    given = {
        "network": network,
        "network_args": pairs(network_arg, "--network-arg"),
        "data": data,
        "data_args": pairs(data_arg, "--data-arg"),
        "optimiser": optimiser,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "sam_rho": sam_rho,
        "schedule": schedule,
        "milestones": milestone and sorted(milestone),
        "factor": factor,
        "batch_size": batch_size,
        "epochs": epochs,
        "stop_below": stop_below,
        "label_corruption": label_corruption,
        "augmentation": augment,
        "frozen": freeze,
        "removed": remove,
        "checkpoints": checkpoint and sorted(set(checkpoint)),
        "evaluate_every": evaluate_every,
        "precision": precision,
        "seed": seed,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if recipe is None:
        chosen = Recipe.from_dict(changes)
    elif recipe in NAMED:
        chosen = named(recipe, **changes)
    else:
        chosen = Recipe.from_file(recipe).changed(**changes)
    run = train(_named(chosen, data_root), out=out, data_root=data_root, device=device)
    last = run.history.row(-1, named=True)
    answer = {"run": str(run.path), "epochs": last["epoch"], "checkpoints": list(run.checkpoints)}
    answer |= {name: last[name] for name in ("train_loss", "train_error", "test_error", "seconds")}
    told = [
        f"{run.path}: {last['epoch']} epochs, train error {percent(last['train_error'])}, test error {percent(last['test_error'])}",
        f"next: shaketable robustness {shlex.quote(str(run.path))}",
    ]
    finish(answer, told, json)


def _named(recipe: "Recipe", data_root: Path | None) -> "Recipe":
    """The recipe with the layers of a scheme in the place of its name."""
    from shaketable.networks import construct
    from shaketable.params import layers
    from shaketable.probes.schemes import is_scheme, named_layers
    from shaketable.training.run import dataset_of

    if not any(map(is_scheme, (*recipe.frozen, *recipe.removed))):
        return recipe
    data = dataset_of(recipe, data_root)
    found = layers(construct(recipe.network, data.input_shape, data.classes, **recipe.network_args), "block")
    return recipe.replace(frozen=named_layers(found, recipe.frozen), removed=named_layers(found, recipe.removed))
