"""All estimators of the log evidence of one model, from the ELBO to the upper bound, in one figure.

python examples/evidence_ladder.py        # writes evidence_ladder.png
"""

from pathlib import Path

import ppl_vae as pv
from ppl_vae import evidence as ev


def main(epochs: int = 60, num_samples: int = 5000, num_steps: int = 300, picture: str | None = None) -> dict:
    digits = pv.data.load("digits", view="binary")
    vae = pv.VAE(
        pv.priors.StandardNormal(8), pv.likelihoods.Bernoulli(64), pv.posteriors.MeanFieldNormal(8),
        hidden=(200, 200),
    )  # fmt: skip
    pv.fit(vae, digits.train, x_valid=digits.valid, epochs=epochs, batch_size=64, patience=15, seed=0)
    program = vae.program

    # The data are simulated from the model. For such data there is a certified upper bound of log p(x), too.
    both = ev.sandwich(program, digits.test[:100], num_chains=8, num_steps=num_steps, seed=0)
    x = both.x

    direct = ev.importance(program, x, num_samples, seed=0)
    results = {
        # The ELBO, the IWAE bounds and importance sampling, all from the same samples.
        **pv.plots.ladder_rows(direct),
        "PSIS": ev.psis(program, x, num_samples, seed=0),
        "jackknife": ev.jackknife(program, x, num_samples, seed=0),
        "defensive proposal": ev.importance(program, x, num_samples, proposal=ev.Defensive(0.1), seed=0),
        "AIS, a tenth of the steps": ev.annealed(program, x, 8, max(1, num_steps // 10), seed=0),
        "AIS": both.lower,
        "SMC": ev.smc(program, x, 64, max(1, num_steps // 10), seed=0),
        "reverse AIS": both.upper,
    }
    for name, result in results.items():
        mean = result.mean() if isinstance(result, pv.Evidence) else result.mean
        print(f"{name:<26} {mean.value:9.4f} ± {mean.mc_stderr:.4f} nats")
    print(f"gap between the upper and the lower bound: {both.mean_gap()} nats")
    if picture:
        pv.plots.save(pv.plots.evidence_ladder(results, title="Binary digits, 8 latent dimensions"), picture)
    return {name: result for name, result in results.items() if isinstance(result, pv.Evidence)}


if __name__ == "__main__":
    main(picture=str(Path("evidence_ladder.png")))
