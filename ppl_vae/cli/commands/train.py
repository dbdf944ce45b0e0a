"""``ppl-vae train``: from options to a run folder with a trained VAE."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae import exits, files, modes
from ppl_vae.cli.options import compile as compiling
from ppl_vae.cli.options import data as data_options
from ppl_vae.cli.options import device, trust
from ppl_vae.cli.options.parser import check_numbers, make_parser, parse
from ppl_vae.config import dump_yaml
from ppl_vae.distributed import is_main, on_main, world
from ppl_vae.errors import InputError, check_one_of, option, relabel
from ppl_vae.exits import Interrupted
from ppl_vae.outputs import OutputFolder
from ppl_vae.runs import data
from ppl_vae.runs.folder import CHECKPOINT, DATA, HISTORY, MODEL, run_folder

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser
    from pyro.infer import ELBO

    from ppl_vae.data import Dataset
    from ppl_vae.history import History
    from ppl_vae.vae import VAE

_DESCRIPTION = """\
Train a VAE into a run folder: config.yaml (every option resolved: with --config it repeats the run to the last bit),
vae.safetensors, history.jsonl, data.json, a checkpoint, and pictures in figures/.

Killed or stopped, the same command with --resume goes on from the checkpoint and ends with the same bits. Started by
torchrun, processes share each batch, each with one thread unless OMP_NUM_THREADS or --threads says otherwise; their
draws are not those of one process, so the numbers differ within what other seeds would give."""

_EXAMPLES = """\
examples:
  ppl-vae train --data digits --latent-dim 8 --epochs 200 --patience 30 --out runs/digits
  ppl-vae train --data digits --view counts --prior VampPrior --prior.components 100
  ppl-vae train --data mnist --data-dir mnist --network ConvNet --network.channels "[32, 64]" --latent-dim 50
  ppl-vae train --data array --path x.npy --likelihood Gaussian --likelihood.scale decoder
  ppl-vae train --prior my_file.MyPrior --prior.my_arg 3 --hidden "[200, 200]" --activation tanh
  ppl-vae train --prior.help VampPrior
  ppl-vae train --config runs/digits/config.yaml --seed 1 --out runs/digits-1
  torchrun --standalone --nproc-per-node 2 -m ppl_vae train --data digits --out runs/digits-2"""


@dataclass(frozen=True)
class Job:
    """A training run, checked as far as it can be without training.

    Attributes:
        settings: the resolved options, as config.yaml holds them.
        dataset: the data.
        vae: the model, untrained.
        objective: the objective.
        folder: where it goes; nothing has been written there.
    """

    settings: dict[str, Any]
    dataset: Dataset
    vae: VAE
    objective: ELBO
    folder: OutputFolder


def run(argv: Sequence[str]) -> int:
    """The command."""
    settings = parse_options(argv)
    resume, overwrite = settings.pop("resume"), settings.pop("overwrite")
    show, out = settings.pop("print_config"), settings.pop("out")
    settings.pop("config", None)
    if show:
        resolve(settings, run_folder(out).latest() if out is not None and resume else None)
        print(dump_yaml(prepare(settings, run_folder(out or default_out(settings))).settings), end="")
        return 0
    if out is None:
        resolve(settings, None)
    folder = run_folder(out or default_out(settings))
    folder.check(resume=resume, overwrite=overwrite)
    with folder.owning(resume=resume, overwrite=overwrite):
        if out is not None:
            resolve(settings, folder.latest() if resume else None)
        job = prepare(settings, folder)
        execute(job, resume=resume, overwrite=overwrite)
    trusted = trust.needed(job.settings)
    print(
        f"pictures in {folder.path / 'figures'}; next: ppl-vae evidence {shlex.quote(str(folder.path))}{trusted}"
    )
    return 0


def parser() -> ArgumentParser:
    """The command's options."""
    from ppl_vae.cli.options import model

    made = make_parser("train", _DESCRIPTION, _EXAMPLES)
    made.add_argument(
        "--config",
        action="config",
        help="a YAML file of options, a config.yaml say; options after it override it",
    )
    made.add_argument(
        "--print-config", action="store_true", help="print the resolved config.yaml; write nothing"
    )
    made.add_argument(
        "--out", type=str | None, help="the run folder (default: runs/ and a name made of data and model)"
    )
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an earlier run's files there when the new ones are complete; other files stay",
    )
    made.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the run folder, if any"
    )
    data_options.add_options(made)
    model.add_options(made)
    training = made.add_argument_group("training")
    training.add_argument("--epochs", type=int, default=100, help="passes over the training data")
    training.add_argument("--batch-size", type=int, default=128, help="data a step")
    training.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
    training.add_argument(
        "--lr-schedule",
        type=str,
        default="constant",
        help="constant, cosine or burda: the rate over the epochs",
    )
    training.add_argument(
        "--kl-warmup", type=int, default=0, help="epochs over which the weight of the KL term grows to 1"
    )
    training.add_argument(
        "--patience",
        type=int | None,
        help="stop when the validation ELBO has not risen for so many epochs, and keep the best epoch's parameters",
    )
    from pyro.infer import ELBO

    training.add_argument(
        "--objective",
        type=ELBO,
        default={"class_path": "pyro.infer.Trace_ELBO"},
        metavar="CLASS",
        help="one of Pyro's ELBOs by name (Trace_ELBO, TraceMeanField_ELBO, RenyiELBO...), or your own by import path",
    )
    training.add_argument("--clip-norm", type=float | None, help="bound on the norm of the gradient")
    training.add_argument(
        "--seed", type=int, default=0, help="of everything random in the model and in training"
    )
    compiling.add_option(training)
    device.add_options(training)
    return made


