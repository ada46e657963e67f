"""Versioned folders on nothing but a folder or a bucket: snapshot a directory, mount every version of it.

    import artifactmount as am

    with am.init(project="s3://bucket/team") as run:
        artifact = am.Artifact("animals", type="dataset")
        artifact.add_dir("images")
        run.log_artifact(artifact, aliases=["best"])
        folder = run.use_artifact("animals:latest").download()

This file imports next to nothing, so that `artifactmount --help` and a script that only asks for the version pay for nothing else: the
Python API (`artifactmount.api`) is loaded when one of its names is used.
"""

from artifactmount.version import __version__

TYPE_CHECKING = False  # type checkers take it for true; the one of `typing` would cost its import
if TYPE_CHECKING:
    from artifactmount.api import Artifact, Collection, Entry, FileChange, Manifest, PathDifference, Run, Sizes, init
    from artifactmount.errors import ArtifactError

__all__ = [
    "Artifact",
    "ArtifactError",
    "Collection",
    "Entry",
    "FileChange",
    "Manifest",
    "PathDifference",
    "Run",
    "Sizes",
    "__version__",
    "init",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from artifactmount import api, errors

    found = getattr(errors if name == "ArtifactError" else api, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
