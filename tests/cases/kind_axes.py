"""Decoders that count axes, as plain Pyro lets them: the latent has shape (N, D) there."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from case import Case, decoded, decoding, grid, plate, seeded, wide_guide
from torch import nn

import ppl_vae as pv

_X = seeded(1, 5, 3)
_SQUARE = seeded(2, 2, 3)  # as many data as latent dimensions
_A, _B, _H = seeded(3, 2, 3), seeded(4, 4, 3), seeded(5, 2, 6)


def _attention(z):
    tokens = torch.stack([z, z.flip(1), z.tanh()], 1)  # (N, 3, D)
    weights = torch.softmax(tokens @ tokens.transpose(1, 2), dim=1)
    return (weights @ tokens).sum(1) @ _A


def _loop(z):
    return torch.stack([z[i] @ _A for i in range(len(z))])


def _asserting(z):
    assert z.ndim == 2
    assert z.shape[1] == 2
    return z @ _A


def _unpacking(z):
    n, d = z.shape
    return z.reshape(n * d).view(n, d) @ _A


def _outer(z):
    return (z.unsqueeze(2) * z.unsqueeze(1)).view(z.size(0), -1) @ _B


_SPELLED = {
    "softmax_dim_1": lambda z: torch.softmax(z, dim=1) @ _A,
    "module_softmax": lambda z: nn.Softmax(dim=1)(z) @ _A,
    "log_softmax_dim_1": lambda z: F.log_softmax(z, 1) @ _A,
    "normalize": lambda z: F.normalize(z + 2) @ _A,
    "cosine_similarity": lambda z: F.cosine_similarity(z + 2, _A[:, 0] * torch.ones_like(z))[:, None].expand(
        -1, 3
    ),
    "sum_1": lambda z: (z * z).sum(1, keepdim=True) * torch.ones(3),
    "cumsum_1": lambda z: z.cumsum(1) @ _A,
    "centred_over_1": lambda z: (z - z.mean(1, keepdim=True)) @ _A,
    "norm_dim_1": lambda z: z / (1 + z.norm(dim=1, keepdim=True)) @ _A,
    "sort_dim_1": lambda z: torch.sort(z, 1).values @ _A,
    "max_dim_1": lambda z: z.max(1).values[:, None] * torch.ones(3),
    "layer_norm_over_shape": lambda z: F.layer_norm(z @ _A, (z @ _A).shape[1:], eps=0.1),
    "group_norm": lambda z: F.group_norm(z @ _H, 2, eps=0.1) @ seeded(6, 6, 3),
    "columns": lambda z: torch.stack([z[:, 0] * _A[0, k] + z[:, 1] * _A[1, k] for k in range(3)], 1),
    "stacked_by_unbind": lambda z: torch.stack(list(z.unbind(1)), 1) @ _A,
    "view_by_len": lambda z: z.view(len(z), -1) @ _A,
    "view_by_size": lambda z: z.view(z.size(0), 1, 2).squeeze(1) @ _A,
    "flatten_1": lambda z: (z.unsqueeze(1) * torch.ones(1, 2, 1)).flatten(1) @ (0.4 * _B),
    "flatten_module": lambda z: nn.Flatten()(z[:, :, None] * torch.ones(2)) @ _B,
    "transposed": lambda z: (_A.t() @ z.t()).t(),
    "einsum": lambda z: torch.einsum("nd,dk->nk", z, _A),
    "bmm": lambda z: torch.bmm(z.unsqueeze(1), _A.expand(len(z), 2, 3)).squeeze(1),
    "outer_product": _outer,
    "attention_over_1": _attention,
    "loop_over_len": _loop,
    "assert_ndim": _asserting,
    "shape_unpacked": _unpacking,
    "batch_of_ones": lambda z: torch.cat([z, torch.ones(len(z), 1)], 1) @ seeded(7, 3, 3),
    "zeros_of_batch": lambda z: torch.zeros(z.shape[0], 3) + z @ _A,
    "chunk_dim_1": lambda z: torch.cat(z.chunk(2, 1)[::-1], dim=1) @ _A,
    "permute": lambda z: z.permute(1, 0).permute(1, 0) @ _A,
    "index_of_range": lambda z: z[torch.arange(len(z))] @ _A,
}

_MIXING = {
    "mean_of_latents": lambda z: (z - z.mean(0)) @ _A,
    "softmax_dim_0": lambda z: torch.softmax(z, dim=0) @ _A,
    "sort_dim_0": lambda z: torch.sort(z, 0).values @ _A,
    "batch_norm_by_hand": lambda z: F.batch_norm(z @ _A, None, None, training=True),
    "cumsum_0": lambda z: z.cumsum(0) @ _A,
    "flip_0": lambda z: z.flip(0) @ _A,
    "roll_0": lambda z: z.roll(1, 0) @ _A,
    "standardised": lambda z: (z - z.mean()) / (1 + z.std()) @ _A,
    "first_latent": lambda z: (z + z[:1]) @ _A,
    "attention_over_data": lambda z: torch.softmax(z @ z.t(), 1) @ z @ _A,
    "max_over_data": lambda z: z @ _A - (z @ _A).max(0).values,
}


def _scalar(z):
    return z[:, None] * _A[0]


_SCALAR = {
    "number_none": _scalar,
    "number_unsqueeze": lambda z: z.unsqueeze(1) * _A[0],
    "number_view": lambda z: z.view(-1, 1) * _A[0],
    "number_stack": lambda z: torch.stack([z, z.sin(), z.cos()], 1),
    "number_outer": lambda z: torch.outer(z, _A[1]),
}

_NETWORKS = {
    "conv2d": nn.Sequential(nn.Linear(2, 8), nn.Unflatten(-1, (2, 2, 2)), nn.Conv2d(2, 1, 2), nn.Flatten(),
                            nn.Linear(1, 3)),
    "conv_transpose2d": nn.Sequential(nn.Linear(2, 2), nn.Unflatten(1, (2, 1, 1)), nn.ConvTranspose2d(2, 1, 2),
                                      nn.Flatten(), nn.Linear(4, 3)),
    "conv1d": nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 3, 2), nn.Flatten()),
    "group_norm_module": nn.Sequential(nn.Linear(2, 4), nn.GroupNorm(2, 4, eps=0.1), nn.Linear(4, 3)),
    "batch_norm_eval": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    "layer_norm_module": nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3, eps=0.1)),
    "bilinear_upsample": nn.Sequential(nn.Unflatten(1, (1, 2, 1)), nn.Upsample(scale_factor=2), nn.Flatten(),
                                       nn.Linear(8, 3)),
    "prelu": nn.Sequential(nn.Linear(2, 3), nn.PReLU(3)),
}  # fmt: skip


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.out = kind(2, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, z):
        steps = z.unsqueeze(1).repeat(1, 3, 1)
        return self.out(self.cell(steps)[0]).squeeze(-1)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, z):
        tokens = torch.stack([z, z.tanh(), -z], dim=1)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].sum(2)


def _network(name, build, **options):
    with torch.random.fork_rng():
        torch.manual_seed(8)
        net = build()
        for parameter in net.parameters():
            nn.init.normal_(parameter, 0.0, 0.6)
    net.eval()
    inner = decoding(net, 2)

    def model(x):
        pyro.module("decoder", net)
        inner(x)

    program = lambda: pv.Program(model, wide_guide(2))  # noqa: E731
    return Case(
        name, program, _X, grid(model, 2, nodes=61), names=("z", "x", "decoder"), trains=False, **options
    )


def _likelihood(name, likelihood, x, exact_nodes=61):
    """A likelihood of another family, whose parameters are computed by counted axes."""

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", likelihood(z), obs=x)

    return Case(name, lambda: pv.Program(model, wide_guide(2)), x, grid(model, 2, nodes=exact_nodes))


def _sentences(z):
    logits = (z @ _H).view(len(z), 2, 3)  # (N, T, V)
    return dist.Categorical(logits=logits.log_softmax(2)).to_event(1)


def _mixture(z):
    weights = dist.Categorical(logits=z)
    components = dist.Normal((z @ seeded(9, 2, 6)).view(len(z), 2, 3), 0.8).to_event(1)
    return dist.MixtureSameFamily(weights, components)


def _tuple(z):
    def decoder(z):
        return (z @ _A)[:, :3], F.softplus(z.sum(1, keepdim=True)) + 0.5

    loc, scale = decoder(z)
    return dist.Normal(loc, scale).to_event(1)


def _multinomial(z):
    return dist.Multinomial(6, probs=torch.softmax(z @ _A, dim=1))


def _multivariate(z):
    factor = (z @ _H)[:, :3].unsqueeze(2) * 0.3
    return dist.LowRankMultivariateNormal(z @ _A, factor, torch.full((len(z), 3), 0.5))


def _two_levels():
    def model(x):
        with plate(x):
            top = pyro.sample("top", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            low = pyro.sample("low", dist.Normal(torch.cat([top, -top], 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(low[:, :1] * _A[0] + low[:, 1:] * _A[1], 0.7).to_event(1), obs=x)

    def guide(x):
        with plate(x):
            top = pyro.sample("top", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("low", dist.Normal(torch.stack([top[:, 0], -top[:, 0]], 1), 1.0).to_event(1))

    # low = (top, -top) + noise: x is Gaussian with covariance A'(11 -11)(..)A + A'A + 0.49.
    across = _A.double().mT @ torch.tensor([[2.0, -1.0], [-1.0, 2.0]], dtype=torch.float64) @ _A.double()

    def exact(x):
        covariance = across + 0.49 * torch.eye(3, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(
            x.double()
        )

    return Case("two_levels", lambda: pv.Program(model, guide), _X, exact, names=("top", "low", "x"))


def _mean_of_data():
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ _A + x.mean(0), 0.7).to_event(1), obs=x)

    return Case("mean_of_data_in_decoder", lambda: pv.Program(model, wide_guide(2)), _X, refused="'x'")


def _mean_of_data_in_prior():
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(x.mean(0)[:2], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ _A, 0.7).to_event(1), obs=x)

    return Case("mean_of_data_in_prior", lambda: pv.Program(model, wide_guide(2)), _X, refused="'z'|'x'")


def _batch_norm_of_encoder():
    model = decoding(lambda z: torch.softmax(z, 1) @ _A, 2)

    def guide(x):
        with plate(x):
            loc = 0.3 * F.batch_norm(x, None, None, training=True)[:, :2]
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return Case(
        "batch_norm_of_encoder", lambda: pv.Program(model, guide), _X, grid(model, 2, nodes=61), accepts=()
    )


class _Counts(pv.likelihoods.Likelihood):
    """A multinomial of six trials, as a user writes it."""

    base_measure = "counting"

    def __init__(self, shape: int) -> None:
        super().__init__(shape)
        self.param_shapes = {"logits": self.shape}

    @property
    def support(self):
        return torch.distributions.constraints.nonnegative_integer

    def forward(self, parameters):
        return dist.Multinomial(6, probs=torch.softmax(parameters["logits"], dim=1))


def _own_likelihood():
    with torch.random.fork_rng():
        torch.manual_seed(10)
        vae = pv.VAE(
            pv.priors.StandardNormal(2), _Counts(3), pv.posteriors.MeanFieldNormal(2), hidden=(4,)
        ).eval()
    model = vae.model
    exact = grid(model, 2, nodes=61)
    x = torch.tensor([[1.0, 2, 3], [6, 0, 0], [2, 2, 2], [0, 5, 1]])
    program = lambda: pv.Program(model, wide_guide(2))  # noqa: E731
    return Case("likelihood_of_ones_own", program, x, exact, names=("z", "x", "likelihood"), trains=False)


CASES = [
    *(decoded(name, decode, _X, nodes=41 if "loop" in name else 121) for name, decode in _SPELLED.items()),
    *(decoded(f"square_{name}", _SPELLED[name], _SQUARE) for name in ("softmax_dim_1", "view_by_len", "bmm")),
    *(decoded(name, decode, _X, dims=0) for name, decode in _SCALAR.items()),
    *(decoded(name, decode, _X, refused="'x'") for name, decode in _MIXING.items()),
    *(
        _network(name, lambda net=net: net, hard=name == "group_norm_module")
        for name, net in _NETWORKS.items()
    ),
    _network("gru", lambda: _Recurrent(nn.GRU)),
    _network("lstm", lambda: _Recurrent(nn.LSTM)),
    _network("multihead_attention", _Attention),
    _likelihood("categorical_sequence", _sentences, torch.tensor([[0, 1], [2, 2], [1, 0], [2, 1]])),
    _likelihood("mixture_likelihood", _mixture, _X),
    _likelihood("decoder_of_a_tuple", _tuple, _X),
    _likelihood("multinomial_dim_1", _multinomial, torch.tensor([[1.0, 2, 3], [6, 0, 0], [2, 2, 2]])),
    _likelihood("low_rank_normal", _multivariate, _X),
    _two_levels(),
    _mean_of_data(),
    _mean_of_data_in_prior(),
    _batch_norm_of_encoder(),
    _own_likelihood(),
]
