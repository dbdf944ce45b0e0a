"""``ppl-vae train``: from options to a run folder with a trained VAE."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pyro.infer import ELBO

from ppl_vae import __version__, files, modes, objectives, persistence, rng, training
from ppl_vae.cli.options import compile as compiling
from ppl_vae.cli.options import data as data_options
from ppl_vae.cli.options import device, model, results
from ppl_vae.cli.options.parser import add_from, check_numbers, make_parser, parse
from ppl_vae.config import dump_yaml
from ppl_vae.data import Dataset, description
from ppl_vae.data.dataset import SPLITS
from ppl_vae.distributed import is_main, on_main, world
from ppl_vae.errors import InputError, check_one_of, relabel, under_options
from ppl_vae.history import History
from ppl_vae.outputs import OutputFolder
from ppl_vae.runs import data, figures
from ppl_vae.runs.folder import CHECKPOINT, DATA, FIGURES, HISTORY, MODEL, run_folder
from ppl_vae.schedules import SCHEDULES
from ppl_vae.training.loop import fit
from ppl_vae.vae import VAE

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_FIT = (
    "lr",
    "lr_schedule",
    "clip_norm",
    "kl_warmup",
    "patience",
    "seed",
)  # options of fit, in a rehearsal too
_DESCRIPTION = """\
Train a VAE and write a run folder: vae.safetensors (the model), config.yaml (all options with their final values:
--config config.yaml repeats the run to the last bit), history.jsonl, data.json, a checkpoint, and pictures in figures/.

Several processes, started by torchrun, share each batch. Each has one thread, unless OMP_NUM_THREADS or --threads says
otherwise. Their random draws are not those of a single process, so the results differ as those of two seeds do."""

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
    """

    settings: dict[str, Any]
    dataset: Dataset
    vae: VAE
    objective: ELBO

    @classmethod
    def of(cls, settings: dict[str, Any], dataset: Dataset) -> Job:
        """Make the model and the objective that ``settings`` name."""
        return cls(settings, dataset, model.build(settings, dataset), model.objective(settings))

    def options(self) -> dict[str, Any]:
        """The options of `ppl_vae.fit` that a rehearsal and the run itself have in common."""
        return {"objective": self.objective, **{name: self.settings[name] for name in _FIT}}


def run(argv: Sequence[str]) -> int:
    """The command."""
    settings = parse_options(argv)
    how = {name: settings.pop(name) for name in ("resume", "overwrite")}
    show, out = settings.pop("print_config"), settings.pop("out")
    with under_options((*settings, "objective.num_particles")):
        if show:
            resolve(settings, run_folder(out) if out is not None and how["resume"] else None)
            print(dump_yaml(prepare(settings).settings), end="")
            return 0
        if out is None:
            resolve(settings, None)
        folder = run_folder(out or default_out(settings))
        folder.check(**how)
        with folder.owning(**how):
            if out is not None:
                resolve(settings, folder if how["resume"] else None)
            execute(prepare(settings), folder, **how)
    next_line = f"ppl-vae evidence {shlex.quote(str(folder.path))}{results.trust_needed(settings)}"
    print(f"pictures in {folder.path / FIGURES}; next: {next_line}")
    return 0


def parser() -> ArgumentParser:
    """The command's options."""
    made = make_parser("train", _DESCRIPTION, _EXAMPLES)
    text = "a YAML file of options, such as the config.yaml of a run; options that follow it take precedence"
    made.add_argument("--config", action="config", help=text)
    text = "print the complete config.yaml and stop; nothing is written"
    made.add_argument("--print-config", action="store_true", help=text)
    results.add_folder_options(
        made, "the run folder (default: runs/ and a name that is made from the options)"
    )
    data_options.add_options(made)
    model.add_options(made)
    group = made.add_argument_group("training")
    texts = {"lr_schedule": "the learning rate over the epochs: constant, cosine or burda"}
    add_from(group, fit, ("epochs", "batch_size", *_FIT), texts)
    group.add_argument(
        "--objective",
        type=ELBO,
        default={"class_path": "pyro.infer.Trace_ELBO"},
        metavar="CLASS",
        help=f"{', '.join(objectives.NAMES)}; or one of Pyro's by name (Trace_ELBO, TraceMeanField_ELBO, RenyiELBO, "
        "...; none of the Jit classes, and not ReweightedWakeSleep or TraceTailAdaptive_ELBO); or one of your own by "
        "its import path",
    )
    compiling.add_option(group)
    device.add_options(group)
    return made


