"""Every network against torch's own layers with the same weights, and what each of them can be trained on."""

import functools
import inspect
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
import yaml
from conftest import CONF, options
from hydra.utils import get_class, get_method
from made import write_images
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dltrain.build.make import make
from dltrain.build.network import unfetched, warn_of_weights
from dltrain.errors import DataError, MismatchError
from dltrain.losses import require_fitting
from dltrain.models import CNN, GRU, LSTM, MLP, RNN, LeNet, resnet18
from dltrain.models.layers import ACTIVATIONS
from dltrain.runs.checkpoint import load

SHAPES = {"table": (6,), "series": (5, 3), "image": (2, 16, 16)}


def from_conf(model: str, shape: Sequence[int], num_outputs: int) -> nn.Module:
    """An option of the group with its own defaults, for data of these facts."""
    facts = {"input_shape": list(shape), "num_outputs": num_outputs}
    cfg = OmegaConf.create({"data": facts, "model": OmegaConf.load(CONF / "model" / f"{model}.yaml")})
    return make(cfg, "model")


def loss_from_conf(name: str, task: str) -> nn.Module:
    node = OmegaConf.load(CONF / "loss" / f"{name}.yaml")
    return make(OmegaConf.create({"data": {"task": task}, "loss": node}), "loss")


@pytest.fixture(autouse=True)
def seeded_on_one_thread() -> Iterator[None]:
    """Networks as small as these wait longer for a second thread, on a busy machine, than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def with_weights_of(model: nn.Module, twin: nn.Module) -> nn.Module:
    """``twin`` with the weights of ``model`` in their order; fails unless their shapes are the same."""
    twin.load_state_dict(dict(zip(twin.state_dict(), model.state_dict().values(), strict=True)))
    return twin


def assert_equal_outputs(model: nn.Module, twin: nn.Module, inputs: Tensor) -> None:
    """In training first, with the same draws of dropout, then in evaluation with the statistics that were kept."""
    for training in (True, False):
        outputs = []
        for network in (model.train(training), twin.train(training)):
            torch.manual_seed(11)
            outputs.append(network(inputs))
        assert torch.equal(*outputs)


# The classic network, and the knobs of the convolutional one.


class ClassicNet(nn.Module):
    """As PyTorch's tutorial "Training a Classifier" writes it."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def test_lenet_has_the_weights_of_the_classic_network_by_name_and_shape():
    shapes = [
        {name: weight.shape for name, weight in network.state_dict().items()}
        for network in (LeNet((3, 32, 32), 10), ClassicNet())
    ]
    assert shapes[0] == shapes[1]


