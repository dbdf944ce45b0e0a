"""Unconstrained coordinates of a guide, in which its scale or its tails can be changed."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.program import Coordinates, Data, Densities, Program, device_of, take
from ppl_vae.program.moments import Moments, guide_moments, is_unconstrained

PILOT_DRAWS = 1024
"""The number of draws from which moments are estimated, if the guide's moments are not known exactly."""

FULL_COVARIANCE = 64
"""The largest dimension for a full estimated covariance: 1,024 draws do not estimate a larger matrix well."""

_CHUNK = 64


class Space:
    """The latents of a program at data ``x`` as vectors u of D real numbers.

    Attributes:
        coordinates: the map from u to the latents.
        draw_cost: runs of the model for one draw of the guide: none if u is z itself.

    Raises:
        ProgramError: naming a latent site that is discrete, or whose support has no smooth map from the real numbers.
    """

    def __init__(self, program: Program, x: Data) -> None:
        self.program, self.x = program, x
        self.coordinates = Coordinates(program, x, cut=True, resolved=True)
        self._plain = is_unconstrained(program, x)
        self.draw_cost = 0.0 if self._plain else 2.0

    def draw(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """u for z ~ q(z|x), ``(S, N, D)``, and log q(u), ``(S, N)``; u is not finite outside of the model's support."""
        if self._plain:
            z = self.program.sample_guide(self.x, num_samples, seed=None)
            u = self._flat(z)
            zero = u.new_zeros(u.shape[:2], dtype=torch.float64)
            return u, self.coordinates.log_guide(Densities(z, zero, zero, zero))
        u = self.coordinates.draw_guide(num_samples)
        at = self.coordinates.densities(torch.where(outside(u).unsqueeze(-1), 0.0, u))
        return u, self.coordinates.log_guide(at)

    def take(self, rows: Tensor) -> Space:
        """The same for the data at indices ``rows``."""
        return Space(self.program, take(self.x, rows))

    def log_joint(self, u: Tensor) -> Tensor:
        """log p(x, z) + log |dz/du| at u ``(S, N, D)``, ``(S, N)`` float64."""
        found = self.coordinates.densities(u.to(self.coordinates.dtype))
        return torch.where(found.log_prior == -torch.inf, -torch.inf, found.log_joint)

    def moments(self, seed: int, index: int) -> tuple[Moments, float]:
        """Means and covariances of u under the guide, and the runs of the model that they needed.

        They are exact if the guide's distribution has known moments. Otherwise they are estimated from `PILOT_DRAWS`
        draws of stream ``index`` of ``seed``. Any values give an unbiased estimate; better values make it more precise.
        """
        exact = guide_moments(self.program, self.x)
        if exact is not None:
            return exact, 0.0
        device = device_of(self.x)
        D, N = self.coordinates.dim, self.coordinates.num_data
        full = D <= FULL_COVARIANCE
        count = torch.zeros(N, 1, dtype=torch.float64, device=device)
        mean = count.new_zeros(N, D)
        m2 = count.new_zeros((N, D, D) if full else (N, D))
        with rng.seeded(device, seed, "moments of the guide", index):
            for _ in range(PILOT_DRAWS // _CHUNK):
                u = self._flat(self.program.sample_guide(self.x, _CHUNK, seed=None)) if self._plain else None
                u = self.coordinates.draw_guide(_CHUNK) if u is None else u
                inside = ~outside(u).unsqueeze(-1)
                u = torch.where(inside, u, 0.0).double()
                number = inside.sum(0).double()
                new_mean = u.sum(0) / number.clamp(min=1)
                spread = torch.where(inside, u - new_mean, 0.0)
                shift = (new_mean - mean) * (number > 0)
                weight = count * number / (count + number).clamp(min=1)
                if full:
                    m2 += torch.einsum("snd,sne->nde", spread, spread)
                    m2 += weight.unsqueeze(-1) * shift.unsqueeze(-1) * shift.unsqueeze(-2)
                else:
                    m2 += (spread**2).sum(0) + weight * shift**2
                count += number
                mean += shift * number / count.clamp(min=1)
        m2 /= (count - 1).clamp(min=1).reshape(N, *(1,) * (m2.ndim - 1))
        factor = _cholesky(m2) if full else _deviation(m2)
        return Moments(mean, factor), PILOT_DRAWS * self.draw_cost / 2

    def _flat(self, z: dict[str, Tensor]) -> Tensor:
        pieces = [
            z[name].flatten(2) if z[name].ndim > 2 else z[name].unsqueeze(-1)
            for name in self.coordinates.names
        ]
        return torch.cat([piece.to(self.coordinates.dtype) for piece in pieces], dim=-1)


def outside(u: Tensor) -> Tensor:
    """``(S, N)`` whether a vector is not finite: a draw outside of the model's support."""
    return ~u.isfinite().all(-1)


def _deviation(variance: Tensor) -> Tensor:
    """Standard deviations; 1 if there are too few draws inside the model's support."""
    return torch.where(variance > 0, variance, 1.0).sqrt()


def _cholesky(covariance: Tensor) -> Tensor:
    """Cholesky factors; of the diagonal if the matrix is not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    diagonal = _deviation(covariance.diagonal(dim1=-2, dim2=-1)).diag_embed()
    return torch.where((failed != 0).reshape(-1, 1, 1), diagonal, factor)
