"""The peer in JAX and NumPyro: what runs in the environment of `constraints-jax.txt`, and never beside torch.

Parameters are dicts ``{"encoder": [(weight, bias), ...], "decoder": [...]}`` with weights ``(in, out)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from jax.scipy.special import logsumexp
from numpyro.handlers import substitute
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
from numpyro.optim import Adam

Params = dict[str, list[tuple[jax.Array, jax.Array]]]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"softplus": jax.nn.softplus, "tanh": jnp.tanh}


def network(layers: Sequence[tuple[jax.Array, jax.Array]], activation: str, h: jax.Array) -> jax.Array:
    """A dense network on ``(..., in)``."""
    for weight, bias in layers[:-1]:
        h = ACTIVATIONS[activation](h @ weight + bias)
    weight, bias = layers[-1]
    return h @ weight + bias


def encode(params: Params, activation: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """loc and log scale of q(z|x)."""
    loc, log_scale = jnp.split(network(params["encoder"], activation, x), 2, axis=-1)
    return loc, log_scale


def log_likelihood(params: Params, activation: str, x: jax.Array, z: jax.Array) -> jax.Array:
    """log p(x|z) = sum_i x_i l_i - softplus(l_i)."""
    logits = network(params["decoder"], activation, z)
    return (x * logits - jax.nn.softplus(logits)).sum(-1)


def weigh(
    params: Params, activation: str, x: jax.Array, loc: jax.Array, log_scale: jax.Array, eps: jax.Array
) -> jax.Array:
    """log p(x, z) - log q(z|x) at z = loc + exp(log scale) eps; the two constants log 2 pi / 2 cancel."""
    z = loc + jnp.exp(log_scale) * eps
    log_prior = -0.5 * jnp.square(z).sum(-1)
    log_guide = -(0.5 * jnp.square(eps) + log_scale).sum(-1)
    return log_likelihood(params, activation, x, z) + log_prior - log_guide


# ---- training: NumPyro's own SVI, a whole epoch compiled -----------------------------------------------------


class Training:
    """`numpyro.infer.SVI` and NumPyro's Adam; an epoch is one jitted scan over shuffled batches.

    The objective is `Trace_ELBO`, or with more particles `RenyiELBO` at alpha = 0, the importance-weighted bound.
    """

    def __init__(
        self,
        params: Params,
        activation: str,
        x: jax.Array,
        batch_size: int,
        seed: int,
        particles: int = 1,
        lr: float = 1e-3,
    ):
        self.params, self.activation, self.x, self.batch_size = params, activation, x, batch_size
        self.latent = params["decoder"][0][0].shape[0]
        objective = Trace_ELBO() if particles == 1 else RenyiELBO(alpha=0, num_particles=particles)
        self.svi = SVI(self.model, self.guide, Adam(lr), objective)
        self.key, key = random.split(random.PRNGKey(seed))
        self.state = jax.jit(self.svi.init)(key, x[:batch_size])
        self.epoch = jax.jit(self._epoch, donate_argnums=0)

    def model(self, x: jax.Array) -> None:
        decoder = {"decoder": numpyro.param("decoder$params", self.params["decoder"])}
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(self.latent), 1.0).to_event(1))
            logits = network(decoder["decoder"], self.activation, z)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: jax.Array) -> None:
        encoder = {"encoder": numpyro.param("encoder$params", self.params["encoder"])}
        loc, log_scale = encode(encoder, self.activation, x)
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    def check(self, x: jax.Array, eps: jax.Array) -> jax.Array:
        """NumPyro's ELBO at the starting parameters and given noise, ``(1,)``.

        At noise of K particles it is the bound of the weights that evidence is made of: NumPyro's own draws inside.
        """
        if eps.ndim == 3:
            weights = log_weights(self.params, x, eps, activation=self.activation)
            return jnp.reshape((logsumexp(weights, 0) - math.log(len(eps))).sum(), 1)

        @jax.jit
        def elbo(params: Params, x: jax.Array, eps: jax.Array) -> jax.Array:
            loc, log_scale = encode(params, self.activation, x)
            guide = substitute(self.guide, data={"z": loc + jnp.exp(log_scale) * eps})
            named = {f"{net}$params": layers for net, layers in params.items()}
            return -Trace_ELBO().loss(random.PRNGKey(0), named, self.model, guide, x)

        return jnp.reshape(elbo(self.params, x, eps), 1)

    def _epoch(self, state: Any, key: jax.Array, x: jax.Array) -> tuple[Any, jax.Array]:
        steps = len(x) // self.batch_size
        order = random.permutation(key, len(x))[: steps * self.batch_size].reshape(steps, self.batch_size)

        def step(state: Any, index: jax.Array) -> tuple[Any, jax.Array]:
            return self.svi.update(state, x[index])

        state, losses = lax.scan(step, state, order)
        return state, losses.sum() / (steps * self.batch_size)

    def epochs(self, epochs: int) -> float:
        """Run some; returns the mean ELBO of a datum while it trained, which waits for all of it."""
        losses = []
        for _ in range(epochs):
            self.key, key = random.split(self.key)
            self.state, loss = self.epoch(self.state, key, self.x)
            losses.append(loss)
        jax.block_until_ready(self.state)
        return -float(sum(losses)) / epochs


# ---- evidence: weights streamed through a scan ---------------------------------------------------------------


@partial(jax.jit, static_argnames="activation")
def log_weights(params: Params, x: jax.Array, eps: jax.Array, *, activation: str) -> jax.Array:
    """The log weights at given noise ``(S, N, latent)``, ``(S, N)``."""
    return weigh(params, activation, x, *encode(params, activation, x), eps)


@partial(jax.jit, static_argnames=("activation", "chunk", "chunks"))
def evidence(
    params: Params, x: jax.Array, key: jax.Array, *, activation: str, chunk: int, chunks: int
) -> jax.Array:
    """log p(x) of each datum from ``chunk * chunks`` importance samples, ``(N,)``."""
    loc, log_scale = encode(params, activation, x)

    def step(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        eps = random.normal(key, (chunk, *loc.shape))
        weights = weigh(params, activation, x, loc, log_scale, eps)
        return jnp.logaddexp(total, logsumexp(weights, 0)), None

    total, _ = lax.scan(step, jnp.full(len(x), -jnp.inf), random.split(key, chunks))
    return total - math.log(chunk * chunks)


# ---- annealing: a scan over steps ----------------------------------------------------------------------------


def bridge(
    params: Params, activation: str, x: jax.Array, loc: jax.Array, log_scale: jax.Array
) -> Callable[..., Any]:
    """z -> log q(z|x), log p(x, z), both without log 2 pi / 2 a dimension, and their gradients."""

    def log_joint(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = log_likelihood(params, activation, x, z) - 0.5 * jnp.square(z).sum(-1)
        return value.sum(), value

    def at(z: jax.Array) -> tuple[jax.Array, ...]:
        (_, value), slope = jax.value_and_grad(log_joint, has_aux=True)(z)
        standard = (z - loc) / jnp.exp(log_scale)
        log_guide = -(0.5 * jnp.square(standard) + log_scale).sum(-1)
        return log_guide, value, -standard / jnp.exp(log_scale), slope

    return at


def mix(a: jax.Array, b: jax.Array, beta: jax.Array) -> jax.Array:
    """(1 - beta) a + beta b."""
    return a + beta * (b - a)


def move(
    at: Callable[..., Any],
    z: Any,
    here: Any,
    beta: Any,
    sizes: Any,
    fresh: Any,
    threshold: Any,
    leapfrog: int,
) -> tuple[jax.Array, tuple[jax.Array, ...], jax.Array]:
    """A move of HMC with full refreshment; returns z, the densities there, and who was accepted."""

    def energy(point: Any, momentum: jax.Array) -> jax.Array:
        return mix(point[0], point[1], beta) - 0.5 * jnp.square(momentum).sum(-1)

    def slope(point: Any) -> jax.Array:
        return mix(point[2], point[3], beta)

    momentum, u, there = fresh + 0.5 * sizes * slope(here), z, here
    for left in reversed(range(leapfrog)):
        u = u + sizes * momentum
        there = at(u)
        momentum = momentum + (1.0 if left else 0.5) * sizes * slope(there)
    accept = jnp.log(threshold) < energy(there, momentum) - energy(here, fresh)
    wide = accept[..., None]
    chosen = tuple(jnp.where(wide if a.ndim == 3 else accept, b, a) for a, b in zip(here, there, strict=True))
    return jnp.where(wide, u, z), chosen, accept


@partial(jax.jit, static_argnames=("activation", "num_chains", "num_steps", "leapfrog"))
def annealed(
    params: Params,
    x: jax.Array,
    key: jax.Array,
    step: float,
    *,
    activation: str,
    num_chains: int,
    num_steps: int,
    leapfrog: int = 3,
    given: tuple[jax.Array, jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Annealed importance sampling from the guide, as `benchmarks.handwritten.Annealing`.

    Args:
        params: the parameters.
        x: the data.
        key: of the draws.
        step: in guide scales.
        activation: by name.
        num_chains: S.
        num_steps: T.
        leapfrog: steps a move.
        given: instead of draws: starts ``(S, N, latent)``, momenta ``(T - 1, S, N, latent)``, thresholds
            ``(T - 1, S, N)``.

    Returns:
        log weights ``(S, N)`` and the acceptance rate.
    """
    loc, log_scale = encode(params, activation, x)
    at = bridge(params, activation, x, loc, log_scale)
    sizes, shape = step * jnp.exp(log_scale), (num_chains, *loc.shape)
    key, start = random.split(key)
    first = random.normal(start, shape) if given is None else given[0]
    z = loc + jnp.exp(log_scale) * first
    here = at(z)

    def body(carry: Any, turn: Any) -> tuple[Any, None]:
        z, here, log_weight, accepted = carry
        t, noise = turn
        if given is None:
            momentum, uniform = random.split(noise)
            noise = random.normal(momentum, shape), random.uniform(uniform, shape[:2])
        z, here, accept = move(at, z, here, t / num_steps, sizes, *noise, leapfrog)
        return (z, here, log_weight + (here[1] - here[0]) / num_steps, accepted + accept.mean()), None

    noise = random.split(key, num_steps - 1) if given is None else given[1:]
    start = (z, here, (here[1] - here[0]) / num_steps, jnp.zeros(()))
    (_, _, log_weight, accepted), _ = lax.scan(body, start, (jnp.arange(1, num_steps), noise))
    return log_weight, accepted / max(num_steps - 1, 1)
