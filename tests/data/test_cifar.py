"""CIFAR's Python and binary batches, and pickles that want more than they may."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from shaketable.data import cifar
from shaketable.errors import InputError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)


class Malicious:
    """A pickle of this calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def python_2_batch() -> bytes:
    """One example, opcode by opcode, as Python 2 wrote the published files."""
    pixels = b"T" + (3072).to_bytes(4, "little") + PIXELS[0].tobytes()
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01M\x00\x0c\x86" + kind
    )
    return b"\x80\x02}(U\x06labels](K\x03eU\x04data" + array + b"\x89" + pixels + b"tbu."


def test_a_batch_written_by_python_2_is_read():
    images, labels = cifar.read_python("labels")([("batch", python_2_batch())])
    assert labels.tolist() == [3]
    assert np.array_equal(images.numpy().reshape(1, 3072), PIXELS[:1])


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("key", ["fine_labels", b"fine_labels"])
def test_batches_written_by_python_3_are_read_in_order(protocol, key):
    data = "data" if isinstance(key, str) else b"data"
    batches = [{key: [0, 1], data: PIXELS[:2], "coarse_labels": [5, 5]}, {key: [2, 3], data: PIXELS[2:]}]
    files = [(str(number), pickle.dumps(batch, protocol)) for number, batch in enumerate(batches)]
    images, labels = cifar.read_python("fine_labels")(files)
    assert labels.tolist() == [0, 1, 2, 3]
    assert images.shape == (4, 3, 32, 32)
    assert images[2, 1, 0, 5] == PIXELS[2, 1024 + 5]


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_binary_records_are_read_and_the_last_label_counts(label_bytes):
    labels = np.array([[9, 4], [9, 3], [9, 2], [9, 1]], np.uint8)[:, -label_bytes:]
    content = np.concatenate([labels, PIXELS], 1).tobytes()
    half = len(content) // 2
    images, found = cifar.read_binary(label_bytes)([("a", content[:half]), ("b", content[half:])])
    assert found.tolist() == [4, 3, 2, 1]
    assert np.array_equal(images.numpy().reshape(4, 3072), PIXELS)


@pytest.mark.parametrize("content", [b"", bytes(3072), bytes(2 * 3073 - 1)])
def test_truncated_binary_batches_are_refused_by_name(content):
    with pytest.raises(InputError, match="some/file"):
        cifar.read_binary(1)([("some/file", content)])


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_pickle_that_calls_a_function_is_refused_and_the_function_is_not_called(tmp_path, protocol):
    victim = tmp_path / "made"
    content = pickle.dumps({"labels": [0], "data": Malicious(open, str(victim), "w")}, protocol)
    with pytest.raises(InputError, match=r"some/file.*io\.open"):
        cifar.unpickle(content, "some/file")
    assert not victim.exists()


@pytest.mark.parametrize(
    "thing",
    [
        Malicious(eval, "1"),
        Malicious(getattr, np.ndarray, "dump"),
        Malicious(subprocess.check_output, ["true"]),
        Malicious(np.load, "file"),
        np.array([1.0]),
        np.array([{}], dtype=object),
        np.array(["text"]),
    ],
)
def test_a_pickle_that_needs_anything_but_arrays_of_bytes_is_refused(thing):
    with pytest.raises(InputError, match="refused"):
        cifar.unpickle(pickle.dumps({"data": thing}, 2), "some/file")


def test_a_name_with_dots_does_not_reach_through_an_allowed_module():
    content = b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93."
    with pytest.raises(InputError, match="refused"):
        cifar.unpickle(content, "some/file")


@pytest.mark.parametrize("content", [b"", b"junk", python_2_batch()[:-100], python_2_batch()[:40], pickle.dumps([1])])
def test_damaged_pickles_are_refused_by_name(content):
    with pytest.raises(InputError, match="some/file"):
        cifar.read_python("labels")([("some/file", content)])


@pytest.mark.parametrize(
    "batch",
    [
        {"labels": [1], "data": PIXELS},
        {"labels": [1, 2, 3, 4]},
        {"data": PIXELS},
        {"labels": [1, 2, 3, 4], "data": PIXELS[:, :-1]},
        {"labels": [1, 2, 3, "4"], "data": PIXELS},
    ],
)
def test_a_batch_whose_parts_do_not_fit_is_refused(batch):
    with pytest.raises(InputError, match="some/file"):
        cifar.read_python("labels")([("some/file", pickle.dumps(batch, 2))])


def test_reading_a_batch_imports_nothing():
    """A codec that a pickle names is never looked up."""
    content = b"\x80\x02}(U\x04datac_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86Ru."
    before = set(sys.modules)
    assert cifar.unpickle(content, "some/file") == {"data": b"a"}
    assert set(sys.modules) == before
