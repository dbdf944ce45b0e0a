import gzip

import numpy as np
import pytest

from ppl_vae.data.raw import parse_amat, parse_idx
from ppl_vae.errors import InputError


def idx(array, kind=8):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


GOOD = idx(np.ones((4, 2, 2)))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "begins with"),
        (b"\0\0", "begins with"),
        (b"\1" + GOOD[1:], "begins with"),
        (idx(np.ones((4, 2, 2)), kind=0x0D), "begins with"),
        (gzip.compress(GOOD, mtime=0), "gz"),
        (idx(np.ones(4)), "1 dimension"),
        (GOOD[:9], "header cut short"),
        (GOOD[:-1], "received 15"),
        (GOOD + b"\0", "received 17"),
        (GOOD[:4] + b"\xff" * 12, "received 0"),
        (idx(np.ones((0, 2, 2))), "size 0"),
    ],
)
def test_parse_idx_refuses(content, word):
    with pytest.raises(InputError) as caught:
        parse_idx(content, 3, "some-file")
    assert str(caught.value).startswith("some-file: ")
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


BITS = np.random.default_rng(1).integers(0, 2, (7, 784))
ROW = b" ".join(b"%d" % b for b in BITS[0])


def lines(bits, blank=b" ", end=b"\n"):
    return b"".join(blank.join(b"%d" % b for b in row) + end for row in bits)


@pytest.mark.parametrize(
    "content",
    [
        lines(BITS),
        lines(BITS)[:-1],
        lines(BITS, end=b"\r\n"),
        lines(BITS, end=b" \n"),
        lines(BITS, blank=b"\t"),
        lines(BITS, blank=b"  "),
        lines(BITS) + b"\n",
    ],
)
def test_amat_round_trips(content):
    bits = parse_amat(content, "file")
    assert bits.dtype == np.float32
    assert np.array_equal(bits, BITS)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b" \n", "white space"),
        (lines(BITS) + ROW[:-1] + b"2\n", "b'2' in line 8"),
        (ROW[:-1] + b"x\n" + lines(BITS), "b'x' in line 1"),
        (ROW + b"\n" + ROW[:-2] + b"\n", "783 numbers in line 2"),
        (ROW + b"\n" + ROW + b" 1\n", "785 numbers in line 2"),
        (ROW + b"\n\n" + ROW + b"\n", "0 numbers in line 2"),
        (ROW[:-1] + b"0.5\n", "b'0.5' in line 1"),
        (ROW[:-3] + b"01 " + b"1\n", "b'01' in line 1"),
        (ROW.replace(b" ", b","), "1 numbers in line 1"),
    ],
)
def test_amat_refuses(content, word):
    with pytest.raises(InputError) as caught:
        parse_amat(content, "some-file")
    assert str(caught.value).startswith("some-file: ")
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
