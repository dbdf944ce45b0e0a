"""ppl_vae.priors (to be written)."""
