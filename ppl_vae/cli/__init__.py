"""ppl_vae.cli (to be written)."""
