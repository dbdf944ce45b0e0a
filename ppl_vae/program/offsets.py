"""A guide whose distributions are moved, datum by datum: the guide's family, free of the network that feeds it.

Every parameter of every guide site gets an offset for each datum, added where the parameter is unconstrained (torch's
``transform_to`` of its constraint). Offsets of zero are the guide itself, so whatever is found by moving them starts
there. For a site whose parameters depend on x alone the offsets span its family: any member can be had for each datum.
For a site that depends on other latents they move its parameters by as much wherever those latents are, and the
conditional itself stays the guide's. Of a flow only the base distribution is moved. A latent that is computed from an
auxiliary site, as those of an AutoNormal are, moves with that site.
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
_FROZEN = "_ppl_vae_frozen"  # keeps the distribution whose offsets are constants
_ALTERNATIVES = {"logits": ("probs",), "scale_tril": ("covariance_matrix", "precision_matrix")}
_OF_TRANSFORMS = ("log_prob", "rsample")  # what a transformed distribution is
_SETTINGS = ("temperature",)  # of a relaxation, not something a network emits


def make_offsets(program: Program, x: Data) -> dict[str, Tensor]:
    """Offsets of zero for the guide of ``program`` at data ``x`` ``(N, ...)``.

    Returns:
        ``"site.parameter"`` -> ``(N, *shape)``, of the parameter's dtype, ``shape`` its unconstrained shape. The
        parameter called loc is moved in units of the distribution's own standard deviation, where it has a scale.

    Raises:
        ProgramError: naming a site that is discrete or has no reparameterised sampler, whose support moves with its
            parameters, or that cannot be built again from them.
    """
    found = _Finding(num_data(x))
    with torch.no_grad(), torch.random.fork_rng(devices=[]), program.evaluating():
        torch.manual_seed(0)  # only shapes are read
        run(_under(found, program.callable("guide")), x, 1, PLAIN)
    return found.offsets


def carry(x: Data, offsets: Offsets) -> dict[str, Tensor]:
    """Data that bring their offsets along, for `carrying_program`: any block of them is complete."""
    entries = {"": x} if isinstance(x, Tensor) else dict(x)
    return {**entries, **{_PREFIX + name: value for name, value in offsets.items()}}


def carrying_program(program: Program) -> Program:
    """``program`` with its guide moved by the offsets that its data (of `carry`) bring along.

    It is a Program as any other, so every estimator takes it, in blocks, with checkpoints. The parameters stay
    those of ``program``.
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
    """log w under the moved guide, ``(S, N)`` float64 nats, whose gradient in the offsets is the path's alone.

    The value is that of `Program.log_weights`. The gradient leaves out the score of q, whose mean is zero, so the
    mean over S is an unbiased gradient of the ELBO, and free of noise where the guide is the exact posterior
    (Roeder, Wu & Duvenaud, "Sticking the landing", 2017). Draws from torch's global generator as it stands.
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
    """Moves the distributions of a guide's sites by ``offsets``; ``freeze`` keeps a copy moved by constants, too."""

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
    """Makes an offset of zero for every parameter that it finds."""

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
            # Mass that crosses a moving edge is in no gradient along the path.
            raise ProgramError(f"guide site {name!r}", "a support that does not move, to refit", family(fn))

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
    """``fn`` with its parameters moved; ``inner`` batch axes of it lie to the right of the data's.

    ``offset(key, like)`` gives an offset of the shape of ``like``, ``(N, *shape)``; ``batch`` is the batch shape that
    ``fn`` is to have, if not its own.
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
    """The transforms of a distribution over another base.

    Not of its own class, whose constructor may take anything; so it must be one that draws and scores as torch's does.
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
    """What an offset of 1 is: a standard deviation, for what has the latent's unit, so that one step size fits all."""
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
