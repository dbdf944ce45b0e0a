from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from plot_cases import history_of, inside, overlaps, texts

import ppl_vae.plots as plots
from ppl_vae.errors import InputError
from ppl_vae.history import Epoch, History


def line(axes, label):
    return next(x for x in axes.lines if str(x.get_label()).startswith(label))


def test_draws_what_the_history_holds():
    history = history_of(30)
    figure = plots.training_curve(history)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "epoch"
    assert "nats" in axes.get_ylabel()
    train, valid = line(axes, "training objective"), line(axes, "validation ELBO")
    np.testing.assert_array_equal(train.get_xdata(), [e.epoch for e in history])
    np.testing.assert_array_equal(train.get_ydata(), [e.train_elbo for e in history])
    np.testing.assert_array_equal(valid.get_ydata(), [e.valid_elbo for e in history])
    assert "30 epochs, 300 steps" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)


def test_the_first_epochs_do_not_squash_the_curve():
    history = history_of(30)
    figure = plots.training_curve(history)
    low, high = figure.axes[0].get_ylim()
    assert high - low < 30
    assert low < -21 < -20 < high
    hidden = sum(min(e.train_elbo, e.valid_elbo) < low for e in history)
    assert hidden
    assert f"{hidden} of 30 epochs below the axis" in texts(figure)


@pytest.mark.parametrize(("best", "expected"), [(None, "epoch 30: best validation"), (12, "epoch 12: kept")])
def test_marks_the_best_epoch(best, expected):
    figure = plots.training_curve(history_of(30, best=best))
    star = line(figure.axes[0], "epoch")
    assert star.get_label().startswith(expected)
    assert star.get_xdata()[0] == (best or 30)


def test_shades_the_warmup():
    (axes,) = plots.training_curve(history_of(30, warmup=5)).axes
    (span,) = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert (span.get_x(), span.get_x() + span.get_width()) == (0.5, 5.5)
    assert not plots.training_curve(history_of(30)).axes[0].patches
    cyclic = History(tuple(replace(e, beta=0.5 if e.epoch in (2, 3, 7) else 1.0) for e in history_of(9)))
    assert len(plots.training_curve(cyclic).axes[0].patches) == 2


def test_evidence_is_a_level(evidence):
    figure = plots.training_curve(history_of(30), evidence=evidence)
    level = line(figure.axes[0], "log evidence")
    assert level.get_ydata()[0] == evidence.mean().value
    assert "N = 40, S = 256, seed 0" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize(
    "history",
    [
        history_of(1),
        history_of(1, valid=False),
        history_of(30, valid=False),
        history_of(30, valid=False, best=3),
        History((Epoch(1, 5, float("-inf"), float("nan"), 1e-3, 0.0),)),
        History((Epoch(1, 5, -3.0, None, 1e-3, 1.0), Epoch(2, 9, -3.0, -4.0, 1e-3, 1.0))),
    ],
)
def test_small_histories(history):
    figure = plots.training_curve(history)
    assert "training objective" in texts(figure)


def test_refuses_what_is_no_history(evidence):
    for bad in (History(()), None, [1.0]):
        with pytest.raises(InputError, match=r"^history: ") as caught:
            plots.training_curve(bad)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^evidence: "):
        plots.training_curve(history_of(2), evidence=3)
