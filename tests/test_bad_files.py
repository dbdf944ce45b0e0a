"""What is no file, or not the user's to read, or asks for too much: each reader says so at once, in one line."""

import gzip
import os
import socket
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from file_kinds import KINDS, SIGNED, refusal, write_idx

import ppl_vae as pv
from ppl_vae import reading
from ppl_vae.errors import InputError, one_line


def bind(path):
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


NO_FILES = {
    "missing": (lambda p: None, "no such file"),
    "folder": (lambda p: p.mkdir(), "a folder"),
    "pipe": (os.mkfifo, "a named pipe"),
    "socket": (bind, "a socket"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "a device"),
    "link in a circle": (lambda p: p.symlink_to(p.name), "symbolic links"),
    "broken link": (lambda p: p.symlink_to("nowhere"), "no such file"),
    "empty": (lambda p: p.write_bytes(b""), ""),
    "pickle": (lambda p: torch.save({"a": torch.ones(2)}, p), ""),
    "UTF-16": (lambda p: p.write_text("latent: [1, 2]\n", encoding="utf-16"), ""),
    "null bytes": (lambda p: p.write_bytes(bytes(64)), ""),
    "text": (lambda p: p.write_text("hello, [what is this?\n" * 3), ""),
}


def arranged(folder, name, make):
    """A path with the file's name, at which ``make`` has made something."""
    path = folder / name
    if name.startswith("train-"):
        write_idx(folder)
        for other in folder.iterdir():
            if (other.suffix == ".gz") != (path.suffix == ".gz"):
                other.unlink()
        path.unlink()
    make(path)
    return path


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_such_file_is_refused_at_once(name, kind, tmp_path):
    make, words = NO_FILES[kind]
    start = time.monotonic()
    message = refusal(KINDS[name][1], arranged(tmp_path, name, make))
    assert time.monotonic() - start < 5
    if message is None:  # a checkpoint that is not there, and an empty history, are no faults
        assert (name, kind) in {("checkpoint.safetensors", "missing"), ("history.jsonl", "empty")}
        return
    assert message.isprintable()
    assert name in message or name.removesuffix(".gz") in message
    if not name.startswith("train-"):  # which of two files there are is asked of the folder
        assert words in message, message


def test_there_are_enough_attempts():
    assert len(KINDS) * len(NO_FILES) >= 200


@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith("train-")])
def test_a_name_of_two_lines_stays_in_one(name, tmp_path):
    path = tmp_path / "a\nb\x1b[31m" / name
    path.parent.mkdir()
    path.write_bytes(b"\x00 no such thing")
    message = refusal(KINDS[name][1], path)
    assert message.isprintable()
    assert "a\\nb\\x1b[31m" in message


@pytest.mark.parametrize(
    "name", ["a\0b.npy", "x" * 300 + ".npy", "\udcff.npy"], ids=["null", "long", "surrogate"]
)
def test_names_that_no_file_has(name):
    with pytest.raises(InputError) as caught:
        pv.data.load_array(name)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_may_not_be_read(name, tmp_path):
    write, read = KINDS[name]
    write(tmp_path / name)
    (tmp_path / name).chmod(0)
    assert "permission denied" in refusal(read, tmp_path / name)


@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n"])
def test_line_ends_and_a_byte_order_mark_are_no_faults(ending, tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbf" + ending.join([b"a,b", b"1,2", b"", b"3,4", b"5,6", b"7,8"]))
    x = pv.data.load_array(path, valid_fraction=0)
    assert sorted(torch.cat([x.train, x.test]).flatten().tolist()) == [1, 2, 3, 4, 5, 6, 7, 8]
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbf" + ending.join([b"a: 1", b"b: [2]", b""]))
    assert reading.read_yaml(tmp_path / "x.yaml") == {"a": 1, "b": [2]}
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + ending.join([b"{", b'"a": 1', b"}"]))
    assert reading.read_json(tmp_path / "x.json") == {"a": 1}


# ---- more than is good for anybody -----------------------------------------------------------------------------------


def bomb(levels, width=10):
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


