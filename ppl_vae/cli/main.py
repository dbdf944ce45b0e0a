"""The entry point. It imports nearly nothing, so that Ctrl-C is caught from the first moment on."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the arguments after the program's name; default: those of the process, whose signals are then caught.

    Returns:
        the exit status: 0; 2 for bad input (one line on standard error says what); 130 for Ctrl-C, 143 for SIGTERM,
        129 for SIGHUP.
    """
    try:
        from ppl_vae import exits

        if argv is None:
            exits.watch()
        from ppl_vae.cli.commands import run
    except KeyboardInterrupt:  # before signals were caught
        import sys

        print("ppl-vae: interrupted", file=sys.stderr)
        return 130
    return run(argv)
