"""A folder full of good and bad files, of trained and of broken runs."""

import gzip
import json
import pickle
import shutil

import numpy as np
from cli_helpers import TINY


def make_world(here, trained):
    """A folder full of good and bad files, for all cases: none may change it."""
    rng = np.random.default_rng(0)
    good = rng.normal(size=(40, 4)).round(3)
    np.save(here / "good.npy", good)
    np.save(here / "grey.npy", rng.uniform(size=(40, 4)))
    np.save(here / "vector.npy", good[:, 0])
    np.save(here / "norows.npy", good[:0])
    np.save(here / "complex.npy", good + 1j)
    np.save(here / "text.npy", np.array([["a", "b"]] * 9))
    np.save(here / "pickled.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    for name, value, where in (("nan", np.nan, (7, 2)), ("inf", np.inf, (5, 0))):
        bad = good.copy()
        bad[where] = value
        np.save(here / f"{name}.npy", bad)
    np.savez(here / "two.npz", a=good, b=np.arange(3))
    (here / "empty.npy").write_bytes(b"")
    (here / "empty.csv").write_bytes(b"")
    (here / "good.xlsx").write_bytes(b"PK")
    (here / "truncated.npy").write_bytes((here / "good.npy").read_bytes()[:200])
    (here / "truncated.csv.gz").write_bytes(gzip.compress(b"1,2\n" * 500)[:-12])
    (here / "words.csv").write_text("a,b\n1,2\n3,four\n")
    (here / "ragged.csv").write_text("1,2\n3,4,5\n")
    (here / "old.png").write_bytes(b"a picture")
    for name, text in {
        "garbage": "prior: [}\n\tx",
        "list": "- 1\n- 2\n",
        "empty": "",
        "unknown": "epoch: 3\n",
        "wrong": "latent_dim: many\n",
    }.items():
        (here / f"{name}.yaml").write_text(text)
    _mnist(here / "mnist")
    (here / "hollow").mkdir()
    for name in ("mnist_cut", "mnist_magic"):
        shutil.copytree(here / "mnist", here / name)
        images = here / name / "train-images-idx3-ubyte"
        content = images.read_bytes()
        images.unlink()
        if name == "mnist_cut":
            (here / name / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content)[:-20])
        else:
            images.write_bytes(b"\x00\x00\x0b" + content[3:])
    _runs(here, trained)


def _mnist(folder):
    folder.mkdir()
    rng = np.random.default_rng(1)
    for part, n in (("train", 12), ("t10k", 4)):
        header = b"\x00\x00\x08\x03" + b"".join(k.to_bytes(4, "big") for k in (n, 5, 5))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            header + rng.integers(0, 256, n * 25, np.uint8).tobytes()
        )
        header = b"\x00\x00\x08\x01" + n.to_bytes(4, "big")
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(n))


def _runs(here, trained):
    from ppl_vae.cli import main

    names = (
        "run",
        "unfinished",
        "pickled_run",
        "truncated",
        "other_file",
        "other_model",
        "changed",
        "bad_json",
    )
    for name in (*names, "bad_config", "poor_config", "swapped", "garbled"):
        shutil.copytree(trained, here / name)
    for name in ("vae", "checkpoint"):
        (here / f"pickled_run/{name}.safetensors").write_bytes(pickle.dumps({"a": 1}))
    (here / "unfinished/vae.safetensors").unlink()
    model = (trained / "vae.safetensors").read_bytes()
    (here / "truncated/vae.safetensors").write_bytes(model[: len(model) // 2])
    shutil.copy(trained / "checkpoint.safetensors", here / "other_file/vae.safetensors")
    data = json.loads((trained / "data.json").read_text())
    (here / "changed/data.json").write_text(json.dumps(data | {"test_sha256": "0" * 64}))
    (here / "bad_json/data.json").write_text("{")
    (here / "bad_config/config.yaml").write_text("a: [}")
    (here / "poor_config/config.yaml").write_text("data: digits\n")
    (here / "garbled/config.yaml").write_text("\x00\x01: [")
    options = ["--data", "array", "--path", str(here / "good.npy"), *TINY]
    assert main(["train", *options, "--out", str(here / "vectors")]) == 0
    for name, target in (("vae", "other_model"), ("checkpoint", "swapped")):
        shutil.copy(here / f"vectors/{name}.safetensors", here / f"{target}/{name}.safetensors")
    bounds = [
        "--method",
        "importance",
        "--num-samples",
        "8",
        "--num-data",
        "3",
        "--out",
        str(here / "bounds"),
    ]
    assert main(["sandwich", str(here / "run"), *bounds]) == 0
    deep = ["train", *TINY, "--latent-dim", "4", "--epochs", "1", "--out", str(here / "deep")]
    assert main(deep) == 0
    estimate = [
        "evidence",
        str(here / "run"),
        "--num-samples",
        "32",
        "--subset",
        "3",
        "--out",
        str(here / "estimate"),
    ]
    assert main(estimate) == 0
