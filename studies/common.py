"""What the studies share: their command line, training and probing a recipe, and writing what was found."""

import argparse
import io
import json
import platform
import shlex
import struct
import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch

from shaketable import __version__, plots
from shaketable.files import write_atomically, write_text
from shaketable.params import Grouping
from shaketable.probes import Robustness, robustness
from shaketable.probes.result import FULL_MODEL
from shaketable.study import Study
from shaketable.training import Recipe, Run, train


@dataclass(frozen=True)
class Setting:
    """What a study trains, in order, and how it probes each network.

    Args:
        recipes: one network each; a study finds its groups in their fields.
        draws: fresh draws per layer for re-randomisation; 0 leaves it out.
        checkpoints: epochs that layers are re-initialised to; None for all that were kept.
    """

    recipes: Sequence[Recipe]
    draws: int = 5
    checkpoints: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Options:
    """The command line of a study."""

    setting: str
    data_root: Path | None
    out: Path
    runs: Path
    device: str
    command: str
    only: tuple[str, ...] = ()


def options(
    study: str, about: str, arguments: Sequence[str] | None = None, parts: tuple[str, ...] | None = None
) -> Options:
    """The options of ``python -m studies.<study>``; with ``parts``, ``--only`` chooses some of them."""
    parser = argparse.ArgumentParser(prog=f"python -m studies.{study}", description=about)
    parser.add_argument("--setting", choices=("small", "full"), default="small", help="for two cores, or the paper's")
    parser.add_argument("--data-root", type=Path, help="where data sets lie; default $SHAKETABLE_DATA")
    parser.add_argument("--out", type=Path, help="where tables and pictures go; default runs/<study>/<setting>")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where trained networks lie (default runs)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default cpu)")
    if parts:
        parser.add_argument("--only", nargs="+", choices=parts, metavar="PART", help=f"some of {', '.join(parts)}")
    given = sys.argv[1:] if arguments is None else list(arguments)
    values = vars(parser.parse_args(given))
    values["only"] = tuple(values.get("only") or ())
    values["out"] = values["out"] or Path("runs") / study / values["setting"]
    return Options(**values, command=shlex.join(["python", "-m", f"studies.{study}", *given]))


def trained(recipes: Sequence[Recipe], chosen: Options) -> list[Run]:
    """The finished run of each recipe; what is trained already is found, not trained again."""
    runs = []
    for number, recipe in enumerate(recipes, start=1):
        print(f"{number}/{len(recipes)} {recipe.folder_name}", file=sys.stderr, flush=True)
        runs.append(train(recipe, out=chosen.runs, data_root=chosen.data_root, device=chosen.device))
    return runs


def probe(setting: Setting, chosen: Options, by: Grouping = "block", **arguments: Any) -> list[Robustness]:
    """The robustness of each recipe's network on its test data; what is done already is read, not done again.

    What ``shaketable.robustness`` is asked beyond the setting stands in ``arguments``.
    """
    return [
        robustness(
            Study.from_run(run.path, chosen.data_root, chosen.device),
            by,
            checkpoints=setting.checkpoints,
            draws=setting.draws,
            splits=["test"],
            store=run.path / "robustness",
            command=chosen.command,
            **arguments,
        )
        for run in trained(setting.recipes, chosen)
    ]


def label(result: Robustness) -> str:
    """A short name of a result's network: that of its architecture."""
    return result.provenance["recipe"]["network"]


def write_facts(networks: Iterable[Robustness | Run], chosen: Options) -> None:
    """``results.json``: the command, versions, and for each network its recipe, errors and seconds."""
    known = [_facts(network) for network in networks]
    facts = {
        "command": chosen.command,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "shaketable": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": chosen.device,
        "threads": torch.get_num_threads(),
        "networks": known,
        "seconds": round(sum(one["training_seconds"] + one.get("robustness_seconds", 0) for one in known)),
    }
    write_text(chosen.out / "results.json", json.dumps(facts, indent=1) + "\n")


def versions() -> dict[str, Any]:
    """What the last digits depend on."""
    return {"shaketable": __version__, "torch": torch.__version__, "threads": torch.get_num_threads()}