def parse_options(argv: Sequence[str]) -> dict[str, Any]:
    """The options, before anything is resolved."""
    named = [argument.partition("=")[0] for argument in argv]
    if "--objective" not in named and any(name.startswith("--objective.") for name in named):
        argv = ["--objective", "Trace_ELBO", *argv]  # which has these options
    settings = parse(parser(), argv, model.CLASSES)
    settings.pop("config", None)
    return settings


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
    counts = ("latent_dim", "epochs", "batch_size", "patience")
    check_numbers(settings, counts=counts, rates=("lr", "clip_norm"), seeds=("seed", "data_seed"))
    if not 0 <= settings["kl_warmup"] < 2**63:
        raise InputError("--kl-warmup", "a number of epochs from 0 to 2**63 - 1", settings["kl_warmup"])
    check_one_of("--lr-schedule", settings["lr_schedule"], SCHEDULES)
    compiling.check(settings)
    model.resolve(settings)
    data.resolve(settings, convolutional=model.convolutional(settings))
    device.resolve(settings, resumed)


def prepare(settings: dict[str, Any]) -> Job:
    """Load the data, build the model, and check that they fit; nothing is written.

    Raises:
        InputError: naming the option or the file at fault.
    """
    dataset = data.load(settings)
    if settings["likelihood"] is None:
        settings["likelihood"] = model.default_likelihood(dataset)
    if settings["patience"] is not None and dataset.valid is None:
        expected = "data with a validation split"
        raise InputError("--patience", expected, f"--data {settings['data']} without one")
    with modes.threads(settings["threads"]):
        _rehearse(Job.of(settings, dataset))  # it changes a model: it has one of its own
        return Job.of(settings, dataset)


def _rehearse(job: Job) -> None:
    """Look at the data, and train on two of them for an epoch: what cannot work fails before anything is written."""
    settings, dataset = job.settings, job.dataset
    job.vae.config()  # refuses a part that could not be saved
    for split in SPLITS:
        x = getattr(dataset, split)
        if x is None or (split == "train" and dataset.resample is not None):
            continue
        try:
            job.vae.check_data(x)
        except InputError as error:
            source = settings["path"] if settings["data"] == "array" else f"--data {settings['data']}"
            raise relabel(error, {error.argument: f"{source} ({split} split)"}) from None
    x, valid = dataset.train[:2], dataset.valid
    if dataset.resample is not None:
        x = dataset.resample(x, rng.generator(0, "rehearsal"))
    few = None if valid is None else valid[:2]
    fit(job.vae, x, x_valid=few, **job.options(), epochs=1, batch_size=2, compile=False, progress=False)


def execute(
    job: Job,
    folder: OutputFolder,
    *,
    resume: bool = False,
    overwrite: bool = False,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Train, save and draw.

    Args:
        job: what to train.
        folder: where it goes.
        resume: go on with what is there, if anything is.
        overwrite: replace what is there, if anything is, when all is done.
        notes: small files to write beside the config: their text by their names.
    """
    settings, resumed = job.settings, None
    about = f"{json.dumps(job.dataset.describe(), indent=2)}\n"
    if resume and folder.began():
        resumed = folder.resumed(settings).path / DATA
        if resumed.exists():  # a run that was killed at its start has none
            description.check_same(resumed, job.dataset, f"--data {settings['data']}")
    header = (
        f"# ppl_vae {__version__}, torch {torch.__version__}. The same numbers again, elsewhere:\n"
        f"#   {_command()} train --config config.yaml --out OTHER\n"
    )
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "notes": {DATA: about, **(notes or {})}}
    go_on = f": {_command()} train --config {{config}} --out {{place}} --resume"
    with folder.writing(settings, header=header, go_on=go_on, **how) as new:
        if resumed is not None:
            on_main(lambda: files.write_text(new.path / DATA, about))
        history = _train(job, new.path, resume)
    print(f"{_summary(history)}; run folder: {folder.path}")


def _train(job: Job, path: Path, resume: bool) -> History:
    """Train, and write everything but the marker into ``path``."""
    settings, dataset = job.settings, job.dataset
    with modes.threads(settings["threads"]):
        history = training.fit(
            job.vae,
            dataset.train,
            x_valid=dataset.valid,
            **job.options(),
            epochs=settings["epochs"],
            batch_size=settings["batch_size"],
            transform=dataset.resample,
            compile=compiling.choice(settings),
            device=settings["device"],
            checkpoint=path / CHECKPOINT,
            resume=resume,
            history_path=path / HISTORY,
        )
        if is_main():
            persistence.save(job.vae, path / MODEL)
            figures.draw_run(job.vae.eval(), dataset, history, path, seed=settings["seed"])
    return history


def _command() -> str:
    """What starts this command: the numbers depend on how many processes share it."""
    size = world().size
    return "ppl-vae" if size == 1 else f"torchrun --standalone --nproc-per-node {size} -m ppl_vae"


def _summary(history: History) -> str:
    last, best = history[-1], history.best_epoch
    kept = last if best is None else history[best - 1]
    elbo = "" if kept.valid_elbo is None else f"; validation ELBO {kept.valid_elbo:.2f} nats a datum"
    which = "" if best is None or best == last.epoch else f" (kept: epoch {best})"
    return f"trained for {len(history)} epochs{which}{elbo}"
