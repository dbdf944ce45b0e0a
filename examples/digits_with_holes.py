"""Data with holes: digits of which 40 % of the pixels are missing, modelled as they are or filled with means first."""

import math

import torch

import ppl_vae as pv

MISSING = 0.4


def main(epochs: int = 60, num_samples: int = 2000) -> dict[str, pv.Evidence]:
    digits = pv.data.load("digits", view="counts")  # integers from 0 to 16
    generator = torch.Generator().manual_seed(0)

    def with_holes(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x, "mask": torch.rand(x.shape, generator=generator) >= MISSING}

    train, valid, test = (with_holes(x) for x in (digits.train, digits.valid, digits.test))
    seen = train["mask"]
    means = torch.where(seen, train["x"], 0).sum(0) / seen.sum(0).clamp(min=1)
    filled = torch.where(seen, train["x"], means.round())  # a tensor: as if every pixel had been observed

    results, errors = {}, {}
    for name, x in {"holes": train, "filled": filled}.items():
        vae = pv.VAE(
            pv.priors.StandardNormal(8),
            pv.likelihoods.BetaBinomial(64, 16),
            pv.posteriors.MeanFieldNormal(8),
            missing=True,
        )
        pv.fit(vae, x, x_valid=valid, epochs=epochs, batch_size=64, patience=15, seed=0)
        results[name] = pv.evidence.importance(vae.program, test, num_samples=num_samples, seed=0)
        print(f"{name}: log p of the pixels that were observed\n{results[name]}\n")
        imputed = pv.impute(vae, test, num_samples=min(num_samples, 200))
        low, high = imputed.interval(0.9)
        hidden = ~test["mask"]
        errors[name] = float((imputed.mean - test["x"])[hidden].square().mean().sqrt())
        inside = float(((low <= test["x"]) & (test["x"] <= high))[hidden].float().mean())
        print(
            f"{name}: imputed grey levels are off by {errors[name]:.2f} of 16; 90 % intervals hold {inside:.0%}\n"
        )

    # The same pixels are observed for both, so their evidence can be compared.
    difference = results["holes"].log_evidence - results["filled"].log_evidence
    stderr = float(difference.std()) / math.sqrt(len(difference))
    print(f"holes - filled: {float(difference.mean()):+.2f} ± {stderr:.2f} nats a digit")
    constant = float((means - test["x"])[~test["mask"]].square().mean().sqrt())
    print(f"a pixel's mean in the place of what is missing is off by {constant:.2f}")
    return results


if __name__ == "__main__":
    main()
