"""Data sets by name: what there is, where its files are looked for, and `load`."""

import gzip
import math
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shaketable.data import cifar, idx
from shaketable.data.arrays import read_npz
from shaketable.data.data import Data, Dataset, Normalisation
from shaketable.data.splits import stratified
from shaketable.data.text import PREFIX, TEXTS, Tokenizer, is_text, load_text, place
from shaketable.errors import InputError
from shaketable.identity import generator_from

ROOT_VARIABLE = "SHAKETABLE_DATA"


@dataclass(frozen=True)
class Layout:
    """One published form of a data set: folders that may hold it, the files of each split in order, and their reader.

    The archive, where there is one, is read without unpacking; its members are in the first of the folders.
    """

    folders: tuple[str, ...]
    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[Sequence[tuple[str, bytes]]], tuple[Tensor, Tensor]]
    archive: str = ""


@dataclass(frozen=True)
class Source:
    """A data set that has a name: its facts, and how its files look."""

    title: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    train: int
    test: int
    origin: str
    licence: str
    opening: tuple[int, ...] = ()  # the first training labels, by which files that were mixed up are told
    layouts: tuple[Layout, ...] = field(default=(), repr=False)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def examples(self) -> int:
        """Training and test examples together."""
        return self.train + self.test

    @property
    def root_needed(self) -> bool:
        """Whether files are read from a data root."""
        return bool(self.layouts)


def _idx_layout(*folders: str) -> tuple[Layout, ...]:
    train = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    test = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    return (Layout((*folders, "."), train, test, idx.read),)


_CIFAR10_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR10 = (
    Layout(
        ("cifar-10-batches-py", "cifar10", "cifar10/cifar-10-batches-py", "."),
        _CIFAR10_TRAIN, ("test_batch",), cifar.read_python("labels"), "cifar-10-python.tar.gz",
    ),
    Layout(
        ("cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin", "."),
        tuple(f"{name}.bin" for name in _CIFAR10_TRAIN), ("test_batch.bin",), cifar.read_binary(1),
        "cifar-10-binary.tar.gz",
    ),
)  # fmt: skip
_CIFAR100 = (
    Layout(
        ("cifar-100-python", "cifar100", "cifar100/cifar-100-python", "."),
        ("train",), ("test",), cifar.read_python("fine_labels"), "cifar-100-python.tar.gz",
    ),
    Layout(
        ("cifar-100-binary", "cifar100", "cifar100/cifar-100-binary", "."),
        ("train.bin",), ("test.bin",), cifar.read_binary(2), "cifar-100-binary.tar.gz",
    ),
)  # fmt: skip

_FASHION_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_TEXT = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
_CIFAR100_NAMES = tuple(_CIFAR100_TEXT.split())
_DIGIT_NAMES = tuple("0123456789")

