"""What a program means, and whether it may be run with a sample axis: both are asked of plain Pyro.

The meaning of a (model, guide) pair is that of a run by plain Pyro: one draw for each datum, no sample axis, as
`pyro.infer.SVI` runs it. `examine` runs the pair so, refuses what has no evidence per datum, and then compares, site by
site and at the same latents,

* the run with a sample axis: where a density differs, or the run raises, S copies of the data lie on the data axis from
  then on (see `tracing`);
* a batch that holds one datum alone, several times: where its density differs from the one that it has among the other
  data, the data depend on one another, and the program is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae import rng
from ppl_vae.errors import InputError, NonFiniteError, ProgramError
from ppl_vae.program.agreement import disagreement, precision_of
from ppl_vae.program.blame import blame, where_raised
from ppl_vae.program.data import Data, device_of, num_data, take
from ppl_vae.program.handlers import Given, Replayed
from ppl_vae.program.sites import (
    Site,
    Sites,
    bounds,
    check_match,
    check_plates,
    check_shapes,
    check_support,
    family,
    is_masked,
    refuse_nan,
    sample_sites,
    try_log_prob,
)
from ppl_vae.program.tracing import PLAIN, VECTORISED, Layout, Run, run

if TYPE_CHECKING:
    from ppl_vae.program.program import Program

ROLES = ("guide", "model")
_ALONE = 3  # how many times a datum is repeated where it is looked at alone
_SLACK = 5.0  # on round-off, where a difference is to refuse a program and not only to fold it
_WIDE = (
    2**21
)  # numbers in a run, up to which a run with a sample axis is compared at its own number of samples


class Layouts(NamedTuple):
    """How runs of the two halves of a program lie."""

    guide: Layout
    model: Layout


class Folding(NamedTuple):
    """Why one half of a program is run folded.

    Attributes:
        role: "guide" or "model".
        why: in words.
    """

    role: str
    why: str


class Examined(NamedTuple):
    """What `examine` found.

    Attributes:
        sites: the latent and observed sites.
        layouts: how the pair may be run.
        folded: why a half of it cannot be run with a sample axis.
    """

    sites: Sites
    layouts: Layouts
    folded: list[Folding]


def examine(program: Program, x: Data, offset: int, num_samples: int | None) -> Examined:
    """Run a pair by plain Pyro, and find out how it may be run for many samples at once.

    Args:
        program: the program; its modules are in evaluation mode, its parameters its own.
        x: the data.
        offset: the index of their first datum in the user's data, for the messages.
        num_samples: a number of samples that the pair is to be run with, if one is known: it is compared at that
            number, too, since code may do something else where a shape happens to be equal to it.

    Raises:
        As `Program.check`.
    """
    S = 2 if num_data(x) != 2 else 3  # told apart from 1 and from N, so that mixed-up axes show
    first = _pair(program, x, 0)
    plain = Layouts(first[0].layout, first[1].layout)
    guides, models = zip(first, *(_pair(program, x, s, plain) for s in range(1, S)), strict=True)
    _check_sites(guides, models, offset)
    meant = Meant(program, x, plain, guides, models)
    sites = meant.sites()
    layouts, folded = [], []
    for role in ROLES:
        why = meant.against_samples(role, S)
        wide = (num_samples or 0) * num_data(x) * sites.numbers_per_datum
        if not why and num_samples is not None and num_samples > S and wide <= _WIDE:
            why = meant.against_folded(role, num_samples)
        layouts.append(getattr(plain, role) if why else VECTORISED)
        if why:
            meant.refuse_unfoldable(role)
            folded.append(Folding(role, why))
    meant.refuse_dependent(offset)
    return Examined(sites, Layouts(*layouts), folded)


class Meant:
    """The densities of a pair as plain Pyro has them, for some draws of the guide, to compare others with.

    Attributes:
        z: the draws, ``(S, N, *event)`` for each latent site.
        log_probs: role -> site -> ``(S, N)``.
    """

    def __init__(
        self, program: Program, x: Data, plain: Layouts, guides: Sequence[Run], models: Sequence[Run]
    ) -> None:
        self.program, self.x, self.plain = program, x, plain
        self.num_samples, self.num_data = len(guides), num_data(x)
        self.runs = {"guide": guides[0], "model": models[0]}
        drawn = [guide.latents() for guide in guides]
        self.z = {name: torch.cat([values[name] for values in drawn]) for name in drawn[0]}
        self.log_probs = {
            role: {
                name: torch.cat([run.log_prob(name, self._outside(role, i)) for run in runs])
                for name in runs[0].sites
            }
            for role, runs, i in (("guide", guides, 0), ("model", models, 1))
        }
        numbers = [site["value"] for run in self.runs.values() for site in run.sites.values()]
        self.precision = min(
            (precision_of(numbers), torch.float32), key=lambda dtype: -torch.finfo(dtype).eps
        )

    def _outside(self, role: str, _: int) -> Mapping[str, Any]:
        return self.runs["guide"].sites if role == "model" else {}

    def _plain(self, role: str) -> Layout:
        layout: Layout = getattr(self.plain, role)
        return layout

    def sites(self) -> Sites:
        """What the sites of the model are."""
        model, latent = self.runs["model"], self.runs["guide"].sites
        described = {
            name: Site(model.value(name).shape[2:], site["value"].dtype, family(site["fn"]))
            for name, site in model.sites.items()
        }
        return Sites(
            latent={name: site for name, site in described.items() if name in latent},
            observed={name: site for name, site in described.items() if name not in latent},
        )

    def against_samples(self, role: str, num_samples: int) -> str:
        """Why a half of the pair must not be run with a sample axis; empty if it may."""
        other = self._other_plate(role)
        if other:
            return f"site {other[0]!r} is in plate {other[1]!r}, beside that of the data"
        try:
            found = self._run(role, self.x, self.z, num_samples, VECTORISED)
            difference = self._difference(role, found, self.log_probs[role])
            if role == "guide" and not difference:
                difference = self._wrong_draws(num_samples)
        except (InputError, NonFiniteError) as error:
            difference = str(error)
        except Exception as error:
            if not is_common(error):
                raise
            return f"it raises {type(error).__name__}{where_raised(error)}: {first_line(error)}"
        if not difference:
            return ""
        where = blame(
            lambda layout: self._run(role, self.x, self.z, num_samples, layout),
            VECTORISED,
            self._plain(role),
            num_samples,
        )
        return f"{difference}{where}"

    def against_folded(self, role: str, num_samples: int) -> str:
        """The same at another number of samples, with a folded run as what is right."""
        with rng.seeded(device_of(self.x), 2, "check"):
            guide = run(self.program.callable("guide"), self.x, num_samples, self.plain.guide)
        z = guide.latents()
        try:
            right = self._run(role, self.x, z, num_samples, self._plain(role))
            found = self._run(role, self.x, z, num_samples, VECTORISED)
            expected = {name: right.log_prob(name, self._outside(role, 0)) for name in right.sites}
            return self._difference(role, found, expected)
        except Exception as error:
            if not is_common(error):
                raise
            return f"it raises {type(error).__name__}{where_raised(error)}: {first_line(error)}"

    def refuse_unfoldable(self, role: str) -> None:
        """Refuse a half of the pair that copies of the data on the data axis do not suit, either."""
        copies = f"{self.num_samples * self.num_data} data in the place of {self.num_data}"
        expected = f"a {role} that takes however many data it is given (or, one draw for each, a sample axis)"
        try:
            found = self._run(role, self.x, self.z, self.num_samples, self._plain(role))
        except Exception as error:
            received = f"{type(error).__name__} for {copies}{where_raised(error)}: {first_line(error)}"
            raise ProgramError(role, expected, received) from error
        difference = self._difference(role, found, self.log_probs[role], slack=_SLACK)
        if difference:
            self._refuse(role, difference, f"among {copies}", "the first of them")

    def refuse_dependent(self, offset: int) -> None:
        """Refuse the pair if the density of a datum is another where the other data are copies of it."""
        n = self.num_data
        if n == 1:
            return  # alone in any case
        for i in (0, n - 1):
            index = torch.full((_ALONE,), i, device=device_of(self.x))
            x, z = take(self.x, index), {name: value[:1, index] for name, value in self.z.items()}
            for role in ROLES:
                try:
                    found = self._run(role, x, z, 1, self._plain(role))
                except Exception as error:
                    expected = f"a {role} that takes however many data it is given"
                    received = (
                        f"{type(error).__name__} for {_ALONE} data in the place of {n}{where_raised(error)}: "
                    )
                    raise ProgramError(role, expected, received + first_line(error)) from error
                right = {name: value[:1, index] for name, value in self.log_probs[role].items()}
                difference = self._difference(role, found, right, slack=_SLACK)
                if difference:
                    self._refuse(role, difference, "without the other data", f"datum {offset + i}")

    def _refuse(self, role: str, difference: str, where: str, what: str) -> None:
        """Say what is wrong with a density that changes: it is random, or it depends on other data."""
        device = device_of(self.x)
        z = {name: value[:1] for name, value in self.z.items()}
        with rng.seeded(device, 3, "check"):
            again = self._run(role, self.x, z, 1, self._plain(role))
        right = {name: value[:1] for name, value in self.log_probs[role].items()}
        changed = self._difference(role, again, right, slack=_SLACK)
        if changed:
            expected = "a log density that is the same whenever it is computed (no dropout, no draw outside of a site)"
            raise ProgramError(*_named(role, changed, expected, "one that is random"))
        expected = "a log density for each datum that does not depend on the other data (no batch statistics)"
        raise ProgramError(*_named(role, difference, expected, f"another one for {what} {where}"))

    def _run(self, role: str, x: Data, z: Mapping[str, Tensor], num_samples: int, layout: Layout) -> Run:
        handler = Given(z) if role == "guide" else Replayed(z)
        return run(self.program.callable(role), x, num_samples, layout, handler)

    def _other_plate(self, role: str) -> tuple[str, str] | None:
        """A site with a plate that a sample axis leaves no room for."""
        for name, site in self.runs[role].sites.items():
            for frame in site["cond_indep_stack"]:
                if frame.vectorized and (frame.dim != -1 or frame.name not in self._plain(role).plates):
                    return name, frame.name
        return None

    def _wrong_draws(self, num_samples: int) -> str:
        """Whether the guide draws something of another shape where it has a sample axis."""
        with rng.seeded(device_of(self.x), 0, "check"):
            drawn = run(self.program.callable("guide"), self.x, num_samples, VECTORISED)
        for name, value in drawn.latents().items():
            if value.shape != self.z[name].shape:
                return (
                    f"site {name!r} draws shape {tuple(value.shape)} in place of {tuple(self.z[name].shape)}"
                )
        return ""

    def _difference(self, role: str, found: Run, expected: Mapping[str, Tensor], slack: float = 1.0) -> str:
        """The first site whose density is another, in words."""
        if list(found.sites) != list(expected):
            return f"site {next(iter(set(found.sites) ^ set(expected)), '')!r} is not in every run"
        for name, right in expected.items():
            log_prob = found.log_prob(name, self._outside(role, 0))
            if log_prob.shape != right.shape:
                return f"site {name!r} has a log density of shape {tuple(log_prob.shape)} there"
            if disagreement([log_prob], [right], self.precision, slack):
                gap = float((log_prob - right).abs().nan_to_num(0.0).max())
                return f"site {name!r} has another log density there, by up to {gap:.3g} nats"
        return ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for one of ours."""
    return str(error).strip().partition("\n")[0]


