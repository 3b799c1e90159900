"""What the report says and draws about criticality, paths, valleys, measures and bounds."""

import html
import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.report.test_page import EVIL, Browser
from tests.report.test_page import browser as browser
from tests.tables import bound, criticality, measures, paths, valley

from shaketable.bounds import corollary_bound
from shaketable.errors import InputError
from shaketable.report import Bounds, Measures, write_report
from shaketable.report.criticality_words import bound_verdict, criticality_paragraphs, path_paragraphs, quantity
from shaketable.report.page import MOST_BYTES


@pytest.fixture(scope="module")
def everything(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = [bound(), measures(), valley(("in", "out")), paths(), criticality(infeasible=("mid",)), build()]
    return write_report(results, tmp_path_factory.mktemp("report") / "report.html")


def words(path: Path) -> str:
    """What one reads without scripts."""
    text = re.sub(r"(?s)<(script|style).*?</\1>", "", path.read_text(encoding="utf-8"))
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_a_report_of_everything_draws_everything_in_its_order_without_a_complaint(
    everything: Path, browser: Browser
) -> None:
    found, console = browser(
        everything,
        """const charts = [...document.querySelectorAll(".chart")];
        return {drawn: charts.map((chart) => chart.id), empty: charts.filter((chart) => !chart.querySelector("svg")).length,
                heads: [...document.querySelectorAll("h2")].map((head) => head.textContent),
                bars: document.querySelectorAll("#criticality .bars_marks > path").length,
                wide: document.documentElement.scrollWidth - document.documentElement.clientWidth};""",
    )
    own = ["criticality", "network-criticality", "path-test", "path-train", "path-loss", "valley-0", "valley-1"]
    assert found["drawn"][0] == "heatmap-test"
    assert found["drawn"][-8:] == [*own, "valley-grid"]
    assert found["empty"] == 0
    assert found["bars"] == 3, "two layers with PAC-Bayes, one of them with a criticality above 0"
    assert found["heads"][-6:] == [
        "The valley around that way",
        "Measures of this network",
        "Bounds on the error on new examples",
        "What could not be measured",
        "Where these numbers come from",
        "How to read this",
    ]
    assert console == []
    assert everything.stat().st_size <= MOST_BYTES


def test_a_surface_is_drawn_and_turns_by_keys_and_by_dragging(everything: Path, browser: Browser) -> None:
    found, console = browser(
        everything,
        """const canvas = document.querySelector("canvas.surface");
        const inked = () => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((one) => one);
        const views = [canvas.toDataURL()];
        const look = () => views.push(canvas.toDataURL());
        for (const key of ["ArrowLeft", "ArrowUp", "x"]) {
          canvas.dispatchEvent(new KeyboardEvent("keydown", {key, cancelable: true}));
          look();
        }
        canvas.dispatchEvent(new PointerEvent("pointermove", {buttons: 1, movementX: 40, movementY: 0}));
        look();
        const box = canvas.getBoundingClientRect();
        let said = "";
        for (let x = 0; x < box.width && !said; x += 10) for (let y = 0; y < box.height && !said; y += 10) {
          canvas.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + x, clientY: box.top + y}));
          said = canvas.nextElementSibling.textContent;
        }
        return {inked: inked(), same: views.map((view) => view === views[0]), still: views[2] === views[3],
                moved: views[4] !== views[3], said, tab: canvas.tabIndex, label: canvas.getAttribute("aria-label")};""",
    )
    assert found["inked"]
    assert found["same"][:3] == [True, False, False]
    assert found["still"], "another key does nothing"
    assert found["moved"]
    assert re.fullmatch(r"alpha [\d.]+, sigma −?[\d.]+: loss [\d.]+ nats", found["said"])
    assert found["tab"] == 0
    assert "arrow keys" in found["label"]
    assert console == []


def test_without_scripts_the_numbers_and_what_they_mean_are_there(everything: Path) -> None:
    said = words(everything)
    total = criticality(infeasible=("mid",)).table.filter(epsilon=0.1)
    for one in (
        f"in 6 {quantity(total['criticality'][0], total['criticality_stderr'][0])} 0.50 0.1",
        "mid 6 – – –",
        "its error exceeds the bound",
        "Network criticality, the sum over layers, is therefore not known.",
        "10^312.50",
        "400,000 ± 20,000",
        "unavailable: no test",
        bound().statement(),
        "a quarter for each layer, for the steps between priors",
        "nothing in the numbers shows it",
        "shaketable criticality runs/RUN",
        "The intriguing role of module criticality",
        "Are All Layers Created Equal?",
    ):
        assert one in said, one


@pytest.mark.parametrize(("antithetic", "said"), [(True, "of the noise on both sides."), (False, "of the noise.")])
def test_noise_is_on_both_sides_only_where_each_draw_has_its_negative(
    antithetic: bool, said: str, tmp_path: Path
) -> None:
    assert f"means over draws {said}" in words(write_report(valley(antithetic=antithetic), tmp_path / "one.html"))


@pytest.mark.parametrize(
    ("result", "heading", "absent"),
    [
        (criticality(), "How critical each layer is", "Verdict on each layer"),
        (paths(splits=("train",)), "On the way from initial to trained weights", "How critical"),
        (valley(), "The valley around that way", "On the way"),
        (measures(), "Measures of this network", "Bounds on"),
        (bound(), "Bounds on the error on new examples", "Measures of"),
    ],
    ids=["criticality", "path", "valley", "measures", "bound"],
)
def test_one_result_alone_makes_a_report(result: Any, heading: str, absent: str, tmp_path: Path) -> None:
    text = write_report(result, tmp_path / "one.html").read_text(encoding="utf-8")
    assert f"<h2>{heading}</h2>" in text
    assert f"<h2>{absent}" not in text
    assert "default-src 'none'" in text


def test_names_from_outside_do_not_run_here_either(tmp_path: Path, browser: Browser) -> None:
    table = measures().with_columns(measure=pl.lit(EVIL), about=pl.lit(EVIL), reason=pl.lit(EVIL))
    results = [criticality((EVIL, "a'b", "__proto__"), infeasible=("a'b",), name=EVIL), paths((EVIL, "{{ 7 * 7 }}"))]
    results += [valley((EVIL,), command=EVIL), Measures(table, {"name": EVIL})]
    found, console = browser(
        write_report(results, tmp_path / "evil.html"),
        """const head = document.documentElement;
        return {hacked: head.dataset.hacked ?? null, images: document.images.length, title: document.title,
                empty: [...document.querySelectorAll(".chart")].filter((chart) => !chart.querySelector("svg")).length};""",
    )
    assert found == {"hacked": None, "images": 0, "title": f"What holds {EVIL} up?", "empty": 0}
    assert console == []


@pytest.mark.slow
def test_a_phone_loses_nothing_of_it(everything: Path, browser: Browser) -> None:
    found, _ = browser(
        everything,
        """document.querySelector("main").style.width = "390px";
        const inside = [...document.querySelectorAll("main svg, main table:not(.provenance), main canvas")];
        const wide = inside.filter((one) => one.getBoundingClientRect().width > 390);
        const cut = wide.filter((one) => getComputedStyle(one.closest(".scroll") ?? one).overflowX !== "auto");
        return {wide: wide.length, cut: cut.length,
                text: [...document.querySelectorAll("main > p, section > p, li")].every((one) => one.scrollWidth <= one.clientWidth)};""",
    )
    assert found["wide"] > 5
    assert found["cut"] == 0
    assert found["text"]


@pytest.mark.slow
def test_a_large_network_still_fits_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    names = [f"encoder.layer.{index}.attention.output.dense" for index in range(1000)]
    results = [criticality(names), paths(names), valley(names[:9]), measures(), bound()]
    path = write_report(results, tmp_path / "many.html")
    assert path.stat().st_size <= MOST_BYTES
    said = words(path)
    assert re.search(r"the figure and the table show the \d+ most critical of 1,000 layers", said)
    assert re.search(r"the figures show \d+ of 1,000 layers", said)
    assert "4 of 9 layers are drawn" in said


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([], "no result to report"),
        ([criticality(), criticality()], "two results of the kind criticality"),
        ([3], "a int is no result"),
    ],
)
def test_what_no_report_can_hold_is_said(results: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        write_report(results, tmp_path / "none.html")


def test_the_first_sentences_name_the_critical_layers_those_that_may_go_back_and_the_sum() -> None:
    result = criticality(("a", "b", "c"))
    first, _, limits = criticality_paragraphs(result, 0.1)
    total = result.summary().filter(epsilon=0.1).row(0, named=True)
    assert first.startswith(
        "As long as the train error with noise stays at most 10%, the most critical layers are a (100 ± 10)"
    )
    assert "One of the 3 layers may go back to its initial weights altogether (criticality 0): c." in first
    assert f"is {quantity(total['network_criticality'], total['network_criticality_stderr'])}." in first
    assert "no bound" in limits


def test_a_layer_without_criticality_leaves_the_sum_unknown() -> None:
    first, *_ = criticality_paragraphs(criticality(("a", "b", "c"), infeasible=("a",)), 0.1)
    assert "the most critical layer is b (" in first
    assert "One of the 3 layers has no criticality: a." in first
    assert "therefore not known" in first


def test_a_curve_that_rises_on_the_way_is_named() -> None:
    result = paths()
    assert "falls or stays all the way" in path_paragraphs(result, "test")[0]
    bump = (pl.col("layer") == "mid") & (pl.col("alpha") == 1.0)
    worse = type(result)(result.table.with_columns(error=pl.when(bump).then(0.5).otherwise("error")), result.provenance)
    assert re.search(r"rises somewhere on the way of mid, by at most 48\.59%", path_paragraphs(worse, "test")[0])


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [(0.0, None, "0"), (1.5e-9, None, "1.50e-09"), (2e12, 3e10, "2.00e+12 ± 3.00e+10"), (math.inf, None, "infinite")],
)
def test_numbers_of_any_size_are_readable(value: float, error: float | None, said: str) -> None:
    assert quantity(value, error) == said