def test_lenet_draws_the_same_initial_weights_and_computes_the_same_bit_for_bit():
    networks = []
    for make_network in (lambda: LeNet((3, 32, 32), 10), ClassicNet):
        torch.manual_seed(0)
        networks.append(make_network())
    assert_equal_outputs(*networks, torch.randn(4, 3, 32, 32))


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 28, 17), (3, 224, 64)])
def test_lenet_takes_any_images_of_at_least_16_pixels(shape):
    assert LeNet(shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("shape", [(3, 15, 32), (3, 32, 15)])
def test_lenet_refuses_smaller_images_and_names_what_takes_them(shape):
    with pytest.raises(MismatchError, match=r"16×16.*model=cnn"):
        LeNet(shape, 10)


# For images of 2 × 9 × 9, one block of 4 channels without batch norm: the knobs, and the layers they stand for.
KNOBS: dict[str, tuple[dict[str, Any], list[nn.Module]]] = {
    "plain": (
        {},
        [nn.Conv2d(2, 4, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)],
    ),
    "two blocks": (
        {"channels": [4, 5]},
        [
            nn.Conv2d(2, 4, 3, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(20, 3),
        ],
    ),
    "no block": ({"channels": []}, [nn.Flatten(), nn.Linear(162, 3)]),
    "kernel size": (
        {"kernel_size": 5},
        [nn.Conv2d(2, 4, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)],
    ),
    "padding": (
        {"padding": 2},
        [nn.Conv2d(2, 4, 3, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 3)],
    ),
    "no padding": (
        {"padding": "valid"},
        [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)],
    ),
    "stride": (
        {"stride": 2, "padding": 1},
        [nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)],
    ),
    "average pool": (
        {"pool": "average"},
        [nn.Conv2d(2, 4, 3, padding="same"), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 3)],
    ),
    "no pool": (
        {"pool": "none"},
        [nn.Conv2d(2, 4, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(324, 3)],
    ),
    "max pool's own knobs": (
        {"pool_kernel_size": 4, "pool_stride": 3, "pool_padding": 1, "pool_ceil_mode": True},
        [
            nn.Conv2d(2, 4, 3, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(4, 3, 1, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(64, 3),
        ],
    ),
    "average pool's own knobs": (
        {"pool": "average", "pool_kernel_size": 4, "pool_stride": 3, "pool_padding": 1, "pool_ceil_mode": True},
        [
            nn.Conv2d(2, 4, 3, padding="same"),
            nn.ReLU(),
            nn.AvgPool2d(4, 3, 1, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(64, 3),
        ],
    ),
    "batch norm": (
        {"batch_norm": True, "hidden_sizes": [7]},
        [
            nn.Conv2d(2, 4, 3, padding="same", bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 7),
            nn.BatchNorm1d(7),
            nn.ReLU(),
            nn.Linear(7, 3),
        ],
    ),
    "hidden layers": (
        {"hidden_sizes": [7, 5], "activation": "sigmoid"},
        [
            nn.Conv2d(2, 4, 3, padding="same"),
            nn.Sigmoid(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 7),
            nn.Sigmoid(),
            nn.Linear(7, 5),
            nn.Sigmoid(),
            nn.Linear(5, 3),
        ],
    ),
    "dropout": (
        {"dropout": 0.4, "hidden_sizes": [7], "activation": "tanh"},
        [
            nn.Conv2d(2, 4, 3, padding="same"),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.4),
            nn.Flatten(),
            nn.Linear(64, 7),
            nn.Tanh(),
            nn.Dropout(0.4),
            nn.Linear(7, 3),
        ],
    ),
}


@pytest.mark.parametrize("knob", KNOBS)
def test_cnn_equals_torchs_layers_one_after_the_other(knob):
    knobs, layers = KNOBS[knob]
    model = CNN((2, 9, 9), 3, **({"channels": [4], "batch_norm": False} | knobs))
    inputs = torch.randn(6, 2, 9, 9)
    twin = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    assert_equal_outputs(model, with_weights_of(model, twin), inputs)


def test_sizing_a_cnn_leaves_its_statistics_untouched_and_its_mode_training():
    model = CNN((1, 8, 8), 10)
    assert all(module.training for module in model.modules())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [int(norm.num_batches_tracked) for norm in norms] == [0, 0]
    assert all(torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean)) for norm in norms)


def test_a_cnn_of_too_many_blocks_names_the_block_and_the_knobs():
    with pytest.raises(MismatchError, match=r"block 4 of 5 fails on 1×1 pixels.*8×8.*model\.channels"):
        CNN((1, 8, 8), 10, channels=[4] * 5)


@pytest.mark.parametrize(("name", "kind"), ACTIVATIONS.items(), ids=ACTIVATIONS)
def test_an_activation_is_torchs_module_of_that_name(name, kind):
    assert kind.__name__.lower() == name.replace("_", "")
    assert type(MLP((3,), 2, hidden_sizes=[4], activation=name).layers[2]) is kind


# The others.


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)], ids=str)
def test_mlp_equals_torchs_layers_on_whatever_is_flattened(shape):
    model = MLP(shape, 3, hidden_sizes=[5, 4], activation="elu", batch_norm=True, dropout=0.3)
    hidden = [[nn.Linear(a, b), nn.BatchNorm1d(b), nn.ELU(), nn.Dropout(0.3)] for a, b in ((6, 5), (5, 4))]
    twin = nn.Sequential(nn.Flatten(), *hidden[0], *hidden[1], nn.Linear(4, 3))
    assert_equal_outputs(model, with_weights_of(model, twin), torch.randn(8, *shape))


