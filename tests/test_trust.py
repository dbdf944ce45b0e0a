"""A saved model's classes: ppl_vae's own, those imported already, those of trusted packages; no other is imported."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae import InputError, files
from ppl_vae._part import Part
from ppl_vae.config import rebuild
from ppl_vae.networks import MLP
from ppl_vae.persistence import load_trusting
from ppl_vae.priors import Prior, StandardNormal
from ppl_vae.trust import Trust

MARK = "imported_by_a_file"
MODULE = f'''
import sys
sys.{MARK} = getattr(sys, "{MARK}", 0) + 1
import subprocess
from subprocess import Popen
from ppl_vae.likelihoods import Bernoulli as Mine
from ppl_vae.priors import Prior, StandardNormal

class MyPrior(StandardNormal):
    def __init__(self, dim, text="", table=None):
        super().__init__(dim)
        if text == "raise":
            raise KeyError("of my own")
        if text == "leave":
            raise SystemExit(0)

class Outer:
    class Inner(StandardNormal):
        pass

def function(dim):
    return StandardNormal(dim)
'''


class Here(StandardNormal):
    """A class of a module that is imported: this one."""


class NotAPart(nn.Module):
    """A module, but none that is saved by its constructor's call."""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a package with a module ``parts``, which can be imported and is not."""
    name = "trusted_by_nobody"
    folder = tmp_path / "path" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(f"import sys\nsys.{MARK} = 1\n")
    (folder / "__main__.py").write_text(f"import sys\nsys.{MARK} = 100\n")
    (folder / "parts.py").write_text(MODULE)
    (folder / "broken.py").write_text("raise ZeroDivisionError('at import')\n")
    (folder / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    yield name
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == name]:
        del sys.modules[loaded]
    if hasattr(sys, MARK):
        delattr(sys, MARK)


@cache
def good():
    """The tensors and the metadata of a good VAE."""
    parts = pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(3), pv.posteriors.MeanFieldNormal(2)
    vae = pv.VAE(*parts, hidden=(2,))
    return vae.state_dict(), json.dumps(
        {"format": "ppl_vae VAE 1", "dtype": "float32", "config": vae.config()}
    )


def saved(path, role, class_path, init_args=None):
    """A file of a good VAE in which one part is of another class."""
    tensors, text = good()
    metadata = json.loads(text)
    metadata["config"][role]["class_path"] = class_path
    if init_args is not None:
        metadata["config"][role]["init_args"] = init_args
    files.write_tensors(path, tensors, metadata)
    return path


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    for word in words:
        assert word in message
    return message


NEVER = [
    "subprocess.Popen", "os.system", "os._wrap_close", "builtins.eval", "builtins.exec", "builtins.open",
    "builtins.dict", "venv.EnvBuilder", "venv.__main__.X", "torch.load", "torch.hub.load", "torch.nn.Linear",
    "torch.nn.Module", "torch.jit.ScriptModule", "torch.distributed.nn.RemoteModule", "ctypes.CDLL", "ppl_vae.cli.main",
    "ppl_vae.__main__.main", "ppl_vae.cli.commands.demo.run", "ppl_vae.priors.Nobody", "ppl_vae.nowhere.Prior",
    "ppl_vae.VAE",
    "ppl_vae.networks.nn.Linear", "ppl_vae.networks.Protocol", "ppl_vae.networks.math.prod", "this.X", "antigravity.X",
    "idlelib.__main__.X", "__main__.Missing", "sys.exit", "pathlib.Path", "importlib.import_module", "yaml.load",
    "jsonargparse.CLI", "numpy.load", "", ".", "Prior", "a..b", "a b.c", "../x.y", "a.b\n", "a.b;c.d", 3, None, ["a.b"],
    {"class_path": "a.B"}, "ppl_vae.priors.base.Part",
]  # fmt: skip


def loaded():
    """The modules that there are, but for those that torch loads late."""
    return {name for name in sys.modules if not name.startswith("torch.")}


@pytest.mark.parametrize("imported", [True, False])
@pytest.mark.parametrize("role", ["prior", "encoder"])
@pytest.mark.parametrize("class_path", NEVER, ids=str)
def test_nothing_else_is_ever_made(class_path, role, imported, tmp_path, monkeypatch):
    path = saved(tmp_path / "vae", role, class_path)
    before = loaded()
    monkeypatch.setattr("ppl_vae.trust.import_module", lambda *_: pytest.fail("imported"))
    trust = Trust(imported=imported)
    refused(lambda: load_trusting(path, trust), str(path), role)
    assert loaded() == before


