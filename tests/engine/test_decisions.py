"""Early decisions: never against full knowledge when certain, and wrong less often than stated when likely."""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shaketable.engine.decisions import BoundedMean, certain, interval, likely, log_ratio, share
from shaketable.errors import InputError

SEED = 20240607


def states(total):
    """All (wrong, seen) with something seen."""
    return [(wrong, seen) for seen in range(1, total + 1) for wrong in range(seen + 1)]


def chance_of(bad, truth, total):
    """The exact probability that a uniformly random order of a population ever passes through a bad (wrong, seen)."""
    alive, met = np.zeros(truth + 2), 0.0  # by wrong
    alive[0] = 1.0
    for seen in range(1, total + 1):
        wrong = np.arange(truth + 1)
        to_wrong = alive[:-1] * (truth - wrong) / (total - seen + 1)
        stays = alive[:-1] - to_wrong
        alive = np.zeros(truth + 2)
        alive[:-1] += stays
        alive[1:] += to_wrong
        for count in range(min(seen, truth) + 1):
            if alive[count] > 0 and bad(count, seen):
                met, alive[count] = met + alive[count], 0.0
    return met


def answers(rng, total, truth, bound, failure, batch, questions):
    """The answers, and the examples seen, of questions about a population that has ``truth`` wrong ones."""
    wrong, seen = np.zeros(questions, dtype=int), 0
    answer, needed = np.full(questions, -1), np.zeros(questions, dtype=int)
    going = np.arange(questions)
    decide = functools.cache(lambda wrong, seen: likely(wrong, seen, total, bound, failure))
    while len(going):
        size = min(batch, total - seen)
        left = truth - wrong[going]
        wrong[going] += rng.hypergeometric(left, total - seen - left, size)
        seen += size
        found = [decide(int(count), seen) for count in wrong[going]]
        decided = np.array([one is not None for one in found])
        answer[going[decided]] = [one for one in found if one is not None]
        needed[going[decided]] = seen
        going = going[~decided]
    return answer.astype(bool), needed


# certain


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 61), st.floats(-0.5, 1.5))
def test_what_is_certain_of_errors_never_contradicts_full_knowledge(outcomes, k, anywhere):
    total = len(outcomes)
    for bound in (k / total, anywhere):
        truth = sum(outcomes) / total <= bound
        looks = [certain(sum(outcomes[:seen]), seen, total, bound) for seen in range(total + 1)]
        assert all(look in (None, truth) for look in looks)
        assert looks[-1] is truth


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 1), st.booleans())
def test_what_is_certain_of_a_bounded_mean_never_contradicts_full_knowledge(values, bound, at_the_mean):
    total = len(values)
    sums = [0.0, *itertools.accumulate(values)]
    bound = sums[-1] / total if at_the_mean else bound
    truth = sums[-1] / total <= bound
    looks = [certain(part, seen, total, bound) for seen, part in enumerate(sums)]
    assert all(look in (None, truth) for look in looks)
    assert looks[-1] is truth


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.floats(0, 1e6))
def test_an_unbounded_mean_is_certainly_too_large_early_but_small_enough_only_at_the_end(values, bound):
    total = len(values)
    sums = [0.0, *itertools.accumulate(values)]
    truth = sums[-1] / total <= bound
    looks = [certain(part, seen, total, bound, most=math.inf) for seen, part in enumerate(sums)]
    assert True not in looks[:-1]
    assert all(look in (None, truth) for look in looks)
    assert looks[-1] is truth


def test_the_bound_is_met_by_the_count_that_it_was_divided_from():
    assert certain(1, 10, 10, 0.1) is True
    for total in range(1, 120):
        for count in range(total):
            assert certain(count, total, total, count / total) is True
            assert certain(count + 1, total, total, count / total) is False
            assert likely(count, total - 1, total, count / total, 1e-9) is not True or count == 0
            assert likely(count + 1, total, total, count / total, 1e-9) is False


