"""A trained model with its data, and a folder for what is found by them, through kills and resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae import locks, memory, modes, persistence
from ppl_vae.distributed import is_main
from ppl_vae.errors import InputError, under_options
from ppl_vae.outputs import OutputFolder
from ppl_vae.runs import data
from ppl_vae.runs.folder import MODEL
from ppl_vae.trust import Trust

if TYPE_CHECKING:
    from ppl_vae.data import Dataset
    from ppl_vae.vae import VAE


@dataclass(frozen=True)
class Job:
    """A trained model, data to judge it by, and where to write what comes out; nothing has been written.

    Attributes:
        settings: the options, with the machine's choices resolved.
        run: the run folder.
        folder: the folder to write.
        dataset: the run's data set.
        x: the data, on the device.
        about: which data they are.
        vae: the model, on the device.
    """

    settings: dict[str, Any]
    run: OutputFolder
    folder: OutputFolder
    dataset: Dataset
    x: Tensor
    about: dict[str, Any]
    vae: VAE

    @contextmanager
    def writing(self, kept: Sequence[str], what: str, rehearse: Callable[[], object]) -> Iterator[Job]:
        """Take up the folder, or begin it anew; what was there is replaced when all is done.

        Yields:
            the job with the folder to write. Ctrl-C inside ends with how to go on; errors are under the options' names.

        Args:
            kept: the options that the marker holds, besides the run, the model and the data.
            what: the first line of the marker says so.
            rehearse: fails with an `InputError` for what could not work, before anything is written.

        Raises:
            InputError: if ``rehearse`` does, or if what is to be resumed was begun with other options.
        """
        settings, model = self.settings, self.run.path / MODEL
        marker = {
            "run": str(self.run.path.resolve()),
            **{name: settings[name] for name in kept},
            "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "data_sha256": self.about["sha256"],
        }
        how = {name: settings[name] for name in ("resume", "overwrite")}
        if not (settings["resume"] and self.folder.began()):
            self.vae.program.check(self.x[:1])
            with self.relabelled():
                rehearse()
        header = f"# {what}: what it was made from.\n"
        go_on = " the same command and --resume (what is done is kept in {place})"
        with self.folder.writing(marker, header=header, go_on=go_on, **how) as folder, self.relabelled():
            yield replace(self, folder=folder)

    def check_memory(self) -> None:
        """Refuse what would not fit in memory; raises `InputError` naming the option."""
        sites = self.vae.program.check(self.x[:1])
        latents = sum(site.event_shape.numel() for site in sites.latent.values())
        memory.check_estimate(self.settings, len(self.x), sites.numbers_per_datum, latents)

    def relabelled(self) -> AbstractContextManager[None]:
        """Errors inside are told under the options' names."""
        method = {"program": f"--method {self.settings['method']}"} if "method" in self.settings else {}
        return under_options(self.settings, **method)


@contextmanager
def locked_for_reading(run: OutputFolder) -> Iterator[None]:
    """Keep other commands from writing a run that is read; raises `InputError` if one is doing so."""
    with locks.read(run.path, f"RUN {run.path}") if is_main() else nullcontext():
        yield


@contextmanager
def opened(
    settings: dict[str, Any],
    run: OutputFolder,
    folder: OutputFolder,
    *,
    split: str,
    number: int | None,
    usual: int | None = None,
    seed: int | None = None,
    asked: str = "--subset",
) -> Iterator[Job]:
    """The model and the data of a run, computing with the threads that ``settings`` say.

    Args:
        settings: the options, with the device and the threads resolved.
        run: the run.
        folder: where to write.
        split: the split of the data.
        number: how many, at random; None for all, or for ``usual``.
        usual: how many where ``number`` does not say, or all if they are fewer.
        seed: of that draw; None for the data set's own.
        asked: the option that asked for ``number``.

    Raises:
        InputError: naming the option, the file or the run at fault.
    """
    dataset = data.load_again(run, data_dir=settings["data_dir"], path=settings["path"])
    if number is None and usual is not None:
        number = min(usual, dataset.sizes[split] or usual)
    with under_options(("split",), n=asked, seed="--subset-seed"):
        x, about = dataset.select(split, number, seed)
    with modes.threads(settings["threads"]):
        vae = open_model(run, settings)
        check_fits(vae, x, run)
        yield Job(settings, run, folder, dataset, x.to(settings["device"]), about, vae)


def open_model(folder: OutputFolder, settings: Mapping[str, Any]) -> VAE:
    """The trained VAE of a run, on the device of ``settings``; raises `InputError` if they do not trust its classes.

    What the user has said counts, and what this process happens to have imported does not.
    """
    trusted = Trust.of(settings["trust"] or (), "--trust", imported=False, how="--trust {package}")
    made = persistence.load_trusting(folder.path / MODEL, trusted)
    return made.to(torch.device(settings["device"])).eval()


def check_fits(vae: VAE, x: torch.Tensor, folder: OutputFolder) -> None:
    """Refuse a run whose model is not one of its data; raises `InputError` naming the model's file."""
    try:
        vae.check_data(x)
    except InputError as error:
        raise InputError(
            str(folder.path / MODEL), f"a model of the run's data ({error.expected})", error.received
        ) from None


def load_or_compute(path: Path, kind: Any, job: Job, estimate: Callable[[], Any]) -> Any:
    """The result in a file, if a command that is resumed had only pictures left to draw; or a new one, saved there.

    Args:
        path: the file.
        kind: the result's class: `Evidence`, `Sandwich` or `Gaps`.
        job: the job.
        estimate: makes the result.

    Raises:
        InputError: naming the file and the field, if the result there is not of this job.
    """
    if not path.is_file():
        made = estimate()
        if is_main():
            made.save(path)
        return made
    found = kind.load(path)
    one = getattr(found, "lower", found)
    drawn = not hasattr(one, "diagnostics") or one.diagnostics.drawn
    wanted = {"number of data": (len(found), len(job.x)), "seed": (one.seed, job.settings["seed"])}
    for name, (there, ours) in wanted.items():
        if there != ours and (name != "seed" or drawn):
            raise InputError(str(path), f"a result of this command: {name} {ours}", there)
    return found