def test_mlp_without_hidden_layers_is_linear():
    model = MLP((4,), 2, hidden_sizes=[])
    assert_equal_outputs(model, with_weights_of(model, nn.Linear(4, 2)), torch.randn(3, 4))


RECURRENT = [(RNN, nn.RNN), (LSTM, nn.LSTM), (GRU, nn.GRU)]


class TorchRecurrent(nn.Module):
    """torch's layer and a linear one; the last step of each direction is the one that it reaches last."""

    def __init__(self, layer: type[nn.RNNBase], readout: str, bidirectional: bool, **options: Any):
        super().__init__()
        self.layer = layer(3, 4, batch_first=True, bidirectional=bidirectional, **options)
        self.linear = nn.Linear(8 if bidirectional else 4, 2)
        self.readout = readout

    def forward(self, inputs: Tensor) -> Tensor:
        steps, _ = self.layer(inputs)
        forwards, backwards = steps[:, -1, :4], steps[:, 0, 4:]
        read = {"mean": steps.mean(1), "max": steps.max(1).values, "last": torch.cat((forwards, backwards), 1)}
        return self.linear(read[self.readout])


@pytest.mark.parametrize("readout", ["last", "mean", "max"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "bidirectional"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(("ours", "theirs"), RECURRENT, ids=["rnn", "lstm", "gru"])
def test_recurrent_networks_equal_torchs_own(ours, theirs, num_layers, bidirectional, readout):
    model = ours((7, 3), 2, hidden_size=4, num_layers=num_layers, bidirectional=bidirectional, readout=readout)
    twin = with_weights_of(model, TorchRecurrent(theirs, readout, bidirectional, num_layers=num_layers))
    assert_equal_outputs(model, twin, torch.randn(5, 7, 3))


def test_the_nonlinearity_of_an_rnn_is_torchs():
    model = RNN((7, 3), 2, hidden_size=4, nonlinearity="relu")
    twin = with_weights_of(model, TorchRecurrent(nn.RNN, "last", False, nonlinearity="relu"))
    assert_equal_outputs(model, twin, torch.randn(5, 7, 3))


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_an_image_is_the_series_of_its_rows_from_the_top(kind):
    model = kind((2, 6, 5), 3, hidden_size=4)
    series = with_weights_of(model, kind((6, 10), 3, hidden_size=4))
    images = torch.randn(4, 2, 6, 5)
    rows = torch.stack([images[:, :, row, :].flatten(1) for row in range(6)], 1)
    assert torch.equal(model(images), series(rows))


def test_recurrent_dropout_is_between_layers_behind_what_is_read_and_in_the_head():
    model = LSTM((7, 3), 2, hidden_size=4, num_layers=2, dropout=0.5, hidden_sizes=[6], activation="tanh")
    layer = nn.LSTM(3, 4, 2, batch_first=True, dropout=0.5)
    head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2))

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([layer, head])

        def forward(self, inputs):
            return head(layer(inputs)[1][0][-1])

    assert_equal_outputs(model, with_weights_of(model, Twin()), torch.randn(5, 7, 3))


def torchvision_resnet(num_outputs: int) -> nn.Module:
    from torchvision.models import resnet18 as made

    return made(num_classes=num_outputs)


