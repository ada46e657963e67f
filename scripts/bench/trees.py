"""Folders to measure with, the same on every machine: their bytes are random from a seed, so nothing compresses and nothing repeats."""

from __future__ import annotations

import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PIECE = 8 << 20


@dataclass(frozen=True, slots=True)
class Files:
    """A tree of `count` files of `size` bytes, `per_folder` in each folder."""

    top: Path
    count: int
    size: int
    per_folder: int = 1000

    def path(self, number: int) -> Path:
        """Where a file lies."""
        return self.top / f"d{number // self.per_folder:04d}" / f"f{number % self.per_folder:04d}.bin"

    def make(self) -> None:
        """Write all of it; afterwards it is in the page cache, and durable."""
        print(f"making {self.count} files of {self.size} bytes", flush=True)
        for first in range(0, self.count, self.per_folder):
            self.path(first).parent.mkdir(parents=True)
        for number in range(self.count):
            self.write(number)
        subprocess.run(["sync", "--file-system", str(self.top)], check=True)

    def write(self, number: int, generation: int = 0) -> None:
        """Give a file the content that it has in a generation."""
        numbers = random.Random(f"{number}/{generation}")
        with self.path(number).open("wb") as file:
            for start in range(0, self.size, _PIECE):
                file.write(numbers.randbytes(min(_PIECE, self.size - start)))

    def change(self, generation: int) -> None:
        """New content for one file of a hundred, scattered, others in each generation."""
        for number in self._changed(generation):
            self.write(number, generation)

    def undo(self, generation: int) -> None:
        """Their first content again."""
        for number in self._changed(generation):
            self.write(number)

    def _changed(self, generation: int) -> range:
        return range(generation % min(100, self.count), self.count, 100)


def change_models(models: Files) -> None:
    """The second version of large files: one replaced, 1 % of one overwritten in place, 1,000 bytes inserted at the front of one."""
    models.write(0, 1)
    numbers = random.Random("overwritten")
    with models.path(1).open("r+b") as file:
        file.seek(models.size // 3)
        file.write(numbers.randbytes(models.size // 100))
    path = models.path(2)
    content = path.read_bytes()
    path.write_bytes(numbers.randbytes(1000) + content)
    subprocess.run(["sync", "--file-system", str(models.top)], check=True)


def warm(top: Path) -> None:
    """Bring all files below a folder into the page cache."""
    buffer = bytearray(1 << 20)
    for folder, _, names in os.walk(top):
        for name in names:
            with open(os.path.join(folder, name), "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def fresh(path: Path) -> Path:
    """An empty folder there, whatever was there before."""
    subprocess.run(["rm", "-rf", str(path)], check=True)
    path.mkdir(parents=True)
    return path
