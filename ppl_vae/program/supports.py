"""Supports of distributions: the set of values that a distribution gives density to, and comparisons of such sets.

torch's constraints are the language. Two of its statements are corrected here: the support of a transformed
distribution is the image of its base's support, not all of the last transform's codomain; and an angle lives on a
circle, of which one period holds all of the mass, not on the real line. Everything works on the last axes alone:
values are ``(..., *event)``, and bounds broadcast to them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.distributions import constraints as named
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, constraints
from torch.distributions.transforms import AffineTransform, ComposeTransform, IndependentTransform, Transform

Bound = Tensor | float


class Circle(constraints.interval):
    """The angles from -pi to pi, whose ends are one point: one period of a density that repeats itself."""

    def __init__(self) -> None:
        super().__init__(-math.pi, math.pi)


circle = Circle()
_ANGLES = (torch.distributions.VonMises, dist.SineBivariateVonMises)
_CIRCULAR = ("circular", "_Circular")
_WRAPPERS = (Independent, MaskedDistribution, ExpandedDistribution)
_STRAIGHT_THROUGH = (dist.RelaxedBernoulliStraightThrough, dist.RelaxedOneHotCategoricalStraightThrough)


def layers(fn: Any) -> Iterator[Any]:
    """A distribution and what it wraps without changing the family: to_event, mask and expand."""
    yield fn
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
        yield fn


def core(fn: Any) -> Any:
    """The distribution inside to_event, mask and expand."""
    *_, inner = layers(fn)
    return inner


def is_straight_through(fn: Any) -> bool:
    """Whether it draws hard values and scores the soft ones that they were rounded from."""
    return isinstance(core(fn), _STRAIGHT_THROUGH)


def support_of(fn: Any) -> constraints.Constraint | None:
    """The set of values that a distribution gives density to; None where it does not say."""
    if isinstance(fn, Independent):
        inner = support_of(fn.base_dist)
        n = fn.reinterpreted_batch_ndims
        return inner if inner is None or not n else constraints.independent(inner, n)
    if isinstance(fn, MaskedDistribution | ExpandedDistribution):
        return support_of(fn.base_dist)
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
    """What a support is of each number: without event dimensions, and of a mixture that of its components."""
    inner: Any = support
    while isinstance(inner, constraints.independent) or is_mixture(inner):
        inner = inner.base_constraint
    found: constraints.Constraint = inner
    return found


def is_mixture(support: constraints.Constraint) -> bool:
    """Whether it is the support of a `MixtureSameFamily`."""
    return type(support).__name__ == "MixtureSameFamilyConstraint"


def is_real(support: constraints.Constraint | None) -> bool:
    """Whether every real number, or vector of real numbers, is in it."""
    return support is not None and base(support) is constraints.real


def hull(support: constraints.Constraint) -> constraints.Constraint:
    """The support without event dimensions; of a mixture, the smallest interval that holds all components."""
    inner: Any = support
    mixed, dims = False, 0
    while isinstance(inner, constraints.independent) or is_mixture(inner):
        if is_mixture(inner):
            mixed, dims = True, 0
        else:
            dims += inner.reinterpreted_batch_ndims
        inner = inner.base_constraint
    bounds = None if not mixed or inner.is_discrete else _bounds(inner)
    if bounds is None or inner is circle:
        found: constraints.Constraint = inner
        return found
    low, high = (_over_components(b, dims + inner.event_dim, e) for b, e in zip(bounds, (-1, 1), strict=True))
    return _interval(low, high)


def _over_components(bound: Bound, event_dims: int, end: int) -> Bound:
    """The outermost bound of all components, which are on the axis before the event's."""
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
    support = getattr(type(fn), "support", None)
    return any(getattr(s, "__name__", type(s).__name__) in _CIRCULAR for s in (support,))


# ---- transformed distributions --------------------------------------------------------------------------------------


def _says_codomain(fn: Any) -> bool:
    """Whether its support is torch's default: the codomain of the last transform."""
    return type(fn).support is TransformedDistribution.support or not hasattr(type(fn), "support")


def _image(fn: Any) -> constraints.Constraint | None:
    """The image of the base's support under the transforms; None where it cannot be told."""
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
    bounds = None if inner.is_discrete or inner.event_dim or not elementwise else _bounds(inner)
    if bounds is None or is_mixture(support) or not transform.bijective:
        return None
    like = next((v for v in _tensors(transform, *bounds)), torch.zeros(()))
    ends = [torch.as_tensor(b, dtype=like.dtype, device=like.device) for b in bounds]
    low, high = transform(ends[0]), transform(ends[1])
    return _interval(torch.minimum(low, high), torch.maximum(low, high))


def _whole(inner: constraints.Constraint, domain: constraints.Constraint) -> bool:
    """Whether a base's support is all that a transform takes."""
    if inner is domain or {inner, domain} == {constraints.real, constraints.real_vector}:
        return True
    ours, theirs = _bounds(inner), _bounds(domain)
    if ours is None or theirs is None or inner.is_discrete != domain.is_discrete:
        return False
    return all(_same(a, b) for a, b in zip(ours, theirs, strict=True))


