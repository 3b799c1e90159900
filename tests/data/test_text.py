"""Text as tokens: files by name, the tokenizer, sequences and their labels, and what is missing or does not fit."""

import sys

import pytest
import torch
from torch import nn

from shaketable.data import TEXTS, Data, Tokenizer, fetch, load, status
from shaketable.data.text import load_text, tokens_checked
from shaketable.errors import InputError
from shaketable.study import Study

sentencepiece = pytest.importorskip("sentencepiece")

LINE = "the cat sat on a mat and the rat ran to the hat while a bat and a man sang"
WORDS = LINE.split()


def story(lines: int = 60, seed: int = 0) -> list[str]:
    """Lines of a few words each."""
    draws = torch.randint(len(WORDS), (lines, 6), generator=torch.Generator().manual_seed(seed))
    return [" ".join(WORDS[int(word)] for word in line) for line in draws]


def write(folder, name: str = "story.txt", lines: list[str] | None = None) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(story() if lines is None else lines) + "\n", encoding="utf-8")
    return name


def test_labels_are_the_tokens_one_further_on_and_the_sequences_are_the_text_in_order(tmp_path):
    data = load(f"text:{write(tmp_path)}", root=tmp_path, tokens=5, vocabulary=28)
    row = data.tokenizer.encode(story()[: story_cut()])
    inputs, labels = data.train.inputs, data.train.labels
    assert inputs.shape == labels.shape == ((len(row) - 1) // 5, 5)
    used = inputs.numel()
    assert torch.equal(inputs.flatten(), row[:used])
    assert torch.equal(labels.flatten(), row[1 : used + 1])
    assert (data.classes, data.input_shape, data.name) == (28, (5,), "story")


def story_cut() -> int:
    """Lines of the story that are before its last tenth, counted by hand."""
    lines, behind = story(), 0
    total = sum(map(len, lines))
    for number in reversed(range(len(lines))):
        behind += len(lines[number])
        if behind >= total / 10:
            return number
    raise AssertionError


def test_training_and_test_text_are_the_file_in_order_and_the_test_is_its_last_tenth(tmp_path):
    data = load(f"text:{write(tmp_path)}", root=tmp_path, tokens=1, vocabulary=28)
    lines = story()
    decoded = [data.tokenizer.decode(split.inputs.flatten()) for split in (data.train, data.test)]
    whole = "".join(line for line in lines).replace(" ", "")
    found = "".join(decoded).replace(" ", "")
    assert whole.startswith(found[:100])
    characters = [len(text.replace(" ", "")) for text in decoded]
    assert characters[1] / sum(characters) == pytest.approx(0.1, abs=0.03)
    assert decoded[1].replace(" ", "").startswith(lines[story_cut()].replace(" ", ""))


def test_every_file_of_a_folder_gives_its_last_tenth_to_the_test(tmp_path):
    for name in ("b.txt", "a.txt"):
        write(tmp_path / "books", name, [f"{name[0]} {line}" for line in story()])
    write(tmp_path / "books", "notes.md", ["nothing of this counts zzz"] * 9)
    data = load("text:books", root=tmp_path, tokens=1, vocabulary=28)
    for split in (data.train, data.test):
        text = data.tokenizer.decode(split.inputs.flatten())
        assert text.startswith("a ")
        assert text.count("a ") > text.count("b ") > 0
        assert "z" not in text
    assert not any("z" in piece for piece in data.class_names)


def test_text_comes_back_from_its_tokens_but_for_ends_of_lines_and_blank_lines():
    tokenizer = Tokenizer.trained(story(), 28)
    assert tokenizer.decode(tokenizer.encode(["the cat sat"])) == "the cat sat"
    end = tokenizer.pieces.index("</s>")
    tokens = tokenizer.encode(["the cat", "", "   ", "sat"])
    assert (tokens == end).sum() == 2
    assert tokens[-1] == end


def test_the_tokenizer_is_a_model_that_the_library_reads_and_tokenizes_like_ours(tmp_path):
    tokenizer = Tokenizer.trained(story(), 28)
    (tmp_path / "own.model").write_bytes(tokenizer.model)
    other = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "own.model"))
    assert other.vocab_size() == len(tokenizer) == len(tokenizer.pieces) == 28
    assert tokenizer.encode(["the rat ran"]).tolist() == [*other.encode("the rat ran"), other.eos_id()]
    assert Tokenizer.load(tmp_path / "own.model") == tokenizer


def test_the_same_text_gives_the_same_tokenizer_and_data_and_another_text_another():
    one, again, other = (Tokenizer.trained(story(seed=seed), 28) for seed in (0, 0, 1))
    assert one.model == again.model
    assert one.fingerprint == again.fingerprint != other.fingerprint


