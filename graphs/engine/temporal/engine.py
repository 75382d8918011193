"""The client's side: runs are handed over, woken and cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from retinue.errors import Unreachable

from ..base import Ticket
from .address import Address
from .flow import STATUS, TENANT, WORKFLOW, Order, RunFlow

log = logging.getLogger("retinue")

RPC = timedelta(seconds=10)
CONNECT_SECONDS = 10.0


class TemporalEngine:
    """Hands runs to the workers that poll one task queue. It connects when it is first used."""

    elsewhere = True

    def __init__(self, address: Address) -> None:
        self.address = address
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self.labelled = False
        """Whether the namespace knows our search attributes."""

    async def client(self) -> Client:
        """Raises `Unreachable`."""
        async with self._connecting:
            if self._client is None:
                address = self.address
                try:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        client = await Client.connect(
                            address.target, namespace=address.namespace, tls=address.tls, api_key=address.key
                        )
                except (RuntimeError, RPCError, TimeoutError, OSError) as error:
                    log.debug("Temporal cannot be reached", exc_info=error)
                    raise Unreachable(
                        f"Temporal at {address.target} cannot be reached",
                        hint="Start its server, or correct the setting `engine`.",
                    ) from None
                self.labelled = await _labelled(client)
                self._client = client
            return self._client

    async def ready(self) -> None:
        await self.client()

    async def start(self, ticket: Ticket) -> None:
        await self._start(ticket, wake=False)

    async def wake(self, ticket: Ticket) -> None:
        await self._start(ticket, wake=True)

    async def _start(self, ticket: Ticket, *, wake: bool) -> None:
        """The run's id is the workflow's: of any number of starts one becomes a workflow."""
        client = await self.client()
        labels = [SearchAttributePair(WORKFLOW, ticket.workflow), SearchAttributePair(TENANT, ticket.tenant)]
        labels.append(SearchAttributePair(STATUS, "running"))
        try:
            await client.start_workflow(
                RunFlow.run,
                self.order(ticket.run),
                id=ticket.run,
                task_queue=self.address.queue,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="wake" if wake else None,
                search_attributes=TypedSearchAttributes(labels) if self.labelled else None,
                priority=self.priority(ticket),
                # A worker may die in the moment in which it dispatches, too.
                task_timeout=timedelta(seconds=min(10.0, self.address.heartbeat)),
                rpc_timeout=RPC,
            )
        except RPCError as error:
            raise self._unreachable(error) from None

    async def cancel(self, ticket: Ticket) -> None:
        client = await self.client()
        try:
            await client.get_workflow_handle(ticket.run).cancel(rpc_timeout=RPC)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # it has ended, or never began
                raise self._unreachable(error) from None

    async def close(self) -> None:
        self._client = None

    def order(self, run: str) -> Order:
        return Order(run, self.address.heartbeat, self.labelled)

    def priority(self, ticket: Ticket) -> Priority:
        return Priority(priority_key=self.address.priority, fairness_key=ticket.tenant)

    def _unreachable(self, error: RPCError) -> Unreachable:
        log.debug("Temporal refused", exc_info=error)
        return Unreachable(f"Temporal at {self.address.target} did not take it: {error.status.name}")


async def _labelled(client: Client) -> bool:
    """Make our search attributes known; best effort, since it may take an administrator."""
    names = {key.name for key in (STATUS, WORKFLOW, TENANT)}
    operator, space = client.operator_service, client.namespace
    with contextlib.suppress(RPCError):
        known = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=space), timeout=RPC)
        missing = names - set(known.custom_attributes)
        if not missing:
            return True
        kinds = dict.fromkeys(missing, IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD)
        with contextlib.suppress(RPCError):  # somebody else may have been first
            await operator.add_search_attributes(
                AddSearchAttributesRequest(namespace=space, search_attributes=kinds), timeout=RPC
            )
        known = await operator.list_search_attributes(ListSearchAttributesRequest(namespace=space), timeout=RPC)
        return names <= set(known.custom_attributes)
    log.info("Temporal's search attributes are not used: they could not be listed")
    return False
