"""`python -m hotloop demo`: a small network learns real handwritten digits."""

from hotloop.demo.command import add_arguments, execute

__all__ = ["add_arguments", "execute"]
