"""Text as tokens: plain files, a SentencePiece tokenizer trained on the training text, sequences with next-token labels."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shaketable.data.data import Data, Dataset
from shaketable.errors import InputError
from shaketable.forward import tensors_of
from shaketable.identity import fingerprint, generator_from

PREFIX = "text:"
TOKENS, VOCABULARY = 64, 1000
TEST_SHARE = 0.1
"""The share of each file, from its end, that is test text where no file is."""


@dataclass(frozen=True)
class Text:
    """A text that has a name: its files or folders below the data root or its folder ``text``; no test: split by position."""

    title: str
    origin: str
    licence: str
    train: str
    test: str = ""


TEXTS: dict[str, Text] = {
    "tinyshakespeare": Text(
        "Tiny Shakespeare, plays (by position: the last tenth is the test)",
        "Karpathy 2015, https://github.com/karpathy/char-rnn", "public domain", "tinyshakespeare.txt",
    ),
    "wikitext2": Text(
        "WikiText-2, its validation part for training, its test part for the test",
        "Merity et al. 2016, Pointer sentinel mixture models", "CC BY-SA 3.0",
        "wikitext2_valid.txt", "wikitext2_test.txt",
    ),
    "novels": Text(
        "English novels of 1847 to 1911 (by position: the last tenth of each is the test)",
        "Project Gutenberg", "public domain", "novels",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Tokenizer:
    """A SentencePiece model: pieces of words by number.

    Args:
        model: the bytes of the model's file. Equal bytes are equal tokenizers.

    Example:
        >>> tokenizer = Tokenizer.trained(["a cat sat", "a cat ran", "a rat sat"], 12)
        >>> len(tokenizer), tokenizer.decode(tokenizer.encode(["a cat ran"]))
        (12, 'a cat ran')
    """

    model: bytes = field(repr=False)

    @classmethod
    def trained(cls, lines: Iterable[str], vocabulary: int) -> "Tokenizer":
        """A unigram model with this many pieces, of which the first two are ``<unk>`` and ``</s>``, the end of a line.

        On one thread and from all lines, so that the same lines give the same bytes.

        Raises:
            InputError: no text, or fewer pieces than the text has characters, or more than it has words' parts.
        """
        if isinstance(vocabulary, bool) or not isinstance(vocabulary, int) or vocabulary < 3:
            raise InputError(f"vocabulary must be a whole number of pieces from 3, and {vocabulary!r} was given.")
        lines = [line for line in lines if line.strip()]
        if not lines:
            raise InputError("the training text is empty, so no tokenizer can be trained on it; give text.")
        written = io.BytesIO()
        try:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=written,
                vocab_size=vocabulary,
                model_type="unigram",
                character_coverage=1.0,
                max_sentence_length=max(10, *(len(line.encode()) + 1 for line in lines)),
                num_threads=1,
                unk_id=0,
                eos_id=1,
                bos_id=-1,
                pad_id=-1,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).rpartition("] ")[2] or str(error)
            raise InputError(
                f"vocabulary={vocabulary} does not fit the training text; choose another. SentencePiece says: {reason}"
            ) from error
        return cls(written.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer in a ``.model`` file of SentencePiece.

        Raises:
            InputError: no such file, or one that is no model.
        """
        try:
            found = cls(Path(path).read_bytes())
            len(found)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{path}: not a SentencePiece model ({error}); give the .model file of a tokenizer."
            ) from error
        return found

    def __len__(self) -> int:
        return self._processor.vocab_size()

    @property
    def pieces(self) -> tuple[str, ...]:
        """The text of each token, by its number; a space is written as U+2581."""
        return tuple(self._processor.id_to_piece(list(range(len(self)))))

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that name the model."""
        return fingerprint({"model": torch.frombuffer(bytearray(self.model), dtype=torch.uint8)})

    def encode(self, lines: Iterable[str]) -> Tensor:
        """The tokens of all lines in one row, each line that is not blank ended by the end-of-line token [M], int64."""
        processor = self._processor
        end, found = processor.eos_id(), []
        for tokens in processor.encode([line for line in lines if line.strip()]):
            found += [*tokens, end] if end >= 0 else tokens
        return torch.tensor(found, dtype=torch.int64)

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """The text of tokens [M]; ends of lines are left out."""
        return self._processor.decode([int(token) for token in tokens])

    @cached_property
    def _processor(self) -> Any:
        return _sentencepiece().SentencePieceProcessor(model_proto=self.model)


def is_text(name: str) -> bool:
    """Whether a data set's name is that of a text."""
    return name in TEXTS or name.startswith(PREFIX)


