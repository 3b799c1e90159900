"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

import json
import os
import shlex
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from shaketable import __version__

if TYPE_CHECKING:
    from shaketable.probes import Robustness
    from shaketable.study import Study

app = App(
    name="shaketable",
    version=__version__,
    help="Find out which layers hold a neural network up: reset each of them, and see what still works.",
    help_format="plaintext",
    help_epilogue="""Examples:
  shaketable demo
  shaketable train --network resnet18 --data cifar10 --data-root ~/data --augment pad-crop:4 --augment flip
  shaketable robustness runs/RUN --draws 5
  shaketable report runs/RUN

`shaketable COMMAND --help` tells more. Exit codes: 0 well, 2 wrong use, 1 failed.""",
)

Root = Annotated[Path | None, Parameter(name="--data-root", env_var="SHAKETABLE_DATA", help="Where data sets lie.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="One JSON object on the last line of standard output.")]
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1, ...")]
Pairs = Annotated[list[str] | None, Parameter(negative=())]


@app.command(
    help_epilogue="""Examples:
  shaketable demo
  shaketable demo --out /tmp/demo --seed 1 --json"""
)
def demo(*, out: Path = Path("demo"), seed: int = 0, json: Json = False) -> None:
    """Train FCN 3x256 on real digits, reset each layer, and write the report; under two minutes on two cores.

    The digits come with scikit-learn: no network and no files are needed. Interrupted, the same command goes on.

    Parameters
    ----------
    out
        Folder for the run and the report.
    seed
        Of initial weights, order of examples, and fresh draws.
    """
    from shaketable.study import Study
    from shaketable.training import train
    from shaketable.training.recipes import named

    started = time.monotonic()
    run = train(named("demo", seed=seed), out=out)
    study = Study.from_run(run.path)
    result = _robustness(study, run.path, seed=seed)
    report = _write_report(result, run.path / "report.html")
    answer = _answer(result, report) | {"run": str(run.path), "seconds": round(time.monotonic() - started, 1)}
    _finish(answer, _told(result, report), json)


@app.command(
    name="train",
    help_epilogue="""Examples:
  shaketable train --network fcn-3x256 --data mnist --data-root ~/data
  shaketable train --recipe module-criticality --network resnet18 --device cuda
  shaketable train --recipe runs/RUN/recipe.json --seed 1
  shaketable train --network resnet18 --network-arg width=0.25 --data cifar10 --data-arg train_examples=10000 \\
      --augment pad-crop:4 --augment flip --checkpoint 1 --checkpoint 10 --epochs 30""",
)
def train_(
    *,
    recipe: str | None = None,
    network: str | None = None,
    network_arg: Pairs = None,
    data: str | None = None,
    data_arg: Pairs = None,
    optimiser: Literal["sgd", "adam"] | None = None,
    learning_rate: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    schedule: Literal["stages", "cosine", "constant"] | None = None,
    milestone: Annotated[list[int] | None, Parameter(negative=())] = None,
    factor: float | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    stop_below: float | None = None,
    label_corruption: float | None = None,
    augment: Annotated[list[str] | None, Parameter(negative=())] = None,
    freeze: Annotated[list[str] | None, Parameter(negative=())] = None,
    checkpoint: Annotated[list[int] | None, Parameter(negative=())] = None,
    evaluate_every: int | None = None,
    precision: Literal["float32", "bfloat16", "float16"] | None = None,
    seed: int | None = None,
    out: Path = Path("runs"),
    data_root: Root = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Train a network and keep its trajectory; the same command goes on where it was stopped.

    The run's folder is named for network, data, and a hash of all settings. Defaults are those of Zhang et al. (2022),
    appendix A: SGD with momentum 0.9, 100 epochs, learning rate times 0.2 at epochs 30, 60 and 90, batches of 128.

    Parameters
    ----------
    recipe
        A .toml or .json file, or the name of a paper's recipe; the other options change it.
    network
        Such as fcn-3x256, vgg16-bn, resnet18-v2; `shaketable networks` lists them.
    network_arg
        An argument of the network as NAME=VALUE, such as width=0.25; may be repeated.
    data
        Such as digits, mnist, cifar10; `shaketable data` lists them.
    data_arg
        An argument of the data as NAME=VALUE, such as train_examples=10000; may be repeated.
    optimiser
        SGD with momentum, or Adam.
    learning_rate
        Of the first epoch.
    momentum
        Of SGD.
    weight_decay
        Added to the gradient, per unit of weight.
    schedule
        Of the learning rate.
    milestone
        An epoch at the end of which the learning rate is multiplied by the factor; may be repeated.
    factor
        See milestone.
    batch_size
        Examples per step.
    epochs
        Passes over the training data, at most.
    stop_below
        Stop when the training cross-entropy (nats) falls below this.
    label_corruption
        Fraction of training labels that are redrawn.
    augment
        pad-crop:4, flip, shift:1, rotation:10 or cutout:8; in order; may be repeated.
    freeze
        A layer that does not train; may be repeated.
    checkpoint
        An epoch whose weights are kept; may be repeated; default every one. 0 and the last are kept anyway.
    evaluate_every
        Epochs between evaluations.
    precision
        Of the forward and backward passes.
    seed
        Of everything random.
    out
        Where run folders lie.
    """
    from shaketable.training import Recipe, train
    from shaketable.training.recipes import NAMED, named

    given = {
        "network": network,
        "network_args": _pairs(network_arg, "--network-arg"),
        "data": data,
        "data_args": _pairs(data_arg, "--data-arg"),
        "optimiser": optimiser,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "milestones": milestone,
        "factor": factor,
        "batch_size": batch_size,
        "epochs": epochs,
        "stop_below": stop_below,
        "label_corruption": label_corruption,
        "augmentation": augment,
        "frozen": freeze,
        "checkpoints": checkpoint,
        "evaluate_every": evaluate_every,
        "precision": precision,
        "seed": seed,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if recipe is None:
        chosen = Recipe.from_dict(changes)
    elif recipe in NAMED:
        chosen = named(recipe, **changes)
    else:
        chosen = Recipe.from_file(recipe).replace(**changes)
    run = train(chosen, out=out, data_root=data_root, device=device)
    last = run.history.row(-1, named=True)
    answer = {"run": str(run.path), "epochs": last["epoch"], "checkpoints": list(run.checkpoints)}
    answer |= {name: last[name] for name in ("train_loss", "train_error", "test_error", "seconds")}
    told = [
        f"{run.path}: {last['epoch']} epochs, train error {_percent(last['train_error'])}, test error {_percent(last['test_error'])}",
        f"next: shaketable robustness {shlex.quote(str(run.path))}",
    ]
    _finish(answer, told, json)


@app.command(
    name="robustness",
    help_epilogue="""Examples:
  shaketable robustness runs/RUN
  shaketable robustness runs/RUN --by module --checkpoint 0 --checkpoint 1 --split test
  shaketable robustness --network resnet18-bn --final final.pt --init init.pt --data cifar10 --data-root ~/data
  shaketable robustness --network my_models:build --final weights.safetensors --data arrays.npz""",
)
def robustness_(
    run: Path | None = None,
    *,
    network: str | None = None,
    network_arg: Pairs = None,
    final: Path | None = None,
    init: Path | None = None,
    weights: Pairs = None,
    data: str | None = None,
    data_arg: Pairs = None,
    by: str = "block",
    checkpoint: Annotated[list[int] | None, Parameter(negative=())] = None,
    draws: int = 5,
    split: Annotated[list[Literal["test", "train"]] | None, Parameter(negative=())] = None,
    statistics: Literal["keep", "rewind"] = "keep",
    robust: float = 0.05,
    critical: float = 0.25,
    seed: int = 0,
    batch_size: int = 500,
    out: Path | None = None,
    data_root: Root = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Reset each layer of a trained network and measure what still works; writes tables, figures and the report.

    Either RUN, a folder that `shaketable train` wrote, or --network with --final (weights from anywhere: safetensors, or
    a PyTorch file, read without running code in it) and --data. Interrupted, the same command goes on.

    Parameters
    ----------
    run
        The folder of a run.
    network
        A name of `shaketable networks`, or MODULE:FUNCTION of your own that returns a torch module.
    network_arg
        An argument of the network as NAME=VALUE; may be repeated.
    final
        File with the weights after training.
    init
        File with the weights before training; without it nothing can be re-initialised.
    weights
        A checkpoint as EPOCH=FILE; may be repeated.
    data
        A name of `shaketable data`, or a .npz file with test_inputs, test_labels, train_inputs, train_labels.
    data_arg
        An argument of the data as NAME=VALUE; may be repeated.
    by
        What is reset at once: block, module or stage.
    checkpoint
        An epoch to re-initialise to; may be repeated; default all that there are.
    draws
        Fresh draws per layer for re-randomisation.
    split
        test or train; may be repeated; default both.
    statistics
        Whether running statistics of normalisations stay as trained or are reset with their layer.
    robust
        A layer is robust if the accuracy drops by at most this.
    critical
        A layer is critical if the accuracy drops by at least this.
    seed
        Of the fresh draws.
    batch_size
        Examples per forward pass.
    out
        Where results go; default RUN, or the folder robustness.
    """
    from shaketable.errors import InputError
    from shaketable.study import Study

    if (run is None) == (network is None):
        raise InputError("give either the folder of a run, or --network with --final and --data.")
    if run is not None:
        study = Study.from_run(run, data_root, device)
    else:
        study = _foreign_study(str(network), network_arg, final, init, weights, data, data_arg, data_root, device)
    folder = out or run or Path("robustness")
    result = _robustness(
        study,
        folder,
        by=by,
        checkpoints=checkpoint,
        draws=draws,
        splits=split,
        statistics=statistics,
        robust=robust,
        critical=critical,
        seed=seed,
        batch_size=batch_size,
    )
    report = _write_report(result, folder / "report.html")
    _finish(_answer(result, report), _told(result, report), json)


@app.command(
    help_epilogue="""Examples:
  shaketable report runs/RUN
  shaketable report runs/RUN --out report.html --split train --figures figures"""
)
def report(result: Path, *, out: Path | None = None, figures: Path | None = None, json: Json = False) -> None:
    """Write the report of a robustness result anew, and its figures if asked.

    Parameters
    ----------
    result
        The folder of a run, or of one result.
    out
        The HTML file; default report.html in that folder.
    figures
        A folder for the figures as SVG and PNG.
    """
    from shaketable.probes import Robustness

    folder = result if (result / "provenance.json").is_file() else _latest_result(result)
    found = Robustness.load(folder)
    path = _write_report(found, out or result / "report.html")
    answer: dict[str, Any] = {"report": str(path)}
    if figures is not None:
        answer["figures"] = [str(file) for file in _write_figures(found, figures)]
    _finish(answer, [f"report: {path}", *(f"figure: {file}" for file in answer.get("figures", []))], json)


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
    from shaketable.data import SOURCES, status

    rows = {name: {"title": source.title, "examples": source.examples} for name, source in SOURCES.items()}
    for name, row in rows.items():
        row["status"], row["detail"] = status(name, data_root)
    table = [(name, row["title"], f"{row['examples']:,}", row["status"], row["detail"]) for name, row in rows.items()]
    _finish(rows, [_table(("name", "what", "examples", "status", "where"), table)], json)


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
    _finish({"path": str(path)}, [f"{name}: ready in {path}"], json)


@app.command(
    name="networks",
    help_epilogue="""Examples:
  shaketable networks
  shaketable networks resnet18-v2 --shape 3 32 32 --classes 10 --by module""",
)
def networks_(
    name: str | None = None,
    *,
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    network_arg: Pairs = None,
    by: str = "block",
    json: Json = False,
) -> None:
    """List the networks, or the layers of one.

    Parameters
    ----------
    name
        Such as vgg16; without it the families are listed.
    shape
        Channels, height and width of an image.
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
        _finish({"families": families}, [_table(("example", "names", "arguments"), rows)], json)
        return
    from shaketable.params import layers

    network = construct(name, shape, classes, **(_pairs(network_arg, "--network-arg") or {}))
    sizes = {key: parameter.numel() for key, parameter in network.named_parameters()}
    found = [(layer.name, layer.kind, sum(sizes[key] for key in layer.params)) for layer in layers(network, by)]
    answer = {"network": name, "parameters": sum(sizes.values()), "layers": [dict(zip(("name", "kind", "parameters"), row)) for row in found]}
    table = _table(("layer", "kind", "parameters"), [(layer, kind, f"{size:,}") for layer, kind, size in found])
    _finish(answer, [table, f"{name}: {sum(sizes.values()):,} parameters in {len(found)} layers"], json)


def main(arguments: Iterable[str] | None = None) -> None:
    """Run a command and exit: 0 well, 2 wrong use, 1 failed."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        code = 0
    except CycloptsError as error:
        code = _fail(f"{str(error).strip()} See `shaketable --help`.", 2, tokens)
    except KeyboardInterrupt:
        code = _fail("interrupted; what was done is kept, and the same command goes on from there.", 1, tokens)
    except BrokenPipeError:  # the reader of our output has gone, as in `shaketable networks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        from shaketable.errors import InputError, RunError

        if os.environ.get("SHAKETABLE_DEBUG"):
            raise
        expected = isinstance(error, InputError | RunError)
        reason = str(error) if expected else f"{type(error).__name__}: {error} (SHAKETABLE_DEBUG=1 shows where)"
        code = _fail(reason, 2 if isinstance(error, InputError) else 1, tokens)
    sys.exit(code)


def _fail(reason: str, code: int, tokens: list[str]) -> int:
    """Print one sentence to standard error, and with --json an object to standard output."""
    print(f"shaketable: {reason}", file=sys.stderr)
    if "--json" in tokens:
        print(json.dumps({"error": reason}))
    return code


def _finish(answer: dict[str, Any], told: Iterable[object], as_json: bool) -> None:
    """Print what a person reads, or last of all the one line that a machine reads."""
    if as_json:
        print(json.dumps(answer))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in told:
        console.print(line)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Any:
    """A table for the terminal; names from outside are shown as they are."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _pairs(given: list[str] | None, option: str) -> dict[str, Any] | None:
    """NAME=VALUE options as a dict; values are read as JSON where they are, else as text."""
    if given is None:
        return None
    from shaketable.errors import InputError

    found = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"{option} {pair}: write NAME=VALUE, such as {option} width=0.25.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _foreign_study(
    network: str,
    network_arg: list[str] | None,
    final: Path | None,
    init: Path | None,
    weights: list[str] | None,
    data: str | None,
    data_arg: list[str] | None,
    data_root: Path | None,
    device: str,
) -> "Study":
    """A study of a network with weights from files."""
    from shaketable.data import load
    from shaketable.errors import InputError
    from shaketable.networks import build
    from shaketable.study import Study

    if final is None or data is None:
        raise InputError("--network needs --final FILE (its weights) and --data NAME (what it is tested on).")
    checkpoints: dict[int, str | Path] = {}
    for name, file in (_pairs(weights, "--weights") or {}).items():
        if not name.isdecimal():
            raise InputError(f"--weights {name}={file}: write EPOCH=FILE, such as --weights 5=epoch5.pt.")
        checkpoints[int(name)] = str(file)
    dataset = load(data, root=data_root, **(_pairs(data_arg, "--data-arg") or {}))
    arguments = _pairs(network_arg, "--network-arg") or {}
    if ":" in network:
        made = _own_network(network, arguments)
    else:
        made = build(network, dataset.input_shape, dataset.classes, **arguments)
    return Study(
        made.to(device).eval(),
        final=final,
        init=init,
        checkpoints=checkpoints,
        train=dataset.train,
        test=dataset.test,
        name=f"{network} on {dataset.name}",
    )


def _own_network(name: str, arguments: dict[str, Any]) -> Any:
    """What MODULE:FUNCTION returns, MODULE being importable from the current folder."""
    import importlib

    from torch import nn

    from shaketable.errors import InputError

    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        made = getattr(importlib.import_module(module), function)(**arguments)
    except (ImportError, AttributeError, TypeError) as error:
        raise InputError(f"--network {name}: {error}; give MODULE:FUNCTION, a function that returns a torch module.") from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(made, nn.Module):
        raise InputError(f"--network {name}: it returned a {type(made).__name__}, not a torch module.")
    return made


def _robustness(study: "Study", folder: Path, **arguments: Any) -> "Robustness":
    """The probe, with its rows kept below a folder."""
    from shaketable.probes import robustness

    return robustness(study, store=folder / "robustness", command=_command(), **arguments)


def _command() -> str:
    """What the user typed."""
    return shlex.join(["shaketable", *sys.argv[1:]])


def _latest_result(folder: Path) -> Path:
    """The newest finished result below the folder of a run."""
    from shaketable.errors import InputError

    found = sorted((folder / "robustness").glob("*/provenance.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"{folder}: holds no robustness result; make one with `shaketable robustness {folder}`.")
    return found[-1].parent


def _write_report(result: "Robustness", path: Path) -> Path:
    from shaketable.report import write_report

    return write_report(result, path)


def _write_figures(result: "Robustness", folder: Path) -> list[Path]:
    """Every figure of the report, as SVG and PNG."""
    from shaketable import plots

    summary, classes = result.summary(), result.provenance["classes"]
    charts = {f"heatmap-{split}": plots.robustness_heatmap(summary, split, classes=classes) for split in result.splits()}
    charts |= {f"curves-{split}": plots.robustness_curves(summary, split) for split in result.splits()}
    charts |= {f"distance-{norm}": plots.distance_heatmap(result.distances, norm) for norm in ("normalised_l2", "linf")}
    if result.history is not None:
        charts["history"] = plots.training_history(result.history)
    files = [folder / f"{name}.{suffix}" for name in charts for suffix in ("svg", "png")]
    for file in files:
        plots.save(charts[file.stem], file)
    return files


def _answer(result: "Robustness", report: Path) -> dict[str, Any]:
    """What a machine reads about a robustness result."""
    split = result.splits()[0]
    verdicts = result.verdicts(split)
    final = result.final_error(split)
    return {
        "report": str(report),
        "critical_layers": result.layers_that_are("critical", split=split),
        "robust_layers": result.layers_that_are("robust", split=split),
        "critical_to_rerandomisation": result.layers_that_are("critical", "rerandomise", split),
        "split": split,
        "error": final,
        "layers": verdicts.select("layer", "reinitialise", "reinitialise_drop", "rerandomise", "rerandomise_drop").to_dicts(),
    }


def _told(result: "Robustness", report: Path) -> list[object]:
    """What a person reads about a robustness result: the table of verdicts, the finding, where the report is."""
    from shaketable.report import finding

    split = result.splits()[0]
    rows = [
        (row["layer"], f"{row['parameters']:,}", *(_verdict(row, name) for name in ("reinitialise", "rerandomise")))
        for row in result.verdicts(split).to_dicts()
    ]
    table = _table(("layer", "parameters", "re-initialised: accuracy drop", "re-randomised: accuracy drop"), rows)
    return [table, finding(result), f"report: {report}"]


def _verdict(row: dict[str, Any], perturbation: str) -> str:
    drop = row[f"{perturbation}_drop"]
    return "not measured" if drop is None else f"{_percent(drop)}  {row[perturbation]}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"
