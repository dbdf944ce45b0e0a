"""ppl_vae."""
