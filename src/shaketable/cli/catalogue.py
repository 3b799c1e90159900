"""The commands that say what there is: data, networks and measures."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from shaketable.cli.terminal import Json, Pairs, Root, app, finish, pairs, table

data_app = App(
    name="data",
    help="The data sets: which there are, and which are ready.",
    help_format="plaintext",
    help_epilogue="""Examples:
  shaketable data --data-root ~/data
  shaketable data fetch cifar10 --data-root ~/data""",
)
app.command(data_app)


@data_app.default
def data_list(*, data_root: Root = None, json: Json = False) -> None:
    """List the data sets, and whether their files were found."""
    from shaketable.data import SOURCES, TEXTS, status

    rows: dict = {name: {"title": source.title, "examples": source.examples} for name, source in SOURCES.items()}
    rows |= {name: {"title": text.title, "examples": None} for name, text in TEXTS.items()}
    for name, row in rows.items():
        row["status"], row["detail"] = status(name, data_root)
    lines = [
        (name, row["title"], "text" if row["examples"] is None else f"{row['examples']:,}", row["status"])
        for name, row in rows.items()
    ]
    places = [f"  {name}: {row['detail']}" for name, row in rows.items() if row["status"] == "ready"]
    missing = [name for name, row in rows.items() if row["status"] == "missing" and name in SOURCES]
    if missing:
        places.append(f"missing: {', '.join(missing)}; `shaketable data fetch NAME --data-root DIR` downloads one")
    finish(rows, [table(("name", "what", "examples", "status"), lines), *places], json)


@data_app.command(
    help_epilogue="""Example:
  shaketable data fetch mnist --data-root ~/data"""
)
def fetch(name: str, *, data_root: Root = None, json: Json = False) -> None:
    """Download a public data set, check it against its known checksum, and put it into the data root.

    Parameters
    ----------
    name
        Such as mnist; `shaketable data` lists them.
    """
    from shaketable.data import fetch as download

    path = download(name, data_root)
    finish({"path": str(path)}, [f"{name}: ready in {path}"], json)


@app.command(
    name="networks",
    help_epilogue="""Examples:
  shaketable networks
  shaketable networks resnet18-v2 --shape 3 32 32 --classes 10 --by module""",
)
def networks_(
    name: str | None = None,
    *,
    shape: Annotated[list[int] | None, Parameter(negative=(), consume_multiple=True)] = None,
    classes: int = 10,
    network_arg: Pairs = None,
    by: Literal["block", "module", "stage"] = "block",
    json: Json = False,
) -> None:
    """List the networks, or the layers of one.

    Parameters
    ----------
    name
        Such as vgg16; without it the families are listed.
    shape
        Channels, height and width of an image (a fully connected network takes any shape); default 3 32 32.
    classes
        Number of classes.
    network_arg
        An argument of the network as NAME=VALUE; may be repeated.
    by
        How layers are grouped: block, module or stage.
    """
    from shaketable.networks import construct, describe

    if name is None:
        families = describe()
        rows = [(f["example"], f["names"], ", ".join(f["arguments"])) for f in families]
        finish({"families": families}, [table(("example", "names", "arguments"), rows)], json)
        return
    from shaketable.params import layers

    network = construct(name, tuple(shape or (3, 32, 32)), classes, **(pairs(network_arg, "--network-arg") or {}))
    sizes = {key: parameter.numel() for key, parameter in network.named_parameters()}
    found = [(layer.name, layer.kind, sum(sizes[key] for key in layer.params)) for layer in layers(network, by)]
    answer = {
        "network": name,
        "parameters": sum(sizes.values()),
        "layers": [dict(zip(("name", "kind", "parameters"), row)) for row in found],
    }
    listed = table(("layer", "kind", "parameters"), [(layer, kind, f"{size:,}") for layer, kind, size in found])
    finish(answer, [listed, f"{name}: {sum(sizes.values()):,} parameters in {len(found)} layers"], json)


@app.command(
    name="measures",
    help_epilogue="""Examples:
  shaketable measures
  shaketable measures --json""",
)
def measures_(*, json: Json = False) -> None:
    """List the measures: what each needs, which direction is good, and its paper; with --json also what it is in a line."""
    from shaketable.measures import MEASURES

    kinds = MEASURES.values()
    found = {
        kind.name: {name: getattr(kind, name) for name in ("symbol", "about", "direction", "version", "paper", "extra")}
        | {"needs": list(kind.needs), "installed": kind.installed}
        for kind in kinds
    }
    papers = {paper: number for number, paper in enumerate(dict.fromkeys(kind.paper for kind in kinds), start=1)}
    lines = [
        (
            kind.name,
            ", ".join([*kind.needs, *([f"shaketable[{kind.extra}]"] if kind.extra else [])]) or "weights",
            kind.direction,
            f"[{papers[kind.paper]}]",
        )
        for kind in kinds
    ]
    listed = table(("measure", "needs", "better", "paper"), lines)
    cited = [f"[{number}] {paper}" for paper, number in papers.items()]
    finish({"measures": found}, [listed, *cited, "", "next: shaketable measure RUN --only NAME"], json)
