"""Downloads: from a server on this machine, into a data root, whole or not at all."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from pathlib import Path

import pytest

from shaketable.data import SOURCES, download, fetch, status
from shaketable.data.download import REMOTES, Remote, unpack
from shaketable.errors import InputError, RunError


@pytest.fixture
def server(tmp_path):
    """A web server over a folder: (its address, the folder, the paths that were asked for)."""
    folder = tmp_path / "server"
    folder.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder, asked
        running.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def archive(members: dict[str, bytes], special: tarfile.TarInfo | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if special:
            tar.addfile(special)
    return buffer.getvalue()


def files_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def mnist_on_server(server, monkeypatch):
    """The four MNIST files with other content, and checksums to match."""
    address, folder, _ = server
    remotes = []
    for remote in REMOTES["mnist"]:
        content = gzip.compress(remote.name.encode())
        (folder / remote.name).write_bytes(content)
        remotes.append(Remote(remote.path, md5(content), (address,)))
    monkeypatch.setitem(REMOTES, "mnist", tuple(remotes))
    return server


def test_files_are_fetched_to_where_they_are_looked_for(mnist_on_server, tmp_path):
    root = tmp_path / "root"
    assert fetch("mnist", root) == root
    assert files_under(root) == {remote.path for remote in REMOTES["mnist"]}
    assert status("mnist", root) == ("ready", str(root / "MNIST" / "raw"))


def test_what_is_there_is_not_fetched_again(mnist_on_server, tmp_path):
    asked = mnist_on_server[2]
    fetch("mnist", tmp_path)
    fetch("mnist", tmp_path)
    assert len(asked) == 4
    (tmp_path / REMOTES["mnist"][2].path).unlink()
    fetch("mnist", tmp_path)
    assert asked[4:] == ["/t10k-images-idx3-ubyte.gz"]


def test_a_file_that_is_not_the_published_one_is_refused_and_deleted(mnist_on_server, tmp_path):
    (mnist_on_server[1] / "train-labels-idx1-ubyte.gz").write_bytes(b"something else")
    root = tmp_path / "root"
    with pytest.raises(RunError, match=rf"train-labels.*{md5(b'something else')}.*refused and deleted"):
        fetch("mnist", root)
    assert files_under(root) == {"MNIST/raw/train-images-idx3-ubyte.gz"}
    assert status("mnist", root)[0] == "missing"


def test_an_incomplete_file_from_earlier_is_replaced(mnist_on_server, tmp_path):
    victim = tmp_path / REMOTES["mnist"][0].path
    victim.parent.mkdir(parents=True)
    victim.write_bytes(b"half")
    fetch("mnist", tmp_path)
    assert gzip.decompress(victim.read_bytes()) == b"train-images-idx3-ubyte.gz"


def test_the_second_mirror_is_asked_where_the_first_has_no_file(server, tmp_path):
    address, folder, asked = server
    (folder / "good").mkdir()
    (folder / "good" / "file").write_bytes(b"content")
    download.download(Remote("file", md5(b"content"), (address + "bad/", address + "good/")), tmp_path / "file")
    assert asked == ["/bad/file", "/good/file"]
    assert (tmp_path / "file").read_bytes() == b"content"


def test_without_a_network_the_address_and_the_place_for_the_file_are_named(tmp_path):
    remote = Remote("a/file", "0", ("http://127.0.0.1:9/",))
    with pytest.raises(RunError, match=rf"fetch it from http://127\.0\.0\.1:9/file and put it at {tmp_path}/a/file"):
        download.download(remote, tmp_path / "a" / "file")
    assert files_under(tmp_path) == set()


def test_a_connection_that_breaks_off_leaves_nothing(server, tmp_path, monkeypatch):
    address, folder, _ = server
    (folder / "file").write_bytes(b"content" * 1000)

    def breaking(description, total):
        raise ConnectionResetError("broken off")

    monkeypatch.setattr(download, "progress", breaking)
    with pytest.raises(RunError, match="broken off"):
        download.download(Remote("file", "0", (address,)), tmp_path / "root" / "file")
    assert files_under(tmp_path / "root") == set()


def cifar_members() -> dict[str, bytes]:
    layout = SOURCES["cifar10"].layouts[0]
    return {f"cifar-10-batches-py/{file}": file.encode() for file in (*layout.train, *layout.test, "batches.meta")}


def test_an_archive_is_unpacked_whole_and_removed(server, tmp_path, monkeypatch):
    address, folder, _ = server
    content = archive(cifar_members())
    (folder / "cifar-10-python.tar.gz").write_bytes(content)
    remote = Remote("cifar-10-python.tar.gz", md5(content), (address,), "cifar-10-batches-py")
    monkeypatch.setitem(REMOTES, "cifar10", (remote,))
    root = fetch("cifar10", tmp_path / "root")
    assert files_under(root) == set(cifar_members())
    assert (root / "cifar-10-batches-py" / "data_batch_3").read_bytes() == b"data_batch_3"
    assert status("cifar10", root) == ("ready", str(root / "cifar-10-batches-py"))


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "top/../../evil",
        "/tmp/evil",
        "other/file",
        "evil",
        "top/..\\evil",
        "top/C:evil",
        "top/a/../../../evil",
    ],
)
def test_a_member_outside_of_its_folder_is_refused_and_nothing_is_left(tmp_path, name):
    path = tmp_path / "file.tar.gz"
    path.write_bytes(archive({"top/good": b"good", name: b"evil"}))
    with pytest.raises(RunError, match="outside of top"):
        unpack(path, tmp_path / "top")
    assert files_under(tmp_path) == {"file.tar.gz"}
    assert [child.name for child in tmp_path.iterdir()] == ["file.tar.gz"]


@pytest.mark.parametrize(
    "member",
    [
        special("top/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("top/link", tarfile.LNKTYPE, "top/good"),
        special("top/device", tarfile.CHRTYPE),
        special("top/pipe", tarfile.FIFOTYPE),
    ],
)
def test_links_and_devices_in_an_archive_are_refused_and_nothing_is_left(tmp_path, member):
    path = tmp_path / "file.tar.gz"
    path.write_bytes(archive({"top/good": b"good"}, member))
    with pytest.raises(RunError, match="a link or a device"):
        unpack(path, tmp_path / "top")
    assert [child.name for child in tmp_path.iterdir()] == ["file.tar.gz"]


def test_a_damaged_archive_leaves_nothing(tmp_path):
    path = tmp_path / "file.tar.gz"
    content = archive({"top/good": bytes(range(256)) * 400})
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="could not be unpacked"):
        unpack(path, tmp_path / "top")
    assert [child.name for child in tmp_path.iterdir()] == ["file.tar.gz"]


def test_a_folder_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "mine").write_bytes(b"mine")
    path = tmp_path / "file.tar.gz"
    path.write_bytes(archive({"top/good": b"good"}))
    with pytest.raises(RunError, match="not overwritten"):
        unpack(path, tmp_path / "top")
    assert files_under(tmp_path / "top") == {"mine"}


def test_folders_in_an_archive_are_made(tmp_path):
    path = tmp_path / "file.tar.gz"
    path.write_bytes(archive({"top/a/b/file": b"deep"}, special("top/empty", tarfile.DIRTYPE)))
    unpack(path, tmp_path / "top")
    assert (tmp_path / "top" / "a" / "b" / "file").read_bytes() == b"deep"
    assert (tmp_path / "top" / "empty").is_dir()


def test_what_cannot_be_fetched_is_refused(monkeypatch, tmp_path):
    monkeypatch.delenv("SHAKETABLE_DATA", raising=False)
    with pytest.raises(InputError, match="nothing to fetch"):
        fetch("digits", tmp_path)
    with pytest.raises(InputError, match="the names are"):
        fetch("imagenet", tmp_path)
    with pytest.raises(InputError, match="--data-root"):
        fetch("mnist")


def test_every_source_with_files_can_be_fetched_from_somewhere():
    assert set(REMOTES) == {name for name, source in SOURCES.items() if source.root_needed}
    for name, remotes in REMOTES.items():
        for remote in remotes:
            assert len(bytes.fromhex(remote.md5)) == 16
            assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in remote.mirrors)
        unpacked = [remote.unpacked for remote in remotes if remote.unpacked]
        assert not unpacked or unpacked[0] == SOURCES[name].layouts[0].folders[0]