def test_the_test_text_does_not_reach_the_tokenizer(tmp_path):
    lines = story()
    changed = lines[: story_cut()] + [line[:-3] + "qqq" for line in lines[story_cut() :]]  # as long as before
    one, other = (
        load(f"text:{write(tmp_path, name, given)}", root=tmp_path, vocabulary=28, tokens=4)
        for name, given in (("one.txt", lines), ("other.txt", changed))
    )
    assert one.tokenizer == other.tokenizer
    assert not torch.equal(one.test.inputs, other.test.inputs)
    assert (other.test.inputs == one.class_names.index("<unk>")).any()


def test_a_tokenizer_that_is_given_is_used_as_it_is(tmp_path):
    tokenizer = Tokenizer.trained(story(seed=5), 30)
    (tmp_path / "own.model").write_bytes(tokenizer.model)
    for given in (tokenizer, tmp_path / "own.model"):
        data = load(f"text:{write(tmp_path)}", root=tmp_path, tokens=4, tokenizer=given)
        assert data.tokenizer == tokenizer
        assert data.classes == 30


def test_a_part_of_the_sequences_is_drawn_by_its_seed_and_stays_in_order(tmp_path):
    name = f"text:{write(tmp_path)}"
    whole = load(name, root=tmp_path, tokens=4, vocabulary=28).train.inputs
    parts = [
        load(name, root=tmp_path, tokens=4, vocabulary=28, train_examples=9, seed=s).train.inputs for s in (0, 0, 1)
    ]
    assert torch.equal(parts[0], parts[1])
    assert not torch.equal(parts[0], parts[2])
    places = [int((whole == row).all(1).nonzero()[0]) for row in parts[0]]
    assert len(parts[0]) == 9
    assert places == sorted(places)


def test_loading_text_leaves_the_global_random_state_alone(tmp_path):
    state = torch.random.get_rng_state()
    load(f"text:{write(tmp_path)}", root=tmp_path, tokens=4, vocabulary=28, train_examples=3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_text_of_one_line_is_cut_between_its_words(tmp_path):
    words = " ".join(story()).split()
    data = load(f"text:{write(tmp_path, lines=[' '.join(words)])}", root=tmp_path, tokens=1, vocabulary=24)
    assert data.tokenizer.decode(data.test.inputs.flatten()) == " ".join(words[324:])
    assert data.tokenizer.decode(data.train.inputs.flatten()) == " ".join(words[:324])


def test_a_line_longer_than_a_tenth_of_the_text_does_not_go_to_the_test_as_a_whole(tmp_path):
    title, words = " ".join(WORDS), " ".join(story()).split()
    data = load(f"text:{write(tmp_path, lines=[title, ' '.join(words)])}", root=tmp_path, tokens=1, vocabulary=24)
    part = data.tokenizer.decode(data.test.inputs.flatten()).split()
    assert part == words[-len(part) :]
    assert len(part) == pytest.approx(0.1 * len(title.split() + words), abs=3)
    assert data.tokenizer.decode(data.train.inputs.flatten()).startswith(title)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["text", "."])
def test_texts_with_a_name_are_found_in_the_root_or_in_its_folder_text(tmp_path, below):
    write(tmp_path / below, "wikitext2_valid.txt")
    write(tmp_path / below, "wikitext2_test.txt", story(20, seed=3))
    data = load("wikitext2", root=tmp_path, tokens=4, vocabulary=28)
    assert data.tokenizer.decode(data.test.inputs[0]).startswith(story(20, seed=3)[0][:6])
    assert data.train.inputs.numel() // 4 == (len(data.tokenizer.encode(story())) - 1) // 4
    assert status("wikitext2", tmp_path) == ("ready", str(tmp_path / below / "wikitext2_valid.txt"))


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_missing_is_named_with_the_place(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: there is no {TEXTS[name].train}.*{tmp_path}"):
        load(name, root=tmp_path)
    assert status(name, tmp_path)[0] == "missing"
    with pytest.raises(InputError, match="is a text and is not downloaded"):
        fetch(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinyshakespeare", "wikitext2"])
def test_real_texts_load_and_their_tokens_are_their_text(data_root, name):
    data = load(name, root=data_root, vocabulary=500)
    assert len(data.train) > 5000
    assert len(data.test) > 500
    text = data.tokenizer.decode(data.train.inputs.flatten()[:200])
    real = "".join((data_root / "text" / TEXTS[name].train).read_text(encoding="utf-8").split())
    assert text.replace(" ", "")[:100] in real[:2000]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["", "  "], {}, "the training text is empty"),
        (
            story(4),
            {"vocabulary": 21},
            r"the train text has \d+ tokens, and a sequence of 64 with labels needs 65",
        ),
        (None, {"tokens": 4, "vocabulary": 5}, "vocabulary=5 does not fit .* smaller than required_chars"),
        (None, {"tokens": 4, "vocabulary": 10_000}, "vocabulary=10000 does not fit .* too high"),
        (None, {"vocabulary": 2}, "vocabulary must be a whole number of pieces from 3"),
        (None, {"tokens": 0}, "tokens must be a whole number from 1"),
        (None, {"tokens": 4, "vocabulary": 28, "train_examples": 10_000}, r"must be a whole number in 1\.\."),
        (None, {"tokens": 1000, "vocabulary": 28}, "the train text has .* needs 1001"),
        (None, {"normalise": True}, "pad and normalise are for images"),
        (None, {"pad": 2}, "pad and normalise are for images"),
    ],
)
def test_text_and_arguments_that_give_no_sequences_are_refused(tmp_path, lines, options, message):
    with pytest.raises(InputError, match=message):
        load(f"text:{write(tmp_path, lines=lines)}", root=tmp_path, **options)