def test_a_decision_is_certain_as_soon_as_it_can_be_and_no_sooner():
    assert [certain(0, seen, 10, 0.3) for seen in (6, 7)] == [None, True]
    assert [certain(wrong, 5, 10, 0.3) for wrong in (3, 4)] == [None, False]
    assert certain(0, 0, 10, 1.0) is True
    assert certain(0, 0, 10, -0.1) is False
    assert certain(0.0, 9, 10, 5.0, most=math.inf) is None
    assert certain(51.0, 1, 10, 5.0, most=math.inf) is False


def test_a_sum_that_is_not_a_number_is_within_no_bound():
    assert certain(math.nan, 1, 10, 100.0, most=math.inf) is False
    assert certain(math.inf, 10, 10, 100.0, most=math.inf) is False


# the ratio


def test_the_ratio_is_prior_over_posterior_by_bayes_rule_in_exact_fractions():
    total, a, b = 9, 2, 3

    def rising(x, n):
        return math.prod(x + i for i in range(n))

    prior = [
        Fraction(math.comb(total, count) * rising(a, count) * rising(b, total - count), rising(a + b, total))
        for count in range(total + 1)
    ]
    assert sum(prior) == 1
    for wrong, seen in states(total):
        likelihood = [
            Fraction(math.comb(count, wrong) * math.comb(total - count, seen - wrong), math.comb(total, seen))
            for count in range(total + 1)
        ]
        evidence = sum(p * q for p, q in zip(prior, likelihood, strict=True))
        for count in range(total + 1):
            ratio = log_ratio(wrong, seen, total, count, (a, b))
            if likelihood[count] == 0:
                assert ratio == math.inf
            else:
                assert ratio == pytest.approx(math.log(evidence / likelihood[count]), abs=1e-12)


@pytest.mark.parametrize(
    ("wrong", "seen", "total", "count", "prior", "expected"),
    [
        # The authors' own code, github.com/WannabeSmith/confseq_wor at 21b139e, cswor/cswor.py:
        # log of DMHG_martingale([wrong, seen - wrong], prior, [count, total - count])
        (0, 1500, 500_000, 5001, (1, 100), 12.328707824807566),
        (25, 5000, 500_000, 5001, (1.0101, 99.99), 5.9053610153322325),
        (180, 9000, 500_000, 5000, (1, 100), 33.048595251840425),
        (3, 40, 200, 30, (2, 3.5), -0.9553111789772881),
        (30, 40, 200, 120, (1, 1), 0.5817385409748708),
        (450, 500, 10_000, 8900, (0.5, 0.5), -3.0818424098355557),
        # ville 0.1.0, for a population without end:
        # BernoulliTest(count / total, prior=prior).fit([1] * wrong + [0] * (seen - wrong)).log_e_values_[-1]
        (0, 300, 10**9, 10**7, (1, 1), -2.6920095086987548),
        (25, 5000, 10**9, 10**7, (1, 100), 5.840391608873631),
        (40, 60, 10**9, 5 * 10**8, (2, 3.5), 1.159907025719363),
    ],
)
def test_the_ratio_is_that_of_independent_code(wrong, seen, total, count, prior, expected):
    assert log_ratio(wrong, seen, total, count, prior) == pytest.approx(expected, abs=5e-4 if total == 10**9 else 1e-6)


# likely and interval


@pytest.mark.parametrize("bound", [0.0, 0.02, 0.1, 0.35, 0.5, 0.8, 0.975])
@pytest.mark.parametrize("failure", [0.2, 1e-3])
def test_one_candidate_decides_what_the_enumerated_set_decides(bound, failure):
    total = 40
    counts = np.arange(total + 1)
    allowed = max(count for count in range(total + 1) if count / total <= bound)
    centre = (allowed + 0.5) / total
    prior = stats.betabinom.pmf(counts, total, 1 / (1 - centre), 1 / centre)
    for wrong, seen in states(total):
        joint = prior * stats.hypergeom.pmf(wrong, total, counts, seen)
        posterior = joint / joint.sum()
        kept = counts[prior * failure < posterior]
        set_says = True if kept.max() <= allowed else False if kept.min() > allowed else None
        assert likely(wrong, seen, total, bound, failure) is set_says


