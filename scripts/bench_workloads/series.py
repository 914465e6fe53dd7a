"""(c) An lstm of two layers of 64 on a series of 5,000 steps: window 96, horizon 24, batch 64, Adam."""

import csv
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from bench_workloads.clock import run_dltrain
from bench_workloads.loops import findings, plain_loop

EPOCHS = 3
BATCH = 64
EVALUATION_BATCH = 256  # what dltrain takes too
WINDOW, HORIZON = 96, 24
_VAL_STARTS, _TEST_STARTS = 3600, 4000  # rows: dltrain's own parts of 5,000


def dltrain(series: str, device: str, **_: Any) -> dict[str, Any]:
    overrides = ["dataset=series", f"dataset.path={series}", "dataset.target=value", f"dataset.batch_size={BATCH}"]
    overrides += [f"dataset.window={WINDOW}", f"dataset.horizon={HORIZON}", "model.num_layers=2"]
    overrides += ["model=lstm", "model.hidden_size=64", "optim=adam", "optim.lr=0.001", f"trainer.epochs={EPOCHS}"]
    return {**run_dltrain([*overrides, f"device={device}"]), "cached_mb": 5000 * 4 / 1e6}


def plain(series: str, device: str, **_: Any) -> dict[str, Any]:
    """The usual loop over a Dataset that cuts each window out of the series when it is asked for."""
    values = _standardised(series)
    train, val = Windows(values[:_VAL_STARTS]), Windows(values[_VAL_STARTS - WINDOW : _TEST_STARTS])
    return _fit(train, val, device)


def precomputed(series: str, device: str, **_: Any) -> dict[str, Any]:
    """The usual loop over windows that were all cut before, a copy of the series for each step of a window."""
    values = _standardised(series)
    parts = []
    for rows in (values[:_VAL_STARTS], values[_VAL_STARTS - WINDOW : _TEST_STARTS]):
        windows = rows.unfold(0, WINDOW + HORIZON, 1)
        inputs = windows[:, :WINDOW].unsqueeze(2).contiguous()
        parts.append(TensorDataset(inputs, windows[:, WINDOW:].contiguous()))
    return _fit(*parts, device)


class Windows(Dataset):
    """Windows of a series and the steps that follow each of them."""

    def __init__(self, values: Tensor):
        self.values = values

    def __len__(self) -> int:
        return len(self.values) - WINDOW - HORIZON + 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        end = index + WINDOW
        return self.values[index:end].unsqueeze(1), self.values[end : end + HORIZON]


def _fit(train: Dataset, val: Dataset, device: str) -> dict[str, Any]:
    from dltrain.models import LSTM

    torch.manual_seed(1)
    model = LSTM((WINDOW, 1), HORIZON, hidden_size=64, num_layers=2).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    train_loader = DataLoader(train, batch_size=BATCH, shuffle=True)
    val_loader = DataLoader(val, batch_size=EVALUATION_BATCH)
    began = time.perf_counter()
    ends, val_loss = plain_loop(model, nn.MSELoss(), optimizer, train_loader, val_loader, EPOCHS, device)
    return findings(began, ends, val_loss)


def _standardised(series: str) -> Tensor:
    with open(series, newline="", encoding="utf-8") as file:
        values = np.array([float(row["value"]) for row in csv.DictReader(file)])
    known = values[:_VAL_STARTS]
    return torch.from_numpy(((values - known.mean()) / known.std()).astype(np.float32))
