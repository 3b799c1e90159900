"""Data: sources by name, conversion from what you have, label corruption, augmentation, batches on a device."""

from shaketable.data.augmentation import STEPS, Augmentation
from shaketable.data.convert import as_data, from_huggingface
from shaketable.data.corruption import corrupt_labels
from shaketable.data.data import Data, Dataset, Normalisation
from shaketable.data.download import fetch
from shaketable.data.sources import ROOT_VARIABLE, SOURCES, Source, load, status
from shaketable.data.text import TEXTS, Text, Tokenizer

__all__ = [
    "ROOT_VARIABLE",
    "SOURCES",
    "STEPS",
    "TEXTS",
    "Augmentation",
    "Data",
    "Dataset",
    "Normalisation",
    "Source",
    "Text",
    "Tokenizer",
    "as_data",
    "corrupt_labels",
    "fetch",
    "from_huggingface",
    "load",
    "status",
]