def parse_options(argv: Sequence[str]) -> dict[str, Any]:
    """The options, before anything is resolved."""
    from ppl_vae.cli.options import model

    return parse(parser(), argv, model.CLASSES)


def default_out(settings: dict[str, Any]) -> Path:
    """``runs/digits-binary-VampPrior-z8-seed0``."""
    prior = settings["prior"]["class_path"].rpartition(".")[2]
    return Path("runs") / f"{data.title(settings)}-{prior}-z{settings['latent_dim']}-seed{settings['seed']}"


def resolve(settings: dict[str, Any], resumed: OutputFolder | None) -> None:
    """Put values in the place of everything that is left to the library or the machine, and check the numbers.

    Args:
        settings: the options, changed in place.
        resumed: the run that is to go on, if any: what the machine would choose stays as it was there.
    """
    from ppl_vae.cli.options import model
    from ppl_vae.schedules import SCHEDULES

    check_numbers(
        settings,
        counts=("latent_dim", "epochs", "batch_size", "patience"),
        rates=("lr", "clip_norm"),
        seeds=("seed", "data_seed"),
    )
    if not 0 <= settings["kl_warmup"] < 2**63:
        raise InputError("--kl-warmup", "a number of epochs from 0 to 2**63 - 1", settings["kl_warmup"])
    check_one_of("--lr-schedule", settings["lr_schedule"], SCHEDULES)
    compiling.check(settings)
    model.resolve(settings)
    data.resolve(settings, convolutional=model.convolutional(settings))
    if resumed is not None and resumed.began():
        before = resumed.settings()
        if settings["threads"] is None and isinstance(before.get("threads"), int):
            settings["threads"] = before["threads"]
        if settings["device"] == "auto" and isinstance(before.get("device"), str):
            settings["device"] = before["device"]
    device.resolve(settings)


def prepare(settings: dict[str, Any], folder: OutputFolder) -> Job:
    """Load the data, build the model, and check that they fit; nothing is written.

    Raises:
        InputError: naming the option or the file at fault.
    """
    from ppl_vae.cli.options import model

    dataset = data.load(settings)
    if settings["likelihood"] is None:
        settings["likelihood"] = model.default_likelihood(dataset)
    if settings["patience"] is not None and dataset.valid is None:
        raise InputError(
            "--patience", "data with a validation split", f"--data {settings['data']} without one"
        )
    with modes.threads(settings["threads"]):
        # The rehearsal changes a model: it has one of its own.
        rehearsed = Job(settings, dataset, *_made(settings, dataset), folder)
        rehearsed.vae.config()  # refuses a part that could not be saved
        _check_data(rehearsed.vae, dataset, settings)
        _rehearse(rehearsed)
        del rehearsed
        return Job(settings, dataset, *_made(settings, dataset), folder)


def _made(settings: dict[str, Any], dataset: Dataset) -> tuple[VAE, ELBO]:
    from ppl_vae.cli.options import model

    return model.build(settings, dataset), model.objective(settings)


def _check_data(vae: VAE, dataset: Dataset, settings: dict[str, Any]) -> None:
    for split in data.SPLITS:
        x = getattr(dataset, split)
        if x is None or (split == "train" and dataset.resample is not None):
            continue
        try:
            vae.check_data(x)
        except InputError as error:
            source = settings["path"] if settings["data"] == "array" else f"--data {settings['data']}"
            raise relabel(error, {error.argument: f"{source} ({split} split)"}) from None


