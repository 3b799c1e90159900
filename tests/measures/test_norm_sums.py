"""Products and sums of norms, margins and the path norm: closed forms on small networks."""

import math

import pytest
import torch
from torch import nn

from shaketable import measures as m
from shaketable.errors import InputError
from shaketable.forward import forward
from shaketable.measures.margins import five_statistics, margin_quantile, normalised_margins
from shaketable.networks import build
from shaketable.params import state
from shaketable.study import Study


def chain(*scales: float, width: int = 3, **given) -> Study:
    """Linear layers that are multiples of the identity."""
    network = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in scales)).eval()
    final = {f"{i}.weight": scale * torch.eye(width) for i, scale in enumerate(scales)}
    return Study(network, final=final, train=(torch.eye(width), list(range(width))), **given)


def test_the_sums_are_those_of_the_scaled_network():
    study = chain(2.0, 8.0)  # squared Frobenius norms 12 and 192, squared spectral norms 4 and 64
    assert m.squared_parameter_norm(study).value == pytest.approx(204)
    assert m.sum_of_frobenius_norms(study).value == pytest.approx(2 * math.sqrt(12 * 192))
    assert m.sum_of_squared_spectral_norms(study).value == pytest.approx(2 * math.sqrt(4 * 64))
    assert m.sum_of_stable_ranks(study).value == pytest.approx(6)


def test_the_products_are_over_the_squared_margin():
    study = chain(2.0, 8.0)  # logits 16 on the diagonal, 0 elsewhere
    assert margin_quantile(study) == 16
    assert m.inverse_margin(study).value == pytest.approx(1 / 256)
    assert m.frobenius_norms_over_margin(study).value == pytest.approx(12 * 192 / 256)
    assert m.spectral_norms_over_margin(study).value == pytest.approx(4 * 64 / 256)
    assert m.spectral_complexity_from_origin(study).value == pytest.approx(6 * 4 * 64 / 256)
    init = {"0.weight": torch.eye(3), "1.weight": 8 * torch.eye(3)}  # the first layer moved by a squared norm of 3
    assert m.spectral_complexity_from_init(chain(2.0, 8.0, init=init)).value == pytest.approx(3 / 4)


def test_products_beyond_a_float_live_in_logarithms():
    study = chain(*[1e30] * 6)
    small = {"train": study.train}
    network = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(6))).double().eval()
    final = {f"{i}.weight": 1e30 * torch.eye(3, dtype=torch.float64) for i in range(6)}
    found = m.sum_of_frobenius_norms(Study(network, final=final))
    assert small
    assert found.log_value == pytest.approx(math.log(6) + math.log(3e60))
    assert found.value == pytest.approx(18e60)
    product = m.product_of_frobenius_norms(Study(network, final={n: t * 1e60 for n, t in final.items()}))
    assert product.value is None
    assert product.log_value == pytest.approx(6 * math.log(math.sqrt(3) * 1e90))


def test_a_margin_that_is_not_positive_is_a_row_with_its_reason():
    wrong = Study(nn.Linear(2, 2, bias=False).eval(), final={"weight": torch.eye(2)}, train=(torch.eye(2), [1, 0]))
    for measure in (m.inverse_margin, m.frobenius_norms_over_margin, m.spectral_complexity_from_origin):
        found = measure(wrong)
        assert (found.value, found.status) == (None, "unavailable")
        assert "the margin is -1" in str(found.reason)


def test_the_margin_is_the_one_that_a_tenth_falls_short_of():
    network = nn.Linear(1, 2, bias=False).eval()
    inputs = torch.arange(1.0, 21).unsqueeze(1)
    study = Study(network, final={"weight": torch.tensor([[1.0], [0.0]])}, train=(inputs, [0] * 20))
    assert margin_quantile(study) == 2  # of 1, 2, ... 20
    assert margin_quantile(study, 0.5) == 10
    assert m.inverse_margin(study, quantile=0.5).value == pytest.approx(0.01)


def test_examples_whose_logits_are_not_finite_do_not_count_as_the_best_margins():
    network = nn.Linear(1, 2, bias=False).eval()
    inputs = torch.tensor([[1.0]] * 18 + [[1e39 / 10]] * 2)  # 1e38: its logits are beyond float32
    study = Study(network, final={"weight": torch.tensor([[10.0], [0.0]])}, train=(inputs, [0] * 20))
    for measure in (m.inverse_margin, m.frobenius_norms_over_margin):
        found = measure(study)
        assert (found.value, found.status) == (None, "unavailable")
        assert "2 training examples have no finite margin" in str(found.reason)


