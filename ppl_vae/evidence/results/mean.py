"""Mean: an average over data, with its Monte Carlo error and its error over data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """An average over data, with two separate errors.

    Attributes:
        value: the mean over the N data.
        mc_stderr: sqrt(sum_n stderr_n**2) / N, the Monte Carlo error, which decreases with S. NaN if it is not known
            because the estimates of most data are rejected.
        data_stderr: sd over data / sqrt(N), the error from the choice of the data, which decreases with N only. It
            includes the Monte Carlo error, because the estimates contain it. NaN for N = 1.
        limit: "at least" or "at most" if most estimates are rejected and it is known on which side of the value the
            true mean is; "about" if this is not known; empty if most estimates are not rejected.
    """

    value: float
    mc_stderr: float
    data_stderr: float
    limit: str = ""

    @classmethod
    def of(cls, values: Tensor, stderr: Tensor) -> Mean:
        """The average of values ``(N,)`` with standard errors ``(N,)``."""
        N = len(values)
        error = math.sqrt(float((stderr**2).sum())) / N if N else math.nan
        spread = float(values.std()) / math.sqrt(N) if N > 1 else math.nan
        return cls(float(values.mean()), error, spread)

    def summary(self) -> dict[str, Any]:
        """The same in JSON's types, which have no NaN and no infinity: None stands for them."""
        values = asdict(self)
        unknown = [k for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)]
        return values | dict.fromkeys(unknown)

    def __str__(self) -> str:
        data = f"± {self.data_stderr:.2g} (data)"
        if self.limit:
            return f"{self.limit} {self.value:.4f}, error unknown {data}"
        return f"{self.value:.4f} ± {self.mc_stderr:.2g} (Monte Carlo) {data}"
