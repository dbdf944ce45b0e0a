"""Reference semantics: the densities of a program in plain Pyro, and whether it supports a sample axis.

The meaning of a (model, guide) pair is that of a run by plain Pyro: one draw for each datum, without a sample axis, as
`pyro.infer.SVI` runs it. `examine` runs the pair in this way, and refuses it if log p(x) is not defined for each datum.
It then compares, site by site and at the same latents,

* the run with a sample axis: if a density differs, or the run raises an error, all later runs are folded (see
  `tracing`);
* a batch with one datum, repeated several times: if its density differs from that among the other data, the data
  depend on one another, and the program is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae import rng
from ppl_vae.errors import InputError, NonFiniteError, ProgramError
from ppl_vae.program.agreement import disagreement, precision_of
from ppl_vae.program.blame import blame, first_line, where_raised
from ppl_vae.program.data import Data, device_of, num_data, take
from ppl_vae.program.handlers import Given, Replayed
from ppl_vae.program.pair import RunnablePair
from ppl_vae.program.plain import (
    ROLES,
    SLACK,
    Pair,
    check_auxiliary,
    check_data,
    is_common,
    joined,
    refuse_nans,
    run_pair,
)
from ppl_vae.program.rounding import has_edges
from ppl_vae.program.sites import Site, Sites, bounds, family
from ppl_vae.program.supports import support_of
from ppl_vae.program.tracing import PLAIN, VECTORISED, Layout, Layouts, Run, run

_ALONE = 3  # number of repetitions of a datum in a batch without other data
_WIDE = 2**21  # the largest run, in numbers, that is compared at its own number of samples


class Folding(NamedTuple):
    """The reason for folded runs of the guide or the model.

    Attributes:
        role: "guide" or "model".
        why: the reason, in words.
    """

    role: str
    why: str


class Examined(NamedTuple):
    """The result of `examine`.

    Attributes:
        sites: the latent and observed sites.
        layouts: the layouts of guide and model.
        pair: a run of the pair by plain Pyro.
        folded: the reasons for folded runs, if there are any.
    """

    sites: Sites
    layouts: Layouts
    pair: Pair
    folded: list[Folding]


def examine(program: RunnablePair, x: Data, offset: int, num_samples: int | None) -> Examined:
    """Run a pair by plain Pyro, and choose the layouts for many samples.

    Args:
        program: the program; its modules are in evaluation mode, and its parameters are its own.
        x: the data.
        offset: the index of their first datum in the user's data, for the messages.
        num_samples: a number of samples with which the pair will be run, if one is known. The comparison is also made
            with this number, since the result of code may depend on whether two sizes are equal.

    Raises:
        As for `Program.check`.
    """
    S = 2 if num_data(x) != 2 else 3  # different from 1 and from N, so that confused axes are detected
    first = run_pair(program, x, 0, offset)
    plain = Layouts(first.guide.layout, first.model.layout)
    pairs = [first, *(run_pair(program, x, s, offset, plain) for s in range(1, S))]
    check_data(pairs, offset)
    refuse_nans(pairs, offset)
    check_auxiliary(program, x, first.guide)
    meant = Meant(program, x, plain, pairs)
    sites = sites_of(first)
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
    return Examined(sites, Layouts(*layouts), first, folded)


def examine_more(program: RunnablePair, x: Data, offset: int) -> tuple[Sites, Pair]:
    """Check more data of a kind that `examine` has checked: only what depends on their values.

    Args:
        program: as in `examine`.
        x: the data.
        offset: the index of their first datum in the user's data.

    Raises:
        As for `Program.check`.
    """
    pairs = [run_pair(program, x, 0, offset)]
    supports = [support_of(site["fn"]) for site in pairs[0].model.sites.values() if site["is_observed"]]
    if any(support is not None and bounds(support) for support in supports):
        pairs.append(run_pair(program, x, 1, offset))  # two runs show a support that depends on a latent
    check_data(pairs, offset)
    refuse_nans(pairs, offset)
    return sites_of(pairs[0]), pairs[0]


def sites_of(pair: Pair) -> Sites:
    """The sites of a pair's model."""
    model, latent = pair.model, pair.guide.sites
    described = {
        name: Site(
            model.value(name).shape[2:],
            site["value"].dtype,
            family(site["fn"]),
            any(has_edges(sites[name]["fn"]) for sites in (model.sites, latent) if name in sites),
        )
        for name, site in model.sites.items()
    }
    return Sites(
        latent={name: site for name, site in described.items() if name in latent},
        observed={name: site for name, site in described.items() if name not in latent},
    )


def folded_log_weights(program: RunnablePair, x: Data, num_samples: int) -> Tensor:
    """`Program.log_weights` with a folded run of the model, ``(S, N)``, to compare with a run with a sample axis.

    The draws of the guide come from torch's global generator, and are the same as those of `log_weights`.
    """
    with program.evaluating():
        layout = program.layouts(x).model
        guide = program.run("guide", x, num_samples)
        plain = layout if layout.folded else PLAIN
        model = run(program.callable("model"), x, num_samples, plain, Replayed(guide.latents()))
        return model.total(outside=guide.sites) - guide.total()


