"""Studies of models of the transformers library: as they come, with the inputs and labels that it gives them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shaketable.data import Data, as_data
from shaketable.data.data import IGNORED
from shaketable.errors import InputError
from shaketable.foreign.experts import put_together
from shaketable.study import Study

LABELS = ("labels", "label")
EXTRA = "models by name need an extra: pip install 'shaketable[huggingface]', or give the model itself."
PART = 64
"""Images that a processor is given together."""


def from_huggingface(
    model: Any,
    data: Any = None,
    tokenizer: Any = None,
    processor: Any = None,
    *,
    train: Any = None,
    length: int = 128,
    text: str | Sequence[str] = "text",
    image: str = "image",
    label: str = "label",
    shift: bool | None = None,
    **arguments: Any,
) -> Study:
    """The study of a model of the transformers library, with data in any form that the library works with.

    ``data`` (and ``train``) may be

    - texts: one string or a list of them, for a causal language model: tokenised, put one behind the other and cut into rows
      of ``length`` tokens, each token's label the next one; what fills no row is left out;
    - a pair (texts, labels) with a tokenizer, or (images, labels) with a processor;
    - what a tokenizer or processor returns, or any other dict: tensors or lists [N, ...] by name, with ``labels`` (or
      ``label``); a causal language model's own ``input_ids`` serve where there are none; a list of such dicts, one an
      example, or a ``DataLoader`` that gives such dicts;
    - a ``datasets.Dataset`` with columns ``input_ids``, or ``text`` and ``label``, or ``image`` and ``label``;
    - all that :class:`shaketable.Study` takes, as it is.

    Labels follow the library: -100 is not scored; a causal language model is given labels like its inputs, and scored on the
    next one (they are shifted here, as the model's own loss does it); padding (``attention_mask`` 0) is not scored where
    labels are made here, and neither is what would be predicted from it, padded on the left. Labels that are names, or
    numbers of a data set whose class names are the model's in another order, are translated by the model's ``label2id``.
    Not done: regression, several labels an example, generation.

    Args:
        model: a ``PreTrainedModel`` in evaluation mode, or the name or folder of one, loaded as the class that its
            configuration names.
        data: the test data.
        tokenizer, processor: called as the library's are.
        train: the training data, in the same forms.
        length: tokens in a row, at most.
        text, image, label: columns of a data set; two columns of texts are given to the tokenizer as a pair.
        shift: whether labels in dicts are those of a causal language model; by the model's class if left out.
        arguments: of :class:`shaketable.Study`: ``init``, ``checkpoints``, ``share=True``, ``name``, ...

    Returns: the study. Fresh draws come from the model's own ``initialize_weights`` where it has it (``distribution`` says
        ``initialiser``); rotary tables and other buffers that are not saved belong to no layer and are never reset.

    Raises:
        InputError: transformers is not installed, a tokenizer that does not fit the model's embedding or outputs, text that is
            empty after tokenising, tokens beyond the vocabulary, packed (quantised) weights, labels that are missing or
            no classes.

    Cost: the data are tokenised once and stay in memory.

    Example:
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)
        ...     def forward(self, input_ids):
        ...         return self.head(self.embed(input_ids))
        >>> study = from_huggingface(Model().eval(), {"input_ids": [[0, 1, 2]], "labels": [[0, 1, 2]]}, shift=True)
        >>> study.test.labels.tolist(), study.task
        ([[1, 2, -100]], 'language modelling')
    """
    if isinstance(model, str | Path):
        model = _loaded(model)
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; give a model of transformers, or its name or folder.")
    _refuse_packed(model)
    _check_fit(model, tokenizer)
    reader = _Reader(
        model, tokenizer, processor, length, text, image, label, _is_causal(model) if shift is None else shift
    )
    if hasattr(model, "initialize_weights"):
        arguments.setdefault("initialise", initialise)
    name = getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
    arguments.setdefault("name", Path(name).name)
    return Study(model, test=reader.data(data, "test"), train=reader.data(train, "train"), **arguments)


def initialise(model: Any, generator: torch.Generator) -> None:
    """Redraw a transformers model in place by its own rule, which draws from torch's global generator (seeded by the caller)."""
    for module in model.modules():
        vars(module).pop("_is_hf_initialized", None)  # left by from_pretrained: "do not touch"
    with put_together(model):
        model.initialize_weights()


