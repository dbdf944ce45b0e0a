"""What `validate` found: a row for each estimator on each model, in words, as a table, and as a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from ppl_vae import files
from ppl_vae.errors import InputError, describe
from ppl_vae.stored import Stored

_KIND = "ppl_vae.validation.Report"
_ENOUGH = 100  # trusted estimates from which on their coverage says something
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
"""Nats: an estimate this close to log Z is right, and is to be trusted."""

GROSS = 0.2
"""Nats: no estimate that is further off than this is to be trusted where a guide is bad."""


@dataclass(frozen=True)
class Row:
    """One estimator on one model: ``repetitions`` independent estimates of each of ``num_data`` log evidences.

    Attributes:
        model: the model's name.
        estimator: the estimator's name.
        reason: why there are no figures, in words; empty if there are.
        bound: the direction that the estimator claims: "lower", "upper" or "consistent".
        basis: what its errors rest on: "weights", "runs" or "computed".
        bad_guide: whether the model's guide is one that importance sampling is to reject.
        num_data: N.
        repetitions: R.
        bias: the mean of log Z-hat - log Z over data and repetitions, in nats.
        bias_stderr: its standard error.
        rmse: sqrt(mean (log Z-hat - log Z)²), in nats.
        rmse_stderr: its standard error.
        ratio: the mean of Z-hat / Z, which is 1 for an unbiased estimator; NaN for one that claims no such thing.
        ratio_stderr: its standard error, which means little where the weights have no variance.
        coverage: the share of nominal 95 % intervals that hold log Z.
        coverage_trusted: the same among estimates of status "trust"; NaN if there are none.
        silent: the share of all estimates that are trusted and yet outside their own 99.99 % interval.
        gross: the share of all estimates that are trusted and yet wrong by more than 0.2 nat.
        right: the share of all estimates that are within 0.02 nat of log Z.
        timid: the share of all estimates that are, and are not trusted.
        trust, caution, reject: the shares of the verdicts.
        density: evaluations of log p(x, z) a datum.
        gradient: evaluations of its gradient a datum.
        seconds: for one estimate of all data.
    """

    model: str
    estimator: str
    reason: str = ""
    bound: str = ""
    basis: str = ""
    bad_guide: bool = False
    num_data: int = 0
    repetitions: int = 0
    bias: float = math.nan
    bias_stderr: float = math.nan
    rmse: float = math.nan
    rmse_stderr: float = math.nan
    ratio: float = math.nan
    ratio_stderr: float = math.nan
    coverage: float = math.nan
    coverage_trusted: float = math.nan
    silent: float = math.nan
    gross: float = math.nan
    right: float = math.nan
    timid: float = math.nan
    trust: float = math.nan
    caution: float = math.nan
    reject: float = math.nan
    density: float = math.nan
    gradient: float = math.nan
    seconds: float = math.nan

    @property
    def applies(self) -> bool:
        """Whether the estimator ran on the model."""
        return not self.reason

    @property
    def passes(self) -> float:
        """Passes through the decoder a datum: 1 for a density, 2 for a gradient."""
        return self.density + 2 * self.gradient

    @property
    def power(self) -> float:
        """The share of the right estimates that is trusted; NaN if none is right."""
        return 1 - self.timid / self.right if self.right > 0 else math.nan

    @property
    def estimates(self) -> int:
        """How many estimates the shares are of."""
        return self.num_data * self.repetitions

    @property
    def unbiased(self) -> bool | None:
        """Whether the mean of Z-hat / Z is within 4 standard errors of 1; None where no such thing is claimed."""
        if math.isnan(self.ratio):
            return None
        # Zero variance: round-off is all that is left of the error.
        return abs(self.ratio - 1) <= 4 * self.ratio_stderr + 1e-9

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words: what an honest estimator has none of, whatever it is tried on."""
        found = []
        where = f"{self.estimator} on {self.model}"
        if self.reason.startswith("failed"):
            found.append(f"{where}: {self.reason}")
        if self.unbiased is False and self.trust >= _TRUSTING:
            found.append(
                f"{where}: mean Z-hat / Z is {self.ratio:.4f} ± {self.ratio_stderr:.4f}, not 1, and is trusted"
            )
        number = self.trust * self.estimates
        # Below 90 %, and by more than chance would do to one honest pair out of 30,000.
        if number >= _ENOUGH and self.coverage_trusted < 0.95 - max(
            0.05, 4 * math.sqrt(0.95 * 0.05 / number)
        ):
            found.append(f"{where}: trusted 95 % intervals cover {self.coverage_trusted:.1%}")
        # One in 10,000 is what an honest interval leaves out: a single one may be chance.
        if self.silent > 0.001 and self.silent * self.estimates > 1.5:
            found.append(f"{where}: {self.silent:.1%} of the estimates are trusted and far off")
        if self.bad_guide and self.gross > 0:
            found.append(
                f"{where}: {self.gross:.1%} of the estimates are trusted and wrong by more than {GROSS} nat"
            )
        return tuple(found)


