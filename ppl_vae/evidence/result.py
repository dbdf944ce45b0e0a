"""The frozen result of an evidence estimator: per datum first, and no figure without its error."""

from __future__ import annotations

import math
import os
import textwrap
from collections import Counter
from collections.abc import Sequence
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
from ppl_vae.evidence.psis import khat_threshold
from ppl_vae.evidence.status import STATUSES, Verdict, judge

BOUNDS = {
    "lower": "stochastic lower bound",
    "upper": "stochastic upper bound",
    "consistent": "consistent estimate, no bound",
}
_PER_DATUM = ("log_evidence", "stderr", "elbo", "elbo_stderr", "ess", "khat")
_PER_DATUM_AND_K = ("curve_bound", "curve_stderr")
_TENSORS = (*_PER_DATUM, "curve_k", *_PER_DATUM_AND_K)
_SETTINGS = ("num_samples", "method", "bound", "seed")
_KIND = "ppl_vae.Evidence"
_WIDTH = 100
_TABLE_DATA = 8


@dataclass(frozen=True)
class Mean:
    """An average over data, with its two errors kept apart.

    Attributes:
        value: the mean over the N data.
        mc_stderr: sqrt(sum_n stderr_n**2) / N, from the finite number of samples a datum: it falls with S.
        data_stderr: sd over data / sqrt(N), from which data were drawn: it falls with N only. It holds the
            Monte Carlo part as well, since the spread is that of the estimates. NaN for N = 1.
    """

    value: float
    mc_stderr: float
    data_stderr: float


@dataclass(frozen=True, eq=False)
class Curve:
    """The IWAE-K bound averaged over data, in nats, for K from 1 (the ELBO) to S (the evidence estimate).

    Attributes:
        k: ``(J,)`` the K, int64.
        bound: ``(J,)`` the mean over data of E[log (1/K) sum_k w_k], non-decreasing in K but for the error.
        stderr: ``(J,)`` its Monte Carlo standard error. The points share samples: their errors are not
            independent.
    """

    k: Tensor
    bound: Tensor
    stderr: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """Estimates of log p(x_n) for N data, in nats.

    Tensors are copied to the CPU on construction, as float64 (``curve_k`` as int64). ``evidence[index]``,
    with a mask, indices, a slice or a number, is the Evidence of those data.

    Attributes:
        log_evidence: ``(N,)`` the estimates of log p(x_n).
        stderr: ``(N,)`` their Monte Carlo standard errors, by the delta method.
        elbo: ``(N,)`` the ELBO of the same guide from the same samples.
        elbo_stderr: ``(N,)`` its standard errors.
        ess: ``(N,)`` effective sample sizes, out of ``num_samples``.
        khat: ``(N,)`` Pareto tail indices of the weights (Vehtari et al. 2024).
        num_samples: S, the number of weights a datum.
        method: the estimator's name, such as "importance".
        bound: "lower" or "upper" (in expectation: a stochastic bound), or "consistent" (no bound).
        seed: the seed that the estimate can be had again from.
        curve_k: ``(J,)`` the K of the curve.
        curve_bound: ``(N, J)`` the IWAE-K bounds (Burda et al. 2016).
        curve_stderr: ``(N, J)`` their standard errors.

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

    def __post_init__(self) -> None:
        for name in _TENSORS:
            value = getattr(self, name)
            if not isinstance(value, Tensor):
                raise InputError(name, "a tensor", describe(value))
            dtype = torch.int64 if name == "curve_k" else torch.float64
            object.__setattr__(self, name, value.detach().to("cpu", dtype, copy=True))
        N, J = self.log_evidence.numel(), self.curve_k.numel()
        shapes = dict.fromkeys(_PER_DATUM, (N,)) | dict.fromkeys(_PER_DATUM_AND_K, (N, J))
        for name, shape in (shapes | {"curve_k": (J,)}).items():
            if getattr(self, name).shape != shape:
                raise InputError(name, f"a tensor of shape {shape}", describe(getattr(self, name)))
        check_positive_int("num_samples", self.num_samples)
        check_one_of("bound", self.bound, BOUNDS)
        check_seed(self.seed)
        if not isinstance(self.method, str) or not self.method:
            raise InputError("method", "a name", describe(self.method))
        missing = self.log_evidence.isnan().nonzero()
        if len(missing):
            raise NonFiniteError(f"log evidence of datum {int(missing[0])}: expected a number, received NaN")

    def __len__(self) -> int:
        return self.log_evidence.numel()

    def __getitem__(self, index: Any) -> Evidence:
        picked = index.detach().cpu().numpy() if isinstance(index, Tensor) else index
        rows = torch.from_numpy(np.atleast_1d(np.arange(len(self))[picked]))
        chosen = {name: getattr(self, name)[rows] for name in (*_PER_DATUM, *_PER_DATUM_AND_K)}
        return replace(self, **chosen)

    @property
    def gap(self) -> Tensor:
        """``(N,)`` log evidence - ELBO, in nats: an estimate of KL(q(z|x) || p(z|x))."""
        return self.log_evidence - self.elbo

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The `Verdict` on each datum."""
        return tuple(judge(self.log_evidence, self.khat, self.ess, self.num_samples))

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

        Raises:
            InputError: if ``of`` is another name.
        """
        check_one_of("of", of, ("log_evidence", "elbo", "gap"))
        variance = {
            "log_evidence": self.stderr**2,
            "elbo": self.elbo_stderr**2,
            "gap": self.stderr**2 + self.elbo_stderr**2,
        }[of]
        values: Tensor = getattr(self, of)
        N = len(self)
        spread = float(values.std()) / math.sqrt(N) if N > 1 else math.nan
        error = math.sqrt(float(variance.sum())) / N if N else math.nan
        return Mean(float(values.mean()), error, spread)

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
        return Mean(-nats.value / unit, nats.mc_stderr / unit, nats.data_stderr / unit)

    def curve(self) -> Curve:
        """The IWAE-K bound for each K, averaged over data."""
        error = (self.curve_stderr**2).sum(dim=0).sqrt() / len(self)
        return Curve(self.curve_k.clone(), self.curve_bound.mean(dim=0), error)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically; `load` gives it back exactly."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        files.write_tensors(
            path, {name: getattr(self, name) for name in _TENSORS}, {"kind": _KIND, **settings}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evidence:
        """Read what `save` wrote.

        Raises:
            InputError: naming the file, if it is missing, broken, or holds anything else (a model, say).
        """
        tensors, metadata = files.read_tensors(path)
        expected = "an evidence file written by Evidence.save"
        if not isinstance(metadata, dict) or metadata.get("kind") != _KIND:
            raise InputError(
                str(path), expected, "a safetensors file of something else, such as a saved model"
            )
        settings = {name: metadata[name] for name in _SETTINGS if name in metadata}
        found = {name: tensors[name] for name in _TENSORS if name in tensors} | settings
        missing = [field.name for field in fields(cls) if field.name not in found]
        if missing:
            raise InputError(str(path), expected, f"one without {', '.join(missing)}")
        try:
            return cls(**found)
        except (InputError, NonFiniteError) as error:
            raise InputError(str(path), expected, error) from None

    def __repr__(self) -> str:
        return (
            f"Evidence({self.method}, {self.bound}, N={len(self)}, S={self.num_samples}, "
            f"mean log evidence {_with_errors(self.mean())})"
        )

    def __str__(self) -> str:
        return _table(self)


def concatenate(parts: Sequence[Evidence]) -> Evidence:
    """The Evidence of all data of ``parts``, in order.

    Raises:
        InputError: if there are no parts, or they differ in num_samples, method, bound, seed or curve_k.
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
    names = (*_PER_DATUM, *_PER_DATUM_AND_K)
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return replace(first, **joined)


