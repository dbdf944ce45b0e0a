"""Progress bar for jobs that take longer than two seconds, on a terminal only."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def bar(total: int | None, description: str, unit: str = "it", initial: int = 0, **options: Any) -> tqdm[Any]:
    """A tqdm bar on standard error that appears after two seconds, and only on a terminal."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        disable=None,  # tqdm's own word for "silent unless standard error is a terminal"
        delay=2.0,
        dynamic_ncols=True,
        leave=False,
        **options,
    )
