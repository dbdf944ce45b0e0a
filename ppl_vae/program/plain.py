"""Plain runs: a pair run by plain Pyro, one draw for each datum, and the checks of such runs, with errors by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.replay_messenger import ReplayMessenger
from torch import Tensor

from ppl_vae import rng
from ppl_vae.errors import InputError, ProgramError
from ppl_vae.program.agreement import disagreement
from ppl_vae.program.blame import first_line, where_raised
from ppl_vae.program.data import Data, device_of, num_data
from ppl_vae.program.handlers import Given
from ppl_vae.program.pair import RunnablePair
from ppl_vae.program.sites import (
    bounds,
    check_match,
    check_plates,
    check_shapes,
    check_support,
    has_mask,
    is_auxiliary,
    is_delta,
    refuse_nan,
    sample_sites,
    try_log_prob,
)
from ppl_vae.program.supports import base, circle, support_of
from ppl_vae.program.tracing import PLAIN, Layout, Layouts, Run, run, scored

ROLES = ("guide", "model")
SLACK = 5.0  # factor of the round-off tolerance for differences that refuse a program


class Pair(NamedTuple):
    """Guide and model, run by plain Pyro: one draw for each datum.

    Attributes:
        guide: its run.
        model: its run, at the guide's draws.
        log_probs: role -> site -> ``(1, N)``. Computed at once, since some flows know only their last draw's density.
    """

    guide: Run
    model: Run
    log_probs: Mapping[str, Mapping[str, Tensor]]


def run_pair(program: RunnablePair, x: Data, stream: int, offset: int, known: Layouts | None = None) -> Pair:
    """Run a pair by plain Pyro with a random stream; ``known`` are the layouts of its runs, if they are known."""
    with rng.seeded(device_of(x), stream, "check"):
        guide = _plain(program, "guide", x, None, known and known.guide)
        scores = _scored("guide", guide, {})
        model = _plain(program, "model", x, guide, known and known.model)
        if known is None:
            check_match(guide.sites, model.sites)
            check_data([Pair(guide, model, {})], offset)
        return Pair(guide, model, {"guide": scores, "model": _scored("model", model, guide.sites)})


def _scored(role: str, found: Run, latent: Mapping[str, Any]) -> dict[str, Tensor]:
    """The log densities of all sites; refuses a value that does not fit its distribution."""
    scores = {}
    for name, site in found.sites.items():
        batch = site["fn"].batch_shape
        try:
            shape = try_log_prob(role, site, latent).shape
        except (KeyError, NotImplementedError):
            shape = scored(site, latent).shape  # raises a `ProgramError`
        if len(shape) > len(batch) or torch.broadcast_shapes(shape, batch) != batch:
            raise ProgramError(
                f"{role} site {name!r}",
                f"a value of shape {(*batch, *site['fn'].event_shape)}, or one that broadcasts to it",
                f"shape {tuple(site['value'].shape)}",
            )
        scores[name] = found.log_prob(name, latent)
    return scores


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Values ``(S, N, ...)`` of several runs, concatenated along the sample axis."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _plain(program: RunnablePair, role: str, x: Data, guide: Run | None, layout: Layout | None) -> Run:
    """A run by plain Pyro; if it fails, the sites before the error are checked, since they are often the cause."""
    n, trace = num_data(x), poutine.Trace()
    handler = None if guide is None else ReplayMessenger(trace=guide.trace)
    try:
        found = run(program.callable(role), x, 1, layout or PLAIN, handler, trace)
    except InputError:
        raise
    except Exception as error:
        if not is_common(error):
            raise
        # A site that does not fit its plate causes errors in later operations: name the site.
        check_plates(role, trace, n, {frame.name for frame in _frames(trace) if frame.size == n})
        if guide is not None:
            check_shapes(guide.sites, sample_sites(trace))
        if "plate(" in first_line(error):  # Pyro found the mismatch before we did; it names site and plate
            expected = "sites that fit their plates (declare event dimensions with .to_event)"
            raise ProgramError(role, expected, first_line(error)) from None
        received = f"{type(error).__name__}{where_raised(error)}: {first_line(error)}"
        raise ProgramError(role, "a Pyro callable that runs on these data", received) from error
    if layout is not None:
        return found
    plates = _data_plates(program, role, x, found)
    if guide is not None:
        check_shapes(guide.sites, found.sites)
    check_plates(role, trace, n, plates)
    return Run(trace, Layout(folded=True, plates=plates), 1, n)


def _frames(trace: poutine.Trace) -> list[Any]:
    frames = [frame for site in sample_sites(trace).values() for frame in site["cond_indep_stack"]]
    return [frame for frame in frames if frame.vectorized]


def _data_plates(program: RunnablePair, role: str, x: Data, found: Run) -> frozenset[str]:
    """The names of the plates over data: their size is the number of data, and grows with it."""
    n = num_data(x)
    names = {frame.name for frame in _frames(found.trace) if frame.size == n}
    if len(names) > 1:
        # Another plate may have the same size by chance, but it does not grow with the data.
        try:
            with rng.seeded(device_of(x), 0, "check"):
                twice = run(program.callable(role), PLAIN.data(x, 2), 1, PLAIN)
        except Exception:
            return frozenset(names)  # later checks find and report the error with more data
        names = {frame.name for frame in _frames(twice.trace) if frame.size == 2 * n}
    return frozenset(names)


def is_common(error: Exception) -> bool:
    """Whether an error is of a class of Python, torch, Pyro, NumPy or ppl_vae, and not of the user's own."""
    return type(error).__module__.partition(".")[0] in ("builtins", "torch", "pyro", "numpy", "ppl_vae")


