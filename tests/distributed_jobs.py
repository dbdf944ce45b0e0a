"""What the tests of more than one process run under torchrun: ``distributed_jobs.py JOB,JOB FOLDER``."""

import functools
import os
import signal
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

import ppl_vae as pv
from ppl_vae import distributed, files, rng
from ppl_vae.checkpoint import Checkpoint
from ppl_vae.data import binarise, load_digits
from ppl_vae.training import loop

DIGITS = load_digits()
SETTINGS = {"epochs": 3, "batch_size": 20, "lr": 1e-2, "seed": 3, "clip_norm": 50.0}


def vae(latent=2, **options):
    parts = (
        pv.priors.StandardNormal(latent),
        pv.likelihoods.Bernoulli(64),
        pv.posteriors.MeanFieldNormal(latent),
    )
    return pv.VAE(*parts, hidden=(8,), seed=1, **options)


def evidences(level="plain"):
    """Estimates over several blocks, over fewer blocks than processes, and by every kind of draw."""
    pv.evidence.running.blocks.level_for = lambda *_: level
    program, x, few = vae().program, DIGITS.train[:600], DIGITS.test[:90]
    quiet = {"progress": False, "seed": 5}
    yield "importance", pv.evidence.importance(program, x, 128, **quiet)
    yield "one block", pv.evidence.importance(program, few[:1], 64, **quiet)
    yield "sobol", pv.evidence.importance(program, x, 64, draws=pv.evidence.Sobol(4), **quiet)
    proposal = pv.evidence.Refitted(max_steps=3)
    yield "refitted", pv.evidence.importance(program, few, 32, proposal=proposal, **quiet)
    until = pv.evidence.UntilStderr(0.05, most=256, pilot=64)
    yield "target", pv.evidence.importance(program, x, draws=until, **quiet)
    yield "annealed", pv.evidence.annealed(program, few, 500, 4, **quiet)
    yield "smc", pv.evidence.smc(program, few, 512, 4, num_islands=8, **quiet)
    both = pv.evidence.sandwich(program, few, 500, 4, **quiet)
    yield "lower", both.lower
    yield "upper", both.upper


def analyses():
    """What goes through the same loop without being an estimate, each over several blocks."""
    program, x = vae().program, DIGITS.train[:600]
    quiet = {"progress": False, "seed": 5}
    yield "refit", pv.analysis.refit(program, x, 2, max_steps=2, **quiet)
    fitted = pv.analysis.refit(program, x, 2, max_steps=1, **quiet)
    yield "gaps", pv.analysis.gaps(program, x, 20, refitted=fitted, **quiet)
    yield "surgery", pv.analysis.surgery(program, x[:200], 2, **quiet)
    yield "units", pv.analysis.active_units(program, x, num_samples=4, **quiet)
    few = {"num_draws": 9, "num_importance": 20, "bins": 5}
    yield "calibration", pv.analysis.calibration(program, x[:9], 150, **few, **quiet)
    yield "precision", pv.evidence.precision_error(program, x, 64, **quiet)


def mean_of_pixels():
    """A program whose ELBO is the same whatever is drawn, in float64: training in many processes is that in one."""
    loc = torch.nn.Parameter(torch.zeros(64, dtype=torch.float64))
    unused = torch.nn.Parameter(torch.ones(2, dtype=torch.float32))
    part = torch.nn.ParameterDict({"loc": loc, "unused": unused})
    one = torch.ones((), dtype=torch.float64)

    def model(x):
        pyro.module("part", part)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0 * one, one))
            pyro.sample("x", dist.Normal(part["loc"], one).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0 * one, one))

    return pv.Program(model, guide), part


def fitted_pixels(level):
    """Its parameters and history: batches of 20, 20, 20 and 1, of pixels that are drawn anew."""
    loop.level_for = lambda *_: level
    program, part = mean_of_pixels()
    x = load_digits(dynamic=True).train[:61].double()
    valid = DIGITS.valid[:50].double()
    history = pv.fit(program, x, x_valid=valid, transform=binarise, progress=False, **SETTINGS)
    values = [[epoch.train_elbo, epoch.valid_elbo] for epoch in history]
    return {"loc": part["loc"].detach(), "history": torch.tensor(values, dtype=torch.float64)}


def fitted_vae(folder, level="plain", epochs=3, resume=False):
    """A VAE with batch normalisation, its history and its checkpoint in ``folder``."""

    def encoder(*_):
        layers = torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 4)
        return torch.nn.Sequential(*layers)

    loop.level_for = lambda *_: level
    if distributed.is_main():  # the others must be given the same start
        made = vae(encoder=encoder)
    else:
        with rng.seeded("cpu", 99, "another"):
            made = vae(encoder=encoder)
            for parameter in made.parameters():
                torch.nn.init.normal_(parameter)
    history = pv.fit(
        made,
        DIGITS.train[:400],
        x_valid=DIGITS.valid,
        epochs=epochs,
        batch_size=64,
        lr=1e-2,
        checkpoint=folder / "checkpoint",
        history_path=folder / "history.jsonl",
        resume=resume,
        progress=False,
    )
    return made, history


