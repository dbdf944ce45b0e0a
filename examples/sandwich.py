"""Bounds of log p(x) from below and above: their gap shows how many steps annealing needs on this model."""

import ppl_vae as pv


def main(epochs: int = 60, num_samples: int = 1000, picture: str | None = None) -> dict[str, pv.Evidence]:
    digits = pv.data.load("digits", view="counts")
    vae = pv.VAE(
        pv.priors.StandardNormal(6), pv.likelihoods.Binomial(64, 16), pv.posteriors.MeanFieldNormal(6)
    )
    pv.fit(vae, digits.train, x_valid=digits.valid, epochs=epochs, batch_size=64, patience=15, seed=0)

    # The data are simulated, so their latents are exact posterior samples, from which reversed chains can start.
    ladder = {}
    for num_steps in (10, 30, 100, 300):
        num_steps = max(1, min(num_steps, num_samples // 3))
        ladder[num_steps] = pv.evidence.sandwich(vae.program, digits.test[:50], 8, num_steps, seed=0)
        gap = ladder[num_steps].mean_gap()
        print(f"{num_steps:>5} steps: gap between the bounds {gap} nats")

    # For real digits there is only a lower bound. The gap on simulated data certifies the sampler on this model.
    steps = max(ladder)
    real = pv.evidence.annealed(vae.program, digits.test[:50], 8, steps, seed=0)
    print(real)
    print(f"certificate: a gap of {ladder[steps].mean_gap().value:.3f} nats on simulated data")
    if picture:
        pv.plots.save(pv.plots.sandwich_curve(ladder), picture)
    return {"lower": ladder[steps].lower, "upper": ladder[steps].upper, "real": real}


if __name__ == "__main__":
    main(picture="sandwich.png")