def _named(role: str, difference: str, expected: str, received: str) -> tuple[str, str, str]:
    site = difference.split("'")[1] if "'" in difference else ""
    return (f"{role} site {site!r}" if site else role, expected, received)


def _pair(program: Program, x: Data, stream: int, known: Sequence[Layout] = ()) -> tuple[Run, Run]:
    """Guide and model, run by plain Pyro: one draw for each datum.

    Args:
        program: the program.
        x: the data.
        stream: of the draws.
        known: the layouts of the two runs, by which the data axis is found, where they are known.
    """
    guide_layout, model_layout = known or (None, None)
    with rng.seeded(device_of(x), stream, "check"):
        guide = _plain(program, "guide", x, None, guide_layout)
        return guide, _plain(program, "model", x, guide, model_layout)


def _plain(program: Program, role: str, x: Data, guide: Run | None, layout: Layout | None) -> Run:
    """A run by plain Pyro; where it fails, the sites before the fault are checked, since they are often the cause."""
    n, trace = num_data(x), poutine.Trace()
    handler = None if guide is None else Replayed(guide.latents())
    try:
        found = run(program.callable(role), x, 1, layout or PLAIN, handler, trace)
    except InputError:
        raise
    except Exception as error:
        if not is_common(error):
            raise
        # A site that does not fit its plate breaks the arithmetic that follows it: name the site.
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


