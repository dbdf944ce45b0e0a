"""Programs and data that are refused, and what the error says."""

import math

import pyro
import pyro.distributions as dist
import torch
from programs_by_hand import W1, W3, X3
from pyro import poutine

from ppl_vae import InputError, NonFiniteError, ProgramError


def good_model(x, loc=0.0, **_):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W1 + loc, 1.0).to_event(1), obs=x)


def good_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def unit(x, event=2):
    return dist.Normal(x.new_zeros(event), 1.0).to_event(1)


def bad_latent_outside(x):
    z = pyro.sample("z", unit(x))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x)


def bad_shared_latent(x):
    shared = pyro.sample("shared", dist.Normal(x.new_zeros(()), 1.0))
    good_model(x, loc=shared)


def bad_observed_outside(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
    pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(2), obs=x)


def bad_guide_outside(x):
    pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(2))


def bad_subsample_size(x):
    with pyro.plate("batch", len(x), subsample_size=3, dim=-1) as index:
        z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x[index])


def bad_subsample_indices(x):
    with pyro.plate("batch", 100, subsample=torch.arange(len(x)), dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x)


def bad_guide_subsample(x):
    with pyro.plate("batch", 100, subsample=torch.arange(len(x)), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def bad_scaled_latent(x):
    with pyro.plate("data", len(x), dim=-1):
        with poutine.scale(scale=0.1):
            z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x)


def bad_scaled_guide(x):
    with poutine.scale(scale=0.5):
        good_guide(x)


def bad_tensor_scale(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        with poutine.scale(scale=torch.linspace(0.5, 2.0, len(x))):
            pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x)


def bad_tensor_scale_of_one(x):
    with poutine.scale(scale=torch.tensor(1.0)):  # might be learned: refused before it moves
        good_model(x)


def bad_second_plate(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        with pyro.plate("pixels", 3, dim=-3):
            pyro.sample("x", dist.Normal((z @ W1).movedim(-1, 0).unsqueeze(-3), 1.0), obs=x.T.unsqueeze(-2))


def bad_second_plate_in_guide(x):
    with pyro.plate("data", len(x), dim=-1), pyro.plate("other", 4, dim=-3):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def bad_sequential_plate(x):
    for n in pyro.plate("loop", len(x)):
        z = pyro.sample(f"z{n}", unit(x))
        pyro.sample(f"x{n}", dist.Normal(z @ W1, 1.0).to_event(1), obs=x[n])


def bad_sequential_guide(x):
    for n in pyro.plate("loop", len(x)):
        pyro.sample(f"z{n}", unit(x))


def bad_no_event(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0))
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x)


def bad_no_event_observed(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal(z @ W1, 1.0), obs=x)


def bad_no_event_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0))


def bad_event_shape_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :3], 1.0).to_event(1))


def bad_guide_missing(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("w", dist.Normal(x[:, :2], 1.0).to_event(1))


def bad_guide_extra(x):
    good_guide(x)
    with pyro.plate("again", len(x), dim=-1):
        pyro.sample("extra", dist.Normal(x[:, :2], 1.0).to_event(1))


def bad_guide_of_observed(x):
    good_guide(x)
    with pyro.plate("again", len(x), dim=-1):
        pyro.sample("x", dist.Normal(x, 1.0).to_event(1))


def bad_guide_observes(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1), obs=x[:, :2])


def bad_guide_factor(x):
    good_guide(x)
    with pyro.plate("again", len(x), dim=-1):
        pyro.factor("f", -x[:, 0], has_rsample=True)


def bad_guide_delta(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Delta(x[:, :2]).to_event(1))


def bad_guide_masked_delta(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Delta(x[:, :2]).mask(True).to_event(1))


def discrete_model(x):
    with pyro.plate("data", len(x), dim=-1):
        k = pyro.sample("k", dist.Categorical(x.new_ones(4)))
        pyro.sample("x", dist.Normal(W3[k], 1.0).to_event(1), obs=x)


