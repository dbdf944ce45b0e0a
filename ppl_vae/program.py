"""A Pyro (model, guide) pair as per-datum log densities: the one idea that everything else is built on.

This is the only room that touches `pyro.poutine`. What it promises to the rest:

* the axis convention ``(S, N, *event)``: samples, data, event;
* log weights summed over the sites *inside* a datum and never over data;
* nothing scaled, subsampled or shared between data ever becomes a weight: it is refused, by name;
* no program reads or writes another one's parameters, whatever the parameters are called.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK, Message, apply_stack
from torch import nn
from torch.distributions import constraints

from ppl_vae import rng
from ppl_vae.errors import InputError, NonFiniteError, ProgramError, check_positive_int, check_seed, describe

Data = torch.Tensor | Mapping[str, torch.Tensor]
"""What a program is called with: a tensor ``(N, ...)``, or a dict of tensors that share their first axis."""

Latents = Mapping[str, torch.Tensor]
"""Values of the latent sites, by name: ``(S, N, *event)`` each."""

_SAMPLES = "_ppl_vae_samples"  # the plate of independent draws, outside the data plate


@dataclass(frozen=True)
class Site:
    """One sample site of a program: its event shape, dtype and the name of its distribution."""

    event_shape: torch.Size
    dtype: torch.dtype
    distribution: str


@dataclass(frozen=True)
class Sites:
    """The sites of a program, by name, as `Program.check` found them."""

    latent: Mapping[str, Site]
    observed: Mapping[str, Site]

    @property
    def numbers_per_datum(self) -> int:
        """How many numbers one sample of one datum holds, over all sites: what memory is counted in."""
        return sum(site.event_shape.numel() for group in (self.latent, self.observed) for site in group.values())


def num_data(x: Data, argument: str = "x") -> int:
    """N, the length of the first axis of ``x``.

    Raises:
        InputError: if ``x`` is neither a tensor nor a dict of tensors, is empty, or its tensors disagree on N.
    """
    if isinstance(x, torch.Tensor):
        if x.ndim == 0 or len(x) == 0:
            raise InputError(argument, "a tensor with at least one datum on its first axis", describe(x))
        return len(x)
    if not isinstance(x, Mapping) or not x or not all(isinstance(v, torch.Tensor) for v in x.values()):
        raise InputError(argument, "a tensor, or a dict of tensors, with N data on the first axis", describe(x))
    sizes = {name: (len(value) if value.ndim else 0) for name, value in x.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise InputError(argument, "tensors with the same positive number of data", sizes)
    return next(iter(sizes.values()))


def take(x: Data, index: slice | torch.Tensor) -> Data:
    """The data of ``x`` at ``index`` of the first axis."""
    if isinstance(x, torch.Tensor):
        return x[index]
    return {name: value[index] for name, value in x.items()}


def device_of(x: Data) -> torch.device:
    """The device that ``x`` lives on."""
    return (x if isinstance(x, torch.Tensor) else next(iter(x.values()))).device


def to_device(x: Data, device: torch.device | str) -> Data:
    """``x`` on ``device``."""
    if isinstance(x, torch.Tensor):
        return x.to(device)
    return {name: value.to(device) for name, value in x.items()}


def expose_parameters(name: str, module: nn.Module) -> None:
    """Tell whatever Pyro handler is listening about a module's parameters, without Pyro's global store.

    `pyro.module` writes parameters into one store for the whole process, by name: a second model with the
    same names then trains (or freezes) the first one's. Here the parameter itself is the value of its
    ``param`` site, so `pyro.infer.SVI` finds and trains it and nothing else can.
    """
    if not _PYRO_STACK:
        return
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            _param_site(f"{name}.{key}", parameter)


def _param_site(name: str, parameter: nn.Parameter) -> None:
    parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]  # Pyro's convention
    apply_stack(
        Message(
            type="param", name=name, fn=_never_called, is_observed=False, args=(name, parameter), kwargs={},
            value=parameter, scale=1.0, mask=None, cond_indep_stack=(), done=True, stop=False,
            continuation=None, infer={},
        )
    )  # fmt: skip


def _never_called(*_: Any, **__: Any) -> None:
    raise AssertionError("a parameter site with a value was evaluated")


class _OwnParameters(Messenger):
    """Answers ``pyro.param`` from a program's own store instead of the global one.

    Args:
        own: the store that the program trains.
        scratch: where first values go that nobody has trained. While evaluating, a name is looked up in
            ``own``, then in Pyro's global store (somebody may have trained it there), then in ``scratch``;
            ``None`` means that the program is being trained and ``own`` takes everything.
    """

    def __init__(self, own: ParamStoreDict, scratch: ParamStoreDict | None) -> None:
        super().__init__()
        self.own, self.scratch = own, scratch

    def _pyro_param(self, msg: Any) -> None:
        if msg["value"] is not None:
            return
        name, *rest = msg["args"]
        if rest and isinstance(rest[0], nn.Parameter):
            # A module's own parameter (pyro.module): the module keeps it, under any name.
            rest[0].unconstrained = weakref.ref(rest[0])  # type: ignore[attr-defined]
            msg["value"], msg["done"] = rest[0], True
            return
        if self.scratch is None or name in self.own:
            msg["fn"] = self.own.get_param
        elif name not in pyro.get_param_store():
            msg["fn"] = self.scratch.get_param


class _ScaledLatents(Messenger):
    """Multiplies the log density of every latent site by ``beta``, for KL warm-up. Training only."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and type(msg["fn"]).__name__ != "_Subsample":
            msg["scale"] = msg["scale"] * self.beta


