"""The Temporal workflows. They are replayed, so they do nothing but wait and dispatch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy, SearchAttributeKey
from temporalio.exceptions import is_cancelled_exception
from temporalio.workflow import ActivityCancellationType, ParentClosePolicy

STATUS = SearchAttributeKey.for_keyword("RetinueStatus")
WORKFLOW = SearchAttributeKey.for_keyword("RetinueWorkflow")
TENANT = SearchAttributeKey.for_keyword("RetinueTenant")

RELEASED = "released"
"""What a segment says that was broken off so that another worker goes on."""

_AGAIN = RetryPolicy(
    initial_interval=timedelta(seconds=0.5), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=5)
)


@dataclass
class Order:
    """What a run's workflow is given."""

    run: str
    heartbeat: float
    """Seconds."""
    labelled: bool
    """Whether the namespace knows our search attributes."""


@workflow.defn(name="retinue-run")
class RunFlow:
    """Dispatches segments of one run until it is over. While it waits for people it holds no worker's slot."""

    def __init__(self) -> None:
        self._wakes = 0

    @workflow.signal
    def wake(self) -> None:
        self._wakes += 1

    @workflow.run
    async def run(self, order: Order) -> str:
        try:
            while True:
                seen = self._wakes
                status = await workflow.execute_activity(
                    "retinue-segment",
                    order.run,
                    result_type=str,
                    start_to_close_timeout=timedelta(days=365),
                    heartbeat_timeout=timedelta(seconds=order.heartbeat),
                    retry_policy=_AGAIN,
                    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                )
                self._label(order, status)
                if status in ("done", "failed", "refused", "cancelled"):
                    return status
                if status == RELEASED or self._wakes > seen:
                    continue
                if status == "stopped":
                    return status
                if workflow.info().is_continue_as_new_suggested():
                    workflow.continue_as_new(order)
                await workflow.wait_condition(lambda seen=seen: self._wakes > seen)
        except BaseException as error:
            if not (isinstance(error, asyncio.CancelledError) or is_cancelled_exception(error)):
                raise
            # Cancelled here, perhaps by hand in Temporal's own UI: the run's row has to know, too.
            await workflow.execute_activity(
                "retinue-cancel", order.run, start_to_close_timeout=timedelta(seconds=30), retry_policy=_AGAIN
            )
            self._label(order, "cancelled")
            raise

    def _label(self, order: Order, status: str) -> None:
        if order.labelled and status != RELEASED:
            workflow.upsert_search_attributes([STATUS.value_set(status)])


@dataclass
class Made:
    """A run that a schedule made."""

    order: Order
    workflow: str
    tenant: str
    priority: int


@workflow.defn(name="retinue-schedule")
class ScheduleFlow:
    """Makes a run of what the schedule's row says, and has it executed."""

    @workflow.run
    async def run(self, name: str) -> str:
        # The id of this execution, which Temporal derives from the schedule's time, makes that of the run.
        made = await workflow.execute_activity(
            "retinue-make",
            args=[name, workflow.info().workflow_id],
            result_type=Made,
            start_to_close_timeout=timedelta(seconds=60),
            retry_policy=_AGAIN,
        )
        await workflow.start_child_workflow(
            RunFlow.run,
            made.order,
            id=made.order.run,
            parent_close_policy=ParentClosePolicy.ABANDON,
            priority=Priority(priority_key=made.priority, fairness_key=made.tenant),
        )
        return made.order.run