def test_resnet18_on_large_images_is_torchvisions():
    model = resnet18((3, 64, 64), 5)
    assert_equal_outputs(model, with_weights_of(model, torchvision_resnet(5)), torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize(("shape", "small_images"), [((1, 8, 8), None), ((3, 64, 64), True)], ids=str)
def test_resnet18_on_small_images_starts_with_a_3_by_3_convolution_and_no_pool(shape, small_images):
    model = resnet18(shape, 5, small_images=small_images)
    twin = torchvision_resnet(5)
    twin.conv1, twin.maxpool = nn.Conv2d(shape[0], 64, 3, 1, 1, bias=False), nn.Identity()
    assert_equal_outputs(model, with_weights_of(model, twin), torch.randn(2, *shape))


def test_resnet18_reads_other_channels_and_keeps_the_large_start_when_told_so():
    model = resnet18((1, 32, 32), 5, small_images=False)
    twin = torchvision_resnet(5)
    twin.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    assert_equal_outputs(model, with_weights_of(model, twin), torch.randn(2, 1, 32, 32))


def test_resnet18_with_weights_changes_the_output_layer_alone(monkeypatch):
    pretrained = torchvision_resnet(1000)
    kept = {name: weight.clone() for name, weight in pretrained.state_dict().items() if not name.startswith("fc.")}
    monkeypatch.setattr("torchvision.models.resnet18", lambda weights: pretrained)
    state = resnet18((3, 32, 32), 5, weights="IMAGENET1K_V1").state_dict()
    assert state.pop("fc.weight").shape == (5, 512)
    assert state.pop("fc.bias").shape == (5,)
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[name], weight) for name, weight in kept.items())


@pytest.mark.parametrize(
    ("channels", "weights", "error", "message"),
    [
        (1, "IMAGENET1K_V1", MismatchError, "3 channels, not 1"),
        (3, "IMAGENET1K_V1", DataError, "neither downloaded nor read: no route"),
    ],
    ids=["channels", "offline"],
)
def test_resnet18_says_what_is_wrong_with_its_weights(channels, weights, error, message, monkeypatch):
    def offline(weights):
        raise OSError("no route")

    monkeypatch.setattr("torchvision.models.resnet18", offline)
    with pytest.raises(error, match=message):
        resnet18((channels, 32, 32), 5, weights=weights)


@pytest.fixture
def served(monkeypatch):
    """Pre-trained weights that come from nowhere else; ``served.fail()`` has any further fetch fail the test."""
    state = torchvision_resnet(1000).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)

    def fail():
        def fetch(*_, **__):
            pytest.fail("weights were fetched again")

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)

    return SimpleNamespace(state=state, fail=fail)


def test_weights_are_fetched_when_a_run_begins_and_never_again(dltrain, verb, tmp_path, served):
    write_images(tmp_path / "photos", count=6)
    run = dltrain(
        *("dataset=image_folder", "dataset.root=photos", "dataset.image_size=32", "model=resnet18"),
        *("model.weights=IMAGENET1K_V1", "trainer.epochs=1", "optim.lr=0"),
    )
    assert "model.weights=IMAGENET1K_V1: they were trained on images of 224 × 224, scaled by ImageNet's" in run.stderr
    assert "these are 32 × 32, scaled by those of your training images" in run.stderr
    assert run.stderr.count("dataset.image_size=224") == 1
    kept = load(run.folder / "checkpoints" / "best.pt")["model"]
    assert torch.equal(kept["conv1.weight"], served.state["conv1.weight"])
    served.fail()
    path = str(run.folder)
    assert verb("evaluate", path).result["metrics"] == run.result["test"]
    for words in (
        ("predict", path, "photos", "out=p.csv"),
        ("report", path),
        ("export", path, "format=state_dict"),
        ("resume", path, "trainer.epochs=2"),
    ):
        outcome = verb(*words)
        assert outcome.code == 0, outcome.stderr
        assert "image_size=224" not in outcome.stderr
    assert load(run.folder / "checkpoints" / "last.pt")["trainer"]["epoch"] == 2
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["model"]["weights"] == "IMAGENET1K_V1"


@pytest.mark.parametrize(
    "node",
    [
        {"weights": "IMAGENET1K_V1"},
        {"_target_": "torch.nn.Sequential", "_args_": [{"weights": "IMAGENET1K_V1"}]},
        {"_target_": "torchvision.models.segmentation.fcn_resnet50"},
    ],
    ids=str,
)
def test_networks_made_without_fetching_load_weights_afterwards(served, node):
    served.fail()
    with unfetched(node):
        model = torchvision.models.resnet18(weights="IMAGENET1K_V1")
    assert model.load_state_dict(served.state).missing_keys == []
    assert torch.equal(model.state_dict()["conv1.weight"], served.state["conv1.weight"])
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})
    with pytest.raises(pytest.fail.Exception, match="fetched again"):
        torchvision.models.resnet18(weights="IMAGENET1K_V1")