SOURCES: dict[str, Source] = {
    "digits": Source(
        "Handwritten digits, 8 x 8 (bundled with scikit-learn)", _DIGIT_NAMES, (1, 8, 8), 1438, 359,
        "Alpaydin, Kaynak 1998, https://archive.ics.uci.edu/dataset/80 (its test part)", "CC BY 4.0",
    ),
    "mnist": Source(
        "MNIST handwritten digits", _DIGIT_NAMES, (1, 28, 28), 60_000, 10_000,
        "LeCun, Cortes, Burges 1998", "CC BY-SA 3.0", (5, 0, 4, 1, 9),
        _idx_layout("MNIST/raw", "MNIST", "mnist", "mnist/raw"),
    ),
    "fashion-mnist": Source(
        "Fashion-MNIST articles of clothing", _FASHION_NAMES, (1, 28, 28), 60_000, 10_000,
        "Xiao, Rasul, Vollgraf 2017, https://github.com/zalandoresearch/fashion-mnist", "MIT", (9, 0, 0, 3, 0),
        _idx_layout("FashionMNIST/raw", "FashionMNIST", "fashion-mnist", "fashion-mnist/raw"),
    ),
    "cifar10": Source(
        "CIFAR-10 photographs", _CIFAR10_NAMES, (3, 32, 32), 50_000, 10_000,
        "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html", "none stated (research use)",
        (6, 9, 9, 4, 1), _CIFAR10,
    ),
    "cifar100": Source(
        "CIFAR-100 photographs, fine labels", _CIFAR100_NAMES, (3, 32, 32), 50_000, 10_000,
        "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html", "none stated (research use)", (), _CIFAR100,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """Files of a data set in one place: a folder (files by name) or a tar archive."""

    layout: Layout
    place: Path
    files: Mapping[str, Path] | None  # None: an archive


def load(
    name: str = "digits",
    *,
    root: str | os.PathLike[str] | None = None,
    normalise: bool | Sequence[Sequence[float]] | None = None,
    train_examples: int | None = None,
    test_examples: int | None = None,
    pad: int = 0,
    seed: int = 0,
    tokens: int | None = None,
    vocabulary: int | None = None,
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
) -> Dataset:
    """A data set by name, in memory: float32 images [N, C, H, W], or a text as tokens [N, T] labelled with the next ones.

    Pixels are scaled to [0, 1], padded, and normalised with one mean and one standard deviation per channel, in this
    order; these are fitted on the training images that remain, padding included. The published split into training and
    test images is kept; digits has none and is split 80 to 20, the same share of every class. How a text becomes tokens:
    :func:`shaketable.data.text.load_text`.

    Args:
        name: one of `SOURCES`, or the path of a `.npz` file with arrays `train_inputs`, `train_labels`, `test_inputs` and
            `test_labels`; a text is one of `TEXTS`, or `text:PATH`, a file or a folder of `.txt` files.
        root: folder with the files; default the environment variable SHAKETABLE_DATA. Digits and `.npz` need none.
        normalise: True fits mean and standard deviation; False leaves the pixels in [0, 1]; `[means, stds]`, one number per
            channel, are used as they are (a pretrained network wants its own). Default True; for `.npz` False.
        train_examples: keep so many training examples, each class in proportion (of a text: sequences); default all.
        test_examples: keep so many test examples, each class in proportion (of a text: sequences); default all.
        pad: black pixels to add on each side, e.g. 2 for 28 x 28 images in a network for 32 x 32.
        seed: decides the split of digits and which examples are kept, and nothing else.
        tokens: of a text, the length T of a sequence; default 64.
        vocabulary: of a text, the number of pieces of the tokenizer that is trained on it; default 1000.
        tokenizer: of a text, a SentencePiece model to use instead, or its file.

    Raises:
        InputError: an unknown name, no root, files that are missing or damaged, or more examples than there are.

    Cost:
        Four bytes a pixel: 0.7 GB for CIFAR-10.

    Example:
        >>> digits = load("digits", train_examples=100)
        >>> len(digits.train), len(digits.test), digits.input_shape, digits.classes
        (100, 359, (1, 8, 8), 10)
    """
    if isinstance(pad, bool) or not isinstance(pad, int) or pad < 0:
        raise InputError(f"pad must be a whole number of pixels from 0, and {pad!r} was given.")
    given = {"tokens": tokens, "vocabulary": vocabulary, "tokenizer": tokenizer}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if is_text(name):
        if pad or normalise is not None:
            raise InputError(f"{name} is a text; pad and normalise are for images: leave them out.")
        options |= {"train_examples": train_examples, "test_examples": test_examples, "seed": seed}
        return load_text(name, _text_root(name, root), **options)
    if options:
        raise InputError(f"{name} is no text; {' and '.join(options)} would do nothing: leave out, or give a text.")
    own = name.endswith(".npz")
    white = {"digits": 16}.get(name, 255)
    if own:
        train, test, classes = read_npz(Path(name))
        class_names = tuple(map(str, range(classes)))
    else:
        chosen = source(name)
        train, test = _read(name, data_root(name, root)) if chosen.root_needed else _digits(seed)
        classes, class_names = chosen.classes, chosen.class_names
    train = _kept(train, train_examples, name, "train", seed)
    test = _kept(test, test_examples, name, "test", seed)
    images = [inputs if own else inputs.float().div_(white) for inputs, _ in (train, test)]
    if pad:
        if images[0].ndim != 4:
            raise InputError(f"{name}: pad={pad} is for images [N, C, H, W], not for {list(images[0].shape)}.")
        images = [F.pad(each, (pad,) * 4) for each in images]
    normalisation = None
    if normalise if normalise is not None else not own:
        normalisation = Normalisation.fit(images[0]) if normalise in (True, None) else _given(normalise, images[0])
        images = [normalisation.apply(each) for each in images]
    return Dataset(
        Path(name).stem,
        Data(images[0], train[1], classes),
        Data(images[1], test[1], classes),
        class_names,
        normalisation,
    )


def _given(normalise: object, images: Tensor) -> Normalisation:
    """Means and standard deviations that the caller knows."""
    channels = images.shape[1]
    try:
        mean, std = (tuple(float(value) for value in values) for values in normalise)  # pyright: ignore
        fits = len(mean) == len(std) == channels and min(std) > 0 and all(map(math.isfinite, mean + std))
    except (TypeError, ValueError):
        mean, std, fits = (), (), False
    if not fits:
        raise InputError(
            f"normalise={normalise!r} is not allowed; give true, false, or [means, stds] with {channels} numbers each "
            "(one per channel, stds above 0)."
        )
    return Normalisation(mean, std)


def source(name: str) -> Source:
    """The source of this name; InputError with the names that there are for another."""
    if name not in SOURCES:
        raise InputError(
            f"there is no data set {name!r}; the names are {', '.join((*SOURCES, *TEXTS))}, and {PREFIX}PATH for a text."
        )
    return SOURCES[name]


def status(name: str, root: str | os.PathLike[str] | None = None) -> tuple[str, str]:
    """Whether a data set can be loaded, without reading it.

    Args:
        name: one of `SOURCES` or `TEXTS`.
        root: the data root; default the environment variable SHAKETABLE_DATA.

    Returns:
        ``("bundled", detail)``, ``("ready", where)`` or ``("missing", what was looked for)``.
    """
    if not (is_text(name) or source(name).root_needed):
        return "bundled", "comes with scikit-learn"
    folder = root or os.environ.get(ROOT_VARIABLE)
    if not folder:
        return "missing", "no data root was given"
    if is_text(name):
        try:
            return "ready", str(place(name, Path(folder).expanduser())[0])
        except InputError as error:
            return "missing", str(error)
    found, detail = _locate(name, Path(folder).expanduser())
    return ("ready", str(found.place)) if found else ("missing", detail)


def data_root(name: str, root: str | os.PathLike[str] | None) -> Path:
    """The data root that was given or that the environment names; InputError without any."""
    folder = root or os.environ.get(ROOT_VARIABLE)
    if not folder:
        raise InputError(
            f"{name} is read from files: say where with --data-root (root=...) or {ROOT_VARIABLE}, "
            f"or download it with `shaketable data fetch {name} --data-root DIR`."
        )
    return Path(folder).expanduser()


def _text_root(name: str, root: str | os.PathLike[str] | None) -> Path | None:
    """The data root of a text; a file that is named whole needs none."""
    if name not in TEXTS and Path(name.removeprefix(PREFIX)).expanduser().is_absolute():
        return None
    folder = root or os.environ.get(ROOT_VARIABLE)
    if not folder:
        raise InputError(f"{name} is read from files: say where with --data-root (root=...) or {ROOT_VARIABLE}.")
    return Path(folder).expanduser()


def _read(name: str, root: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test (images uint8, labels) of a data set in files, checked against what the source says."""
    found, detail = _locate(name, root)
    if found is None:
        raise InputError(
            f"{name}: {detail}; download it with `shaketable data fetch {name} --data-root {root}`, "
            f"or say where it is with --data-root or {ROOT_VARIABLE}."
        )
    layout, chosen = found.layout, SOURCES[name]
    contents = (
        _archive_contents(found)
        if found.files is None
        else {file: _content(path) for file, path in found.files.items()}
    )
    named = {
        file: (str(found.files[file] if found.files else f"{found.place}:{file}"), content)
        for file, content in contents.items()
    }
    train, test = (layout.read([named[file] for file in files]) for files in (layout.train, layout.test))
    for split, (images, labels), count in (("training", train, chosen.train), ("test", test, chosen.test)):
        if len(labels) != count or tuple(images.shape[1:]) != chosen.shape:
            raise InputError(
                f"{found.place}: holds {len(labels)} {split} images {list(images.shape[1:])} and {chosen.title} "
                f"has {count} {list(chosen.shape)}; it is another one or incomplete: move it away and fetch {name} again."
            )
    if tuple(train[1][: len(chosen.opening)].tolist()) != chosen.opening:
        raise InputError(
            f"{found.place}: its first labels are not those of {chosen.title}, so it is another data set; move it away."
        )
    return train, test


def _locate(name: str, root: Path) -> tuple[_Found | None, str]:
    """Where a data set's files are under a root; without any, a sentence about what was looked for or is missing."""
    if not root.is_dir():
        return None, f"the data root {root} is no folder"
    layouts, lacking = SOURCES[name].layouts, []
    for layout in layouts:
        for folder in layout.folders:
            files = {file: _existing(root / folder / file) for file in (*layout.train, *layout.test)}
            there = {file: path for file, path in files.items() if path}
            if len(there) == len(files):
                return _Found(layout, root / folder, there), ""
            if there:
                lacking.append(f"{root / folder} lacks {', '.join(file for file in files if file not in there)}")
        for archive in (root / layout.archive, root / name / layout.archive):
            if layout.archive and archive.is_file():
                return _Found(layout, archive, None), ""
    if lacking:
        return None, "; ".join(lacking)
    looked = " or ".join(
        f"{', '.join((*layout.train, *layout.test))} in {' or '.join(layout.folders)}" for layout in layouts
    )
    archives = "".join(f", or {layout.archive}" for layout in layouts if layout.archive)
    return None, f"found nothing under {root}, looking for {looked}{archives}"


def _existing(path: Path) -> Path | None:
    """The file itself, or its compressed form, or None."""
    compressed = path.with_name(path.name + ".gz")
    return path if path.is_file() else compressed if compressed.is_file() else None


def _content(path: Path) -> bytes:
    """The bytes of a file, uncompressed."""
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it and fetch it again.") from error


def _archive_contents(found: _Found) -> dict[str, bytes]:
    """The files of a layout out of a tar archive, in one pass and without writing anything."""
    layout, contents = found.layout, {}
    wanted = {f"{layout.folders[0]}/{file}": file for file in (*layout.train, *layout.test)}
    try:
        with tarfile.open(found.place) as tar:
            for member in tar:
                file = wanted.get(member.name.removeprefix("./"))
                content = tar.extractfile(member) if file and member.isfile() else None
                if file and content:
                    contents[file] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{found.place}: cannot be read ({error}); delete it and fetch it again.") from error
    if missing := [member for member, file in wanted.items() if file not in contents]:
        raise InputError(f"{found.place}: has no file {missing[0]} in it; delete it and fetch it again.")
    return contents


def _digits(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """scikit-learn's 1,797 digits, 80% for training."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).to(torch.uint8).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(classes).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[stratified(labels, SOURCES["digits"].test, generator_from(seed, "digits", "split"))] = True
    return (images[~test], labels[~test]), (images[test], labels[test])


def _kept(split: tuple[Tensor, Tensor], count: int | None, name: str, word: str, seed: int) -> tuple[Tensor, Tensor]:
    """A split, or so many of its examples, each class in proportion."""
    images, labels = split
    if count is None:
        return split
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(labels):
        raise InputError(
            f"{word}_examples of {name} must be a whole number in 1..{len(labels)}, and {count!r} was given."
        )
    indices = stratified(labels, count, generator_from(seed, name, word, "examples"))
    return images[indices], labels[indices]
