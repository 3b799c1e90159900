"""A network that nobody here wrote or trained: ResNet-20 for CIFAR-10 with parameter-free shortcuts."""

import polars as pl
import pytest

from shaketable.evaluate import evaluate
from shaketable.probes import robustness
from studies import pretrained_resnet20 as resnet20

BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]


@pytest.mark.slow
def test_the_clean_error_is_the_published_one_and_re_randomisation_depends_on_the_running_statistics(
    data_root, pretrained
):
    whole, part = resnet20.study(pretrained / "resnet20-12fca82f.th", data_root, 1000)
    sums = evaluate(whole.network, whole.final, whole.data("test"))
    assert (sums.examples, sums.errors) == (10_000, 827)  # the published 91.73% accuracy

    drops = {}
    for statistics in ("keep", "rewind"):
        result = robustness(part, draws=2, statistics=statistics)
        verdicts = result.verdicts()
        assert verdicts["layer"].to_list() == ["conv1", *BLOCKS, "linear"]
        rows = result.table.filter(pl.col("perturbation") == "rerandomise")
        assert rows["distribution"].unique().to_list() == ["reset_parameters"]
        assert set(verdicts["reinitialise"]) == {None}  # it came without initial weights
        drops[statistics] = dict(zip(verdicts["layer"], verdicts["rerandomise_drop"]))
        if statistics == "keep":
            assert set(verdicts["rerandomise"]) == {"critical"}  # fresh weights under statistics that do not fit them
    assert all(drops["rewind"][block] < drops["keep"][block] for block in BLOCKS)
    for stage in (2, 3):  # the first block of a stage, whose shortcut is no identity, matters most, as in the paper
        first, *others = (drops["rewind"][block] for block in BLOCKS if block.startswith(f"layer{stage}"))
        assert first > max(others)
