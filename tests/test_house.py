"""The house: rooms import only from the rooms below them, and the package costs little to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import shaketable

SOURCE = Path(shaketable.__file__).parent
ROOMS = [
    *["__init__", "errors", "identity", "files", "forward", "progress", "statistics", "params", "operators", "data"],
    *[
        "evaluate",
        "removal",
        "networks",
        "training",
        "topology",
        "perturb",
        "intervene",
        "pruning",
        "folding",
        "study",
        "foreign",
    ],
    *["engine", "probes", "measures", "bounds", "defense", "zoo", "estimators", "plots", "report", "cli", "__main__"],
]


def imports_of(path: Path, everywhere: bool) -> set[str]:
    """The rooms that a file imports, at its top or everywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "shaketable":
            found |= {"__init__" if alias.name.startswith("__") else alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("shaketable."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_from_rooms_below_it(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert room in ROOMS, f"{room} is not in the house; add it to ROOMS in its place"
    if room != "__init__":
        above = {other for other in imports_of(path, everywhere=False) if ROOMS.index(other) > ROOMS.index(room)}
        assert not above


def test_the_table_of_public_names_is_what_type_checkers_see_and_every_name_is_there():
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module.split(".")[1] for node in checked.body for alias in node.names}
    assert seen == shaketable._HOME
    assert all(getattr(shaketable, name) is not None for name in shaketable.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = shaketable.nothing


def test_importing_the_package_imports_nothing_heavier_than_torch():
    code = "import sys, shaketable; print(*(m for m in ('polars','altair','sklearn','rich','jinja2','datasets') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_nothing_below_the_figures_imports_a_plotting_library():
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if ROOMS.index(room) < ROOMS.index("plots"):
            text = path.read_text(encoding="utf-8")
            assert "import altair" not in text
            assert "vl_convert" not in text