def test_a_class_that_nobody_imported_needs_trust(module, tmp_path):
    path = saved(tmp_path / "vae", "prior", f"{module}.parts.MyPrior", {"dim": 2})
    message = refused(
        lambda: pv.load(path), str(path), "prior", f"{module}.parts.MyPrior", f'trusted=("{module}",)'
    )
    assert "trust" in message
    assert not hasattr(sys, MARK)
    for trusted in (("another",), (f"{module}.part",), (module[:-1],), (f"{module}.parts.MyPrior",)):
        refused(lambda trusted=trusted: pv.load(path, trusted=trusted), module)
        assert not hasattr(sys, MARK)
    loaded = pv.load(path, trusted=(f"{module}.parts",))
    assert type(loaded.prior).__module__ == f"{module}.parts"
    assert getattr(sys, MARK) == 2  # the package, and the module in it
    assert pv.load(path).config() == loaded.config()  # it is imported now
    refused(lambda: load_trusting(path, Trust(imported=False)), module)
    assert pv.load(path, trusted=module).config() == pv.load(path, trusted=[module, "other"]).config()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("parts.Popen", {"args": ["true"]}, "no Prior"),
        ("parts.Mine", {"shape": 3}, "no Prior"),
        ("parts.function", {"dim": 2}, "no class but a function"),
        ("parts.subprocess.Popen", {}, "No module named"),
        ("parts.Outer.Inner", {"dim": 2}, "parts.Outer"),
        ("parts.Missing", {"dim": 2}, "no such name"),
        ("broken.MyPrior", {"dim": 2}, "ZeroDivisionError: at import"),
        ("leaving.MyPrior", {"dim": 2}, "SystemExit"),
        ("missing.MyPrior", {"dim": 2}, "ModuleNotFoundError"),
        ("__main__.MyPrior", {"dim": 2}, "a program"),
        ("parts.MyPrior", {"dim": 2, "text": "raise"}, "KeyError"),
        ("parts.MyPrior", {"dim": 2, "unknown": 1}, "unknown"),
        ("parts.MyPrior", {"dim": 0}, "prior: dim"),
    ],
)
def test_trust_is_in_classes_of_the_right_kind(name, arguments, words, module, tmp_path):
    path = saved(tmp_path / "vae", "prior", f"{module}.{name}", arguments)
    refused(lambda: pv.load(path, trusted=module), str(path), words)
    assert getattr(sys, MARK, 0) < 100


def test_arguments_stay_what_they_are_in_the_file(module, tmp_path):
    """A class path among the arguments is data: nothing makes an object of it."""
    arguments = {"dim": 2, "table": {"class_path": "subprocess.Popen", "init_args": {"args": ["false"]}}}
    path = saved(tmp_path / "vae", "prior", f"{module}.parts.MyPrior", arguments)
    assert pv.load(path, trusted=module).prior.init_args["table"] == arguments["table"]
    assert getattr(sys, MARK) == 2


def test_what_this_process_has_imported_counts(tmp_path):
    path = saved(tmp_path / "vae", "prior", f"{__name__}.Here", {"dim": 2})
    assert type(pv.load(path).prior) is Here
    refused(lambda: pv.load(saved(tmp_path / "other", "decoder", f"{__name__}.NotAPart")), "no Part")
    refused(lambda: pv.load(saved(tmp_path / "third", "likelihood", f"{__name__}.Here")), "no Likelihood")


@pytest.mark.parametrize(
    "trusted", [3, None, [3], ["a b"], "a/b", "", ("",), {"a": 1}, b"a", ["-x"], "a..b"], ids=str
)
def test_names_that_are_none(trusted, tmp_path):
    path = saved(tmp_path / "vae", "prior", "ppl_vae.priors.StandardNormal")
    refused(lambda: pv.load(path, trusted=trusted), "trusted: expected names of packages")


def test_classes_are_looked_at_before_anything_else_of_the_file(module, tmp_path):
    path = saved(tmp_path / "vae", "decoder", f"{module}.parts.MyPrior")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # its digest does not fit any more
    path.write_bytes(content)
    refused(lambda: pv.load(path), "decoder", f"{module}.parts.MyPrior")
    assert not hasattr(sys, MARK)


def test_rebuild_makes_parts_only():
    made = rebuild({"class_path": f"{__name__}.Here", "init_args": {"dim": 3}})
    assert isinstance(made, Here)
    assert isinstance(rebuild(MLP(2, 3, hidden=4).config(), "net", Part), MLP)
    refused(lambda: rebuild({"class_path": "torch.nn.Linear", "init_args": {}}, "net"), "net", "no Part")
    refused(lambda: rebuild(MLP(2, 3).config(), "net", Prior), "no Prior")


