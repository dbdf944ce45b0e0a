"""Networks take any leading dimensions, start well, and can be rebuilt. New ones: add to NETWORKS."""

import copy
import inspect
import math

import pytest
import torch
from torch import nn

from ppl_vae.config import rebuild
from ppl_vae.errors import InputError
from ppl_vae.networks import ACTIVATIONS, MLP, ConvNet

NETWORKS = {
    "mlp": lambda: MLP(6, 4, hidden=(5, 3)),
    "mlp-affine": lambda: MLP(6, 4, hidden=()),
    "mlp-shapes": lambda: MLP((2, 3), (1, 2, 2), hidden=5, activation="relu"),
    "conv-encoder": lambda: ConvNet((2, 9, 11), 5, channels=(3, 4), hidden=7),
    "conv-decoder": lambda: ConvNet(3, (2, 9, 11), channels=(3, 4), hidden=7),
    "conv-decoder-one": lambda: ConvNet((3,), (1, 8, 8), channels=3, hidden=7, activation="tanh"),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]().double()


def points(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("lead", [(), (1,), (4,), (2, 3), (2, 1, 1, 3), (0,), (2, 0)])
def test_any_leading_dimensions(network, lead):
    assert network(points(*lead, *network.in_shape)).shape == (*lead, *network.out_shape)


def test_a_batch_is_its_members(network):
    x = points(2, 3, *network.in_shape)
    one_by_one = torch.stack([network(each) for each in x.flatten(0, 1)]).unflatten(0, (2, 3))
    torch.testing.assert_close(network(x), one_by_one, rtol=1e-12, atol=1e-12)
    swapped = network(x.transpose(0, 1)).transpose(0, 1)  # not contiguous
    torch.testing.assert_close(network(x), swapped, rtol=1e-12, atol=1e-12)


def test_every_parameter_gets_a_gradient(network):
    network(points(8, *network.in_shape)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_set_output_bias(network):
    x = points(2, *network.in_shape)
    bias, before = network.output_bias, network(x).detach()
    values = points(*network.out_shape, seed=1)
    for given in (values, values.flatten()):
        network.set_output_bias(given)
        torch.testing.assert_close(network(x), before + values)
    assert network.output_bias is bias
    assert bias.requires_grad


def test_start_is_glorot(network):
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1 and name != "output_bias":
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(parameter)
            limit = math.sqrt(6 / (fan_in + fan_out))
            assert 0.4 * limit < parameter.abs().max() <= limit, name
        else:
            assert not parameter.any(), name


def test_rebuilds_and_loads(network):
    again = rebuild(network.config()).double()
    again.load_state_dict(network.state_dict())
    x = points(2, *network.in_shape)
    assert torch.equal(again(x), network(x))
    shared = {value.data_ptr() for value in network.state_dict().values()}
    assert len(shared) == len(network.state_dict())  # safetensors refuses tensors that share memory


def test_a_deep_copy_is_independent(network):
    x = points(2, *network.in_shape)
    before = network(x).detach()
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(network(x), before)
    assert not torch.equal(twin(x), before)


@pytest.mark.parametrize("size", [(28, 28), (8, 8), (9, 11), (1, 1), (2, 5), (7, 16)])
@pytest.mark.parametrize("channels", [(2,), (2, 3), (2, 3, 4)])
def test_convolutions_of_any_image_size(size, channels):
    encoder = ConvNet((1, *size), 4, channels=channels, hidden=5)
    decoder = ConvNet(4, (2, *size), channels=channels, hidden=5)
    assert decoder(encoder(torch.zeros(3, 1, *size))).shape == (3, 2, *size)


def test_a_decoder_of_mnist_reaches_every_pixel():
    torch.manual_seed(0)
    decoder = ConvNet(4, (1, 28, 28))
    assert (decoder(torch.randn(5, 4)) != 0).any(0).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_by_name(activation):
    torch.manual_seed(0)
    x = torch.tensor([[-1.0], [0.5]])
    network = MLP(1, 1, hidden=(1,), activation=activation)
    linear = network.layers[1]
    expected = network.last(ACTIVATIONS[activation]()(linear(x)))
    torch.testing.assert_close(network(x), expected)


def test_classes_are_factories_with_readable_signatures():
    for kind in (MLP, ConvNet):
        assert list(inspect.signature(kind).parameters)[:2] == ["in_shape", "out_shape"]


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: MLP(0, 2), "in_shape"),
        (lambda: MLP((), 2), "in_shape"),
        (lambda: MLP(2, "3"), "out_shape"),
        (lambda: MLP(2, (3, True)), "out_shape"),
        (lambda: MLP(2, 3, hidden=(0,)), "hidden"),
        (lambda: MLP(2, 3, hidden="200"), "hidden"),
        (lambda: MLP(2, 3, activation="swish"), "activation"),
        (lambda: MLP((2, 3), 1)(torch.zeros(4, 3)), "x"),
        (lambda: MLP((2, 3), 1)(torch.zeros(3)), "x"),
        (lambda: MLP(2, 3).set_output_bias(torch.zeros(2)), "values"),
        (lambda: ConvNet(2, 3), "ConvNet(in_shape, out_shape)"),
        (lambda: ConvNet((1, 8, 8), (1, 8, 8)), "ConvNet(in_shape, out_shape)"),
        (lambda: ConvNet((1, 8, 8), 3, channels=()), "channels"),
        (lambda: ConvNet((1, 8, 8), 3, hidden=0), "hidden"),
        (lambda: ConvNet((1, 8, 8), 3, activation="swish"), "activation"),
    ],
)
def test_bad_arguments(make, argument):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.argument == argument
    assert "\n" not in str(caught.value)


def test_a_bad_activation_lists_the_good_ones():
    with pytest.raises(
        InputError, match="'tanh', 'relu', 'softplus', 'elu', 'gelu', 'silu', 'leaky_relu', 'sigmoid'"
    ):
        MLP(1, 1, activation="swish")