def _same(a: Bound, b: Bound) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b or bool(torch.as_tensor(a == b).all())
    return a == b


def _tensors(transform: Any, *bounds: Bound) -> Iterator[Tensor]:
    for value in (*vars(transform).values(), *bounds):
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value


def _interval(low: Bound, high: Bound) -> constraints.Constraint:
    """The interval between bounds that may be infinite, in the form that torch has a map to."""
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


# ---- comparison -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """A set in the form that sets are compared in.

    Attributes:
        measure: what its density is one of; densities for two of these cannot be divided by one another.
        form: the name of the set; empty for a product of intervals.
        low: the lower bounds.
        high: the upper bounds.
    """

    measure: str
    form: str = ""
    low: Bound = -math.inf
    high: Bound = math.inf

    def words(self) -> str:
        """The set in words."""
        if self.form:
            return self.form
        low, high = (f"{v:g}" if isinstance(v, float | int) else _range(v) for v in (self.low, self.high))
        if self.measure == "numbers" and (low, high) == ("-inf", "inf"):
            return "all real numbers"
        return f"{'real numbers' if self.measure == 'numbers' else 'integers'} from {low} to {high}"


def _range(bound: Tensor) -> str:
    ends = [f"{float(v):g}" for v in (bound.min(), bound.max())]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} ... {ends[1]}"


# Sets that are no product of intervals: the measure, and the sets that hold them.
_FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "_OrderedVector": ("numbers", ()),
    "_PositiveOrderedVector": ("numbers", ("_OrderedVector",)),
    "_Simplex": ("points of a simplex", ()),
    "_OneHot": ("one-hot vectors", ()),
    "_Sphere": ("points of a sphere", ()),
    "_LowerTriangular": ("triangular matrices", ()),
    "_LowerCholesky": ("triangular matrices", ("_LowerTriangular",)),
    "_CorrCholesky": ("Cholesky factors of correlation matrices", ()),
    "_UnitLowerCholesky": ("triangular matrices of unit diagonal", ()),
    "_Square": ("square matrices", ()),
    "_Symmetric": ("symmetric matrices", ()),
    "_PositiveSemidefinite": ("symmetric matrices", ("_Symmetric",)),
    "_PositiveDefinite": ("symmetric matrices", ("_Symmetric", "_PositiveSemidefinite")),
    "_CorrMatrix": ("correlation matrices", ()),
}
_SAME = {"_SoftplusLowerCholesky": "_LowerCholesky", "_PositiveSemidefinite": "_PositiveDefinite"}


def region(support: constraints.Constraint) -> Region | None:
    """A support in the form that sets are compared in; None where it is of no kind that is known here."""
    inner = hull(support)
    name = type(inner).__name__
    name = _SAME.get(name, name)
    if name in _FORMS:
        return Region(_FORMS[name][0], name)
    if inner is constraints.real or inner is constraints.real_vector:
        return Region("numbers")
    if inner is constraints.boolean:
        return Region("integers", "", 0.0, 1.0)
    if inner is named.integer:
        return Region("integers")
    bounds = _bounds(inner)
    if bounds is None or isinstance(inner, type(constraints.multinomial(0))):
        return None
    return Region("integers" if inner.is_discrete else "numbers", "", *bounds)


def _bounds(inner: Any) -> tuple[Bound, Bound] | None:
    """The ends of an interval, -inf and inf where it has none; None for another set."""
    if inner is constraints.real or isinstance(inner, type(constraints.real)):
        return -math.inf, math.inf
    low, high = getattr(inner, "lower_bound", None), getattr(inner, "upper_bound", None)
    if low is None and high is None:
        return None
    return -math.inf if low is None else low, math.inf if high is None else high


def is_other_kind(model: Any, guide: Any) -> bool:
    """Whether two densities are of different kinds: counting against volume, numbers against points of a sphere."""
    ours, theirs = _regions(model, guide)
    if ours is not None and theirs is not None:
        return ours.measure != theirs.measure
    supports = [support_of(fn) for fn in (model, guide)]
    if supports[0] is None or supports[1] is None:
        return False
    return bool(base(supports[0]).is_discrete) != bool(base(supports[1]).is_discrete)


def uncovered(model: Any, guide: Any) -> Tensor | None:
    """Where a guide's support lacks a part of the model's, by what both say: bool, of a shape that broadcasts.

    Returns:
        None where the sets cannot be compared: what density draws have must tell then.
    """
    ours, theirs = _regions(model, guide)
    if ours is None or theirs is None or ours.measure != theirs.measure:
        return None
    if theirs.form:
        inside = theirs.form == ours.form or (ours.form and theirs.form in _FORMS[ours.form][1])
        return torch.tensor(not inside)
    low, high = (0.0, math.inf) if ours.form == "_PositiveOrderedVector" else (ours.low, ours.high)
    gap = 16 * max(_eps(v) for v in (low, high, theirs.low, theirs.high))
    missing = torch.zeros((), dtype=torch.bool)
    for sign, a, b in ((1, low, theirs.low), (-1, high, theirs.high)):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        b = b.to(a.device) if b.ndim == 0 else b
        a = a.to(b.device) if a.ndim == 0 else a
        slack = gap * torch.maximum(a.abs(), b.abs()).nan_to_num(0.0, 0.0, 0.0)
        slack = torch.where(slack.isfinite(), slack, 0.0)
        lacks = sign * (b - a) > slack
        missing = missing.to(lacks.device) | torch.where(a == b, False, lacks)
    return missing


def _regions(model: Any, guide: Any) -> tuple[Region | None, Region | None]:
    supports = (support_of(model), support_of(guide))
    return tuple(None if s is None else region(s) for s in supports)  # type: ignore[return-value]


def _eps(bound: Bound) -> float:
    return (
        torch.finfo(bound.dtype).eps if isinstance(bound, Tensor) and bound.is_floating_point() else 2.0**-52
    )


def words(fn: Any) -> str:
    """What a distribution's support is, in words, with its family."""
    support = support_of(fn)
    found = None if support is None else region(support)
    family = type(core(fn)).__name__
    if found is None:
        return family if support is None else f"{family} on {support}"
    form = _FORMS[found.form][0] if found.form else ""
    if found.form in ("_OrderedVector", "_PositiveOrderedVector"):
        form = "ordered vectors"
    elif found.form == "_PositiveDefinite":
        form = "positive definite matrices"
    return f"{family} on {form or found.words()}"