class _Reader:
    """Turns what people have into data for one model."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        processor: Any,
        length: int,
        text: str | Sequence[str],
        image: str,
        label: str,
        shift: bool,
    ) -> None:
        if isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise InputError(f"length={length!r}: give the number of tokens in a row, a whole number from 1.")
        self.model, self.tokenizer, self.processor, self.length = model, tokenizer, processor, length
        self.text, self.image, self.label, self.shift = text, image, label, shift
        self.texts = (text,) if isinstance(text, str) else tuple(text)

    def data(self, given: Any, split: str) -> Data | None:
        """Data of one split; errors name it."""
        if given is None:
            return None
        try:
            return self._read(given)
        except InputError as error:
            raise InputError(f"{split} data: {error}") from error

    def _read(self, given: Any) -> Data:
        if isinstance(given, str) or _all(given, str):
            return self._stream([given] if isinstance(given, str) else list(given))
        if hasattr(given, "column_names") and hasattr(given, "features"):
            return self._columns(given)
        if isinstance(given, tuple) and len(given) == 2 and _is_raw(given[0]):
            inputs, labels = given
            return self._raw(list(inputs), labels)
        if isinstance(given, Mapping):
            return self._dict(given)
        batches = self._dicts(given)
        if batches is not None:
            return self._dict(batches)
        return as_data(given)

    def _stream(self, texts: list[str]) -> Data:
        """Rows of tokens of a running text, each with the next token as its label."""
        if not self.shift:
            raise InputError(
                f"{type(self.model).__name__} is no causal language model, and texts alone have no labels; give (texts, labels)."
            )
        ids = [token for row in self._tokens(texts)["input_ids"] for token in row]
        if len(ids) < 2:
            raise InputError(f"the text has {len(ids)} tokens after tokenising; give text with at least two.")
        length = min(self.length, len(ids) - 1)
        rows = (len(ids) - 1) // length
        stream = torch.tensor(ids[: rows * length + 1])
        return self._finished({"input_ids": stream[:-1].reshape(rows, length)}, stream[1:].reshape(rows, length))

    def _tokens(self, texts: list[Any], pairs: list[Any] | None = None, **options: Any) -> Any:
        """What the tokenizer says."""
        if self.tokenizer is None:
            raise InputError("these are texts; give the tokenizer that the model was trained with: tokenizer=...")
        if not texts:
            raise InputError("there are no texts; give at least one.")
        return self.tokenizer(texts, **({} if pairs is None else {"text_pair": pairs}), **options)

    def _raw(self, inputs: list[Any], labels: Any, pairs: list[Any] | None = None) -> Data:
        """Texts or images, with a label each."""
        if isinstance(inputs[0], str):
            found = self._tokens(
                inputs, pairs, padding=True, truncation=True, max_length=self.length, return_tensors="pt"
            )
            if not found["input_ids"].numel():
                raise InputError("the texts are empty after tokenising; give texts with at least one token.")
        elif self.processor is None:
            raise InputError("these are images; give the image processor of the model: processor=...")
        else:
            parts = [
                self.processor(images=inputs[start : start + PART], return_tensors="pt")
                for start in range(0, len(inputs), PART)
            ]
            found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return self._dict({**found, "labels": labels}, made_here=True)

    def _columns(self, dataset: Any) -> Data:
        """A data set of the datasets library, told by its columns."""
        columns = list(dataset.column_names)
        names = getattr(dataset.features.get(self.label), "names", None)
        if "input_ids" in columns:
            wanted = [
                name for name in columns if name in (*LABELS, self.label) or name in _accepted(self.model, columns)
            ]
            given = {name: dataset[name][:] for name in wanted}
            if self.label in given and self.label not in LABELS:
                given["labels"] = given.pop(self.label)
            return self._dict(given)
        inputs = self.texts if self.texts[0] in columns else (self.image,)
        for column in (*inputs, *(() if self.shift and self.label not in columns else (self.label,))):
            if column not in columns:
                raise InputError(
                    f"there is no column {column!r}; the columns are {', '.join(columns)}: name them with text=, image=, label=."
                )
        first = list(dataset[inputs[0]][:])
        if self.label not in columns:
            return self._stream(first)
        labels = list(dataset[self.label][:])
        if names and self._known(names):
            labels = [names[number] if number >= 0 else number for number in labels]
        return self._raw(first, labels, list(dataset[inputs[1]][:]) if len(inputs) > 1 else None)

    def _known(self, names: Sequence[str]) -> bool:
        """Whether the names of a data set's classes are those of the model."""
        return {name.lower() for name in names} == {name.lower() for name in self._ids()}

    def _ids(self) -> Mapping[str, int]:
        """The model's numbers of its classes, by name."""
        return getattr(getattr(self.model, "config", None), "label2id", None) or {}

    def _dicts(self, given: Any) -> dict[str, Any] | None:
        """A list or data set of dicts (one an example), or a loader of dicts (one a batch), as one dict; None if it is neither."""
        if isinstance(given, tuple | Tensor | np.ndarray | Data) or not hasattr(given, "__len__") or not len(given):
            return None
        batched = isinstance(given, torch.utils.data.DataLoader)
        if not batched and not (hasattr(given, "__getitem__") and isinstance(given[0], Mapping)):
            return None
        items = list(given) if batched else [given[index] for index in range(len(given))]
        if not all(isinstance(item, Mapping) and set(item) == set(items[0]) for item in items):
            return None
        columns = {name: [item[name] for item in items] for name in items[0]}
        return (
            {name: [row for batch in found for row in batch] for name, found in columns.items()} if batched else columns
        )

    def _dict(self, given: Mapping[str, Any], made_here: bool = False) -> Data:
        """Inputs by name, with their labels."""
        found = {name: value for name, value in given.items() if value is not None and name not in LABELS}
        labels = next((given[name] for name in LABELS if given.get(name) is not None), None)
        accepted = _accepted(self.model, list(found))
        inputs = {name: self._tensor(name, value) for name, value in found.items() if name in accepted}
        if not inputs:
            raise InputError(
                f"none of {', '.join(map(repr, found)) or 'these'} is an input of {type(self.model).__name__}."
            )
        if labels is None:
            if not (self.shift and "input_ids" in inputs):
                raise InputError(f"there are no labels; the names are {', '.join(given)}: give them as 'labels'.")
            labels = _next(inputs["input_ids"])
            if "attention_mask" in inputs:
                padding = inputs["attention_mask"] == 0
                labels[padding | (_next(inputs["attention_mask"]) == 0)] = IGNORED  # neither from padding nor to it
            return self._finished(inputs, labels)
        numbers = self._numbers(labels)
        if numbers.ndim > 1 and self.shift and not made_here:
            numbers = _next(numbers)
        return self._finished(inputs, numbers)

    def _tensor(self, name: str, value: Any) -> Tensor:
        """One input as a tensor; rows of tokens that differ in length are padded where it is clear with what."""
        if isinstance(value, Tensor):
            return value
        rows = [torch.as_tensor(row) for row in value]
        if len({row.shape for row in rows}) > 1:
            fill = _padding(name, self.tokenizer, self.model)
            if fill is None or any(row.ndim != 1 for row in rows):
                raise InputError(f"{name}: the examples have different shapes; pad them to one.")
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)
        return torch.stack(rows) if rows else torch.empty(0)

    def _numbers(self, labels: Any) -> Tensor:
        """Labels as numbers of the model's classes."""
        if _all(labels, str):
            known = {name.lower(): number for name, number in self._ids().items()}
            for name in labels:
                if name.lower() not in known:
                    raise InputError(
                        f"label {name!r} is no class of the model; it has {', '.join(self._ids()) or 'no names'}."
                    )
            return torch.tensor([known[name.lower()] for name in labels])
        found = self._tensor("labels", labels)
        if (
            found.is_floating_point()
            or getattr(getattr(self.model, "config", None), "problem_type", None) == "regression"
        ):
            raise InputError("labels are numbers to be predicted, not classes; 0-1 errors need one class an example.")
        return found

    def _finished(self, inputs: dict[str, Tensor], labels: Tensor) -> Data:
        """Data whose tokens the model has; decoder inputs of an encoder-decoder are made from the labels, as it does itself."""
        size = _vocabulary(self.model)
        if "input_ids" in inputs and size is not None and inputs["input_ids"].numel():
            highest = int(inputs["input_ids"].max())
            if highest >= size:
                raise InputError(
                    f"token {highest} is beyond the model's embedding of {size} tokens; use the tokenizer of this very model."
                )
        prepare: Callable[..., Tensor] | None = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        wanted = prepare is not None and labels.ndim > 1 and bool(_accepted(self.model, ["decoder_input_ids"]))
        if prepare is not None and wanted and "decoder_input_ids" not in inputs:
            try:
                inputs = inputs | {"decoder_input_ids": prepare(labels=labels)}
            except (AttributeError, ValueError) as error:
                raise InputError(
                    f"{type(self.model).__name__} makes no decoder inputs of labels ({error}); set decoder_start_token_id and "
                    "pad_token_id in its configuration, or give decoder_input_ids."
                ) from error
        return as_data((inputs, labels))