@pytest.mark.parametrize(("failure", "precision"), [(0.2, 0.05), (1e-3, 0.2), (1e-3, 0.01)])
def test_the_interval_spans_the_enumerated_set(failure, precision):
    total = 30
    strength, counts = min(0.03 / precision**2, total), np.arange(total + 1)
    share_wrong = counts[:, None] / total
    priors = stats.betabinom.pmf(counts, total, 0.5 + strength * share_wrong, 0.5 + strength * (1 - share_wrong))
    for wrong, seen in states(total):
        likelihood = stats.hypergeom.pmf(wrong, total, counts, seen)
        kept = counts[(priors @ likelihood) * failure < likelihood]
        assert interval(wrong, seen, total, failure, precision) == (kept[0] / total, kept[-1] / total)
        assert list(kept) == list(range(kept[0], kept[-1] + 1))


@pytest.mark.parametrize(("total", "bound"), [(60, 0.0), (150, 0.02), (150, 0.1), (150, 0.5), (150, 0.9)])
def test_the_exact_chance_of_a_wrong_decision_at_any_look_is_below_what_is_stated(total, bound):
    failure, allowed = 0.05, max(count for count in range(total) if count / total <= bound)
    decide = functools.cache(lambda wrong, seen: likely(wrong, seen, total, bound, failure))
    chances = [chance_of(lambda wrong, seen: decide(wrong, seen) is False, allowed, total)]
    chances += [chance_of(lambda wrong, seen: decide(wrong, seen) is True, allowed + 1, total)]
    assert max(chances) <= failure
    assert max(chances) > failure / 5  # it is a test: the statement is not wildly cautious


@pytest.mark.parametrize("precision", [0.2, 0.05])
def test_the_exact_chance_that_an_interval_of_any_look_misses_is_below_what_is_stated(precision):
    total, failure = 60, 0.05
    at = {(wrong, seen): interval(wrong, seen, total, failure, precision) for wrong, seen in states(total)}

    def misses(truth):
        return lambda wrong, seen: not at[wrong, seen][0] <= truth / total <= at[wrong, seen][1]

    chances = [chance_of(misses(truth), truth, total) for truth in range(total + 1)]
    assert max(chances) <= failure
    assert max(chances) > failure / 5


