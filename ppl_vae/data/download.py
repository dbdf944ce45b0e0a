"""MNIST's four files, fetched once into the user's cache and checked by their content."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from ppl_vae.data.raw import read_bytes
from ppl_vae.errors import InputError
from ppl_vae.progress import bar

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

# Of the *decompressed* files: mirrors and users recompress them, which changes the gzip bytes and nothing
# else.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def download() -> Path:
    """The folder, in the user's cache, that holds MNIST's four files; what is missing or damaged is fetched.

    Raises:
        InputError: if no mirror gives a file with the right content.
    """
    import pooch  # slow to import, and only a download needs it

    folder = Path(pooch.os_cache("ppl_vae")) / "mnist"
    missing = [name for name in SHA256 if not _good(folder, name)]
    if not missing:
        return folder
    logger = pooch.get_logger()
    level = logger.level
    # Without a hash of the gzip bytes, pooch would tell the user to record one: the content is checked here
    # instead.
    logger.setLevel(logging.WARNING)
    try:
        for name in missing:
            _fetch(folder, name)
    finally:
        logger.setLevel(level)
    return folder


def _good(folder: Path, name: str) -> bool:
    try:
        content = read_bytes(folder / f"{name}.gz", "MNIST")
    except InputError:
        return False
    return hashlib.sha256(content).hexdigest() == SHA256[name]


def _fetch(folder: Path, name: str) -> None:
    import pooch

    failure: object = "no mirror"
    for base in MIRRORS:
        url = f"{base}{name}.gz"
        try:
            (folder / f"{name}.gz").unlink(missing_ok=True)  # pooch keeps a file that exists, damaged or not
            # A total of 1 until pooch sets the real one: it asks for the bar's truth, and tqdm's is its
            # total.
            with bar(1, f"downloading {name}", unit="B", unit_scale=True) as progress:
                downloader = pooch.HTTPDownloader(progressbar=progress, chunk_size=2**16)
                pooch.retrieve(url, known_hash=None, fname=f"{name}.gz", path=folder, downloader=downloader)
        except (OSError, ValueError) as error:  # requests' exceptions are OSErrors
            failure = f"{error} from {url}"
            continue
        if _good(folder, name):
            return
        (folder / f"{name}.gz").unlink(missing_ok=True)
        failure = f"a file with another checksum from {url}"
    expected = "a folder with MNIST's four files, or a network to download them"
    raise InputError("data_dir", expected, f"None, and {failure}")
