"""Offsets: a guide whose distributions get other parameters for each datum, independently of its networks.

Each parameter of each guide site gets an offset for each datum, which is added in unconstrained space (torch's
``transform_to`` of its constraint). Offsets of zero give the guide itself. For a site whose parameters depend on x
only, the offsets span its family: any member is possible for each datum. For a site that depends on other latents, an
offset changes its parameters by the same amount for all values of these latents, and the dependence stays that of the
guide. For a flow, only the base distribution changes. A latent that is computed from an auxiliary site, as in
AutoNormal, changes with that site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, transform_to

from ppl_vae.errors import InputError, ProgramError
from ppl_vae.program.blame import first_line
from ppl_vae.program.data import Data, num_data
from ppl_vae.program.handlers import Replayed, is_latent
from ppl_vae.program.program import Program
from ppl_vae.program.sites import family, is_delta
from ppl_vae.program.supports import base, support_of
from ppl_vae.program.tracing import PLAIN, run

Offsets = Mapping[str, Tensor]
"""Offsets of unconstrained parameters, by "site.parameter": ``(N, *shape)`` each."""

_PREFIX = "offset of "
_FROZEN = "_ppl_vae_frozen"  # the distribution with constant offsets
_ALTERNATIVES = {"logits": ("probs",), "scale_tril": ("covariance_matrix", "precision_matrix")}
_OF_TRANSFORMS = ("log_prob", "rsample")  # methods that define a transformed distribution
_SETTINGS = ("temperature",)  # settings of a relaxation, which are not outputs of a network


def make_offsets(program: Program, x: Data) -> dict[str, Tensor]:
    """Offsets of zero for the guide of ``program`` at data ``x`` ``(N, ...)``.

    Returns:
        ``"site.parameter"`` -> ``(N, *shape)``, of the parameter's dtype and unconstrained shape. Offsets of a
        parameter named loc are in units of the distribution's standard deviation, if it has a scale.

    Raises:
        ProgramError: naming a site that is discrete or has no reparameterised sampler, whose support depends on its
            parameters, or that cannot be constructed from them.
    """
    found = _Finding(num_data(x))
    with torch.no_grad(), torch.random.fork_rng(devices=[]), program.evaluating():
        torch.manual_seed(0)  # only shapes are read
        run(_under(found, program.callable("guide")), x, 1, PLAIN)
    return found.offsets


def carry(x: Data, offsets: Offsets) -> dict[str, Tensor]:
    """Data together with their offsets, for `carrying_program`; any subset of them is complete."""
    entries = {"": x} if isinstance(x, Tensor) else dict(x)
    return {**entries, **{_PREFIX + name: value for name, value in offsets.items()}}


def carrying_program(program: Program) -> Program:
    """``program`` with its guide changed by the offsets in its data (from `carry`).

    The result is a Program, so all estimators take it, with blocks and checkpoints. Its parameters are those of
    ``program``.
    """

    def model(x: Data) -> Any:
        return program.callable("model")(_split(x)[0])

    def guide(x: Data) -> Any:
        plain, offsets = _split(x)
        with _Moving(offsets):
            return program.callable("guide")(plain)

    checked = program.check_data
    return program.derived(model, guide, None if checked is None else lambda x: checked(_split(x)[0]))


def path_log_weights(program: Program, x: Data, offsets: Offsets, num_samples: int) -> Tensor:
    """log w under the guide with offsets, ``(S, N)`` float64 nats, whose gradient in the offsets is pathwise.

    The value is that of `Program.log_weights`. The gradient does not include the score of q, whose mean is zero. The
    mean over S is therefore an unbiased gradient of the ELBO, without noise if the guide is the exact posterior
    (Roeder, Wu & Duvenaud, "Sticking the landing", 2017). Draws come from torch's global generator.
    """

    def guide(carried: Data) -> Any:
        plain, moved = _split(carried)
        with _Moving(moved, freeze=True):
            return program.callable("guide")(plain)

    with program.evaluating():
        layout = program.layouts(x).guide
        found = run(guide, carry(x, offsets), num_samples, layout)
        log_weights = program.run("model", x, num_samples, Replayed(found.latents())).total(found.sites)
        for name, site in found.sites.items():
            # A Delta that is computed from an auxiliary site has no parameters of its own.
            log_weights = log_weights - found.log_prob(name, {}, site["infer"].get(_FROZEN))
    return log_weights


def _under(handler: Messenger, fn: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Data) -> Any:
        with handler:
            return fn(x)

    return run


def _split(x: Data) -> tuple[Data, Offsets]:
    if isinstance(x, Tensor):
        raise InputError("x", "data with offsets, as carry returns them", "a tensor")
    offsets = {k.removeprefix(_PREFIX): v for k, v in x.items() if k.startswith(_PREFIX)}
    rest = {k: v for k, v in x.items() if not k.startswith(_PREFIX)}
    return rest[""] if rest.keys() == {""} else rest, offsets


class _Moving(Messenger):
    """Adds ``offsets`` to the parameters of a guide's sites; ``freeze`` keeps a copy with constant offsets, too."""

    def __init__(self, offsets: Offsets, freeze: bool = False) -> None:
        super().__init__()
        self.offsets, self.freeze = offsets, freeze

    def _pyro_sample(self, msg: Any) -> None:
        # Plates inside the guide were here before, so the last batch axes of fn are in place.
        if not is_latent(msg) or is_delta(msg):
            return
        fn, name = msg["fn"], msg["name"]
        msg["fn"] = _move(name, fn, lambda key, _: self._offset(key))
        if self.freeze:
            msg["infer"] = {
                **msg["infer"],
                _FROZEN: _move(name, fn, lambda key, _: self._offset(key).detach()),
            }

    def _offset(self, key: str) -> Tensor:
        if key not in self.offsets:
            raise InputError("offsets", f"one for {key}, as make_offsets returns it", sorted(self.offsets))
        return self.offsets[key]


