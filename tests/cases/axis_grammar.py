"""A small grammar of decoders that count axes, as source text, and what plain Pyro says of each.

A decoder is 1 to 4 statements on ``h``, the latent ``(N, D)`` or ``(N,)`` at first, with the covariates ``y`` of shape
``(N, C)`` at hand. It ends in a likelihood of ``x``, ``(N, K)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from case import plate, seeded, sum_sites
from hypothesis import strategies as st
from pyro import poutine
from torch import Tensor

import ppl_vae as pv

_NAMES = {"torch": torch, "F": F, "A": 0.7 * seeded(1, 64, 8, dtype=torch.float64)}

# Statements by the number of axes that they find, with the number that they leave; some suit no shape at all.
STATEMENTS: dict[int, list[tuple[str, int]]] = {
    1: [
        ("h[:, None]", 2),
        ("h.unsqueeze(1)", 2),
        ("h.unsqueeze(-1)", 2),
        ("h.view(-1, 1)", 2),
        ("h.reshape(len(h), 1)", 2),
        ("h.view(len(y), -1)", 2),
        ("torch.stack([h, h.tanh()], 1)", 2),
        ("torch.stack([h, h.sin()], -1)", 2),
        ("torch.outer(h, A[0, :2])", 2),
        ("h[:, None] * y", 2),
        ("h[:, None] + A[1, :3]", 2),
        ("torch.cat([h[:, None], y], 1)", 2),
        ("torch.cat([y, h.unsqueeze(-1)], -1)", 2),
        ("h.repeat(2, 1).t()", 2),
        ("h.expand(3, -1).transpose(0, 1)", 2),
        ("torch.einsum('n,nc->nc', h, y)", 2),
        ("h * y[:, 0]", 1),
        ("h.tanh() + y.sum(1)", 1),
        ("torch.where(y[:, 0] > 0, h, -h)", 1),
        ("h[torch.arange(len(h))]", 1),
        ("torch.stack([v.tanh() for v in h])", 1),
        ("torch.cat([h, h])[: len(h)]", 1),
        ("h / len(h)", 1),
        ("h - h.mean()", 1),
        ("h.softmax(0)", 1),
        ("h.cumsum(0)", 1),
        ("h.flip(0)", 1),
        ("h.sort().values", 1),
        ("h.squeeze()", 1),
    ],
    2: [
        ("torch.softmax(h, 1)", 2),
        ("torch.softmax(h, -1)", 2),
        ("torch.softmax(h, 0)", 2),
        ("F.log_softmax(h, dim=1)", 2),
        ("F.normalize(h + 2)", 2),
        ("F.normalize(h + 2, dim=-1)", 2),
        ("F.normalize(h + 2, dim=0)", 2),
        ("h.cumsum(1)", 2),
        ("h.cumsum(-1)", 2),
        ("h.cumsum(0)", 2),
        ("h - h.mean(1, keepdim=True)", 2),
        ("h - h.mean(-1, keepdim=True)", 2),
        ("h - h.mean(0)", 2),
        ("h - h.mean()", 2),
        ("h / (1 + h.norm(dim=1, keepdim=True))", 2),
        ("h.flip(1)", 2),
        ("h.flip(0)", 2),
        ("h.roll(1, 1)", 2),
        ("h.roll(1, -1)", 2),
        ("h.roll(1, 0)", 2),
        ("torch.sort(h, 1).values", 2),
        ("torch.sort(h, 0).values", 2),
        ("torch.cat([h, y], 1)", 2),
        ("torch.cat([y, h], -1)", 2),
        ("torch.cat([h, h], 0)[: len(h)]", 2),
        ("torch.cat([h, h.tanh()], 1)", 2),
        ("h[:, :1]", 2),
        ("h[:, -1:]", 2),
        ("h[..., :1]", 2),
        ("h.view(len(h), -1)", 2),
        ("h.view(len(y), -1)", 2),
        ("h.reshape(h.size(0), -1)", 2),
        ("h.reshape(-1, h.shape[1])", 2),
        ("h.reshape(-1, h.shape[-1])", 2),
        ("h.t().contiguous().t()", 2),
        ("torch.einsum('nd,dk->nk', h, A[: h.shape[1], :3])", 2),
        ("h @ A[: h.shape[-1], :4]", 2),
        ("h.sum(1, keepdim=True)", 2),
        ("h.max(1, keepdim=True).values", 2),
        ("h * y[:, :1]", 2),
        ("h + y[:, 0][:, None]", 2),
        ("h + y[:, 0]", 2),
        ("h * y[:, 0].unsqueeze(1)", 2),
        ("F.layer_norm(h, h.shape[1:])", 2),
        ("F.layer_norm(h, h.shape[-1:])", 2),
        ("F.batch_norm(h, None, None, training=True)", 2),
        ("torch.where(y[:, :1] > 0, h, -h)", 2),
        ("torch.stack([r.tanh() for r in h])", 2),
        ("torch.stack([c.sin() for c in h.unbind(1)], 1)", 2),
        ("torch.cat([h[i : i + 1] for i in range(len(h))])", 2),
        ("h[torch.arange(len(h))]", 2),
        ("h.index_select(1, torch.tensor([0, 0]))", 2),
        ("h.gather(1, (y[:, :1] > 0).long() * 0)", 2),
        ("torch.softmax(h @ h.t(), 1) @ h", 2),
        ("h / len(h)", 2),
        ("h * h.shape[1]", 2),
        ("h.transpose(0, 1).softmax(0).transpose(0, 1)", 2),
        ("h.squeeze(1)", 2),
        ("h.squeeze()", 2),
        ("h.mean(2)", 2),
        ("h[:, 0]", 1),
        ("h[:, -1]", 1),
        ("h[..., 0]", 1),
        ("h.sum(1)", 1),
        ("h.sum(-1)", 1),
        ("h.max(1).values", 1),
        ("torch.einsum('nd,nd->n', h, h)", 1),
        ("h[:, None]", 3),
        ("h.unsqueeze(1)", 3),
        ("h.unsqueeze(-1)", 3),
        ("torch.stack([h, h.tanh()], 1)", 3),
        ("h[:, None] * y[:, :, None]", 3),
        ("h.view(len(h), 1, -1)", 3),
        ("h.unsqueeze(2) * h.unsqueeze(1)", 3),
    ],
    3: [
        ("h.squeeze(1)", 3),
        ("h[:, 0]", 2),
        ("h[:, :, 0]", 2),
        ("h[..., 0]", 2),
        ("h.flatten(1)", 2),
        ("h.flatten(-2)", 2),
        ("h.reshape(len(h), -1)", 2),
        ("h.view(h.shape[0], -1)", 2),
        ("h.sum(1)", 2),
        ("h.sum(2)", 2),
        ("h.mean(-1)", 2),
        ("h.softmax(1)", 3),
        ("h.softmax(0)", 3),
        ("h.transpose(1, 2)", 3),
        ("h.permute(0, 2, 1)", 3),
        ("torch.bmm(h.transpose(1, 2), h)", 3),
        ("F.layer_norm(h, h.shape[2:])", 3),
        ("F.avg_pool1d(h, 1)", 3),
        ("h + y[:, :1, None]", 3),
        ("h - h.mean((1, 2), keepdim=True)", 3),
    ],
}
ENDS: dict[int, list[str]] = {
    1: ["h[:, None] * A[2, :K]", "h.unsqueeze(-1) * A[2, :K]", "torch.stack([h] * K, 1)"],
    2: ["h @ A[: h.shape[-1], :K]", "h @ A[: h.shape[1], :K]", "(A[: h.shape[1], :K].t() @ h.t()).t()"],
    3: ["h.flatten(1) @ A[: h[0].numel(), :K]", "h.flatten(-2) @ A[: h.shape[-1] * h.shape[-2], :K]"],
}


@dataclass(frozen=True)
class Decoder:
    """A decoder's statements, and the sizes that it is run at."""

    statements: tuple[str, ...]
    dims: int
    outputs: int

    def __str__(self) -> str:
        return "; ".join(f"h = {statement}" for statement in self.statements)

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        scope: dict[str, Any] = {**_NAMES, "h": z, "y": y, "K": self.outputs}
        for statement in self.statements:
            scope["h"] = eval(statement, scope)  # noqa: S307  (the strings above, and no others)
        return scope["h"]

    def model(self, x: dict[str, Tensor]) -> None:
        with plate(x):
            zeros = x["x"].new_zeros(self.dims) if self.dims else x["x"].new_zeros(())
            prior = dist.Normal(zeros, 1.0)
            z = pyro.sample("z", prior.to_event(1) if self.dims else prior)
            pyro.sample("x", dist.Normal(self(z, x["y"]), 0.5).to_event(1), obs=x["x"])

    def guide(self, x: dict[str, Tensor]) -> None:
        with plate(x):
            loc = 0.3 * x["x"].sum(-1)
            loc = loc[..., None] * torch.ones(self.dims, dtype=loc.dtype) if self.dims else loc
            posterior = dist.Normal(loc, 0.8)
            pyro.sample("z", posterior.to_event(1) if self.dims else posterior)

    def program(self) -> pv.Program:
        return pv.Program(self.model, self.guide)


