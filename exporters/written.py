"""What every writer hands back, and what every loader gives: values that the four formats share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
else:
    # numpy is not needed to list the formats.
    Runner = Callable


@dataclass(frozen=True)
class Written:
    """What a writer knows of its file beyond the bytes.

    `not_delegated` names layers and `fallbacks` operators that run outside the fast backend (see Artifact).
    `inspected` says what was compared in the stored file without running it; "" where nothing was.
    """

    dtype: str = "float32"
    not_delegated: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    inspected: str = ""
