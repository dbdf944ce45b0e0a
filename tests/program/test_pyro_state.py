"""Settings, validation, modes of modules and Pyro's parameter store are put back."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from programs_by_hand import X1, N
from torch import nn
from torch.distributions import constraints

from ppl_vae import Program


def flags():
    return (
        {key: pyro.settings.get(key) for key in pyro.settings.get()},
        td.Distribution._validate_args,
        pyro.distributions.is_validation_enabled(),
        pyro.infer.util.is_validation_enabled(),
        pyro.poutine.util.is_validation_enabled(),
    )


class FailsError(Exception):
    pass


@pytest.mark.parametrize("torch_validates", [True, False])
@pytest.mark.parametrize("pyro_validates", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_settings_validation_and_the_parameter_store_are_put_back(torch_validates, pyro_validates, fails):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
            self.net[1].eval()  # one child in evaluation mode before: it must stay there

        def forward(self, x):
            assert not any(module.training for module in self.modules())
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
                if fails:
                    raise FailsError
                loc = self.net(z.float().unsqueeze(-1))[..., 0]
                pyro.sample("x", dist.Normal(loc, scale), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, pyro.param("q", torch.tensor(1.0))))

    model, x = Model(), X1.float()
    program = Program(model, guide)
    before = flags()
    try:
        pyro.enable_validation(pyro_validates)
        td.Distribution.set_default_validate_args(torch_validates)
        pyro.get_param_store().clear()
        pyro.param("somebody's", torch.tensor(3.0))
        inside = flags()
        for call in (
            lambda: program.check(x),
            lambda: program.log_weights(x, 2, check=False),
            lambda: program.log_joint({"z": torch.zeros(1, N)}, x),
            lambda: program.simulate(x),
        ):
            if fails:
                with pytest.raises(FailsError):
                    call()
            else:
                call()
            assert flags() == inside
            assert [module.training for module in model.modules()] == [True, True, True, False]
            assert list(pyro.get_param_store().keys()) == ["somebody's"]
    finally:
        pyro.get_param_store().clear()
        pyro.settings.set(**before[0])
        td.Distribution.set_default_validate_args(before[1])
    assert flags() == before
