"""SAT-Net, the Synergic Attention Network for image restoration.

>>> from synergic import Restorer
>>> restorer = Restorer.from_pretrained("photo")
>>> clean = restorer(image)  # numpy H W or H W C, uint8, uint16 or float; same shape and dtype back
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synergic.errors import SynergicError
    from synergic.network import SATNet, SATNetConfig
    from synergic.restore import Restorer

__all__ = ["Restorer", "SATNet", "SATNetConfig", "SynergicError"]

_HOMES = {"Restorer": "restore", "SATNet": "network", "SATNetConfig": "network", "SynergicError": "errors"}


def __getattr__(name: str) -> Any:
    """Import on first use: `import synergic` alone does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'synergic' has no attribute {name!r}")
    return getattr(import_module(f"synergic.{_HOMES[name]}"), name)
