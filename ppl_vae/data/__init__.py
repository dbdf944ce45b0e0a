"""ppl_vae.data (to be written)."""
