"""The errors that end a run with one message and no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user passed does not fit; the text gives the law, the facts and the cure."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that offers the real names nearest to `name`, or all of them where none is near and they are few."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are: {', '.join(names)}" if len(names) <= 20 else f"there are {len(names)}, such as {names[0]}"
