import numpy as np
import pytest
import torch
from plot_cases import inside, overlaps, texts

import ppl_vae.plots as plots
from ppl_vae.errors import InputError

EXTENT = (-2.0, 2.0, -1.0, 3.0)
MEANS = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
GRID = torch.rand(3, 3, 20)


def test_points_are_the_centres_of_cells():
    points = plots.latent_points(EXTENT, 4)
    assert points.shape == (4, 4, 2)
    assert points.dtype == torch.float32
    assert points[0, 0].tolist() == [-1.5, -0.5]
    assert points[0, 3].tolist() == [1.5, -0.5]
    assert points[3, 0].tolist() == [-1.5, 2.5]


@pytest.mark.parametrize("as_tensor", [True, False])
def test_scatter_and_grid_show_their_data(as_tensor):
    labels = torch.arange(60) % 10
    given = labels if as_tensor else [f"class {n}" for n in labels.tolist()]
    figure = plots.latent_plane(MEANS, given, GRID, EXTENT, (4, 5))
    scatter, decoded = figure.axes
    assert len(scatter.collections) == 10
    for label, collection in enumerate(scatter.collections):
        np.testing.assert_allclose(collection.get_offsets(), MEANS[labels == label], rtol=1e-6)
    colours = {tuple(c.get_facecolor()[0]) for c in scatter.collections}
    assert len(colours) == 10
    shown = np.asarray(decoded.images[0].get_array())
    # The first row of the grid is the bottom one.
    np.testing.assert_allclose(shown[-4:, :5], GRID[0, 0].reshape(4, 5), rtol=1e-6)
    np.testing.assert_allclose(shown[:4, -5:], GRID[2, 2].reshape(4, 5), rtol=1e-6)
    assert list(decoded.images[0].get_extent()) == list(EXTENT)
    for axes in figure.axes:
        assert (*axes.get_xlim(), *axes.get_ylim()) == EXTENT
        assert "z₁" in axes.get_xlabel()
        assert "z₂" in axes.get_ylabel()
    outside = int(((MEANS[:, 0].abs() > 2) | (MEANS[:, 1] < -1) | (MEANS[:, 1] > 3)).sum())
    words = texts(figure)
    assert f"{outside} outside the axes" in words
    assert "N = 60 data, 3 × 3" in words
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize("N", [1, 60])
def test_without_labels(N):
    figure = plots.latent_plane(MEANS[:N], None, GRID, EXTENT, (1, 4, 5))
    (points,) = figure.axes[0].collections
    np.testing.assert_allclose(points.get_offsets(), MEANS[:N], rtol=1e-6)
    assert not figure.legends
    assert inside(figure)
    assert not overlaps(figure)


def test_many_classes_are_told_apart():
    figure = plots.latent_plane(MEANS[:50], list(range(50)), GRID, EXTENT, (4, 5))
    looks = {
        (tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in figure.axes[0].collections
    }
    assert len(looks) == 50
    assert inside(figure)
    assert not overlaps(figure)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"means": MEANS[:, :1]}, "means"),
        ({"means": MEANS[:0], "labels": None}, "means"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "labels"),
        ({"labels": torch.zeros(60)}, "labels"),
        ({"labels": torch.arange(60)}, "labels"),
        ({"grid": GRID[:2]}, "grid"),
        ({"grid": GRID[0]}, "grid"),
        ({"grid": GRID[:, :, :3]}, "grid"),
        ({"extent": (1.0, 0.0, 0.0, 1.0)}, "extent"),
        ({"extent": (1.0, 0.0)}, "extent"),
        ({"image_shape": (5,)}, "image_shape"),
    ],
)
def test_refuses(change, argument):
    given = {"means": MEANS, "labels": None, "grid": GRID, "extent": EXTENT, "image_shape": (4, 5)} | change
    with pytest.raises(InputError, match=f"^{argument}: ") as caught:
        plots.latent_plane(**given)
    assert "\n" not in str(caught.value)


def test_two_dimensions_are_their_own_plane():
    plane = plots.principal_plane(MEANS)
    assert torch.equal(plane.means, MEANS)
    assert plane.title is None
    left, right, bottom, top = plane.extent
    assert left <= MEANS.min() <= MEANS.max() <= right
    assert (bottom, top) == (left, right)
    assert torch.equal(plane.points(4), plots.latent_points(plane.extent, 4))


def test_the_plane_of_the_first_two_principal_components():
    generator = torch.Generator().manual_seed(1)
    spread = torch.tensor([0.1, 3.0, 0.2, 2.0])
    means = 5.0 + spread * torch.randn(2000, 4, generator=generator)
    plane = plots.principal_plane(means)
    assert torch.allclose(plane.axes @ plane.axes.T, torch.eye(2), atol=1e-5)
    assert torch.allclose(plane.origin, means.mean(0))
    assert plane.axes[0].abs().argmax() == 1
    assert plane.axes[1].abs().argmax() == 3
    share = (means.var(0)[[1, 3]].sum() / means.var(0).sum()).item()
    assert f"({share:.0%} of their variance), N = 2000" in plane.title
    # A point of the plane, decoded, lies where its latent is drawn.
    back = (plane.points(3) - plane.origin) @ plane.axes.T
    assert torch.allclose(back, plots.latent_points(plane.extent, 3), atol=1e-4)
