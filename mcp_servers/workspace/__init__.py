"""Documents that agents write: one folder, no way out of it, each write once."""

from .documents import Documents
from .server import workspace_server

__all__ = ["Documents", "workspace_server"]
