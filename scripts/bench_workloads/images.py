"""(a) LeNet on a folder of 50,000 JPEG files: batch 64, SGD with lr 0.01 and momentum 0.9."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench_workloads.clock import run_dltrain
from bench_workloads.loops import findings, plain_loop

EPOCHS = 3
BATCH = 64
EVALUATION_BATCH = 256  # what dltrain takes too
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_PROBED = 10_000  # images of an epoch that the number of workers is chosen by


def dltrain(folder: str, device: str, cache: str, epochs: int = EPOCHS, **_: Any) -> dict[str, Any]:
    """dltrain with its decoded images in the folder ``cache``."""
    os.environ["DLTRAIN_CACHE"] = cache
    overrides = ["dataset=image_folder", f"dataset.root={folder}", f"dataset.batch_size={BATCH}", "model=lenet"]
    overrides += ["optim=sgd", "optim.lr=0.01", "optim.momentum=0.9", f"trainer.epochs={epochs}", f"device={device}"]
    found = run_dltrain(overrides)
    return {**found, "cached_mb": sum(path.stat().st_size for path in Path(cache).glob("*.npy")) / 1e6}


def dltrain_first(folder: str, device: str, **_: Any) -> dict[str, Any]:
    """dltrain's first run on a folder: nothing is decoded yet."""
    with tempfile.TemporaryDirectory() as cache:
        return dltrain(folder, device, cache, epochs=1)


def usual(folder: str, device: str, workers: int, **_: Any) -> dict[str, Any]:
    """The usual loop: ImageFolder, ToTensor, Normalize, DataLoader, torch's own defaults for SGD."""
    from torchvision import datasets, transforms

    torch.manual_seed(1)
    began = time.perf_counter()
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)])
    images = datasets.ImageFolder(f"{folder}/train", transform)
    kept, held = _split(images.targets)
    train, val = _loaders(images, kept, held, workers, device)
    model = _lenet(len(images.classes)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    ends, val_loss = plain_loop(model, nn.CrossEntropyLoss(), optimizer, train, val, EPOCHS, device)
    return findings(began, ends, val_loss)


def usual_probe(folder: str, device: str, workers: int, **_: Any) -> dict[str, Any]:
    """Seconds to read an epoch of a part of the images and train on it, once the workers have started."""
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)])
    images = datasets.ImageFolder(f"{folder}/train", transform)
    picks = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:_PROBED]
    train, val = _loaders(images, picks, picks[:EVALUATION_BATCH], workers, device)
    model = _lenet(len(images.classes)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    ends, val_loss = plain_loop(model, nn.CrossEntropyLoss(), optimizer, train, val, 2, device)
    return findings(ends[0], ends[1:], val_loss)


def in_memory(folder: str, device: str, decoded: str, **_: Any) -> dict[str, Any]:
    """The limit: decoded uint8 tensors, batches by index, normalised a batch at a time, fused SGD."""
    images, labels = (part.to(device) for part in _decoded(folder, decoded))
    mean, std = (255 * torch.tensor(values, device=device).view(3, 1, 1) for values in (_MEAN, _STD))
    kept, held = (part.to(device) for part in _split(labels.tolist()))
    torch.manual_seed(1)
    model = _lenet(int(labels.max()) + 1).to(device)
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)

    began, ends = time.perf_counter(), []
    for _epoch in range(EPOCHS):
        model.train()
        order = kept[torch.randperm(len(kept), device=device)]
        for picks in order.split(BATCH):
            optimizer.zero_grad()
            loss = loss_function(model((images[picks].float() - mean) / std), labels[picks])
            loss.backward()
            optimizer.step()
        model.eval()
        total = torch.zeros((), device=device)
        with torch.no_grad():
            for picks in held.split(EVALUATION_BATCH):
                outputs = model((images[picks].float() - mean) / std)
                total += loss_function(outputs, labels[picks]) * len(picks)
        val_loss = float(total) / len(held)
        ends.append(time.perf_counter())
    return findings(began, ends, val_loss)


def _loaders(images: Any, kept: Tensor, held: Tensor, workers: int, device: str) -> tuple[Any, Any]:
    from torch.utils.data import DataLoader, Subset

    options = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": device == "cuda"}
    train = DataLoader(Subset(images, kept.tolist()), batch_size=BATCH, shuffle=True, **options)
    return train, DataLoader(Subset(images, held.tolist()), batch_size=EVALUATION_BATCH, **options)


def _lenet(classes: int) -> nn.Module:
    from dltrain.models import LeNet

    return LeNet((3, 32, 32), classes)


def _split(labels: list[int]) -> tuple[Tensor, Tensor]:
    """The images for training and for validation: dltrain's own split, so that all rivals see the same."""
    from dltrain.data.splits import Shuffled, Split

    parts = Split(val_fraction=0.1).parts({"train": Shuffled.of(len(labels), torch.tensor(labels))})
    return parts["train"].indices, parts["val"].indices


def _decoded(folder: str, decoded: str) -> tuple[Tensor, Tensor]:
    """All training images and their labels, decoded on the first call; the clock stands still meanwhile."""
    if not Path(decoded).exists():
        from torch.utils.data import DataLoader
        from torchvision import datasets, transforms

        files = datasets.ImageFolder(f"{folder}/train", transforms.PILToTensor())
        batches = list(DataLoader(files, batch_size=1000, num_workers=os.cpu_count() or 1))
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        torch.save({"images": images, "labels": labels}, decoded)
    content = torch.load(decoded)
    return content["images"], content["labels"]
