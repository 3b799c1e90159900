"""``python -m benchmarks``: the names; ``python -m benchmarks NAME``: one of them, or ``all``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import torch

from benchmarks import ablation, behaviour, criticality, decoder, early, heatmaps, layer_sets, measures, ties, topology
from benchmarks.common import Options, Row, say
from benchmarks.setups import train_all
from shaketable.errors import InputError, RunError

BENCHMARKS = {
    name: benchmark
    for room in (heatmaps, early, behaviour, ties, criticality, decoder, layer_sets, measures, topology, ablation)
    for name, benchmark in room.BENCHMARKS.items()
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed against the naive loop.")
    parser.add_argument(
        "name", nargs="?", help="a benchmark, `all`, or `train` (the networks that some need); none lists"
    )
    parser.add_argument("--json", action="store_true", help="one JSON list of rows on standard output")
    parser.add_argument(
        "--full", action="store_true", help="run both sides whole; hours for the convolutional networks"
    )
    parser.add_argument("--repeats", type=int, default=3, help="times that the two sides take turns (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of either side (default 1)")
    parser.add_argument("--level", default="auto", help="the engine's level (default auto)")
    parser.add_argument("--losses", action="store_true", help="losses beside errors; then nothing runs in bfloat16")
    parser.add_argument("--data-root", type=Path, help="where data sets lie; default $SHAKETABLE_DATA; else synthetic")
    parser.add_argument("--runs", type=Path, default=Options.runs, help=f"where trained networks lie ({Options.runs})")
    chosen = vars(parser.parse_args(arguments))
    name, as_json = chosen.pop("name"), chosen.pop("json")
    names = [*BENCHMARKS, "all", "train"]
    if name is None:
        width = max(map(len, BENCHMARKS))
        print(*(f"{key:{width}}  {about}" for key, (about, _) in BENCHMARKS.items()), sep="\n")
        return 0
    if name not in names:
        close = get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}."
        print(f"no benchmark is called {name!r}; {hint}", file=sys.stderr)
        return 2
    if chosen["repeats"] < 1 or chosen["threads"] < 1:
        print("--repeats and --threads must be at least 1.", file=sys.stderr)
        return 2
    torch.set_num_threads(chosen["threads"])
    if chosen["data_root"]:
        os.environ["SHAKETABLE_DATA"] = str(chosen["data_root"])
    options = Options(**chosen)
    try:
        if name == "train":
            train_all(options)
            return 0
        rows = []
        for key in BENCHMARKS if name == "all" else [name]:
            try:
                found = BENCHMARKS[key][1](key, options)
            except InputError as error:
                if name != "all":
                    raise
                say(f"{key} is left out: {error}")
                continue
            rows += found
            if not as_json:
                print(*map(text, found), sep="\n", flush=True)
    except (InputError, RunError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    if as_json:
        print(json.dumps([row.record() for row in rows], indent=1))
    return 0


def text(row: Row) -> str:
    """A row for people."""
    found = row.record()
    goal = row.goal_amx if row.machine["amx"] and row.goal_amx is not None else row.goal
    lines = [f"{row.work}: {row.network}, {row.data}; {row.variants} variants, {row.examples:,} examples"]
    if row.naive_seconds is not None:
        lines.append(
            f"  {row.ratio} times as fast (wall {row.wall_ratio}; goal {goal}; repeats {', '.join(map(str, row.ratios))}); "
            f"naive {row.naive_seconds:,} s in batches of {row.batch_naive}, "
            f"engine {row.engine_seconds:,} s in batches of {row.batch_engine}; "
            f"answers {'identical' if row.identical else 'DIFFER'}"
        )
    elif row.ratio is not None:
        lines.append(f"  {row.ratio}; goal {'at most' if found.get('at_most') else 'at least'} {goal}")
    lines += [f"  {key}: {value}" for key, value in row.more.items()]
    lines += [f"  {row.choice}"] if row.choice else []
    lines += [f"  sampled: {row.sampled_how}"] if row.sampled else []
    lines.append("  " + ", ".join(f"{key} {value}" for key, value in row.machine.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
