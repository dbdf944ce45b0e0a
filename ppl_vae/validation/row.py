"""Row of a report: one estimator on one model, with its problems, and as JSON."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar

from ppl_vae.errors import describe
from ppl_vae.evidence.results.diagnostics import NumericalError
from ppl_vae.evidence.results.flat import Flat, OfParts
from ppl_vae.stored import Stored

_ENOUGH = 100  # the smallest number of trusted estimates for a check of their coverage
_TRUSTING = 0.9
_SHARES = ("coverage", "coverage_trusted", "silent", "trust", "caution", "reject")
_AT_LEAST_ZERO = (
    "bias_stderr",
    "rmse",
    "rmse_stderr",
    "ratio",
    "ratio_stderr",
    "density",
    "gradient",
    "seconds",
)
RIGHT = 0.02
"""Nats: an estimate this close to log Z is right, and should be trusted."""

GROSS = 0.2
"""Nats: with a bad guide, no estimate with a larger error should be trusted."""


@dataclass(frozen=True)
class Errors:
    """The errors of estimates.

    Attributes:
        bias: the mean of log Z-hat - log Z over data and repetitions, in nats.
        bias_stderr: its standard error.
        rmse: sqrt(mean (log Z-hat - log Z)²), in nats.
        rmse_stderr: its standard error.
        ratio: the mean of Z-hat / Z, which is 1 for an unbiased estimator; NaN for estimators that are not unbiased.
        ratio_stderr: its standard error, which is unreliable if the weights have no finite variance.
    """

    bias: float = math.nan
    bias_stderr: float = math.nan
    rmse: float = math.nan
    rmse_stderr: float = math.nan
    ratio: float = math.nan
    ratio_stderr: float = math.nan


@dataclass(frozen=True)
class Shares:
    """Shares of estimates with certain properties.

    Attributes:
        coverage: the share of nominal 95 % intervals that contain log Z.
        coverage_trusted: the same among estimates of status "trust"; NaN if there are none.
        silent: the share of all estimates that are trusted although log Z is outside of their 99.99 % interval.
        gross: the share of all estimates that are trusted although their error is above 0.2 nat.
        right: the share of all estimates that are within 0.02 nat of log Z.
        timid: the share of all estimates that are within 0.02 nat of log Z and are not trusted.
        trust, caution, reject: the shares of the verdicts.
    """

    coverage: float = math.nan
    coverage_trusted: float = math.nan
    silent: float = math.nan
    gross: float = math.nan
    right: float = math.nan
    timid: float = math.nan
    trust: float = math.nan
    caution: float = math.nan
    reject: float = math.nan


@dataclass(frozen=True)
class Spent:
    """The cost of an estimate.

    Attributes:
        density: evaluations of log p(x, z) for each datum.
        gradient: evaluations of its gradient for each datum.
        seconds: the time of one estimate of all data.
    """

    density: float = math.nan
    gradient: float = math.nan
    seconds: float = math.nan


@dataclass(frozen=True)
class Row(OfParts):
    """One estimator on one model: ``repetitions`` independent estimates of each of ``num_data`` log evidences.

    The fields of its parts are also attributes of the row: ``row.bias``, ``row.trust``, ``row.seconds``.

    Attributes:
        model: the model's name.
        estimator: the estimator's name.
        reason: the reason why there are no figures, in words; empty if there are figures.
        bound: the direction of the estimator: "lower", "upper" or "consistent".
        basis: the source of its errors: "weights", "runs" or "computed".
        bad_guide: whether the model's guide is so poor that importance sampling from it must be rejected.
        num_data: N.
        repetitions: R.
        errors: the errors of the estimates.
        shares: shares of estimates with certain properties.
        spent: the cost of an estimate.
    """

    model: str
    estimator: str
    reason: str = ""
    bound: str = ""
    basis: str = ""
    bad_guide: bool = False
    num_data: int = 0
    repetitions: int = 0
    errors: Errors = Errors()
    shares: Shares = Shares()
    spent: Spent = Spent()

    bias = Flat[float]("errors", "bias")
    bias_stderr = Flat[float]("errors", "bias_stderr")
    rmse = Flat[float]("errors", "rmse")
    rmse_stderr = Flat[float]("errors", "rmse_stderr")
    ratio = Flat[float]("errors", "ratio")
    ratio_stderr = Flat[float]("errors", "ratio_stderr")
    coverage = Flat[float]("shares", "coverage")
    coverage_trusted = Flat[float]("shares", "coverage_trusted")
    silent = Flat[float]("shares", "silent")
    gross = Flat[float]("shares", "gross")
    right = Flat[float]("shares", "right")
    timid = Flat[float]("shares", "timid")
    trust = Flat[float]("shares", "trust")
    caution = Flat[float]("shares", "caution")
    reject = Flat[float]("shares", "reject")
    density = Flat[float]("spent", "density")
    gradient = Flat[float]("spent", "gradient")
    seconds = Flat[float]("spent", "seconds")

    _parts: ClassVar[dict[str, type]] = {"errors": Errors, "shares": Shares, "spent": Spent}

    @classmethod
    def flat_fields(cls) -> dict[str, Field[Any]]:
        """All fields, those of the parts in place of the parts, by name, in the order of a file."""
        own = [field for field in fields(cls) if field.name not in cls._parts]
        return {
            field.name: field for field in own + [f for kind in cls._parts.values() for f in fields(kind)]
        }

    def flat(self) -> dict[str, Any]:
        """The values of all fields, those of the parts in place of the parts."""
        return {name: getattr(self, name) for name in self.flat_fields()}

    @property
    def drawn(self) -> bool:
        """Whether the estimates were drawn, and not computed."""
        return self.basis != NumericalError.basis

    @property
    def applies(self) -> bool:
        """Whether the estimator ran on the model."""
        return not self.reason

    @property
    def passes(self) -> float:
        """Passes through the decoder for each datum: 1 for a density, 2 for a gradient."""
        return self.density + 2 * self.gradient

    @property
    def power(self) -> float:
        """The share of the right estimates that is trusted; NaN if none is right."""
        return 1 - self.timid / self.right if self.right > 0 else math.nan

    @property
    def estimates(self) -> int:
        """The number of estimates."""
        return self.num_data * self.repetitions

    @property
    def unbiased(self) -> bool | None:
        """Whether the mean of Z-hat / Z is within 4 standard errors of 1; None for estimators without a claim."""
        if math.isnan(self.ratio):
            return None
        # With zero variance, only round-off remains of the error.
        return abs(self.ratio - 1) <= 4 * self.ratio_stderr + 1e-9

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems, in words; a correct estimator has none on any model."""
        found = []
        where = f"{self.estimator} on {self.model}"
        if self.reason.startswith("failed"):
            found.append(f"{where}: {self.reason}")
        if self.unbiased is False and self.trust >= _TRUSTING:
            found.append(
                f"{where}: mean Z-hat / Z is {self.ratio:.4f} ± {self.ratio_stderr:.4f}, not 1, and is trusted"
            )
        number = self.trust * self.estimates
        # Below 90 %, and by more than chance for one of 30,000 correct pairs.
        if number >= _ENOUGH and self.coverage_trusted < 0.95 - max(
            0.05, 4 * math.sqrt(0.95 * 0.05 / number)
        ):
            found.append(f"{where}: trusted 95 % intervals cover {self.coverage_trusted:.1%}")
        # A correct interval misses one in 10,000; a single miss may be chance.
        if self.silent > 0.001 and self.silent * self.estimates > 1.5:
            found.append(f"{where}: {self.silent:.1%} of the estimates are trusted and far off")
        if self.bad_guide and self.gross > 0:
            found.append(
                f"{where}: {self.gross:.1%} of the estimates are trusted and wrong by more than {GROSS} nat"
            )
        return tuple(found)


