"""Files are written whole and read without running code."""

import pickle
from threading import Thread

import pytest
import torch

from shaketable.errors import InputError
from shaketable.files import (
    load_metadata,
    load_tensors,
    locked,
    made_folder,
    refuse_file,
    save_tensors,
    write_atomically,
)


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(part):
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_of_a_name_that_no_folder_can_have_is_one_sentence(tmp_path):
    for ask in (refuse_file, made_folder):
        with pytest.raises(InputError, match="no folder can be there .*; give another place"):
            ask(tmp_path / ("x" * 300) / "below")


def test_a_file_in_the_place_of_a_folder_and_a_folder_in_the_place_of_a_file_are_one_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep" / "below"):
        with pytest.raises(InputError, match="file: is a file, and a folder is needed there"), locked(folder):
            pass
        with pytest.raises(InputError, match="file: is a file, and a folder is needed there"):
            write_atomically(folder / "x", lambda part: part.write_text("x"))
    with pytest.raises(InputError, match="is a folder; give the name of a file"):
        write_atomically(tmp_path, lambda part: part.write_text("x"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_tensors_come_back_bit_for_bit_with_their_metadata(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(3), "c": torch.randn(4, 4).t()}
    save_tensors(tmp_path / "x.safetensors", tensors, {"epoch": "3"})
    assert load_metadata(tmp_path / "x.safetensors") == {"epoch": "3"}
    loaded = load_tensors(tmp_path / "x.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_files_have_the_permissions_that_the_user_gives_to_new_files(tmp_path):
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    (tmp_path / "plain").touch()
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_state_dict_is_taken_out_of_its_usual_wrappers(tmp_path):
    for wrapper in ("state_dict", "model_state_dict", "model"):
        torch.save({wrapper: {"weight": torch.ones(2)}, "best": 3}, tmp_path / "x.th")
        assert list(load_tensors(tmp_path / "x.th")) == ["weight"]


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/shaketable-must-not-exist", "w"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.pt", None, "there is no such file"),
        ("text.pt", b"hello", "cannot be read with weights_only=True"),
        ("text.safetensors", b"hello", "not a readable safetensors file"),
        ("evil.pt", pickle.dumps(Evil(), protocol=2), "cannot be read with weights_only=True"),
    ],
)
def test_a_file_that_is_no_state_dict_is_one_clear_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_tensors(tmp_path / name)


def test_a_checkpoint_that_holds_no_state_dict_is_named(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        load_tensors(tmp_path / "x.pt")


def test_who_waits_for_a_lock_gets_it_when_the_other_lets_go(tmp_path):
    order = []

    def second():
        with locked(tmp_path, wait=True):
            order.append("second")

    waiting = Thread(target=second)
    with locked(tmp_path):
        waiting.start()
        waiting.join(0.1)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
