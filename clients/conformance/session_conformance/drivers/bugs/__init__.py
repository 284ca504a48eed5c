"""Bugs to plant in the Python client, to prove that the kit finds them; a file for each of the suites."""

from . import attachment, broken, delivery, end, frames, patience, plain
from .planting import BUGS

__all__ = ["BUGS", "attachment", "broken", "delivery", "end", "frames", "patience", "plain"]