def _facts(network: Robustness | Run) -> dict[str, Any]:
    """What there is to know of one network, and of its robustness where that was measured."""
    history = network.history
    assert history is not None  # every study's networks come from runs
    last = history.row(-1, named=True)
    errors = {name: last[name] for name in ("train_loss", "train_error", "test_loss", "test_error")}
    trained = {"training_seconds": round(last["seconds"], 1)}
    if isinstance(network, Run):
        return {"run": network.path.name, "recipe": network.recipe.to_dict(), **errors, **trained}
    return {
        "run": network.provenance["run"],
        "recipe": network.provenance["recipe"],
        **errors,
        "test_examples": network.table["examples"].max(),
        **trained,
        "robustness_seconds": network.provenance["seconds"],
        "robustness_created": network.provenance["created"],
    }


def write_table(frame: pl.DataFrame, path: Path) -> None:
    """A table as CSV; fractions with six digits behind the point."""
    write_atomically(path, lambda part: frame.write_csv(part, float_precision=6))


def write_figure(chart: Any, folder: Path, name: str, svg: bool = True) -> None:
    """A figure as a PNG small enough to be committed, and as SVG."""
    if svg:
        plots.save(chart, folder / f"{name}.svg")
    drawn = io.BytesIO()
    chart.save(drawn, format="png", scale_factor=1)
    write_atomically(folder / f"{name}.png", lambda part: part.write_bytes(smaller_png(drawn.getvalue())))


def smaller_png(png: bytes) -> bytes:
    """The same picture, to the pixel, with its data compressed as far as zlib does: a tenth of what the renderer writes."""
    chunks, at = [], 8  # behind the signature: length, kind, data and checksum of each chunk
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        chunks.append((kind, png[at + 8 : at + 8 + length]))
        at += 12 + length
    pixels = zlib.compress(zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT")), 9)
    first = next(number for number, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    others = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    whole = [*others[:first], (b"IDAT", pixels), *others[first:]]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in whole]
    return png[:8] + b"".join(parts)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def robustness_markdown(result: Robustness) -> str:
    """The numbers of the heat map: test error in per cent for each layer, and for the full model, at each column."""
    cells, layers, columns = plots.cells(result.summary(), "test", "error")
    names = [*layers, FULL_MODEL]
    values = {(cell["layer"], cell["column"]): cell for cell in cells}
    moved = result.distances.filter(pl.col("checkpoint") == 0)
    distance = {row["layer"]: row for row in moved.to_dicts()}
    rows = []
    for name in names:
        row = [name, *(_percent(values.get((name, column))) for column in columns)]
        far = distance.get(name)
        rows.append([*row, f"{far['normalised_l2']:.4f}" if far else "", f"{far['linf']:.3f}" if far else ""])
    return markdown(["layer", *columns, "2-norm / √dimension moved", "∞-norm moved"], rows)


def _percent(cell: dict[str, Any] | None) -> str:
    """An error in per cent, with its standard deviation over draws."""
    if cell is None or cell["error"] is None:
        return ""
    spread = "" if cell["error_std"] is None else f" ± {100 * cell['error_std']:.1f}"
    return f"{100 * cell['error']:.1f}{spread}"


def write_robustness(results: Sequence[Robustness], names: Sequence[str], chosen: Options) -> None:
    """For each network its heat map, curves and distances as pictures and tables, and one ``table.md`` for all."""
    texts = []
    for result, name in zip(results, names, strict=True):
        summary, end = result.summary(), f"-{name}" if name else ""
        classes = result.provenance["classes"]
        write_table(summary, chosen.out / f"robustness{end}.csv")
        write_table(result.distances, chosen.out / f"distances{end}.csv")
        write_figure(plots.robustness_heatmap(summary, "test", classes=classes), chosen.out, f"heatmap{end}")
        plots.save(plots.robustness_curves(summary, "test"), chosen.out / f"curves{end}.svg")
        for norm in plots.DISTANCES:
            plots.save(plots.distance_heatmap(result.distances, norm), chosen.out / f"distance-{norm}{end}.svg")
        texts.append((f"**{name}**\n\n" if name else "") + robustness_markdown(result))
    write_text(chosen.out / "table.md", "\n".join(texts))
    write_facts(results, chosen)