class _Finding(Messenger):
    """Makes an offset of zero for each parameter of the guide's sites."""

    def __init__(self, num_data: int) -> None:
        super().__init__()
        self.num_data = num_data
        self.offsets: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not is_latent(msg) or is_delta(msg):
            return
        fn, name = msg["fn"], msg["name"]
        if not fn.has_rsample:
            raise ProgramError(f"guide site {name!r}", "a reparameterised distribution to refit", family(fn))
        support = support_of(fn)
        bounds = () if support is None else vars(base(support)).values()
        if any(isinstance(bound, Tensor) and bound.ndim for bound in bounds):
            # Pathwise gradients do not include the mass that crosses a moving edge.
            raise ProgramError(
                f"guide site {name!r}", "a support that does not depend on parameters, to refit", family(fn)
            )

        def make(key: str, like: Tensor) -> Tensor:
            self.offsets[key] = torch.zeros_like(like)
            return self.offsets[key]

        moved = _move(name, fn, make)
        if not any(key.startswith(f"{name}.") for key in self.offsets):
            raise ProgramError(f"guide site {name!r}", "a family with parameters to refit", family(fn))
        if (moved.batch_shape, moved.event_shape) != (fn.batch_shape, fn.event_shape):
            raise ProgramError(
                f"guide site {name!r}", "a family that can be built from its parameters", family(fn)
            )


def _move(
    name: str,
    fn: Any,
    offset: Callable[[str, Tensor], Tensor],
    inner: int = 0,
    batch: torch.Size | None = None,
) -> Any:
    """``fn`` with offsets on its parameters; it has ``inner`` batch axes to the right of the data axis.

    ``offset(key, like)`` returns an offset of the shape of ``like``, ``(N, *shape)``; ``batch`` is the batch shape of
    the result, if it differs from that of ``fn``.
    """
    if isinstance(fn, Independent):
        axes = fn.reinterpreted_batch_ndims
        wider = None if batch is None else batch + fn.event_shape[:axes]
        return type(fn)(_move(name, fn.base_dist, offset, inner + axes, wider), axes)
    if isinstance(fn, MaskedDistribution):
        return type(fn)(_move(name, fn.base_dist, offset, inner, batch), fn._mask)
    if isinstance(fn, ExpandedDistribution):
        return _move(name, fn.base_dist, offset, inner, batch or fn.batch_shape)
    try:
        constraint = fn.arg_constraints
        if isinstance(fn, TransformedDistribution) and not constraint:
            whole = fn if batch is None else fn.expand(batch)
            return _transformed(fn, _move(name, whole.base_dist, offset, inner))
        batch = batch or fn.batch_shape
        dropped = {other for kept in constraint for other in _ALTERNATIVES.get(kept, ())}
        values = {
            key: _whole(getattr(fn, key), fn.batch_shape, batch, constraint[key].event_dim)
            for key in constraint
            if key not in dropped
        }
        moved = {key: getattr(fn, key) for key in _SETTINGS if hasattr(fn, key)}
        for key, value in values.items():
            transform = transform_to(constraint[key])
            u = transform.inv(value)
            delta = offset(f"{name}.{key}", u[(0,) * (len(batch) - inner - 1)])
            moved[key] = transform(u + _unit(key, values) * delta)
        return type(fn)(**moved)
    except InputError:
        raise
    except (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        expected = "a family that can be built from its parameters, each reached by torch's transform_to"
        raise ProgramError(f"guide site {name!r}", expected, f"{family(fn)} ({first_line(error)})") from error


def _transformed(fn: TransformedDistribution, base_dist: Any) -> TransformedDistribution:
    """The distribution with the same transforms and another base.

    The result is torch's own class, since a subclass may have any constructor. The subclass must therefore use torch's
    methods to draw and to compute densities.
    """
    if isinstance(fn, dist.FoldedDistribution):
        return dist.FoldedDistribution(base_dist)
    own = [
        name
        for name in _OF_TRANSFORMS
        if getattr(type(fn), name) is not getattr(TransformedDistribution, name)
    ]
    if own:
        raise TypeError(f"{own[0]} is its own")
    return dist.TransformedDistribution(base_dist, fn.transforms)


def _whole(value: Tensor, own: torch.Size, batch: torch.Size, event_dim: int) -> Tensor:
    """A parameter of a distribution of batch shape ``own`` with all axes of ``batch``."""
    event = (
        value.shape[len(own) :] if value.shape[: len(own)] == own else value.shape[value.ndim - event_dim :]
    )
    return value.expand(batch + event)


def _unit(key: str, values: Mapping[str, Tensor]) -> Tensor | float:
    """The unit of an offset: a standard deviation for parameters in units of the latent, so that step sizes fit all."""
    if "scale_tril" in values:
        deviation = values["scale_tril"].norm(dim=-1)
        if key == "loc":
            return deviation
        if key == "scale_tril":
            diagonal = torch.eye(deviation.shape[-1], dtype=torch.bool, device=deviation.device)
            return torch.where(diagonal, 1.0, deviation.unsqueeze(-1))
    if "cov_factor" in values and key in ("loc", "cov_factor"):
        deviation = (values["cov_diag"] + (values["cov_factor"] ** 2).sum(-1)).sqrt()
        return deviation if key == "loc" else deviation.unsqueeze(-1)
    return values["scale"] if key == "loc" and "scale" in values else 1.0