def check_data(pairs: Sequence[Pair], offset: int) -> None:
    """Refuse, by name, data outside of the support of an observed site.

    What is masked may hold anything, and a support that moves with a latent may miss a datum: that it moves shows where
    the pairs differ.
    """
    model = pairs[0].model
    for name, site in model.sites.items():
        support = support_of(site["fn"])
        if not site["is_observed"] or site["mask"] is not None or has_mask(site["fn"]) or support is None:
            continue
        if base(support) is circle:
            continue  # an angle may be given in any period
        try:
            inside = support.check(site["value"])
            event_dim = max(inside.ndim - len(site["fn"].batch_shape), 0)  # `pyro.factor` observes nothing
            inside = model.layout.stack(site, inside, 1, event_dim)
            skipped = model.log_prob(name, {}).isfinite()
        except (RuntimeError, ValueError, IndexError, TypeError, ProgramError):
            continue  # a value of another shape or dtype, which is refused where its density is taken
        inside = inside.flatten(2).all(-1) if inside.ndim > 2 else inside
        if site["value"].is_floating_point():
            # NaN that has a density all the same: the distribution masks it itself.
            missing = site["value"].isnan()
            event = len(site["fn"].event_shape)
            missing = missing.flatten(missing.ndim - event).any(-1) if event else missing
            missing = model.layout.stack(site, missing, 1)
            missing = missing.flatten(2).any(-1) if missing.ndim > 2 else missing
            inside = inside | (missing & skipped)
        fixed = bounds(support)
        there = [bounds(pair.model.sites[name]["fn"].support) for pair in pairs[1:]]
        moves = any(not torch.equal(a, b) for other in there for a, b in zip(fixed, other, strict=True))
        moves = moves or (len(pairs) == 1 and bool(fixed))  # of those with bounds, one run does not tell
        check_support(name, site["fn"], inside, moves, offset)


def refuse_nans(pairs: Sequence[Pair], offset: int) -> None:
    """Refuse a log density that is NaN, by site and datum."""
    for role in ROLES:
        for pair in pairs:
            for name, log_prob in pair.log_probs[role].items():
                refuse_nan(log_prob, f"log density of {role} site {name!r}", offset)


def check_auxiliary(program: RunnablePair, x: Data, guide: Run) -> None:
    """Refuse auxiliary sites of a guide that are not a change of variables.

    A guide may draw a and set z = f(a), as ``Delta(f(a), log_density=-log |df/da|)``; log q(z) is then the sum of both
    log densities. With any other auxiliary site, the mean of the weights p(x, z) / q(a, z) is not p(x).
    """
    auxiliary = [name for name, site in guide.sites.items() if is_auxiliary(site)]
    deltas = [name for name, site in guide.sites.items() if is_delta(site)]
    if not auxiliary:
        return
    numbers = [
        sum(torch.Size(guide.shape(name)[2:]).numel() for name in names) for names in (auxiliary, deltas)
    ]
    if numbers[0] != numbers[1]:
        raise ProgramError(
            f"guide site {auxiliary[0]!r}",
            "as many auxiliary numbers as numbers in Delta sites computed from them (otherwise log q(z) is unknown)",
            f"{numbers[0]} auxiliary numbers for each datum, and {numbers[1]} in Delta sites",
        )
    with torch.enable_grad():
        given = {name: value.detach() for name, value in guide.scored().items()}
        given |= {name: given[name].clone().requires_grad_() for name in auxiliary}
        found = run(program.callable("guide"), x, 1, guide.layout, Given(given))
        computed = torch.cat([_flat(found.value(name)) for name in deltas], -1)
        sources = [given[name] for name in auxiliary]
        rows = []
        for number in range(numbers[0]):
            slopes = torch.autograd.grad(
                computed[..., number].sum(), sources, retain_graph=True, allow_unused=True
            )
            flat = [
                _flat(torch.zeros_like(a) if g is None else g) for a, g in zip(sources, slopes, strict=True)
            ]
            rows.append(torch.cat(flat, -1))
    claimed = sum(found.log_prob(name, {}) for name in deltas)
    volume = -torch.linalg.slogdet(torch.stack(rows, -2).double()).logabsdet
    if disagreement([torch.as_tensor(claimed).detach()], [volume], torch.float32, SLACK):
        raise ProgramError(
            f"guide site {deltas[0]!r}",
            "a Delta with log_density=-log |dz/da|, where z is computed from the auxiliary sites a",
            "another log_density",
        )


def _flat(value: Tensor) -> Tensor:
    return value.flatten(2) if value.ndim > 2 else value.unsqueeze(-1)
