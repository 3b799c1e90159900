"""What the README and the how-to show works as it stands there."""

import re
import shlex
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import nn

import shaketable as st
from shaketable import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_a_network_and_a_trajectory_of_ones_own_in_the_lines_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / "README.md", "python")[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        inputs = torch.randn(64, 2)
    labels = (inputs[:, 0] > inputs[:, 1]).long()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)

    def train_one_epoch(network):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimiser.step()

    names = {"network": network, "inputs": inputs, "labels": labels, "train_one_epoch": train_one_epoch}
    exec(code, names)
    assert names["result"].verdicts()["layer"].to_list() == ["0", "2"]
    assert names["result"].table.filter(pl.col("layer") == "full model")["checkpoint"].to_list() == list(range(11))
    assert (tmp_path / "report.html").is_file()
    assert capsys.readouterr().out.startswith("[")
    statements = [line for line in code.splitlines() if line.strip() and not line.startswith("import")]
    assert len(statements) <= 8


def test_every_name_of_the_package_in_the_examples_exists():
    for page in PAGES:
        for code in blocks(page, "python"):
            for name in re.findall(r"\bst\.(\w+)", code):
                assert hasattr(st, name), f"{page.name}: st.{name}"
            compile(code, str(page), "exec")


COMMANDS = [
    (page.name, line.split("  #")[0].strip())
    for page in PAGES
    for code in blocks(page, "sh")
    for line in code.replace("\\\n", " ").splitlines()
    if line.startswith("shaketable ")
]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_every_command_in_the_examples_is_understood(page, command):
    function, *_ = cli.app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)
    assert callable(function)


def test_every_link_to_a_file_in_the_pages_leads_to_one():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "docs/results").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_the_lines_of_the_engines_page_give_answers(capsys):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
        init = st.snapshot(network)
        inputs = torch.randn(300, 2)
    labels = (inputs[:, 0] > inputs[:, 1]).long()
    optimiser = torch.optim.Adam(network.parameters(), 0.05)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimiser.step()
    names = {"torch": torch, "study": st.Study(network, init=init, test=(inputs, labels))}
    for code in blocks(ROOT / "docs" / "engine.md", "python"):
        exec(code, names)
    printed = capsys.readouterr().out
    assert "level replay for 2 of 2 layers" in printed
    assert all(found.value is not None for found in names["found"].values())
