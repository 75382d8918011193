"""The brief: Retinue's first example. ``retinue run brief "How is a side effect kept from happening twice?"``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .workflow import brief as brief
    from .workflow import make_brief as make_brief

__all__ = ["brief", "make_brief"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import workflow

        return getattr(workflow, name)
    raise AttributeError(name)
