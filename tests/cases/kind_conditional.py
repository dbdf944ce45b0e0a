"""Decoders that are given something beside the latent: labels, covariates, images; data are a dict of tensors."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from case import Case, decoded, decoding, gaussian, grid, plate, seeded, wide_guide
from torch import nn

import ppl_vae as pv

_N = 5
_LABELS = torch.tensor([0, 2, 1, 1, 0])
_ONE_HOT = F.one_hot(_LABELS, 3).float()
_X = {"x": seeded(11, _N, 4), "y": _ONE_HOT}
_BY_LABEL = {"x": seeded(11, _N, 4), "y": _LABELS}
_REAL = {"x": seeded(11, _N, 4), "y": seeded(12, _N, 3)}
_SQUARE = {"x": seeded(13, 2, 4), "y": seeded(14, 2, 2)}
_W = 0.7 * seeded(15, 5, 4)
_PER_LABEL = 0.7 * seeded(16, 3, 2, 4)
_TABLE = seeded(17, 3, 4)

_SPELLED = {
    "cat_1": (_X, lambda z, y: torch.cat([z, y], 1) @ _W),
    "cat_last": (_X, lambda z, y: torch.cat([z, y], -1) @ _W),
    "view_len": (_X, lambda z, y: torch.cat([z.view(len(y), -1), y], 1) @ _W),
    "view_minus_one": (_X, lambda z, y: torch.cat([z.view(z.shape[0], -1), y], dim=1).view(-1, 5) @ _W),
    "columns": (_X, lambda z, y: _columns(z) + y @ _W[2:]),
    "outer": (_X, lambda z, y: (z[:, :, None] * y[:, None, :]).flatten(1) @ seeded(18, 6, 4)),
    "label_rows": (_BY_LABEL, lambda z, y: z @ _W[:2] + _TABLE[y]),
    "label_index_select": (_BY_LABEL, lambda z, y: z @ _W[:2] + _TABLE.index_select(0, y)),
    "label_matrices": (_BY_LABEL, lambda z, y: torch.bmm(z.unsqueeze(1), _PER_LABEL[y]).squeeze(1)),
    "label_einsum": (_BY_LABEL, lambda z, y: torch.einsum("nd,ndk->nk", z, _PER_LABEL[y])),
    "label_one_hot": (_BY_LABEL, lambda z, y: torch.cat([z, F.one_hot(y, 3).to(z.dtype)], 1) @ _W),
    "label_gather": (_BY_LABEL, lambda z, y: (z @ _W[:2]).gather(1, y[:, None].expand(-1, 4)) + _TABLE[y]),
    "label_where": (_BY_LABEL, lambda z, y: torch.where((y == 1)[:, None], z @ _W[:2], z @ _W[2:4])),
    "label_mask_assigned": (_BY_LABEL, lambda z, y: _assigned(z, y)),
    "film": (_REAL, lambda z, y: (1 + y[:, :1]) * (z @ _W[:2]) + y[:, 1:2]),
    "cat_scalar": (_REAL, lambda z, y: torch.cat([z, y[:, 0].unsqueeze(1), y[:, 1:]], 1) @ _W),
    "where_covariate": (_REAL, lambda z, y: torch.where(y[:, :1] > 0, z, -z.flip(1)) @ _W[:2]),
    "len_of_latent": (_REAL, lambda z, y: z @ _W[:2] + y[: len(z)] @ _W[2:]),
    "loop": (_REAL, lambda z, y: torch.stack([torch.cat([z[i], y[i]]) @ _W for i in range(z.size(0))])),
    "attention": (_REAL, lambda z, y: _attention(z, y)),
    "square_cat": (_SQUARE, lambda z, y: torch.cat([z, y], 1) @ _W[:4]),
    "square_product": (_SQUARE, lambda z, y: (z * y) @ _W[:2]),
}  # fmt: skip

_MIXING = {
    "covariate_mean": (_REAL, lambda z, y: z @ _W[:2] + y.mean(0) @ _W[2:]),
    "covariate_of_first": (_REAL, lambda z, y: z @ _W[:2] + y[0] @ _W[2:]),
    "covariate_standardised": (_REAL, lambda z, y: z @ _W[:2] + ((y - y.mean(0)) / y.std(0)) @ _W[2:]),
    "covariate_softmax_0": (_REAL, lambda z, y: z @ _W[:2] + torch.softmax(y, 0) @ _W[2:]),
}


def _columns(z):
    return torch.stack([z[:, 0] * _W[0, k] + z[:, 1] * _W[1, k] for k in range(4)], 1)


def _assigned(z, y):
    out = torch.zeros(len(z), 4)
    out[y == 1] = z[y == 1] @ _W[:2]
    return out


def _attention(z, y):
    keys = y.unsqueeze(2) * _TABLE[:, :2]  # (N, 3, 2)
    weights = torch.softmax(torch.bmm(keys, z.unsqueeze(2)).squeeze(2), dim=1)
    return torch.cat([(weights.unsqueeze(1) @ keys).squeeze(1), z], 1) @ _W[:4]


def _linear():
    """Trained encoder and decoder of torch, with labels beside; Gaussian, so exact in closed form."""
    dec = nn.Linear(5, 4)
    with torch.no_grad():
        dec.weight.copy_(_W.t())
        dec.bias.fill_(0.3)
    A = dec.weight.detach()[:, :2]
    covariance = torch.linalg.inv(torch.eye(2) + A.T @ A / 0.25)

    def model(d):
        pyro.module("dec", dec)
        with plate(d):
            z = pyro.sample("z", dist.Normal(d["x"].new_zeros(2), 1.0).to_event(1))
            loc = dec(torch.cat([z, d["y"]], 1))
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=d["x"])

    def guide(d):
        with plate(d):
            rest = d["x"] - d["y"] @ dec.weight.detach()[:, 2:].T - 0.3
            pyro.sample("z", dist.MultivariateNormal(rest @ A @ covariance / 0.25, 1.3 * covariance))

    def exact(d):
        return gaussian(A, d["y"] @ dec.weight.detach()[:, 2:].T + 0.3, 0.25)(d)

    return Case("linear_cvae", lambda: pv.Program(model, guide), _X, exact, names=("z", "x", "dec"))


def _network(name, decode, x, dims=2, likelihood=None):
    with torch.random.fork_rng():
        torch.manual_seed(19)
        net = decode()
        for parameter in net.parameters():
            nn.init.normal_(parameter, 0.0, 0.6)
    net.eval()
    if likelihood is None:
        inner = decoding(net if isinstance(x, torch.Tensor) else lambda z, y: net(z, y), dims)

    def model(d):
        pyro.module("net", net)
        if likelihood is None:
            inner(d)
            return
        with plate(d):
            z = pyro.sample("z", dist.Normal(torch.zeros(dims), 1.0).to_event(1))
            likelihood(net, z, d)

    exact = grid(model, dims, nodes=61)
    names = ("z", "x", "net")
    return Case(name, lambda: pv.Program(model, wide_guide(dims)), x, exact, names=names, trains=False)


class _Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(3, 2), nn.Linear(4, 4)

    def forward(self, z, y):
        return self.out(torch.cat([z, self.embedding(y)], dim=1))


class _BatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.out = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, z, y):
        return self.out(self.norm(self.first(torch.cat([z, y], 1))).relu())


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.out = nn.Linear(2, 3), nn.GRU(3, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, z, y):
        hidden = self.first(z).unsqueeze(0)  # (layers, N, H)
        steps, _ = self.cell(y[:, None].repeat(1, 4, 1), hidden)
        return self.out(steps).squeeze(2)


def _images():
    net = nn.Sequential(
        nn.Linear(2, 8),
        nn.Unflatten(1, (2, 2, 2)),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.ConvTranspose2d(2, 1, 2, 2),
    )
    x = (seeded(20, 3, 1, 4, 4) > 0).float()

    def likelihood(net, z, x):
        pyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(3), obs=x)

    return _network("convolution_of_images", lambda: net, x, likelihood=likelihood)


def _conditional_prior():
    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(d["y"][:, :2], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, d["y"]], 1) @ _W, 0.7).to_event(1), obs=d["x"])

    def exact(d):
        return gaussian(_W[:2].T, d["y"][:, :2] @ _W[:2] + d["y"] @ _W[2:], 0.49)(d)

    return Case("conditional_prior", lambda: pv.Program(model, wide_guide(2, 1.5)), _REAL, exact)


def _scale_of_each_datum():
    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            scale = F.softplus(d["y"][:, 0]).unsqueeze(1) + 0.5
            pyro.sample("x", dist.Normal(z @ _W[:2], scale).to_event(1), obs=d["x"])

    return Case(
        "scale_of_each_datum", lambda: pv.Program(model, wide_guide(2)), _REAL, grid(model, 2, nodes=61)
    )


def _two_observed():
    def model(d):
        with plate(d):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ _W[:2], 0.7).to_event(1), obs=d["x"])
            pyro.sample("y", dist.Categorical(logits=torch.cat([z, z.sum(1, keepdim=True)], 1)), obs=d["y"])

    exact = grid(model, 2, nodes=61)
    return Case(
        "labels_observed_too",
        lambda: pv.Program(model, wide_guide(2)),
        _BY_LABEL,
        exact,
        names=("z", "x", "y"),
    )


CASES = [
    _linear(),
    *(
        decoded(name, decode, x, nodes=41 if name == "loop" else 121)
        for name, (x, decode) in _SPELLED.items()
    ),
    *(decoded(name, decode, x, refused="'x'") for name, (x, decode) in _MIXING.items()),
    _network("embedding", _Embedding, _BY_LABEL),
    _network("batch_norm", _BatchNorm, _X),
    _network("gru_from_latent_state", _Recurrent, _REAL),
    _images(),
    _conditional_prior(),
    _scale_of_each_datum(),
    _two_observed(),
]
