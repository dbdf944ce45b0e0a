"""Files are written whole or not at all, and what is read is never run."""

import os
import pickle
import stat

import numpy as np
import pytest
import torch

from ppl_vae import files
from ppl_vae.errors import InputError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "folders" / "file"
    tensors = {
        "float": torch.randn(3, 2),
        "double": torch.tensor([float("nan"), float("-inf"), 1e-320], dtype=torch.float64),
        "int": torch.arange(5),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "transposed": torch.randn(2, 3).T,
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    metadata = {"list": [1, 2.5, None, "é"], "nested": {"a": True}}
    files.write_tensors(path, tensors, metadata)
    read, read_metadata = files.read_tensors(path)
    assert read_metadata == metadata
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert read[name].shape == value.shape
        assert torch.equal(read[name].nan_to_num(), value.detach().nan_to_num())
    files.write_tensors(path, {})
    assert files.read_tensors(path) == ({}, None)


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    whole = torch.arange(6.0)
    files.write_tensors(tmp_path / "f", {"a": whole[:3], "b": whole[1:5], "c": whole})
    read, _ = files.read_tensors(tmp_path / "f")
    assert torch.equal(read["b"], whole[1:5])


def test_json_and_text(tmp_path):
    content = {"a": [1, 2, {"b": None}], "text": "ünïcode"}
    files.write_json(tmp_path / "f.json", content)
    assert files.read_json(tmp_path / "f.json") == content
    files.write_text(tmp_path / "f.txt", "ü\n")
    assert (tmp_path / "f.txt").read_bytes() == "ü\n".encode()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, error, existing):
    path = tmp_path / "file"
    if existing:
        path.write_text("old")

    def fail():
        with files.atomic(path) as temporary:
            temporary.write_text("half of the n")
            assert temporary.parent == path.parent
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == (["file"] if existing else [])
    if existing:
        assert path.read_text() == "old"


def test_nothing_is_seen_before_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with files.atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_a_failure_to_replace_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_content_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    with pytest.raises(TypeError):
        files.write_tensors(path, {"a": torch.ones(1)}, {"b": object()})
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        files.write_text(tmp_path / "ours", "x")
        (tmp_path / "theirs").write_text("x")
        assert os.umask(mask) == mask  # and the mask is left as it was
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "theirs")]
    assert modes[0] == modes[1]


class Dangerous:
    ran = False

    def __reduce__(self):
        return (setattr, (Dangerous, "ran", True))


@pytest.mark.parametrize(
    "content", ["pickle", "torch", "cut", "text", "empty", "folder", "missing", "corrupt"]
)
def test_anything_else_is_refused_by_name_and_never_run(tmp_path, content):
    path = tmp_path / "file"
    good = tmp_path / "good"
    files.write_tensors(good, {"a": torch.arange(100.0)}, {"b": 1})
    if content == "pickle":
        path.write_bytes(pickle.dumps(Dangerous()))
    elif content == "torch":
        torch.save({"a": torch.ones(2)}, path)
    elif content == "cut":
        path.write_bytes(good.read_bytes()[:-50])
    elif content == "text":
        path.write_text("hello, this is not a safetensors file")
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "folder":
        path.mkdir()
    elif content == "corrupt":
        path.write_bytes(b"\xff" * 8 + good.read_bytes()[8:])
    with pytest.raises(
        InputError, match="file: expected a safetensors file written by ppl_vae, received "
    ) as caught:
        files.read_tensors(path)
    assert "\n" not in str(caught.value)
    assert not Dangerous.ran


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", None])
def test_json_that_is_none(tmp_path, content):
    path = tmp_path / "f.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"f\.json: expected a JSON file"):
        files.read_json(path)
    with pytest.raises(InputError, match="expected a JSON file"):
        files.read_json(tmp_path)


def test_arrays(tmp_path):
    values = torch.randn(3, 2, 2).numpy()
    files.write_array(tmp_path / "x.npy", values)
    assert (np.load(tmp_path / "x.npy") == values).all()
    files.write_array(tmp_path / "x.csv", values)
    assert (np.loadtxt(tmp_path / "x.csv", delimiter=",", dtype=np.float32) == values.reshape(3, 4)).all()
    assert names(tmp_path) == ["x.csv", "x.npy"]
