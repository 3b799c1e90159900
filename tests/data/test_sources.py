"""Data sets by name: facts known in advance, every layout in small, and what is missing or damaged."""

import gzip
import io
import pickle
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shaketable.data import SOURCES, Dataset, load, status
from shaketable.errors import InputError

RNG = np.random.default_rng(0)


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_1797_and_every_one_is_in_just_one_split():
    from sklearn.datasets import load_digits

    digits = load("digits", normalise=False)
    assert (len(digits.train), len(digits.test), digits.input_shape) == (1438, 359, (1, 8, 8))
    found = torch.cat([digits.train.inputs, digits.test.inputs]).flatten(1)
    original = torch.from_numpy(load_digits().data).float() / 16
    assert sorted(found.tolist()) == sorted(original.tolist())


def test_digits_are_split_with_the_same_share_of_every_class():
    digits = load("digits")
    shares = torch.bincount(digits.test.labels) / (
        torch.bincount(digits.train.labels) + torch.bincount(digits.test.labels)
    )
    assert float((shares - 359 / 1797).abs().max()) < 1 / 150


def test_the_split_of_digits_repeats_with_its_seed_and_changes_with_another():
    first, again, other = (load("digits", seed=seed).test.fingerprint() for seed in (0, 0, 1))
    assert first == again != other


def test_a_part_of_the_examples_is_deterministic_stratified_and_normalised_by_itself():
    part = load("digits", train_examples=100, test_examples=50)
    assert (len(part.train), len(part.test)) == (100, 50)
    assert set(torch.bincount(part.train.labels).tolist()) <= {9, 10, 11}
    assert part.train.fingerprint() == load("digits", train_examples=100).train.fingerprint()
    raw = load("digits", train_examples=100, normalise=False).train.inputs
    assert part.normalisation.mean[0] == pytest.approx(float(raw.mean()), rel=1e-6)
    assert part.normalisation.mean != load("digits").normalisation.mean


def test_padding_adds_black_pixels_before_normalising():
    plain, padded = load("digits", normalise=False), load("digits", pad=2)
    assert padded.input_shape == (1, 12, 12)
    torch.testing.assert_close(padded.train.inputs[:, :, 0].unique(), torch.tensor(padded.normalisation.black))
    torch.testing.assert_close(padded.train.inputs[..., 2:-2, 2:-2], padded.normalisation.apply(plain.train.inputs))
    assert float(padded.train.inputs.mean()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    "wanted", [{"train_examples": 1439}, {"test_examples": 0}, {"train_examples": True}, {"pad": -1}]
)
def test_more_examples_than_there_are_or_none_are_refused(wanted):
    with pytest.raises(InputError, match=r"1\.\.1438|1\.\.359|pad"):
        load("digits", **wanted)


def test_loading_leaves_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    load("digits", train_examples=10)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_importing_the_room_imports_nothing_heavy():
    heavy = "sklearn", "polars", "datasets", "PIL", "altair", "rich", "pandas"
    code = f"import sys, shaketable.data; print([name for name in {heavy} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


# --- real files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist(data_root) -> Dataset:
    return load("mnist", root=data_root)


def test_mnist_is_the_published_one(mnist):
    assert (len(mnist.train), len(mnist.test), mnist.input_shape) == (60_000, 10_000, (1, 28, 28))
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(mnist.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.normalisation.mean[0] == pytest.approx(0.1307, abs=5e-5)
    assert mnist.normalisation.std[0] == pytest.approx(0.3081, abs=5e-5)


def test_fashion_mnist_is_the_published_one(data_root):
    fashion = load("fashion-mnist", root=data_root, train_examples=1000)
    assert torch.bincount(fashion.train.labels).tolist() == [100] * 10
    assert torch.bincount(fashion.test.labels).tolist() == [1000] * 10
    assert fashion.class_names[int(fashion.test.labels[0])] == "ankle boot"


@pytest.mark.slow
def test_cifar10_is_the_published_one(data_root):
    cifar = load("cifar10", root=data_root)
    assert (len(cifar.train), len(cifar.test), cifar.input_shape) == (50_000, 10_000, (3, 32, 32))
    assert torch.bincount(cifar.train.labels).tolist() == [5000] * 10
    assert torch.bincount(cifar.test.labels).tolist() == [1000] * 10
    assert cifar.normalisation.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-5)
    assert cifar.normalisation.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-5)


def test_files_of_another_data_set_are_told_by_their_labels(data_root):
    with pytest.raises(InputError, match="not those of Fashion-MNIST"):
        load("fashion-mnist", root=data_root / "MNIST" / "raw")


def test_the_environment_names_the_root(data_root, monkeypatch):
    monkeypatch.setenv("SHAKETABLE_DATA", str(data_root))
    assert status("mnist") == ("ready", str(data_root / "MNIST" / "raw"))


