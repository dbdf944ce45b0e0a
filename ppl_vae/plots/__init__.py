"""ppl_vae.plots (to be written)."""
