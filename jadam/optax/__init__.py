"""optax's whole namespace, signatures, defaults, states and numbers, with jadam behind it: `import jadam.optax as optax`.

What stands behind a name, and why, is in docs/optax-names.md.
"""

from typing import TYPE_CHECKING, Any

try:
    import optax as _optax
except ModuleNotFoundError:
    raise ModuleNotFoundError("jadam.optax needs optax, whose names it has: pip install jadam[optax]", name="optax") from None

from jadam.optax._door import behind as _behind
from jadam.optax._namespace import HERE as _HERE
from jadam.optax._namespace import mirrored as _mirrored

if TYPE_CHECKING:  # for editors and type checkers, who see the names of optax
    from optax import *  # noqa: F403

__version__ = _optax.__version__

for _key, _value in vars(_optax).items():
    if isinstance(_value, type(_optax)) and _value.__name__ == f"optax.{_key}":
        globals()[_key] = _mirrored(_value, f"{__name__}.{_key}", _HERE)
    elif not _key.startswith("__"):
        globals()[_key] = _behind(_value, _HERE)


def __getattr__(name: str) -> Any:
    return getattr(_optax, name)
