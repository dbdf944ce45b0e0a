"""Cases of `fit` that are started as a new process would, and killed at a given call."""

import torch
from pyro.infer import RenyiELBO, TraceMeanField_ELBO
from training_models import GREY, V, X, handwritten, make, normalised

import ppl_vae as pv
from ppl_vae.data import binarise
from ppl_vae.posteriors import MultivariateNormal
from ppl_vae.priors import VampPrior


def torch_sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def sgd_again(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr)


CASES = {
    "plain": {},
    "validation": {"x_valid": V},
    "patience": {"x_valid": V, "patience": 1, "lr": 0.1, "epochs": 8},
    "patience and warm-up": {"x_valid": V, "patience": 2, "kl_warmup": 3, "lr": 0.05, "epochs": 8},
    "warm-up": {"kl_warmup": 4},
    "cosine": {"lr_schedule": "cosine"},
    "burda": {"lr_schedule": "burda"},
    "own schedule": {"lr_schedule": lambda epoch, epochs: 1 / (1 + epoch)},
    "dynamic binarisation": {"x_train": GREY, "transform": binarise},
    "clipping and momentum": {"clip_norm": 0.5, "optimiser": torch_sgd, "lr": 1e-3},
    "plain SGD": {"optimiser": lambda parameters, lr: torch.optim.SGD(parameters, lr), "lr": 1e-4},
    "AdamW": {"optimiser": lambda parameters, lr: torch.optim.AdamW(parameters, lr, amsgrad=True)},
    "Renyi": {"objective": lambda: RenyiELBO(num_particles=2, vectorize_particles=True)},
    "mean field": {"objective": TraceMeanField_ELBO},
    "batch normalisation": {"target": normalised, "x_valid": V},
    "pseudo-inputs": {"target": lambda: make(VampPrior, posterior=MultivariateNormal)},
    "handwritten": {"target": handwritten},
    "handwritten, everything": {
        "target": handwritten,
        "x_valid": V,
        "patience": 2,
        "kl_warmup": 2,
        "lr": 0.1,
        "lr_schedule": "cosine",
        "x_train": GREY,
        "transform": binarise,
    },
}


class Killed(BaseException):
    """Like KeyboardInterrupt, but nobody else's."""


def start(case, folder, **more):
    """`fit` of a case from scratch, as a new process would call it."""
    case = CASES[case] | more
    made = case.get("target", make)()
    settings = {"epochs": 5, "batch_size": 25, "lr": 1e-2, "seed": 3, "x_train": X} | {
        name: value for name, value in case.items() if name != "target"
    }
    if "objective" in settings:
        settings["objective"] = settings["objective"]()
    folder.mkdir(exist_ok=True)
    history = pv.fit(
        made,
        settings.pop("x_train"),
        **settings,
        checkpoint=folder / "state",
        history_path=folder / "history",
    )
    return made, history


def killing(monkeypatch, name, owner, call, error=Killed):
    """Make the given call of a function of the library raise instead."""
    original, calls = getattr(owner, name), []

    def run(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, run)
