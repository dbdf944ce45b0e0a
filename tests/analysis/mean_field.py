"""A linear-Gaussian program with a mean-field guide that can be moved off the best one: every gap in closed form."""

from dataclasses import dataclass

import exact_models as models
import numpy as np
import pyro
import pyro.distributions as dist
import torch

import ppl_vae as pv


@dataclass
class MeanField:
    """Closed forms for N data, in nats: log p(x), and KL(q* || p(z|x)), KL(q || p(z|x)) - KL(q* || p(z|x))."""

    program: pv.Program
    x: torch.Tensor
    log_evidence: torch.Tensor
    approximation: float
    amortisation: float
    precision: np.ndarray
    mean: np.ndarray
    start: tuple[np.ndarray, np.ndarray]

    def shortfall(self, offsets):
        """ELBO(q*) less the ELBO of the guide moved by offsets, exactly, ``(N,)``."""
        loc, scale = self.start
        loc = loc + scale * offsets["z.loc"].numpy()
        scale = scale * np.exp(offsets["z.scale"].numpy())
        away = loc - self.mean
        best = np.diag(self.precision) ** -0.5
        spread = (scale**2 / best**2 - 1).sum(1) / 2 - np.log(scale / best).sum(1)
        return spread + np.einsum("ni,ij,nj->n", away, self.precision, away) / 2


def mean_field(latent, dim, num_data, *, seed=0, widen=1.0, shift=0.0, noise=0.7, dtype=torch.float64):
    """``widen`` = 1 and ``shift`` = 0 make the guide the best mean-field one: sd_d = 1 / sqrt(precision_dd)."""
    W, b, noise, x = models.draw_linear_gaussian(latent, dim, num_data, seed, noise)
    mean, covariance = models.posterior(W, b, noise, x)
    slope, _ = models.posterior(W, 0 * b, noise, np.eye(dim))
    precision = np.linalg.inv(covariance)
    best = np.diag(precision) ** -0.5
    b_, slope_, best_ = (models.tensor(v, dtype) for v in (b, slope, best))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x - b_) @ slope_ + shift * best_, widen * best_).to_event(1))

    approximation = -(np.linalg.slogdet(precision)[1] + 2 * np.log(best).sum()) / 2
    away = shift * best
    amortisation = latent * ((widen**2 - 1) / 2 - np.log(widen)) + away @ precision @ away / 2
    start = (mean + shift * best, np.broadcast_to(widen * best, mean.shape))
    return MeanField(
        pv.Program(models.linear_gaussian_model(W, b, noise, dtype), guide),
        models.tensor(x, dtype),
        models.linear_gaussian_evidence(W, b, noise, x),
        float(approximation),
        float(amortisation),
        precision,
        mean,
        start,
    )
