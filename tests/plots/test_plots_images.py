import numpy as np
import pytest
import torch
from plot_cases import inside, overlaps, texts

import ppl_vae.plots as plots
from ppl_vae.errors import InputError


def picture(axes):
    (image,) = axes.images
    return np.ma.filled(image.get_array().astype(float), np.nan)


def parts(shown, H, W):
    """Every H x W window of a picture without an empty pixel whose neighbours above and to the left are empty."""
    found = []
    padded = np.pad(shown, ((1, 0), (1, 0)), constant_values=np.nan)
    for i in range(shown.shape[0] - H + 1):
        for j in range(shown.shape[1] - W + 1):
            if np.isnan(padded[i, j + 1]) and np.isnan(padded[i + 1, j]):
                window = shown[i : i + H, j : j + W]
                if not np.isnan(window).any():
                    found.append(window)
    return np.stack(found)


@pytest.mark.parametrize("N", [1, 4, 7])
@pytest.mark.parametrize("shape", [(20,), (4, 5), (1, 4, 5)])
def test_grid_shows_the_images(N, shape):
    images = torch.rand(N, *shape)
    for image_shape in ((4, 5), (1, 4, 5)):
        figure = plots.image_grid(images, image_shape)
        np.testing.assert_allclose(parts(picture(figure.axes[0]), 4, 5), images.reshape(N, 4, 5), rtol=1e-6)
    assert f"N = {N} image" in texts(figure)
    assert "0 black, 1 white" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)


def test_grid_of_one_column_and_of_many():
    images = torch.rand(5, 16)
    assert picture(plots.image_grid(images, (4, 4), columns=1).axes[0]).shape == (24, 4)
    assert picture(plots.image_grid(images, (4, 4), columns=50).axes[0]).shape == (4, 24)


def test_colour():
    images = torch.rand(2, 3, 4, 5)
    for given in (images, images.flatten(1)):
        shown = plots.image_grid(given, (3, 4, 5), columns=1).axes[0].images[0].get_array()
        np.testing.assert_allclose(shown[:4, :, :3], images[0].permute(1, 2, 0), rtol=1e-6)
        np.testing.assert_allclose(shown[5:, :, :3], images[1].permute(1, 2, 0), rtol=1e-6)
        np.testing.assert_array_equal(shown[4, :, 3], 0)


@pytest.mark.parametrize(
    ("low", "high", "value_range", "expected"),
    [
        (0.2, 0.8, None, (0, 1)),
        (0.0, 16.0, None, (0, 16)),
        (2.0, 16.0, None, (0, 16)),
        (-3.0, 2.0, None, (-3, 2)),
        (-3.0, -3.0, None, (-3, -2)),
        (0.0, 9.0, (0, 16), (0, 16)),
    ],
)
def test_scale(low, high, value_range, expected):
    images = torch.tensor([[low, high, low, high]])
    figure = plots.image_grid(images, (2, 2), value_range=value_range)
    assert figure.axes[0].images[0].get_clim() == expected
    stated = f"{expected[0]} black, {expected[1]} white".replace("-", "−")
    assert stated in texts(figure)


def test_prior_samples_share_a_scale():
    draws, means = torch.randint(0, 17, (9, 16)).float(), torch.rand(9, 16)
    draws[0, 0] = 16
    figure = plots.prior_samples(draws, means, (4, 4), seed=3)
    left, right = figure.axes
    np.testing.assert_allclose(parts(picture(left), 4, 4), draws.reshape(9, 4, 4))
    np.testing.assert_allclose(parts(picture(right), 4, 4), means.reshape(9, 4, 4), rtol=1e-6)
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 16)
    assert "N = 9, seed 3" in texts(figure)
    assert inside(figure)
    assert not overlaps(figure)
    assert inside(plots.prior_samples(draws[:1], means[:1], (4, 4)))


@pytest.mark.parametrize("N", [1, 3, 10, 13])
def test_reconstructions_lie_below_their_data(N):
    x, again = torch.rand(N, 16), torch.rand(N, 4, 4)
    figure = plots.reconstructions(x, again, (4, 4))
    columns = min(N, 10)
    shown = parts(picture(figure.axes[0]), 4, 4)
    first = shown[: 2 * columns].reshape(2, columns, 4, 4)
    np.testing.assert_allclose(first[0], x[:columns].reshape(-1, 4, 4), rtol=1e-6)
    np.testing.assert_allclose(first[1], again[:columns], rtol=1e-6)
    assert len(shown) == 2 * N
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["data", "E[x|z]"] * (1 + (N > 10))
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize(("P", "steps"), [(1, 2), (3, 9), (12, 5)])
def test_interpolation(P, steps):
    paths = torch.rand(P, steps, 16)
    figure = plots.interpolation(paths, (4, 4))
    np.testing.assert_allclose(parts(picture(figure.axes[0]), 4, 4), paths.reshape(-1, 4, 4), rtol=1e-6)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [
        "decoded\nfirst end",
        "decoded\nlast end",
    ]
    assert "position" in figure.axes[0].get_xlabel()
    assert f"of {steps} steps" in " ".join(texts(figure).split())
    assert inside(figure)
    assert not overlaps(figure)


X = torch.rand(4, 16)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: plots.image_grid(X, (4, 5)), "images"),
        (lambda: plots.image_grid(X[0], (4, 4)), "images"),
        (lambda: plots.image_grid(X[:0], (4, 4)), "images"),
        (lambda: plots.image_grid(X.reshape(4, 2, 8), (4, 4)), "images"),
        (lambda: plots.image_grid(X.numpy(), (4, 4)), "images"),
        (lambda: plots.image_grid(X * torch.nan, (4, 4)), "images"),
        (lambda: plots.image_grid(X, (16,)), "image_shape"),
        (lambda: plots.image_grid(X, (2, 2, 4)), "image_shape"),
        (lambda: plots.image_grid(X, (4, 4.0)), "image_shape"),
        (lambda: plots.image_grid(X, 16), "image_shape"),
        (lambda: plots.image_grid(X, (4, 4), columns=0), "columns"),
        (lambda: plots.image_grid(X, (4, 4), value_range=(1, 0)), "value_range"),
        (lambda: plots.image_grid(X, (4, 4), value_range=3), "value_range"),
        (lambda: plots.prior_samples(X, X[:2], (4, 4)), "means"),
        (lambda: plots.prior_samples(X, X, (4, 5)), "draws"),
        (lambda: plots.prior_samples(X, X, (4, 4), seed=-1), "seed"),
        (lambda: plots.reconstructions(X, X[:2], (4, 4)), "reconstructed"),
        (lambda: plots.reconstructions(X, X[:, :8], (4, 4)), "reconstructed"),
        (lambda: plots.interpolation(X, (4, 4)), "paths"),
        (lambda: plots.interpolation(X[:, None], (4, 4)), "paths"),
        (lambda: plots.interpolation(X[None], (4, 5)), "paths"),
    ],
)
def test_refuses(call, argument):
    with pytest.raises(InputError, match=f"^{argument}: ") as caught:
        call()
    assert "\n" not in str(caught.value)
