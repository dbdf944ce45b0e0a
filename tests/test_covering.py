"""Coverings of cross-products: every pair of values meets, in few rows, and nothing is left out of the whole."""

import itertools

import pytest
from covering import covering, crossed, tiered

AXES = ["abc", range(6), (True, False), "xy"]


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_all_values_of_so_many_axes_meet(strength):
    rows = covering(*AXES, strength=strength)
    assert rows == covering(*AXES, strength=strength)
    for which in itertools.combinations(range(len(AXES)), strength):
        met = {tuple(row[i] for i in which) for row in rows}
        assert met == set(itertools.product(*(AXES[i] for i in which)))
    assert len(rows) <= {1: 6, 2: 20, 3: 48}[strength]


def test_rows_that_are_not_allowed_are_left_out():
    rows = covering("ab", "xy", allowed=lambda first, second: (first, second) != ("a", "y"))
    assert rows == [("a", "x"), ("b", "x"), ("b", "y")]


def test_the_rest_of_the_product_is_slow():
    rows = crossed(*AXES)
    assert [getattr(row, "values", row) for row in rows] == list(itertools.product(*AXES))
    slow = [row for row in rows if not isinstance(row, tuple) or hasattr(row, "marks")]
    assert all(row.marks == (pytest.mark.slow.mark,) or row.marks == (pytest.mark.slow,) for row in slow)
    assert len(rows) - len(slow) == len(covering(*AXES))


def test_three_tiers_are_the_whole_product():
    rows = tiered(*AXES)
    assert [row.values for row in rows] == list(itertools.product(*AXES))
    tiers = [[mark.name for mark in row.marks] for row in rows]
    assert tiers.count([]) == len(covering(*AXES, strength=1))
    assert tiers.count([]) + tiers.count(["slow"]) >= len(covering(*AXES))
    assert tiers.count(["slow", "exhaustive"]) > 0
