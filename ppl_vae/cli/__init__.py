"""The command line: a thin shell over the library. Nothing here imports torch before a command needs it."""

from ppl_vae.cli.main import main

__all__ = ["main"]