def test_a_layer_that_is_zero_has_no_stable_rank_and_is_named():
    study = chain(2.0, 0.0)
    found = m.sum_of_stable_ranks(study)
    assert (found.value, found.status) == (None, "unavailable")
    assert "layer '1' is zero" in str(found.reason)


def test_a_margin_without_a_slope_says_of_how_many_examples():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False)).eval()
    final = {"0.weight": torch.eye(2), "0.bias": torch.zeros(2), "2.weight": torch.eye(2)}
    inputs = torch.tensor([[1.0, 0.5], [0.5, 1.0], [-1.0, -1.0]])  # the last one reaches no unit
    found = m.normalised_margin(Study(network, final=final, train=(inputs, [0, 1, 0])))
    assert found.status == "unavailable"
    assert "1 of 3 examples have no finite margin: the slope of their logits is 0" in str(found.reason)


def test_the_path_norm_is_the_sum_over_paths_by_hand():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False)).eval()
    final = {"0.weight": torch.tensor([[1.0, -2], [3, 0]]), "0.bias": torch.tensor([0.5, -1])}
    final |= {"2.weight": torch.tensor([[2.0, -1]])}
    study = Study(network, final=final, train=(torch.eye(2), [0, 0]))
    assert m.path_norm(study).value == pytest.approx((1 + 4 + 0.25) * 4 + (9 + 1) * 1)


@pytest.mark.parametrize(
    ("bent", "named"),
    [
        (nn.GELU(), "gelu"),
        (nn.SiLU(inplace=True), "silu"),
        (nn.Tanh(), "tanh"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.ReLU6(), "hardtanh"),
        (nn.Softplus(), "softplus"),
        (nn.Softmax(-1), "_softmax"),
        (nn.Softshrink(), "softshrink"),
        (nn.Sequential(nn.Linear(3, 6), nn.GLU()), "glu"),
    ],
)
def test_activations_that_bend_positive_numbers_leave_no_path_norm(bent, named):
    data = (torch.randn(4, 3), [0, 1, 0, 1])
    found = m.path_norm(Study(nn.Sequential(nn.Linear(3, 3), bent, nn.Linear(3, 2)).eval(), train=data))
    assert (found.status, found.value) == ("unavailable", None)
    assert f"activation {named} does not pass positive numbers on" in str(found.reason)


@pytest.mark.parametrize("straight", [nn.LeakyReLU(0.1), nn.PReLU(), nn.ELU(), nn.Threshold(0.0, 0.0), nn.Identity()])
def test_activations_that_pass_positive_numbers_on_have_the_path_norm_of_relus(straight):
    torch.manual_seed(0)
    first, last, data = nn.Linear(3, 5), nn.Linear(5, 2), (torch.randn(4, 3), [0, 1, 0, 1])
    relu = m.path_norm(Study(nn.Sequential(first, nn.ReLU(), last).eval(), train=data))
    found = m.path_norm(Study(nn.Sequential(first, straight, last).eval(), train=data))
    assert found.status == "ok"
    assert found.value == pytest.approx(relu.value, rel=1e-12)


def test_a_relu_that_is_a_function_is_none_that_bends_and_a_cap_is():
    class Plain(nn.Module):
        def __init__(self, highest):
            super().__init__()
            self.inner, self.highest = nn.Linear(3, 2), highest

        def forward(self, inputs):
            return self.inner(inputs).clamp(min=0, max=self.highest)

    data = (torch.randn(4, 3), [0, 1, 0, 1])
    assert m.path_norm(Study(Plain(None).eval(), train=data)).status == "ok"
    assert "activation clamp" in str(m.path_norm(Study(Plain(6.0).eval(), train=data)).reason)


