"""Cross-products of parameters: rows that cover every value, or every pair of values, are fast; the rest is slow."""

import itertools
from collections import Counter

import pytest


def covering(*axes, strength=2, allowed=lambda *row: True):
    """Rows of the product in which all values of any ``strength`` axes meet: greedily chosen, always the same ones.

    Only rows that are ``allowed`` count: values that meet in none of these need not meet.
    """
    axes = [list(axis) for axis in axes]
    rows = [
        row
        for row in itertools.product(*(range(len(axis)) for axis in axes))
        if allowed(*(axis[i] for axis, i in zip(axes, row, strict=True)))
    ]

    def meetings(row):
        return set(itertools.combinations(enumerate(row), strength))

    left = set().union(*map(meetings, rows))
    used, chosen = Counter(), []
    while left:
        best = max(rows, key=lambda row: (len(meetings(row) & left), -sum(used[at] for at in enumerate(row))))
        left -= meetings(best)
        used.update(enumerate(best))
        chosen.append(best)
    return [tuple(axis[i] for axis, i in zip(axes, row, strict=True)) for row in sorted(chosen)]


def slow_but(fast, rows):
    """Rows of parameters, or single ones: those in ``fast`` as they are, the others marked slow."""
    fast = list(fast)
    values = [(row, row if isinstance(row, tuple) else (row,)) for row in rows]
    return [row if row in fast else pytest.param(*each, marks=pytest.mark.slow) for row, each in values]


def crossed(*axes, strength=2):
    """The whole product of the axes, of which a covering is fast."""
    axes = [list(axis) for axis in axes]
    return slow_but(covering(*axes, strength=strength), itertools.product(*axes))


def tiered(*axes, allowed=lambda *row: True):
    """The product of the axes: every value of an axis is fast, every two that meet slow, the rest exhaustive."""
    axes = [list(axis) for axis in axes]
    fast, slow = (covering(*axes, strength=strength, allowed=allowed) for strength in (1, 2))
    rows = []
    for row in itertools.product(*axes):
        if not allowed(*row):
            continue
        marks = (
            []
            if row in fast
            else [pytest.mark.slow]
            if row in slow
            else [pytest.mark.slow, pytest.mark.exhaustive]
        )
        rows.append(pytest.param(*row, marks=marks))
    return rows