def _loaded(name: str | Path) -> Any:
    """A model by name or folder, as the class that its configuration names, in evaluation mode."""
    try:
        import transformers
    except ImportError as error:
        raise InputError(EXTRA) from error
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        return kind.from_pretrained(name).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{name}: transformers cannot load it ({reason}); give its folder, or the model itself."
        ) from error


def _refuse_packed(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            raise InputError(
                f"{name!r} holds packed weights ({parameter.dtype}); load the model without quantisation: they cannot be perturbed."
            )


def _check_fit(model: nn.Module, tokenizer: Any) -> None:
    """One error for a tokenizer with more tokens than the model's embedding or outputs have."""
    if tokenizer is None or not hasattr(tokenizer, "__len__"):
        return
    rows, outputs = _vocabulary(model), getattr(_part(model, "get_output_embeddings"), "out_features", None)
    for size, what in ((rows, "embedding"), (outputs, "output layer")):
        if size is not None and len(tokenizer) > size:
            raise InputError(
                f"the tokenizer has {len(tokenizer)} tokens and the model's {what} {size}; use the tokenizer of this very model."
            )


def _vocabulary(model: nn.Module) -> int | None:
    """How many tokens the model's embedding has."""
    return getattr(_part(model, "get_input_embeddings"), "num_embeddings", None)


def _part(model: nn.Module, name: str) -> Any:
    """What a method of the model without arguments returns; None where it has none, or cannot say."""
    try:
        return getattr(model, name)()
    except (AttributeError, NotImplementedError):  # what transformers raises where a model has no such part
        return None


def _is_causal(model: nn.Module) -> bool:
    """Whether a model predicts the next token and shifts its labels itself: by the names of its class and their parents."""
    names = [kind.__name__ for kind in type(model).__mro__]
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def _accepted(model: nn.Module, names: Sequence[str]) -> set[str]:
    """Those names that the model takes as inputs, as its forward says."""
    parameters = inspect.signature(model.forward).parameters
    takes_all = "input_ids" not in parameters and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name for name in names if takes_all or name in parameters}


def _padding(name: str, tokenizer: Any, model: nn.Module) -> int | None:
    """What an input that is too short is filled with."""
    if name == "input_ids":
        found = getattr(tokenizer, "pad_token_id", None)
        found = getattr(getattr(model, "config", None), "pad_token_id", None) if found is None else found
        return found if found is not None and found >= 0 else None
    return {"attention_mask": 0, "token_type_ids": 0, "labels": IGNORED}.get(name)


def _next(labels: Tensor) -> Tensor:
    """Labels like the inputs as labels of the next token: those of the last position are not scored."""
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], 1)


def _all(value: Any, kind: type) -> bool:
    """Whether a value is a list or tuple of such things, and of nothing else."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(item, kind) for item in value)


def _is_raw(inputs: Any) -> bool:
    """Whether inputs are texts or PIL images."""
    return (
        isinstance(inputs, list | tuple)
        and len(inputs) > 0
        and (isinstance(inputs[0], str) or hasattr(inputs[0], "getbands"))
    )
