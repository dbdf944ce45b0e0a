"""Evidence: the frozen result of an estimator, with numbers for each datum and an error for each number."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

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
from ppl_vae.evidence.results.curve import Cost as Cost
from ppl_vae.evidence.results.curve import Curve as Curve
from ppl_vae.evidence.results.mean import Mean as Mean  # this is where it is imported from
from ppl_vae.evidence.results.stored_rows import check_agreement, check_rows, check_settings
from ppl_vae.evidence.results.table import table
from ppl_vae.evidence.results.verdict import (
    BASES,
    FULL,
    STATUSES,
    Verdict,
    degrees_of_freedom,
    judge,
    student_quantile,
)
from ppl_vae.stored import Stored

BOUNDS = ("lower", "upper", "consistent")
_PER_DATUM = ("log_evidence", "stderr", "elbo", "elbo_stderr", "ess", "khat")
_COUNTED = ("draws", "density_evals", "gradient_evals")
_PER_DATUM_AND_K = ("curve_bound", "curve_stderr")
_FOUND = ("missed", "expected_ess", "on_edge", "hidden", "unvisited", "unconfirmed")
_TENSORS = (*_PER_DATUM, "curve_k", *_PER_DATUM_AND_K, *_COUNTED, *_FOUND)
_DTYPES = {"curve_k": torch.int64, "draws": torch.int64}
_DTYPES |= dict.fromkeys(("missed", "unvisited", "unconfirmed"), torch.bool)
_ROWS = tuple(name for name in _TENSORS if name != "curve_k")
_NEEDED = ("num_samples", "method", "bound", "seed")
_SETTINGS = (*_NEEDED, "basis", "certified", "details", "precision")
_KIND = "ppl_vae.Evidence"


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """Estimates of log p(x_n) for N data, in nats: what every estimator returns.

    Tensors are copied to the CPU on construction, as float64 (``curve_k`` and ``draws`` as int64).
    ``evidence[index]``, with a mask, indices, a slice or a number, is the Evidence of those data. What an estimator
    does not have is NaN (the ELBO of one that never samples the guide) or empty (its curve, J = 0).

    Attributes:
        log_evidence: ``(N,)`` the estimates of log p(x_n).
        stderr: ``(N,)`` their Monte Carlo standard errors, by the delta method; of a computed value, a bound of the
            numerical error.
        elbo: ``(N,)`` the ELBO of the guide from the same samples.
        elbo_stderr: ``(N,)`` its standard errors.
        ess: ``(N,)`` effective sample sizes, out of ``draws``.
        khat: ``(N,)`` Pareto tail indices of the weights (Vehtari et al. 2024).
        num_samples: S, the number of weights a datum: samples, chains, or independent runs. Where data got different
            numbers of them, the largest.
        method: the estimator's name, such as "importance".
        bound: "lower" or "upper" (in expectation: a stochastic bound), or "consistent" (no bound).
        seed: the seed that the estimate can be had again from.
        curve_k: ``(J,)`` the K of the curve.
        curve_bound: ``(N, J)`` the IWAE-K bounds (Burda et al. 2016).
        curve_stderr: ``(N, J)`` their standard errors.
        draws: ``(N,)`` the number of weights that each datum got; ``num_samples`` each by default.
        density_evals: ``(N,)`` evaluations of log p(x, z) spent on each datum; ``draws`` by default.
        gradient_evals: ``(N,)`` evaluations of log p(x, z) and its gradient in z; none by default.
        missed: ``(N,)`` bool, where other draws found clearly more mass than the estimate holds (see `prior_check`,
            `guide_check` and `mode_search` in `ppl_vae.evidence.running`); False where nobody looked.
        expected_ess: ``(N,)`` the effective sample size that the steps of a few runs let expect (see
            `ppl_vae.evidence.annealing.work_variance`), by which their verdict goes; NaN where there are no steps.
        on_edge: ``(N,)`` the share of draws that rounding has put onto an edge of their support (see
            `ppl_vae.evidence.running.rounded_draws`); 0 where nobody looked.
        hidden: ``(N,)`` what the tail of the weights may still hide, as a share of p(x) (see
            `ppl_vae.evidence.results.pareto.hidden_share`); NaN where there are no weights to tell.
        unvisited: ``(N,)`` bool, where exact posterior samples of data that the model makes lie where neither draws nor
            chains go (see `ppl_vae.evidence.running.simulation_check`); False where nobody looked.
        unconfirmed: ``(N,)`` bool, where the other bound of a `Sandwich` does not confirm this one; False elsewhere.
        basis: what the errors and the verdict rest on: "weights" (independent importance weights, judged by k-hat),
            "runs" (chains, islands or scramblings: few, each an estimate of its own, judged by their spread), or
            "computed" (nothing was drawn).
        certified: whether ``bound`` is proved. False for a heuristic, such as an upper bound whose chains start from
            approximate posterior samples, and for products of a lower precision: it then holds for the model with
            rounded products, and not for the program.
        details: how it was run, in words, for tables and plots.
        precision: of the matrix products: "full", or the lower one that they were computed in.

    Raises:
        InputError: if a shape, a name or a number does not fit.
        NonFiniteError: naming the first datum whose log evidence is NaN.
    """

    log_evidence: Tensor
    stderr: Tensor
    elbo: Tensor
    elbo_stderr: Tensor
    ess: Tensor
    khat: Tensor
    num_samples: int
    method: str
    bound: str
    seed: int
    curve_k: Tensor
    curve_bound: Tensor
    curve_stderr: Tensor
    draws: Tensor = None  # type: ignore[assignment]  # __post_init__ fills these nine in
    density_evals: Tensor = None  # type: ignore[assignment]
    gradient_evals: Tensor = None  # type: ignore[assignment]
    missed: Tensor = None  # type: ignore[assignment]
    expected_ess: Tensor = None  # type: ignore[assignment]
    on_edge: Tensor = None  # type: ignore[assignment]
    hidden: Tensor = None  # type: ignore[assignment]
    unvisited: Tensor = None  # type: ignore[assignment]
    unconfirmed: Tensor = None  # type: ignore[assignment]
    basis: str = "weights"
    certified: bool = True
    details: str = ""
    precision: str = FULL

    def __post_init__(self) -> None:
        check_positive_int("num_samples", self.num_samples)
        for name in _TENSORS:
            value = getattr(self, name)
            if value is None and name in (*_COUNTED, *_FOUND):
                value = self._counted(name)
            if not isinstance(value, Tensor):
                raise InputError(name, "a tensor", describe(value))
            dtype = _DTYPES.get(name, torch.float64)
            object.__setattr__(self, name, value.detach().to("cpu", dtype, copy=True))
        N, J = self.log_evidence.numel(), self.curve_k.numel()
        shapes = dict.fromkeys((*_PER_DATUM, *_COUNTED, *_FOUND), (N,)) | dict.fromkeys(
            _PER_DATUM_AND_K, (N, J)
        )
        for name, shape in (shapes | {"curve_k": (J,)}).items():
            if getattr(self, name).shape != shape:
                raise InputError(name, f"a tensor of shape {shape}", describe(getattr(self, name)))
        check_one_of("bound", self.bound, BOUNDS)
        check_one_of("basis", self.basis, BASES)
        check_seed(self.seed)
        if not isinstance(self.method, str) or not self.method:
            raise InputError("method", "a name", describe(self.method))
        missing = self.log_evidence.isnan().nonzero()
        if len(missing):
            raise NonFiniteError(f"log evidence of datum {int(missing[0])}: expected a number, received NaN")

    def _counted(self, name: str) -> Tensor:
        """What a count is when it is not given."""
        if name == "draws":
            return torch.full_like(self.log_evidence, self.num_samples, dtype=torch.int64)
        if name in ("expected_ess", "hidden"):
            return torch.full_like(self.log_evidence, torch.nan)
        zeros = torch.zeros_like(self.log_evidence)
        return zeros + self.draws if name == "density_evals" else zeros

    def __len__(self) -> int:
        return self.log_evidence.numel()

    def __getitem__(self, index: Any) -> Evidence:
        picked = index.detach().cpu().numpy() if isinstance(index, Tensor) else index
        rows = torch.from_numpy(np.atleast_1d(np.arange(len(self))[picked]))
        chosen = {name: getattr(self, name)[rows] for name in _ROWS}
        return replace(self, **chosen)

    @property
    def gap(self) -> Tensor:
        """``(N,)`` log evidence - ELBO, in nats: an estimate of KL(q(z|x) || p(z|x))."""
        return self.log_evidence - self.elbo

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The `Verdict` on each datum."""
        found = judge(
            self.log_evidence,
            self.khat,
            self.ess,
            self.draws,
            self.basis,
            self.stderr,
            self.missed,
            self.expected_ess,
            self.hidden,
            self.unvisited,
            self.on_edge,
            self.unconfirmed,
        )
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
        """``(N,)`` why the status is what it is and what to do, a sentence each."""
        return np.array([verdict.message for verdict in self.verdicts], dtype=np.str_)

    def status_fractions(self) -> dict[str, float]:
        """The fraction of the data that has each status; all 0 if there are no data."""
        counts = Counter(verdict.status for verdict in self.verdicts)
        return {status: counts[status] / max(len(self), 1) for status in STATUSES}

    def mean(self, of: str = "log_evidence") -> Mean:
        """The average over data, in nats, with the Monte Carlo and the data's standard error.

        Args:
            of: "log_evidence", "elbo" or "gap". The gap's Monte Carlo error is sqrt(stderr**2 +
                elbo_stderr**2), which is too large rather than too small: w and log w rise together, so the
                errors of the two terms are positively correlated and partly cancel.

        Returns:
            the average. Where the estimates of most data are rejected (`mostly_rejected`), its Monte Carlo error is
            NaN, and its ``limit`` says on which side the truth is. An ELBO is never judged.

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
        """Whether the estimates of more than half of the data are rejected, so that their mean has no known error."""
        return self.status_fractions()["reject"] > 0.5

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Per-datum confidence intervals of log p(x), ``(N,)`` and ``(N,)``, in nats.

        The lower end is ``log_evidence - q stderr``, with q a quantile of Student's distribution. Its degrees of
        freedom are, for many weights, a quarter of the effective sample size. For R runs they are R - 1 where the runs
        hardly differ, and fewer where they do: 2 / (2 / (R - 1) + kappa / R), which is what their sample variance is
        worth (Satterthwaite 1946), kappa being the excess kurtosis of lognormal weights of the effective sample size
        seen. The upper end is ``log_evidence + q stderr``, and for many weights log(1 + c hidden) above that: what
        their tail may still hide, with c = 1 at the level 0.95 and in proportion to normal quantiles at others.

        They cover log p(x) with about that probability where `status` is "trust" or "caution", and nowhere else. A
        computed value's interval is its error bound, whatever the level.

        Raises:
            InputError: if ``level`` is not between 0 and 1.
        """
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
            raise InputError("level", "a number between 0 and 1", describe(level))
        width, above = self.stderr, torch.zeros_like(self.stderr)
        if self.basis != "computed":
            freedom = degrees_of_freedom(self.draws, self.ess, self.basis)
            width = width * student_quantile(level, freedom)
            if self.basis == "weights":
                quantiles = torch.special.ndtri(torch.tensor([(1 + level) / 2, 0.975], dtype=torch.float64))
                scale = float(quantiles[0] / quantiles[1])
                above = (scale * self.hidden).log1p().nan_to_num(nan=0.0, posinf=math.inf)
        return self.log_evidence - width, self.log_evidence + width + above

    @property
    def cost(self) -> Cost:
        """Evaluations of the model a datum, on average."""
        return Cost(float(self.density_evals.mean()), float(self.gradient_evals.mean()))

    def bits_per_dim(self, dims: int) -> Mean:
        """The mean of -log p(x) / (dims log 2), in bits a dimension.

        The sign turns the direction round: a lower bound of log p(x) is an upper bound here.

        Args:
            dims: the number of dimensions of a datum, 784 for a 28 x 28 image.

        Raises:
            InputError: if ``dims`` is not a positive integer.
        """
        unit = check_positive_int("dims", dims) * math.log(2)
        nats = self.mean()
        limit = {"at least": "at most", "at most": "at least"}.get(nats.limit, nats.limit)
        return Mean(-nats.value / unit, nats.mc_stderr / unit, nats.data_stderr / unit, limit)

    def curve(self) -> Curve:
        """The IWAE-K bound for each K, averaged over data."""
        error = (self.curve_stderr**2).sum(dim=0).sqrt() / len(self)
        return Curve(self.curve_k.clone(), self.curve_bound.mean(dim=0), error)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything as named tensors and settings in JSON's types; `unpack` takes them back."""
        return {name: getattr(self, name) for name in _TENSORS}, {n: getattr(self, n) for n in _SETTINGS}

    @classmethod
    def unpack(
        cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], source: str = "packed"
    ) -> Evidence:
        """What was packed; raises `InputError`, naming ``source``, if anything is missing or does not fit."""
        stored = Stored(source, tensors, settings)
        found: dict[str, Any] = {name: tensors[name] for name in _TENSORS if name in tensors}
        found |= {name: settings[name] for name in _SETTINGS if name in settings}
        needed = [field.name for field in fields(cls) if field.name not in (*_COUNTED, *_FOUND, *_SETTINGS)]
        missing = [name for name in (*needed, *_NEEDED) if name not in found]
        expected = "an evidence file written by Evidence.save"
        if missing:
            raise InputError(source, expected, f"one without {', '.join(missing)}")
        check_settings(stored)
        for name in [name for name in _TENSORS if name in tensors]:
            stored.tensor(name, dtype=_DTYPES.get(name, torch.float64), nan=name != "log_evidence")
        stored.only(_TENSORS)
        try:
            made = cls(**found)
        except (InputError, NonFiniteError) as error:
            raise InputError(source, expected, error) from None
        # An older file may lack counts: they are then what the constructor fills in.
        whole = Stored(source, {name: getattr(made, name) for name in _TENSORS}, settings)
        check_rows(whole, made.curve_k.tolist(), made.num_samples)
        check_agreement(whole)
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically; `load` gives it back exactly."""
        tensors, settings = self.pack()
        files.write_tensors(path, tensors, {"kind": _KIND, **settings})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evidence:
        """Read what `save` wrote.

        Raises:
            InputError: naming the file, if it is missing, broken, or holds anything else (a model, say).
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
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in _ROWS}
    return replace(first, **joined)
