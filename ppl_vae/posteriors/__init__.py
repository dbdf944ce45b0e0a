"""ppl_vae.posteriors (to be written)."""
