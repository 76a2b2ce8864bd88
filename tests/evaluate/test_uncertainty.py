import numpy as np
import pytest

from qvl.evaluate.uncertainty import interval, paired, weighted

ONE = {"all": 1.0}


def strata(count: int, name: str = "all") -> list[str]:
    return [name] * count


def test_the_interval_of_a_share_is_that_of_theory() -> None:
    """Of 400 answers 300 are right: 75 %, a standard error of 2.165."""
    values = [100.0] * 300 + [0.0] * 100
    found = interval(values, strata(400), ONE)
    assert found.low == pytest.approx(75 - 1.96 * 2.165, abs=0.5)
    assert found.high == pytest.approx(75 + 1.96 * 2.165, abs=0.5)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        values = generator.exponential(10, size=100)
        found = interval(list(values), strata(100), ONE, seed)
        covered += found.low <= 10 <= found.high
    assert 0.88 <= covered / 200 <= 0.98


def test_strata_keep_their_sizes() -> None:
    """A stratum whose answers are all alike adds nothing to the width."""
    values, names = [0.0, 100.0] * 50 + [100.0] * 7, strata(100, "a") + strata(7, "b")
    weights = {"a": 0.5, "b": 0.5}
    assert weighted(values, names, weights) == 75
    found = interval(values, names, weights)
    alone = interval(values[:100], names[:100], {"a": 0.5})
    assert found.high - found.low == pytest.approx(alone.high - alone.low, abs=0.6)


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    generator = np.random.default_rng(1)
    a = list(100 * (generator.random(500) < 0.6))
    b = [100 if x or i % 25 == 0 else 0 for i, x in enumerate(a)]  # some that were wrong are right now
    found = paired(a, b, strata(500), ONE)
    assert found.interval.low > 0
    assert found.p < 0.01
    assert found.mean == pytest.approx(np.mean(b) - np.mean(a))
    same = paired(a, a, strata(500), ONE)
    assert (same.mean, same.p) == (0, 1.0)


def test_differences_by_chance_are_called_so() -> None:
    """Two runs of the same skill differ "surely" in about one of twenty comparisons."""
    generator = np.random.default_rng(2)
    sure = 0
    for seed in range(100):
        a, b = (list(100.0 * (generator.random(200) < 0.5)) for _ in range(2))
        sure += paired(a, b, strata(200), ONE, seed).p < 0.05
    assert sure <= 12
