"""The registry of workflows: names for ``module:attribute``, from configuration and from installed packages."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from retinue.errors import WorkflowNotFound

from .loader import Settings

GROUP = "retinue.workflows"
"""Entry-point group with which a package offers workflows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowEntry:
    name: str
    target: str
    """``module:attribute``."""
    origin: str
    """Where it is registered, in words for people."""
    folder: Path | None = None
    """The folder of the file that names it: its modules are importable from there."""


def workflow_entries(settings: Settings) -> Mapping[str, WorkflowEntry]:
    """All that are registered, sorted by name; configuration beats an installed package."""
    from importlib.metadata import entry_points

    found = {
        point.name: WorkflowEntry(
            name=point.name,
            target=point.value,
            origin=f"package {point.dist.name}" if point.dist is not None else "an installed package",
        )
        for point in entry_points(group=GROUP)
    }
    for name, target in settings.workflows.items():
        key = f"workflows.{name}"
        folder = settings.folder_of("workflows", name)
        found[name] = WorkflowEntry(name=name, target=target, origin=settings.origin(key), folder=folder)
    return dict(sorted(found.items()))


def load_workflow(settings: Settings, name: str) -> Any:
    """Import the workflow registered as ``name`` (or written as ``module:attribute``).

    The result is checked to look like a `retinue.Workflow`: it has a ``name`` and a ``graph``.

    Raises `WorkflowNotFound`, also when importing it fails: then with the error's type, message, file and line.
    """
    entries = workflow_entries(settings)
    entry = entries.get(name)
    if entry is None and ":" in name:
        entry = WorkflowEntry(name=name, target=name, origin="the command line", folder=Path.cwd())
    if entry is None:
        near = get_close_matches(name, entries, 1)
        raise WorkflowNotFound(
            f"there is no workflow {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""), workflow=name
        )
    module_name, _, attribute = entry.target.partition(":")
    value = _import(entry, module_name)
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise _refusal(entry, f"{module_name} has no attribute {attribute!r}") from None
    if not isinstance(getattr(value, "name", None), str) or not hasattr(value, "graph"):
        raise _refusal(entry, f"{entry.target} is a {type(value).__name__}, not a Workflow")
    return value


def _import(entry: WorkflowEntry, module: str) -> Any:
    if entry.folder is not None and str(entry.folder) not in sys.path:
        sys.path.append(str(entry.folder))  # at the end: a project's file must not shadow an installed module
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            looked = f" (looked in {entry.folder} too)" if entry.folder else ""
            raise _refusal(entry, f"there is no module {error.name!r}{looked}") from None
        raise _refusal(entry, _failure(module, error)) from None
    except (Exception, SystemExit) as error:
        raise _refusal(entry, _failure(module, error)) from None


def _failure(module: str, error: BaseException) -> str:
    """``importing shop failed: ValueError: bad rate (/path/shop.py:12)``."""
    message = str(error)
    if isinstance(error, SyntaxError):
        message, where = error.msg, f"{error.filename}:{error.lineno}"
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen ")]
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else module
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"importing {module} failed: {text} ({where})"


def _refusal(entry: WorkflowEntry, why: str) -> WorkflowNotFound:
    return WorkflowNotFound(
        f"the workflow {entry.name!r} cannot be loaded: {why}",
        hint=f"It is registered as {entry.target!r} by {entry.origin}.",
        workflow=entry.name,
    )
