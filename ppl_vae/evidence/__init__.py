"""ppl_vae.evidence (to be written)."""