def test_norms_with_batch_norms_folded_are_those_of_the_network_without():
    bare = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    normal = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).eval()
    generator = torch.Generator().manual_seed(0)
    final = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state(bare).items()}
    scale, eps = torch.tensor([2.0, -0.5, 3.0]), normal[1].eps
    same = {
        "0.weight": final["0.weight"] / scale[:, None], "0.bias": torch.tensor([0.3, -0.2, 0.1]),
        "1.weight": 2 * scale, "1.bias": final["0.bias"] - scale * torch.tensor([-0.7, -0.2, 1.1]),
        "1.running_mean": torch.tensor([1.0, 0.0, -1.0]), "1.running_var": torch.full((3,), 4 - eps),
        "1.num_batches_tracked": torch.tensor(7), "3.weight": final["2.weight"], "3.bias": final["2.bias"],
    }  # fmt: skip
    data = (torch.randn(20, 2, generator=generator), torch.randint(2, (20,), generator=generator))
    one, other = Study(bare, final=final, train=data), Study(normal, final=same, train=data)
    torch.testing.assert_close(forward(bare, data[0], final), forward(normal, data[0], same))
    for measure in (m.squared_parameter_norm, m.sum_of_frobenius_norms, m.sum_of_squared_spectral_norms, m.path_norm):
        assert measure(other).value == pytest.approx(measure(one).value, rel=1e-5)
    assert m.squared_parameter_norm(other, batch_norm="keep").value != pytest.approx(
        m.squared_parameter_norm(one).value
    )
    kept = m.path_norm(other, batch_norm="keep")
    assert (kept.status, "normalisation '1' (BatchNorm1d) stays" in str(kept.reason)) == ("unavailable", True)


def test_a_network_with_layer_norms_or_tokens_has_no_path_norm():
    data = (torch.randn(4, 3), [0, 1, 0, 1])
    normal = Study(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2)).eval(), train=data)
    assert "LayerNorm" in str(m.path_norm(normal).reason)
    tokens = Study(build("decoder-1x8", (5,), 7), train=(torch.randint(7, (4, 5)), torch.randint(7, (4, 5))))
    assert "real numbers" in str(m.path_norm(tokens).reason)


def test_the_margin_at_the_input_of_a_linear_network_is_the_distance_to_the_boundary():
    network = nn.Linear(3, 2).eval()
    final = {"weight": torch.tensor([[1.0, 2, 0], [0, 0, 2]]), "bias": torch.tensor([0.5, 0])}
    inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(2, (50,), generator=torch.Generator().manual_seed(1))
    found = normalised_margins(Study(network, final=final, train=(inputs, labels)), None)
    normal = torch.tensor([1.0, 2, -2])
    distances = (inputs @ normal + 0.5) / 3 * torch.where(labels == 0, 1, -1)
    spread = (inputs - inputs.mean(0)).square().sum(1).mean().sqrt()
    assert found.row(0)[4:] == pytest.approx(five_statistics((distances / spread).tolist()), rel=1e-5)


def test_scaling_layers_against_each_other_changes_no_normalised_margin():
    network = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).eval()
    generator = torch.Generator().manual_seed(0)
    final = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state(network).items()}
    scaled = {"0.weight": 5 * final["0.weight"], "2.weight": final["2.weight"] / 7}
    data = (torch.randn(60, 4, generator=generator), torch.randint(3, (60,), generator=generator))
    one, other = (normalised_margins(Study(network, final=each, train=data)) for each in (final, scaled))
    assert one["layer"].to_list() == ["0", "2"]
    for row, same in zip(one.rows(), other.rows(), strict=True):
        assert same[4:] == pytest.approx(row[4:], rel=1e-4)


def test_the_margin_behind_a_residual_block_sees_the_skip_too():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.head = (nn.Linear(2, 2, bias=False) for _ in range(3))

        def forward(self, inputs):
            x = self.first(inputs)
            return self.head(x + self.inner(x))

    final = {f"{name}.weight": scale * torch.eye(2) for name, scale in (("first", 1), ("inner", 3), ("head", 1))}
    inputs = torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, 2]])
    found = normalised_margins(Study(Block().eval(), final=final, train=(inputs, [0, 1, 0, 1])))
    at_inner = found.filter(layer="inner").row(0, named=True)
    # f_y - f_j = 4 (x_y - x_j): the gradient has norm 4 sqrt 2, so the distance is |x_y - x_j| / sqrt 2
    spread = (inputs - inputs.mean(0)).square().sum(1).mean().sqrt().item()
    assert at_inner["median"] == pytest.approx(1.5 / math.sqrt(2) / spread, rel=1e-5)


def test_the_five_statistics_are_tukey_s():
    assert five_statistics([0, 0, 0, 0]) == (0, 0, 0, 0, 0)
    assert five_statistics([-100, *range(1, 10), 50]) == (1, 2.5, 5, 7.5, 9)


def test_a_layer_can_be_chosen_and_an_unknown_one_is_refused():
    study = chain(1.0, 2.0)
    assert m.normalised_margin(study, layer="1", statistic="upper_fence").value is not None
    with pytest.raises(InputError, match="no linear layer '7'; there are 0, 1"):
        m.normalised_margin(study, layer="7")
    with pytest.raises(InputError, match="statistic='mean'"):
        m.normalised_margin(study, statistic="mean")