def test_a_bound_is_never_called_proved_where_something_was_not_checked() -> None:
    assert bound_verdict(bound()) == "rests on what was not checked"
    assert bound_verdict(bound(0.999)) in ("vacuous: it says nothing", "rests on what was not checked")
    printed = corollary_bound(200.0, 0.05, [1000, 100], [0.2, 0.1], 5000, form="printed")
    assert bound_verdict(printed) == "no bound: an assumption fails"


def test_measures_and_bounds_are_read_as_they_were_written(tmp_path: Path) -> None:
    kept = Measures(measures(), {"weights": "abc"})
    kept.save(tmp_path / "measures")
    again = Measures.load(tmp_path / "measures")
    assert again.table.equals(kept.table)
    assert again.provenance == kept.provenance
    both = Bounds((bound(), corollary_bound(200.0, 0.05, [1000], [0.2], 5000)), {"weights": "abc"})
    both.save(tmp_path / "bounds")
    read = Bounds.load(tmp_path / "bounds")
    assert [one.statement() for one in read.bounds] == [one.statement() for one in both.bounds]
    assert all(one.terms.equals(other.terms) for one, other in zip(read.bounds, both.bounds, strict=True))
    assert [one.assumptions for one in read.bounds] == [one.assumptions for one in both.bounds]
    with pytest.raises(InputError, match="holds a bounds result, not a measures one"):
        Measures.load(tmp_path / "bounds")
