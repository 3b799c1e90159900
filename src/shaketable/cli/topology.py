"""The commands about networks before training: mass, design."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from shaketable.cli.source import Source, command_typed, opened, own_network
from shaketable.cli.terminal import Json, Pairs, Root, app, finish, pairs, table, wrapped

Sizes = Annotated[str | None, Parameter(negative=(), allow_leading_hyphen=True)]
"""Whole numbers with commas between."""
SHOWN = 12
"""Designs that are listed."""
Shape = Annotated[list[int] | None, Parameter(negative=(), consume_multiple=True)]


@app.command(
    name="mass",
    help_epilogue="""Examples:
  shaketable mass --depth 4 --width 2,3,4 --links 3,4,5
  shaketable mass --depth 20 --width 32,64,128 --links 90,170,300 --json
  shaketable mass runs/RUN
  shaketable mass --network densenet121 --shape 3 224 224
  shaketable mass --network my_models:build --shape 3 32 32""",
)
def mass_(
    run: Path | None = None,
    *,
    depth: Sizes = None,
    width: Sizes = None,
    links: Sizes = None,
    mlp: bool = False,
    network: str | None = None,
    network_arg: Pairs = None,
    shape: Shape = None,
    classes: int = 10,
    additive: Literal["none", "bhardwaj2021"] = "none",
    report: Path | None = None,
    data_root: Root = None,
    json: Json = False,
) -> None:
    """NN-Mass and NN-Density of a network before it is trained, with its parameters and FLOPs.

    Either --depth, --width and --links of a design, or RUN, or --network: then from the network's graph. The report draws the
    cells of a linked network and their links.

    Parameters
    ----------
    run
        The folder of a run.
    depth
        Layers of each cell: one number for all cells, or one for each.
    width
        Channels of the layers of each cell.
    links
        Earlier channels that a layer of each cell is linked to at most.
    mlp
        The cells are fully connected.
    network
        A name of `shaketable networks`, or MODULE:FUNCTION of your own that returns a torch module.
    network_arg
        An argument of the network as NAME=VALUE; may be repeated.
    shape
        Channels, height and width of an image; default 3 32 32.
    classes
        Number of classes.
    additive
        What residual skips of a network count for: none, or bhardwaj2021 (the follow-up paper's form).
    report
        An HTML file for the cells and links of a linked network; with RUN they go into its report.
    """
    from shaketable.errors import InputError

    image = tuple(shape or (3, 32, 32))
    designed = any(one is not None for one in (depth, width, links))
    if designed + (run is not None) + (network is not None) != 1:
        raise InputError(
            "give one of these: --depth, --width and --links of a design, the folder of a run, or --network."
        )
    if designed and (network_arg or additive != "none"):
        raise InputError("--network-arg and --additive are for --network or a run; leave them out for a design.")
    if mlp and not designed:
        raise InputError("--mlp is for --depth, --width and --links of a design; leave it out.")
    if not designed:
        _of_network(
            run, network, pairs(network_arg, "--network-arg") or {}, image, classes, additive, report, data_root, json
        )
        return
    from shaketable.topology import topology

    found = topology(_cells(depth, width, links), image, classes, mlp)
    rows = [
        ("NN-Mass", f"{found.nn_mass:.4g}"),
        ("NN-Density", f"{found.nn_density:.4g}"),
        ("density of each cell", ", ".join(f"{one:.4g}" for one in found.cell_density)),
        ("parameters", f"{found.parameters:,}"),
        ("FLOPs", f"{found.flops:,}"),
    ]
    name = f"linked-{'mlp-' if mlp else ''}{found.cells}"
    told: list[object] = [table((name, ""), rows), wrapped(found.notes)]
    answer = found.to_dict() | {"network": name}
    if report is not None:
        from shaketable.networks import construct
        from shaketable.report import Cells, write_report

        cells = Cells.of(construct(name, image, classes), name, command_typed())
        answer["report"] = str(write_report([cells] if cells else [], report))
        told.append(f"report: {report}")
    finish(answer, told, json)


def _cells(depth: str | None, width: str | None, links: str | None) -> list[Any]:
    """The cells that three options describe; one number stands for all cells."""
    from shaketable.errors import InputError
    from shaketable.topology import Cell

    given = {"--depth": depth, "--width": width, "--links": links}
    missing = [name for name, text in given.items() if text is None]
    if missing:
        raise InputError(f"a design needs --depth, --width and --links; {missing[0]} is missing.")
    numbers = {name: _whole(name, str(text)) for name, text in given.items()}
    count = max(map(len, numbers.values()))
    for name, values in numbers.items():
        if len(values) not in (1, count):
            raise InputError(f"{name} has {len(values)} numbers for {count} cells; give one for all cells, or {count}.")
    every = [values * count if len(values) == 1 else values for values in numbers.values()]
    return [Cell(*sizes) for sizes in zip(*every, strict=True)]


def _whole(option: str, text: str) -> list[int]:
    """Whole numbers with commas between."""
    from shaketable.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text}: give whole numbers with commas between, as in {option} 2,3,4.") from error


def _of_network(
    run: Path | None,
    network: str | None,
    arguments: dict[str, Any],
    shape: tuple[int, ...],
    classes: int,
    additive: Any,
    report: Path | None,
    data_root: Path | None,
    json: bool,
) -> None:
    """Mass and density of a network from its graph, and the report of its cells where it is a linked one."""
    from dataclasses import asdict

    import torch

    from shaketable.cli.report import written
    from shaketable.networks import build
    from shaketable.report import Cells, write_report
    from shaketable.topology import traced_topology

    if run is not None:
        study, _ = opened(run, Source(data_root=data_root))
        made, inputs, facts = study.network, study.example_inputs(), {"weights": study.weights_fingerprint}
        name = study.name or run.name
    else:
        name, facts, inputs = str(network), {}, torch.zeros(2, *shape)
        made = own_network(name, arguments) if ":" in name else build(name, shape, classes, **arguments)
    found = traced_topology(made, inputs, additive)
    answer = asdict(found) | {"parameters": sum(parameter.numel() for parameter in made.parameters())}
    rows = [
        (
            f"{cell.layers[0]} to {cell.layers[1]}",
            f"{cell.channels:,}",
            f"{cell.links:,} of {cell.possible:,}",
            f"{cell.density:.4g}",
            f"{cell.mass:.4g}",
        )
        for cell in found.cells
    ]
    total = f"NN-Mass {found.nn_mass:.4g}, NN-Density {found.nn_density:.4g}; {found.layers} layers"
    told: list[object] = [table(("layers of a cell", "channels", "long-range links", "density", "mass"), rows), total]
    told += [wrapped(found.notes)] if found.notes else []
    cells = Cells.of(made, name, command_typed(), **facts)
    if cells is not None and (run is not None or report is not None):
        if run is not None:
            cells.save(run / "mass" / "cells")
        answer["report"] = str(write_report(cells, report) if report else written(run or Path(), cells))
        told.append(f"report: {answer['report']}")
    finish(answer, told, json)


@app.command(
    name="design",
    help_epilogue="""Examples:
  shaketable design --reference 20x32t90-20x64t170-20x128t300 --depths 9,10,11,12
  shaketable design --mass 800 --width 32,64,128 --depths 9,12 --max-parameters 4.5e6 --recipe small.json
  shaketable train --recipe small.json""",
)
def design_(
    *,
    reference: str | None = None,
    mass: float | None = None,
    width: Sizes = None,
    depths: Sizes = None,
    step: int = 10,
    tolerance: float = 0.05,
    max_parameters: float | None = None,
    max_flops: float | None = None,
    max_latency: float | None = None,
    batch: int = 1,
    device: str = "cpu",
    shape: Shape = None,
    classes: int = 10,
    out: Path | None = None,
    recipe: Path | None = None,
    json: Json = False,
) -> None:
    """The smallest networks of a wanted mass: every combination of depth and links is tried, none is trained.

    Parameters
    ----------
    reference
        The cells of a network whose mass is wanted, as in 20x32t90-20x64t170-20x128t300.
    mass
        The mass that is wanted, without a reference.
    width
        Channels of each cell; those of the reference without it.
    depths
        Layers of a cell that are tried; from 5 to those of the deepest cell of the reference without it.
    step
        Between numbers of links that are tried.
    tolerance
        How far from the mass, as a share of it.
    max_parameters
        That a design may have.
    max_flops
        That a design may need for one example.
    max_latency
        Seconds that a pass may take, measured here; of the designs found alone.
    batch
        Examples of that pass.
    device
        Of that pass.
    shape
        Channels, height and width of an image; default 3 32 32.
    classes
        Number of classes.
    out
        A JSON file for all designs found.
    recipe
        A JSON file for the recipe of the smallest, which `shaketable train --recipe` takes.
    """
    from shaketable.errors import InputError
    from shaketable.topology import Limits, Space, cells_from, designs, export

    if (reference is None) == (mass is None):
        raise InputError("give either --reference, a network whose mass is wanted, or --mass.")
    cells = list(cells_from(reference)) if reference else []
    if not cells and (width is None or depths is None):
        raise InputError("--mass needs --width and --depths: give the channels of each cell, and the depths to try.")
    widths = tuple(_whole("--width", width)) if width else tuple(cell.width for cell in cells)
    deepest = max((cell.depth for cell in cells), default=0)
    tried = _whole("--depths", depths) if depths else range(min(5, deepest), deepest + 1)
    image: Any = tuple(shape or (3, 32, 32))
    found = designs(
        cells or float(mass or 0),
        Space(tuple(tried), (widths,), step),
        Limits(max_parameters, max_flops, max_latency, batch, device),
        tolerance=tolerance,
        input_shape=image,
        classes=classes,
    )
    if out is not None:
        found.save(out)
    if recipe is not None:
        export(cells_from(found.table["cells"][0]), recipe)
    more = [f"and {len(found.table) - SHOWN} more; --out FILE writes all"] if len(found.table) > SHOWN else []
    rows = [
        (
            row["cells"],
            f"{row['nn_mass']:.4g}",
            f"{row['nn_density']:.3g}",
            f"{row['parameters']:,}",
            f"{row['flops']:,}",
            *([f"{1000 * row['latency']:.3g}"] if max_latency else []),
        )
        for row in found.table.head(SHOWN).to_dicts()
    ]
    columns = ("cells", "mass", "density", "parameters", "FLOPs", *(["ms"] if max_latency else []))
    told = (
        f"{found.candidates:,} designs tried in {found.seconds:.2f} s, {found.matching:,} with a mass within {tolerance:.0%} of "
        f"{found.mass:.4g} and within the limits; no other of them has fewer parameters and fewer FLOPs than one of these. That "
        "networks of equal mass do equally well is the claim of the NN-Mass paper, for equal widths: train it to know."
    )
    answer: dict[str, Any] = {
        "mass": found.mass,
        "candidates": found.candidates,
        "matching": found.matching,
        "designs": found.table.to_dicts(),
    }
    files = {name: str(file) for name, file in (("out", out), ("recipe", recipe)) if file is not None}
    written_ = [f"{name}: {file}" for name, file in files.items()]
    finish(answer | files, [table(columns, rows), *more, wrapped([told]), *written_], json)
