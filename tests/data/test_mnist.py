import functools
import gzip
import hashlib
import http.server
import threading

import numpy as np
import pytest
import torch

from ppl_vae.data import binarise, download, load_mnist, mnist
from ppl_vae.errors import InputError

NAMES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("t10k", "images"): "t10k-images-idx3-ubyte",
    ("t10k", "labels"): "t10k-labels-idx1-ubyte",
}


def idx(array, kind=8):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def arrays(train=60, test=10, side=(4, 3)):
    rng = np.random.default_rng(0)
    return {
        (part, what): rng.integers(
            0, 256 if what == "images" else 10, (n, *side) if what == "images" else (n,)
        )
        for part, n in (("train", train), ("t10k", test))
        for what in ("images", "labels")
    }


def write(folder, contents=None, suffix=".gz"):
    for key, array in (contents or arrays()).items():
        data = idx(array)
        (folder / (NAMES[key] + suffix)).write_bytes(
            gzip.compress(data, mtime=0) if suffix == ".gz" else data
        )
    return folder


def all_of(data, part):
    return torch.cat(
        [x for x in (getattr(data, f"train{part}"), getattr(data, f"valid{part}")) if x is not None]
    )


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("split", ["50k", "60k"])
@pytest.mark.parametrize("flat", [True, False])
def test_idx_files_round_trip(tmp_path, suffix, split, flat):
    raw = arrays()
    data = load_mnist(write(tmp_path, raw, suffix), view="grey", split=split, flat=flat)
    images = torch.tensor(raw["train", "images"])
    assert torch.equal((all_of(data, "") * 255).round().long().reshape(60, 4, 3), images)
    assert torch.equal(all_of(data, "_labels"), torch.tensor(raw["train", "labels"]))
    assert torch.equal(
        (data.test * 255).round().long().reshape(10, 4, 3), torch.tensor(raw["t10k", "images"])
    )
    assert torch.equal(data.test_labels, torch.tensor(raw["t10k", "labels"]))
    assert data.sizes == {"train": 50, "valid": 10, "test": 10} if split == "50k" else data.valid is None
    assert data.shape == ((12,) if flat else (1, 4, 3))
    assert data.image_shape == (4, 3)
    assert data.values == "grey"
    assert data.describe()["published"] is False


def test_files_with_a_dot_in_their_names_are_found(tmp_path):
    write(tmp_path, suffix="")
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert load_mnist(tmp_path).sizes["test"] == 10


