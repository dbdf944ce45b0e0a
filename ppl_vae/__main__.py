"""``python -m ppl_vae``: the command line."""

from ppl_vae.cli import main

if __name__ == "__main__":
    status = main()
    from ppl_vae.distributed import end

    end(status)
