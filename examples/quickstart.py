"""Train a VAE on 1,297 digits, and estimate log p(x) of test digits, the gap to the ELBO, and verdicts."""

import ppl_vae as pv


def main(epochs: int = 60, num_samples: int = 2000) -> pv.Evidence:
    digits = pv.data.load("digits", view="binary")  # 8 x 8 handwritten digits of scikit-learn
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(8),
        likelihood=pv.likelihoods.Bernoulli(64),
        posterior=pv.posteriors.MeanFieldNormal(8),
        hidden=(200, 200),
        activation="tanh",
    )
    history = pv.fit(
        vae, digits.train, x_valid=digits.valid, epochs=epochs, batch_size=64, patience=15, seed=0
    )
    print(f"trained for {len(history)} epochs; validation ELBO {history[-1].valid_elbo:.2f} nats a digit")

    evidence = pv.evidence.importance(vae.program, digits.test, num_samples=num_samples, seed=0)
    print(evidence)

    hardest = int(evidence.log_evidence.argmin())
    print(f"the least likely test digit is number {hardest}: {evidence.log_evidence[hardest]:.1f} nats")
    print(f"  {evidence.status[hardest]}: {evidence.reason[hardest]}")
    return evidence


if __name__ == "__main__":
    main()
