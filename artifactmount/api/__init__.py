"""The Python API: `import artifactmount as am`.

Names, arguments and answers are those of W&B's artifacts; docs/python.md says what differs. It is thin over the library below, and nothing
in it copies files, but for `new_file`.
"""

from artifactmount.api.artifact import Artifact
from artifactmount.api.collection import Collection
from artifactmount.api.entry import Entry, Manifest
from artifactmount.api.run import FileChange, PathDifference, Run, init
from artifactmount.sizes import Sizes

__all__ = ["Artifact", "Collection", "Entry", "FileChange", "Manifest", "PathDifference", "Run", "Sizes", "init"]
