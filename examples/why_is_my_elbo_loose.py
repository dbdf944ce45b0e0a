"""Why the ELBO is loose: split its gap to log p(x) into the parts of the family of q and of the encoder."""

import ppl_vae as pv


def main(epochs: int = 60, num_samples: int = 2000, picture: str | None = None) -> dict[str, pv.Evidence]:
    digits = pv.data.load("digits", view="binary")
    families = {
        "mean-field": pv.posteriors.MeanFieldNormal(8),
        "full covariance": pv.posteriors.MultivariateNormal(8),
    }
    gaps, evidence = {}, {}
    for name, family in families.items():
        vae = pv.VAE(pv.priors.StandardNormal(8), pv.likelihoods.Bernoulli(64), family, hidden=(200, 200))
        pv.fit(vae, digits.train, x_valid=digits.valid, epochs=epochs, batch_size=64, patience=15, seed=0)
        x = digits.test[:100]
        evidence[name] = pv.evidence.annealed(vae.program, x, 8, max(1, num_samples // 10), seed=0)
        # log p(x) - ELBO = approximation gap (the best q of this family differs from the posterior)
        #                 + amortisation gap (the encoder does not give the best q)
        gaps[name] = pv.analysis.gaps(
            vae.program, x, evidence=evidence[name], num_samples=num_samples, seed=0
        )
        print(f"{name}:\n{gaps[name]}")
        print(pv.analysis.surgery(vae.program, digits.test, num_samples=min(num_samples, 20), seed=0))
        print(pv.analysis.active_units(vae.program, digits.test))
        print(pv.analysis.calibration(vae.program, digits.test, num_data=min(num_samples, 300), seed=0))
    if picture:
        pv.plots.save(pv.plots.gap_decomposition(gaps), picture)
    return evidence


if __name__ == "__main__":
    main(picture="gaps.png")