def bad_enumerated(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("k", dist.Categorical(x.new_ones(4)), infer={"enumerate": "parallel"})


def bad_plate_size(x):
    with pyro.plate("data", 100, dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal((z @ W1)[..., : len(x), :], 1.0).to_event(1), obs=x)


def bad_plate_of_one(x):
    with pyro.plate("data", 1, dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("x", dist.Normal(z @ W1, 1.0).to_event(1), obs=x.sum(0))


def bad_guide_plate_size(x):
    with pyro.plate("small", 3, dim=-1):
        pyro.sample("z", dist.Normal(x[:3, :2], 1.0).to_event(1))


def bad_nothing_observed(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", unit(x))


def bad_nothing_at_all(x):
    pass


def bad_observed_shape(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("first", dist.Normal(z[..., 0], 1.0), obs=x[:, :1])


def bad_nan_model(x):
    good_model(x, loc=torch.where(torch.arange(len(x)) == 4, math.nan, 0.0)[:, None])


def bad_nan_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        loc = torch.where(torch.arange(len(x)) == 5, math.nan, 0.0)[:, None].expand(-1, 2)
        pyro.sample("z", dist.Normal(loc.double(), 1.0).to_event(1))


def bernoulli_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("pixels", dist.Bernoulli(logits=z @ W1).to_event(1), obs=x)


def binomial_model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", unit(x))
        pyro.sample("grey", dist.Binomial(2, logits=z @ W1).to_event(1), obs=x)


def good_bits():
    return (X3 > 0).double()


def with_value(x, index, value):
    x = x.clone()
    x[index] = value
    return x


REFUSED = {
    "latent outside the plate": (bad_latent_outside, good_guide, X3, ProgramError, "model site 'z'.*plate"),
    "latent shared by all data": (bad_shared_latent, good_guide, X3, ProgramError, "model site 'shared'.*plate"),
    "observed outside the plate": (bad_observed_outside, good_guide, X3, ProgramError, "model site 'x'.*plate"),
    "guide outside the plate": (good_model, bad_guide_outside, X3, ProgramError, "guide site 'z'.*plate"),
    "subsample_size": (bad_subsample_size, good_guide, X3, ProgramError, "'batch'.*subsample of 3 out of 7"),
    "subsample indices": (bad_subsample_indices, good_guide, X3, ProgramError, "'batch'.*of 7 out of 100"),
    "subsample in the guide": (good_model, bad_guide_subsample, X3, ProgramError, "'batch' in the guide"),
    "scaled latent": (bad_scaled_latent, good_guide, X3, ProgramError, r"model site 'z'.*scale 0\.1"),
    "scaled guide": (good_model, bad_scaled_guide, X3, ProgramError, r"guide site 'z'.*scale 0\.5"),
    "tensor scale": (bad_tensor_scale, good_guide, X3, ProgramError, "model site 'x'.*scale"),
    "tensor scale of one": (bad_tensor_scale_of_one, good_guide, X3, ProgramError, "model site '.'.*scale 1"),
    "scaled from outside": (
        poutine.scale(good_model, scale=3.0), good_guide, X3, ProgramError, "model site '.'.*scale 3",
    ),
    "second plate": (bad_second_plate, good_guide, X3, ProgramError, "model site 'x'.*batch shape"),
    "second plate in guide": (good_model, bad_second_plate_in_guide, X3, ProgramError, "site 'z'.*plate 'other'"),
    "sequential plate": (bad_sequential_plate, bad_sequential_guide, X3, ProgramError, "site 'z0'.*sequential"),
    "forgotten to_event": (bad_no_event, good_guide, X3, ProgramError, "model: .*to_event.*site z "),
    "forgotten to_event, observed": (bad_no_event_observed, good_guide, X3, ProgramError, "model: .*to_event.*site x "),
    "forgotten to_event, guide": (good_model, bad_no_event_guide, X3, ProgramError, "guide: .*to_event.*site z "),
    "event shape of the guide": (good_model, bad_event_shape_guide, X3, ProgramError, r"site 'z'.*\(2,\).*\(3,\)"),
    "latent missing in guide": (good_model, bad_guide_missing, X3, ProgramError, "model site 'z'.*no such"),
    "latent missing in model": (good_model, bad_guide_extra, X3, ProgramError, "guide site 'extra'.*no such"),
    "guide of an observed site": (good_model, bad_guide_of_observed, X3, ProgramError, "guide site 'x'.*observed"),
    "guide observes": (good_model, bad_guide_observes, X3, ProgramError, "guide site 'z'.*observed"),
    "factor in the guide": (good_model, bad_guide_factor, X3, ProgramError, "guide site 'f'.*observed"),
    "Delta guide": (good_model, bad_guide_delta, X3, ProgramError, "guide site 'z'.*Delta"),
    "masked Delta guide": (good_model, bad_guide_masked_delta, X3, ProgramError, "guide site 'z'.*Delta"),
    "enumerated": (discrete_model, good_guide, X3, ProgramError, "model site 'k'.*enumerate_latents"),
    "plate too large": (bad_plate_size, good_guide, X3, ProgramError, "'data'.* 100"),
    "plate of one": (bad_plate_of_one, good_guide, X3, ProgramError, "'data'.* of 1"),
    "plate too small, guide": (good_model, bad_guide_plate_size, X3, ProgramError, "guide site 'z'.*'small' of 3"),
    "nothing observed": (bad_nothing_observed, good_guide, X3, ProgramError, "model.*observed site"),
    "nothing sampled": (bad_nothing_at_all, bad_nothing_at_all, X3, ProgramError, "model.*observed site"),
    "observed value of another shape": (bad_observed_shape, good_guide, X3, ProgramError, r"'first'.*\(7, 1\)"),
    "NaN in the model": (bad_nan_model, good_guide, X3, NonFiniteError, "model site 'x'.*datum 4 "),
    "NaN in the guide": (good_model, bad_nan_guide, X3, NonFiniteError, "guide site 'z'.*datum 5 "),
    "NaN datum": (good_model, good_guide, with_value(X3, (6, 1), math.nan), InputError, "observed site 'x'.*datum 6"),
    "grey under Bernoulli": (
        bernoulli_model, good_guide, with_value(good_bits(), (3, 0), 0.5), InputError, "'pixels'.*Bernoulli.*datum 3",
    ),
    "count above the total": (
        binomial_model, good_guide, with_value(good_bits(), (2, 2), 3.0), InputError, "'grey'.*Binomial.*datum 2",
    ),
    "x a list": (good_model, good_guide, [1.0, 2.0], InputError, "x: .*tensor"),
    "x an array": (good_model, good_guide, X3.numpy(), InputError, "x: .*tensor"),
    "x empty": (good_model, good_guide, X3[:0], InputError, "x: .*at least one datum"),
    "x without axes": (good_model, good_guide, torch.tensor(1.0), InputError, "x: .*at least one datum"),
    "x an empty dict": (good_model, good_guide, {}, InputError, "x: .*dict of tensors"),
    "x a dict of numbers": (good_model, good_guide, {"a": 1}, InputError, "x: .*dict of tensors"),
    "x a dict of unequal lengths": (good_model, good_guide, {"a": X3, "b": X3[:4]}, InputError, "'a': 7, 'b': 4"),
    "x a dict with a scalar": (good_model, good_guide, {"a": X3, "b": X3[0, 0]}, InputError, "'b': 0"),
}  # fmt: skip
