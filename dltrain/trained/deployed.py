"""A trained network as one module that takes raw inputs, as export writes it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dltrain import __version__, losses
from dltrain.data.base import Facts
from dltrain.trained.loaded import Loaded, original


class Deployed(nn.Module):
    """Preprocessing, network, and what makes its outputs readable.

    ``forward`` takes tensors with the batch in front, in the order of ``input_names``:

    - ``images`` (batch, channels, height, width) uint8,
    - ``numbers`` (batch, numeric columns) float64 in their units, NaN where a value is missing, and
      ``categories`` (batch, categorical columns) int64: the index of a value in the list of its column, or the
      length of the list for any other value (a table without columns of one kind has no such input),
    - ``series`` (batch, steps, features) float64 in their units,
    - ``inputs`` (batch, *input_shape) float32 as the model reads them, where the data set stored no preprocessing.

    It returns ``probabilities`` (batch, classes) float32, or ``values`` (batch, num_outputs) float64 in the target's
    units, and then ``outputs`` (batch, num_outputs) float32: the logits or standardised values that the network gave.
    """

    def __init__(self, loaded: Loaded):
        super().__init__()
        self.facts = loaded.facts
        self.features, self.input_names = _features(loaded)
        self.model = loaded.model
        self.predictions = partial(losses.predictions, loaded.loss, task=self.facts.task)
        self.output_names = ["probabilities" if self.facts.task == "classification" else "values", "outputs"]

    def forward(self, *raw: Tensor) -> tuple[Tensor, Tensor]:
        outputs: Tensor = self.model(self.features(*raw))
        # Probabilities in float32, unlike those of the verbs: runtimes on small devices have nothing else.
        predicted = self.predictions(outputs)
        return original(predicted, self.facts) if self.facts.task == "regression" else predicted, outputs


class TableFeatures(nn.Module):
    """The features of :class:`~dltrain.data.tables.encoder.TableEncoder` (batch, features) float32, from ``numbers``
    and ``categories`` as :class:`Deployed` takes them."""

    mean: Tensor
    std: Tensor
    places: Tensor

    def __init__(self, numeric: Mapping[str, Mapping[str, float]], categorical: Mapping[str, Sequence[str]]):
        super().__init__()
        columns = list(numeric.values())
        self.register_buffer("mean", torch.tensor([column["mean"] for column in columns], dtype=torch.float64))
        self.register_buffer("std", torch.tensor([column["std"] for column in columns], dtype=torch.float64))
        places: list[int] = []  # of the features among all values and then all flags
        for place, column in enumerate(columns):
            places += [place, len(columns) + place] if column["missing"] else [place]
        self.register_buffer("places", torch.tensor(places, dtype=torch.int64))
        self.sizes = [len(values) + 1 for values in categorical.values()]
        for number, size in enumerate(self.sizes):
            self.register_buffer(f"codes{number}", torch.arange(size))

    def forward(self, *raw: Tensor) -> Tensor:
        inputs = list(raw)
        features: list[Tensor] = []
        if len(self.mean):
            numbers = inputs.pop(0)
            missing = numbers.isnan()
            scaled = torch.where(missing, 0.0, (numbers - self.mean) / self.std)
            columns = torch.cat((scaled.float(), missing.float()), 1)
            features.append(columns.index_select(1, self.places))
        for number in range(len(self.sizes)):
            codes = inputs[0][:, number : number + 1]
            features.append((codes == getattr(self, f"codes{number}")).float())
        return torch.cat(features, 1)


class SeriesFeatures(nn.Module):
    """A series standardised in each of its columns, float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64))

    def forward(self, series: Tensor) -> Tensor:
        return ((series - self.mean) / self.std).float()


def _features(loaded: Loaded) -> tuple[nn.Module, list[str]]:
    """The module that turns raw inputs into the model's, and the names of the raw inputs."""
    kind, stored = loaded.facts.kind, loaded.fitted.preprocessing
    if not stored:
        return nn.Identity(), ["inputs"]
    if kind == "image":
        return loaded.transform, ["images"]
    if kind == "series":
        return SeriesFeatures(stored["mean"], stored["std"]), ["series"]
    names = {"numbers": stored["numeric"], "categories": stored["categorical"]}
    return TableFeatures(stored["numeric"], stored["categorical"]), [name for name, columns in names.items() if columns]


def describe(loaded: Loaded) -> dict[str, Any]:
    """What is needed to run an exported network, in plain types."""
    deployed = Deployed(loaded)
    return {
        "dltrain": __version__,
        "epoch": loaded.epoch,
        **asdict(loaded.facts),
        "inputs": deployed.input_names,
        "outputs": deployed.output_names,
        "preprocessing": loaded.fitted.preprocessing,
    }


def made_up(facts: Facts, stored: Mapping[str, Any], count: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """``count`` raw samples as :class:`Deployed` takes them, and as the run's preprocessing returns them.

    The second is (count, *input_shape) float32; of images, whose preprocessing is the same in both, it is raw.
    """
    draw = torch.Generator().manual_seed(count)
    if not stored:
        inputs = torch.randn(count, *facts.input_shape, generator=draw)
        return (inputs,), inputs
    if facts.kind == "image":
        images = torch.randint(stored["levels"] + 1, (count, *facts.input_shape), generator=draw).to(torch.uint8)
        return (images,), images
    if facts.kind == "series":
        noise = torch.randn(count, *facts.input_shape, generator=draw, dtype=torch.float64).numpy()
        values = noise * stored["std"] + stored["mean"]
        scaled = (values - stored["mean"]) / stored["std"]
        return (torch.from_numpy(values),), torch.from_numpy(scaled).float()
    return _made_up_rows(stored, count, draw)


def _made_up_rows(stored: Mapping[str, Any], count: int, draw: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
    import polars as pl

    from dltrain.data.tables.encoder import TableEncoder

    numeric, categorical = stored["numeric"], stored["categorical"]
    frame: dict[str, Any] = {}
    numbers = torch.randn(count, len(numeric), generator=draw, dtype=torch.float64)
    for place, (name, column) in enumerate(numeric.items()):
        numbers[:, place] = numbers[:, place] * column["std"] + column["mean"]
        if column["missing"]:
            numbers[torch.rand(count, generator=draw) < 0.3, place] = torch.nan
        frame[name] = pl.Series(numbers[:, place].numpy(), dtype=pl.Float64).fill_nan(None)
    codes = torch.empty(count, len(categorical), dtype=torch.int64)
    for place, (name, values) in enumerate(categorical.items()):
        codes[:, place] = torch.randint(len(values) + 1, (count,), generator=draw)
        frame[name] = pl.Series([[*values, None][code] for code in codes[:, place].tolist()], dtype=pl.String)
    raw = tuple(part for part in (numbers, codes) if part.shape[1])
    return raw, TableEncoder.of(stored).encode(pl.DataFrame(frame))