def _data_plates(program: Program, role: str, x: Data, found: Run) -> frozenset[str]:
    """The names of the plates over data: those that are as long as the data are, and grow with them."""
    n = num_data(x)
    names = {frame.name for frame in _frames(found.trace) if frame.size == n}
    if len(names) > 1:
        # Another plate may happen to be as long as the data: it does not grow.
        try:
            with rng.seeded(device_of(x), 0, "check"):
                twice = run(program.callable(role), PLAIN.data(x, 2), 1, PLAIN)
        except Exception:
            return frozenset(names)  # what is wrong with more data is found out, and said, later
        names = {frame.name for frame in _frames(twice.trace) if frame.size == 2 * n}
    return frozenset(names)


def is_common(error: Exception) -> bool:
    """Whether an error is one of Python's, torch's or Pyro's, and not of a class of the user's own."""
    return type(error).__module__.partition(".")[0] in ("builtins", "torch", "pyro", "numpy")


def _check_sites(guides: Sequence[Run], models: Sequence[Run], offset: int) -> None:
    """Refuse, by name, what makes a pair no program, besides what is wrong with its plates."""
    guide, model = guides[0], models[0]
    check_match(guide.sites, model.sites)
    for name, site in model.sites.items():
        if site["is_observed"] and site["mask"] is None and not is_masked(site["fn"]):
            # Bad data first: what they make of the guide says less. What is masked may hold anything.
            inside = site["fn"].support.check(site["value"])
            event_dim = max(inside.ndim - len(site["fn"].batch_shape), 0)  # `pyro.factor` observes nothing
            stacked = model.layout.stack(site, inside, 1, event_dim)
            stacked = stacked.flatten(2).all(-1) if stacked.ndim > 2 else stacked
            fixed = bounds(site["fn"].support)
            there = [bounds(other.sites[name]["fn"].support) for other in models[1:]]
            moves = any(not torch.equal(a, b) for other in there for a, b in zip(fixed, other, strict=True))
            check_support(name, site["fn"], stacked, moves, offset)
    for role, runs in (("guide", guides), ("model", models)):
        latent = guide.sites if role == "model" else {}
        for found in runs:
            for name, site in found.sites.items():
                batch = site["fn"].batch_shape
                shape = try_log_prob(role, site, latent).shape
                if len(shape) > len(batch) or torch.broadcast_shapes(shape, batch) != batch:
                    raise ProgramError(
                        f"{role} site {name!r}",
                        f"a value of shape {(*batch, *site['fn'].event_shape)}, or one that broadcasts to it",
                        f"shape {tuple(site['value'].shape)}",
                    )
                log_prob = found.log_prob(name, latent)
                refuse_nan(log_prob, f"log density of {role} site {name!r}", offset)
