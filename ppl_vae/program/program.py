"""`Program`: a Pyro model and guide as per-datum tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from torch import nn

from ppl_vae import rng
from ppl_vae.errors import (
    InputError,
    ProgramError,
    ProgramWarning,
    check_positive_int,
    check_seed,
    describe,
)
from ppl_vae.exclusive import exclusive, give_way, shielded
from ppl_vae.program.data import Data, Latents, device_of, kind_of, num_data
from ppl_vae.program.filled import Filled
from ppl_vae.program.handlers import Given, Replayed, ScaledLatents
from ppl_vae.program.matching import check_covers, check_masked
from ppl_vae.program.modules import Networks
from ppl_vae.program.parameters import OwnParameters, leaves_of
from ppl_vae.program.pyro_state import unvalidated
from ppl_vae.program.reference import Folding, examine, examine_more
from ppl_vae.program.simulation import simulated
from ppl_vae.program.sites import GIVEN, Sites, is_auxiliary, refuse_nan
from ppl_vae.program.tracing import Layouts, Run, run


class Program:
    """A Pyro model and guide as per-datum tensors.

    Both are called with ``x`` and have all sample sites inside one ``pyro.plate("data", len(x), dim=-1)``; event
    dimensions are declared with ``.to_event``. Their meaning is that of plain Pyro: one draw for each datum, as
    `pyro.infer.SVI` runs them. For many draws at once they run with a sample axis on the left, with latents
    ``(S, N, *event)``, if this gives the same densities. Otherwise they run *folded*, with S copies of the data on the
    data axis. `check` chooses between the two, and user code need not support either. While densities are computed,
    the networks of the program are in evaluation mode: those that own ``model`` or ``guide``, those registered by
    ``pyro.module``, and those that are called.

    Args:
        model: p(x, z): samples the latent sites and observes ``x``.
        guide: q(z|x): samples the same latent sites.
        check_data: called with ``x`` before anything else; raises if the data do not fit.

    Attributes:
        params: this program's own parameter store, which ``pyro.param`` statements use when the program is trained
            through `model` and `guide` below. Parameters of modules stay in their modules. When densities are
            computed, a parameter that this program never trained is read from Pyro's global store, so a pair that
            was trained with plain SVI is evaluated with its trained parameters. A module uses its own parameters, even
            if the global store has others with the same names, unless ``pyro.module`` is called with
            ``update_module_params=True``. If the two differ, there is a `ParameterStoreWarning`.
        modules: the networks that are known so far.
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
        self._layouts: dict[object, Layouts] = {}
        self._told: set[str] = set()
        self.params = ParamStoreDict()
        self.untrained = ParamStoreDict()
        self._owned: dict[int, nn.Parameter] = {}
        self.modules = Networks(model, guide)

    def derived(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        check_data: Callable[[Data], None] | None,
    ) -> Program:
        """Another program with the parameters and modules of this one, such as this program under a handler."""
        other = Program(model, guide, check_data=check_data)
        other.modules, other.params = self.modules, self.params
        other.untrained, other._owned, other._told = self.untrained, self._owned, self._told
        return other

    def forget_untrained(self) -> None:
        """Delete the initial values of ``pyro.param`` statements that were never trained."""
        self.untrained.clear()

    # ---- training -------------------------------------------------------------------------------------

    @property
    def model(self) -> Callable[..., Any]:
        """The model with the program's own parameters; training it does not affect other programs in the process."""
        return self._isolated(self._model, "model")

    @property
    def guide(self) -> Callable[..., Any]:
        """The guide with the program's own parameters; training it does not affect other programs in the process."""
        return self._isolated(self._guide, "guide")

    def kl_weighted(
        self, beta: float, *, listed: bool = True
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Model and guide whose latent log densities are multiplied by ``beta``: KL warm-up, for training only.

        An ELBO of the pair is E_q[log p(x|z)] - beta KL(q(z|x) || p(z)). `log_weights` and the other densities do not
        use the weight.

        Args:
            beta: the weight; 1 gives the pair without a weight.
            listed: whether all parameters of a VAE are reported to handlers in each call, so that the optimiser of
                `pyro.infer.SVI` finds them; or only one of them, for an optimiser that has them already.
        """
        model = self._isolated(self._model, "model", listed)
        guide = self._isolated(self._guide, "guide", listed)
        if beta == 1.0:
            return model, guide
        return ScaledLatents(beta)(model), ScaledLatents(beta)(guide)

    def parameters(self, x: Data) -> dict[str, torch.Tensor]:
        """All trainable leaf tensors (unconstrained) by site name; runs model and guide once on ``x``.

        Random initial values of ``pyro.param`` statements come from torch's global generator.
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
            with self._parameters(role, listed), Filled():
                return fn(*args, **kwargs)

        return run

    @contextmanager
    @shielded
    def _parameters(self, training: str = "", listed: bool = True) -> Iterator[None]:
        scratch = None if training else self.untrained
        own = OwnParameters(self.params, scratch, self._owned, training, listed, self.modules)
        with pyro.settings.context(module_local_params=True), own:
            yield

    # ---- densities ------------------------------------------------------------------------------------

    def log_weights(
        self, x: Data, num_samples: int, *, seed: int | None = 0, check: bool = True
    ) -> torch.Tensor:
        """log w = log p(x, z) - log q(z|x) with z ~ q(z|x), for each datum separately: ``(S, N)``, float64, nats.

        Differentiable with respect to parameters if the guide is reparameterised. A latent value outside of the
        support of the model's site has zero density there: its log weight is -inf.

        Args:
            x: the data.
            num_samples: S.
            seed: seed of the draws; ``None`` uses torch's global generator without seeding it.
            check: whether to run `check` on ``x`` first, and to refuse NaN afterwards.

        Raises:
            InputError: if the data do not fit; `ProgramError` if `check` refuses the pair.
            NonFiniteError: if a log weight is NaN; names the first datum.
        """
        check_positive_int("num_samples", num_samples)
        if check:
            self.check(x)
        with ExitStack() as stack:
            if seed is not None:
                check_seed(seed)
                stack.enter_context(rng.seeded(device_of(x), seed, "log_weights"))
            stack.enter_context(self.evaluating())
            guide = self.run("guide", x, num_samples)
            model = self.run("model", x, num_samples, Replayed(guide.latents()))
            log_weights = model.total(outside=guide.sites) - guide.total()
        if check:
            refuse_nan(log_weights, "log weight")
        return log_weights

    def log_joint(self, z: Latents, x: Data) -> torch.Tensor:
        """log p(x, z) for each datum separately, ``(S, N)``, float64, nats; differentiable in ``z``.

        Args:
            z: a value ``(S, N, *event)`` for each latent site of the model.
            x: the data.

        Raises:
            InputError: if ``z`` misses a latent site, names one that does not exist, or has a wrong shape.
        """
        return self._log_density("model", z, x)

    def log_guide(self, z: Latents, x: Data) -> torch.Tensor:
        """log q(z|x) for each datum separately, ``(S, N)``, float64, nats; arguments and errors as `log_joint`."""
        return self._log_density("guide", z, x)

    def sample_guide(self, x: Data, num_samples: int, *, seed: int | None = 0) -> dict[str, torch.Tensor]:
        """Draws z ~ q(z|x): ``(S, N, *event)`` for each latent site; ``seed`` as in `log_weights`."""
        return self._draw("guide", x, num_samples, seed, "sample_guide")

    def sample_prior(self, x: Data, num_samples: int, *, seed: int | None = 0) -> dict[str, torch.Tensor]:
        """Draws z ~ p(z): ``(S, N, *event)`` for each latent site; ``seed`` as in `log_weights`."""
        return self._draw("model", x, num_samples, seed, "sample_prior")

    def simulate(self, x: Data, *, seed: int | None = 0) -> tuple[dict[str, torch.Tensor], Data]:
        """Draw N pairs (z, x') from the joint distribution of the model; covariates in ``x`` are kept.

        Given x', z is an exact draw from the posterior p(z|x'), from which upper bounds of the evidence start.

        Args:
            x: data that determine N, the shapes, and any covariates.
            seed: as in `log_weights`.

        Returns:
            ``z``, each latent site ``(1, N, *event)``, as for `log_joint`; and ``x'``, like ``x`` with each observed
            site replaced by its draw.

        Raises:
            ProgramError: if an observed site's value cannot be found in ``x`` (it is computed from it).
        """
        with ExitStack() as stack:
            if seed is not None:
                check_seed(seed)
                stack.enter_context(rng.seeded(device_of(x), seed, "simulate"))
            stack.enter_context(self.evaluating())
            return simulated(self._model, x)

    def check(self, x: Data, *, offset: int = 0, num_samples: int | None = None) -> Sites:
        """Run the pair on ``x`` by plain Pyro: refuse it if log p(x) is undefined for a datum, and choose its layouts.

        Args:
            x: the data.
            offset: the index of their first datum in the user's data, for the messages.
            num_samples: a number of samples with which the pair will be run, if one is known.

        Returns:
            The latent and observed sites.

        Raises:
            InputError: if ``x`` is malformed, or a datum is outside of the support of an observed site.
            ProgramError: naming the site, if a site is outside of the data plate, a plate is subsampled, a log density
                is scaled (`pyro.poutine.scale`, KL annealing), is random or depends on other data, ``.to_event`` is
                missing, the guide has an observed site or a point mass, differs from the model in the latent sites,
                their shapes or masks, or has no density in a part of the model's support; or if plain Pyro cannot run
                the pair.
            NonFiniteError: if a log density is NaN; names the site and the first datum.

        Warns:
            ProgramWarning: once, if the model or the guide has to be run folded.
        """
        num_data(x)
        if self.check_data is not None:
            self.check_data(x)
        with self.evaluating(), torch.no_grad():
            found = examine(self, x, offset, num_samples)
            self._layouts[kind_of(x)] = found.layouts
            check_covers(self, x, found.pair.guide.sites, found.pair.model.sites, offset)
            check_masked(self, x, found.pair.model.sites, offset)
        for folding in found.folded:
            self._tell(folding)
        return found.sites

    def check_more(self, x: Data, *, offset: int = 0) -> Sites:
        """`check` for more data with the same shapes as data that were checked before in the same run.

        It checks only what depends on the values of the data: that they are on their supports, that no density is NaN,
        and that the guide covers the model's support. The layouts are known.

        Arguments and errors are those of `check`.
        """
        if kind_of(x) not in self._layouts:
            return self.check(x, offset=offset)
        if self.check_data is not None:
            self.check_data(x)
        with self.evaluating(), torch.no_grad():
            sites, pair = examine_more(self, x, offset)
            check_covers(self, x, pair.guide.sites, pair.model.sites, offset, seen=True)
        return sites

    def layouts(self, x: Data) -> Layouts:
        """The layouts of guide and model for data like ``x``; runs `check` if they are not known."""
        kind = kind_of(x)
        if kind not in self._layouts:
            self.check(x)
        return self._layouts[kind]

    @contextmanager
    def laid_like(self, x: Data, like: Data) -> Iterator[None]:
        """Run the pair on ``x`` with the layouts for ``like``, which differs only in the number of data."""
        kind, layouts = kind_of(x), self.layouts(like)
        before = self._layouts.get(kind)
        self._layouts[kind] = layouts if before is None else before
        try:
            yield
        finally:
            if before is None:
                del self._layouts[kind]

    def callable(self, role: str) -> Callable[..., Any]:
        """The user's "model" or "guide", without changes."""
        return self._model if role == "model" else self._guide

    def run(self, role: str, x: Data, num_samples: int, handler: Messenger | None = None) -> Run:
        """Run the "model" or the "guide", for S draws of each datum; inside `evaluating` only.

        Args:
            role: "model" or "guide".
            x: the data.
            num_samples: S.
            handler: a Pyro handler for the run; a `tracing.Handler` uses values ``(S, N, *event)``.
        """
        layouts = self.layouts(x)
        return run(self.callable(role), x, num_samples, getattr(layouts, role), handler)

    def _tell(self, folding: Folding) -> None:
        if folding.role in self._told:
            return
        self._told.add(folding.role)
        warnings.warn(
            f"the {folding.role} runs folded, with S copies of the data on the data axis, since it does not support a "
            f"sample axis: {folding.why}. The numbers are those of plain Pyro, but values that depend on the data only "
            "are computed again for each sample",
            ProgramWarning,
            stacklevel=3,
        )

    def _draw(
        self, role: str, x: Data, num_samples: int, seed: int | None, purpose: str
    ) -> dict[str, torch.Tensor]:
        check_positive_int("num_samples", num_samples)
        with ExitStack() as stack:
            if seed is not None:
                check_seed(seed)
                stack.enter_context(rng.seeded(device_of(x), seed, purpose))
            stack.enter_context(self.evaluating())
            return self.run(role, x, num_samples).latents()

    def _log_density(self, role: str, z: Latents, x: Data) -> torch.Tensor:
        if not isinstance(z, Mapping) or not z or not all(isinstance(v, torch.Tensor) for v in z.values()):
            raise InputError("z", "a dict of latent site name -> tensor (S, N, *event)", describe(z))
        n = num_data(x)
        leading = {name: tuple(value.shape[:2]) for name, value in z.items()}
        if len(set(leading.values())) > 1 or any(len(lead) < 2 or lead[1] != n for lead in leading.values()):
            raise InputError("z", f"values of shape (S, {n}, *event)", leading)
        num_samples = next(iter(leading.values()))[0]
        layout = getattr(self.layouts(x), role)
        trace = poutine.Trace()
        with self.evaluating():
            try:
                found = run(self.callable(role), x, num_samples, layout, Given(z), trace)
            except (ValueError, RuntimeError, IndexError):
                _check_given(z, Run(trace, layout, num_samples, n))  # a wrong shape breaks what follows it
                raise
            missing = [name for name, site in found.sites.items() if not site["is_observed"]]
            unknown = [
                name for name in z if name not in found.sites or GIVEN not in found.sites[name]["infer"]
            ]
            auxiliary = [name for name in missing if is_auxiliary(found.sites[name])]
            if auxiliary:
                raise ProgramError(
                    f"guide site {auxiliary[0]!r}",
                    "no auxiliary site, since the guide's density is needed at points that it did not draw "
                    "(it is not needed for importance sampling from the guide, or for chains from the prior)",
                    "an auxiliary site",
                )
            if missing or unknown:
                expected = f"a value for each latent site of the {role}"
                raise InputError("z", expected, f"{missing=}, {unknown=}")
            _check_given(z, found)
            return found.total(outside={name: {} for name in z})

    @contextmanager
    @shielded
    def evaluating(self) -> Iterator[None]:
        """Own parameters, evaluation mode, and Pyro's validation off (`check` validates the pair instead)."""
        if self.modules.idle:
            give_way()
        with exclusive(), self.modules.evaluating(), unvalidated(), self._parameters(listed=False):
            yield


def _check_given(z: Latents, found: Run) -> None:
    for name, value in z.items():
        if name in found.sites and tuple(value.shape) != found.shape(name):
            raise InputError(f"z[{name!r}]", f"shape {found.shape(name)}", tuple(value.shape))
