"""What this is the version of. It stands alone, so that the package itself can stand above everything that it offers."""

__version__ = "0.1.0"