class Meant:
    """The densities of a pair in plain Pyro at some draws of the guide, as the reference for comparisons.

    Attributes:
        program: the program.
        x: the data.
        plain: the layouts of runs by plain Pyro.
        z: the draws of the model's latents, ``(S, N, *event)`` each.
        drawn: the guide's draws with a density: without Delta sites, and with auxiliary sites.
        log_probs: role -> site -> ``(S, N)``.
        scores: whether the guide has a density at values that it did not draw.
    """

    def __init__(self, program: RunnablePair, x: Data, plain: Layouts, pairs: Sequence[Pair]) -> None:
        self.program, self.x, self.plain = program, x, plain
        self.num_samples, self.num_data = len(pairs), num_data(x)
        first = pairs[0]
        self.runs = {"guide": first.guide, "model": first.model}
        self.z = joined([pair.guide.latents() for pair in pairs])
        self.drawn = joined([pair.guide.scored() for pair in pairs])
        self.log_probs = {role: joined([pair.log_probs[role] for pair in pairs]) for role in ROLES}
        numbers = [site["value"] for run in self.runs.values() for site in run.sites.values()]
        weights = [weight for module in program.modules for weight in module.parameters()]
        self.precision = precision_of([*numbers, *weights])
        self.scores = self._score_guide()

    def _score_guide(self) -> bool:
        """Compute the guide's densities at its draws as at any other values; False if it has none at other values.

        A flow remembers its own draws, and inverts other values: the two differ by the rounding of the inverse.
        """
        found = []
        for s in range(self.num_samples):
            values = {name: value[s : s + 1] for name, value in self.drawn.items()}
            guide = self._run("guide", self.x, values, 1, self.plain.guide)
            try:
                found.append({name: guide.log_prob(name, {}) for name in guide.sites})
            except ProgramError:
                return False
        self.log_probs["guide"] = joined(found)
        return True

    def _outside(self, role: str) -> Mapping[str, Any]:
        return self.runs["guide"].sites if role == "model" else {}

    def _values(self, role: str) -> dict[str, Tensor]:
        """What a run of a half is given."""
        return self.drawn if role == "guide" else self.z

    def _plain(self, role: str) -> Layout:
        layout: Layout = getattr(self.plain, role)
        return layout

    def against_samples(self, role: str, num_samples: int) -> str:
        """Why a half of the pair must not be run with a sample axis; empty if it may."""
        other = self._other_plate(role)
        if other:
            return f"site {other[0]!r} is in plate {other[1]!r}, beside that of the data"
        try:
            if role == "guide" and not self.scores:
                return self._other_draws(num_samples)
            found = self._run(role, self.x, self._values(role), num_samples, VECTORISED)
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
            lambda layout: self._run(role, self.x, self._values(role), num_samples, layout),
            VECTORISED,
            self._plain(role),
            num_samples,
        )
        return f"{difference}{where}"

    def against_folded(self, role: str, num_samples: int) -> str:
        """The same at another number of samples, compared with a folded run."""
        if role == "guide" and not self.scores:
            return self._other_draws(num_samples)
        guide = self._draw(num_samples, self.plain.guide)
        z = guide.scored() if role == "guide" else guide.latents()
        try:
            right = self._run(role, self.x, z, num_samples, self._plain(role))
            found = self._run(role, self.x, z, num_samples, VECTORISED)
            expected = {name: right.log_prob(name, self._outside(role)) for name in right.sites}
            return self._difference(role, found, expected)
        except Exception as error:
            if not is_common(error):
                raise
            return f"it raises {type(error).__name__}{where_raised(error)}: {first_line(error)}"

    def refuse_unfoldable(self, role: str) -> None:
        """Refuse a guide or model that supports neither a sample axis nor copies of the data on the data axis."""
        copies = f"{self.num_samples * self.num_data} data instead of {self.num_data}"
        expected = f"a {role} that supports any number of data (or a sample axis)"
        try:
            if role == "guide" and self.scores:
                self.scores = self._scores_copies()
            if role == "guide" and not self.scores:
                self._draw(self.num_samples, self.plain.guide).total()
                return
            # At two numbers of copies: the first may by chance be the size of another axis.
            for index in (list(range(self.num_samples)), [*range(self.num_samples), 0]):
                z = {name: value[index] for name, value in self._values(role).items()}
                right = {name: value[index] for name, value in self.log_probs[role].items()}
                copies = f"{len(index) * self.num_data} data instead of {self.num_data}"
                found = self._run(role, self.x, z, len(index), self._plain(role))
                difference = self._difference(role, found, right, slack=SLACK)
                if difference:
                    break
        except Exception as error:
            if not is_common(error):
                raise
            received = f"{type(error).__name__} for {copies}{where_raised(error)}: {first_line(error)}"
            raise ProgramError(role, expected, received) from error
        if difference:
            self._refuse(role, difference, f"among {copies}", "the first of them")

    def _scores_copies(self) -> bool:
        """Whether the guide has a density at values that it did not draw also for copies of the data."""
        found = self._run("guide", self.x, self.drawn, self.num_samples, self.plain.guide)
        try:
            found.total()
        except ProgramError:
            return False
        return True

    def refuse_dependent(self, offset: int) -> None:
        """Refuse the pair if the density of a datum changes when the other data are replaced by copies of it."""
        n = self.num_data
        if n == 1:
            return  # alone in any case
        for s, i in ((0, n - 1), (1, 0)):
            index = torch.full((_ALONE,), i, device=device_of(self.x))
            x = take(self.x, index)
            for role in ROLES:
                if role == "guide" and not self.scores:
                    continue  # weights of draws from a guide that mixes data are unbiased, too
                z = {name: value[s : s + 1, index] for name, value in self._values(role).items()}
                right = {name: value[s : s + 1, index] for name, value in self.log_probs[role].items()}
                try:
                    found = self._run(role, x, z, 1, self._plain(role))
                    difference = self._difference(role, found, right, slack=SLACK)
                except Exception as error:
                    if not is_common(error):
                        raise
                    expected = f"a {role} that supports any number of data"
                    received = (
                        f"{type(error).__name__} for {_ALONE} data instead of {n}{where_raised(error)}: "
                    )
                    raise ProgramError(role, expected, received + first_line(error)) from error
                if difference:
                    self._refuse(role, difference, "without the other data", f"datum {offset + i}")

    def _refuse(self, role: str, difference: str, where: str, what: str) -> None:
        """Raise the error of a density that changes: it is random, or it depends on other data."""
        device = device_of(self.x)
        z = {name: value[:1] for name, value in self._values(role).items()}
        with rng.seeded(device, 3, "check"):
            again = self._run(role, self.x, z, 1, self._plain(role))
        right = {name: value[:1] for name, value in self.log_probs[role].items()}
        changed = self._difference(role, again, right, slack=SLACK)
        if changed:
            expected = "a log density that is the same in each run (no dropout, no draw outside of a site)"
            raise ProgramError(*_named(role, changed, expected, "a random log density"))
        expected = "a log density for each datum that does not depend on the other data (no batch statistics)"
        raise ProgramError(*_named(role, difference, expected, f"another log density for {what} {where}"))

    def _run(self, role: str, x: Data, z: Mapping[str, Tensor], num_samples: int, layout: Layout) -> Run:
        handler = Given(z) if role == "guide" else Replayed(z)
        return run(self.program.callable(role), x, num_samples, layout, handler)

    def _other_plate(self, role: str) -> tuple[str, str] | None:
        """A site with another plate than the data plate, which conflicts with a sample axis."""
        for name, site in self.runs[role].sites.items():
            for frame in site["cond_indep_stack"]:
                if frame.vectorized and (frame.dim != -1 or frame.name not in self._plain(role).plates):
                    return name, frame.name
        return None

    def _draw(self, num_samples: int, layout: Layout) -> Run:
        with rng.seeded(device_of(self.x), 2, "check"):
            return run(self.program.callable("guide"), self.x, num_samples, layout)

    def _wrong_draws(self, num_samples: int) -> str:
        """The first latent that the guide draws with another shape if there is a sample axis, in words; else empty."""
        for name, value in self._draw(num_samples, VECTORISED).latents().items():
            if value.shape != self.z[name].shape:
                return (
                    f"site {name!r} draws shape {tuple(value.shape)} instead of {tuple(self.z[name].shape)}"
                )
        return ""

    def _other_draws(self, num_samples: int) -> str:
        """The difference between draws with a sample axis and folded ones for the same seed; empty if they agree.

        This is the only possible comparison for a guide with a density at its own draws only (a flow without inverse).
        """
        results = []
        for layout in (VECTORISED, self.plain.guide):
            found = self._draw(num_samples, layout)
            results.append([found.total(), *found.latents().values()])
        for ours, right in zip(*results, strict=True):
            if ours.shape != right.shape or disagreement([ours], [right], self.precision, least=1.0):
                return "its draws, or their densities, differ with a sample axis"
        return ""

    def _difference(self, role: str, found: Run, expected: Mapping[str, Tensor], slack: float = 1.0) -> str:
        """The first site whose density differs, in words; empty if all agree."""
        if list(found.sites) != list(expected):
            return f"site {next(iter(set(found.sites) ^ set(expected)), '')!r} is not in every run"
        for name, right in expected.items():
            log_prob = found.log_prob(name, self._outside(role))
            if log_prob.shape != right.shape:
                return f"site {name!r} has a log density of shape {tuple(log_prob.shape)} there"
            # A log density is a sum of terms of order 1, one for each number of its site.
            terms = 1.0 + self.runs[role].sites[name]["value"].numel() / self.num_data
            if disagreement([log_prob], [right], self.precision, slack, terms):
                gap = float((log_prob - right).abs().nan_to_num(0.0).max())
                return f"site {name!r} has another log density there, by up to {gap:.3g} nats"
        return ""


def _named(role: str, difference: str, expected: str, received: str) -> tuple[str, str, str]:
    site = difference.split("'")[1] if "'" in difference else ""
    return (f"{role} site {site!r}" if site else role, expected, received)