def test_images_as_large_as_those_of_the_weights_are_not_warned_of(caplog):
    node = {"_target_": "dltrain.models.resnet18", "weights": "IMAGENET1K_V1"}
    warn_of_weights(node, (3, 224, 224), {"image_size": 224})
    warn_of_weights({**node, "weights": None}, (3, 32, 32), {"image_size": 32})
    warn_of_weights({**node, "_target_": "mine.Network"}, (3, 32, 32), {"image_size": 32})
    assert caplog.text == ""
    warn_of_weights(node, (3, 64, 32), {})
    assert "dataset=image_folder or shards with dataset.image_size=224" in caplog.text


# Every option, by listing the groups.


@functools.cache
def takes(model: str, shape: Sequence[int]) -> bool:
    try:
        from_conf(model, shape, 3)
    except MismatchError:
        return False
    return True


@pytest.mark.parametrize("kind", SHAPES)
def test_a_model_that_does_not_fit_names_exactly_those_that_do(kind):
    fitting = {name for name in options("model") if takes(name, SHAPES[kind])}
    assert fitting
    for name in set(options("model")) - fitting:
        with pytest.raises(MismatchError, match=rf"model={name} takes .*{kind}") as caught:
            from_conf(name, SHAPES[kind], 3)
        assert set(str(caught.value).rpartition("models that fit: ")[2].split(", ")) == fitting


@pytest.mark.parametrize("name", options("model"))
def test_the_keys_of_a_model_are_its_constructors_arguments_with_the_same_defaults(name):
    node = OmegaConf.load(CONF / "model" / f"{name}.yaml")
    assert isinstance(node, DictConfig)
    target = node.pop("_target_")
    locate = get_class if target.rpartition(".")[2][0].isupper() else get_method
    parameters = inspect.signature(locate(target)).parameters
    raw = OmegaConf.to_container(node, resolve=False)
    defaults = {
        key: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for key, parameter in parameters.items()
        if parameter.default is not parameter.empty
    }
    facts = {"input_shape": "${data.input_shape}", "num_outputs": "${data.num_outputs}"}
    passed_on = {"nonlinearity": "tanh"} if name == "rnn" else {}
    assert raw == facts | defaults | passed_on


def fits(loss: str, task: str) -> bool:
    try:
        require_fitting(loss_from_conf(loss, task), task)
    except MismatchError:
        return False
    return True


FITTING = [(loss, task) for loss in options("loss") for task in ("classification", "regression") if fits(loss, task)]


@pytest.mark.parametrize(("loss_name", "task"), FITTING, ids=str)
@pytest.mark.parametrize("name", options("model"))
def test_every_model_overfits_one_batch_with_every_fitting_loss(name, loss_name, task):
    shapes = [shape for shape in SHAPES.values() if takes(name, shape)]
    assert shapes
    for shape in shapes:
        model, loss = from_conf(name, shape, 3), loss_from_conf(loss_name, task)
        inputs = torch.randn(6, *shape)
        targets = torch.arange(6) % 3 if task == "classification" else torch.randn(6, 3)
        assert overfits(model, loss, inputs, targets), shape


def overfits(model: nn.Module, loss: nn.Module, inputs: Tensor, targets: Tensor) -> bool:
    """Whether the loss falls below a fifth of its first value within so many steps."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    # The gradient of the absolute error stays as large as it is, so the steps have to become smaller.
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    values: list[float] = []
    while len(values) < 300 and (not values or values[-1] > values[0] / 5):
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        optimizer.step()
        schedule.step()
        values.append(value.item())
    return values[-1] <= values[0] / 5