@st.composite
def decoders(draw: Any, dims: int, outputs: int) -> Decoder:
    """1 to 4 statements and an end, each for the number of axes that the one before should leave."""
    axes, statements = (2 if dims else 1), []
    for _ in range(draw(st.integers(1, 4))):
        statement, axes = draw(st.sampled_from(STATEMENTS[axes]))
        statements.append(statement)
    return Decoder((*statements, draw(st.sampled_from(ENDS[axes]))), dims, outputs)


def plain_densities(decoder: Decoder, z: Tensor, x: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """log p(x, z) and log q(z|x) by plain Pyro at the draws ``z`` ``(S, N, *event)``, each ``(S, N)``.

    One draw for each datum at a time, which is how `pyro.infer.SVI` runs the pair. None where plain Pyro cannot run it,
    or gives no number for each datum.
    """
    found: list[tuple[Tensor, ...]] = []
    for value in z:
        densities = []
        for fn in (decoder.model, decoder.guide):
            try:
                trace = poutine.trace(poutine.condition(fn, data={"z": value})).get_trace(x)
                densities.append(sum_sites(trace))
            except Exception:  # noqa: PERF203  (whatever the statements raise)
                return None
        if any(density.shape != (len(value),) for density in densities):
            return None
        found.append(tuple(densities))
    joint, guide = (torch.stack(part) for part in zip(*found, strict=True))
    return joint, guide


def mixes(decoder: Decoder, z: Tensor, x: dict[str, Tensor]) -> bool:
    """Whether the density of a datum depends on the other data, by plain Pyro: each keeps its own, others change."""
    before = plain_densities(decoder, z[:1], x)
    assert before is not None
    for n in range(z.shape[1]):
        others = torch.arange(z.shape[1]) != n
        moved_z, moved_x = z[:1].clone(), {name: value.clone() for name, value in x.items()}
        for i, value in enumerate((moved_z[0], *moved_x.values())):
            value[others] = 1.7 * value[others] + seeded(90 + i, *value[others].shape, dtype=value.dtype)
        after = plain_densities(decoder, moved_z, moved_x)
        if after is None or not torch.allclose(before[0][:, n], after[0][:, n], rtol=1e-9, atol=1e-9):
            return True
    return False
