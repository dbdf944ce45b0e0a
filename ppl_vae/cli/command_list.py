"""The commands, and what each is for in one line."""

COMMANDS = {
    "demo": "train, estimate and plot on scikit-learn's digits: no network, no arguments, under a minute",
    "train": "train a VAE from parts that you choose, your own included, into a run folder",
    "evidence": "log p(x) of held-out data, with its errors, its gap to the ELBO and a verdict",
    "sandwich": "bounds of log p(x) from both sides, certified on data that the model itself made",
    "gaps": "where the gap to the ELBO comes from, what the latents carry, which of them are active",
    "validate": "estimators, yours among them, on models whose log evidence is known",
    "sample": "draw from a trained model",
    "reconstruct": "data beside what the model makes of them",
    "interpolate": "straight lines between data in the latent space",
}