def load_text(
    name: str,
    root: Path | None,
    *,
    tokens: int = TOKENS,
    vocabulary: int = VOCABULARY,
    tokenizer: Tokenizer | str | Path | None = None,
    train_examples: int | None = None,
    test_examples: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A text as sequences of tokens, each labelled with the token behind it.

    The tokens of all files are one row each for training and test, cut into sequences of T; what is left over at the end is
    not used. Labels are the tokens one further on, so every token but the first is predicted once, from at most T - 1
    before it. Sequences go over ends of lines and of files.

    Args:
        name: one of `TEXTS`, or ``text:PATH``, a file or a folder of ``.txt`` files, below the root or absolute.
        root: the data root.
        tokens: T, the length of a sequence.
        vocabulary: pieces of the tokenizer, which is trained on the training text.
        tokenizer: a tokenizer, or the file of one, to be used as it is; ``vocabulary`` then means nothing.
        train_examples, test_examples: keep so many sequences, drawn by ``seed``, in their order; default all.
        seed: decides which sequences are kept, and nothing else.

    Returns: inputs and labels [N, T], int64; as many classes as pieces. A text that has no test files of its own is split
        by position: the lines of the last tenth of each file are the test; a line that is longer than a tenth is cut.

    Raises:
        InputError: an unknown file, text that is not UTF-8, text that is empty or has not a sequence after tokenizing, a
            vocabulary that does not fit, or no ``sentencepiece``.

    Deviates: the paper tokenizes LM1B, shuffled sentences, with 30,000 pieces; the kind of SentencePiece model and the length
        of sequences are not printed: ours are its default (unigram) and arguments.

    References: C. Zhang, S. Bengio, Y. Singer, Are all layers created equal?, 2022, section 5.1. T. Kudo, J. Richardson,
        SentencePiece, 2018.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise InputError(f"tokens must be a whole number from 1, the length of a sequence, and {tokens!r} was given.")
    train, test = _lines(name, root)
    if tokenizer is None:
        tokenizer = Tokenizer.trained(train, vocabulary)
    elif not isinstance(tokenizer, Tokenizer):
        tokenizer = Tokenizer.load(tokenizer)
    splits = [
        _sequences(tokenizer.encode(lines), tokens, name, word) for word, lines in (("train", train), ("test", test))
    ]
    classes = len(tokenizer)
    train_data, test_data = (
        Data(*_kept(*split, count, name, word, seed), classes)
        for split, count, word in zip(splits, (train_examples, test_examples), ("train", "test"), strict=True)
    )
    stem = Path(name.removeprefix(PREFIX)).stem
    return Dataset(stem, train_data, test_data, tokenizer.pieces, tokenizer=tokenizer)


def place(name: str, root: Path | None) -> tuple[Path, Path | None]:
    """Where the training text and the test text of a name lie; without the latter it is split by position.

    Raises:
        InputError: they do not lie there.
    """
    if name in TEXTS:
        assert root is not None
        files = [file for file in (TEXTS[name].train, TEXTS[name].test) if file]
        for folder in (root / "text", root):
            if all((folder / file).exists() for file in files):
                return folder / files[0], folder / files[1] if files[1:] else None
        raise InputError(
            f"{name}: there is no {' and '.join(files)} in {root / 'text'} or {root}; put it there, or give your own text "
            f"as {PREFIX}FILE."
        )
    path = Path(name.removeprefix(PREFIX)).expanduser()
    path = path if path.is_absolute() or root is None else root / path
    if name == PREFIX or not path.exists():
        raise InputError(f"{name}: there is no file or folder {path}; give a text as {PREFIX}FILE_OR_FOLDER.")
    return path, None


@contextmanager
def tokens_checked(network: nn.Module, data: Data) -> Iterator[None]:
    """While this holds, an embedding that is called with the data's tokens refuses data with a token beyond its rows.

    Every example counts, whichever ones the network is called with.

    Raises:
        InputError: the tokenizer does not fit the embedding.
    """
    integers = {t.data_ptr(): t for t in tensors_of(data.inputs).values() if t.dtype in (torch.int64, torch.int32)}

    def check(module: Any, args: tuple[Any, ...]) -> None:
        tensor = integers.get(args[0].data_ptr()) if args and isinstance(args[0], Tensor) else None
        rows = module.num_embeddings
        if tensor is not None and not 0 <= int(tensor.min()) <= int(tensor.max()) < rows:
            beyond = int(tensor.min()) if int(tensor.min()) < 0 else int(tensor.max())
            raise InputError(
                f"the data hold token {beyond} and the embedding of the network has {rows} rows, numbered from 0; "
                "use the tokenizer that the network was trained with."
            )

    embeddings = [module for module in network.modules() if isinstance(module, nn.Embedding)] if integers else []
    handles = [module.register_forward_pre_hook(check) for module in embeddings]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sentencepiece() -> Any:
    """The library, imported where it is used."""
    try:
        import sentencepiece
    except ImportError as error:
        raise InputError("text needs the sentencepiece library: pip install 'shaketable[text]'.") from error
    return sentencepiece


def _lines(name: str, root: Path | None) -> tuple[list[str], list[str]]:
    """The lines of the training text and of the test text."""
    train, test = place(name, root)
    if test is not None:
        return [[line for lines in map(_read, _files(path)) for line in lines] for path in (train, test)]  # pyright: ignore
    first, last = [], []
    for lines in map(_read, _files(train)):
        before, behind = _split(lines)
        first, last = first + before, last + behind
    return first, last


def _files(path: Path) -> list[Path]:
    """The file, or the ``.txt`` files of the folder in the order of their names."""
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: holds no .txt file; put text there or name a file.")
    return files


def _read(path: Path) -> list[str]:
    """The lines of a file."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}); convert it.") from error


def _split(lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines before and in the last tenth of the characters; a line that is longer than that is cut between its words."""
    left = share = TEST_SHARE * sum(map(len, lines))
    for number in reversed(range(len(lines))):
        line = lines[number]
        if len(line) < left:
            left -= len(line)
        elif len(line) <= share:
            return lines[:number], lines[number:]
        else:
            words = line.split()
            cut = len(words) - round(left / len(line) * len(words))
            return [*lines[:number], " ".join(words[:cut])], [" ".join(words[cut:]), *lines[number + 1 :]]
    return [], []


def _sequences(row: Tensor, tokens: int, name: str, word: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels [N, T] of one row of tokens."""
    count = (len(row) - 1) // tokens
    if count < 1:
        what = (
            "is empty"
            if not len(row)
            else f"has {len(row)} tokens, and a sequence of {tokens} with labels needs {tokens + 1}"
        )
        raise InputError(f"{name}: the {word} text {what} after tokenizing; give more text, or shorter sequences.")
    return row[: count * tokens].reshape(count, tokens), row[1 : count * tokens + 1].reshape(count, tokens)


def _kept(inputs: Tensor, labels: Tensor, count: int | None, name: str, word: str, seed: int) -> tuple[Tensor, Tensor]:
    """All sequences, or so many of them in their order."""
    if count is None:
        return inputs, labels
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(labels):
        raise InputError(
            f"{word}_examples of {name} must be a whole number in 1..{len(labels)}, and {count!r} was given."
        )
    generator = generator_from(seed, name, word, "examples")
    indices = torch.randperm(len(labels), generator=generator)[:count].sort().values
    return inputs[indices], labels[indices]