# --- every layout, in small -------------------------------------------------------------------------------------------

SMALL = {name: replace(SOURCES[name], train=10, test=4, opening=()) for name in SOURCES if name != "digits"}


@pytest.fixture
def small(monkeypatch):
    """Ten training and four test examples make a data set whole."""
    for name, source in SMALL.items():
        monkeypatch.setitem(SOURCES, name, source)


def examples(shape: tuple[int, ...], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Fourteen images and labels: ten for training, four for the test."""
    return RNG.integers(0, 256, (14, *shape), dtype=np.uint8), RNG.integers(0, classes, 14, dtype=np.uint8)


def idx_files(images: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    files = {}
    for word, part in (("train", slice(0, 10)), ("t10k", slice(10, 14))):
        count = len(labels[part])
        files[f"{word}-images-idx3-ubyte"] = struct.pack(">4i", 0x803, count, 28, 28) + images[part].tobytes()
        files[f"{word}-labels-idx1-ubyte"] = struct.pack(">2i", 0x801, count) + labels[part].tobytes()
    return files


def cifar_files(name: str, form: str, images: np.ndarray, labels: np.ndarray) -> dict[str, bytes]:
    names = {"cifar10": [f"data_batch_{number}" for number in range(1, 6)], "cifar100": ["train"]}[name]
    parts = list(zip(names, np.split(np.arange(10), len(names)), strict=True))
    parts.append(({"cifar10": "test_batch", "cifar100": "test"}[name], np.arange(10, 14)))
    files = {}
    for file, part in parts:
        if form == "python":
            key = "labels" if name == "cifar10" else "fine_labels"
            batch = {
                key: labels[part].tolist(),
                "data": images[part].reshape(len(part), 3072),
                "coarse_labels": [0] * len(part),
            }
            files[file] = pickle.dumps(batch, 2)
        else:
            coarse = np.full((len(part), 0 if name == "cifar10" else 1), 99, np.uint8)
            records = np.concatenate([coarse, labels[part, None], images[part].reshape(len(part), 3072)], 1)
            files[file + ".bin"] = records.tobytes()
    return files


def write(folder: Path, files: dict[str, bytes], compress: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (name + ".gz" * compress)).write_bytes(gzip.compress(content) if compress else content)


def write_tar(path: Path, files: dict[str, bytes], prefix: str = "") -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def check(name: str, root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The data set under a root is these examples."""
    assert status(name, root)[0] == "ready"
    dataset = load(name, root=root, normalise=False)
    found = torch.cat([dataset.train.inputs, dataset.test.inputs])
    assert torch.equal(found, torch.from_numpy(images).float() / 255)
    assert torch.cat([dataset.train.labels, dataset.test.labels]).tolist() == labels.tolist()
    assert len(dataset.test) == 4


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "MNIST/raw"),
        ("mnist", "mnist"),
        ("mnist", "."),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("fashion-mnist", "."),
    ],
)
def test_idx_files_are_found_plain_or_compressed(tmp_path, small, name, folder, compress):
    images, labels = examples((1, 28, 28), 10)
    write(tmp_path / folder, idx_files(images, labels), compress)
    check(name, tmp_path, images, labels)


