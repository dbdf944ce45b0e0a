"""The child process that runs the JAX contestants: a JSON line in, a JSON line out, until its input ends.

    {"job": "evidence", "args": {...}} -> {"seconds": ..., ...}  or  {"error": "..."}

It times its own work, from the call to ``block_until_ready``, so that talking costs the contestant nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import random
from jax.scipy.special import logsumexp

from benchmarks import jax_models as models

Answer = dict[str, Any]


class Child:
    """What the harness has sent so far, and the jobs on it. Names are the harness's own."""

    def __init__(self) -> None:
        self.params: dict[str, models.Params] = {}
        self.arrays: dict[str, dict[str, jax.Array]] = {}
        self.training: dict[str, models.Training] = {}
        self.calls = 0

    def versions(self) -> Answer:
        """What runs here."""
        found = {module.__name__: module.__version__ for module in (jax, numpyro)}
        return {"versions": found, "device": str(jax.devices()[0])}

    def load(self, name: str, path: str) -> Answer:
        """Take arrays from an npz file; ``encoder.0.weight`` and the like make up parameters."""
        with np.load(path) as file:
            arrays = {key: jnp.asarray(file[key]) for key in file.files}
        params: models.Params = {"encoder": [], "decoder": []}
        for net, layers in params.items():
            while f"{net}.{len(layers)}.weight" in arrays:
                at = f"{net}.{len(layers)}"
                # torch keeps weights as (out, in)
                layers.append((jnp.array(arrays.pop(f"{at}.weight").T), arrays.pop(f"{at}.bias")))
        if params["encoder"]:
            self.params[name] = params
        self.arrays[name] = arrays
        return {"seconds": 0.0}

    def training_start(
        self, name: str, activation: str, batch_size: int, seed: int, particles: int = 1
    ) -> Answer:
        """A training run of its own on the parameters and ``x`` of ``name``."""
        key = f"{name}/{batch_size}/{particles}"
        x = self.arrays[name]["x"]
        self.training[key] = models.Training(self.params[name], activation, x, batch_size, seed, particles)
        return {"run": key}

    def training_check(self, run: str) -> Answer:
        """The ELBO at ``check_x`` and ``check_eps``."""
        arrays = self.arrays[run.partition("/")[0]]
        return {"value": self.training[run].check(arrays["check_x"], arrays["check_eps"]).tolist()}

    def training_epochs(self, run: str, epochs: int) -> Answer:
        """Train on."""
        start = time.perf_counter()
        elbo = self.training[run].epochs(epochs)
        return {"seconds": time.perf_counter() - start, "elbo": elbo}

    def evidence_check(self, name: str, activation: str) -> Answer:
        """The log weights at ``x`` and ``check_eps`` ``(S, N, latent)``."""
        params, x = self.params[name], self.arrays[name]["x"]
        return {
            "value": models.log_weights(
                params, x, self.arrays[name]["check_eps"], activation=activation
            ).tolist()
        }

    def evidence(self, name: str, activation: str, num_samples: int, chunk: int) -> Answer:
        """Importance sampling of ``x``."""
        chunks, rest = divmod(num_samples, chunk)
        if rest:
            raise ValueError(f"{num_samples} samples are not a number of chunks of {chunk}")
        start = time.perf_counter()
        value = models.evidence(
            self.params[name],
            self.arrays[name]["x"],
            self._key(),
            activation=activation,
            chunk=chunk,
            chunks=chunks,
        )
        value.block_until_ready()
        return {"seconds": time.perf_counter() - start, "value": value.tolist()}

    def annealing_check(self, name: str, activation: str, step: float, leapfrog: int) -> Answer:
        """The log weights of chains at given noise: ``check_first``, ``check_momenta``, ``check_thresholds``."""
        arrays = self.arrays[name]
        given = tuple(arrays[f"check_{what}"] for what in ("first", "momenta", "thresholds"))
        weights, _ = models.annealed(
            self.params[name], arrays["x"], random.key(0), step, activation=activation,
            num_chains=len(given[0]), num_steps=len(given[1]) + 1, leapfrog=leapfrog, given=given,
        )  # fmt: skip
        return {"value": weights.tolist()}

    def annealing(
        self, name: str, activation: str, step: float, leapfrog: int, num_chains: int, num_steps: int
    ) -> Answer:
        """Annealed importance sampling of ``x``."""
        start = time.perf_counter()
        weights, accepted = models.annealed(
            self.params[name], self.arrays[name]["x"], self._key(), step, activation=activation,
            num_chains=num_chains, num_steps=num_steps, leapfrog=leapfrog,
        )  # fmt: skip
        weights.block_until_ready()
        seconds = time.perf_counter() - start
        value = logsumexp(weights, 0) - jnp.log(num_chains)
        return {"seconds": seconds, "value": value.tolist(), "accepted": float(accepted)}

    def _key(self) -> jax.Array:
        self.calls += 1
        return random.key(self.calls)


JOBS: dict[str, Callable[..., Answer]] = {
    name: job for name, job in vars(Child).items() if not name.startswith("_")
}


def main() -> None:
    # Whatever a library prints must not come between the answers.
    out, sys.stdout = sys.stdout, sys.stderr
    child = Child()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = JOBS[request["job"]](child, **request.get("args", {}))
        except Exception as error:  # told to the harness, which goes on without this contestant
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    # As many threads as torch has: XLA takes one for each CPU that it may use.
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    if threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    main()
