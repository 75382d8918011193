"""Which classes a state's annotations reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from enum import Enum
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import AnyUrl, BaseModel
from typing_extensions import is_typeddict

from retinue.errors import UsageError


def reachable_types(schemas: Iterable[Any]) -> list[type]:
    """The pydantic models, dataclasses, enums, named tuples and URL classes in ``schemas``, each once, in order.

    Raises `UsageError` for an annotation that names something that does not exist.
    """
    found: dict[type, None] = {}
    seen: set[int] = set()
    pending = list(reversed(list(schemas)))
    keep: list[Any] = []  # an id means something only while its object lives
    while pending:
        annotation = pending.pop()
        if id(annotation) in seen:
            continue
        seen.add(id(annotation))
        keep.append(annotation)
        if isinstance(annotation, type) and _is_kept(annotation):
            found[annotation] = None
        pending.extend(reversed(_inside(annotation)))
    return list(found)


def _is_kept(cls: type[Any]) -> bool:
    if cls is BaseModel or cls is Enum:
        return False
    return issubclass(cls, (BaseModel, Enum, AnyUrl)) or _is_record(cls)


def _is_record(cls: Any) -> bool:
    return dataclasses.is_dataclass(cls) or (issubclass(cls, tuple) and hasattr(cast(Any, cls), "_fields"))


def _inside(annotation: Any) -> list[Any]:
    """What an annotation is made of: a class's fields, or the arguments of a form."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, BaseModel):
            return [field.annotation for field in annotation.model_fields.values()] + _extra_and_private(annotation)
        cls = cast(type[Any], annotation)
        return list(_hints(cls).values()) if is_typeddict(cls) or _is_record(cls) else []
    if isinstance(annotation, TypeVar):
        return [annotation.__bound__, *annotation.__constraints__]
    if (aliased := getattr(annotation, "__value__", None)) is not None:  # type X = …
        return [aliased]
    if (supertype := getattr(annotation, "__supertype__", None)) is not None:  # NewType
        return [supertype]
    origin = get_origin(annotation)
    if origin is Literal:  # its members may be enum members
        return [type(value) for value in get_args(annotation) if isinstance(value, Enum)]
    return [] if origin is None else [origin, *get_args(annotation)]


def _extra_and_private(model: type[BaseModel]) -> list[Any]:
    names = {"__pydantic_extra__", *model.__private_attributes__}
    declared = [vars(base).get("__annotations__", {}) for base in model.__mro__ if base not in BaseModel.__mro__]
    if not any(names & set(annotations) for annotations in declared):
        return []
    return [hint for name, hint in _hints(model).items() if name in names]


def _hints(cls: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise UsageError(
            f"the annotations of {cls.__qualname__} name {error.name!r}, which its module does not define",
            hint="Move the import out of `if TYPE_CHECKING:`, or the class to the module's top level.",
        ) from None