def test_held_out_binarisation_depends_on_the_seed_alone(tmp_path):
    folder = write(tmp_path)
    first, again, other = (load_mnist(folder, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test, again.test)
    assert torch.equal(first.valid, again.valid)
    assert not torch.equal(first.test, other.test)
    assert not torch.equal(first.valid, other.valid)
    assert first.describe()["seed"] == 0
    assert other.describe()["seed"] == 1
    assert first.describe()["test_sha256"] == again.describe()["test_sha256"]
    torch.manual_seed(3)
    assert torch.equal(first.test, load_mnist(folder).test)


def test_dynamic_training_data_are_grey_and_resampled(tmp_path):
    data = load_mnist(write(tmp_path))
    assert data.resample is binarise
    assert torch.equal(data.train, load_mnist(tmp_path, view="grey").train)
    assert set(data.test.unique().tolist()) == {0.0, 1.0}
    # The larger split changes neither the test data nor their order.
    assert torch.equal(data.test, load_mnist(tmp_path, split="60k").test)


def test_threshold(tmp_path):
    grey = load_mnist(write(tmp_path), view="grey")
    data = load_mnist(tmp_path, view="threshold")
    assert torch.equal(data.train, (grey.train > 0.5).float())
    assert data.resample is None
    assert data.values == "binary"


PACKED = gzip.compress(idx(arrays()["train", "images"]), mtime=0)


@pytest.mark.parametrize(
    ("key", "content", "word"),
    [
        (("train", "images"), b"", "empty"),
        (("train", "images"), gzip.compress(b"", mtime=0), "empty"),
        (("train", "images"), idx(arrays()["train", "images"]), "ot a gzip"),
        (("train", "images"), PACKED[: len(PACKED) // 2], "cut short"),
        (("train", "images"), PACKED[:-4], "cut short"),
        (("train", "images"), PACKED[:30] + b"\0\0\0\0" + PACKED[34:], "IDX"),
        (("train", "labels"), gzip.compress(idx(np.ones((60, 2))), mtime=0), "2 dimension"),
        (("train", "labels"), gzip.compress(idx(np.ones(59)), mtime=0), "as many labels as images (60)"),
        (("t10k", "labels"), gzip.compress(idx(np.ones(11)), mtime=0), "as many labels as images (10)"),
        (("t10k", "images"), gzip.compress(idx(np.ones((10, 4, 4))), mtime=0), "as in training"),
        (("t10k", "images"), None, "t10k-images.idx3-ubyte.gz"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, key, content, word):
    write(tmp_path)
    path = tmp_path / f"{NAMES[key]}.gz"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_mnist(tmp_path)
    assert word in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert NAMES[key] in str(caught.value) or "as in training" in word
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"data_dir": "no/such/folder"}, "data_dir"),
        ({"data_dir": 3}, "data_dir"),
        ({"view": "binary"}, "'dynamic', 'static', 'threshold', 'grey'"),
        ({"split": "55k"}, "'50k', '60k'"),
        ({"flat": 1}, "flat"),
        ({"seed": -1}, "seed"),
        ({"seed": "0"}, "seed"),
        ({"view": "static"}, "not downloaded"),
        ({"view": "static", "data_dir": ".", "split": "60k"}, "'50k'"),
    ],
)
def test_options_are_refused(options, word):
    with pytest.raises(InputError) as caught:
        load_mnist(**options)
    assert word in str(caught.value)


def test_too_few_images_to_split(tmp_path):
    write(tmp_path, arrays(train=5))
    with pytest.raises(InputError, match="at least 6"):
        load_mnist(tmp_path)


BITS = np.random.default_rng(1).integers(0, 2, (7, 784))


def write_static(folder, suffix=".gz"):
    for part, rows in (("train", 4), ("valid", 2), ("test", 1)):
        content = "".join(" ".join(map(str, row)) + "\n" for row in BITS[:rows].tolist()).encode()
        (folder / f"binarized_mnist_{part}.amat{suffix}").write_bytes(
            gzip.compress(content, mtime=0) if suffix else content
        )


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_static_files(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(mnist, "STATIC_SIZES", {"train": 4, "valid": 2, "test": 1})
    write_static(tmp_path, suffix)
    data = load_mnist(tmp_path, view="static", flat=False)
    assert torch.equal(data.train.reshape(4, 784), torch.tensor(BITS[:4], dtype=torch.float32))
    assert data.resample is None
    assert data.test_labels is None


def test_static_files_with_lines_missing_are_refused(tmp_path):
    write_static(tmp_path)
    with pytest.raises(
        InputError, match=r"binarized_mnist_train\.amat\.gz: expected 50000 lines, received 4"
    ):
        load_mnist(tmp_path, view="static")
    (tmp_path / "binarized_mnist_train.amat.gz").unlink()
    with pytest.raises(InputError, match=r"one of the files binarized_mnist_train\.amat"):
        load_mnist(tmp_path, view="static")


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror on this machine, in whose folder the test puts files, and a cache of the test's own."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            self.server.requests.append(self.path)

    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.requests = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(download, "MIRRORS", (f"http://127.0.0.1:{server.server_port}/",))
        monkeypatch.setattr(
            download,
            "SHA256",
            {NAMES[key]: hashlib.sha256(idx(a)).hexdigest() for key, a in arrays().items()},
        )
        monkeypatch.setattr(mnist, "SHA256", download.SHA256)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield folder, server.requests
        server.shutdown()
        thread.join()


def test_download_happens_once_and_heals_a_damaged_cache(tmp_path, mirror, capfd):
    folder, requests = mirror
    write(folder)
    data = load_mnist(view="grey")
    assert data.describe()["published"] is True
    assert len(requests) == 4
    assert torch.equal(load_mnist(view="grey").train, data.train)
    assert len(requests) == 4
    (tmp_path / "cache" / "ppl_vae" / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(b"cut")
    assert torch.equal(load_mnist(view="grey").test, data.test)
    assert len(requests) == 5
    assert capfd.readouterr() == ("", "")


def test_a_mirror_that_serves_other_bytes_is_refused(tmp_path, mirror):
    folder, _ = mirror
    write(folder, {key: array * 0 for key, array in arrays().items()})
    with pytest.raises(InputError, match="another checksum") as caught:
        load_mnist()
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*ubyte*"))


def test_no_network_is_an_input_error(mirror):
    with pytest.raises(InputError, match=r"data_dir.*network.*404"):
        load_mnist()


def baseline(train, test):
    """-log p(x) in nats a datum, of independent pixels with the training data's means."""
    p = train.double().mean(0).clamp(1e-4, 1 - 1e-4)
    return -(test.double() @ p.log() + (1 - test.double()) @ (1 - p).log()).mean().item()


def test_real_mnist(real_data):
    data = load_mnist(real_data("mnist"))
    assert data.sizes == {"train": 50_000, "valid": 10_000, "test": 10_000}
    assert data.describe()["published"] is True
    assert data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    # Published: 205.9 nats for independent pixels; the draws of the test bits move it by about 0.1.
    assert abs(baseline(data.train, data.test) - 205.9) < 0.5
    # Published: 45.5 nats of entropy in the binarisation of the test set.
    grey = load_mnist(real_data("mnist"), view="grey").test.double()
    entropy = -(torch.xlogy(grey, grey) + torch.xlogy(1 - grey, 1 - grey)).sum(1).mean().item()
    assert abs(entropy - 45.5) < 0.1
    # 7.84 million bits of known probabilities: their sum is within 4.5 standard errors.
    assert abs((data.test - grey).sum()) < 4.5 * (grey * (1 - grey)).sum().sqrt()


def test_real_static_mnist(real_data):
    data = load_mnist(real_data("binarized_mnist"), view="static")
    assert data.sizes == {"train": 50_000, "valid": 10_000, "test": 10_000}
    assert abs(baseline(data.train, data.test) - 205.9) < 0.5
    # The file is sorted by digit: its first thousand are zeros, and a random subset scores as the whole does.
    whole, first = baseline(data.train, data.test), baseline(data.train, data.test[:1000])
    drawn = baseline(data.train, data.subset("test", 1000, seed=0)[0])
    assert abs(first - whole) > 10
    assert abs(drawn - whole) < 6
