"""What float32 cannot hold is refused by file, datum and value; what it only rounds is rounded."""

import numpy as np
import pytest
import torch

from ppl_vae import InputError
from ppl_vae.data import load_array

TINY = np.finfo(np.float32).tiny


def saved(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


def whole(dataset):
    return torch.cat([dataset.train, dataset.test])


def with_value(value, dtype=np.float64, where=(5, 1)):
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(dtype)
    x[where] = value
    return x


BAD = {
    "underflow": (with_value(1e-50), "1e-50 at datum 5, element 1"),
    "negative underflow": (with_value(-1e-46), "-1e-46 at datum 5"),
    "just below the least": (with_value(5e-46), "multiply the data by a constant"),
    "digits lost": (with_value(1e-44 * 1.1), "at datum 5"),
    "all underflow": (np.full((8, 3), 1e-60), "1e-60 at datum 0, element 0"),
    "subnormal in float64": (with_value(5e-324), "5e-324 at datum 5"),
    "overflow": (with_value(3.5e38), "3.5e+38 at datum 5"),
    "negative overflow": (with_value(-1e300), "divide the data by a constant"),
    "infinite": (with_value(np.inf), "finite numbers, received inf"),
    "no number": (with_value(np.nan), "finite numbers, received nan"),
    "no number in float16": (with_value(np.nan, np.float16), "received nan"),
    "longdouble": (with_value(np.longdouble("1e-60"), np.longdouble), "at datum 5"),
    "longdouble overflow": (with_value(np.longdouble("1e300"), np.longdouble), "at datum 5"),
    "int64": (np.arange(8)[:, None] + 2**24, "16777217 at datum 1"),
    "negative int64": (-np.arange(8)[:, None] - 2**24, "-16777217 at datum 1"),
    "uint64": (np.full((8, 1), 2**64 - 1, dtype=np.uint64), "18446744073709551615 at datum 0"),
    "int32": (np.full((8, 1), 2**30 + 1, dtype=np.int32), "at datum 0"),
    "integers as float64": (np.arange(8.0)[:, None] + 2**24, "16777217.0 at datum 1"),
    "one column of integers": (
        np.stack([np.arange(8) + 0.5, np.arange(8) + 2.0**24], 1),
        "at datum 1, element 1",
    ),
    "large, in an image": (np.full((8, 2, 2), 2.0**25 + 1), "at datum 0, element (0, 0)"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name, tmp_path):
    x, words = BAD[name]
    path = saved(tmp_path, x)
    with pytest.raises(InputError) as caught:
        load_array(path, valid_fraction=0)
    assert caught.value.argument == str(path)
    assert words in str(caught.value)


GOOD = {
    "zeros": np.zeros((8, 2)),
    "the least normal number": with_value(TINY),
    "zeros of either sign": with_value(-0.0),
    "a float32 below the least normal": with_value(np.float32(1e-45), np.float32),
    "a float64 that float32 has": with_value(2.0**-149),
    "the largest number": with_value(float(np.finfo(np.float32).max)),
    "large real numbers": np.random.default_rng(0).normal(size=(8, 3)) * 1e9,
    "one large integer among real numbers": with_value(2.0**24 + 1),
    "integers that float32 has": np.arange(8.0)[:, None] * 2**24,
    "booleans": np.arange(8)[:, None] > 3,
    "int8": np.arange(-4, 4, dtype=np.int8)[:, None],
    "uint16": np.full((8, 1), 65535, dtype=np.uint16),
    "float16": with_value(6e-8, np.float16),
}


@pytest.mark.parametrize("name", GOOD)
def test_kept(name, tmp_path):
    x = GOOD[name]
    found = whole(load_array(saved(tmp_path, x), valid_fraction=0))
    wanted = torch.from_numpy(x.astype(np.float32))
    assert torch.equal(found.sort(0).values, wanted.sort(0).values)


def test_what_is_wrong_late_is_found(tmp_path, monkeypatch):
    """Data are looked at in pieces: the index is that of the file."""
    monkeypatch.setattr("ppl_vae.data.array._CHUNK", 7)
    for value, words in ((1e-50, "1e-50"), (1e39, "1e+39"), (np.nan, "nan")):
        with pytest.raises(InputError, match="at datum 6, element 2") as caught:
            load_array(saved(tmp_path, with_value(value, where=(6, 2))))
        assert words in str(caught.value)
    integers = np.arange(24.0).reshape(8, 3) + 2**24
    with pytest.raises(InputError, match=r"16777217\.0 at datum 0, element 1"):
        load_array(saved(tmp_path, integers))
    integers[7] += 0.5  # no columns of integers, for all that one knows at the end
    load_array(saved(tmp_path, integers), valid_fraction=0)


@pytest.mark.parametrize(
    "labels",
    [
        np.full(8, 1e300),
        np.full(8, 2.0**60),
        np.full(8, 2**63, dtype=np.uint64),
        np.full(8, np.nan),
        np.full(8, 0.5),
    ],
    ids=["1e300", "2**60", "uint64", "nan", "half"],
)
def test_labels_that_are_no_integers_of_64_bits(labels, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((8, 2)), y=labels)
    with pytest.raises(InputError, match=r"x\.npz.*integer labels"):
        load_array(tmp_path / "x.npz", labels_key="y")


def test_memory_does_not_grow_with_the_text(tmp_path):
    """The peak of what Python and NumPy allocate for a CSV stays below twice the numbers in float64."""
    import tracemalloc

    rows, columns = 4000, 100
    line = ",".join(["0.12345678901234567"] * columns) + "\n"
    (tmp_path / "x.csv").write_text(line * rows)
    tracemalloc.start()
    try:
        data = load_array(tmp_path / "x.csv", valid_fraction=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = rows * columns * 8
    assert sum(data.sizes.values()) == rows
    # A piece of text, as Python's strings and in the reader, is some 16 MB whatever the file's size; the text is 8 MB.
    assert peak < 2 * size + 2**24
