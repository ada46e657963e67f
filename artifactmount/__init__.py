"""Versioned folders on nothing but a folder or a bucket: snapshot a directory, mount every version of it.

This file imports nothing, so that `artifactmount --help` and a script that only asks for the version pay for nothing else.
"""

__version__ = "0.1.0"
