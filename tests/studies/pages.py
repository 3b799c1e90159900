"""What ties a page of results to the folder that a study wrote: its tables, its pictures, its recipes."""

import json
import re
from pathlib import Path

from shaketable.training import Recipe

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PICTURES = (".png", ".svg")


def tables_of(path: Path) -> list[str]:
    """The tables in a file of Markdown."""
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    found = [block.strip() for block in blocks if block.strip().startswith("|")]
    assert found, f"{path} has no table"
    return found


def missing_tables(page: Path, written: list[Path]) -> list[str]:
    """The files of which a table is not in the page."""
    assert written
    text = page.read_text(encoding="utf-8")
    return [path.name for path in written if not all(table in text for table in tables_of(path))]


def shown_files(page: Path) -> set[Path]:
    """The files below the page's folder that it shows or links to."""
    text = page.read_text(encoding="utf-8")
    return {(page.parent / link).resolve() for link in re.findall(r"\]\(((?!https?:)[^)#]+)\)", text)}


def recipes_of(folder: Path) -> list[Recipe]:
    """The recipes of the networks in a study's ``results.json``."""
    networks = json.loads((folder / "results.json").read_text(encoding="utf-8"))["networks"]
    return [Recipe.from_dict(network["recipe"]) for network in networks]
