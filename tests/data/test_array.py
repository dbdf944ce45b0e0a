import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from ppl_vae.data import load, load_array
from ppl_vae.errors import InputError

X = np.arange(60, dtype=np.float64).reshape(20, 3) / 7 - 2


def npy(array, **options):
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def text(array, header=""):
    out = io.StringIO()
    np.savetxt(out, array, delimiter=",", fmt="%.17g", header=header, comments="")
    return out.getvalue().encode()


def spoilt(value):
    x = X.copy()
    x[4, 1] = value
    return x


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("x.npy", npy(X), {}),
        ("x.npy", npy(np.asfortranarray(X)), {}),
        ("x.npy", npy(X.astype(">f8")), {}),
        ("x.npz", npz(anything=X), {}),
        ("x.npz", npz(x=X, other=np.arange(3)), {}),
        ("x.npz", npz(a=X, b=np.arange(3)), {"key": "a"}),
        ("x.csv", text(X), {}),
        ("x.CSV", text(X), {}),
        ("x.csv", text(X, header="a,b,c"), {}),
        ("x.csv", b"\xef\xbb\xbf" + text(X, header='"a","b","c"').replace(b"\n", b"\r\n") + b"\r\n", {}),
        ("x.csv.gz", gzip.compress(text(X), mtime=0), {}),
    ],
)
def test_numbers_come_back_as_they_are(tmp_path, name, content, options):
    (tmp_path / name).write_bytes(content)
    data = load("array", path=tmp_path / name, **options)
    x = torch.cat([data.train, data.valid, data.test])
    assert data.sizes == {"train": 16, "valid": 2, "test": 2}
    assert sorted(x.tolist()) == sorted(torch.tensor(X, dtype=torch.float32).tolist())
    assert data.values == "real"
    assert data.train_labels is None


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (np.eye(20), "binary"),
        (np.eye(20) > 0, "binary"),
        (np.arange(40, dtype=np.int64).reshape(20, 2), "counts"),
        (np.arange(40, dtype=np.uint8).reshape(20, 2), "counts"),
        (-np.arange(40).reshape(20, 2), "real"),
    ],
)
def test_values_are_named(tmp_path, array, values):
    np.save(tmp_path / "x.npy", array)
    data = load_array(tmp_path / "x.npy")
    assert data.values == values
    assert data.train.dtype == torch.float32


def test_split_follows_its_seed(tmp_path):
    np.save(tmp_path / "x.npy", X)
    first, again, other = (load_array(tmp_path / "x.npy", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train, again.train)
    assert not torch.equal(first.train, other.train)


def test_fractions(tmp_path):
    np.save(tmp_path / "x.npy", X)
    data = load_array(tmp_path / "x.npy", valid_fraction=0, test_fraction=0.25)
    assert data.valid is None
    assert data.sizes == {"train": 15, "valid": 0, "test": 5}


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_labels_stay_with_their_data(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    labels = np.arange(20)
    path.write_bytes(
        npz(x=X, y=labels) if kind == "npz" else text(np.column_stack([X[:, :2], labels, X[:, 2]]), "a,b,y,c")
    )
    data = load_array(path, labels_key="y")
    for x, y in (
        (data.train, data.train_labels),
        (data.valid, data.valid_labels),
        (data.test, data.test_labels),
    ):
        assert torch.equal(x, torch.tensor(X, dtype=torch.float32)[y])


def test_images(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 4, 5)))
    np.save(tmp_path / "flat.npy", np.zeros((20, 20)))
    assert load_array(tmp_path / "x.npy").image_shape == (4, 5)
    assert load_array(tmp_path / "flat.npy").image_shape is None
    assert load_array(tmp_path / "flat.npy", image_shape=[4, 5]).image_shape == (4, 5)