YAMLS = {
    "aliases of aliases": bomb(30),
    "aliases, merged": bomb(6) + "b: {<<: {x: *a5}, y: *a5}\n" * 1,
    "a deep list": "a: " + "[" * 100_000,
    "a deep list that ends": "a: " + "[" * 60 + "]" * 60,
    "deep mappings": "a: " + "{b: " * 60 + "1" + "}" * 60,
    "deep blocks": "\n".join(" " * i + "a:" for i in range(60)),
    "many values": "a: [" + "1," * 100_001 + "]",
    "python": "a: !!python/object/apply:os.system ['true']",
    "a python name": "a: !!python/name:os.system",
    "an unknown tag": "a: !mine 3",
    "no mapping": "- 1\n- 2\n",
    "keys of numbers": "1: 2\n",
    "keys of lists": "? [1]\n: 2\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "unknown alias": "a: *b\n",
    "tabs": "a:\n\t- 1\n",
    "control characters": "a: \x07\n",
    "nothing": "",
    "a scalar": "3\n",
    "a large file": "a: 1\n" + "# \n" * (2**22 // 3 + 1),
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_that_is_refused(name, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(YAMLS[name])
    start = time.monotonic()
    message = refusal(reading.read_yaml, path)
    assert message is not None
    assert str(path) in message
    assert message.isprintable()
    assert time.monotonic() - start < 5


def test_yaml_that_is_not(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: &w [1, 2]\nb: [*w, *w]\nc: {d: " + "[" * 40 + "]" * 40 + "}\n")
    assert reading.read_yaml(path)["b"] == [[1, 2], [1, 2]]


JSONS = {
    "deep lists": "[" * 100_000,
    "deep mappings": '{"a":' * 100_000,
    "a key twice": '{"a": 1, "a": 2}',
    "a number of many digits": "[" + "1" * 5000 + "]",
    "two values": "1 2",
    "half a pair": '"\\ud800',
}


@pytest.mark.parametrize("name", JSONS)
def test_json_that_is_refused(name, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(JSONS[name])
    message = refusal(reading.read_json, path)
    assert str(path) in message
    assert message.isprintable()


def npy(header, content=b"\0" * 128, version=1):
    text = header.encode("latin1")
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + content


def described(descr="'<f8'", order="False", shape="(4, 4)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


NPYS = {
    "an open bracket": npy("{'descr': '<f8', 'shape': (4, 4 \n"),
    "an open text": npy("{'descr': '<f8\n"),
    "no mapping": npy("[1, 2]\n"),
    "a call": npy("__import__('os').system('true')\n"),
    "deep brackets": npy("(" * 5000 + "\n"),
    "a large header": npy(described() + " " * 70_000, version=2),
    "a header longer than the file": npy(described())[:40],
    "another version": npy(described(), version=2).replace(b"NUMPY\x02", b"NUMPY\x09"),
    "objects": npy(described("'|O'")),
    "structures": npy(described("[('a', '<f8')]")),
    "texts": npy(described("'<U4'", shape="(2, 4)")),
    "times": npy(described("'<M8[s]'")),
    "nothing at all": npy(described("'|V8'")),
    "an unknown dtype": npy(described("'<q9'")),
    "a dtype that is a list": npy(described("[]")),
    "a negative size": npy(described(shape="(-4, -4)")),
    "a size that is no integer": npy(described(shape="(4.0, 4)")),
    "a size that is a boolean": npy(described(shape="(True, 16)")),
    "a shape that is none": npy(described(shape="16")),
    "a large size": npy(described(shape="(1000000000000, 4)")),
    "a size beyond all": npy(described(shape="(10**400, 4)")),
    "sizes that overflow": npy(described(shape=f"({2**32}, {2**32}, 4)")),
    "no numbers of any size": npy(described(shape=f"(0, {2**62})"), b""),
    "many dimensions": npy(described(shape="(" + "1, " * 100 + ")"), b"\0" * 8),
    "a byte too few": npy(described())[:-1],
    "a byte too many": npy(described()) + b"\0",
    "fewer rows than there are": npy(described(shape="(2, 4)")),
    "another order that is none": npy(described(order="2")),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NPYS)
def test_npy_that_is_refused(name, packed, tmp_path):
    path = tmp_path / ("x.npz" if packed else "x.npy")
    if packed:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", NPYS[name])
    else:
        path.write_bytes(NPYS[name])
    message = refusal(pv.data.load_array, path)
    assert message is not None
    assert str(path) in message
    assert message.isprintable()


def test_arrays_stored_by_columns_and_in_other_byte_orders(tmp_path):
    for dtype in (">f8", "<f8", "<f4", ">i2", "|u1", "<f2"):
        x = np.arange(12).reshape(4, 3).astype(dtype)
        for order in (x, np.asfortranarray(x)):
            np.save(tmp_path / "x.npy", order)
            found = pv.data.load_array(tmp_path / "x.npy", valid_fraction=0)
            whole = torch.cat([found.train, found.test])
            assert sorted(whole.tolist()) == x.astype(float).tolist()


@pytest.fixture
def little(monkeypatch):
    """Bounds so small that a test reaches them."""
    monkeypatch.setattr(reading, "SMALL_EXPANSION", 2**20)
    monkeypatch.setattr(reading, "memory", lambda: 2**26)


def zeros(path, size):
    """A compressed array of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as handle:
        np.save(handle, np.zeros((size // 32, 4)))


def test_a_zip_bomb(little, tmp_path):
    zeros(tmp_path / "x.npz", 2**22)
    message = refusal(pv.data.load_array, tmp_path / "x.npz")
    assert "decompressed" in message
    assert "x.npz" in message
    zeros(tmp_path / "x.npz", 2**18)
    assert refusal(pv.data.load_array, tmp_path / "x.npz") is None


def test_gzip_bombs(little, tmp_path):
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"0,0,0,0\n" * 2**19))
    assert "decompressed" in refusal(pv.data.load_array, tmp_path / "x.csv.gz")
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(2**22)))
    (tmp_path / "train-images-idx3-ubyte").unlink()
    message = refusal(KINDS["train-images-idx3-ubyte.gz"][1], tmp_path / "train-images-idx3-ubyte.gz")
    assert "decompressed" in message


def test_more_than_memory_holds(little, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2**20, 4)))
    assert "memory" in refusal(pv.data.load_array, tmp_path / "x.npy")
    (tmp_path / "x.csv").write_bytes(b"0,0,0,0\n" * 2**20)
    assert "memory" in refusal(pv.data.load_array, tmp_path / "x.csv")


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_a_line_without_end(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_vae.data.tables.LONGEST_LINE", 1000)
    content = b"1,2\n" + b"1," * 1000
    (tmp_path / f"x{suffix}").write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    assert "characters in line 2" in refusal(pv.data.load_array, tmp_path / f"x{suffix}")


CSVS = {
    "a long field": ("1,2\n3," + "a" * 200_000 + "\n", "'aaaaaaaaaaaaaaaaaaaa' in line 2, column 2"),
    "a long number": ("1,2\n3," + "1" * 200_000 + "\n", ""),
    "a long name": ("a" * 200_000 + ",b\n1,2\n3,four\n", "'four' in line 3, column 2"),
    "an open quote": ('1,2\n3,"4\n5,6\n', ""),
    "a null byte": ("1,2\n3,\x004\n", "line 2, column 2"),
    "a row too short": ("1,2\n\n3\n", "1 fields in line 3"),
    "a row too long, later": ("1,2\n" * 9 + "1,2,3\n", "3 fields in line 10"),
    "names only": ("a,b\n", "a line of names and no numbers"),
    "white space": (" \n\t\n", "nothing but white space"),
    "names for fewer": ("a,b\n1,2,3\n", "2 numbers a line"),
    "semicolons": ("1;2\n3;4\n5;6\n", ""),
    "too small for float64": ("1,2\n3,1e-400\n5,6\n", "1e-400 in line 2"),
    "too large for float64": ("1,2\n3,1e400\n5,6\n", "inf at datum 1"),
    "too small for float32": ("1,2\n3,1e-50\n5,6\n", "1e-50 at datum 1, element 1"),
    "a large integer": ("1,2\n3,16777217\n5,6\n", "16777217.0 at datum 1, element 1"),
    "latin-1": (b"a,b\n1,2\n\xe9,4\n", "utf-8"),
}


@pytest.mark.parametrize("name", CSVS)
def test_csv_that_is_refused(name, tmp_path):
    content, words = CSVS[name]
    path = tmp_path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(pv.data.load_array, path)
    assert str(path) in message
    assert words in message
    assert message.isprintable()
    assert len(message) < 500 + len(str(path))


def test_one_line_is_one_line():
    assert one_line("a\n b\tc") == "a b c"
    assert one_line("a\x00\x1b\u200b") == "a\\x00\\x1b\\u200b"
    assert one_line("x" * 1000).endswith("…")
    assert "\n" not in str(InputError("a\nb", "c\nd", "e\nf"))


def test_signed_kinds_are_all_there():
    assert len(SIGNED) == 6
