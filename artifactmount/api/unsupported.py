"""What W&B's artifacts have and ours cannot: each says why, and what to do instead. docs/python.md lists them."""

from __future__ import annotations

from typing import Any, NoReturn

from artifactmount.errors import NotSupportedError


def _no(what: str, why: str) -> NoReturn:
    raise NotSupportedError(f"{what} is not supported: {why}")


class Unsupported:
    """All of these raise NotSupportedError (a NotImplementedError)."""

    def add(self, obj: Any, name: str, overwrite: bool = False) -> NoReturn:
        """For W&B's media types."""
        _no("add", "there are no media types here; write a file with new_file, or add one with add_file")

    def get(self, name: str) -> NoReturn:
        """For W&B's media types."""
        _no("get", "there are no media types here; open(path) reads a file")

    def __getitem__(self, name: str) -> NoReturn:
        """For W&B's media types."""
        self.get(name)

    def __setitem__(self, name: str, item: Any) -> NoReturn:
        """For W&B's media types."""
        self.add(item, name)

    def logged_by(self) -> NoReturn:
        """For W&B's runs."""
        _no("logged_by", "runs are not recorded; `entity` is who made the version, and `artifactmount log` who did what")

    def used_by(self) -> NoReturn:
        """For W&B's runs."""
        _no("used_by", "runs are not recorded, and nothing is written when a version is read")

    def link(self, target_path: str, aliases: list[str] | None = None) -> NoReturn:
        """For W&B's registry."""
        _no("link", "two artifacts share nothing; an alias in its own artifact names a version")

    def unlink(self) -> NoReturn:
        """For W&B's registry."""
        _no("unlink", "there are no links; delete() deletes")


class UnsupportedRun:
    """All of these raise NotSupportedError (a NotImplementedError)."""

    def log(self, *_: Any, **__: Any) -> NoReturn:
        """For W&B's metrics."""
        _no("log", "no metrics are kept here; a file in an artifact keeps them")

    def log_code(self, *_: Any, **__: Any) -> NoReturn:
        """For W&B's code artifacts."""
        _no("log_code", "log a folder: log_artifact(path, name, type)")

    def link_artifact(self, *_: Any, **__: Any) -> NoReturn:
        """For W&B's registry."""
        _no("link_artifact", "two artifacts share nothing; an alias in its own artifact names a version")
