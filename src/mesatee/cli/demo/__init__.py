"""The main job on real input, and everything that must be refused on the way: `mesatee demo`."""

from .demo import run

__all__ = ["run"]
