"""Versioned folders on nothing but a folder or a bucket: snapshot a directory, mount every version of it.

This file imports next to nothing, so that `artifactmount --help` and a script that only asks for the version pay for nothing else.
"""

from artifactmount.version import __version__

__all__ = ["__version__"]