class Program:
    """A Pyro model and guide as per-datum tensors.

    Both are called with ``x`` and hold every sample site inside one ``pyro.plate("data", len(x), dim=-1)``;
    event dimensions are declared with ``.to_event``. Code must accept a sample axis on the left: values of
    latent sites arrive as ``(S, N, *event)``. Networks of the program are put in evaluation mode while
    densities are computed, if ``model`` or ``guide`` is an ``nn.Module`` or a method of one.

    Args:
        model: p(x, z): samples the latent sites and observes ``x``.
        guide: q(z|x): samples the same latent sites.
        check_data: called with ``x`` before anything else; raises if the data do not fit.

    Attributes:
        params: this program's own parameter store: what ``pyro.param`` statements mean when the program is
            trained through `model` and `guide` below. Parameters of modules stay in their modules. When
            densities are computed, a parameter that this program never trained is looked up in Pyro's global
            store, so a pair that was trained by hand with plain SVI is evaluated as trained.
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
        owners = [fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None) for fn in (model, guide)]
        self.modules = tuple(dict.fromkeys(owner for owner in owners if isinstance(owner, nn.Module)))

    # ---- training -------------------------------------------------------------------------------------

    @property
    def model(self) -> Callable[..., Any]:
        """The model with parameters of its own: safe to train beside any other program in the process."""
        return self._isolated(self._model)

    @property
    def guide(self) -> Callable[..., Any]:
        """The guide with parameters of its own: safe to train beside any other program in the process."""
        return self._isolated(self._guide)

    def annealed(self, beta: float) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Model and guide whose latent log densities are multiplied by ``beta``: KL warm-up, for training only.

        An ELBO of the pair is E_q[log p(x|z)] - beta KL(q(z|x) || p(z)). `log_weights` and its siblings never
        see it: they run the plain pair.
        """
        if beta == 1.0:
            return self.model, self.guide

        def scaled(fn: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(fn)
            def run(*args: Any, **kwargs: Any) -> Any:
                with _ScaledLatents(beta):
                    return fn(*args, **kwargs)

            return run

        return scaled(self.model), scaled(self.guide)

    def parameters(self, x: Data) -> dict[str, torch.Tensor]:
        """Every trainable leaf tensor (unconstrained) by site name; runs model and guide once on ``x``.

        The program's own store takes first values for ``pyro.param`` statements from torch's global
        generator as it stands.
        """
        with torch.no_grad(), pyro.validation_enabled(False), poutine.trace(param_only=True) as capture:
            guide_trace = poutine.trace(self.guide).get_trace(x)
            poutine.replay(self.model, trace=guide_trace)(x)
        return {
            name: site["value"].unconstrained()
            for name, site in capture.trace.nodes.items()
            if site["type"] == "param"
        }

    def _isolated(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._parameters(training=True):
                return fn(*args, **kwargs)

        return run

    @contextmanager
    def _parameters(self, training: bool) -> Iterator[None]:
        scratch = None if training else self._scratch
        with pyro.settings.context(module_local_params=True), _OwnParameters(self.params, scratch):
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
            log_weights = _joint(model_trace, guide_trace) - _total(guide_trace)
        if check:
            _refuse_nan(log_weights, "log weight")
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
        check_positive_int("num_samples", num_samples)
        with ExitStack() as stack:
            if seed is not None:
                check_seed(seed)
                stack.enter_context(rng.seeded(device_of(x), seed, "sample_guide"))
            stack.enter_context(self._evaluating())
            trace = self._trace(self._guide, x, num_samples)
        return {name: site["value"] for name, site in _sites(trace).items()}

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
        # a slice such as x[:, :3] alike. Copies are laid out contiguously for that.
        x = {"": x.contiguous()} if isinstance(x, torch.Tensor) else {k: v.contiguous() for k, v in x.items()}
        argument: Data = x[""] if "" in x else x
        with ExitStack() as stack:
            if seed is not None:
                check_seed(seed)
                stack.enter_context(rng.seeded(device_of(argument), seed, "simulate"))
            stack.enter_context(self._evaluating())
            stack.enter_context(torch.no_grad())
            trace = self._trace(self._model, argument, 1, poutine.uncondition)
        drawn = {name: value.clone() for name, value in x.items()}
        z = {}
        for name, site in _sites(trace).items():
            if "obs" not in site["infer"]:
                z[name] = site["value"]
            elif not _write_back(site["infer"]["obs"], site["value"][0], x, drawn):
                if name not in x:
                    raise ProgramError(
                        f"observed site {name!r}",
                        "obs= to be the data themselves, a slice of them, or an entry of the same name",
                        "a value computed from them",
                    )
                drawn[name] = site["value"][0].to(drawn[name].dtype).reshape(drawn[name].shape)
        return z, drawn[""] if "" in drawn else drawn

    def check(self, x: Data) -> Sites:
        """Run the pair once on ``x`` and refuse it if its evidence is not defined per datum.

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
            try:
                guide_trace = self._trace(self._guide, x, num_samples)
                _check_plates("guide", guide_trace, num_samples, n)
                latent = _sites(guide_trace)
                model_trace = self._trace(self._model, x, num_samples, _replaying(guide_trace))
                _check_plates("model", model_trace, num_samples, n)
            except ValueError as error:
                first_line = str(error).splitlines()[0]
                if "plate(" in first_line:  # Pyro found the mismatch before we did; it names site and plate
                    raise ProgramError("program", "sites that fit their plates", first_line) from None
                raise
            sites = _sites(model_trace)
            _check_match(latent, sites)
            for role, found in (("guide", latent), ("model", sites)):
                for name, site in found.items():
                    if role == "model" and site["is_observed"]:
                        _check_support(name, site)
                    log_prob = _site_log_prob(site, latent if role == "model" else {})
                    if log_prob.shape != (num_samples, n):
                        raise ProgramError(
                            f"{role} site {name!r}",
                            f"a log density of shape {(num_samples, n)} (samples, data); declare event "
                            "dimensions with .to_event",
                            tuple(log_prob.shape),
                        )
                    _refuse_nan(log_prob, f"log density of {role} site {name!r}")
        described = {
            name: Site(
                site["fn"].event_shape,
                site["value"].dtype,
                type(getattr(site["fn"], "base_dist", site["fn"])).__name__,
            )
            for name, site in sites.items()
        }
        return Sites(
            latent={name: value for name, value in described.items() if name in latent},
            observed={name: value for name, value in described.items() if name not in latent},
        )

    def _log_density(self, role: str, fn: Callable[..., Any], z: Latents, x: Data) -> torch.Tensor:
        if not isinstance(z, Mapping) or not z or not all(isinstance(v, torch.Tensor) for v in z.values()):
            raise InputError("z", "a dict of latent site name -> tensor (S, N, *event)", describe(z))
        n = num_data(x)
        leading = {name: tuple(value.shape[:2]) for name, value in z.items()}
        if len(set(leading.values())) > 1 or any(len(lead) < 2 or lead[1] != n for lead in leading.values()):
            raise InputError("z", f"values of shape (S, {n}, *event)", leading)
        num_samples = next(iter(leading.values()))[0]
        with self._evaluating():
            trace = self._trace(fn, x, num_samples, lambda fn: poutine.condition(fn, data=dict(z)))
            sites = _sites(trace)
            missing = [name for name, site in sites.items() if not site["is_observed"]]
            unknown = [name for name in z if name not in sites]
            if missing or unknown:
                raise InputError("z", f"a value for each latent site of the {role}", f"{missing=}, {unknown=}")
            for name, value in z.items():
                expected = (num_samples, n, *sites[name]["fn"].event_shape)
                if tuple(value.shape) != expected:
                    raise InputError(f"z[{name!r}]", f"shape {expected}", tuple(value.shape))
            return _total(trace, outside={name: {} for name in z})

    def _traces(self, x: Data, num_samples: int) -> tuple[poutine.Trace, poutine.Trace]:
        guide_trace = self._trace(self._guide, x, num_samples)
        return guide_trace, self._trace(self._model, x, num_samples, _replaying(guide_trace))

    @staticmethod
    def _trace(
        fn: Callable[..., Any], x: Data, num_samples: int, handler: Callable[..., Any] = lambda fn: fn
    ) -> poutine.Trace:
        # The plate goes inside the handler: a handler that sets values would otherwise hide sites from it.
        def many(x: Data) -> None:
            with pyro.plate(_SAMPLES, num_samples, dim=-2):
                fn(x)

        return poutine.trace(handler(many)).get_trace(x)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Own parameters, evaluation mode, and Pyro's validation off: `check` does what is needed of it, once."""
        training = [child for module in self.modules for child in module.modules() if child.training]
        for child in training:
            child.training = False
        try:
            with pyro.validation_enabled(False), self._parameters(training=False):
                yield
        finally:
            for child in training:
                child.training = True


def _replaying(trace: poutine.Trace) -> Callable[..., Any]:
    return lambda fn: poutine.replay(fn, trace=trace)


def _sites(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites that carry density: no plates, no `pyro.deterministic`."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and type(site["fn"]).__name__ != "_Subsample"
        and not site["infer"].get("_deterministic")
    }


def _site_log_prob(site: Any, guide_sites: Mapping[str, Any]) -> torch.Tensor:
    """The log density of one site, masked as Pyro masks it; -inf where a latent leaves the site's support."""
    fn, value = site["fn"], site["value"]
    log_prob = scale_and_mask(fn.log_prob(value), 1.0, site["mask"])
    guide_site = guide_sites.get(site["name"])
    if guide_site is not None and _base(fn.support) is not constraints.real:
        # torch's densities are not zero outside their support (an exponential one goes on to the left of 0):
        # a guide that strays there must meet zero, not whatever the formula gives.
        if guide_site and _same_support(guide_site["fn"].support, fn.support):
            return log_prob
        log_prob = torch.where(fn.support.check(value), log_prob, -torch.inf)
    return log_prob


def _base(support: constraints.Constraint) -> constraints.Constraint:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _same_support(a: constraints.Constraint, b: constraints.Constraint) -> bool:
    a, b = _base(a), _base(b)
    # Constraints without bounds are singletons; those with bounds are left to the check on values.
    return a is b


def _total(trace: poutine.Trace, outside: Mapping[str, Any] | None = None) -> torch.Tensor:
    """The log density of a trace, summed over its sites for each datum, in float64: ``(S, N)``."""
    total: torch.Tensor | None = None
    for site in _sites(trace).values():
        log_prob = _site_log_prob(site, outside or {}).double()
        total = log_prob if total is None else total + log_prob
    if total is None:
        raise ProgramError("program", "at least one sample site", "none")
    return total


def _joint(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> torch.Tensor:
    return _total(model_trace, outside=_sites(guide_trace))


def _check_plates(role: str, trace: poutine.Trace, num_samples: int, n: int) -> None:
    """Refuse, by name, every site whose log density is not one unscaled number for each sample and datum."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and type(site["fn"]).__name__ == "_Subsample":
            size, subsample_size = site["fn"].size, site["fn"].subsample_size
            if (subsample_size is not None and subsample_size != size) or len(site["value"]) != size:
                raise ProgramError(
                    f"plate {name!r} in the {role}",
                    "a plate over exactly the data that are passed in (scale a minibatch outside the program)",
                    f"a subsample of {len(site['value'])} out of {size}",
                )
    for name, site in _sites(trace).items():
        where = f"{role} site {name!r}"
        frames = [frame for frame in site["cond_indep_stack"] if frame.name != _SAMPLES]
        sequential = [frame.name for frame in frames if not frame.vectorized]
        if sequential:
            raise ProgramError(where, "vectorised plates", f"the sequential plate {sequential[0]!r}")
        inside = [frame for frame in frames if frame.dim == -1]
        if not inside:
            raise ProgramError(
                where,
                'to be inside pyro.plate("data", len(x), dim=-1) (a site shared by all data is another integral)',
                "a site outside it",
            )
        if len(frames) > 1:
            other = next(frame.name for frame in frames if frame.dim != -1)
            raise ProgramError(where, "no plate but the data plate (use .to_event)", f"plate {other!r}")
        if inside[0].size != n:
            raise ProgramError(where, f"a data plate of {n} data", f"plate {inside[0].name!r} of {inside[0].size}")
        scale = site["scale"]
        if isinstance(scale, torch.Tensor) or scale != 1:
            received = f"scale {float(scale):g}" if not isinstance(scale, torch.Tensor) or scale.numel() == 1 else "a scale"
            raise ProgramError(where, "an unscaled log density (no poutine.scale, no annealing)", received)
        if site["infer"].get("enumerate"):
            raise ProgramError(where, "a latent that the guide samples", "a site marked for enumeration")
        if role == "guide":
            if site["is_observed"]:
                raise ProgramError(where, "latent sites only", "an observed site")
            if isinstance(getattr(site["fn"], "base_dist", site["fn"]), Delta):
                raise ProgramError(where, "a distribution with a density", "a Delta (a point has no density)")
        if tuple(site["fn"].batch_shape) != (num_samples, n):
            raise ProgramError(
                where,
                f"batch shape {(num_samples, n)} (samples, data); declare event dimensions with .to_event",
                tuple(site["fn"].batch_shape),
            )


def _check_match(guide_sites: Mapping[str, Any], model_sites: Mapping[str, Any]) -> None:
    """Refuse, by name, latent sites on which model and guide disagree."""
    latent = {name for name, site in model_sites.items() if not site["is_observed"]}
    for name in latent - guide_sites.keys():
        raise ProgramError(f"model site {name!r}", "a latent that the guide samples too", "no such guide site")
    for name in guide_sites.keys() - latent:
        received = "no such model site" if name not in model_sites else "an observed model site"
        raise ProgramError(f"guide site {name!r}", "a latent site of the model", received)
    if not any(site["is_observed"] for site in model_sites.values()):
        raise ProgramError("model", "at least one observed site", "none")
    for name, site in guide_sites.items():
        ours, theirs = site["fn"].event_shape, model_sites[name]["fn"].event_shape
        if ours != theirs:
            raise ProgramError(
                f"guide site {name!r}", f"the model's event shape {tuple(theirs)}", f"event shape {tuple(ours)}"
            )


def _check_support(name: str, site: Any) -> None:
    """Refuse data outside an observed site's support: its density there is not a density."""
    fn, value = site["fn"], site["value"]
    if site["mask"] is not None or hasattr(fn, "_mask"):
        return  # what is masked may hold anything
    fine = fn.support.check(value)
    while fine.ndim > 1:
        fine = fine.all(0)
    if not bool(fine.all()):
        index = int((~fine).nonzero()[0])
        kind = type(getattr(fn, "base_dist", fn)).__name__
        raise InputError(
            "x",
            f"values on the support of observed site {name!r} ({kind})",
            f"a value outside it at datum {index}",
        )


def _refuse_nan(values: torch.Tensor, what: str) -> None:
    bad = values.isnan().any(0)
    if bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise NonFiniteError(f"{what}: NaN at datum {index} ({int(bad.sum())} of {len(bad)} data)")


def _write_back(
    observed: torch.Tensor, draw: torch.Tensor, x: Mapping[str, torch.Tensor], drawn: Mapping[str, torch.Tensor]
) -> bool:
    """Put ``draw`` into the tensor of ``drawn`` at the place where ``observed`` lies in the matching one of ``x``."""
    for name, value in x.items():
        if observed.untyped_storage().data_ptr() == value.untyped_storage().data_ptr():
            offset = observed.storage_offset() - value.storage_offset()
            target = drawn[name].as_strided(observed.shape, observed.stride(), offset)
            target.copy_(draw.reshape(observed.shape))
            return True
    return False