OBJECTS = np.array([[1, None], [2, 3]], dtype=object)
OTHER_ZIP = io.BytesIO()
with zipfile.ZipFile(OTHER_ZIP, "w") as archive:
    archive.writestr("readme.txt", "text")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("x.txt", b"1,2\n", "suffix"),
        ("x.pkl", pickle.dumps(X), "suffix"),
        ("x.npy", b"", "empty"),
        ("x.npz", b"", "empty"),
        ("x.csv", b"", "empty"),
        ("x.csv", b" \n\n", "white space"),
        ("x.csv", b"a,b\n", "no numbers"),
        ("x.csv.gz", b"", "empty"),
        ("x.csv.gz", text(X), "ot a gzip"),
        ("x.csv.gz", gzip.compress(text(X), mtime=0)[:-20], "cut short"),
        ("x.npy", npy(X)[:-8], "npy"),
        ("x.npy", npy(X)[:9], "npy"),
        ("x.npz", npz(x=X)[:-30], "zip"),
        ("x.npz", npy(X), "zip"),
        ("x.npy", npz(x=X), "npy"),
        ("x.npy", npy(OBJECTS, allow_pickle=True), "pickled"),
        ("x.npy", pickle.dumps(X), "npy"),
        ("x.npz", npz(x=OBJECTS), "pickled"),
        ("x.npz", OTHER_ZIP.getvalue(), "other files"),
        ("x.npy", npy(np.array([["a", "b"]])), "dtype"),
        ("x.npy", npy(X + 1j), "dtype"),
        ("x.npy", npy(np.arange(5.0)), "1 dimension"),
        ("x.npy", npy(np.float64(5.0)), "0 dimension"),
        ("x.npy", npy(np.zeros((0, 3))), "at least one datum"),
        ("x.npy", npy(np.zeros((3, 0))), "at least one datum"),
        ("x.npy", npy(spoilt(np.nan)), "nan at datum 4, element 1"),
        ("x.npy", npy(spoilt(-np.inf)), "-inf at datum 4, element 1"),
        ("x.npy", npy(spoilt(1e300)), "1e+300 at datum 4, element 1"),
        ("x.npy", npy(np.full((20, 2), 2**24 + 1)), "16777217 at datum 0, element 0"),
        ("x.npy", npy(np.full((20, 2), 2.0**24 + 1)), "16777217.0 at datum 0, element 0"),
        ("x.csv", text(spoilt(np.nan)), "nan at datum 4, element 1"),
        ("x.csv", b"a,b\n1,2\n\n3,x\n", "'x' in line 4, column 2"),
        ("x.csv", b"1,2\n3,\n", "'' in line 2, column 2"),
        ("x.csv", b"1,2\n3\n", "1 fields in line 2"),
        ("x.csv", b"1;2\n3;4\n", "'3;4' in line 2"),
        ("x.csv", b"a,b,c\n1,2\n", "3 numbers a line"),
        ("x.csv", b"\xff\xfe1,2\n", "utf-8"),
        ("x.npy", npy(np.zeros((1, 2))), "1 data"),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_array(tmp_path / name)
    message = str(caught.value)
    assert word in message
    assert name in message or message.startswith("test_fraction")
    assert "\n" not in message
    assert "allow_pickle" not in message


@pytest.mark.parametrize(
    ("name", "options", "argument"),
    [
        ("none.npy", {}, "none.npy"),
        ("", {}, "suffix"),
        ("x.npz", {}, "key"),
        ("x.npz", {"key": "c"}, "key"),
        ("x.npz", {"key": "a", "labels_key": "c"}, "labels_key"),
        ("x.npz", {"key": "a", "labels_key": "short"}, "short"),
        ("x.npz", {"key": "a", "labels_key": "b"}, "integer labels"),
        ("x.npy", {"key": "a"}, "key"),
        ("x.npy", {"labels_key": "a"}, "labels_key"),
        ("x.csv", {"labels_key": "z"}, "labels_key"),
        ("x.npy", {"image_shape": (2, 2)}, "image_shape"),
        ("x.npy", {"image_shape": "ab"}, "image_shape"),
        ("x.npy", {"valid_fraction": 1.0}, "valid_fraction"),
        ("x.npy", {"test_fraction": 0}, "test_fraction"),
        ("x.npy", {"test_fraction": "0.1"}, "test_fraction"),
        ("x.npy", {"test_fraction": 0.6, "valid_fraction": 0.4}, "test_fraction"),
        ("x.npy", {"seed": 1.5}, "seed"),
    ],
)
def test_options_that_cannot_be_used_are_refused(tmp_path, name, options, argument):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npz").write_bytes(npz(a=X, b=X[:, 0], short=np.arange(3)))
    (tmp_path / "x.csv").write_bytes(text(X, "a,b,c"))
    with pytest.raises(InputError) as caught:
        load_array(tmp_path / name, **options)
    assert argument in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_users_real_file(real_data):
    data = load_array(real_data("freyfaces") / "freyfaces.npz")
    assert data.image_shape == (28, 20)
    assert data.values == "counts"
    assert sum(data.sizes.values()) == 1965
