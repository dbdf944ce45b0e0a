"""``ppl-vae demo``: the whole way from data to an evidence estimate that says whether it can be trusted."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ppl_vae.cli.commands import evidence, train
from ppl_vae.cli.options import compile as compiling
from ppl_vae.cli.options import device
from ppl_vae.cli.options.parser import check_numbers, make_parser, parse
from ppl_vae.errors import InputError
from ppl_vae.evidence.results.words import in_words
from ppl_vae.runs.folder import CONFIG, EVIDENCE, EVIDENCE_PICTURES, FIGURES, PICTURES, run_folder

_MARKER = "demo.yaml"
_DESCRIPTION = """\
Train a VAE on scikit-learn's 8 x 8 handwritten digits (binary pixels, drawn anew from the grey levels in every batch),
estimate log p(x) of the 250 test digits by importance sampling, draw all pictures, and explain the result in words. The
demo downloads nothing, needs no arguments and takes under a minute. It writes a run folder, which the other commands
can read: ppl-vae sample runs/demo."""
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
    text = "the folder to write; an earlier demo in it is replaced"
    parser.add_argument("--out", type=str, default="runs/demo", help=text)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few seconds of training and few samples: enough to see that all works",
    )
    parser.add_argument("--seed", type=int, default=0, help="the seed of everything random")
    device.add_threads(parser)
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
    print(f"{result}\n\npictures:")
    for picture in (
        *(Path(FIGURES, name) for name in PICTURES),
        *(Path(EVIDENCE, name) for name in EVIDENCE_PICTURES),
    ):
        print(f"  {path / picture}.png")
    print(f"numbers: {results / 'summary.json'}; to do it again elsewhere: {path / CONFIG}")
    print(f"\n{in_words(result, 'digit', 'digits')}\n(done in {time.monotonic() - start:.0f} s)")
    return 0