SIZES = {
    "encoder: ": ("encoder", {"in_shape": [3], "out_shape": [4], "hidden": [10**6, 10**6]}),
    "in_shape": ("decoder", {"in_shape": [10**6, 10**6], "out_shape": [3], "hidden": 2}),
    "dim": ("prior", {"dim": 10**12}),
    "encoder": ("encoder", {"in_shape": [3000], "out_shape": [4], "hidden": [100_000]}),
    "decoder": ("decoder", {"in_shape": 2, "out_shape": [3], "hidden": 10**30}),
    "shape": ("likelihood", {"shape": [10**4, 10**4, 10**4]}),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_the_file_has_no_parameters_for(name, tmp_path):
    role, arguments = SIZES[name]
    kinds = {"prior": "priors.StandardNormal", "likelihood": "likelihoods.Bernoulli"}
    path = saved(tmp_path / "vae", role, f"ppl_vae.{kinds.get(role, 'networks.MLP')}", arguments)
    refused(lambda: pv.load(path), str(path), role, name)


def test_components_that_the_file_has_no_parameters_for(tmp_path):
    path = saved(tmp_path / "vae", "prior", "ppl_vae.priors.VampPrior", {"dim": 2, "components": 10**6})
    refused(lambda: pv.load(path), str(path), "prior: components")
    many = pv.priors.MixtureOfGaussians(2, components=5000)
    vae = pv.VAE(many, pv.likelihoods.Bernoulli(3000), pv.posteriors.MeanFieldNormal(2), hidden=(2,))
    pv.save(vae, path)
    assert pv.load(path).config() == vae.config()


@pytest.mark.parametrize(
    "changes", [{"dtype": ["float32"]}, {"dtype": "int64"}, {"dtype": "Tensor"}, {"dtype": None}]
)
def test_metadata_that_are_none(changes, tmp_path):
    path = saved(tmp_path / "vae", "prior", "ppl_vae.priors.StandardNormal")
    tensors, metadata = files.read_tensors(path)
    files.write_tensors(path, tensors, metadata | changes)
    refused(lambda: pv.load(path), str(path))


@pytest.mark.parametrize("name", ["decoder.output_bias", "encoder.last.weight", "started"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value * torch.nan, "NaN"),
        (lambda value: value + torch.inf, "inf"),
        (lambda value: value.double(), "float64"),
        (lambda value: value[:1] if value.ndim else value.reshape(1), "not"),
        (lambda value: None, "none called"),
    ],
)
def test_parameters_are_finite_and_of_the_parts(name, change, words, tmp_path):
    path = saved(tmp_path / "vae", "prior", "ppl_vae.priors.StandardNormal")
    tensors, metadata = files.read_tensors(path)
    if tensors[name].dtype == torch.bool:
        tensors[name], words = tensors[name].float(), "float32"
    else:
        tensors[name] = change(tensors[name])
    files.write_tensors(path, {key: value for key, value in tensors.items() if value is not None}, metadata)
    refused(lambda: pv.load(path), str(path), name, words)


def test_files_of_earlier_versions_are_still_read(tmp_path):
    """Without a digest, and so without a mark of this version: with one of the two alone, a file was tampered with."""
    from safetensors.torch import save_file

    path = saved(tmp_path / "vae", "prior", "ppl_vae.priors.StandardNormal")
    tensors, metadata = files.read_tensors(path)
    save_file(tensors, path, {"json": json.dumps(metadata)})
    assert pv.load(path).latent_dim == 2
    save_file(tensors, path, {"json": json.dumps(metadata), "format": "ppl_vae 2"})
    refused(lambda: pv.load(path), str(path), "digest")
    save_file(
        tensors, path, {"json": json.dumps(metadata), "blake2b": files.digest(tensors, json.dumps(metadata))}
    )
    refused(lambda: pv.load(path), str(path), "format")


def test_a_process_of_its_own_makes_nothing_of_a_malicious_file(tmp_path):
    """What a user would do: load the file in a new process; the module it names would create folders."""
    path = saved(tmp_path / "vae", "prior", "venv.__main__.X", {})
    code = "import sys, ppl_vae as pv\ntry: pv.load('vae')\nexcept pv.InputError as e: print(e, 'venv' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(pv.__file__).parents[1])}
    line = [sys.executable, "-c", code, "a", "b"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "venv.__main__.X" in done.stdout, done.stderr
    assert done.stdout.endswith("False\n")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
