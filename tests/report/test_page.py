"""The report is opened in a real headless browser: what it draws, what it says, and what it never does."""

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shaketable.report import write_report
from shaketable.report.page import MOST_BYTES

EVIL = "</script><script>document.documentElement.dataset.hacked='1'</script><img src=x onerror=\"document.title='hacked'\">"
DEEP = (
    "stage0.conv",
    *(f"stage{stage}.resblk{block}" for stage in range(1, 5) for block in range(1, 13)),
    "final_linear",
)
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=8000",
    "--dump-dom",
)

Browser = Callable[..., tuple[dict[str, Any], list[str]]]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """Opens a page in Chromium, runs a script in it, and gives back what the script returned and the console's lines."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None and os.environ.get("SHAKETABLE_REQUIRE_DATA") == "1":
        pytest.fail("SHAKETABLE_REQUIRE_DATA=1 and no Chromium to open the report in")
    if program is None:
        pytest.skip("needs Chromium to open the report in")
    profile = tmp_path_factory.mktemp("profile")

    def opened(page: Path, script: str) -> tuple[dict[str, Any], list[str]]:
        probe = (
            "<script>setTimeout(() => { const found = (() => {" + script + "})();"
            "document.documentElement.dataset.found = JSON.stringify(found); }, 3000);</script></body>"
        )
        text = page.read_text(encoding="utf-8")
        watched = page.with_suffix(".watched.html")
        watched.write_text(probe.join(text.rsplit("</body>", 1)), encoding="utf-8")  # the library has one in a string
        arguments = [program, *SWITCHES, f"--user-data-dir={profile}", watched.as_uri()]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
        found = re.search(r'data-found="([^"]*)"', done.stdout)
        assert found, f"the script in the page did not end: {done.stderr[-2000:]}"
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return json.loads(html.unescape(found[1])), console

    return opened


@pytest.fixture(scope="session")
def report(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(build(unavailable=("layers.2",)), tmp_path_factory.mktemp("report") / "new" / "report.html")


class References(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        loading = {"src", "href", "srcset", "data", "poster", "action"}
        self.found += [f"{tag} {name}={value}" for name, value in attrs if name in loading]


def test_the_file_asks_for_nothing_from_outside_and_is_small(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    parser = References()
    parser.feed(text)
    assert parser.found == []
    assert "@import" not in text
    assert "url(" not in text.split("</style>")[0]
    assert "default-src 'none'" in text
    assert len(text.encode()) <= MOST_BYTES


def test_every_cell_of_the_table_is_drawn_without_a_complaint(report: Path, build: Any, browser: Browser) -> None:
    found, console = browser(
        report,
        """const marks = (id, part) => document.querySelectorAll(`#${id} .${part}_marks > path`).length;
        const charts = [...document.querySelectorAll(".chart")];
        return {cells: marks("heatmap-test", "cells"), train: marks("heatmap-train", "cells"),
                holes: marks("heatmap-test", "unavailable"), distances: marks("distance-l2", "cells"),
                drawn: charts.map((chart) => chart.id), empty: charts.filter((chart) => !chart.querySelector("svg")).length,
                said: document.querySelector("#heatmap-test .cells_marks path").getAttribute("aria-label")};""",
    )
    summary = build(unavailable=("layers.2",)).summary()
    for split, cells in (("test", found["cells"]), ("train", found["train"])):
        assert cells == len(summary.filter(split=split, status="ok"))
    assert found["holes"] == 1
    assert found["distances"] == 4 * 8
    assert found["drawn"] == ["heatmap-test", "heatmap-train", "curves", "distance-l2", "distance-linf", "history"]
    assert found["empty"] == 0
    assert "test error: " in found["said"]
    assert console == []


def test_the_console_is_heard(tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><body><script>nothing.here()</script></body>")
    _, console = browser(page, "return {};")
    assert "nothing is not defined" in console[0]


def test_a_click_on_a_heading_sorts_the_table_and_the_tab_key_reaches_it(
    report: Path, build: Any, browser: Browser
) -> None:
    found, _ = browser(
        report,
        """const table = document.getElementById("verdicts");
        const buttons = [...table.querySelectorAll("thead th button")];
        const names = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
        const state = () => [...table.querySelectorAll("thead th")].map((head) => head.getAttribute("aria-sort"));
        const steps = [{names: names(), state: state()}];
        for (const column of [1, 1, 4, 6, 6, 7]) {
          buttons[column].focus();
          document.activeElement.click();
          steps.push({names: names(), state: state()});
        }
        return {steps, tab: buttons.every((button) => button.tabIndex === 0)};""",
    )
    before, name, name_back, drop, fresh, fresh_back, verdict = (step["names"] for step in found["steps"])
    forward = ["layers.0", "layers.1", "layers.2", "final"]
    assert before == forward
    assert name == sorted(forward)
    assert name_back == sorted(forward, reverse=True)
    assert drop == build().verdicts().sort("reinitialise_drop")["layer"].to_list()
    assert fresh == ["final", "layers.1", "layers.0", "layers.2"], "what is missing stays at the end"
    assert fresh_back == ["layers.0", "layers.1", "final", "layers.2"]
    assert verdict == ["layers.0", "layers.1", "final", "layers.2"], "critical, between, robust, not measured"
    states = [step["state"] for step in found["steps"]]
    assert states[0][0] == states[1][1] == states[3][4] == "ascending"
    assert states[2][1] == "descending"
    assert all(sum(one is not None for one in state) == 1 for state in states)
    assert found["tab"]


def test_names_from_outside_are_shown_and_do_not_run(build: Any, tmp_path: Path, browser: Browser) -> None:
    names = (EVIL, "blocks[0].attn['q']", "naïve.層", "{{ 7 * 7 }}", "__proto__")
    result = build(names, unavailable=(names[1],), name=EVIL, command=EVIL, network=EVIL, recipe={EVIL: EVIL})
    found, console = browser(
        write_report(result, tmp_path / "evil.html"),
        """const head = document.documentElement;
        return {hacked: head.dataset.hacked ?? null, title: document.title, images: document.images.length,
                names: [...document.querySelectorAll("#verdicts tbody th")].map((cell) => cell.textContent),
                labels: document.querySelector("#heatmap-test svg").textContent};""",
    )
    assert found["hacked"] is None
    assert found["images"] == 0
    assert found["title"] == f"Which layers hold {EVIL} up?"
    assert found["names"] == list(names)
    assert "blocks[0].attn['q']" in found["labels"]
    assert console == []


@pytest.mark.slow
def test_a_phone_and_a_printer_lose_nothing(build: Any, tmp_path: Path, browser: Browser) -> None:
    found, _ = browser(
        write_report(build(DEEP), tmp_path / "deep.html"),
        """document.querySelector("main").style.width = "390px";
        const inside = [...document.querySelectorAll("main svg, main table")].filter((one) => !one.closest("details"));
        const wide = inside.filter((one) => one.getBoundingClientRect().width > 390);
        const wrapped = wide.filter((one) => getComputedStyle(one.closest(".scroll")).overflowX === "auto");
        return {view: document.querySelector("meta[name=viewport]").content, wide: wide.length, wrapped: wrapped.length,
                text: [...document.querySelectorAll("main > p, li")].every((one) => one.scrollWidth <= one.clientWidth)};""",
    )
    assert found["view"].startswith("width=device-width")
    assert found["wide"] == found["wrapped"] > 5
    assert found["text"]


def test_without_scripts_the_words_and_the_numbers_are_there(report: Path, build: Any) -> None:
    text = report.read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(script|style).*?</\1>", "", text)))
    text = " ".join(text.split())
    result = build(unavailable=("layers.2",))
    row = result.summary().filter(layer="layers.1", split="test").sort("checkpoint", nulls_last=False)
    for said in (
        "One of the 4 layers holds this network up: layers.0.",
        " ".join(["layers.1", *(f"{100 * error:.2f}%" for error in row["error"])]),
        "full model 90.00% 23.21%",
        result.provenance["command"],
        result.provenance["weights"],
        result.provenance["data"]["train"],
        "2.13.0+cpu",
        "no distribution of its initial weights is known",
        "Are All Layers Created Equal?",
        "kept as trained",
        "Robust: at most 5 points. Critical: at least 25 points.",
    ):
        assert said in text, said


@pytest.mark.slow
def test_a_result_too_large_for_the_file_is_cut_and_says_so(build: Any, tmp_path: Path) -> None:
    many = build(
        tuple(f"encoder.layer.{index}.attention.output.dense" for index in range(400)), tuple(range(40)), draws=1
    )
    path = write_report(many, tmp_path / "many.html")
    assert path.stat().st_size <= MOST_BYTES
    text = path.read_text(encoding="utf-8")
    assert re.search(r"The figures show \d+ of the 40 checkpoints", text)
    assert text.count('<th scope="row">encoder.layer.') >= 400, "the verdicts are whole"


def test_only_what_was_measured_has_a_section(build: Any, tmp_path: Path) -> None:
    result = build(splits=("train",), draws=0, command=None, classes=None, final_checkpoint=None, seconds=None)
    own = pl.DataFrame({"step": [1, 2]})
    bare = type(result)(result.table, result.distances.clear(), 0.05, 0.25, result.provenance, own)
    text = write_report(bare, tmp_path / "bare.html").read_text(encoding="utf-8")
    assert re.findall(r'class="chart" id="([^"]+)"', text) == ["heatmap-train", "curves"]
    assert "Nothing: every number that was asked for is there" in text
    assert "this was called from Python" in text
    assert "points of train accuracy" in text.lower()
    assert "No figure of the training: the training history has no recorded error" in text
