"""Configuration: ``retinue.toml``, ``RETINUE_*``, flags; one frozen object that knows where each value comes from."""

from .fit import Secret
from .loader import Settings, Shown, load_settings, mask_url
from .schema import BudgetSettings, PolicySettings, PriceSettings, ServerSettings, ToolSettings
from .workflows import WorkflowEntry, load_workflow, workflow_entries

__all__ = [
    "BudgetSettings",
    "PolicySettings",
    "PriceSettings",
    "Secret",
    "ServerSettings",
    "Settings",
    "Shown",
    "ToolSettings",
    "WorkflowEntry",
    "load_settings",
    "load_workflow",
    "mask_url",
    "workflow_entries",
]
