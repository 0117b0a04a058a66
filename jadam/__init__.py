"""jadam: optimizers for JAX that never lose an update silently, with Adam at their heart."""

import typing as _typing

from jadam import _lazy

__version__ = "0.2.0"

if _typing.TYPE_CHECKING:  # editors and type checkers read the list as it stands
    from jadam._public import *  # noqa: F403

__all__ = [*_lazy.HOMES]  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = _lazy.__getattr__, _lazy.__dir__