def row_from(content: Any, source: str = "row") -> Row:
    """The row that `plain_row` made plain; raises `InputError`, naming ``source`` and the field that does not fit."""
    stored = Stored(source, {}, content)
    known = Row.flat_fields()
    for name in stored.numbers:
        if name not in known:
            raise stored.wrong(str(name), "no such field", describe(stored.numbers[name]))
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name not in stored.numbers and field.default is not MISSING:
            continue
        value = stored.entry(name, object)
        if field.type == "float":
            values[name] = _finite_or_word(stored, name, value)
        elif field.type == "int":
            values[name] = stored.number(name, 0)
        else:
            values[name] = stored.flag(name) if field.type == "bool" else stored.text(name, empty=True)
    for name in _SHARES:
        if values.get(name, 0.0) < 0 or values.get(name, 0.0) > 1 + 1e-9:
            raise stored.wrong(name, "a share from 0 to 1", values[name])
    for name in _AT_LEAST_ZERO:
        if values.get(name, 0.0) < 0:
            raise stored.wrong(name, "a number of 0 or more", values[name])
    return Row.of(**values)


def _finite_or_word(stored: Stored, name: str, value: Any) -> float:
    """A number, or the word for one that is not finite."""
    if value in ("nan", "inf", "-inf"):
        return float(value)
    return float(stored.number(name, whole=False))


def plain_row(row: Row) -> dict[str, Any]:
    """A row in strict JSON's types: numbers that are not finite become words."""
    return {name: _plain(value) for name, value in row.flat().items()}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
