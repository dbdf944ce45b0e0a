"""ppl_vae.likelihoods (to be written)."""
