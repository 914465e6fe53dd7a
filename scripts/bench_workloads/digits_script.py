"""What someone would write by hand to get what ``dltrain`` leaves behind: usage: digits_script.py digits.npz"""

import csv
import json
import sys

import matplotlib
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EPOCHS = 20


def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def load(path):
    with np.load(path) as file:
        images = torch.from_numpy(file["images"]).float().unsqueeze(1)
        labels = torch.from_numpy(file["labels"]).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, val, test = order[503:], order[359:503], order[:359]
    images = (images - images[train].mean()) / images[train].std()
    return [TensorDataset(images[part], labels[part]) for part in (train, val, test)]


@torch.no_grad()
def evaluate(model, loader, loss_function):
    model.eval()
    loss, hits, count = 0.0, 0, 0
    for inputs, targets in loader:
        outputs = model(inputs)
        loss += loss_function(outputs, targets).item() * len(targets)
        hits += (outputs.argmax(1) == targets).sum().item()
        count += len(targets)
    return loss / count, hits / count


def train_epoch(model, loader, loss_function, optimizer):
    model.train()
    loss_sum, count = 0.0, 0
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = loss_function(model(inputs), targets)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * len(targets)
        count += len(targets)
    return loss_sum / count


def draw(rows):
    figure, axes = plt.subplots(1, 2, figsize=(9, 4))
    for panel, names in zip(axes, (("train/loss", "val/loss"), ("val/accuracy",)), strict=True):
        for name in names:
            panel.plot([row["epoch"] for row in rows], [row[name] for row in rows], label=name)
        panel.set_xlabel("epoch")
        panel.legend()
    figure.tight_layout()
    figure.savefig("curves.png")


def main():
    torch.manual_seed(1)
    train_set, val_set, test_set = load(sys.argv[1])
    train = DataLoader(train_set, batch_size=32, shuffle=True)
    val, test = (DataLoader(part, batch_size=256) for part in (val_set, test_set))
    model = make_model()
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    rows, best = [], float("inf")
    with open("metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "train/loss", "val/loss", "val/accuracy"])
        writer.writeheader()
        for epoch in range(1, EPOCHS + 1):
            train_loss = train_epoch(model, train, loss_function, optimizer)
            val_loss, val_accuracy = evaluate(model, val, loss_function)
            rows.append({"epoch": epoch, "train/loss": train_loss, "val/loss": val_loss, "val/accuracy": val_accuracy})
            writer.writerow(rows[-1])
            state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, "last.pt")
            if val_loss < best:
                best = val_loss
                torch.save(model.state_dict(), "best.pt")

    model.load_state_dict(torch.load("best.pt"))
    test_loss, test_accuracy = evaluate(model, test, loss_function)
    draw(rows)
    print(json.dumps({"best": best, "test": {"loss": test_loss, "accuracy": test_accuracy}}))


main()
