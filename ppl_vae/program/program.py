"""`Program`: a Pyro model and guide as per-datum tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.params.param_store import ParamStoreDict
from torch import nn

from ppl_vae import rng
from ppl_vae.errors import InputError, ProgramError, check_positive_int, check_seed, describe
from ppl_vae.exclusive import exclusive, give_way, shielded
from ppl_vae.program.data import Data, Latents, device_of, num_data, write_back
from ppl_vae.program.handlers import GIVEN, OBSERVED, Given, ScaledLatents, Unobserved
from ppl_vae.program.lowering import products
from ppl_vae.program.modules import Networks
from ppl_vae.program.parameters import OwnParameters, leaves_of
from ppl_vae.program.pyro_state import unvalidated
from ppl_vae.program.sites import (
    SAMPLES,
    Site,
    Sites,
    check_match,
    check_plates,
    check_shapes,
    check_support,
    family,
    refuse_nan,
    sample_sites,
    total,
    try_log_prob,
)


class Program:
    """A Pyro model and guide as per-datum tensors.

    Both are called with ``x`` and hold every sample site inside one ``pyro.plate("data", len(x), dim=-1)``;
    event dimensions are declared with ``.to_event``. Code must accept a sample axis on the left: values of
    latent sites arrive as ``(S, N, *event)``. While densities are computed, the networks of the program are in
    evaluation mode: those that own ``model`` or ``guide``, those that ``pyro.module`` announces, and those that are
    called.

    Args:
        model: p(x, z): samples the latent sites and observes ``x``.
        guide: q(z|x): samples the same latent sites.
        check_data: called with ``x`` before anything else; raises if the data do not fit.

    Attributes:
        params: this program's own parameter store: what ``pyro.param`` statements mean when the program is
            trained through `model` and `guide` below. Parameters of modules stay in their modules. When
            densities are computed, a parameter that this program never trained is looked up in Pyro's global
            store, so a pair that was trained by hand with plain SVI is evaluated as trained. A module's parameters
            are its own, whatever the global store holds under their names, unless ``pyro.module`` is called with
            ``update_module_params=True``; a `ParameterStoreWarning` says where the two differ.
        modules: the networks, as far as they are known.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        check_data: Callable[[Data], None] | None = None,
    ) -> None:
        for argument, value in (("model", model), ("guide", guide)):
            if not callable(value):
                raise InputError(argument, "a callable that makes Pyro sample statements", describe(value))
        self._model, self._guide, self.check_data = model, guide, check_data
        self.params = ParamStoreDict()
        self._scratch = ParamStoreDict()
        self._owned: dict[int, nn.Parameter] = {}
        self.modules = Networks(model, guide)

    # ---- training -------------------------------------------------------------------------------------

    @property
    def model(self) -> Callable[..., Any]:
        """The model with parameters of its own: safe to train beside any other program in the process."""
        return self._isolated(self._model, "model")

    @property
    def guide(self) -> Callable[..., Any]:
        """The guide with parameters of its own: safe to train beside any other program in the process."""
        return self._isolated(self._guide, "guide")

    def annealed(self, beta: float, *, listed: bool = True) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Model and guide whose latent log densities are multiplied by ``beta``: KL warm-up, for training only.

        An ELBO of the pair is E_q[log p(x|z)] - beta KL(q(z|x) || p(z)). `log_weights` and its siblings never
        see it: they run the plain pair.

        Args:
            beta: the weight; at 1 it is the plain pair.
            listed: whether all of a VAE's parameters are reported to handlers in every call, as `pyro.infer.SVI`
                needs it if its optimiser is to find them, or one of them, for an optimiser that holds them already.
        """
        model, guide = (
            self._isolated(self._model, "model", listed),
            self._isolated(self._guide, "guide", listed),
        )
        if beta == 1.0:
            return model, guide

        def scaled(fn: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(fn)
            def run(*args: Any, **kwargs: Any) -> Any:
                with ScaledLatents(beta):
                    return fn(*args, **kwargs)

            return run

        return scaled(model), scaled(guide)

    def parameters(self, x: Data) -> dict[str, torch.Tensor]:
        """Every trainable leaf tensor (unconstrained) by site name; runs model and guide once on ``x``.

        The program's own store takes first values for ``pyro.param`` statements from torch's global
        generator as it stands.
        """
        with (
            exclusive(),
            self.modules.evaluating(),
            unvalidated(),
        ):  # or batch normalisation would count this run
            return leaves_of(self.model, self.guide, x)

    def _isolated(self, fn: Callable[..., Any], role: str, listed: bool = True) -> Callable[..., Any]:
        @wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._parameters(role, listed):
                return fn(*args, **kwargs)

        return run

    @contextmanager
    @shielded
    def _parameters(self, training: str = "", listed: bool = True) -> Iterator[None]:
        scratch = None if training else self._scratch
        own = OwnParameters(self.params, scratch, self._owned, training, listed, self.modules)
        with pyro.settings.context(module_local_params=True), own:
            yield

    # ---- densities ------------------------------------------------------------------------------------

    def log_weights(
        self, x: Data, num_samples: int, *, seed: int | None = 0, check: bool = True
    ) -> torch.Tensor:
        """log w = log p(x, z) - log q(z|x) with z ~ q(z|x), for each datum apart: ``(S, N)``, float64, nats.

        Differentiable with respect to parameters where the guide is reparameterised. A latent value outside
        the support of the model's site has zero density there: its log weight is -inf.

        Args:
            x: the data.
            num_samples: S.
            seed: the draws are a function of it; ``None`` draws from torch's global generator as it stands.
            check: whether to run `check` on ``x`` first, and to look for NaN afterwards.

        Raises:
            InputError: if the data do not fit; `ProgramError` if the pair is not a program (see `check`).
            NonFiniteError: if a log weight is NaN; names the first datum.
        """
        check_positive_int("num_samples", num_samples)
        if check:
            self.check(x)
        with ExitStack() as stack:
            if seed is not None:
                check_seed(seed)
                stack.enter_context(rng.seeded(device_of(x), seed, "log_weights"))
            stack.enter_context(self._evaluating())
            guide_trace, model_trace = self._traces(x, num_samples)
            log_weights = total(model_trace, outside=sample_sites(guide_trace)) - total(guide_trace)
        if check:
            refuse_nan(log_weights, "log weight")
        return log_weights

    def log_joint(self, z: Latents, x: Data) -> torch.Tensor:
        """log p(x, z) for each datum apart, ``(S, N)``, float64, nats; differentiable in ``z``.

        Args:
            z: a value ``(S, N, *event)`` for every latent site of the model.
            x: the data.

        Raises:
            InputError: if ``z`` misses a latent site, names one that does not exist, or has a wrong shape.
        """
        return self._log_density("model", self._model, z, x)

    def log_guide(self, z: Latents, x: Data) -> torch.Tensor:
        """log q(z|x) for each datum apart, ``(S, N)``, float64, nats; arguments and errors as `log_joint`."""
        return self._log_density("guide", self._guide, z, x)

    def sample_guide(self, x: Data, num_samples: int, *, seed: int | None = 0) -> dict[str, torch.Tensor]:
        """Draws z ~ q(z|x): ``(S, N, *event)`` for every latent site; ``seed`` as in `log_weights`."""
        return self._draw(self._guide, x, num_samples, seed, "sample_guide")

    def sample_prior(self, x: Data, num_samples: int, *, seed: int | None = 0) -> dict[str, torch.Tensor]:
        """Draws z ~ p(z): ``(S, N, *event)`` for every latent site; ``seed`` as in `log_weights`."""
        return self._draw(self._model, x, num_samples, seed, "sample_prior")

    def simulate(self, x: Data, *, seed: int | None = 0) -> tuple[dict[str, torch.Tensor], Data]:
        """Draw (z, x') jointly from the model, as many data as ``x``; what is not observed in ``x`` is kept.

        Given x', z is an exact draw from the posterior p(z|x'): what upper bounds of the evidence start from.

        Args:
            x: data that give N, the shapes, and any covariates.
            seed: as in `log_weights`.

        Returns:
            ``z``, each latent site ``(1, N, *event)``, ready for `log_joint`; and ``x'``, like ``x`` with every
            observed site replaced by its draw.

        Raises:
            ProgramError: if an observed site's value cannot be found in ``x`` (it is computed from it).
        """
        # Observed values are found in x by where they lie in memory, so a site may observe x, x["counts"] or
        # a slice such as x[:, :3] alike. Each tensor is copied for that: entries of x may share their memory.
        entries = {"": x} if isinstance(x, torch.Tensor) else x
        named = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in entries.items()}
        argument = named[""] if isinstance(x, torch.Tensor) else named
        with ExitStack() as stack:
            if seed is not None:
                check_seed(seed)
                stack.enter_context(rng.seeded(device_of(argument), seed, "simulate"))
            stack.enter_context(self._evaluating())
            stack.enter_context(torch.no_grad())
            trace = self._trace(self._model, argument, 1, Unobserved())
        drawn = {name: value.clone() for name, value in named.items()}
        z = {}
        for name, site in sample_sites(trace).items():
            if OBSERVED not in site["infer"]:
                z[name] = site["value"]
            elif not write_back(site["infer"][OBSERVED], site["value"][0], named, drawn):
                if name not in named:
                    raise ProgramError(
                        f"observed site {name!r}",
                        "obs= to be the data themselves, a slice of them, or an entry of the same name",
                        "a value computed from them",
                    )
                drawn[name] = site["value"][0].to(drawn[name].dtype).reshape(drawn[name].shape)
        return z, drawn[""] if isinstance(x, torch.Tensor) else drawn

    def check(self, x: Data, *, offset: int = 0) -> Sites:
        """Run the pair once on ``x`` and refuse it if its evidence is not defined per datum.

        Args:
            x: the data.
            offset: the index of their first datum in the user's data, for the messages.

        Returns:
            The latent and observed sites.

        Raises:
            InputError: if ``x`` is malformed, or a datum is outside the support of an observed site.
            ProgramError: naming the site, if a site lies outside the data plate or in a second plate, a plate
                is subsampled, a log density is scaled (`pyro.poutine.scale`, KL annealing), a site forgets
                ``.to_event``, the guide observes something, holds a point mass, or disagrees with the model on
                the latent sites or on their shapes.
            NonFiniteError: if a log density is NaN; names the site and the first datum.
        """
        n = num_data(x)
        if self.check_data is not None:
            self.check_data(x)
        num_samples = 2 if n != 2 else 3  # told apart from 1 and from N, so that mixed-up axes show
        with rng.seeded(device_of(x), 0, "check"), self._evaluating(), torch.no_grad():
            guide_trace = self._try_trace("guide", self._guide, x, num_samples)
            latent = sample_sites(guide_trace)
            model_trace = self._try_trace("model", self._model, x, num_samples, guide_trace)
            sites = sample_sites(model_trace)
            check_match(latent, sites)
            for name, site in sites.items():
                if site["is_observed"]:  # bad data first: what they make of the guide says less
                    check_support(name, site, offset)
            for role, found in (("guide", latent), ("model", sites)):
                for name, site in found.items():
                    log_prob = try_log_prob(role, site, latent if role == "model" else {})
                    if log_prob.shape != (num_samples, n):
                        raise ProgramError(
                            f"{role} site {name!r}",
                            f"a log density of shape {(num_samples, n)} (samples, data); declare event "
                            "dimensions with .to_event",
                            tuple(log_prob.shape),
                        )
                    refuse_nan(log_prob, f"log density of {role} site {name!r}", offset)
        described = {
            name: Site(
                site["fn"].event_shape,
                site["value"].dtype,
                family(site["fn"]),
            )
            for name, site in sites.items()
        }
        return Sites(
            latent={name: value for name, value in described.items() if name in latent},
            observed={name: value for name, value in described.items() if name not in latent},
        )

    def _draw(
        self, fn: Callable[..., Any], x: Data, num_samples: int, seed: int | None, purpose: str
    ) -> dict[str, torch.Tensor]:
        check_positive_int("num_samples", num_samples)
        with ExitStack() as stack:
            if seed is not None:
                check_seed(seed)
                stack.enter_context(rng.seeded(device_of(x), seed, purpose))
            stack.enter_context(self._evaluating())
            trace = self._trace(fn, x, num_samples)
        return {name: site["value"] for name, site in sample_sites(trace).items() if not site["is_observed"]}

    def _log_density(self, role: str, fn: Callable[..., Any], z: Latents, x: Data) -> torch.Tensor:
        if not isinstance(z, Mapping) or not z or not all(isinstance(v, torch.Tensor) for v in z.values()):
            raise InputError("z", "a dict of latent site name -> tensor (S, N, *event)", describe(z))
        n = num_data(x)
        leading = {name: tuple(value.shape[:2]) for name, value in z.items()}
        if len(set(leading.values())) > 1 or any(len(lead) < 2 or lead[1] != n for lead in leading.values()):
            raise InputError("z", f"values of shape (S, {n}, *event)", leading)
        num_samples = next(iter(leading.values()))[0]
        trace = poutine.Trace()
        with self._evaluating():
            try:
                self._trace(fn, x, num_samples, Given(z), trace)
            except (ValueError, RuntimeError, IndexError):
                _check_given(z, sample_sites(trace), num_samples, n)  # a wrong shape breaks what follows it
                raise
            sites = sample_sites(trace)
            missing = [name for name, site in sites.items() if not site["is_observed"]]
            unknown = [name for name in z if name not in sites or GIVEN not in sites[name]["infer"]]
            if missing or unknown:
                raise InputError(
                    "z", f"a value for each latent site of the {role}", f"{missing=}, {unknown=}"
                )
            _check_given(z, sites, num_samples, n)
            return total(trace, outside={name: {} for name in z})

    def _traces(self, x: Data, num_samples: int) -> tuple[poutine.Trace, poutine.Trace]:
        guide_trace = self._trace(self._guide, x, num_samples)
        return guide_trace, self._trace(self._model, x, num_samples, _replaying(guide_trace))

    def _try_trace(
        self,
        role: str,
        fn: Callable[..., Any],
        x: Data,
        num_samples: int,
        guide_trace: poutine.Trace | None = None,
    ) -> poutine.Trace:
        """`_trace`, with its sites checked: those before the fault as well, where the callable fails."""
        handler = (lambda fn: fn) if guide_trace is None else _replaying(guide_trace)
        trace = poutine.Trace()
        try:
            self._trace(fn, x, num_samples, handler, trace)
        except InputError:
            raise
        except (ValueError, RuntimeError, IndexError) as error:
            # A site that does not fit its plate breaks the arithmetic that follows it: name the site.
            check_plates(role, trace, num_samples, num_data(x))
            if guide_trace is not None:
                check_shapes(sample_sites(guide_trace), sample_sites(trace))
            first_line = str(error).partition("\n")[0]
            if "plate(" in first_line:  # Pyro found the mismatch before we did; it names site and plate
                expected = "sites that fit their plates (declare event dimensions with .to_event)"
                raise ProgramError(role, expected, first_line) from None
            raise
        check_plates(role, trace, num_samples, num_data(x))
        return trace

    @staticmethod
    def _trace(
        fn: Callable[..., Any],
        x: Data,
        num_samples: int,
        handler: Callable[..., Any] = lambda fn: fn,
        into: poutine.Trace | None = None,
    ) -> poutine.Trace:
        # The plate goes inside the handler: a handler that sets values would otherwise hide sites from it.
        def many(x: Data) -> None:
            with pyro.plate(SAMPLES, num_samples, dim=-2), products():
                fn(x)

        # As a context: as a wrapper it would raise errors again with its own text, which ours do not survive.
        with poutine.trace() as tracer:
            if into is not None:
                tracer.trace = into
            handler(many)(x)
        trace: poutine.Trace = tracer.trace
        return trace

    @contextmanager
    @shielded
    def _evaluating(self) -> Iterator[None]:
        """Own parameters, evaluation mode, and Pyro's validation off: `check` does what is needed of it, once."""
        if self.modules.idle:
            give_way()
        with exclusive(), self.modules.evaluating(), unvalidated(), self._parameters(listed=False):
            yield


def _check_given(z: Latents, sites: Mapping[str, Any], num_samples: int, n: int) -> None:
    for name, value in z.items():
        if name in sites:
            expected = (num_samples, n, *sites[name]["fn"].event_shape)
            if tuple(value.shape) != expected:
                raise InputError(f"z[{name!r}]", f"shape {expected}", tuple(value.shape))


def _replaying(trace: poutine.Trace) -> Callable[..., Any]:
    return lambda fn: poutine.replay(fn, trace=trace)
