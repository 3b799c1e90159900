"""The history of a training run."""

import math

import altair as alt
import polars as pl

from shaketable.errors import InputError
from shaketable.plots.drawing import BLUE, FRAMELESS, GREEN, GREY, ORANGE, titled

PANELS = {
    "error": {"train_error": "train", "test_error": "test"},
    "loss (nats)": {"train_loss": "train", "test_loss": "test", "running_loss": "train, running"},
    "learning rate": {"learning_rate": "learning rate"},
}


def training_history(history: pl.DataFrame, title: str | None = None) -> alt.HConcatChart:
    """Error, loss and learning rate at the end of each epoch, side by side; what was not recorded is left out.

    Args:
        history: the table ``Robustness.history``, with columns such as ``epoch``, ``train_error``, ``test_loss``.
        title: the figure's title; none by default.

    Returns:
        An Altair chart.

    Raises:
        InputError: the table has no row, or nothing but epochs.
    """
    colours = alt.Scale(domain=["train", "test", "train, running"], range=[BLUE, ORANGE, GREEN])
    epochs = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, format="d", tickCount=6, grid=False))
    drawn = []
    for label, curves in PANELS.items():
        rows = [
            {"epoch": epoch, "curve": curve, "value": value}
            for column, curve in curves.items()
            if {column, "epoch"} <= set(history.columns)
            for epoch, value in history.select("epoch", pl.col(column).cast(pl.Float64)).iter_rows()
            if value is not None and math.isfinite(value)
        ]
        if not rows:
            continue
        percent = label == "error"
        value = alt.Y("value:Q", title=label, axis=alt.Axis(format=".0%" if percent else ".2~g", tickCount=5))
        number = alt.Tooltip("value:Q", title=label, format=".2%" if percent else ".4~g")
        if label == "learning rate":
            line = alt.Chart({"values": rows}).mark_line(interpolate="step-after", color=GREY)
        else:
            legend = alt.Legend(title=None, orient="bottom")
            line = alt.Chart({"values": rows}).mark_line(point=alt.OverlayMarkDef(size=24), strokeJoin="round")
            line = line.encode(color=alt.Color("curve:N", scale=colours, legend=legend))
        line = line.encode(x=epochs, y=value, tooltip=["epoch:Q", "curve:N", number])
        drawn.append(line.properties(width=250, height=180, view=FRAMELESS))
    if not drawn:
        raise InputError(
            "the training history has no recorded error, loss or learning rate; it needs the column epoch and one of these."
        )
    return titled(alt.hconcat(*drawn), title)
