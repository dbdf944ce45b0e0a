"""Supports of distributions: the set of values with a positive density, and comparisons of such sets.

Supports are torch's constraints, with two corrections: the support of a transformed distribution is the image of its
base's support, not the codomain of the last transform; and an angle is a point of a circle, one period of which has all
of the mass, not a real number. All functions use the last axes only: values are ``(..., *event)``, and bounds broadcast
to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, constraints
from torch.distributions.transforms import AffineTransform, ComposeTransform, IndependentTransform, Transform

Endpoint = Tensor | float


class Circle(constraints.interval):
    """The angles from -pi to pi, whose ends are the same point: one period of a periodic density."""

    def __init__(self) -> None:
        super().__init__(-math.pi, math.pi)


circle = Circle()


class AnyComponent(constraints.Constraint):
    """The union of the supports of a mixture's components, which are on the axis before the event axes.

    torch's own constraint of a mixture requires a value to be on the supports of all components.
    """

    def __init__(self, components: constraints.Constraint) -> None:
        self.base_constraint = components
        super().__init__()

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        """As the components."""
        return bool(self.base_constraint.is_discrete)

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """As the components."""
        return int(self.base_constraint.event_dim)

    def check(self, value: Tensor) -> Tensor:
        """Whether values ``(..., *event)`` are on the support of some component: ``(...)``."""
        checked: Tensor = self.base_constraint.check(value.unsqueeze(-1 - self.event_dim))
        return checked.any(-1)


_ANGLES = (torch.distributions.VonMises, dist.SineBivariateVonMises)
_CIRCULAR = ("circular", "_Circular")
_WRAPPERS = (Independent, MaskedDistribution, ExpandedDistribution)
_STRAIGHT_THROUGH = (dist.RelaxedBernoulliStraightThrough, dist.RelaxedOneHotCategoricalStraightThrough)


def layers(fn: Any) -> Iterator[Any]:
    """A distribution, and the distributions inside of to_event, mask and expand."""
    yield fn
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
        yield fn


def core(fn: Any) -> Any:
    """The distribution inside to_event, mask and expand."""
    *_, inner = layers(fn)
    return inner


def is_straight_through(fn: Any) -> bool:
    """Whether it draws hard values, and has the density of the soft values before rounding."""
    return isinstance(core(fn), _STRAIGHT_THROUGH)


def support_of(fn: Any) -> constraints.Constraint | None:
    """The set of values with a positive density; None if the distribution does not declare it."""
    if isinstance(fn, Independent):
        inner = support_of(fn.base_dist)
        n = fn.reinterpreted_batch_ndims
        return inner if inner is None or not n else constraints.independent(inner, n)
    if isinstance(fn, MaskedDistribution | ExpandedDistribution):
        return support_of(fn.base_dist)
    if isinstance(fn, torch.distributions.MixtureSameFamily):
        components = support_of(fn.component_distribution)
        if components is None or not any(isinstance(v, Tensor) for v in vars(base(components)).values()):
            return components
        return AnyComponent(components)
    if _is_angle(fn):
        return constraints.independent(circle, len(fn.event_shape)) if fn.event_shape else circle
    if isinstance(fn, TransformedDistribution) and _says_codomain(fn):
        return _image(fn)
    try:
        support = fn.support
    except (NotImplementedError, AttributeError):
        return None
    known = isinstance(support, constraints.Constraint) and not constraints.is_dependent(support)
    return support if known else None


def base(support: constraints.Constraint) -> constraints.Constraint:
    """The support of each number: without event dimensions, and for a mixture that of its components."""
    inner: Any = support
    while isinstance(inner, constraints.independent) or is_mixture(inner):
        inner = inner.base_constraint
    found: constraints.Constraint = inner
    return found


def is_mixture(support: constraints.Constraint) -> bool:
    """Whether it is the support of a mixture whose components may have different supports."""
    return isinstance(support, AnyComponent)


def is_real(support: constraints.Constraint | None) -> bool:
    """Whether every real number, or vector of real numbers, is in it."""
    return support is not None and base(support) is constraints.real


def hull(support: constraints.Constraint) -> constraints.Constraint:
    """The support without event dimensions; for a mixture, the smallest interval that contains all components."""
    inner: Any = support
    mixed, dims = False, 0
    while isinstance(inner, constraints.independent) or is_mixture(inner):
        if is_mixture(inner):
            mixed, dims = True, 0
        else:
            dims += inner.reinterpreted_batch_ndims
        inner = inner.base_constraint
    bounds = None if not mixed or inner.is_discrete else bounds_of(inner)
    if bounds is None or inner is circle:
        found: constraints.Constraint = inner
        return found
    low, high = (_over_components(b, dims + inner.event_dim, e) for b, e in zip(bounds, (-1, 1), strict=True))
    return _interval(low, high)


def _over_components(bound: Endpoint, event_dims: int, end: int) -> Endpoint:
    """The outermost bound of all components, which are on the axis before the event axes."""
    if not isinstance(bound, Tensor) or bound.ndim <= event_dims:
        return bound
    axis = -1 - event_dims
    return bound.amin(axis) if end < 0 else bound.amax(axis)


def _is_angle(fn: Any) -> bool:
    if isinstance(fn, dist.SineSkewed):
        inner = core(fn.base_dist)
        return _is_angle(inner) or isinstance(inner, torch.distributions.Uniform)
    if isinstance(fn, _ANGLES):
        return True
    return type(getattr(type(fn), "support", None)).__name__ in _CIRCULAR


# ---- transformed distributions --------------------------------------------------------------------------------------


def _says_codomain(fn: Any) -> bool:
    """Whether its support is torch's default: the codomain of the last transform."""
    return type(fn).support is TransformedDistribution.support or not hasattr(type(fn), "support")


