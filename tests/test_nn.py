"""Modules: parts and state, initial values, arguments of layers, errors with the layer's path."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import hotloop as hl
from hotloop import nn
from hotloop.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3, bias=False)
        self.register_buffer("steps", hl.zeros(1))
        self.register_buffer("scratch", hl.zeros(2), persistent=False)
        self.scale = nn.Parameter(hl.ones(3))

    def forward(self, x):
        return self.head(self.body(x)) * self.scale


NAMES = ["scale", "body.0.weight", "body.0.bias", "head.weight"]


def test_parts_are_found_by_their_type():
    net = Net()
    assert sorted(name for name, _ in net.named_parameters()) == sorted(NAMES)
    assert [name for name, _ in net.named_buffers()] == ["steps", "scratch"]
    assert [name for name, _ in net.named_children()] == ["body", "head"]
    assert [name for name, _ in net.named_modules()] == [
        *("", "body", "body.0", "body.1", "body.2", "head")
    ]
    assert len(list(net.parameters())) == 4
    assert len(list(net.parameters(recurse=False))) == 1
    assert [name for name, _ in net.head.named_parameters(prefix="p")] == ["p.weight"]
    assert net.get_parameter("body.0.weight") is net.body[0].weight
    assert net.get_submodule("body.1") is net.body[1]
    assert net.get_submodule("") is net
    with pytest.raises(AttributeError, match="'7'"):
        net.get_submodule("body.7")
    with pytest.raises(AttributeError, match="parameter"):
        net.get_parameter("steps")
    assert net.head.bias is None


def test_shared_parts_count_once_but_are_saved_under_each_name():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert len(list(net.parameters())) == 3
    assert set(net.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    layer = nn.Linear(2, 2)
    twice = nn.Sequential(layer, nn.ReLU(), layer)
    assert len(list(twice.parameters())) == 2
    assert len(list(twice.modules())) == 3
    assert set(twice.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert twice(hl.ones((1, 2))).shape == (1, 2)


def test_attributes_keep_their_kind():
    net = Net()
    net.steps = net.steps + 1.0
    assert isinstance(net.steps, nn.Buffer)
    assert net.state_dict()["steps"].tolist() == [1.0]
    with pytest.raises(TypeError, match=r"'weight'.*copy_"):
        net.head.weight = hl.zeros((3, 8))
    net.head.weight = None
    assert "head.weight" not in net.state_dict()
    net.head.weight = nn.Parameter(hl.zeros((3, 8)))
    del net.scale
    assert len(list(net.parameters())) == 3


def test_state_dict_and_back():
    hl.seed(1)
    net, other = Net(), Net()
    state = net.state_dict()
    assert set(state) == {*NAMES, "steps"}
    assert not any(tensor.requires_grad for tensor in state.values())
    keys = other.load_state_dict(state)
    assert keys == ([], [])
    for name, tensor in other.state_dict().items():
        np.testing.assert_array_equal(tensor.data, state[name].data)
        assert not np.shares_memory(tensor.data, state[name].data)
    other.load_state_dict({name: tensor.data for name, tensor in state.items()})


def test_load_state_dict_takes_all_or_nothing():
    net = Net()
    before = {name: tensor.data.copy() for name, tensor in net.state_dict().items()}
    good = {name: np.full_like(array, 7) for name, array in before.items()}
    for wrong, error, words in (
        (
            {**good, "head.weight": np.ones((3, 9), np.float32)},
            hl.ShapeError,
            r"\(3, 8\).*\(3, 9\)",
        ),
        ({**good, "head.weight": np.ones((3, 8))}, hl.DTypeError, "float32, got float64"),
        ({**good, "head.weight": [1.0]}, TypeError, "list"),
        ({**good, "more": np.ones(1)}, RuntimeError, "unexpected: 'more'"),
        ({"scale": good["scale"]}, RuntimeError, "missing: .*'head.weight'"),
    ):
        with pytest.raises(error, match=words):
            net.load_state_dict(wrong)
        for name, tensor in net.state_dict().items():
            np.testing.assert_array_equal(tensor.data, before[name])
    keys = net.load_state_dict({"scale": good["scale"], "more": np.ones(1)}, strict=False)
    assert keys.unexpected_keys == ["more"]
    assert "head.weight" in keys.missing_keys
    assert net.scale.tolist() == [7.0] * 3


def test_a_changed_weight_is_noticed_by_backward():
    net = nn.Linear(3, 3)
    x = hl.ones((2, 3), requires_grad=True)
    loss = net(x).sum()
    net.load_state_dict(net.state_dict())
    with pytest.raises(RuntimeError, match=r"linear.*changed in place"):
        loss.backward()


def test_modes():
    net = Net()
    assert net.training
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    net.body.train()
    assert net.body[2].training
    assert not net.training
    with pytest.raises(TypeError, match="bool"):
        net.train("yes")
    x = hl.ones((5, 4))
    net.eval()
    np.testing.assert_array_equal(net(x).data, net(x).data)
    net.requires_grad_(False)
    assert not net(x).requires_grad
    net.requires_grad_()
    net(x).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    net.zero_grad(set_to_none=False)
    assert all((parameter.grad == 0).all() for parameter in net.parameters())
    net.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_conversions():
    net = Net()
    weight = net.head.weight
    assert net.double() is net
    assert net.head.weight is weight
    assert {parameter.dtype for parameter in net.parameters()} == {np.dtype(np.float64)}
    assert net.steps.dtype == np.float64
    assert net(hl.ones((1, 4), dtype=np.float64)).dtype == np.float64
    assert net.float().to("cpu").to(hl.device("cpu"), np.float32).scale.dtype == np.float32
    if not hl.cuda.is_available():
        with pytest.raises(hl.DeviceError, match="CUDA"):
            net.cuda()
    with pytest.raises(hl.DTypeError, match="int64"):
        net.to(np.int64)
    counted = []
    net.apply(lambda module: counted.append(type(module).__name__))
    assert counted[-1] == "Net"
    assert counted[0] == "Linear"


def test_deepcopy_is_independent():
    net = Net()
    twin = copy.deepcopy(net)
    with hl.no_grad():
        twin.head.weight.zero_()
    assert (net.head.weight != 0).any()
    assert isinstance(twin.head.weight, nn.Parameter)
    assert {type(twin.steps), type(net.steps)} == {nn.Buffer}


def test_text_is_that_of_pytorch():
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n"
        "  (1): ReLU()\n"
        "  (2): MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)\n"
        "  (3): Flatten(start_dim=1, end_dim=-1)\n"
        ")"
    )
    assert repr(nn.Linear(2, 3)) == "Linear(in_features=2, out_features=3, bias=True)"
    assert "(body): Sequential(\n    (0): Linear" in repr(Net())
    assert repr(nn.Parameter(hl.ones(1))).startswith("Parameter containing:\ntensor([1.]")


def test_containers():
    net = nn.Sequential({"first": nn.Linear(2, 3), "act": nn.Tanh()})
    assert set(net.state_dict()) == {"first.weight", "first.bias"}
    assert len(net) == 2
    assert isinstance(net[-1], nn.Tanh)
    net[1] = nn.ReLU()
    assert isinstance(net.act, nn.ReLU)
    assert len(nn.Sequential(*net, nn.ReLU())[:2]) == 2
    net.append(nn.Linear(3, 1))
    assert net(hl.ones((4, 2))).shape == (4, 1)
    with pytest.raises(IndexError, match="7"):
        net[7]
    with pytest.raises(TypeError, match="str"):
        nn.Sequential("no module")
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    layers.append(nn.ReLU()).extend([nn.ReLU()])
    assert len(layers) == 5
    assert len(list(layers.parameters())) == 6
    assert [type(layer) for layer in layers][3:] == [nn.ReLU, nn.ReLU]
    named = nn.ModuleDict({"a": nn.Linear(1, 1)})
    named["b"] = nn.ReLU()
    assert list(named) == list(named.keys()) == ["a", "b"]
    assert "a" in named
    assert [name for name, _ in named.items()] == ["a", "b"]
    assert len(list(named.values())) == len(named) == 2
    with pytest.raises(KeyError):
        named["c"]
    with pytest.raises(KeyError, match="method"):
        named["forward"] = nn.ReLU()


def test_errors_name_the_layer_once():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x)

    net = nn.Sequential(nn.ReLU(), nn.Identity(), Block())
    with pytest.raises(hl.ShapeError) as caught:
        net(hl.ones((1, 5, 8, 8)))
    assert caught.value.__notes__ == ["in layer '2.conv' (Conv2d)"]
    with pytest.raises(hl.ShapeError) as caught:
        nn.Linear(3, 2)(hl.ones((1, 5)))
    assert caught.value.__notes__ == ["in Linear"]
    with pytest.raises(hl.DTypeError) as caught:
        nn.Sequential(nn.Linear(3, 2))(hl.ones((1, 3), dtype=np.float64))
    assert caught.value.__notes__ == ["in layer '0' (Linear)"]
    with pytest.raises(NotImplementedError, match="forward"):
        nn.Module()(1)


# ---- layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [(lambda: nn.Linear(300, 200), 300), (lambda: nn.Conv2d(16, 64, (3, 5), groups=2), 120)],
    ids=["linear", "conv"],
)
def test_initial_values_are_those_of_pytorch(make, fan_in):
    hl.seed(0)
    layer = make()
    bound = 1 / math.sqrt(fan_in)
    for parameter in (layer.weight, layer.bias):
        values = parameter.data
        assert abs(values).max() <= bound
        assert abs(values).max() > 0.9 * bound
        assert abs(values.mean()) < 0.2 * bound
    assert layer.weight.data.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    hl.seed(0)
    np.testing.assert_array_equal(make().weight.data, layer.weight.data)


def test_init_formulas():
    hl.seed(0)
    w = hl.empty(200, 300)
    fans = {"fan_in": 300, "fan_out": 200}
    for mode, fan in fans.items():
        nn.init.kaiming_normal_(w, mode=mode, nonlinearity="relu")
        assert w.data.std() == pytest.approx(math.sqrt(2 / fan), rel=0.02)
        nn.init.kaiming_uniform_(w, mode=mode, nonlinearity="relu")
        assert abs(w.data).max() == pytest.approx(math.sqrt(6 / fan), rel=0.01)
    nn.init.xavier_uniform_(w, gain=2.0)
    assert abs(w.data).max() == pytest.approx(2 * math.sqrt(6 / 500), rel=0.01)
    nn.init.xavier_normal_(w)
    assert w.data.std() == pytest.approx(math.sqrt(2 / 500), rel=0.02)
    nn.init.normal_(w, 1.0, 0.1)
    assert w.data.mean() == pytest.approx(1.0, rel=0.01)
    nn.init.uniform_(w, 2.0, 3.0)
    assert (w.data.min(), w.data.max()) == (pytest.approx(2, rel=0.01), pytest.approx(3, rel=0.01))
    assert (nn.init.ones_(w) == 1).all()
    assert (nn.init.zeros_(w) == 0).all()
    assert (nn.init.constant_(w, 0.5) == 0.5).all()
    assert nn.init.calculate_gain("tanh") == pytest.approx(5 / 3)
    parameter = nn.Parameter(w)
    nn.init.ones_(parameter)  # a leaf with gradient, under its own no_grad
    with pytest.raises(hl.ShapeError, match="rank 2"):
        nn.init.kaiming_uniform_(hl.ones(3))
    with pytest.raises(ValueError, match="fan_in"):
        nn.init.kaiming_uniform_(w, mode="fan")
    with pytest.raises(ValueError, match="nonlinearity"):
        nn.init.calculate_gain("nothing")


def test_arguments_of_layers_are_checked():
    for make, words in (
        (lambda: nn.Linear(-1, 2), "in_features.*-1"),
        (lambda: nn.Conv2d(0, 2, 3), "in_channels.*0"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "multiples of groups=2, got 3 and 4"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), "kernel_size.*pair"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), "padding.*-1"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), "same"),
        (lambda: nn.Conv2d(3, 4, 2, padding="same"), "odd"),
        (lambda: nn.Conv2d(3, 4, 3, stride=2, padding="same"), "stride 1"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="reflect"), "zeros"),
        (lambda: nn.MaxPool2d(0), "kernel_size.*0"),
        (lambda: nn.Dropout(1.5), "p must be in"),
        (lambda: nn.GELU("erf"), "approximate"),
        (lambda: nn.MSELoss(reduction="average"), "reduction"),
        (lambda: F.mse_loss(hl.ones(2), hl.ones(2), reduction="average"), "reduction"),
        (lambda: F.max_pool2d(hl.ones((1, 1, 4, 4)), 2, dilation=0), "dilation"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, padding="same"), "numbers"),
        (lambda: nn.Conv3d(3, 4, (3, 3)), "three"),
        (lambda: F.gelu(hl.ones(1), "erf"), "approximate"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(TypeError, match=r"in_features.*float"):
        nn.Linear(2.5, 2)
    with pytest.raises(hl.DTypeError, match="float"):
        nn.ReLU()(hl.arange(3))
    with pytest.raises(TypeError, match="Tensor"):
        nn.Linear(3, 2)(np.ones((1, 3), np.float32))


def test_images_without_a_batch():
    x = hl.randn(3, 8, 8)
    conv, pool = nn.Conv2d(3, 5, 3, padding="same"), nn.MaxPool2d(2, return_indices=True)
    y = conv(x)
    assert y.shape == (5, 8, 8)
    values, indices = pool(y)
    assert values.shape == indices.shape == (5, 4, 4)
    assert nn.AvgPool2d(2)(y).shape == (5, 4, 4)
    flat = y.data.reshape(5, -1)
    np.testing.assert_array_equal(
        np.take_along_axis(flat, indices.data.reshape(5, -1), 1).reshape(5, 4, 4), values.data
    )


def test_flatten_and_identity():
    x = hl.ones((2, 3, 4))
    assert nn.Flatten()(x).shape == (2, 12)
    assert nn.Flatten(0)(x).shape == (24,)
    assert nn.Unflatten(1, (3, 1))(x).shape == (2, 3, 1, 4)
    assert nn.Identity(1, two=2)(x) is x


def test_dropout_layer():
    hl.seed(5)
    layer = nn.Dropout(0.25)
    x = hl.ones((200, 50), requires_grad=True)
    y = layer(x)
    np.testing.assert_allclose(np.unique(y.data), [0.0, 1 / 0.75], rtol=1e-6)
    assert y.data.mean() == pytest.approx(1.0, abs=0.05)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.data, y.data)
    assert layer.eval()(x) is x
    assert (nn.Dropout(1.0)(x) == 0).all()
    assert nn.Dropout(0.0)(x) is x


def test_losses_refuse_shapes_that_would_broadcast():
    with pytest.raises(hl.ShapeError, match=r"\(4, 1\) and \(4,\).*reshape"):
        nn.MSELoss()(hl.ones((4, 1)), hl.ones(4))
    with pytest.raises(hl.ShapeError):
        nn.MSELoss()(hl.ones((4, 3)), hl.ones(()))
    with pytest.raises(hl.DTypeError):
        nn.MSELoss()(hl.ones(4), hl.ones(4, dtype=np.float64))
    loss = nn.CrossEntropyLoss()
    with pytest.raises(hl.ShapeError):
        loss(hl.ones((4, 3)), hl.zeros((4, 1), dtype=np.int64))
    with pytest.raises(hl.ShapeError):
        loss(hl.ones((4, 3)), hl.zeros(5, dtype=np.int64))
    with pytest.raises(TypeError):
        loss(hl.ones((4, 3)), hl.tensor([True, False, True, False]))
    with pytest.raises(ValueError, match="3"):
        loss(hl.ones((2, 3)), hl.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"\[0, 3\) .* got 3 at position \(1,\)"):
        nn.CrossEntropyLoss(label_smoothing=0.1)(hl.ones((2, 3)), hl.tensor([1, 3]))
    with pytest.raises(hl.ShapeError):
        nn.CrossEntropyLoss(weight=hl.ones(4))(hl.ones((2, 3)), hl.tensor([1, 2]))
    with pytest.raises(ValueError):
        nn.MSELoss()(hl.ones((0, 2)), hl.ones((0, 2)))
    with pytest.raises(ValueError):
        loss(hl.ones((0, 2)), hl.zeros(0, dtype=np.int64))


def test_one_hot():
    assert F.one_hot(hl.tensor([1, 0])).tolist() == [[0, 1], [1, 0]]
    assert F.one_hot(hl.tensor([[1]]), 3).tolist() == [[[0, 1, 0]]]
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        F.one_hot(hl.tensor([2]), 2)


def test_training_gives_the_same_bits_for_any_threads():
    def train(threads):
        hl.set_num_threads(threads)
        hl.seed(7)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2),
            nn.Flatten(), nn.Linear(8 * 8 * 8, 10),
        )  # fmt: skip
        x, labels = hl.randn(64, 1, 16, 16), hl.randint(0, 10, (64,))
        for _ in range(3):
            net.zero_grad()
            nn.CrossEntropyLoss()(net(x), labels).backward()
            with hl.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.1 * parameter.grad
        return b"".join(parameter.data.tobytes() for parameter in net.parameters())

    before = hl.get_num_threads()
    try:
        assert len({train(threads) for threads in (1, 2, 3, 8)}) == 1
    finally:
        hl.set_num_threads(before)