_COLUMNS = (
    ("estimator", "estimator"),
    ("bias", "bias"),
    ("rmse", "RMSE"),
    ("ratio", "mean Z-hat/Z"),
    ("covers", "95 % covers"),
    ("trusted", "of trusted"),
    ("verdicts", "trust/caution/reject"),
    ("silent", "trusted, wrong"),
    ("power", "right, trusted"),
    ("passes", "passes"),
    ("seconds", "seconds"),
)


@dataclass(frozen=True)
class Report:
    """The rows of a validation.

    Attributes:
        rows: one for each estimator on each model.
        seed: the seed that they can be had again from.
    """

    rows: tuple[Row, ...]
    seed: int = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is wrong, in words; empty if nothing is."""
        return tuple(problem for row in self.rows for problem in row.problems)

    def row(self, model: str, estimator: str) -> Row:
        """The row of an estimator on a model.

        Raises:
            InputError: if there is none.
        """
        for row in self.rows:
            if (row.model, row.estimator) == (model, estimator):
                return row
        raise InputError("row", "a model and an estimator of the report", f"{model!r}, {estimator!r}")

    def table(self) -> str:
        """Columns for a terminal, a block for each model; below them, what is wrong."""
        lines = []
        for model in dict.fromkeys(row.model for row in self.rows):
            rows = [row for row in self.rows if row.model == model]
            lines += ["", f"{model}{' (bad guide)' if rows[0].bad_guide else ''}"]
            cells = [[title for _, title in _COLUMNS]] + [_cells(row) for row in rows if row.applies]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            lines += ["  " + _aligned(row, widths) for row in cells]
            lines += [f"  {', '.join(names)}: n/a, {reason}" for reason, names in _reasons(rows).items()]
        return "\n".join([*lines[1:], "", *self.totals, *self._verdict()])

    def markdown(self) -> str:
        """The same as Markdown tables."""
        lines = []
        for model in dict.fromkeys(row.model for row in self.rows):
            rows = [row for row in self.rows if row.model == model]
            lines += ["", f"### {model}{' (bad guide)' if rows[0].bad_guide else ''}", ""]
            lines.append("| " + " | ".join(title for _, title in _COLUMNS) + " |")
            lines.append("|" + " --- |" * len(_COLUMNS))
            for row in rows:
                cells = _cells(row) if row.applies else [row.estimator, f"n/a: {row.reason}"]
                cells += [""] * (len(_COLUMNS) - len(cells))
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join([*lines[1:], "", *(f"* {line}" for line in (*self.totals, *self._verdict()))]) + "\n"

    @property
    def totals(self) -> tuple[str, ...]:
        """The two errors of the verdict over all rows whose estimates were drawn, in words; empty if there are none."""
        rows = [row for row in self.rows if row.applies and row.basis != "computed"]

        def total(share: Callable[[Row], float]) -> float:
            return sum(share(row) * row.estimates for row in rows)

        number, trusted = float(sum(row.estimates for row in rows)), total(lambda row: row.trust)
        right, timid = total(lambda row: row.right), total(lambda row: row.timid)
        if not number or not trusted or not right:
            return ()
        silent, gross = total(lambda row: row.silent), total(lambda row: row.gross)
        covered = total(lambda row: row.coverage_trusted * row.trust if row.trust else 0.0)
        return (
            f"of {right:,.0f} drawn estimates within {RIGHT} nat of log Z, {1 - timid / right:.1%} are trusted",
            (
                f"of {number:,.0f} drawn estimates, {trusted:,.0f} are trusted: of these {silent / trusted:.2%} are "
                f"outside their own 99.99 % intervals, {covered / trusted:.1%} inside their 95 % intervals, and "
                f"{gross:,.0f} wrong by more than {GROSS} nat"
            ),
        )

    def _verdict(self) -> Sequence[str]:
        ran = sum(row.applies for row in self.rows)
        return self.problems or (f"no problems in {ran} pairs of an estimator and a model",)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a JSON file, atomically; `load` gives it back exactly."""
        content = {"kind": _KIND, "seed": self.seed, "rows": [plain_row(row) for row in self.rows]}
        files.write_json(path, content | {"blake2b": files.digest({}, json.dumps(content))})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read what `save` wrote.

        Raises:
            InputError: naming the file, if it is missing, broken, changed, or holds anything else.
        """
        content, source, expected = files.read_json(path), os.fspath(path), "a file written by Report.save"
        if not isinstance(content, dict) or content.get("kind") != _KIND:
            raise InputError(source, expected, "a file of something else")
        known = content.pop("blake2b", None)  # earlier versions wrote none
        if known is not None and known != files.digest({}, json.dumps(content)):
            raise InputError(
                source, f"{expected}, unchanged", "one that was changed (its digest does not fit)"
            )
        stored = Stored(source, {}, content)
        rows, seed = stored.entry("rows", list), stored.number("seed", 0, 2**63 - 1)
        return cls(tuple(row_from(row, f"{source}: row {i + 1}") for i, row in enumerate(rows)), seed)

    def __str__(self) -> str:
        return self.table()


def row_from(content: Any, source: str = "row") -> Row:
    """The row that `plain_row` made plain; raises `InputError`, naming ``source`` and the field that does not fit."""
    stored = Stored(source, {}, content)
    known = {field.name: field for field in fields(Row)}
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
    return Row(**values)


def _finite_or_word(stored: Stored, name: str, value: Any) -> float:
    """A number, or the word for one that is not finite."""
    if value in ("nan", "inf", "-inf"):
        return float(value)
    return float(stored.number(name, whole=False))


def plain_row(row: Row) -> dict[str, Any]:
    """A row in strict JSON's types: numbers that are not finite become words."""
    return {name: _plain(value) for name, value in asdict(row).items()}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _reasons(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The estimators that do not apply, by why not."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if not row.applies:
            found.setdefault(row.reason, []).append(row.estimator)
    return found


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}" if abs(value) >= 5e-4 else f"{value:{sign}.0e}"


def _cells(row: Row) -> list[str]:
    """A row's cells as text."""
    mark = {True: "", False: " !", None: ""}[row.unbiased]
    ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.4f} ± {row.ratio_stderr:.4f}{mark}"
    trusted = "" if math.isnan(row.coverage_trusted) else f"{row.coverage_trusted:.1%}"
    return [
        row.estimator,
        f"{_short(row.bias, '+')} ± {_short(row.bias_stderr)}",
        _short(row.rmse),
        ratio,
        f"{row.coverage:.1%}",
        trusted,
        f"{row.trust:.0%}/{row.caution:.0%}/{row.reject:.0%}",
        f"{row.silent:.1%}",
        "" if math.isnan(row.power) else f"{row.power:.0%} of {row.right:.0%}",
        f"{row.passes:,.0f}",
        f"{row.seconds:.2f}",
    ]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(w) if i == 0 else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()
