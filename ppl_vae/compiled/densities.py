"""The densities of a program that estimators use, as captured graphs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from ppl_vae.compiled.function import Function, PartialFunction
from ppl_vae.errors import check_one_of, check_positive_int
from ppl_vae.program import Coordinates, Data, Program, num_data
from ppl_vae.program.reference import folded_log_weights


class LogWeights:
    """``program.log_weights(x, num_samples, seed=None, check=False)`` without autograd, ``(S, N)`` float64 in nats.

    The draws come from torch's global generator, and are those of the program itself: for the same state of the
    generator the two agree to round-off.

    Args:
        program: the program.
        num_samples: S.
        level: "plain", "captured" or "compiled" (see `ppl_vae.compiled.LEVELS`).
    """

    def __init__(self, program: Program, num_samples: int, *, level: str = "captured") -> None:
        self.program, self.num_samples = program, check_positive_int("num_samples", num_samples)
        self.level = level
        self._functions: dict[tuple[object, ...], Function] = {}

    def __call__(self, x: Data) -> Tensor:
        """log w of each datum of ``x``, ``(S, N)``."""
        function, given = self._function(x)
        return function.bind(*given)()[0]

    def bind(self, x: Data) -> PartialLogWeights:
        """The same for repeated calls with one ``x``: code that depends on it only, such as an encoder, runs once.

        Parameters must not change while the result is in use.
        """
        function, given = self._function(x)
        return PartialLogWeights(function, function.bind(*given))

    def agree(self, x: Data) -> bool:
        """Whether graph and program agree on ``x`` for the same random numbers; False if there is no graph."""
        function, given = self._function(x)
        return function.agree(*given)

    def cause(self, x: Data) -> str:
        """The reason why the program itself ran in the last call for data like ``x``; empty if the graph ran."""
        return self._function(x)[0].cause

    def _function(self, x: Data) -> tuple[Function, list[Tensor]]:
        names, given = flatten(x)
        program, num_samples, layouts = self.program, self.num_samples, self.program.layouts(x)
        function = self._functions.get((names, layouts))
        if function is None:

            def plain(*tensors: Tensor) -> Sequence[Tensor]:
                with torch.no_grad():
                    data = unflatten(names, tensors)
                    return [program.log_weights(data, num_samples, seed=None, check=False)]

            def right(*tensors: Tensor) -> Sequence[Tensor]:
                with torch.no_grad():
                    return [folded_log_weights(program, unflatten(names, tensors), num_samples)]

            function = self._functions[names, layouts] = program_function(
                program, ("log weights", num_samples, names, layouts), plain, right=right, level=self.level
            )
        return function, given


class PartialLogWeights:
    """`LogWeights` of one ``x``."""

    def __init__(self, function: Function, bound: PartialFunction) -> None:
        self._function, self._bound = function, bound

    def __call__(self) -> Tensor:
        """New draws, and their log weights ``(S, N)``."""
        return self._bound()[0]

    @property
    def cause(self) -> str:
        """Why the program itself ran in the last call; empty if it did not."""
        return self._function.cause


STARTS = ("guide", "prior")


class LogJoint:
    """log f_0(u) and log p(x, u) at points u in unconstrained coordinates, with their gradients, for annealing chains.

    f_0 is the guide q(z|x) or the prior p(z). Values that depend on x only are computed once, such as the output of the
    guide's network.

    Args:
        coordinates: the coordinates of a program and its data.
        start: f_0: "guide" or "prior".
        gradient: whether the gradients in u are computed.
        level: "plain", "captured" or "compiled".

    Raises:
        InputError: if ``start`` is another word.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        start: str = "guide",
        *,
        gradient: bool = True,
        level: str = "captured",
    ) -> None:
        check_one_of("start", start, STARTS)
        layouts = coordinates.program.layouts(coordinates.x)
        names, self._data = flatten(coordinates.x)
        last = len(names) or 1

        def evaluate(at: Coordinates, u: Tensor) -> Sequence[Tensor]:
            with torch.set_grad_enabled(gradient):
                point = u.detach()
                point = point.requires_grad_() if gradient else point
                found = at.densities(point)
                log_start = at.log_guide(found) if start == "guide" else found.log_prior
                values = (log_start, found.log_joint)
                slopes = [gradient_of(value, point) for value in values] if gradient else []
            return [*(value.detach() for value in values), *slopes]

        def plain(*given: Tensor) -> Sequence[Tensor]:
            here = all(a is b for a, b in zip(given, self._data, strict=False))
            return evaluate(coordinates if here else moved(given), given[last])

        def traced(*given: Tensor) -> Sequence[Tensor]:
            return evaluate(moved(given), given[last])

        def moved(given: Sequence[Tensor]) -> Coordinates:
            """The coordinates for other data, without values computed from the first data."""
            other = copy(coordinates)
            other.x, other._single = unflatten(names, given[:last]), None
            return other

        def shuffle(given: Sequence[Tensor]) -> list[Tensor]:
            return [*(t.roll(1, 0) for t in given[:last]), given[last].roll((1, 1), (0, 1))]

        self._function = program_function(
            coordinates.program,
            ("log joint", start, gradient, names, coordinates.names, coordinates.dtype, layouts),
            plain,
            traced=traced,
            varying=(last,),
            shuffle=shuffle,
            dead_draws=False,
            level=level,
        )
        self._bound = self._function.bind(*self._data)

    def __call__(self, u: Tensor) -> Sequence[Tensor]:
        """(log f_0, log p(x, u)), each ``(S, N)`` float64 in nats, and their gradients ``(S, N, D)`` if asked for.

        Args:
            u: ``(S, N, D)``, finite.
        """
        return self._bound(u)

    def agree(self, u: Tensor) -> bool:
        """Whether graph and program agree at ``u``; False if there is no graph."""
        return self._function.agree(*self._data, u)

    @property
    def cause(self) -> str:
        """Why the program itself ran in the last call; empty if it did not."""
        return self._function.cause


def gradient_of(value: Tensor, at: Tensor) -> Tensor:
    """The gradient of a sum; zero if it does not depend on the point."""
    if not value.requires_grad:
        return torch.zeros_like(at)
    (gradient,) = torch.autograd.grad(value.sum(), at, retain_graph=True, allow_unused=True)
    return torch.zeros_like(at) if gradient is None else gradient


def program_function(program: Program, key: tuple[object, ...], plain: object, **options: object) -> Function:
    """A `Function` of a program's densities, with its modules in evaluation mode and its look-up of parameters."""
    from pyro import get_param_store

    return Function(
        program,
        key,
        plain,  # type: ignore[arg-type]
        modules=program.modules,
        modeless=program.modules,
        stores=(program.params, get_param_store(), program.untrained),
        **options,  # type: ignore[arg-type]
    )


def flatten(x: Data) -> tuple[tuple[str, ...], list[Tensor]]:
    """The names and the tensors of a dict; for a single tensor, no names."""
    num_data(x)
    return ((), [x]) if isinstance(x, Tensor) else (tuple(x), list(x.values()))


def unflatten(names: Sequence[str], tensors: Sequence[Tensor]) -> Data:
    """The inverse of `flatten`."""
    if not names:
        return tensors[0]
    return dict(zip(names, tensors, strict=True))