def inside(fn: Any, value: Tensor) -> Tensor | None:
    """Whether values are on a distribution's support, ``(..., *batch)``; None where it does not say."""
    support = support_of(fn)
    if support is None:
        return None
    checked: Tensor = support.check(value)
    return checked


def impossible(fn: Any, value: Tensor) -> Tensor | None:
    """Where a distribution of given probabilities gives one of exactly 0, ``(..., *batch)``; None for another one.

    torch's log densities are finite there: they round the probability up before they take its logarithm.
    """
    if isinstance(fn, Independent):
        found = impossible(fn.base_dist, value)
        n = fn.reinterpreted_batch_ndims
        return found if found is None or not n else found.flatten(found.ndim - n).any(-1)
    if isinstance(fn, MaskedDistribution | ExpandedDistribution):
        return impossible(fn.base_dist, value)
    given = vars(fn).get("probs")
    if not isinstance(given, Tensor):
        inner = vars(fn).get("_categorical")
        given = None if inner is None else vars(inner).get("probs")
    if given is None:
        return None
    if isinstance(fn, torch.distributions.Categorical):
        index = value.long().unsqueeze(-1)
        probs = given.expand(torch.broadcast_shapes(given.shape, (*index.shape[:-1], given.shape[-1])))
        good = (index >= 0) & (index < probs.shape[-1])
        chance = probs.gather(-1, torch.where(good, index, 0).expand(*probs.shape[:-1], 1))
        return (chance == 0).squeeze(-1)
    if isinstance(fn, torch.distributions.OneHotCategorical):
        return (given * value).sum(-1) == 0
    if isinstance(fn, torch.distributions.Bernoulli | torch.distributions.Binomial):
        most = getattr(fn, "total_count", 1)
        return ((given == 0) & (value > 0)) | ((given == 1) & (value < most))
    return None


# ---- edges ----------------------------------------------------------------------------------------------------------


def has_edges(fn: Any) -> bool:
    """Whether rounding can put a draw onto an edge of the distribution's support, where its density may be anything."""
    support = support_of(fn)
    if support is None or support.is_discrete:
        return False
    inner = base(support)
    return not (inner is constraints.real or inner is circle)


def on_edge(fn: Any, value: Tensor) -> Tensor:
    """Whether values have been rounded onto an edge of their support, or to infinity: bool ``(..., *batch)``.

    An end of an interval counts, and what is nearer to it than numbers of the dtype can tell apart; of a simplex, a
    share that is no more than the smallest number that is represented in full.
    """
    support = support_of(fn)
    tiny, eps = torch.finfo(value.dtype).tiny, torch.finfo(value.dtype).eps
    found = ~value.isfinite()
    inner = None if support is None else hull(support)
    if inner is not None and type(inner).__name__ == "_Simplex":
        found = found | (value <= tiny)
    bounds = None if inner is None or inner is circle or inner.is_discrete else _bounds(inner)
    if bounds is not None:
        low, high = (torch.as_tensor(b, dtype=value.dtype, device=value.device) for b in bounds)
        found = found | (value - low <= tiny + eps * low.abs().nan_to_num(0.0, 0.0, 0.0))
        found = found | (high - value <= tiny + eps * high.abs().nan_to_num(0.0, 0.0, 0.0))
    dims = len(fn.event_shape)
    return found.flatten(found.ndim - dims).any(-1) if dims else found
