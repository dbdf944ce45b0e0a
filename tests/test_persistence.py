"""A saved VAE comes back to the last bit, or the file is refused in one line that names it."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae import InputError, files
from ppl_vae.likelihoods import Bernoulli, Binomial, Gaussian
from ppl_vae.networks import MLP, ConvNet
from ppl_vae.posteriors import MeanFieldNormal, MultivariateNormal
from ppl_vae.priors import MixtureOfGaussians, Prior, StandardNormal, VampPrior

IMAGE = (1, 4, 4)


def conv(in_shape, out_shape):
    return ConvNet(in_shape, out_shape, channels=(2,), hidden=3)


def make(prior=None, likelihood=None, posterior=None, **options):
    return pv.VAE(
        prior or StandardNormal(2),
        likelihood or Bernoulli(6),
        posterior or MeanFieldNormal(2),
        **({"hidden": (5,)} | options),
    )


VAES = {
    "plain": lambda: make(),
    "another activation": lambda: make(activation="elu", hidden=(4, 3), seed=9),
    "no hidden layer": lambda: make(hidden=()),
    "mixture": lambda: make(MixtureOfGaussians(2, components=3, seed=4)),
    "vamp": lambda: make(VampPrior(2, 3)),
    "counts": lambda: make(likelihood=Binomial((2, 3), total_count=4)),
    "fixed scale": lambda: make(likelihood=Gaussian(6, 0.3)),
    "learned scale": lambda: make(likelihood=Gaussian(6, "learned")),
    "decoder scale": lambda: make(likelihood=Gaussian(6, "decoder", min_scale=0.2)),
    "full covariance": lambda: make(posterior=MultivariateNormal(2)),
    "convolutions": lambda: make(likelihood=Bernoulli(IMAGE), encoder=conv, decoder=conv),
    "a network given": lambda: make(encoder=MLP(6, 4, hidden=3), decoder=MLP((2,), (6,), hidden=(3,))),
    "double precision": lambda: make(VampPrior(2, 3)).double(),
}


def perturbed(vae):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return vae


def draw(vae, n=5):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return vae.model(None, n)


@pytest.mark.parametrize("name", VAES)
def test_every_bit_comes_back(name, tmp_path):
    vae = perturbed(VAES[name]())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    pv.save(vae, tmp_path / "deep" / "folder" / "vae")
    loaded = pv.load(tmp_path / "deep" / "folder" / "vae")
    assert torch.equal(torch.get_rng_state(), before)
    ours, theirs = vae.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in ours)
    assert loaded.config() == vae.config()
    x = draw(vae)
    assert torch.equal(loaded.program.log_weights(x, 3), vae.program.log_weights(x, 3))
    assert torch.equal(pv.sample(loaded, 4), pv.sample(vae, 4))
    pv.save(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "deep" / "folder" / "vae").read_bytes()


def test_training_goes_on_after_loading_as_it_would_have_before(tmp_path):
    """`fit` starts a VAE from its data once: neither a second `fit` nor loading starts it again."""
    vae = make(VampPrior(2, 3))
    x = draw(vae, 20)
    pv.fit(vae, x, epochs=3, lr=1e-2)
    pv.save(vae, tmp_path / "vae")
    loaded = pv.load(tmp_path / "vae")
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    pv.fit(vae, x, epochs=1, lr=1e-9, seed=5)
    for name, value in vae.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)
    pv.fit(loaded, x, epochs=1, lr=1e-9, seed=5)
    assert all(torch.equal(value, vae.state_dict()[name]) for name, value in loaded.state_dict().items())


def own_encoder():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4))


def own_decoder():
    return nn.Sequential(nn.Linear(2, 6))


def test_own_networks_are_given_again(tmp_path):
    vae = make(encoder=own_encoder(), decoder=own_decoder())
    x = draw(vae, 8)
    pv.fit(vae, x, epochs=2)
    path = tmp_path / "vae"
    pv.save(vae, path)
    for given, missing in (({}, "encoder"), ({"encoder": own_encoder()}, "decoder")):
        with pytest.raises(InputError, match="the network that") as caught:
            pv.load(path, **given)
        assert caught.value.argument == missing
    loaded = pv.load(path, encoder=own_encoder(), decoder=own_decoder())
    assert torch.equal(loaded.program.log_weights(x, 3), vae.program.log_weights(x, 3))
    assert torch.equal(loaded.encoder[1].running_var, vae.encoder[1].running_var)
    with pytest.raises(InputError, match="encoder: expected 4 outputs"):
        pv.load(path, encoder=nn.Linear(6, 3), decoder=own_decoder())
    with pytest.raises(InputError, match="parameters that fit") as caught:
        pv.load(path, encoder=nn.Linear(6, 4), decoder=own_decoder())
    assert caught.value.argument == str(path)
    assert "\n" not in str(caught.value)


class HoldsATensor(Prior):
    def __init__(self, dim, center):
        super().__init__(dim)
        self.center = center

    def forward(self):
        return StandardNormal(self.dim)()


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    class Local(StandardNormal):
        pass

    for prior, words in ((HoldsATensor(2, torch.zeros(2)), "center"), (Local(2), "Local")):
        with pytest.raises(InputError, match=words) as caught:
            pv.save(make(prior), tmp_path / "vae")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="vae"):
        pv.save(nn.Linear(2, 2), tmp_path / "vae")
    assert list(tmp_path.iterdir()) == []


def good_file(tmp_path):
    path = tmp_path / "good"
    pv.save(make(), path)
    return path


def metadata(path):
    return files.read_tensors(path)[1]


def rewritten(change):
    def write(path, tmp_path):
        tensors, found = files.read_tensors(good_file(tmp_path))
        found = json.loads(json.dumps(found))
        change(tensors, found)
        files.write_tensors(path, tensors, found)

    return write


def set_class(found, role, value):
    found["config"][role]["class_path"] = value


BAD = {
    "missing": lambda path, tmp_path: None,
    "a folder": lambda path, tmp_path: path.mkdir(),
    "empty": lambda path, tmp_path: path.write_bytes(b""),
    "text": lambda path, tmp_path: path.write_text("a: 1\n"),
    "a pickle": lambda path, tmp_path: path.write_bytes(pickle.dumps({"a": 1})),
    "a torch file": lambda path, tmp_path: torch.save(make().state_dict(), path),
    "cut in the header": lambda path, tmp_path: path.write_bytes(good_file(tmp_path).read_bytes()[:50]),
    "cut in the tensors": lambda path, tmp_path: path.write_bytes(good_file(tmp_path).read_bytes()[:-7]),
    "no metadata": lambda path, tmp_path: files.write_tensors(path, make().state_dict()),
    "metadata of a list": lambda path, tmp_path: files.write_tensors(path, make().state_dict(), [1]),
    "an evidence": lambda path, tmp_path: evidence().save(path),
    "a checkpoint": lambda path, tmp_path: pv.fit(make(), torch.ones(3, 6), epochs=1, checkpoint=path),
    "no config": rewritten(lambda tensors, found: found.pop("config")),
    "a config of a string": rewritten(lambda tensors, found: found.update(config="all of it")),
    "no likelihood": rewritten(lambda tensors, found: found["config"].pop("likelihood")),
    "no dtype": rewritten(lambda tensors, found: found.pop("dtype")),
    "another dtype": rewritten(lambda tensors, found: found.update(dtype="Tensor")),
    "no class path": rewritten(lambda tensors, found: found["config"]["prior"].pop("class_path")),
    "unknown module": rewritten(lambda tensors, found: set_class(found, "prior", "no_such.Prior")),
    "unknown class": rewritten(lambda tensors, found: set_class(found, "encoder", "ppl_vae.networks.No")),
    "no module at all": rewritten(lambda tensors, found: set_class(found, "prior", "os.system")),
    "unknown argument": rewritten(lambda tensors, found: found["config"]["prior"]["init_args"].update(a=1)),
    "a tensor missing": rewritten(lambda tensors, found: tensors.pop("decoder.output_bias")),
    "a tensor too many": rewritten(lambda tensors, found: tensors.update(extra=torch.zeros(1))),
    "a tensor of another size": rewritten(
        lambda tensors, found: tensors.update({"decoder.output_bias": torch.zeros(7)})
    ),
}


def evidence():
    vae = make()
    return pv.evidence.importance(vae.program, draw(vae, 2), num_samples=2)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_by_name(name, tmp_path):
    path = tmp_path / "bad"
    BAD[name](path, tmp_path)
    with pytest.raises(InputError) as caught:
        pv.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


def explode(*_, **__):
    raise OSError("No space left on device")


@pytest.mark.parametrize("where", ["write", "sync", "rename"])
def test_a_failure_in_the_middle_leaves_the_old_file(where, tmp_path, monkeypatch):
    path = good_file(tmp_path)
    old = path.read_bytes()
    with monkeypatch.context() as patch:
        if where == "write":
            patch.setattr(Path, "write_bytes", lambda self, data: (self.open("wb").close(), explode()))
        elif where == "sync":
            patch.setattr("os.fsync", explode)
        else:
            patch.setattr(Path, "replace", explode)
        with pytest.raises(OSError, match="No space"):
            pv.save(perturbed(make()), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    pv.save(perturbed(make()), path)
    assert path.read_bytes() != old
