"""The JAX contestants' environment and the process that runs them, seen from the harness."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import AbsentError

ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".venv-jax"
CONSTRAINTS = ROOT / "constraints-jax.txt"
PACKAGES = ("jax", "numpyro", "numpy")


def install() -> Path:
    """The Python of `.venv-jax`, which is made with the pinned versions if it is not there or of other ones.

    Raises:
        AbsentError: if it cannot be made.
    """
    python, stamp = ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".ready"
    pinned = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == pinned:
        return python
    print(f"setting up {ENVIRONMENT.name} ({', '.join(PACKAGES)})", file=sys.stderr, flush=True)
    stamp.unlink(missing_ok=True)
    venv = [sys.executable, "-m", "venv", str(ENVIRONMENT)]
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        str(CONSTRAINTS),
    ]
    for command in (venv, [*pip, *PACKAGES]):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr, file=sys.stderr, flush=True)
            raise AbsentError("not installed")
    stamp.write_text(pinned)
    return python


class Jax:
    """A child process with JAX in it, which answers jobs (see `benchmarks.jax_child`).

    Args:
        threads: CPUs that it may use.

    Attributes:
        missing: why there is none; empty if it runs.
        versions: of its packages.
    """

    def __init__(self, threads: int) -> None:
        self.missing = ""
        self.versions: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="ppl_vae_bench_")
        self._log = Path(self._folder.name) / "stderr"
        try:
            self._start(install(), threads)
        except AbsentError as error:
            self.missing = str(error)

    def _start(self, python: Path, threads: int) -> None:
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
        command = [str(python), "-m", "benchmarks.jax_child", str(threads)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
                env=environment,
            )  # fmt: skip
        self.versions = self.ask("versions")["versions"]

    def ask(self, job: str, **args: Any) -> dict[str, Any]:
        """The answer to a job.

        Raises:
            AbsentError: if there is no child, or it died, or the job failed in it.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise AbsentError(self.missing or "closed")
        try:
            process.stdin.write(json.dumps({"job": job, "args": args}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            self.close()
            last = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
            self.missing = f"its process died: {last}"
            raise AbsentError(self.missing)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AbsentError(f"failed: {answer['error'].partition(chr(10))[0][:160]}")
        return answer

    def send(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        """Hand tensors over under a name."""
        path = Path(self._folder.name) / "arrays.npz"
        np.savez(path, **{key: value.detach().numpy() for key, value in tensors.items()})  # type: ignore[arg-type]
        self.ask("load", name=name, path=str(path))
        path.unlink()

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.communicate()  # closes its input, which ends it
        self._process = None

    def __enter__(self) -> Jax:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._folder.cleanup()
