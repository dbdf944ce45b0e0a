"""Tracing: runs a model or guide on data, and returns its sites with densities ``(S, N)``.

A run has one of two layouts for S draws of N data, and no other module depends on which:

* *vectorised*: there is a plate of S samples around the callable, so latents have the shape ``(S, N, *event)``. This is
  fast, because values that depend on the data only are computed once. But code that counts axes from the left sees one
  axis more than in plain Pyro.
* *folded*: S copies of the data are on the data axis, ``(S * N, *event)``, sample by sample. There is no sample axis:
  the callable runs as in `pyro.infer.SVI`, on more data. This is correct for every program with independent data.

With S = 1 a folded run is a run by plain Pyro, the reference for all comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.errors import ProgramError
from ppl_vae.program.data import Data, num_data
from ppl_vae.program.draws import Drawing
from ppl_vae.program.filled import Filled
from ppl_vae.program.matmul_precision import products
from ppl_vae.program.sites import GIVEN, family, is_auxiliary, is_delta, sample_sites, site_log_prob

SAMPLES = "_ppl_vae_samples"  # the plate of independent draws, outside the data plate


@dataclass(frozen=True)
class Layout:
    """The layout of S draws of N data in a run.

    Attributes:
        folded: whether S copies of the data are on the data axis; otherwise samples have their own axis.
        plates: names of the plates over data, to find the data axis if there are other plates.
    """

    folded: bool = False
    plates: frozenset[str] = frozenset()

    def data(self, x: Data, num_samples: int) -> Data:
        """The argument of the callable."""
        if not self.folded or num_samples == 1:
            return x
        if isinstance(x, Tensor):
            return _copies(x, num_samples)
        return {name: _copies(value, num_samples) for name, value in x.items()}

    @contextmanager
    def samples(self, num_samples: int) -> Iterator[None]:
        """The context in which the callable runs."""
        if self.folded:
            yield
            return
        with pyro.plate(SAMPLES, num_samples, dim=-2):
            yield

    def lay(self, site: Any, value: Tensor) -> Tensor:
        """A site's value ``(S, N, *rest)`` in the layout of the run."""
        if not self.folded:
            return value
        flat = value.flatten(0, 1)
        axis = self.axis(site, flat.ndim - len(site["fn"].batch_shape))
        # A value that does not fit is not changed: the checks that follow name the site.
        return flat if -axis >= flat.ndim else flat.movedim(0, axis)

    def stack(self, site: Any, value: Tensor, num_samples: int, event_dim: int = 0) -> Tensor:
        """A site's value (with its event dimensions) or log density (without) as ``(S, N, *rest)``."""
        if not self.folded:
            return value
        batch = site["fn"].batch_shape
        whole = batch + value.shape[max(value.ndim - event_dim, 0) :]
        if value.shape != whole:
            value = value.expand(whole)
        flat = value.movedim(self.axis(site, event_dim), 0)
        return flat.unflatten(0, (num_samples, flat.shape[0] // num_samples))

    def axis(self, site: Any, event_dim: int) -> int:
        """The data axis, counted from the right, in a site's value with ``event_dim`` event dimensions."""
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        dim = next((frame.dim for frame in frames if frame.name in self.plates), -1)
        return dim - event_dim


VECTORISED = Layout()
PLAIN = Layout(folded=True)


class Layouts(NamedTuple):
    """The layouts of guide and model."""

    guide: Layout
    model: Layout


def _copies(value: Tensor, num_samples: int) -> Tensor:
    return value.expand(num_samples, *value.shape).flatten(0, 1)


class Handler(Messenger):
    """A handler that sets or reads the values of sites as ``(S, N, *event)``, in any layout.

    Attributes:
        layout: the layout of the run; `run` sets it.
        num_samples: S of the run.
    """

    layout: Layout = VECTORISED
    num_samples: int = 1

    def lay(self, msg: Any, value: Tensor) -> Tensor:
        """See `Layout.lay`."""
        return self.layout.lay(msg, value)

    def stack(self, msg: Any, value: Tensor, event_dim: int = 0) -> Tensor:
        """See `Layout.stack`."""
        return self.layout.stack(msg, value, self.num_samples, event_dim)


class Run:
    """One run of a model or guide, with values and densities for each sample and datum.

    Attributes:
        trace: Pyro's trace, with values in the layout of the run.
        layout: the layout.
        num_samples: S.
        num_data: N.
    """

    def __init__(self, trace: poutine.Trace, layout: Layout, num_samples: int, num_data: int) -> None:
        self.trace, self.layout, self.num_samples, self.num_data = trace, layout, num_samples, num_data

    @cached_property
    def sites(self) -> dict[str, Any]:
        """The sample sites that have a density, by name, as in Pyro's trace."""
        return sample_sites(self.trace)

    def value(self, name: str) -> Tensor:
        """The value of a site, ``(S, N, *event)``."""
        site = self.sites[name]
        return self.layout.stack(site, site["value"], self.num_samples, len(site["fn"].event_shape))

    def stack(self, name: str, value: Tensor) -> Tensor:
        """A tensor with a site's batch axes, and perhaps axes to their right, as ``(S, N, ...)``."""
        site = self.sites[name]
        return self.layout.stack(
            site, value, self.num_samples, max(value.ndim - len(site["fn"].batch_shape), 0)
        )

    def any_number(self, name: str, value: Tensor) -> Tensor:
        """Whether ``value``, bool on a site's batch, is True for any number of a datum: bool ``(S, N)``."""
        stacked = self.stack(name, value)
        stacked = stacked.flatten(2).any(-1) if stacked.ndim > 2 else stacked
        return stacked.expand(self.num_samples, self.num_data)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape ``(S, N, *event)`` of a site's value; plates other than the data plate are part of the event."""
        fn = self.sites[name]["fn"]
        batch = list(fn.batch_shape)
        if self.layout.folded:
            del batch[self.layout.axis(self.sites[name], 0)]
        else:
            del batch[:2]
        return (self.num_samples, self.num_data, *batch, *fn.event_shape)

    def latents(self) -> dict[str, Tensor]:
        """The values of the model's latent sites, ``(S, N, *event)`` each: all drawn sites except auxiliary ones."""
        drawn = {name: site for name, site in self.sites.items() if not site["is_observed"]}
        return {name: self.value(name) for name, site in drawn.items() if not is_auxiliary(site)}

    def scored(self) -> dict[str, Tensor]:
        """The values of all drawn sites except Delta sites, which have no density."""
        drawn = {name: site for name, site in self.sites.items() if not site["is_observed"]}
        return {name: self.value(name) for name, site in drawn.items() if not is_delta(site)}

    def log_prob(self, name: str, guide_sites: Mapping[str, Any], fn: Any = None) -> Tensor:
        """The log density of a site, ``(S, N)`` float64 in nats; see `site_log_prob`.

        Args:
            name: the site.
            guide_sites: the guide's sites, by name.
            fn: a distribution to use instead of the site's own.
        """
        site = self.sites[name] if fn is None else {**self.sites[name], "fn": fn}
        stacked = self.layout.stack(site, scored(site, guide_sites), self.num_samples).double()
        return stacked.flatten(2).sum(-1) if stacked.ndim > 2 else stacked

    def total(self, outside: Mapping[str, Any] | None = None) -> Tensor:
        """The log density of all sites together, ``(S, N)`` float64 in nats; ``outside`` as in `log_prob`."""
        summed: Tensor | None = None
        for name in self.sites:
            log_prob = self.log_prob(name, outside or {})
            summed = log_prob if summed is None else summed + log_prob
        if summed is None:
            raise ProgramError("program", "at least one sample site", "none")
        return summed

    def factors(self, zero: Tensor, *, outside: bool) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x|z) of a run of the model, each summed over its sites in float64: ``(S, N)`` twice.

        All latents must be given (`handlers.GIVEN`).

        Args:
            zero: ``(S, N)`` float64 zeros, the start of the sums.
            outside: whether the given latents may be outside of their support, where the density is zero.
        """
        log_prior = log_likelihood = zero
        for name, site in self.sites.items():
            given = GIVEN in site["infer"]
            log_prob = self.log_prob(name, {name: {}} if given and outside else {})
            if given:
                log_prior = log_prior + log_prob
            else:
                log_likelihood = log_likelihood + log_prob
        return log_prior, log_likelihood


def scored(site: Any, guide_sites: Mapping[str, Any]) -> Tensor:
    """`site_log_prob`; refuses, by the site's name, a distribution with densities of its own draws only."""
    try:
        return site_log_prob(site, guide_sites)
    except (KeyError, NotImplementedError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ProgramError(
            f"site {site['name']!r}",
            "a distribution with a density at any value (importance sampling from the guide needs only its own draws)",
            f"a {family(site['fn'])} without one, such as a flow without inverse: {type(error).__name__}: {first}",
        ) from error


def run(
    fn: Callable[..., Any],
    x: Data,
    num_samples: int,
    layout: Layout,
    handler: Messenger | None = None,
    into: poutine.Trace | None = None,
) -> Run:
    """Run a callable on data.

    Args:
        fn: the model or the guide.
        x: the data ``(N, ...)``.
        num_samples: S.
        layout: the layout of S draws of N data.
        handler: a Pyro handler for the run.
        into: a trace to fill; after an error it has the sites before the error.

    Raises:
        NoSamplerError: naming the site, if a distribution without a sampler has to be sampled.
    """
    data = layout.data(x, num_samples)
    if isinstance(handler, Handler):
        handler.layout, handler.num_samples = layout, num_samples

    # The plate goes inside the handler: a handler that sets values would otherwise hide sites from it.
    def many() -> None:
        with layout.samples(num_samples), products(), Filled():
            fn(data)

    # As a context manager: as a decorator it would raise errors again with its own text, and lose ours.
    with Drawing(), poutine.trace() as tracer:
        if into is not None:
            tracer.trace = into
        if handler is None:
            many()
        else:
            with handler:
                many()
    return Run(tracer.trace, layout, num_samples, num_data(x))


def zeros(num_samples: int, x: Data) -> Tensor:
    """``(S, N)`` float64 zeros on the device of the data."""
    first = x if isinstance(x, Tensor) else next(iter(x.values()))
    return torch.zeros(num_samples, len(first), dtype=torch.float64, device=first.device)
