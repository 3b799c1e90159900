"""Units removed one by one, against the head run again for each number; and each channel alone, against captum."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.common import Options, Row, row, say, timed
from shaketable.engine.removals import Removals
from shaketable.engine.singles import single_removals
from shaketable.errors import InputError
from shaketable.forward import evaluation_mode
from shaketable.identity import generator_from
from shaketable.intervene import site_of
from shaketable.networks import build
from shaketable.params import state

CLASSES, EACH, STEP, SAMPLED = 100, 50, 16, 2
"""Classes, examples of each, and what the naive loop runs of them: every so many units, of so many classes."""
HEADS = {"ablation-vgg16-linear": 0, "ablation-vgg16": 512}
"""By work the outputs of the two hidden linear layers of VGG-16; 0: one linear layer alone, as most do for images of 32x32."""
IMAGES = 8


def vgg16(hidden: int) -> tuple[nn.Module, nn.Module]:
    """A VGG-16 for 100 classes with random weights, and what follows its last activation of a convolution."""
    made = build("vgg16", (3, 32, 32), CLASSES, hidden=hidden or 512)
    made.initialise(generator_from(0, "ablation benchmark"))
    parts = OrderedDict(made.named_children())
    if not hidden:
        for name in ("fc1", "relu_fc1", "fc2", "relu_fc2"):
            del parts[name]
    names = list(parts)
    head = nn.Sequential(*(parts[name] for name in names[names.index("relu13") + 1 :]))
    return nn.Sequential(parts).eval(), head.eval()


def balanced(logits: Tensor) -> Tensor:
    """Labels [N], as many of each class, each class the examples that speak most for it: so that there is something to lose."""
    logits = logits - logits.mean(0)
    labels = torch.empty(len(logits), dtype=torch.int64)
    for label in range(CLASSES):
        best = logits[:, label].topk(EACH).indices
        labels[best] = label
        logits[best] = -torch.inf
    return labels


def naive(head: nn.Module, activation: Tensor, label: int, numbers: Sequence[int]) -> list[list[int]]:
    """What one writes: a mask, and the head on the examples of a class, for each number of units removed."""
    order = activation.sum((0, 2, 3)).argsort(descending=True, stable=True)
    found = []
    for ranked in (order, order.flip(0)):
        mask, right = torch.ones(len(order)), []
        for number in numbers:
            mask[ranked[:number]] = 0
            with torch.no_grad():
                right.append(int((head(activation * mask[:, None, None]).argmax(1) == label).sum()))
        found.append(right)
    return found


def cumulative(name: str, options: Options) -> list[Row]:
    """Both curves of all classes at the last convolution; recorded activations are given to either side."""
    hidden = HEADS[name]
    network, head = vgg16(hidden)
    generator = generator_from(0, "images")
    images = torch.randn(CLASSES * EACH, 3, 32, 32, generator=generator)
    site = site_of(network, None, images[:2])
    removals, tracing = timed(lambda: Removals(network, state(network), site, images[:4]))
    base, passed = timed(lambda: removals.record(images))
    with torch.no_grad():
        labels = balanced(head(base.activation))
    examples = torch.arange(len(labels)).split(removals.examples())
    parts = [(base.of(rows), labels[rows]) for rows in examples]

    def engine() -> Tensor:
        norms = torch.zeros(CLASSES, site.units, dtype=torch.float64)
        for part, own in parts:
            norms.index_add_(0, own, part.activation.sum((2, 3), dtype=torch.float64))
        order = norms.argsort(dim=1, descending=True, stable=True)
        right = torch.zeros(2, CLASSES, site.units + 1, dtype=torch.int64)
        for part, own in parts:
            for number, one in enumerate(removals.right(part, own, [order.flip(1)[own], order[own]])):
                right[number].index_add_(0, own, one.flip(1).long())
        return right

    numbers = range(0, site.units + 1, 1 if options.full else STEP)
    classes = range(CLASSES if options.full else SAMPLED)
    times, same = [], True
    for repeat in range(options.repeats):
        found, seconds = timed(engine)
        slow = 0 * seconds
        for label in classes:
            activation = base.activation[labels == label]
            truth, taken = timed(lambda a=activation, label=label: naive(head, a, label, numbers))
            slow = slow + taken
            same &= truth == found[:, label, list(numbers)].tolist()
        slow = slow * (CLASSES / len(classes)) * ((site.units + 1) / len(numbers))
        say(f"{name}: repeat {repeat}: naive {slow[0]:.1f} s, engine {seconds[0]:.2f} s")
        times.append((slow, seconds))
    whole = float(passed[0]) * 2 * (site.units + 1)
    made = float(sum(seconds[0] for _, seconds in times)) / len(times) + float(tracing[0])
    found = row(
        name,
        times,
        goal=50.0,
        identical=same,
        network=f"VGG-16, {'one linear layer' if not hidden else f'hidden layers of {hidden}'}, random weights",
        data="synthetic 3x32x32",
        examples=len(labels),
        variants=2 * CLASSES * (site.units + 1),
        batch_naive=EACH,
        batch_engine=removals.rows(),
        choice=f"way {removals.way}{', bfloat16 first' if removals.rounds else ''}",
        sampled=not options.full,
        sampled_how=f"naive: {SAMPLED} of {CLASSES} classes, every {STEP}th number of units",
        more={
            "tracing_seconds": round(float(tracing[0]), 2),
            "base_pass_seconds_of_either": round(float(passed[0]), 2),
            "whole_network_for_each_number": f"{whole / (made + float(passed[0])):.0f} times, base pass and tracing in",
        },
    )
    return [found]


def channels(name: str, options: Options) -> list[Row]:
    """The logits with each of the 512 channels of the last convolution of a ResNet-18 removed alone."""
    try:
        from captum.attr import LayerFeatureAblation
    except ModuleNotFoundError as error:
        raise InputError("captum is not installed; pip install 'shaketable[attacks]'.") from error
    network = build("resnet18-bn", (3, 32, 32), 10)
    network.initialise(generator_from(0, "ablation benchmark"))
    network.eval()
    images = torch.randn(IMAGES, 3, 32, 32, generator=generator_from(0, "images"))
    site = site_of(network, None, images)
    with torch.no_grad():
        clean = network(images)
    target = clean.argmax(1)
    at = torch.arange(IMAGES)

    def engine() -> Tensor:
        return clean[at, target] - single_removals(network, site, images)[:, at, target]

    def captum() -> Tensor:
        mask = torch.arange(site.units).view(1, -1, 1, 1)
        ablation = LayerFeatureAblation(network, network.get_submodule(site.module))
        with evaluation_mode(network), torch.no_grad():
            found = ablation.attribute(images, target=target, layer_mask=mask)
        assert isinstance(found, Tensor)
        return found.flatten(2)[:, :, 0].t()

    times, same = [], True
    for repeat in range(options.repeats):
        fast, seconds = timed(engine)
        truth, slow = timed(captum)
        same &= torch.allclose(fast, truth, rtol=1e-3, atol=1e-4 * float(clean.abs().max()))
        say(f"{name}: repeat {repeat}: captum {slow[0]:.1f} s, engine {seconds[0]:.2f} s")
        times.append((slow, seconds))
    found = row(
        name,
        times,
        goal=100.0,
        identical=same,
        network="ResNet-18 with batch norm, random weights",
        data="synthetic 3x32x32",
        examples=IMAGES,
        variants=site.units,
        batch_naive=IMAGES,
        batch_engine=IMAGES,
        choice="captum's LayerFeatureAblation at the same module; the recorded pass is in the engine's seconds",
    )
    return [found]


BENCHMARKS: dict[str, tuple[str, Callable[[str, Options], Sequence[Row]]]] = {
    "ablation-vgg16-linear": (
        "both curves of accuracy against units removed, all classes, last convolution of VGG-16, one linear layer behind",
        cumulative,
    ),
    "ablation-vgg16": ("the same with two hidden layers of 512 behind", cumulative),
    "ablation-channels": ("each channel of a ResNet-18's last convolution removed alone, against captum", channels),
}
