"""The public archives, fetched into the data root: checked against published checksums and put in place whole."""

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shaketable.data import sources
from shaketable.errors import InputError, RunError
from shaketable.files import write_atomically
from shaketable.progress import progress

TIMEOUT = 30.0  # seconds without an answer
CHUNK = 1 << 20


@dataclass(frozen=True)
class Remote:
    """A file to download: where it goes under the data root, its MD5, and the folders on the network that have it."""

    path: str
    md5: str
    mirrors: tuple[str, ...]
    unpacked: str = ""  # the folder under the data root that a tar archive unpacks to; nothing is unpacked without it

    @property
    def name(self) -> str:
        """The file's name, the same on every mirror."""
        return PurePosixPath(self.path).name


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
_CIFAR = ("https://www.cs.toronto.edu/~kriz/",)

# MD5 as published by the authors of the data; it guards against damage and against a file that is not the published one
REMOTES: dict[str, tuple[Remote, ...]] = {
    "mnist": (
        Remote("MNIST/raw/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", _MNIST),
        Remote("MNIST/raw/train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", _MNIST),
        Remote("MNIST/raw/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", _MNIST),
        Remote("MNIST/raw/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", _MNIST),
    ),
    "fashion-mnist": (
        Remote("FashionMNIST/raw/train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", _FASHION),
        Remote("FashionMNIST/raw/train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", _FASHION),
        Remote("FashionMNIST/raw/t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", _FASHION),
        Remote("FashionMNIST/raw/t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", _FASHION),
    ),
    "cifar10": (Remote("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", _CIFAR, "cifar-10-batches-py"),),
    "cifar100": (Remote("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", _CIFAR, "cifar-100-python"),),
}


def fetch(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Download a public data set into the data root, unless it is there.

    Every file is hashed while it is downloaded, and is under its final name only when its MD5 is the published one.

    Args:
        name: one of `SOURCES`.
        root: the data root, made where it does not exist; default the environment variable SHAKETABLE_DATA.

    Returns:
        The data root.

    Raises:
        InputError: an unknown name, a name that needs no download, or no root.
        RunError: no network, or a file that is not the published one (it is deleted).
    """
    if sources.is_text(name):
        raise InputError(
            f"{name} is a text and is not downloaded; put its files into the folder `text` of the data root."
        )
    if sources.source(name).root_needed is False:
        raise InputError(f"{name} comes with the package; there is nothing to fetch.")
    folder = sources.data_root(name, root)
    if sources.status(name, folder)[0] == "ready":
        return folder
    for remote in REMOTES[name]:
        target = folder / remote.path
        if not target.is_file() or _md5(target) != remote.md5:
            download(remote, target)
        if remote.unpacked:
            unpack(target, folder / remote.unpacked)
            target.unlink()
    return folder


def download(remote: Remote, target: Path) -> None:
    """Download one file from the first mirror that answers, and refuse it where its MD5 is not the published one.

    Raises:
        RunError: no mirror answers, or the file does not match.
    """
    reasons = []
    for mirror in remote.mirrors:
        url = mirror + remote.name
        try:
            write_atomically(target, lambda part, url=url: _stream(url, part, remote.md5))
            return
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{url}: {error}")
    raise RunError(
        f"could not download {remote.name} ({'; '.join(reasons)}); where there is a network, fetch it from "
        f"{remote.mirrors[0]}{remote.name} and put it at {target}."
    )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive whose members all are under ``folder``'s name; the folder appears whole or not at all.

    Raises:
        RunError: a member that is a link or a device or would be written outside of the folder, a damaged archive, or
            a folder that is there already. Nothing is left of the attempt.
    """
    if folder.exists():
        raise RunError(f"{folder} is there and incomplete, and is not overwritten; move it away and fetch again.")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.part", dir=folder.parent) as scratch:
        part = Path(scratch) / folder.name
        part.mkdir()
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    _unpack_member(tar, member, archive, folder.name, part)
            part.rename(folder)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise RunError(f"{archive}: could not be unpacked ({error}); delete it and fetch it again.") from error


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, top: str, part: Path) -> None:
    """Write one member below ``part``, in place of the top folder that its name begins with."""
    path = PurePosixPath(member.name)
    if (
        path.parts[:1] != (top,)  # so it is not absolute either
        or ".." in path.parts
        or "\\" in member.name
        or ":" in member.name
    ):
        raise RunError(f"{archive}: refused, because its member {member.name!r} would be written outside of {top}/.")
    if not member.isfile() and not member.isdir():
        raise RunError(f"{archive}: refused, because its member {member.name!r} is a link or a device.")
    target = part.joinpath(*path.parts[1:])
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    if content is not None:  # always, for a file
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)


def _stream(url: str, part: Path, md5: str) -> None:
    """Write the content of an address to a file and compare its MD5."""
    whole = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, part.open("wb") as file:
        size = int(answer.headers.get("Content-Length") or 0)
        with progress(f"fetching {PurePosixPath(url).name}", size) as advance:
            while chunk := answer.read(CHUNK):
                whole.update(chunk)
                file.write(chunk)
                advance(len(chunk))
    if whole.hexdigest() != md5:
        raise RunError(
            f"{url}: its MD5 is {whole.hexdigest()} and the published one is {md5}, "
            "so it was refused and deleted; try again later."
        )


def _md5(path: Path) -> str:
    """The MD5 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
