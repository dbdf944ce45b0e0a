"""``ppl-vae demo``: the whole way from data to an evidence estimate that says whether it can be trusted."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ppl_vae.cli.commands import evidence, train
from ppl_vae.cli.options import compile as compiling
from ppl_vae.cli.options.parser import check_numbers, make_parser, parse
from ppl_vae.errors import InputError
from ppl_vae.runs.folder import CONFIG, EVIDENCE, EVIDENCE_PICTURES, FIGURES, PICTURES, run_folder

if TYPE_CHECKING:
    from ppl_vae.evidence import Evidence

_MARKER = "demo.yaml"
_DESCRIPTION = """\
Train a VAE on scikit-learn's 8 x 8 handwritten digits (binary pixels, drawn anew from the grey levels in every batch),
estimate log p(x) of the 250 test digits by importance sampling, draw every picture, and say in words what came out.
Needs no network and no arguments; takes under a minute. Its folder is a run folder: ppl-vae sample runs/demo."""
_EXAMPLES = """\
examples:
  ppl-vae demo
  ppl-vae demo --quick --out runs/quick"""

_TRAIN = (
    "--data digits --view binary --dynamic true --latent-dim 8 --hidden 200 --activation tanh "
    "--batch-size 64 --lr 0.002 --lr-schedule cosine"
)


def run(argv: Sequence[str]) -> int:
    """The command."""
    parser = make_parser("demo", _DESCRIPTION, _EXAMPLES)
    parser.add_argument(
        "--out", type=str, default="runs/demo", help="the folder; an earlier demo there is replaced"
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that everything works")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument(
        "--threads", type=int | None, help="threads to compute with; null leaves torch's number"
    )
    compiling.add_option(parser)
    settings = parse(parser, argv)
    compiling.check(settings)
    check_numbers(settings, counts=("threads",), seeds=("seed",))
    path = Path(settings["out"])
    run = run_folder(path)
    folder = replace(run, owned=(_MARKER, *run.owned), what="an earlier demo", notes=(_MARKER, *run.notes))
    if folder.began() and not (path / _MARKER).is_file():
        raise InputError("--out", "a new folder or an earlier demo's", f"{path} (a run, but not a demo's)")
    folder.check(overwrite=True)

    epochs, samples = (3, 200) if settings["quick"] else (200, 4000)
    common = "" if settings["compile"] == "auto" else f" --compile {settings['compile']}"
    common += "" if settings["threads"] is None else f" --threads {settings['threads']}"
    where = shlex.quote(str(path))
    train_line = f"{_TRAIN} --epochs {epochs} --seed {settings['seed']}{common} --out {where}"
    evidence_line = f"{where} --num-samples {samples} --seed {settings['seed']}{common}"

    start = time.monotonic()
    chosen = train.parse_options(shlex.split(train_line))
    for name in ("out", "overwrite", "resume", "print_config"):
        chosen.pop(name, None)
    train.resolve(chosen, None)
    with folder.owning(overwrite=True):
        job = train.prepare(chosen)
        about = {_MARKER: f"# A demo.\nquick: {str(settings['quick']).lower()}\nseed: {settings['seed']}\n"}
        print(f"$ ppl-vae train {train_line}")
        train.execute(job, folder, overwrite=True, notes=about)
        print(f"\n$ ppl-vae evidence {evidence_line}")
        result, results = evidence.estimate(parse(evidence.parser(), shlex.split(evidence_line)))
    print(result)
    print("\npictures:")
    for name in PICTURES:
        print(f"  {path / FIGURES / name}.png")
    for name in EVIDENCE_PICTURES:
        print(f"  {path / EVIDENCE / name}.png")
    print(f"numbers: {results / 'summary.json'}; to do it again elsewhere: {path / CONFIG}")
    print(f"\n{in_words(result)}\n(done in {time.monotonic() - start:.0f} s)")
    return 0


def in_words(evidence: Evidence) -> str:
    """What is log p(x), how far below is the ELBO, can it be trusted?"""
    mean, gap, share = evidence.mean(), evidence.mean("gap"), evidence.status_fractions()
    trusted, refused = share["trust"], share["reject"]
    if refused > 0.05:
        verdict = (
            f"With care: for {refused:.0%} of the digits the importance weights have too heavy a tail to believe the "
            "estimate; for them it is a lower bound and no more"
        )
    elif trusted > 0.5:
        verdict = "Yes, on the whole"
    else:
        verdict = (
            "The estimate yes, its error with care: the tails of most digits' weights come close to too heavy"
        )
    limit = f"{mean.limit} " if mean.limit else ""
    error = "an error that is not known" if mean.limit else f"± {mean.mc_stderr:.2g}"
    gap_error = "error unknown" if gap.limit else f"± {gap.mc_stderr:.1g}"
    return (
        f"What is log p(x)? {limit}{mean.value:.2f} nats a digit, averaged over {len(evidence)} test digits; "
        f"{error} from the {evidence.num_samples} samples, "
        f"± {mean.data_stderr:.2g} from which digits were tested.\n"
        f"How far below is the ELBO? {limit}{gap.value:.2f} nats ({gap_error}): that is how much of log p(x) the "
        "ELBO alone would hide.\n"
        f"Can it be trusted? {verdict}: trust {trusted:.0%}, caution {share['caution']:.0%}, "
        f"reject {refused:.0%} (what the tail of the weights may hide, digit by digit)."
    )
