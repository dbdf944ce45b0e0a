import subprocess
import sys

import matplotlib
import pytest
from plot_cases import history_of

import ppl_vae.plots as plots
from ppl_vae.errors import InputError


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_writes_the_format_of_the_suffix_and_the_same_bytes_twice(tmp_path, suffix, start):
    paths = [tmp_path / "new" / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        plots.save(plots.training_curve(history_of(5)), path, dpi=40)
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(start)
    assert first == second
    assert len(list(paths[0].parent.iterdir())) == 2


@pytest.mark.parametrize("name", ["figure", "figure.jpg", "figure.", "figure.png.tmp"])
def test_refuses_other_suffixes(tmp_path, name):
    with pytest.raises(InputError, match=r"^path: .*\.png, \.pdf or \.svg"):
        plots.save(plots.training_curve(history_of(2)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = plots.training_curve(history_of(2))

    def fail(temporary, **options):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(InputError, match=r"^path: .*disk full"):
        plots.save(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_refuses_what_cannot_be_drawn_or_written(tmp_path):
    figure = plots.training_curve(history_of(2))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^figure: "):
        plots.save("figure", tmp_path / "a.png")
    with pytest.raises(InputError, match=r"^dpi: "):
        plots.save(figure, tmp_path / "a.png", dpi=0)
    with pytest.raises(InputError, match=r"^path: "):
        plots.save(figure, tmp_path / "file" / "a.png")


def test_the_users_settings_stay_and_do_not_reach_in(tmp_path):
    with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "red", "savefig.bbox": "tight"}):
        before = dict(matplotlib.rcParams)
        figure = plots.training_curve(history_of(3))
        plots.save(figure, tmp_path / "a.png", dpi=40)
        assert dict(matplotlib.rcParams) == before
    assert figure.axes[0].get_facecolor() == (1, 1, 1, 1)
    assert figure.axes[0].yaxis.label.get_fontsize() == 10
    plots.save(plots.training_curve(history_of(3)), tmp_path / "b.png", dpi=40)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_imports_neither_pyplot_nor_sklearn():
    code = "import sys, ppl_vae.plots as p; print([m for m in ('matplotlib.pyplot', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert sorted(plots.__all__) == plots.__all__