CIFAR_FOLDERS = {
    ("cifar10", "python"): ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    ("cifar10", "binary"): ("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
    ("cifar100", "python"): ("cifar-100-python", "cifar-100-python.tar.gz"),
    ("cifar100", "binary"): ("cifar-100-binary", "cifar-100-binary.tar.gz"),
}


@pytest.mark.parametrize(("name", "form"), CIFAR_FOLDERS)
@pytest.mark.parametrize("where", ["published folder", "own folder", "root", "archive", "archive with ./"])
def test_cifar_is_read_from_folders_and_archives(tmp_path, small, name, form, where):
    images, labels = examples((3, 32, 32), SOURCES[name].classes)
    files, (folder, archive) = cifar_files(name, form, images, labels), CIFAR_FOLDERS[name, form]
    if where.startswith("archive"):
        write_tar(tmp_path / archive, files, ("./" if "./" in where else "") + folder + "/")
    else:
        write(tmp_path / {"published folder": folder, "own folder": name, "root": "."}[where], files)
    check(name, tmp_path, images, labels)


def test_reading_an_archive_writes_nothing(tmp_path, small):
    files = cifar_files("cifar10", "binary", *examples((3, 32, 32), 10))
    write_tar(tmp_path / "cifar-10-binary.tar.gz", files | {"../../evil": b"x"}, "cifar-10-batches-bin/")
    load("cifar10", root=tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["cifar-10-binary.tar.gz"]
    assert not (tmp_path.parent / "evil").exists()


# --- missing and damaged ----------------------------------------------------------------------------------------------


def test_an_unknown_name_is_refused_with_the_list_of_names():
    for call in (load, status):
        with pytest.raises(InputError, match="digits, mnist, fashion-mnist, cifar10, cifar100"):
            call("imagenet")


def test_without_a_root_the_ways_to_give_one_are_named(monkeypatch):
    monkeypatch.delenv("SHAKETABLE_DATA", raising=False)
    with pytest.raises(InputError, match=r"--data-root .* SHAKETABLE_DATA.*shaketable data fetch mnist"):
        load("mnist")
    assert status("mnist")[0] == "missing"
    assert status("digits")[0] == "bundled"


@pytest.mark.parametrize("name", SMALL)
def test_missing_files_are_named_with_the_place_and_the_command(tmp_path, name):
    with pytest.raises(InputError) as problem:
        load(name, root=tmp_path)
    text = str(problem.value)
    assert str(tmp_path) in text
    assert f"shaketable data fetch {name} --data-root {tmp_path}" in text
    assert SOURCES[name].layouts[0].train[0] in text
    assert status(name, tmp_path)[0] == "missing"
    with pytest.raises(InputError, match="is no folder"):
        load(name, root=tmp_path / "nowhere")


def test_the_one_file_that_is_missing_is_named(tmp_path, small):
    files = idx_files(*examples((1, 28, 28), 10))
    del files["t10k-labels-idx1-ubyte"]
    write(tmp_path / "MNIST" / "raw", files)
    with pytest.raises(InputError, match="raw lacks t10k-labels-idx1-ubyte;"):
        load("mnist", root=tmp_path)


@pytest.mark.parametrize("compress", [False, True])
def test_truncated_idx_files_are_refused_by_name(tmp_path, small, compress):
    write(tmp_path, idx_files(*examples((1, 28, 28), 10)), compress)
    victim = tmp_path / ("train-images-idx3-ubyte" + ".gz" * compress)
    victim.write_bytes(victim.read_bytes()[:-50])
    with pytest.raises(InputError, match=victim.name):
        load("mnist", root=tmp_path)


def test_a_file_that_only_looks_compressed_is_refused_by_name(tmp_path, small):
    write(tmp_path, idx_files(*examples((1, 28, 28), 10)), compress=True)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte\.gz"):
        load("mnist", root=tmp_path)


def test_fewer_examples_than_published_are_refused(tmp_path):
    write(tmp_path, idx_files(*examples((1, 28, 28), 10)))
    with pytest.raises(InputError, match=r"holds 10 training images .* 60000"):
        load("mnist", root=tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: b"junk", lambda content: b""]
)
def test_damaged_archives_are_refused_by_name(tmp_path, small, damage):
    path = tmp_path / "cifar-100-python.tar.gz"
    write_tar(path, cifar_files("cifar100", "python", *examples((3, 32, 32), 100)), "cifar-100-python/")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=path.name):
        load("cifar100", root=tmp_path)


def test_an_archive_without_a_file_is_refused(tmp_path, small):
    files = cifar_files("cifar100", "python", *examples((3, 32, 32), 100))
    del files["test"]
    write_tar(tmp_path / "cifar-100-python.tar.gz", files, "cifar-100-python/")
    with pytest.raises(InputError, match="cifar-100-python/test"):
        load("cifar100", root=tmp_path)


def test_a_label_that_is_no_class_is_refused(tmp_path, small):
    images, labels = examples((3, 32, 32), 10)
    labels[3] = 10
    write(tmp_path, cifar_files("cifar10", "binary", images, labels))
    with pytest.raises(InputError, match="label 10 at index 3"):
        load("cifar10", root=tmp_path)


def test_a_malicious_batch_in_a_folder_is_refused_and_runs_nothing(tmp_path, small):
    write(tmp_path, cifar_files("cifar10", "python", *examples((3, 32, 32), 10)))
    victim = tmp_path / "made"
    (tmp_path / "data_batch_2").write_bytes(b"cbuiltins\nopen\n(V" + str(victim).encode() + b"\nVw\ntR.")
    with pytest.raises(InputError, match=r"data_batch_2.*builtins\.open"):
        load("cifar10", root=tmp_path)
    assert not victim.exists()


def test_every_source_tells_its_facts():
    for name, source in SOURCES.items():
        assert len(set(source.class_names)) == source.classes == (100 if name == "cifar100" else 10)
        assert source.examples == source.train + source.test == (1797 if name == "digits" else source.examples)
        assert source.origin
        assert source.licence
    assert list(SOURCES["cifar100"].class_names) == sorted(SOURCES["cifar100"].class_names)
