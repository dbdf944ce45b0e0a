"""The command line: a thin shell over the library.

One file a command; each has ``run(argv) -> int``. Nothing here imports torch, so ``ppl-vae --help`` answers
at once. Whatever goes wrong comes out as one line on standard error and exit status 2.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module

from ppl_vae import distributed
from ppl_vae.cli.compiling import announced
from ppl_vae.cli.oneline import Interrupted, UsageError, explain

__all__ = ["main"]

COMMANDS = {
    "demo": "train, estimate and plot on scikit-learn's digits: no network, no arguments, under a minute",
    "train": "train a VAE from parts that you choose, your own included, into a run folder",
    "evidence": "log p(x) of held-out data, with its errors, its gap to the ELBO and a verdict",
    "sandwich": "bounds of log p(x) from both sides, certified on data that the model itself made",
    "gaps": "where the gap to the ELBO comes from, what the latents carry, which of them are active",
    "validate": "estimators, yours among them, on models whose log evidence is known",
    "sample": "draw from a trained model",
    "reconstruct": "data beside what the model makes of them",
    "interpolate": "straight lines between data in the latent space",
}

SHARED = ("train", "evidence")
"""Commands that more than one process can share."""

_HELP = """usage: ppl-vae COMMAND [options]

Variational autoencoders as probabilistic programs, with honest estimates of their log evidence.

commands:
{commands}

options:
  -h, --help     show this help; ppl-vae COMMAND --help explains a command's options
  --version      show the version
  --debug        with a command: show Python's traceback of an error (so does PPL_VAE_DEBUG=1)

examples:
  ppl-vae demo
  ppl-vae train --data digits --view counts --prior VampPrior --prior.components 100 --out runs/vamp
  ppl-vae train --data mnist --data-dir mnist --latent-dim 50 --kl-warmup 20 --patience 50 --out runs/mnist
  ppl-vae train --config runs/vamp/config.yaml --prior my_file.MyPrior --out runs/mine
  ppl-vae evidence runs/vamp --num-samples 5000
  ppl-vae evidence runs/mine --trust my_file
  ppl-vae evidence runs/vamp --method annealed --num-steps 1000 --subset 100 --out runs/vamp/annealed
  ppl-vae sandwich runs/vamp --num-data 50
  ppl-vae gaps runs/vamp
  ppl-vae validate --estimator my_file.my_estimator
  ppl-vae sample runs/vamp --num 64 --out samples.png
  torchrun --standalone --nproc-per-node 4 -m ppl_vae evidence runs/vamp --num-samples 5000

exit status: 0 done; 2 bad input (one line says what), nothing written; 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments after the program's name; default: those of the process.

    Returns:
        the exit status: 0, 2 for bad input (one line on standard error says what), 130 for Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not distributed.launched():
        return _main(arguments)
    with distributed.joined():
        if distributed.is_main():
            return _main(arguments)
        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  (until the process ends)
        with redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the main process gives them
            return _main(arguments)


def _main(arguments: list[str]) -> int:
    debug = "--debug" in arguments or os.environ.get("PPL_VAE_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    name, *rest = arguments or [""]
    if name in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {command:<{width}}  {text}" for command, text in COMMANDS.items()]
        print(_HELP.format(commands="\n".join(lines)), end="")
        return 0
    if name == "--version":
        from ppl_vae import __version__

        print(f"ppl-vae {__version__}")
        return 0
    if name not in COMMANDS:
        received = f"{name!r}" if name else "none"
        return _fail(
            "ppl-vae", f"COMMAND: expected one of {', '.join(COMMANDS)}, received {received}", "ppl-vae"
        )
    program = f"ppl-vae {name}"
    if distributed.world().size > 1 and name not in SHARED:
        return _fail("ppl-vae", f"torchrun: expected one of {', '.join(SHARED)}, received {name!r}", None)
    try:
        with _own_files(), announced():
            command = import_module(f"ppl_vae.cli.{name}")
            status: int = command.run(rest)
            sys.stdout.flush()
            return status
    except SystemExit as stop:  # --help
        return stop.code if isinstance(stop.code, int) else 2
    except (Interrupted, KeyboardInterrupt) as stop:
        if distributed.first_to_fail():
            print(f"{program}: interrupted{f'; {stop}' if str(stop) else ''}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, say) has gone: nobody is left to tell
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  (until the process ends)
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _fail(program, explain(error), program if isinstance(error, UsageError) else None)


def _fail(program: str, message: str, help_of: str | None) -> int:
    if not distributed.first_to_fail():
        return 2  # another process has said what went wrong, and this one only heard of it
    hint = f" (see {help_of} --help)" if help_of else ""
    print(f"{program}: error: {' '.join(message.split())}{hint}", file=sys.stderr)
    return 2


@contextmanager
def _own_files() -> Iterator[None]:
    """Let classes be imported from files in the current folder, after everything that is installed."""
    here = os.getcwd()  # noqa: PTH109  (sys.path holds strings)
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
