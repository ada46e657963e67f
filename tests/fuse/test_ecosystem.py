"""pandas, pyarrow, datasets, PyTorch, safetensors over a mount, and by URL where they take one; and the examples of docs/ecosystem.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fuse.mounts import Mount, Project, mounted

pytestmark = pytest.mark.needs_fuse

ROOT = Path(__file__).parent.parent.parent
_SECONDS = 110


@dataclass(frozen=True)
class World:
    """What was made: `staging`, and `animals:v0` of it, with 100 digits as images; `digits:v0` has all. The mount is `mnt` in the home."""

    mount: Mount
    staging: Path

    @property
    def options(self) -> dict[str, str]:
        """What leads a library there."""
        return {"project": self.mount.project.url, "cache": str(self.mount.project.root / "cache/artifactmount")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Made once, as all that is done to it is reading."""
    root = tmp_path_factory.mktemp("ecosystem")
    project, staging = Project(root), root / "staging"
    make(staging)
    write_digits(staging / "train", 100)
    project.snapshot(staging, "animals")
    write_digits(root / "digits", None)
    project.snapshot(root / "digits", "digits")
    with pytest.MonkeyPatch.context() as patch, mounted(project, "home/mnt") as mount:
        for name, value in project.environment.items():
            patch.setenv(name, value)
        yield World(mount, staging)


def write_digits(folder: Path, limit: int | None) -> None:
    """Scikit-learn's digits as images, one folder a digit."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, digit) in enumerate(zip(digits.images[:limit], digits.target[:limit], strict=True)):
        path = folder / str(digit) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype(np.uint8)).save(path)


def make(folder: Path) -> None:
    """A table as CSV, Parquet and in parts; a model."""
    import pandas as pd
    from safetensors.numpy import save_file

    folder.mkdir()
    table = pd.DataFrame(
        {"legs": np.arange(3000) % 7, "kind": ["cat", "dog", "hen"] * 1000, "weight": np.random.default_rng(1).random(3000)}
    )
    table.to_csv(folder / "labels.csv", index=False)
    table.to_parquet(folder / "table.parquet")
    for kind, part in table.groupby("kind"):
        (folder / f"parts/kind={kind}").mkdir(parents=True)
        part.drop(columns="kind").to_parquet(folder / f"parts/kind={kind}/part.parquet")
    numbers = np.random.default_rng(2)
    weights = {"layer.weight": numbers.random((1000, 1000), dtype=np.float32), "layer.bias": numbers.random(1000, dtype=np.float32)}
    save_file(weights, folder / "model.safetensors")


def run(world: World, program: str | Path, *arguments: str, python: str = sys.executable) -> str:
    """What a program prints in the home of the user; it must succeed."""
    home = world.mount.project.root / "home"
    environment = world.mount.project.environment | {"HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [python, *(["-c", program] if isinstance(program, str) else [str(program)]), *arguments]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_pandas(world: World) -> None:
    import pandas as pd

    original = pd.read_csv(world.staging / "labels.csv")
    for name, read in (("labels.csv", pd.read_csv), ("table.parquet", pd.read_parquet)):
        url = read(f"artifactmount://animals:latest/{name}", storage_options=world.options)
        pd.testing.assert_frame_equal(url, original, check_dtype=False)
        pd.testing.assert_frame_equal(read(world.mount / f"animals/latest/{name}"), original, check_dtype=False)
    columns = pd.read_parquet("artifactmount://animals:v0/table.parquet", columns=["legs"], storage_options=world.options)
    assert columns["legs"].sum() == original["legs"].sum()


def test_pyarrow(world: World) -> None:
    import fsspec
    import pyarrow.dataset as ds

    files = fsspec.filesystem("artifactmount", **world.options)
    original = ds.dataset(world.staging / "parts", partitioning="hive")
    opened = [
        ds.dataset("animals:latest/parts", filesystem=files, partitioning="hive"),
        ds.dataset("animals/v0/parts", filesystem=files, partitioning="hive"),
        ds.dataset(world.mount / "animals/latest/parts", partitioning="hive"),
    ]
    for dataset in opened:
        assert dataset.to_table().equals(original.to_table())
        assert dataset.count_rows(filter=ds.field("kind") == "hen") == 1000


_DATASETS = """
import os, sys
import datasets
datasets.disable_progress_bars()
folder, url, project = sys.argv[1:]
def shown(images):
    return [len(images), images.features["label"].names, sorted((x["label"], sum(x["image"].getdata())) for x in images)]
found = shown(datasets.load_dataset("imagefolder", data_dir=folder, split="train"))
files = url + "/**/*.png"
stream = datasets.load_dataset("imagefolder", data_files=files, split="train", streaming=True, storage_options={"project": project})
assert sorted((x["label"], sum(x["image"].getdata())) for x in stream) == found[2]
print(found[0], *found[1])
try:
    datasets.load_dataset("imagefolder", data_files=files)
except Exception as error:
    print(type(error).__name__)
"""


def test_datasets(world: World) -> None:
    """`data_dir` is a folder or a name on the Hub to it, so a URL goes to `data_files`; offline it refuses what is not streamed."""
    folder = str(world.mount / "animals/latest/train")
    said = run(world, _DATASETS, folder, "artifactmount://animals:latest/train", world.mount.project.url)
    assert said.splitlines() == ["100 0 1 2 3 4 5 6 7 8 9", "OfflineModeIsEnabled"]


def python_with_torch() -> str | None:
    """An interpreter that has PyTorch: this one, or the system's."""
    find = "import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))"
    for python in (sys.executable, "/usr/bin/python3"):
        if Path(python).exists() and not subprocess.run([python, "-c", find, "torch", "PIL", "numpy"], check=False).returncode:
            return python
    return None


def test_pytorch_trains(world: World) -> None:
    python = python_with_torch()
    if python is None:
        pytest.skip("PyTorch is not installed (apt-get install python3-torch python3-pil python3-numpy)")
    read, right = run(world, ROOT / "tests/fuse/train.py", str(world.mount / "digits/latest"), python=python).split()
    assert int(read) == 1797 and int(right) > 1000  # it guesses one of ten


def test_safetensors_maps_the_file(world: World) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    path, original = world.mount / "animals/latest/model.safetensors", load_file(world.staging / "model.safetensors")
    with safe_open(path, framework="numpy") as model:
        assert str(path.resolve()) in Path("/proc/self/maps").read_text()
        assert sorted(model.keys()) == sorted(original)
        for name, tensor in original.items():
            assert np.array_equal(model.get_tensor(name), tensor)
        assert np.array_equal(model.get_slice("layer.weight")[500:502, 7:9], original["layer.weight"][500:502, 7:9])


_EXAMPLES = re.findall(
    r"^```python ecosystem\n(.*?)^```$", (ROOT / "artifactmount/docs/ecosystem.md").read_text(), re.MULTILINE | re.DOTALL
)
_RUN_ALL = "import sys\nfor example in sys.argv[1:]:\n    print(example)\n    exec(example, {})\n"


def test_the_examples_of_the_document(world: World) -> None:
    examples: list[Any] = [example.replace("s3://bucket/team", world.mount.project.url) for example in _EXAMPLES]
    assert len(examples) == 6
    run(world, _RUN_ALL, *examples)
    assert len(os.listdir(world.mount.project.root / "home/train")) == 10