def _image(fn: Any) -> constraints.Constraint | None:
    """The image of the base's support under the transforms; None if it is not known."""
    support = support_of(fn.base_dist)
    if support is None:
        return None
    for transform in _parts(fn.transforms):
        if support is None:
            return None
        support = _mapped(transform, support)
    if support is not None and len(fn.event_shape) > support.event_dim:
        support = constraints.independent(support, len(fn.event_shape) - support.event_dim)
    return support


def _parts(transforms: Any) -> Iterator[Transform]:
    for transform in transforms:
        if isinstance(transform, ComposeTransform):
            yield from _parts(transform.parts)
        elif isinstance(transform, IndependentTransform):
            yield from _parts([transform.base_transform])
        else:
            yield transform


def _mapped(transform: Transform, support: constraints.Constraint) -> constraints.Constraint | None:
    """The image of one set under one transform."""
    try:
        domain, codomain = transform.domain, transform.codomain
    except NotImplementedError:
        return None
    if constraints.is_dependent(codomain):
        return None
    if _whole(base(support), base(domain)):
        return codomain
    inner = hull(support)
    elementwise = not domain.event_dim or isinstance(transform, AffineTransform)
    bounds = None if inner.is_discrete or inner.event_dim or not elementwise else bounds_of(inner)
    if bounds is None or is_mixture(support) or not transform.bijective:
        return None
    like = next((v for v in _tensors(transform, *bounds)), torch.zeros(()))
    ends = [torch.as_tensor(b, dtype=like.dtype, device=like.device) for b in bounds]
    low, high = transform(ends[0]), transform(ends[1])
    return _interval(torch.minimum(low, high), torch.maximum(low, high))


def _whole(inner: constraints.Constraint, domain: constraints.Constraint) -> bool:
    """Whether a base's support is the whole domain of a transform."""
    if inner is domain or {inner, domain} == {constraints.real, constraints.real_vector}:
        return True
    ours, theirs = bounds_of(inner), bounds_of(domain)
    if ours is None or theirs is None or inner.is_discrete != domain.is_discrete:
        return False
    return all(_same(a, b) for a, b in zip(ours, theirs, strict=True))


def _same(a: Endpoint, b: Endpoint) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b or bool(torch.as_tensor(a == b).all())
    return a == b


def _tensors(transform: Any, *bounds: Endpoint) -> Iterator[Tensor]:
    for value in (*vars(transform).values(), *bounds):
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value


def _interval(low: Endpoint, high: Endpoint) -> constraints.Constraint:
    """The interval between bounds that may be infinite, in a form for which torch has a transform."""
    below = not isinstance(low, Tensor) and low == -math.inf
    above = not isinstance(high, Tensor) and high == math.inf
    if isinstance(low, Tensor):
        below = bool((low == -math.inf).all())
    if isinstance(high, Tensor):
        above = bool((high == math.inf).all())
    if below and above:
        return constraints.real
    if above:
        return constraints.greater_than(low)
    return constraints.less_than(high) if below else constraints.interval(low, high)


def bounds_of(inner: Any) -> tuple[Endpoint, Endpoint] | None:
    """The ends of an interval, -inf and inf where it has none; None for another set."""
    if inner is constraints.real or isinstance(inner, type(constraints.real)):
        return -math.inf, math.inf
    low, high = getattr(inner, "lower_bound", None), getattr(inner, "upper_bound", None)
    if low is None and high is None:
        return None
    return -math.inf if low is None else low, math.inf if high is None else high