def _rehearse(job: Job) -> None:
    """Train on two data for an epoch, so that what cannot work fails before anything is written.

    It is `ppl_vae.fit` that is called, as it will be for the run, with the options that the run will have.
    """
    from ppl_vae import rng
    from ppl_vae.training.loop import fit

    x, valid = job.dataset.train[:2], job.dataset.valid
    if job.dataset.resample is not None:
        x = job.dataset.resample(x, rng.generator(0, "rehearsal"))
    options = _fit_options(job) | {"x_valid": None if valid is None else valid[:2]}
    try:
        fit(job.vae, x, **options, epochs=1, batch_size=2, compile=False, progress=False)
    except InputError as error:
        raise relabel(error, _labels(job.settings)) from error


def _labels(settings: Mapping[str, Any]) -> dict[str, str]:
    """The options under whose names `fit`'s complaints are to be told."""
    return {name: option(name) for name in (*settings, "objective.num_particles")}


def _fit_options(job: Job) -> dict[str, Any]:
    """What a rehearsal and the run itself have in common."""
    names = ("lr", "lr_schedule", "clip_norm", "kl_warmup", "patience", "seed")
    own = {name: job.settings[name] for name in names}
    return own | {"objective": job.objective, "x_valid": job.dataset.valid}


def execute(
    job: Job, *, resume: bool = False, overwrite: bool = False, notes: Mapping[str, str] | None = None
) -> History:
    """Train, save and draw.

    Args:
        job: what to train.
        resume: go on with what is there, if anything is.
        overwrite: replace what is there, if anything is, when all is done.
        notes: small files to write beside the config: their text by their names.
    """
    from ppl_vae import __version__

    settings, folder = job.settings, job.folder
    begun = not (resume and folder.began())
    if begun:
        folder = folder.new if overwrite and folder.began() else folder
    else:
        folder = folder.resumed(settings)
        if (folder.path / DATA).exists():  # a run that was killed at its start has none
            data.check_known(folder.path / DATA, job.dataset, settings["data"])
        exits.work()
    about = f"{json.dumps(job.dataset.describe(), indent=2)}\n"

    def begin() -> None:
        if begun:
            import torch

            header = (
                f"# ppl_vae {__version__}, torch {torch.__version__}. The same numbers again, elsewhere:\n"
                f"#   {_command()} train --config config.yaml --out OTHER\n"
            )
            folder.begin(settings, header=header, notes={DATA: about, **(notes or {})})
        else:
            folder.sweep()
            files.write_text(folder.path / DATA, about)

    try:
        on_main(begin)
        with folder.keeping(begun):
            history = _train(job, folder.path, resume)
            if is_main():
                folder.commit()
    except KeyboardInterrupt:
        where = shlex.quote(str(folder.place))
        config = shlex.quote(str(folder.path / folder.marker))
        raise Interrupted(
            f"go on with: {_command()} train --config {config} --out {where} --resume"
        ) from None
    except InputError as error:
        raise relabel(error, _labels(settings)) from error
    print(_summary(job, history))
    return history


def _train(job: Job, path: Path, resume: bool) -> History:
    """Train, and write everything but the marker into ``path``."""
    from ppl_vae import persistence, training
    from ppl_vae.runs import figures

    settings = job.settings
    with modes.threads(settings["threads"]):
        history = training.fit(
            job.vae,
            job.dataset.train,
            **_fit_options(job),
            epochs=settings["epochs"],
            batch_size=settings["batch_size"],
            transform=job.dataset.resample,
            compile=compiling.choice(settings),
            device=settings["device"],
            checkpoint=path / CHECKPOINT,
            resume=resume,
            history_path=path / HISTORY,
        )
        if is_main():
            persistence.save(job.vae, path / MODEL)
            figures.draw_run(job.vae.eval(), job.dataset, history, path, seed=settings["seed"])
    return history


def _command() -> str:
    """What starts this command: the numbers depend on how many processes share it."""
    size = world().size
    return "ppl-vae" if size == 1 else f"torchrun --standalone --nproc-per-node {size} -m ppl_vae"


def _summary(job: Job, history: History) -> str:
    last, best = history[-1], history.best_epoch
    kept = last if best is None else history[best - 1]
    elbo = "" if kept.valid_elbo is None else f"; validation ELBO {kept.valid_elbo:.2f} nats a datum"
    which = "" if best is None or best == last.epoch else f" (kept: epoch {best})"
    return f"trained for {len(history)} epochs{which}{elbo}; run folder: {job.folder.path}"