@pytest.mark.parametrize(("total", "bound"), [(200, 0.1), (2000, 0.01), (2000, 0.5), (50_000, 0.01), (50_000, 0.1)])
@pytest.mark.parametrize("above", [0, 1], ids=["exactly at the bound", "one above the bound"])
def test_of_questions_at_the_boundary_fewer_are_decided_wrongly_than_is_stated(total, bound, above):
    truth = round(bound * total) + above
    answer, _ = answers(np.random.default_rng(SEED), total, truth, bound, 0.05, total // 50, questions=1000)
    assert np.mean(answer == (above == 1)) <= 0.05


@pytest.mark.parametrize("times", [0, 0.5, 0.9, 1.1, 2, 6])
def test_questions_away_from_the_boundary_are_decided_rightly(times):
    answer, needed = answers(np.random.default_rng(SEED), 6000, round(600 * times), 0.1, 1e-3, 64, questions=500)
    assert np.mean(answer != (times <= 1)) <= 1e-3
    assert needed.mean() < 5500


@given(st.integers(1, 300), st.data())
@settings(max_examples=200)
def test_when_all_are_seen_every_decision_is_right_and_the_interval_is_the_point(total, data):
    wrong, bound = data.draw(st.integers(0, total)), data.draw(st.floats(0, 1))
    assert likely(wrong, total, total, bound, 0.3) is (wrong / total <= bound)
    assert interval(wrong, total, total, 0.3) == (wrong / total, wrong / total)


@given(st.integers(1, 10**6), st.data())
@settings(max_examples=200)
def test_the_interval_is_possible_and_holds_what_was_seen(total, data):
    seen = data.draw(st.integers(1, total))
    wrong = data.draw(st.integers(0, seen))
    low, high = interval(wrong, seen, total, data.draw(st.sampled_from([0.3, 1e-9])), data.draw(st.floats(1e-6, 0.5)))
    assert wrong / total <= low <= high <= (total - seen + wrong) / total
    assert low - 1 / total <= wrong / seen <= high + 1 / total


def test_wrong_and_right_ones_are_symmetric():
    for wrong, seen in states(30):
        low, high = interval(seen - wrong, seen, 30, 0.01, 0.1)
        assert interval(wrong, seen, 30, 0.01, 0.1) == pytest.approx((1 - high, 1 - low))
        for bound in (5.5 / 30, 20.5 / 30):
            says, mirrored = likely(wrong, seen, 30, bound, 0.1), likely(seen - wrong, seen, 30, 1 - bound, 0.1)
            assert says is (None if mirrored is None else not mirrored)


@pytest.mark.parametrize(
    ("times", "low", "high"),
    [
        (0, 1536, 1536),
        (0.5, 7500, 9500),
        (0.9, 150_000, 210_000),
        (1.33, 20_000, 30_000),
        (2, 2800, 5000),
        (10, 256, 256),
    ],
)
def test_the_examples_needed_are_those_in_the_docstring(times, low, high):
    answer, needed = answers(np.random.default_rng(SEED), 500_000, round(5000 * times), 0.01, 1e-5, 256, questions=50)
    print(f"{times} times the bound: median {np.median(needed):,.0f} examples")
    assert (answer == (times <= 1)).all()
    assert low <= np.median(needed) <= high


@pytest.mark.slow
def test_a_prior_around_each_candidate_needs_fewer_examples_than_one_prior():
    rng = np.random.default_rng(SEED)

    def fixed(wrong, seen, total, a):
        """The interval for one prior Beta(a, a), by bisection of both sides from the likeliest count."""

        def inside(count):
            return log_ratio(wrong, seen, total, count, (a, a)) < math.log(1e4)

        middle = min((total + 1) * wrong // seen, total - (seen - wrong))
        low, high = middle, middle
        for step in [2**i for i in reversed(range(17))]:
            low -= step * (low - step >= wrong and inside(low - step))
            high += step * (high + step <= total - (seen - wrong) and inside(high + step))
        return low / total, high / total

    for total, batch in ((10_000, 100), (50_000, 200)):
        means = {}
        for name, a in (("around each", None), ("Beta(1, 1)", 1.0), ("Beta(1/2, 1/2)", 0.5)):
            needed = []
            for truth, _ in itertools.product((0.005, 0.02, 0.05, 0.1, 0.3, 0.5, 0.9), range(10)):
                wrong = seen = 0
                width = 1.0
                while width > 0.02:
                    left = round(truth * total) - wrong
                    wrong += int(rng.hypergeometric(left, total - seen - left, batch))
                    seen += batch
                    low, high = interval(wrong, seen, total, 1e-4) if a is None else fixed(wrong, seen, total, a)
                    width = high - low
                needed.append(seen)
            means[name] = np.mean(needed)
        print(total, means)
        assert means["around each"] < 0.96 * min(means["Beta(1, 1)"], means["Beta(1/2, 1/2)"])


# bounded means


def capital(mean):
    """The two mixed capitals: against "at most the bound", against "above the bound"."""
    return np.exp(mean._capital[..., 0]).mean(-1)


def test_the_capital_is_one_on_average_over_all_orders_if_the_mean_is_the_bound():
    values = np.array([1, 3, 9, 20, 40, 62]) / 64
    for part in range(1, 7):
        sums = np.zeros(2)
        for order in itertools.permutations(values):
            mean = BoundedMean(6, values.mean(), 0.1)
            mean.update(order[:part])
            sums += capital(mean)
        np.testing.assert_allclose(sums / 720, 1, atol=1e-9)


@pytest.mark.parametrize(
    ("bound", "seen", "above", "within"),
    [
        # confseq 0.0.11, betting.py: log of diversified_betting_mart(x, bound, bets, N=40, trunc_scale=1), theta=1 and 0;
        # the bets are functions that return f / mu_t (or f / (1 - mu_t)) for f in geomspace(1e-3, 0.95, 12)
        (0.3, 1, -0.18703091622805235, 0.07055774236688382),
        (0.3, 16, 0.35397735600349084, -0.32502927674987425),
        (0.45, 10, -0.2573546622483722, -0.06856726142843884),
        (0.7, 10, -0.3995421628854447, 1.82863711588618),
        (0.7, 16, -0.4993838362001814, 5.681785496043073),
    ],
)
def test_the_capital_is_that_of_independent_code(bound, seen, above, within):
    mean = BoundedMean(40, bound, 0.05)
    mean.update([(7 * i * i + 3 * i) % 11 / 10 for i in range(seen)])
    np.testing.assert_allclose(np.log(capital(mean)), [above, within], atol=1e-12)


def test_outcomes_up_to_any_number_are_those_up_to_one_on_its_scale():
    values = np.random.default_rng(SEED).random(60)
    one, three = BoundedMean(100, 0.6, 1e-3), BoundedMean(100, 1.8, 1e-3, most=3)
    one.update(values)
    three.update(3 * values)
    np.testing.assert_allclose(capital(three), capital(one), rtol=1e-9)
    endless = BoundedMean(100, 1.8, 1e-3, most=math.inf)  # nothing is bet on "at most the bound"
    endless.update(3 * values)
    np.testing.assert_allclose(capital(endless), [capital(one)[0], 1], rtol=1e-9)
    with pytest.raises(InputError, match=r"in \[0, 3\]"):
        three.update([3.1])


def test_an_unbounded_loss_is_above_the_bound_early_and_within_it_only_at_the_end():
    for values, expected in ((np.tile([0.0, 4.0], 500), False), (np.zeros(1000), None)):
        mean = BoundedMean(5000, 1.0, 1e-4, most=math.inf)
        mean.update(values)
        assert mean.decision() is expected
        mean.update(np.full(4000, values[-1]))
        assert mean.decision() is (expected is None)


def test_values_in_any_batches_decide_alike():
    values = np.random.default_rng(SEED).random(400)
    parts = []
    for cuts in ([], [1, 2, 3, 200], range(10, 400, 10)):
        mean = BoundedMean(1000, 0.6, 1e-3)
        for part in np.split(values, cuts):
            mean.update(part)
        parts.append((mean.decision(), mean.seen, *capital(mean)))
    assert parts[0][:2] == parts[1][:2] == parts[2][:2] == (True, 400)
    np.testing.assert_allclose(parts[0], parts[1], rtol=1e-9)
    np.testing.assert_allclose(parts[0], parts[2], rtol=1e-9)


@pytest.mark.parametrize("shape", [(0.5, 4), (20, 20), (0.05, 0.1)], ids=["skewed", "narrow", "nearly 0-1"])
@pytest.mark.parametrize("step", [0, 1], ids=["mean exactly the bound", "mean just above the bound"])
def test_of_bounded_means_at_the_boundary_fewer_are_decided_wrongly_than_is_stated(shape, step):
    rng, total, wrong = np.random.default_rng(SEED), 500, 0
    values = np.round(rng.beta(*shape, total) * 64) / 64  # sums are exact
    bound = values.mean() - step / (64 * total)
    for _ in range(400):
        mean = BoundedMean(total, bound, 0.05)
        for part in np.split(rng.permutation(values), 20):
            mean.update(part)
            if mean.decision() is not None:
                break
        wrong += mean.decision() is (step == 1)
    assert wrong / 400 <= 0.05


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(-0.1, 1.1))
def test_a_bounded_mean_is_decided_rightly_when_all_are_seen(values, bound):
    mean = BoundedMean(len(values), bound, 0.5)
    mean.update(values)
    assert mean.decision() is (mean.sum / len(values) <= bound)


def test_values_at_the_ends_are_decided_early_and_without_warnings():
    for value, bound, expected in (
        (0.0, 0.01, True),
        (1.0, 0.99, False),
        (0.5, 0.4, False),
        (0.0, 0.0, None),
        (1.0, 1.0, True),
    ):
        mean = BoundedMean(50_000, bound, 1e-5)
        mean.update(np.full(2000, value))
        assert mean.decision() is expected


@pytest.mark.slow
def test_fixed_shares_need_fewer_examples_than_plug_in_bets():
    rng, failure, total = np.random.default_rng(SEED), 1e-5, 50_000

    def plug_in(x, bound):
        t, before = np.arange(1, len(x) + 1), np.append(0, np.cumsum(x)[:-1])
        left = np.clip((total * bound - before) / (total - t + 1), 1e-12, 1 - 1e-12)
        centre = (0.5 + np.cumsum(x)) / (t + 1)
        spread = np.append(0.25, ((0.25 + np.cumsum((x - centre) ** 2)) / (t + 1))[:-1])
        bet = np.sqrt(2 * np.log(1 / failure) / (spread * t * np.log1p(t)))
        up = np.log1p(np.minimum(bet, 0.5 / left) * (x - left)).cumsum()
        down = np.log1p(-np.minimum(bet, 0.5 / (1 - left)) * (x - left)).cumsum()
        return np.argmax(np.append(np.maximum(up, down), np.inf) >= -np.log(failure)) + 1

    for width, bound, times in itertools.product((2, 30), (0.01, 0.1, 0.5), (0.02, 0.5, 0.9, 1.1, 1.9)):
        mean_wanted = bound * times
        values = rng.beta(width * mean_wanted, width * (1 - mean_wanted), total)
        ours, theirs = [], []
        for _ in range(4):
            x, mean = rng.permutation(values), BoundedMean(total, bound, failure)
            while mean.decision() is None:
                mean.update(x[mean.seen : mean.seen + max(1, mean.seen // 50)])
            ours.append(mean.seen)
            theirs.append(min(plug_in(x, bound), total))
        print(f"beta width {width}, bound {bound}, {times} times: {np.mean(ours):,.0f} against {np.mean(theirs):,.0f}")
        assert np.mean(ours) < 1.05 * np.mean(theirs) + 5


# shares of a failure probability, and bad arguments


def test_the_shares_of_all_questions_together_are_the_failure_probability():
    assert sum(share(0.01, k) for k in range(1, 5001)) == pytest.approx(0.01 * (1 - 1 / 5001))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: certain(3, 2, 10, 0.1), "wrong=3 in seen=2 of total=10"),
        (lambda: certain(1, 0, 10, 0.1), "cannot be"),
        (lambda: certain(0, 0, 0, 0.1), "cannot be"),
        (lambda: certain(0, 11, 10, 0.1), "cannot be"),
        (lambda: certain(-0.5, 1, 10, 0.1), "cannot be"),
        (lambda: certain(0, 1, 10, math.nan), "not a number"),
        (lambda: likely(0.5, 2, 10, 0.1, 0.05), "give whole numbers"),
        (lambda: likely(1, 2, 10, 0.1, 0), "inside"),
        (lambda: likely(1, 2, 10, 0.1, 1.0), "inside"),
        (lambda: interval(3, 2, 10, 0.1), "cannot be"),
        (lambda: interval(1, 2, 10, 0.1, precision=0), "must be positive"),
        (lambda: BoundedMean(10, 0.5, 2.0), "inside"),
        (lambda: BoundedMean(0, 0.5, 0.1), "cannot be"),
        (lambda: BoundedMean(10, 0.5, 0.1).update([1.1]), "in \\[0, 1\\]"),
        (lambda: BoundedMean(10, 0.5, 0.1).update([math.nan]), "in \\[0, 1\\]"),
        (lambda: BoundedMean(10, 0.5, 0.1).update(np.zeros(11)), "at most as many"),
        (lambda: share(0.1, 0), "count questions from 1"),
        (lambda: share(0.0, 1), "inside"),
    ],
)
def test_bad_arguments_are_named(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


def test_counts_may_be_numpy_integers_of_any_width():
    small = [np.int32(value) for value in (100_000, 200_000, 500_000)]
    assert likely(*small, 0.4, 1e-4) is likely(100_000, 200_000, 500_000, 0.4, 1e-4)
    assert interval(*small, 1e-4) == interval(100_000, 200_000, 500_000, 1e-4)
