"""The evidence of a hand-written two-level Pyro model, without the VAE class, checked against the exact answer.

Each datum is a school: its mean mu is drawn from a population, the true scores theta of its J = 4 classes vary
around mu, and each class is measured once, with noise. Everything is normal, so log p(x) is known exactly.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import ppl_vae as pv

CLASSES, POPULATION, WITHIN, NOISE = 4, 2.0, 1.0, 0.5


def model(x):
    with pyro.plate("data", len(x), dim=-1):
        mu = pyro.sample("mu", dist.Normal(0.0, POPULATION))
        theta = pyro.sample(
            "theta", dist.Normal(mu[..., None].expand(*mu.shape, CLASSES), WITHIN).to_event(1)
        )
        pyro.sample("x", dist.Normal(theta, NOISE).to_event(1), obs=x)


class Guide(nn.Module):
    """q(mu, theta | x) = q(mu | x) q(theta | mu, x), each normal with a linear mean and a learned scale."""

    def __init__(self):
        super().__init__()
        self.mu = nn.Linear(CLASSES, 1)
        self.theta = nn.Linear(CLASSES + 1, CLASSES)
        self.log_scale = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        pyro.module("guide", self)
        scale = self.log_scale.exp()
        with pyro.plate("data", len(x), dim=-1):
            mu = pyro.sample("mu", dist.Normal(self.mu(x).squeeze(-1), scale[0]))
            # mu may have a sample axis on the left, (S, N); x, (N, CLASSES), is expanded to it.
            both = torch.cat([x.expand(*mu.shape, CLASSES), mu[..., None]], dim=-1)
            pyro.sample("theta", dist.Normal(self.theta(both), scale[1]).to_event(1))


def exact(x):
    """log N(x; 0, POPULATION^2 11' + (WITHIN^2 + NOISE^2) I)."""
    covariance = POPULATION**2 * torch.ones(CLASSES, CLASSES) + (WITHIN**2 + NOISE**2) * torch.eye(CLASSES)
    return dist.MultivariateNormal(torch.zeros(CLASSES), covariance).log_prob(x).double()


def main(epochs: int = 40, num_samples: int = 2000) -> pv.Evidence:
    torch.manual_seed(0)
    program = pv.Program(model, Guide())
    _, x = program.simulate(torch.zeros(1000, CLASSES), seed=1)  # schools drawn from the model itself
    pv.fit(program, x, epochs=epochs, batch_size=50, lr=1e-2, lr_schedule="cosine", seed=0)

    evidence = pv.evidence.importance(program, x[:200], num_samples=num_samples, seed=0)
    print(evidence)
    error = evidence.log_evidence - exact(x[:200])
    print(f"exact log evidence: {float(exact(x[:200]).mean()):.4f} nats a school")
    print(f"largest error: {float(error.abs().max()):.4f} nats")
    print(f"largest error in standard errors: {float((error / evidence.stderr).abs().max()):.1f}")
    return evidence


if __name__ == "__main__":
    main()
