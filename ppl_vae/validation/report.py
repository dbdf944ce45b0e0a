"""Report of a validation: a row for each estimator on each model, as text, as a table, and as a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ppl_vae import files
from ppl_vae.errors import InputError
from ppl_vae.stored import Stored
from ppl_vae.validation.row import GROSS, RIGHT, Row, plain_row, row_from

_KIND = "ppl_vae.validation.Report"
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
        seed: the seed of models, data and runs.
    """

    rows: tuple[Row, ...]
    seed: int = 0

    @property
    def problems(self) -> tuple[str, ...]:
        """All problems, in words; empty if there are none."""
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
        """Columns for a terminal, with a block for each model, followed by the totals and the problems."""
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

    def errors_and_costs(self) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
        """For `ppl_vae.plots.error_against_cost`: every pair that has a Monte Carlo error (others' are 1e-12 or so)."""
        points: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
        for row in self.rows:
            if row.applies and row.drawn and row.passes > 0 and not math.isnan(row.rmse):
                point = row.passes, row.rmse, row.rmse_stderr
                points.setdefault(row.model, {})[row.estimator] = [point]
        return points

    @property
    def totals(self) -> tuple[str, ...]:
        """The two errors of verdicts over all rows with random draws, in words; empty if there are none."""
        rows = [row for row in self.rows if row.applies and row.drawn]

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
        """Write everything to a JSON file, atomically; `load` reads it without any change."""
        content = {"kind": _KIND, "seed": self.seed, "rows": [plain_row(row) for row in self.rows]}
        files.write_json(path, content | {"blake2b": files.digest({}, json.dumps(content))})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read a file that `save` wrote.

        Raises:
            InputError: naming the file, if it is missing, damaged, changed, or another kind of file.
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


def _reasons(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The estimators that do not apply, by reason."""
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
