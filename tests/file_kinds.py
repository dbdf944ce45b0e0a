"""A good file of each kind that the package reads, and its reader."""

import gzip
import json

import numpy as np
import torch

import ppl_vae as pv
from ppl_vae import reading
from ppl_vae.analysis import Calibration, Gaps
from ppl_vae.checkpoint import Checkpoint
from ppl_vae.data.mnist import _read_pair
from ppl_vae.data.raw import parse_amat, read_bytes
from ppl_vae.evidence import Sandwich
from ppl_vae.evidence.results.diagnostics import WeightDiagnostics
from ppl_vae.evidence.results.evidence import Evidence
from ppl_vae.evidence.results.parts import Cost, Curves, Estimate, Origin
from ppl_vae.history import Epoch, History
from ppl_vae.validation import Report
from ppl_vae.validation.row import Row


def vae():
    parts = pv.priors.StandardNormal(1), pv.likelihoods.Bernoulli(3), pv.posteriors.MeanFieldNormal(1)
    return pv.VAE(*parts, hidden=(2,))


def estimate(bound="lower"):
    one = torch.linspace(-3, -1, 3, dtype=torch.float64)
    half = torch.full((3,), 0.5, dtype=torch.float64)
    curve = torch.stack([one - 1, one], 1)
    ks, error = torch.tensor([1, 4]), torch.full((3, 2), 0.1, dtype=torch.float64)
    return Evidence(
        Estimate(one, half),
        Estimate(one - 1, half),
        WeightDiagnostics(half * 4, half, torch.full((3,), 4)),
        Curves(ks, curve, error),
        Cost(torch.full((3,), 4.0)),
        Origin(4, "importance", bound, 0),
    )


def gaps():
    half, yes = torch.full((3,), 0.5, dtype=torch.float64), torch.ones(3, dtype=torch.bool)
    return Gaps(estimate(), half, half, half, half, half, yes, torch.ones(3, dtype=torch.int64), 4, 0)


def report():
    return Report((Row.of(model="a", estimator="b", bias=0.5), Row("a", "c", "no")))


def calibration():
    ranks = torch.arange(10).expand(2, 10).contiguous()
    return Calibration(
        ("z", "log p(x, z)"), ranks, ranks, torch.ones(10, dtype=torch.float64), 9, 5, 2, 0.01, 0
    )


def numbers():
    return np.random.default_rng(0).integers(0, 5, (12, 3)).astype(np.float64)


def write_npz(path):
    np.savez_compressed(path, x=numbers(), y=np.arange(12))


def write_csv(path):
    np.savetxt(path, numbers() + 0.25, delimiter=",", header="a,b,c", comments="")


def write_idx(folder):
    for name, shape in (("images-idx3", (4, 5, 5)), ("labels-idx1", (4,))):
        head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        content = head + bytes(range(int(np.prod(shape))))
        (folder / f"train-{name}-ubyte").write_bytes(content)
        (folder / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(content))


def keeper(path):
    return Checkpoint(path, "evidence", {"seed": 0}, resume=True)


def read_idx(path):
    folder = path.parent
    for other in folder.iterdir():  # the pair of the damaged file is the good one
        if other.suffix != path.suffix:
            other.unlink()
    return _read_pair(folder, "train")


def read_amat(path):
    return parse_amat(read_bytes(path, "a text file"), str(path))


RECORDS = History((Epoch(1, 10, -3.5, -4.0, 1e-3, 0.5), Epoch(2, 20, -3.0, None, 1e-3, 1.0)))
YAML = "data: digits\nhidden: [200, &w 200]\nprior: {class_path: a.B, init_args: {n: *w}}\nnote: 'x: y'\n"
KINDS = {
    "x.npy": (lambda p: np.save(p, numbers()), pv.data.load_array),
    "x.npz": (write_npz, lambda p: pv.data.load_array(p, key="x", labels_key="y")),
    "x.csv": (write_csv, pv.data.load_array),
    "x.csv.gz": (write_csv, pv.data.load_array),
    "train-images-idx3-ubyte": (lambda p: write_idx(p.parent), read_idx),
    "train-images-idx3-ubyte.gz": (lambda p: write_idx(p.parent), read_idx),
    "x.amat": (lambda p: p.write_text(("0 1 " * 392)[:-1] + "\n"), read_amat),
    "x.json": (
        lambda p: p.write_text(json.dumps({"a": [1, 2.5, None, "b"], "c": {"d": True}})),
        reading.read_json,
    ),
    "x.yaml": (lambda p: p.write_text(YAML), reading.read_yaml),
    "history.jsonl": (RECORDS.save, History.load),
    "report.json": (lambda p: report().save(p), Report.load),
    "vae.safetensors": (lambda p: pv.save(vae(), p), pv.load),
    "evidence.safetensors": (lambda p: estimate().save(p), Evidence.load),
    "sandwich.safetensors": (lambda p: Sandwich(estimate(), estimate("upper")).save(p), Sandwich.load),
    "gaps.safetensors": (lambda p: gaps().save(p), Gaps.load),
    "calibration.safetensors": (lambda p: calibration().save(p), Calibration.load),
    "checkpoint.safetensors": (
        lambda p: keeper(p).write({"a": torch.arange(9.0)}, {"done": None}),
        lambda p: keeper(p).read(),
    ),
}
SIGNED = [name for name in KINDS if name.endswith(".safetensors")]


def refusal(read, path):
    """The message with which ``path`` is refused, or None if it is read; anything else is raised."""
    try:
        read(path)
    except pv.InputError as error:
        return str(error)
    return None
