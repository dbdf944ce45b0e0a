"""The commands, one a file with ``run(argv) -> int``. Whatever goes wrong is one line and a documented status."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module

from ppl_vae import distributed, exits, streams
from ppl_vae.cli.errors import HelpShown, explain
from ppl_vae.errors import InputError, UsageError

COMMANDS = {
    "demo": "train, estimate and plot on scikit-learn's digits: no download, no arguments, under a minute",
    "train": "train a VAE made of parts that you choose, or of your own, and write a run folder",
    "evidence": "log p(x) of held-out data, with its errors, its gap to the ELBO and a verdict",
    "sandwich": "lower and upper bounds of log p(x) for data that are simulated from the model",
    "gaps": "where the gap to the ELBO comes from, what the latents carry, and which are active",
    "validate": "test estimators, also your own, on models whose log evidence is known",
    "sample": "draw data from a trained model",
    "reconstruct": "data and their reconstructions by the model",
    "interpolate": "decode straight lines between data in the latent space",
}
"""The commands, and what each is for in one line."""

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
  ppl-vae evidence runs/vamp --num-samples 5000
  ppl-vae sandwich runs/vamp --num-data 50
  ppl-vae gaps runs/vamp
  ppl-vae sample runs/vamp --num 64 --out samples.png
  torchrun --standalone --nproc-per-node 4 -m ppl_vae evidence runs/vamp --num-samples 5000

{statuses}"""


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (`ppl_vae.cli.main` says which there are).

    Args:
        argv: the arguments after the program's name; default: those of the process.
    """
    exits.begin("ppl-vae")
    with streams.guarded() as out:
        status = _caught(_joined, list(sys.argv[1:] if argv is None else argv))
        exits.work(False)
        out.flush()
        if out.error is not None:
            if argv is None:
                streams.give_up(out)
            if status == exits.DONE and not isinstance(out.error, BrokenPipeError):
                done = "the command has done its work; its files are whole"
                exits.say(f"ppl-vae: error: standard output: {out.error.strerror} ({done})")
                status = exits.BAD_INPUT
    return status


def _caught(function: Callable[[list[str]], int], arguments: list[str]) -> int:
    """What a function returns; or the status of what ended it, said in one line."""
    try:
        return function(arguments)
    except HelpShown:
        return exits.DONE
    except BaseException as error:  # a user's module may raise anything: SystemExit, too
        program = exits.program()
        # A KeyboardInterrupt without a signal is one that a user's own code has raised.
        if exits.received() or (isinstance(error, KeyboardInterrupt) and not exits.watching()):
            how = f"; {error}" if isinstance(error, KeyboardInterrupt) and str(error) else ""
            line, status = f"{program}: {exits.words()}{how}", exits.status()
        else:
            if "--debug" in arguments or os.environ.get("PPL_VAE_DEBUG", "") not in ("", "0"):
                traceback.print_exception(error)
            hint = f" (see {program} --help)" if isinstance(error, UsageError) else ""
            line, status = f"{program}: error: {' '.join(explain(error).split())}{hint}", exits.BAD_INPUT
        if distributed.first_to_fail():  # else another process has said what went wrong
            exits.say(line)
        return status


def _joined(arguments: list[str]) -> int:
    if not distributed.launched():
        return _caught(_main, arguments)
    with distributed.joined():
        if distributed.is_main():
            return _caught(_main, arguments)
        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  (until the process ends)
        with redirect_stdout(nowhere), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the main process gives them
            return _caught(_main, arguments)


def _main(arguments: list[str]) -> int:
    name, *rest = [argument for argument in arguments if argument != "--debug"] or [""]
    if name in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {command:<{width}}  {text}" for command, text in COMMANDS.items()]
        print(_HELP.format(commands="\n".join(lines), statuses=exits.STATUSES), end="")
        return exits.DONE
    if name == "--version":
        from ppl_vae import __version__

        print(f"ppl-vae {__version__}")
        return exits.DONE
    if name not in COMMANDS:
        raise UsageError("COMMAND", f"one of {', '.join(COMMANDS)}", repr(name) if name else "none")
    if distributed.world().size > 1 and name not in SHARED:
        raise InputError("torchrun", f"one of {', '.join(SHARED)}", repr(name))
    exits.begin(f"ppl-vae {name}")
    from ppl_vae.log_timing import tallied

    with _own_files(), tallied() as compiled:
        status: int = import_module(f"ppl_vae.cli.commands.{name}").run(rest)
    if compiled.compiled and distributed.is_main():  # not after an error, which is one line by itself
        print(compiled, file=sys.stderr)
    return status


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
