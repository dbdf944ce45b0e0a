"""A likelihood of your own: a beta-binomial distribution for grey levels, with more spread than a binomial one."""

import math

import pyro.distributions as dist
from torch.distributions import constraints

import ppl_vae as pv


class BetaBinomial(pv.likelihoods.Likelihood):
    """p(x|z) = BetaBinomial(total_count, a, b) for each pixel: a binomial whose probability has a beta distribution."""

    base_measure = "counting"

    def __init__(self, shape, total_count):
        super().__init__(shape)
        self.total_count = total_count
        self.param_shapes = {"log_a": self.shape, "log_b": self.shape}

    @property
    def support(self):
        return constraints.integer_interval(0, self.total_count)

    def forward(self, params):
        a, b = params["log_a"].exp(), params["log_b"].exp()
        return dist.BetaBinomial(a, b, self.total_count, validate_args=False).to_event(len(self.shape))

    def features(self, x):
        return x / self.total_count


def main(epochs: int = 60, num_samples: int = 2000) -> dict[str, pv.Evidence]:
    digits = pv.data.load("digits", view="counts")  # integers from 0 to 16
    likelihoods = {"Binomial": pv.likelihoods.Binomial(64, 16), "BetaBinomial": BetaBinomial(64, 16)}
    results = {}
    for name, likelihood in likelihoods.items():
        vae = pv.VAE(
            pv.priors.StandardNormal(8), likelihood, pv.posteriors.MeanFieldNormal(8), hidden=(200, 200)
        )
        pv.fit(vae, digits.train, x_valid=digits.valid, epochs=epochs, batch_size=64, patience=15, seed=0)
        results[name] = pv.evidence.importance(vae.program, digits.test, num_samples=num_samples, seed=0)
        print(f"{name}:\n{results[name]}\n")

    # Both are probabilities of the same integers, so their evidence can be compared. The evidence of a Gaussian
    # likelihood is a density, and cannot be compared with them.
    difference = results["BetaBinomial"].log_evidence - results["Binomial"].log_evidence
    stderr = float(difference.std()) / math.sqrt(len(difference))
    print(f"BetaBinomial - Binomial: {float(difference.mean()):+.2f} ± {stderr:.2f} nats a digit")
    # If an estimate is rejected, it is only a lower bound, and the difference is uncertain, too.
    rejected = {name: float((evidence.status == "reject").mean()) for name, evidence in results.items()}
    print("share of digits whose estimate is only a lower bound:", rejected)
    return results


if __name__ == "__main__":
    main()