def _with_errors(mean: Mean) -> str:
    return f"{mean.value:.4f} ± {mean.mc_stderr:.2g} (Monte Carlo) ± {mean.data_stderr:.2g} (data)"


def _median(values: Tensor) -> float:
    """The median of what is not NaN (torch would give the lower of the middle two)."""
    numbers = values[~values.isnan()]
    return float(np.median(numbers.numpy())) if len(numbers) else math.nan


def _table(e: Evidence) -> str:
    """What ``print(evidence)`` shows."""
    N, S = len(e), e.num_samples
    header = f"{e.method}: N = {N} data, S = {S} samples, seed {e.seed}, {BOUNDS[e.bound]}; nats"
    if not N:
        return header
    numbers = e.khat[~e.khat.isnan()]
    worst = float(numbers.max()) if len(numbers) else math.nan
    rows = [
        ("log evidence", _with_errors(e.mean())),
        ("ELBO", _with_errors(e.mean("elbo"))),
        ("gap", _with_errors(e.mean("gap"))),
        ("ESS", f"median {_median(e.ess):.1f} [min {float(e.ess.min()):.1f}] of {S}"),
        (
            "k-hat",
            f"median {_median(e.khat):.2f}, max {worst:.2f}, threshold {khat_threshold(S):.2f}",
        ),
    ]
    fractions = e.status_fractions()
    counts = [f"{status} {round(share * N)} ({share:.1%})" for status, share in fractions.items()]
    rows.append(("status", ", ".join(counts)))
    tally = Counter(e.verdicts)
    rows += [
        ("", f"{v.status} {tally[v]}: {v.message}") for v in Verdict if tally[v] and v is not Verdict.GOOD
    ]
    curve = e.curve()
    points = zip(curve.k.tolist(), curve.bound.tolist(), curve.stderr.tolist(), strict=True)
    if len(curve.k):
        rows.append(
            ("IWAE-K", ", ".join(f"{k}:\xa0{bound:.3f}\xa0±\xa0{error:.2g}" for k, bound, error in points))
        )
    lines = [header]
    for name, text in rows:
        wrapped = textwrap.fill(text, _WIDTH, initial_indent=f"{name:<14}", subsequent_indent=" " * 14)
        lines.append(wrapped.replace("\xa0", " "))
    if N <= _TABLE_DATA:
        form = "{:>6} {:>14} {:>9} {:>14} {:>9} {:>9} {:>7}  {}"
        lines.append(form.format("datum", "log evidence", "±", "ELBO", "±", "ESS", "k-hat", "status"))
        for n in range(N):
            figures = [f"{float(getattr(e, name)[n]):{spec}}" for name, spec in _COLUMNS]
            lines.append(form.format(n, *figures, e.verdicts[n].status))
    return "\n".join(lines)


_COLUMNS = (
    ("log_evidence", ".4f"),
    ("stderr", ".2g"),
    ("elbo", ".4f"),
    ("elbo_stderr", ".2g"),
    ("ess", ".1f"),
    ("khat", ".2f"),
)