def test_text_that_is_empty_after_tokenizing_is_refused(tmp_path):
    tokenizer = Tokenizer.trained(story(), 28)
    with pytest.raises(InputError, match="the train text is empty after tokenizing"):
        load(f"text:{write(tmp_path, lines=['', ' '])}", root=tmp_path, tokenizer=tokenizer)


def test_unknown_files_and_files_that_are_no_text_are_refused(tmp_path):
    for name, message in (("text:nowhere.txt", "there is no file or folder .*nowhere"), ("text:", "there is no file")):
        with pytest.raises(InputError, match=message):
            load(name, root=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.txt file"):
        load("text:empty", root=tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(InputError, match=r"binary\.txt: cannot be read as UTF-8"):
        load("text:binary.txt", root=tmp_path)
    (tmp_path / "junk.model").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk\.model: not a SentencePiece model"):
        load(f"text:{write(tmp_path)}", root=tmp_path, tokenizer=tmp_path / "junk.model")
    with pytest.raises(InputError, match="no data set 'shakespeare'; the names are .*tinyshakespeare.*text:PATH"):
        load("shakespeare", root=tmp_path)


def test_a_text_without_a_root_says_what_to_give_and_a_whole_path_needs_none(tmp_path, monkeypatch):
    monkeypatch.delenv("SHAKETABLE_DATA", raising=False)
    with pytest.raises(InputError, match="--data-root"):
        load("text:story.txt")
    assert load(f"text:{tmp_path / write(tmp_path)}", tokens=4, vocabulary=28).classes == 28


def test_arguments_of_texts_are_refused_for_images():
    with pytest.raises(InputError, match="digits is no text; tokens and vocabulary would do nothing"):
        load("digits", tokens=4, vocabulary=28)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(InputError, match=r"pip install 'shaketable\[text\]'"):
        load_text(f"text:{tmp_path / write(tmp_path)}", None)


# --- tokenizer and network --------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """An embedding of some rows and logits for some tokens."""

    def __init__(self, rows: int, classes: int) -> None:
        super().__init__()
        self.table, self.place, self.out = nn.Embedding(rows, 4), nn.Embedding(3, 4), nn.Linear(4, classes)

    def forward(self, tokens):
        return self.out(self.table(tokens) + self.place(torch.arange(tokens.shape[1])))


def sequences(highest: int) -> Data:
    """Three sequences, the highest token in the last: two examples alone would not show it."""
    inputs = torch.tensor([[0, 1, 2], [2, 1, 0], [1, highest, 2]])
    return Data(inputs, inputs.roll(-1, 1), highest + 1)


def test_a_tokenizer_that_does_not_fit_the_embedding_is_refused_whichever_example_shows_it():
    with pytest.raises(InputError, match="token 9 and the embedding of the network has 9 rows"):
        Study(Tiny(9, 10).eval(), test=sequences(9))
    network = Tiny(10, 10).eval()  # positions have three rows and are not called with tokens
    assert Study(network, test=sequences(9)).classes == 10
    assert not network.table._forward_pre_hooks


def test_a_vocabulary_larger_than_the_logits_is_refused():
    with pytest.raises(InputError, match=r"label 9 at index \[2, 0\] is beyond the network's 9 classes"):
        Study(Tiny(10, 9).eval(), test=sequences(9))


def test_checking_tokens_touches_no_network_whose_inputs_are_numbers():
    data = Data(torch.zeros(2, 4), torch.tensor([0, 1]), 2)
    network = nn.Linear(4, 2)
    with tokens_checked(network, data):
        assert not network._forward_pre_hooks
