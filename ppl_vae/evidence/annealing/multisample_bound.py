"""Multi-sample upper bound: importance sampling in which one of the samples comes from the posterior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.evidence.results.accumulator import Accumulator, Figures
from ppl_vae.evidence.results.parts import Curves
from ppl_vae.evidence.running.blocks import Block, State
from ppl_vae.program import Latents, Program, Sites, device_of

_NUMBERS = 2**20
_SAMPLES = 64


class Multisample:
    """log (1/K)(w_1 + sum_{k=2..K} w_k) of one block, z_1 ~ p(z|x) and the other z_k ~ q(z|x).

    An upper bound of log p(x) in expectation, which decreases to log p(x) as K grows. Let P be the distribution of K
    independent draws of the guide, and Q that of the K samples here in random order. Then dQ/dP = mean(w) / p(x), so
    the mean of 1 / mean(w) under Q is 1 / p(x). The standard error is that of the K - 1 draws of the guide, given z_1.

    Sources: Grosse, Ghahramani and Adams (2015); Sobolev and Vetrov, "Importance weighted hierarchical variational
    inference" (2019).
    """

    def __init__(
        self, program: Program, block: Block, num_samples: int, seed: int, posterior: Latents, sites: Sites
    ) -> None:
        self.program, self.block, self.seed, self.num_samples = program, block, seed, num_samples
        self.device = device_of(block.x)
        first = program.log_joint(posterior, block.x) - program.log_guide(posterior, block.x)
        self.first = first[0]
        numbers = sites.numbers_per_datum * block.num_data
        self.tile = max(_SAMPLES, _NUMBERS // numbers // _SAMPLES * _SAMPLES)
        self.sums = Accumulator(block.num_data, num_samples - 1, self.device)

    @staticmethod
    def block_size(num_data: int, sites: Sites) -> int:
        """Data in a block."""
        return min(num_data, max(1, _NUMBERS // _SAMPLES // max(sites.numbers_per_datum, 1)))

    def advance(self) -> int:
        """One tile of samples."""
        number = min(self.tile, self.num_samples - 1 - self.sums.count)
        if number:
            tiles = math.ceil(self.num_samples / self.tile)
            index = self.block.index * tiles + self.sums.count // self.tile
            rng.reseed(self.device, self.seed, "multi-sample bound", index)
            self.sums.add(self.program.log_weights(self.block.x, number, seed=None, check=False))
        return number

    def state(self) -> State:
        """See `Work.state`."""
        return self.sums.state()

    def restore(self, state: State) -> int:
        """See `Work.restore`."""
        self.sums = Accumulator.from_state(state, self.device)
        return self.sums.count

    def figures(self) -> Figures:
        """The figures of the guide's weights, with the posterior's sample put in."""
        K, n = self.num_samples, self.block.num_data
        figures = self.sums.finish(offset=self.block.offset)
        others = figures.log_evidence + math.log(K - 1)
        bound = torch.logaddexp(others, self.first.cpu()) - math.log(K)
        nothing = torch.full((n,), torch.nan, dtype=torch.float64)
        return figures.replace(
            log_evidence=bound,
            stderr=_stderr(figures.stderr, others, bound + math.log(K)),
            elbo=nothing,
            elbo_stderr=nothing,
            num_samples=K,
            curves=Curves.none(n),
            draws=torch.full((n,), K),
            density_evals=torch.full((n,), float(K), dtype=torch.float64),
        )


def _stderr(relative: Tensor, part: Tensor, whole: Tensor) -> Tensor:
    """The relative error of a sum of which only one part, with this relative error, is random."""
    return relative * (part - whole).exp()
