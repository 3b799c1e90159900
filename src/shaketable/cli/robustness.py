"""The commands about layer robustness: demo, robustness, report."""

import os
import shlex
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from shaketable.cli.terminal import Device, Json, Pairs, Root, app, finish, pairs, percent, table

if TYPE_CHECKING:
    from shaketable.probes import Robustness
    from shaketable.study import Study


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
    from shaketable.report import write_report
    from shaketable.study import Study
    from shaketable.training import train
    from shaketable.training.recipes import named

    started = time.monotonic()
    run = train(named("demo", seed=seed), out=out)
    study = Study.from_run(run.path)
    result = _robustness(study, run.path, seed=seed)
    report = write_report(result, run.path / "report.html")
    answer = _answer(result, report) | {"run": str(run.path), "seconds": round(time.monotonic() - started, 1)}
    finish(answer, _told(result, report), json)


@app.command(
    name="robustness",
    help_epilogue="""Examples:
  shaketable robustness runs/RUN
  shaketable robustness runs/RUN --by module --checkpoint 0 --split test
  shaketable robustness --network resnet18-bn --final final.pt \\
      --init init.pt --data cifar10 --data-root ~/data
  shaketable robustness --network my_models:build --final weights.safetensors \\
      --data arrays.npz""",
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
    by: Literal["block", "module", "stage"] = "block",
    checkpoint: Annotated[list[int] | None, Parameter(negative=())] = None,
    draws: int = 5,
    split: Annotated[list[Literal["test", "train"]] | None, Parameter(negative=())] = None,
    statistics: Literal["keep", "rewind", "reestimate"] = "keep",
    robust: float = 0.05,
    critical: float = 0.25,
    seed: int = 0,
    precision: float | None = None,
    level: Literal["auto", "loop", "replay", "vmap", "fused"] = "auto",
    batch_size: int | None = None,
    out: Path | None = None,
    data_root: Root = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Reset each layer of a trained network and measure what still works; writes tables and the report.

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
        Whether running statistics of normalisations stay as trained, are reset with their layer, or those of all batch norms
        are estimated anew on training data.
    robust
        A layer is robust if the accuracy drops by at most this.
    critical
        A layer is critical if the accuracy drops by at least this.
    seed
        Of the fresh draws.
    precision
        Each error to this precision only (0.01: plus or minus one point, wrong with probability 1e-4), from fewer examples.
    level
        How variants are evaluated: auto, replay or loop; see docs/engine.md.
    batch_size
        Examples in flight; by default as many as fit memory and cache.
    out
        Where results go; default RUN, or a folder below runs that is named for network and weights.
    """
    from shaketable.errors import InputError
    from shaketable.report import write_report
    from shaketable.study import Study

    if (run is None) == (network is None):
        raise InputError("give either the folder of a run, or --network with --final and --data.")
    foreign = {"--final": final, "--init": init, "--weights": weights, "--data": data, "--data-arg": data_arg}
    foreign["--network-arg"] = network_arg
    needless = [name for name, value in foreign.items() if run is not None and value is not None]
    if needless:
        raise InputError(f"{needless[0]} goes with --network; the run {run} brings its own.")
    if run is not None:
        study = Study.from_run(run, data_root, device)
    else:
        study = _foreign_study(str(network), network_arg, final, init, weights, data, data_arg, data_root, device)
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in network or "")
    folder = out or run or Path("runs") / f"{name}-{study.weights_fingerprint}"
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
        precision=precision,
        level=level,
        batch_size=batch_size,
    )
    report = write_report(result, folder / "report.html")
    finish(_answer(result, report), _told(result, report), json)


@app.command(
    help_epilogue="""Examples:
  shaketable report runs/RUN
  shaketable report runs/RUN --out report.html --figures figures"""
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
    from shaketable.report import write_report

    folder = result if (result / "provenance.json").is_file() else _latest_result(result)
    found = Robustness.load(folder)
    path = write_report(found, out or result / "report.html")
    answer: dict[str, Any] = {"report": str(path)}
    if figures is not None:
        answer["figures"] = [str(file) for file in _write_figures(found, figures)]
    finish(answer, [f"report: {path}", *(f"figure: {file}" for file in answer.get("figures", []))], json)


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
    from shaketable.forward import usable_device
    from shaketable.networks import build
    from shaketable.study import Study
    from shaketable.training.recipe import DATA_ARGUMENTS

    if final is None or data is None:
        raise InputError("--network needs --final FILE (its weights) and --data NAME (what it is tested on).")
    checkpoints: dict[int, str | Path] = {}
    for name, file in (pairs(weights, "--weights") or {}).items():
        if not name.isdecimal() or int(name) in checkpoints:
            raise InputError(
                f"--weights {name}={file}: write EPOCH=FILE, such as --weights 5=epoch5.pt, each epoch once."
            )
        checkpoints[int(name)] = str(file)
    data_args = pairs(data_arg, "--data-arg") or {}
    for name in data_args:
        if name not in DATA_ARGUMENTS:
            raise InputError(f"--data-arg {name}: there is no such argument; there are {', '.join(DATA_ARGUMENTS)}.")
    dataset = load(data, root=data_root, **data_args)
    arguments = pairs(network_arg, "--network-arg") or {}
    own = ":" in network
    made = (
        _own_network(network, arguments) if own else build(network, dataset.input_shape, dataset.classes, **arguments)
    )
    return Study(
        made.to(usable_device(device)).eval(),
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
        raise InputError(
            f"--network {name}: {error}; give MODULE:FUNCTION, a function that returns a torch module."
        ) from error
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


def _write_figures(result: "Robustness", folder: Path) -> list[Path]:
    """Every figure of the report, as SVG and PNG."""
    from shaketable import plots

    summary, classes = result.summary(), result.provenance["classes"]
    charts: dict[str, Any] = {
        f"heatmap-{split}": plots.robustness_heatmap(summary, split, classes=classes) for split in result.splits()
    }
    last = result.provenance["final_checkpoint"]
    charts |= {f"curves-{split}": plots.robustness_curves(summary, split, final=last) for split in result.splits()}
    if len(result.distances):
        charts |= {
            f"distance-{norm}": plots.distance_heatmap(result.distances, norm) for norm in ("normalised_l2", "linf")
        }
    if result.history is not None and len(result.history) > 1:
        charts["history"] = plots.training_history(result.history)
    files = [folder / f"{name}.{suffix}" for name in charts for suffix in ("svg", "png")]
    for file in files:
        plots.save(charts[file.stem], file)
    return files


def _answer(result: "Robustness", report: Path) -> dict[str, Any]:
    """What a machine reads about a robustness result."""
    from shaketable.report.words import clean_row

    split = result.splits()[0]
    verdicts = result.verdicts(split)
    measured = [name for name in ("reinitialise", "rerandomise") if verdicts[name].is_not_null().any()]
    found: dict[str, Any] = {"report": str(report), "split": split, "error": clean_row(result, split)["error"]}
    if measured:  # a network without initial weights is judged by re-randomisation
        found["perturbation"] = measured[0]
        for verdict in ("critical", "robust"):
            found[f"{verdict}_layers"] = result.layers_that_are(verdict, measured[0], split)
    columns = ("layer", "reinitialise", "reinitialise_drop", "rerandomise", "rerandomise_drop")
    return found | {"layers": verdicts.select(columns).to_dicts()}


def _told(result: "Robustness", report: Path) -> list[object]:
    """What a person reads about a robustness result: the drops in accuracy, the finding, where the report is."""
    from shaketable.report.words import paragraphs

    split = result.splits()[0]
    rows = [
        (row["layer"], f"{row['parameters']:,}", *(_verdict(row, name) for name in ("reinitialise", "rerandomise")))
        for row in result.verdicts(split).to_dicts()
    ]
    width = min(shutil.get_terminal_size().columns, 100)
    drops = table(("layer", "parameters", "re-initialised", "re-randomised"), rows)
    return [
        f"\n  drop in {split} accuracy when one layer is reset",
        drops,
        "\n\n".join(textwrap.fill(text, width, break_on_hyphens=False) for text in paragraphs(result, split)),
        "",
        f"report: {report}",
    ]


def _verdict(row: dict[str, Any], perturbation: str) -> str:
    drop = row[f"{perturbation}_drop"]
    return "not measured" if drop is None else f"{percent(drop)}  {row[perturbation]}"