def keep(folder, name, tensors):
    files.write_tensors(folder / f"{name}.{distributed.world().rank}", tensors)


def analysis_job(folder):
    for name, found in analyses():
        keep(folder, name, {k: v for k, v in vars(found).items() if isinstance(v, torch.Tensor)})


def evidence_of(folder, level):
    for name, found in evidences(level):
        keep(folder, f"{level} {name}", found.pack()[0])


def training_of(folder, level):
    keep(folder, f"pixels {level}", fitted_pixels(level))
    (folder / level).mkdir(exist_ok=True)
    made, history = fitted_vae(folder / level, level)
    elbos = torch.tensor([[e.train_elbo, e.valid_elbo] for e in history], dtype=torch.float64)
    keep(folder, f"vae {level}", {**made.state_dict(), "elbos": elbos})
    from pyro.contrib.gp.kernels import RBF

    try:
        pv.fit(vae(), DIGITS.train[:9], objective=pyro.infer.Trace_MMD(RBF(2)))
    except pv.InputError as error:
        (folder / f"refused.{distributed.world().rank}").write_text(str(error))


plain_evidence_job = functools.partial(evidence_of, level="plain")
captured_evidence_job = functools.partial(evidence_of, level="captured")
plain_training_job = functools.partial(training_of, level="plain")
captured_training_job = functools.partial(training_of, level="captured")


def killed_job(folder):
    """Dies by SIGKILL in the main process after the second checkpoint."""
    write, Checkpoint.due = Checkpoint.write, lambda self: True
    writings = []

    def once_more(self, *arguments):
        write(self, *arguments)
        writings.append(1)
        if len(writings) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoint.write = once_more
    fitted_vae(folder, epochs=5)


def resumed_job(folder):
    whole = folder / "whole"
    whole.mkdir(exist_ok=True)
    for name, where, resume in (("resumed", folder, True), ("whole", whole, False)):
        keep(folder, name, fitted_vae(where, epochs=5, resume=resume)[0].state_dict())


def failing_job(folder):
    """An error in one process, in the middle of a step of training or of a block of evidence."""
    program, _ = mean_of_pixels()
    model = program.model

    def fails(x):
        share, block = 1 < len(x) < 16, len(x) == 130
        if distributed.world().rank == 1 and (share or block):
            raise ZeroDivisionError("only here")
        return model(x)

    bad = pv.Program(fails, program.guide)
    if folder.name == "training":
        pv.fit(bad, DIGITS.train[:64].double(), epochs=100, batch_size=16, progress=False)
    else:
        pv.evidence.importance(bad, DIGITS.train[:260].double(), 64, progress=False)


def messages_job(folder):
    """gather, total, from_main, share and the sum of gradients, of odd shapes."""
    rank, size = distributed.world().rank, distributed.world().size
    everyone = distributed.gather(
        {"a": torch.full((rank + 1, 0, 2), 1.0), "b": torch.tensor(rank)}, {"r": rank}
    )
    assert [note for _, note in everyone] == [{"r": r} for r in range(size)]
    for r, (tensors, _) in enumerate(everyone):
        assert tensors["a"].shape == (r + 1, 0, 2)
        assert tensors["b"].dtype == torch.int64
        assert int(tensors["b"]) == r
    assert distributed.gather({}, None) == [({}, None)] * size
    value = torch.arange(6).reshape(2, 3).t() + rank
    distributed.broadcast([value])
    assert torch.equal(value, torch.arange(6).reshape(2, 3).t())
    assert float(distributed.all_reduce(torch.tensor(1.5))) == 1.5 * size
    a, b, c = (torch.zeros(2, 3, requires_grad=True) for _ in range(3))
    d = torch.zeros((), dtype=torch.float64, requires_grad=True)
    a.grad, d.grad = torch.full((2, 3), 1.0 + rank), torch.tensor(0.1, dtype=torch.float64)
    if rank == 0:
        b.grad = torch.ones(2, 3)
    distributed.GradientSum([a, b, c, d])()
    assert a.grad.tolist() == [[3.0] * 3] * 2
    assert b.grad.tolist() == [[1.0] * 3] * 2
    assert c.grad.tolist() == [[0.0] * 3] * 2
    assert float(d.grad) == 0.2
    distributed.on_main(lambda: (folder / "by_main").write_text(str(rank)))
    assert (folder / "by_main").read_text() == "0"
    keep(folder, "messages", {"done": torch.ones(1)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.joined():
        for job in sys.argv[1].split(","):
            globals()[f"{job}_job"](Path(sys.argv[2]))
    assert distributed.world() == distributed.World()
    distributed.end()
