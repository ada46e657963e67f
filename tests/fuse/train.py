"""A training script as anybody writes one: it knows of a folder of images, one folder a class, and of nothing else.

python train.py FOLDER      # one epoch, read by two workers; prints how many images it read, and how many it knows then
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):  # type: ignore[misc]
    """The images below a folder, and the number of the folder that each lies in."""

    def __init__(self, folder: Path) -> None:
        self.classes = sorted(path.name for path in folder.iterdir())
        self.paths = sorted(folder.glob("*/*.png"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path = self.paths[index]
        with Image.open(path) as image:
            pixels = np.asarray(image, dtype=np.float32) / 255
        return torch.from_numpy(pixels.reshape(-1)), self.classes.index(path.parent.name)


def main() -> None:
    """Train, and say how it went."""
    torch.manual_seed(0)
    images = Images(Path(sys.argv[1]))
    loader = DataLoader(images, batch_size=16, shuffle=True, num_workers=2)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(images.classes)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    read = right = 0
    for pixels, labels in loader:
        guesses = model(pixels)
        read, right = read + len(labels), right + int((guesses.argmax(1) == labels).sum())
        optimizer.zero_grad()
        nn.functional.cross_entropy(guesses, labels).backward()
        optimizer.step()
    print(read, right)


if __name__ == "__main__":
    main()
