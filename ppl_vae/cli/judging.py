"""What the commands that judge a trained model share: its data, a folder for what they find, kills and resumes."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.cli import datasets, exits, machine, memory, owner, trusting
from ppl_vae.cli.oneline import Interrupted, option, relabel
from ppl_vae.cli.outputs import OutputFolder
from ppl_vae.cli.parsing import check_numbers
from ppl_vae.cli.runfolder import MODEL, finished_run
from ppl_vae.distributed import is_main, on_main
from ppl_vae.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser
    from torch import Tensor

    from ppl_vae.data import Dataset
    from ppl_vae.evidence import Evidence, Mean
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
        settings, folder = self.settings, self.folder
        model = self.run.path / MODEL
        marker = {
            "run": str(self.run.path.resolve()),
            **{name: settings[name] for name in kept},
            "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "data_sha256": self.about["sha256"],
        }
        begun = not (settings["resume"] and folder.began())
        if begun:
            self.vae.program.check(self.x[:1])
            with self.relabelled():
                rehearse()
            folder = folder.new if settings["overwrite"] and folder.began() else folder
            header = f"# {what}: what it was made from.\n"
            on_main(lambda: folder.begin(marker, header=header))
        else:
            folder = folder.resumed(marker)
            exits.work()
            on_main(folder.sweep)
        job = replace(self, folder=folder)
        with folder.keeping(begun), job.working():
            yield job
            if is_main():
                folder.commit()

    def check_memory(self) -> None:
        """Refuse what would not fit in memory; raises `InputError` naming the option."""
        sites = self.vae.program.check(self.x[:1])
        latents = sum(site.event_shape.numel() for site in sites.latent.values())
        memory.check_estimate(self.settings, len(self.x), sites.numbers_per_datum, latents)

    @contextmanager
    def relabelled(self) -> Iterator[None]:
        """Errors under the options' names."""
        try:
            yield
        except InputError as error:
            names = {name: option(name) for name in self.settings}
            if "method" in self.settings:
                names["program"] = f"--method {self.settings['method']}"
            raise relabel(error, names) from error

    @contextmanager
    def working(self) -> Iterator[None]:
        """Ctrl-C ends with how to go on; errors are under the options' names."""
        try:
            with self.relabelled():
                yield
        except KeyboardInterrupt:
            where = shlex.quote(str(self.folder.place))
            raise Interrupted(
                f"go on with the same command and --resume (what is done is kept in {where})"
            ) from None


def add_options(parser: ArgumentParser, name: str) -> None:
    """Options of where to write, where the data lie, and the machine; ``name`` is the folder's in the run."""
    parser.add_argument("--out", type=str | None, help=f"the folder to write (default: RUN/{name})")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace earlier results' files there when the new ones are complete",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in that folder, if any"
    )
    parser.add_argument("--data-dir", type=str | None, help="where MNIST's files lie now, if they have moved")
    parser.add_argument("--path", type=str | None, help="where the array lies now, if it has moved")
    trusting.add_option(parser)
    machine.add_options(parser)


def add_subset_options(parser: ArgumentParser, default: int | None = None) -> None:
    """Options of which data; ``default`` is how many unless told otherwise (None: all)."""
    parser.add_argument("--split", type=str, default="test", help="test, valid or train")
    usual = "all of them" if default is None else f"{default}, or all if they are fewer"
    parser.add_argument(
        "--subset", type=int | None, help=f"so many data of the split, drawn at random (default: {usual})"
    )
    parser.add_argument(
        "--subset-seed", type=int | None, help="of that draw (default: the data set's own seed)"
    )


@contextmanager
def claimed(
    settings: dict[str, Any], folder: Callable[[Path], OutputFolder], name: str
) -> Iterator[tuple[OutputFolder, OutputFolder]]:
    """The run and the folder to write, once they and the options of every such command are seen to fit.

    Inside, no other command writes either of them. What the machine would choose stays as it was in a folder that is
    to be resumed.

    Raises:
        InputError: naming the option at fault, or the run.
    """
    check_numbers(settings, seeds=("seed",))
    run = finished_run(settings["run"])
    found = folder(Path(settings["out"] or run.path / name))
    found.check(resume=settings["resume"], overwrite=settings["overwrite"])
    with reading(run), found.owning(resume=settings["resume"], overwrite=settings["overwrite"]):
        run = finished_run(settings["run"])
        if settings["resume"] and found.began():
            before = found.latest().settings()
            for key, unset in (("threads", None), ("device", "auto")):
                if settings[key] == unset:
                    settings[key] = before.get(key, unset)
        machine.resolve(settings)
        yield run, found


@contextmanager
def reading(run: OutputFolder) -> Iterator[None]:
    """Keep other commands from writing a run that is read; raises `InputError` if one is doing so."""
    with owner.read(run.path, f"RUN {run.path}") if is_main() else nullcontext():
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
        settings: the options, within `claimed`.
        run: the run; both are what `claimed` yields.
        folder: where to write.
        split: the split of the data.
        number: how many, at random; None for all, or for ``usual``.
        usual: how many where ``number`` does not say, or all if they are fewer.
        seed: of that draw; None for the data set's own.
        asked: the option that asked for ``number``.

    Raises:
        InputError: naming the option, the file or the run at fault.
    """
    from ppl_vae.cli.pictures import check_fits, open_model

    dataset = datasets.load_again(run, data_dir=settings["data_dir"], path=settings["path"])
    if number is None and usual is not None:
        number = min(usual, dataset.sizes[split] or usual)
    x, about = datasets.split(dataset, split, number, seed, asked=asked)
    with machine.threads(settings["threads"]):
        vae = open_model(run, settings)
        check_fits(vae, x, run)
        yield Job(settings, run, folder, dataset, x.to(settings["device"]), about, vae)


def finished(path: Path, kind: Any, job: Job, estimate: Callable[[], Any]) -> Any:
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
    drawn = getattr(one, "basis", None) != "computed"
    wanted = {"number of data": (len(found), len(job.x)), "seed": (one.seed, job.settings["seed"])}
    for name, (there, ours) in wanted.items():
        if there != ours and (name != "seed" or drawn):
            raise InputError(str(path), f"a result of this command: {name} {ours}", there)
    return found


def numbers(mean: Mean) -> dict[str, Any]:
    """A mean, its errors, and in which direction it is a limit; for JSON, which has no NaN and no infinity."""
    values = {"value": mean.value, "mc_stderr": mean.mc_stderr, "data_stderr": mean.data_stderr}
    return {name: value if math.isfinite(value) else None for name, value in values.items()} | {
        "limit": mean.limit
    }


def cost(evidence: Evidence) -> dict[str, float]:
    """What an estimate cost a datum, for JSON."""
    return {"densities": evidence.cost.density, "gradients": evidence.cost.gradient}
