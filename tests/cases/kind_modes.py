"""Networks that behave otherwise in training, wherever a program keeps them: evaluation mode is meant."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from case import Case, gaussian, plate, seeded
from pyro.nn import PyroModule
from torch import nn

import ppl_vae as pv

_W, _B = 0.8 * seeded(61, 5, 2), 0.4 * seeded(62, 5)
_X = seeded(63, 8, 2) @ _W.T + _B + 0.5 * seeded(64, 8, 5)
_COVARIANCE = torch.linalg.inv(torch.eye(2) + _W.T @ _W / 0.25)
_EXACT = gaussian(_W, _B, 0.25)
_NAMES = ("z", "x", "decoder", "encoder")


def _guide(x):
    with plate(x):
        pyro.sample("z", dist.MultivariateNormal((x - _B) @ _W @ _COVARIANCE / 0.25, 1.2 * _COVARIANCE))


def _decoder(*, last=None):
    """x = W z + b and dropout: with dropout off it is the linear model."""
    layer = nn.Linear(2, 5)
    with torch.no_grad():
        layer.weight.copy_(_W)
        layer.bias.copy_(_B)
    return nn.Sequential(layer, nn.Dropout(0.3) if last is None else last).train()


def _body(x, decoder):
    with plate(x):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)


class _Plain:
    """No module itself; keeps one."""

    def __init__(self, kept: Any) -> None:
        self.kept = kept

    def model(self, x):
        _body(x, self.kept)

    def registered(self, x):
        pyro.module("decoder", self.kept)
        _body(x, self.kept)

    def of_a_list(self, x):
        _body(x, self.kept[0])

    def of_a_dict(self, x):
        _body(x, self.kept["decoder"])

    def __call__(self, x):
        _body(x, self.kept)


class _Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = _decoder()

    def model(self, x):
        pyro.module("decoder", self.decoder)
        _body(x, self.decoder)

    def model_with_more(self, x, extra):
        self.model(x)


class _Functional(nn.Module):
    """Dropout by `F.dropout`, which asks for the mode of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = _decoder()[0]

    def forward(self, z):
        return F.dropout(self.linear(z), 0.4, training=self.training)


class _PyroNet(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = _decoder()

    def forward(self, x):
        _body(x, self.decoder)


@dataclass
class _Record:
    decoder: nn.Module

    def model(self, x):
        _body(x, self.decoder)


def _closure():
    decoder = _decoder()

    def model(x):
        pyro.module("decoder", decoder)
        _body(x, decoder)

    return model


def _closure_of_a_closure():
    decoder = _decoder()

    def inner(x):
        _body(x, decoder)

    def model(x):
        inner(x)

    return model


def _default_argument():
    def model(x, decoder=_decoder()):  # noqa: B008  (as people write it)
        _body(x, decoder)

    return model


def _wrapped():
    inner = _closure()

    @functools.wraps(inner)
    def model(x):
        inner(x)

    return model


_GLOBAL = _decoder()


def _uses_a_global(x):
    _body(x, _GLOBAL)


def _method_of_a_module_in_a_closure():
    module = _Module()
    return lambda x: module.model(x)


def _batch_norm():
    norm = nn.BatchNorm1d(5)  # not trained: in evaluation it divides by sqrt(1 + eps), which is undone
    with torch.no_grad():
        norm.weight.fill_((1 + norm.eps) ** 0.5)
    decoder = _decoder(last=norm)

    def model(x):
        pyro.module("decoder", decoder)
        _body(x, decoder)

    return model


def _batch_norm_by_hand(x):
    """Batch normalisation that no mode turns off: the data depend on one another."""
    layer = _GLOBAL[0]
    _body(x, lambda z: F.batch_norm(layer(z), None, None, training=True))


def _set_to_training_inside(x):
    """The model itself turns training on: dropout cannot be kept off."""
    _GLOBAL.train()
    _body(x, _GLOBAL)


def _encoder_with_dropout():
    encoder = nn.Sequential(nn.Linear(5, 2), nn.Dropout(0.5)).train()
    with torch.no_grad():
        encoder[0].weight.copy_((_W @ _COVARIANCE / 0.25).T)
        encoder[0].bias.copy_(-_B @ _W @ _COVARIANCE / 0.25)

    def guide(x):
        pyro.module("encoder", encoder)
        with plate(x):
            pyro.sample("z", dist.MultivariateNormal(encoder(x), 1.2 * _COVARIANCE))

    return guide


def _case(name, model, guide=lambda: _guide, **options):
    options = {"trains": False, "plain": False, "names": _NAMES, **options}
    exact = None if options.get("refused") else _EXACT
    return Case(name, lambda: pv.Program(model(), guide()), _X, exact, **options)


CASES = [
    _case("function", _closure),
    _case("closure_of_a_closure", _closure_of_a_closure),
    _case("default_argument", _default_argument),
    _case("wrapped", _wrapped),
    _case("global", lambda: _uses_a_global),
    _case("plain_class", lambda: _Plain(_decoder()).model),
    _case("plain_class_registered", lambda: _Plain(_decoder()).registered),
    _case("plain_class_called", lambda: _Plain(_decoder())),
    _case("plain_class_of_a_list", lambda: _Plain([_decoder()]).of_a_list),
    _case("plain_class_of_a_dict", lambda: _Plain({"decoder": _decoder()}).of_a_dict),
    _case("dataclass", lambda: _Record(_decoder()).model),
    _case("method", lambda: _Module().model),
    _case("partial", lambda: functools.partial(_Module().model_with_more, extra=1)),
    _case("partial_of_a_function", lambda: functools.partial(lambda net, x: _body(x, net), _decoder())),
    _case("lambda", lambda: lambda x, module=_Module(): module.model(x)),  # noqa: B008
    _case("lambda_of_a_closure", _method_of_a_module_in_a_closure),
    _case("pyro_module", _PyroNet),
    _case("functional_dropout", lambda: _Plain(_Functional().train()).model),
    _case("batch_norm", _batch_norm),
    _case("encoder_with_dropout", _closure, _encoder_with_dropout),
    _case("batch_norm_by_hand", lambda: _batch_norm_by_hand, refused="'x'"),
    _case("set_to_training_inside", lambda: _set_to_training_inside, refused="'x'"),
]
