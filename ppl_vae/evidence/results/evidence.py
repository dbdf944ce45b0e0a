"""Evidence: the frozen result of an estimator, with estimates and errors for each datum."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppl_vae import files
from ppl_vae.errors import (
    InputError,
    NonFiniteError,
    check_one_of,
    check_positive_int,
    check_seed,
    describe,
)
from ppl_vae.evidence.results.diagnostics import (
    KINDS,
    Judge,
    NumericalError,
    RunDiagnostics,
    WeightDiagnostics,
)
from ppl_vae.evidence.results.flat import EstimateParts, Flat
from ppl_vae.evidence.results.mean import Mean as Mean  # this is where it is imported from
from ppl_vae.evidence.results.parts import BOUNDS, Cost, Curve, Curves, Estimate, Origin
from ppl_vae.evidence.results.stored_rows import check_agreement, check_rows, check_settings
from ppl_vae.evidence.results.table import table
from ppl_vae.evidence.results.verdict import FULL, STATUSES, Verdict
from ppl_vae.stored import Stored

_TENSORS = tuple(EstimateParts.flat_names())
_ESTIMATED = _TENSORS[:9]  # the others have a value where they are not given
_CURVES = ("curve_bound", "curve_stderr")
_DTYPES = {"curve_k": torch.int64, "draws": torch.int64}
_DTYPES |= dict.fromkeys(("missed", "unvisited", "unconfirmed"), torch.bool)
_NEEDED = ("num_samples", "method", "bound", "seed")
_SETTINGS = (*_NEEDED, "basis", "certified", "details", "precision")
_KIND = "ppl_vae.Evidence"


@dataclass(frozen=True, eq=False, repr=False)
class Evidence(EstimateParts):
    """Estimates of log p(x_n) for N data, in nats: the result of every estimator.

    It has six parts, whose fields are also attributes of the `Evidence`: ``e.log_evidence``, ``e.stderr``,
    ``e.elbo``, ``e.elbo_stderr``; ``e.ess``, ``e.khat``, ``e.draws`` and the other diagnostics; ``e.curve_k``,
    ``e.curve_bound``, ``e.curve_stderr``; ``e.density_evals``, ``e.gradient_evals``; ``e.num_samples``, ``e.method``,
    ``e.bound``, ``e.seed``, ``e.certified``, ``e.details``, ``e.precision``. `of` makes an Evidence from values with
    these names, and `replace` returns a copy with some values changed.

    Tensors are copied to the CPU on construction, as float64 (``curve_k`` and ``draws`` as int64).
    ``evidence[index]``, with a mask, indices, a slice or a number, is the Evidence of those data. Numbers that an
    estimator does not have are NaN (the ELBO, for an estimator that never samples the guide) or empty (the curve,
    J = 0).

    Attributes:
        estimate: log p(x_n), with Monte Carlo standard errors by the delta method; for computed values, with a bound of
            the numerical error.
        guide_elbo: the ELBO of the guide from the same samples.
        diagnostics: the diagnostics of the draws. Their class is the source of errors and verdicts:
            `WeightDiagnostics` (independent importance weights, and the share that their tail may hide),
            `RunDiagnostics` (the spread of a few chains, islands or scramblings, each with an estimate), or
            `NumericalError` (nothing was drawn).
        curves: the IWAE-K bounds of each datum; `curve` is their average.
        cost: evaluations of the model.
        origin: the estimator, its settings, and the direction of its bias.

    Raises:
        InputError: if a shape, a name or a number does not fit.
        NonFiniteError: naming the first datum whose log evidence is NaN.
    """

    estimate: Estimate
    guide_elbo: Estimate
    diagnostics: WeightDiagnostics | RunDiagnostics | NumericalError
    curves: Curves
    cost: Cost
    origin: Origin

    num_samples = Flat[int]("origin", "num_samples")
    method = Flat[str]("origin", "method")
    bound = Flat[str]("origin", "bound")
    seed = Flat[int]("origin", "seed")
    certified = Flat[bool]("origin", "certified")
    details = Flat[str]("origin", "details")
    precision = Flat[str]("origin", "precision")

    _parts: ClassVar[dict[str, type]] = {
        "estimate": Estimate,
        "guide_elbo": Estimate,
        "diagnostics": Judge,
        "curves": Curves,
        "cost": Cost,
        "origin": Origin,
    }

    def __post_init__(self) -> None:
        for part, kind in self._parts.items():
            if not isinstance(getattr(self, part), kind):
                raise InputError(part, f"a part of type {kind.__name__}", describe(getattr(self, part)))
        check_positive_int("num_samples", self.num_samples)
        tensors = {name: getattr(self, name) for name in _TENSORS}
        for name, value in tensors.items():
            if not isinstance(value, Tensor):
                raise InputError(name, "a tensor", describe(value))
            tensors[name] = value.detach().to("cpu", _DTYPES.get(name, torch.float64), copy=True)
        N, J = tensors["log_evidence"].numel(), tensors["curve_k"].numel()
        shapes = dict.fromkeys(_TENSORS, (N,)) | {"curve_k": (J,)} | dict.fromkeys(_CURVES, (N, J))
        for name in sorted(_TENSORS, key=lambda name: name.startswith("curve")):
            if tensors[name].shape != shapes[name]:
                raise InputError(name, f"a tensor of shape {shapes[name]}", describe(tensors[name]))
        check_one_of("bound", self.bound, tuple(BOUNDS))
        check_seed(self.seed)
        if not isinstance(self.method, str) or not self.method:
            raise InputError("method", "a name", describe(self.method))
        missing = tensors["log_evidence"].isnan().nonzero()
        if len(missing):
            raise NonFiniteError(f"log evidence of datum {int(missing[0])}: expected a number, received NaN")
        for part, values in self._by_part(tensors)[0].items():
            object.__setattr__(self, part, replace(getattr(self, part), **values))

    @classmethod
    def of(cls, *, basis: str = "weights", **values: Any) -> Evidence:
        """An Evidence from the values of the fields of its parts.

        Args:
            basis: "weights", "runs" or "computed": the source of the errors, and so the class of ``diagnostics``.
            **values: the fields of all parts. The default of ``draws`` is ``num_samples`` for each datum, and that of
                ``density_evals`` is ``draws``. Other fields have the defaults of the parts.

        Raises:
            InputError: if a value does not fit.
        """
        check_one_of("basis", basis, tuple(KINDS))
        if values.get("draws") is None and isinstance(values.get("ess"), Tensor):
            number = check_positive_int("num_samples", values.get("num_samples"))
            values["draws"] = torch.full_like(values["ess"], number, dtype=torch.int64)
        if values.get("density_evals") is None:
            values["density_evals"] = values.get("draws")
        return cls._of(cls._parts | {"diagnostics": KINDS[basis]}, values)

    @property
    def basis(self) -> str:
        """The source of the errors and the verdicts: "weights", "runs" or "computed"."""
        return self.diagnostics.basis

    def __len__(self) -> int:
        return self.log_evidence.numel()

    def __getitem__(self, index: Any) -> Evidence:
        picked = index.detach().cpu().numpy() if isinstance(index, Tensor) else index
        rows = torch.from_numpy(np.atleast_1d(np.arange(len(self))[picked]))
        return self.replace(**{name: value[rows] for name, value in self.per_datum().items()})

    @property
    def gap(self) -> Tensor:
        """``(N,)`` log evidence - ELBO, in nats: an estimate of KL(q(z|x) || p(z|x))."""
        return self.log_evidence - self.elbo

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The `Verdict` on each datum."""
        found = self.diagnostics.verdicts(self.estimate)
        if self.certified:
            return tuple(found)
        doubt = Verdict.HEURISTIC if self.precision == FULL else Verdict.ROUNDED
        return tuple(doubt if v.status == "trust" else v for v in found)

    @property
    def status(self) -> NDArray[np.str_]:
        """``(N,)`` "trust", "caution" or "reject"."""
        return np.array([verdict.status for verdict in self.verdicts], dtype=np.str_)

    @property
    def reason(self) -> NDArray[np.str_]:
        """``(N,)`` the reason of the status, and advice, in one sentence each."""
        return np.array([verdict.message for verdict in self.verdicts], dtype=np.str_)

    def status_fractions(self) -> dict[str, float]:
        """The fraction of the data that has each status; all 0 if there are no data."""
        counts = Counter(verdict.status for verdict in self.verdicts)
        return {status: counts[status] / max(len(self), 1) for status in STATUSES}

    def mean(self, of: str = "log_evidence") -> Mean:
        """The average over data, in nats, with its Monte Carlo standard error and its standard error over data.

        Args:
            of: "log_evidence", "elbo" or "gap". The gap's Monte Carlo error is sqrt(stderr**2 +
                elbo_stderr**2), an overestimate: the errors of the two terms are positively correlated, and partly
                cancel in the difference.

        Returns:
            the average. If the estimates of most data are rejected (`mostly_rejected`), its Monte Carlo error is
            NaN, and its ``limit`` says on which side the true value is. An ELBO has no verdict.

        Raises:
            InputError: if ``of`` is another name.
        """
        check_one_of("of", of, ("log_evidence", "elbo", "gap"))
        stderr = {
            "log_evidence": self.stderr,
            "elbo": self.elbo_stderr,
            "gap": (self.stderr**2 + self.elbo_stderr**2).sqrt(),
        }[of]
        mean = Mean.of(getattr(self, of), stderr)
        if of == "elbo" or not self.mostly_rejected:
            return mean
        limit = {"lower": "at least", "upper": "at most"}.get(self.bound if self.certified else "", "about")
        return replace(mean, mc_stderr=math.nan, limit=limit)

    @property
    def mostly_rejected(self) -> bool:
        """Whether the estimates of more than half of the data are rejected; their mean then has no known error."""
        return self.status_fractions()["reject"] > 0.5

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Confidence intervals of log p(x) for each datum, ``(N,)`` and ``(N,)``, in nats.

        The lower end is ``log_evidence - q stderr``, where q is a quantile of Student's distribution. For many weights,
        its degrees of freedom are a quarter of the effective sample size. For R runs they are 2 / (2 / (R - 1) +
        kappa / R), the degrees of freedom of their sample variance (Satterthwaite 1946), where kappa is the excess
        kurtosis of lognormal weights with the observed effective sample size: R - 1 if the runs hardly differ, and
        fewer otherwise. The upper end is ``log_evidence + q stderr``. For many weights log(1 + c hidden) is added to
        it, for the share that their tail may hide; c is 1 at the level 0.95, and proportional to normal quantiles.

        Intervals cover log p(x) with about the probability ``level`` if `status` is "trust" or "caution", but not if
        it is "reject". The interval of a computed value is its error bound, for any level.

        Raises:
            InputError: if ``level`` is not between 0 and 1.
        """
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
            raise InputError("level", "a number between 0 and 1", describe(level))
        return self.diagnostics.interval(self.estimate, level)

    def bits_per_dim(self, dims: int, levels: int = 1) -> Mean:
        """The mean of -log p(x) / (dims log 2) + log2(levels), in bits per dimension.

        Because of the sign, a lower bound of log p(x) becomes an upper bound. For integers that were dequantised and
        scaled to [0, 1], the bits of the density with ``levels`` are an upper bound of the bits of the integers.

        Args:
            dims: the number of dimensions of a datum: 784 for a 28 x 28 image.
            levels: how many values the integers had before they were dequantised, 256 for most images.

        Raises:
            InputError: if ``dims`` or ``levels`` is not a positive integer.
        """
        unit = check_positive_int("dims", dims) * math.log(2)
        nats = self.mean()
        limit = {"at least": "at most", "at most": "at least"}.get(nats.limit, nats.limit)
        value = math.log2(check_positive_int("levels", levels)) - nats.value / unit
        return Mean(value, nats.mc_stderr / unit, nats.data_stderr / unit, limit)

    def summary(self) -> dict[str, Any]:
        """What the average over data comes to, in JSON's types: None where a number is not known."""
        nats = self.mean().summary()
        return {
            "method": self.method,
            "bound": self.bound,
            "certified": self.certified,
            "basis": self.basis,
            "details": self.details,
            "num_data": len(self),
            "num_samples": self.num_samples,
            "seed": self.seed,
            "unit": "nats a datum, mean over data",
            **{name: self.mean(name).summary() for name in ("log_evidence", "elbo", "gap")},
            "negative_log_likelihood": nats | {"value": None if nats["value"] is None else -nats["value"]},
            "status": self.status_fractions(),
            "cost": self.cost.summary(),
        }

    def curve(self) -> Curve:
        """The IWAE-K bound for each K, averaged over data."""
        return self.curves.mean()

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything as named tensors and settings in JSON's types, for `unpack`."""
        return {name: getattr(self, name) for name in _TENSORS}, {n: getattr(self, n) for n in _SETTINGS}

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str = "packed"
    ) -> Evidence:
        """The inverse of `pack`; raises `InputError`, naming ``source``, if anything is missing or does not fit."""
        stored = Stored(source, tensors, settings)
        found: dict[str, Any] = {name: tensors[name] for name in _TENSORS if name in tensors}
        found |= {name: settings[name] for name in _SETTINGS if name in settings}
        missing = [name for name in (*_ESTIMATED, *_NEEDED) if name not in found]
        expected = "an evidence file written by Evidence.save"
        if missing:
            raise InputError(source, expected, f"a file without {', '.join(missing)}")
        check_settings(stored)
        for name in [name for name in _TENSORS if name in tensors]:
            stored.tensor(name, dtype=_DTYPES.get(name, torch.float64), nan=name != "log_evidence")
        stored.only(_TENSORS)
        try:
            made = cls.of(**found)
        except (InputError, NonFiniteError) as error:
            raise InputError(source, expected, error) from None
        # An older file may have no counts; the constructor then fills them in.
        whole = Stored(source, {name: getattr(made, name) for name in _TENSORS}, settings)
        check_rows(whole, made.curve_k.tolist(), made.num_samples)
        check_agreement(whole)
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically; `load` reads it without any change."""
        tensors, settings = self.pack()
        files.write_tensors(path, tensors, {"kind": _KIND, **settings})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evidence:
        """Read a file that `save` wrote.

        Raises:
            InputError: naming the file, if it is missing, damaged, or another kind of file (such as a saved model).
        """
        other = "a safetensors file of something else, such as a saved model"
        tensors, metadata = files.read_kind(path, _KIND, "an evidence file written by Evidence.save", other)
        return cls.unpack(tensors, metadata, str(path))

    def __repr__(self) -> str:
        return (
            f"Evidence({self.method}, {self.bound}, N={len(self)}, S={self.num_samples}, "
            f"mean log evidence {self.mean()})"
        )

    def __str__(self) -> str:
        return table(self)


def concatenate(parts: Sequence[Evidence]) -> Evidence:
    """The Evidence of all data of ``parts``, in order.

    Raises:
        InputError: if there are no parts, or they differ in a setting (num_samples, method, bound, seed, ...) or
            in curve_k.
    """
    if not parts:
        raise InputError("parts", "at least one Evidence", "none")
    first = parts[0]
    for number, part in enumerate(parts):
        for name in _SETTINGS:
            if getattr(part, name) != getattr(first, name):
                raise InputError(
                    f"parts[{number}].{name}", repr(getattr(first, name)), repr(getattr(part, name))
                )
        if not torch.equal(part.curve_k, first.curve_k):
            expected = str(first.curve_k.tolist())
            raise InputError(f"parts[{number}].curve_k", expected, part.curve_k.tolist())
    rows = [part.per_datum() for part in parts]
    return first.replace(**{name: torch.cat([row[name] for row in rows]) for name in rows[0]})
