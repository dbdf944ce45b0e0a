"""Start-up: importing, the first step, and whether a short job suffers from compiling."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import fresh, ours, workloads
from benchmarks.jax_peer import Jax
from benchmarks.setting import OURS, Section, Setting, Target, median, table
from benchmarks.timing import AbsentError, Job, interleaved

BATCH = 100

INTRO = """Seconds of a fresh process, from its start to its end, median of {rounds} rounds (the one that touches files
for the first time is not counted). A first step: import, a VAE 784-400-50, one batch of {batch}. Compiled "anew": with
an empty cache on disk; "again": with the cache of the time before. A short job: {short} data in batches of 20, one
epoch."""


def run(setting: Setting) -> Section:
    """Measure."""
    short = setting.size(500, 40)
    section = Section("Start-up", INTRO.format(rounds=setting.rounds, batch=BATCH, short=short))
    importing(section, setting)
    with tempfile.TemporaryDirectory(prefix="ppl_vae_bench_") as folder:
        first_step(section, setting, Path(folder))
        short_job(section, setting, short, Path(folder))
    return section


def importing(section: Section, setting: Setting) -> None:
    """``import ppl_vae`` beside torch and pyro."""

    def job(words: str) -> Job:
        def start() -> None:
            subprocess.run([sys.executable, "-c", words], check=True, cwd=fresh.ROOT)

        return start

    names = (ours.IMPORT, ours.IMPORT_ALL, "import torch, pyro")
    turns = interleaved({name: job(name) for name in names}, setting.rounds)
    section.add("import", turns)
    section.parts.append(
        table(["statement", "seconds"], [[f"`{name}`", median(turns.time(name), 2)] for name in names])
    )
    section.targets += [
        Target(f"time of `{name}` over `{names[-1]}`", turns.ratio(names[-1], name), 1.1, at_least=False)
        for name in names[:-1]
    ]


def first_step(section: Section, setting: Setting, folder: Path) -> None:
    """From nothing to the first step done."""
    count = 0

    def step(how: ours.Compile, *, anew: bool = False) -> Job:
        def job() -> float:
            nonlocal count
            count += anew
            cache = caches(folder / (f"anew-{count}" if anew else "kept"))
            seconds: float = fresh.call("training", cache, num_data=BATCH, batch_size=BATCH, how=how)[
                "seconds"
            ]
            return seconds

        return job

    def by_hand(*, compiled: bool) -> Job:
        def job() -> float:
            cache = caches(folder / "by-hand")
            return float(fresh.call("by_hand", cache, batch_size=BATCH, compiled=compiled)["seconds"])

        return job

    jobs: dict[str, Job] = {f"{OURS}, not compiled": step(ours.PLAIN)}
    if ours.compiles("fit"):
        jobs |= {
            f"{OURS}, compiled anew": step(ours.COMPILED, anew=True),
            f"{OURS}, compiled again": step(ours.COMPILED),
        }
    jobs |= {
        "PyTorch": by_hand(compiled=False),
        "PyTorch, compiled again": by_hand(compiled=True),
        "NumPyro": numpyro,
    }
    missing = {"NumPyro": setting.jax.missing} if setting.jax.missing else {}
    turns = interleaved(jobs, setting.rounds, missing)
    section.add("first step", turns)
    section.parts.append(
        table(["first step", "seconds"], [[name, median(turns.time(name), 2)] for name in jobs])
    )


def numpyro() -> None:
    """A step of NumPyro's in a child of its own."""
    x = workloads.binary_data(BATCH)
    layers = workloads.ONE_LAYER.encoder, workloads.ONE_LAYER.decoder
    nets = ([(torch.randn(m, n) / n**0.5, torch.zeros(m)) for n, m in net] for net in layers)
    with Jax(torch.get_num_threads()) as jax:
        if jax.missing:
            raise AbsentError(jax.missing)
        jax.send("first", workloads.Parameters(*nets).named() | {"x": x})
        run = jax.ask("training_start", name="first", activation="softplus", batch_size=BATCH, seed=0)["run"]
        jax.ask("training_epochs", run=run, epochs=1)


def short_job(section: Section, setting: Setting, num_data: int, folder: Path) -> None:
    """Whether ``compile="auto"`` makes a short job slower than plain."""
    if not ours.compiles("fit"):
        section.notes.append('A short job: `fit` has no `compile="auto"` yet.')
        section.targets.append(
            Target('a short job with compile="auto", over plain', None, 1.1, at_least=False)
        )
        return

    def job(how: ours.Compile) -> Job:
        def start() -> float:
            cache = caches(folder / "short")
            return float(fresh.call("training", cache, num_data=num_data, batch_size=20, how=how)["seconds"])

        return start

    jobs = {"auto": job("auto"), "plain": job(ours.PLAIN)}
    turns = interleaved(jobs, setting.rounds)
    section.add("short job", turns)
    section.parts.append(
        table(["a short job", "seconds"], [[name, median(turns.time(name), 2)] for name in jobs])
    )
    ratio = turns.ratio("plain", "auto")
    section.targets.append(Target('a short job with compile="auto", over plain', ratio, 1.1, at_least=False))


def caches(folder: Path) -> dict[str, str]:
    """The environment that puts what is compiled into a folder."""
    folder.mkdir(exist_ok=True)
    return {
        "TORCHINDUCTOR_CACHE_DIR": os.fspath(folder / "inductor"),
        "XDG_CACHE_HOME": os.fspath(folder / "xdg"),
    }
