"""``python -m benchmarks``: ppl_vae against Pyro, PyTorch by hand and JAX, in one run; writes benchmarks/RESULTS.md."""

from __future__ import annotations

import argparse
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch

from benchmarks import annealing, evidence, folding, machine, memory, precision, scaling, startup, training
from benchmarks.jax_peer import Jax
from benchmarks.setting import Section, Setting
from ppl_vae import files

SECTIONS: dict[str, Callable[[Setting], Section]] = {
    "training": training.run,
    "evidence": evidence.run,
    "folding": folding.run,
    "precision": precision.run,
    "annealing": annealing.run,
    "scaling": scaling.run,
    "memory": memory.run,
    "startup": startup.run,
}
TITLES = {
    "training": "Training",
    "evidence": "Evidence",
    "folding": "Any program",
    "precision": "Precision",
    "annealing": "Annealing",
    "scaling": "Scaling",
    "memory": "Memory",
    "startup": "Start-up",
}
RESULTS = Path(__file__).parent / "RESULTS.md"

HEADER = """# Benchmarks

Made by `make bench`. Everything is measured in one run in which the contestants take turns, each round starting with
another one; figures are medians over {rounds} rounds (after one that is not counted), with the smallest and the largest
in brackets. Ratios are taken round by round; above 1, ppl_vae is faster. All contestants compute in float32 on the same
CPUs. What the figures are to show stands below each table, and whether they do is computed from them.

{machine}, {cpus} CPUs, {threads} threads. Python {python}, torch {torch}, pyro {pyro}, {jax}.
"""


def header(setting: Setting) -> str:
    """What was measured on what."""
    jax = ", ".join(f"{name} {version}" for name, version in setting.jax.versions.items())
    return HEADER.format(
        rounds=setting.rounds, machine=machine.processor(), cpus=machine.cpus(), threads=torch.get_num_threads(),
        python=platform.python_version(), torch=torch.__version__, pyro=pyro.__version__,
        jax=jax or f"JAX {setting.jax.missing}",
    )  # fmt: skip


def joined(top: str, new: dict[str, str], old: str) -> str:
    """The results with new sections in the place of old ones; old ones stay only under the same header."""
    texts = dict(new)
    if old.startswith(top):
        for text in re.split(r"^(?=## )", old[len(top) :], flags=re.M):
            names = [name for name, title in TITLES.items() if text.startswith(f"## {title}\n")]
            texts |= {name: text.strip() + "\n" for name in names if name not in new}
    return "\n".join([top, *(texts[name] for name in SECTIONS if name in texts)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
                        help=f"some of: {', '.join(SECTIONS)}; the others' results are kept")  # fmt: skip
    parser.add_argument("--quick", action="store_true",
                        help="tiny sizes, to see that it runs; writes only where --out says")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="that count: at least 5, unless --quick", default=None)
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} beside this file")
    parser.add_argument("--json", type=Path, help="a file for the raw figures")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    if rounds < (1 if options.quick else 5):
        parser.error("--rounds: at least 5")
    out = options.out or (None if options.quick else RESULTS)

    torch.manual_seed(0)  # of the peers that draw from it
    data, new = {}, {}
    with Jax(torch.get_num_threads()) as jax:
        setting = Setting(rounds, options.quick, jax)
        top = header(setting)
        old = out.read_text(encoding="utf-8") if out is not None and out.exists() else ""
        for name in SECTIONS:
            if name not in options.only:
                continue
            start = time.perf_counter()
            section = SECTIONS[name](setting)
            new[name] = section.markdown()
            data[name] = section.data | {
                "targets": [
                    {"of": t.words, "value": t.value, "bound": t.bound, "met": t.met} for t in section.targets
                ]
            }
            print(f"\n{new[name]}\n({time.perf_counter() - start:.0f} s)\n", flush=True)
            if out is not None:
                files.write_text(out, joined(top, new, old))
            if options.json is not None:
                files.write_json(options.json, {"header": top, "sections": data})


if __name__ == "__main__":
    main()
