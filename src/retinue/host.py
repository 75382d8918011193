"""The composition root: the one place that knows all rooms.

It opens the database, chooses models, starts the built-in servers that a run needs, and hands them down.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from retinue import audit, telemetry
from retinue.agents.agent import Agent
from retinue.agents.budget import Budget
from retinue.agents.equipment import Equipment
from retinue.agents.models import close_clients
from retinue.agents.models.base import FREE, Model, Price
from retinue.agents.models.prices import price_of, read_prices
from retinue.agents.models.selection import choose
from retinue.auth.principal import Principal
from retinue.config import Settings, load_settings, load_workflow
from retinue.database.base import Database
from retinue.database.choose import is_postgres, open_database
from retinue.errors import ConfigError, RunNotFound, Unreachable
from retinue.graphs import records
from retinue.graphs.drive import Outcome
from retinue.graphs.engine.base import Engine, Ticket
from retinue.graphs.engine.local import LocalEngine, TakeOver
from retinue.graphs.engine.queue import enqueue
from retinue.graphs.events import Line
from retinue.graphs.execution import Execution
from retinue.graphs.follow import follow, read_events
from retinue.graphs.lease import LEASE_SECONDS
from retinue.graphs.recording import RecordedModel, Recording
from retinue.graphs.records import RunRecord
from retinue.graphs.redact import Redactor
from retinue.graphs.runs import Runs
from retinue.graphs.workflow import Workflow
from retinue.local import local_principal
from retinue.servers import Servers

log = logging.getLogger("retinue")

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL")
"""Of an environment variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a run is started with beside its input. Kept with the run, so that a resume works alike.

    ``library`` and ``workspace`` are folders for the built-in servers, ``approve`` globs over ``server/tool`` whose
    calls need no question, ``model`` a name in place of the configured one.
    """

    target: str = ""
    """How the workflow was named: a registered name or ``module:attribute``."""
    library: tuple[str, ...] = ()
    workspace: str = ""
    approve: tuple[str, ...] = ()
    model: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunOptions:
        return cls(
            target=data.get("target", ""),
            library=tuple(data.get("library", ())),
            workspace=data.get("workspace", ""),
            approve=tuple(data.get("approve", ())),
            model=data.get("model", ""),
        )


@dataclass(kw_only=True)
class Host:
    """Everything a process needs to run workflows. Made by `open_host`."""

    settings: Settings
    db: Database
    runs: Runs
    engine: Engine
    principal: Principal
    env: Mapping[str, str]
    on_progress: Callable[[Any], None] | None = None
    """Told how far the indexing of a library is, see `mcp_servers.knowledge.models.Progress`."""
    _servers: dict[tuple[Any, ...], Servers] = field(default_factory=dict[tuple[Any, ...], Servers])
    _equipment: dict[tuple[Any, ...], Equipment] = field(default_factory=dict[tuple[Any, ...], Equipment])
    _equipping: dict[tuple[Any, ...], asyncio.Lock] = field(default_factory=dict[tuple[Any, ...], asyncio.Lock])

    def __post_init__(self) -> None:
        self.take_over = TakeOver(self.runs, self.principal, self.resume)
        """Goes on with abandoned runs while this process executes one of its own."""

    def workflow(self, name: str) -> Workflow:
        """The workflow registered under this name. Raises `WorkflowNotFound`."""
        return load_workflow(self.settings, name)

    async def start(
        self,
        workflow: Workflow,
        input: Any,  # noqa: A002
        *,
        options: RunOptions | None = None,
        budget: Budget | None = None,
        retry_of: str | None = None,
        run: str | None = None,
    ) -> Execution:
        """Make a run and take its lease; see `Runs.start`. Workflow and configuration complete the options."""
        complete = self.complete(workflow, options or RunOptions())
        equipment = await self.equip(workflow, complete)
        settings = self.settings
        if settings.max_concurrency is not None:
            workflow.max_concurrency = settings.max_concurrency
        return await self.runs.start(
            workflow,
            input,
            principal=self.principal,
            equipment=equipment,
            settings=asdict(complete),
            budget=self.budget(workflow, budget),
            retry_of=retry_of,
            run=run,
        )

    async def submit(
        self,
        workflow: Workflow,
        input: Any,  # noqa: A002
        *,
        options: RunOptions | None = None,
        budget: Budget | None = None,
        retry_of: str | None = None,
        run: str | None = None,
    ) -> RunRecord:
        """Make a run and leave it to the engine: to a background process of this machine, or to workers.

        Raises as `start` does. Where workers execute it, models and servers need not be at hand here.
        """
        await self.engine.ready()
        if self.engine.elsewhere:
            complete = self.complete(workflow, options or RunOptions())
            record = await enqueue(
                self.db,
                workflow,
                input,
                principal=self.principal,
                settings=asdict(complete),
                budget=self.budget(workflow, budget),
                retry_of=retry_of,
                run=run,
            )
        else:  # what would keep it from being executed is told here and now
            execution = await self.start(workflow, input, options=options, budget=budget, retry_of=retry_of, run=run)
            execution.end("release")
            await self.runs.execute(execution)
            record = await self.find(execution.run)
        await self.engine.start(Ticket.of(record))
        return record

    async def wake(self, record: RunRecord) -> None:
        """A run of workers was answered, or is to be resumed."""
        await self.engine.wake(Ticket.of(record))

    async def cancel(self, record: RunRecord) -> bool:
        """Ask for the end of a run, whoever executes it; see `Runs.cancel`."""
        ended = await self.runs.cancel(record, principal=self.principal)
        try:
            await self.engine.cancel(Ticket.of(record))
        except Unreachable as error:  # the row says it, which is what counts
            log.warning("run %s: %s", record.id[:8], error)
        return ended

    async def take(self, record: RunRecord) -> Execution:
        """As `resume`, for a worker, which executes the runs of all principals in their names."""
        options = RunOptions.from_json(record.settings)
        workflow = self.workflow(options.target or record.workflow)
        return await self.runs.resume(record, workflow, await self.equip(workflow, options, record.principal))

    async def resume(self, record: RunRecord) -> Execution:
        """Take the lease of a run that waits, was stopped or lost its process; see `Runs.resume`.

        Raises `RunNotFound` for somebody else's run too.
        """
        if record.principal.key != self.principal.key:
            raise RunNotFound(f"there is no run {record.id}")
        if record.root is not None:  # a member of that run made this one
            record = await self.find(record.root)
        return await self.take(record)

    async def fork(self, record: RunRecord, at: int, *, changes: Mapping[str, Any] | None = None) -> Execution:
        """Make a new run that shares the history of this one up to superstep ``at``; see `Runs.fork`."""
        if record.principal.key != self.principal.key:
            raise RunNotFound(f"there is no run {record.id}")
        options = RunOptions.from_json(record.settings)
        workflow = self.workflow(options.target or record.workflow)
        return await self.runs.fork(record, at, workflow, await self.equip(workflow, options), changes=changes)

    async def replay(self, record: RunRecord) -> tuple[Recording, list[str]]:
        """The recording of a run, secrets redacted, and what differs when it is run again with what it recorded.

        Servers are asked for their tools, and nothing else. Raises `UsageError` for a run that cannot be recorded.
        """
        from retinue.graphs import replay

        options = RunOptions.from_json(record.settings)
        target = options.target or record.workflow
        workflow = self.workflow(target)
        servers = self.servers(options)
        await servers.prepare(workflow.agents)
        listener = replay.Listener(servers.hub)
        for agent in workflow.agents:
            for toolset in agent.tools:
                await toolset.open(listener)
        models = await self._recorded_models(record, workflow)
        recording = await replay.record(self.db, record, target=target, models=models, servers=listener.heard)
        differences = (await replay.replay(recording, workflow)).differences
        if differences:
            return recording, differences
        return await replay.without_secrets(recording, workflow, Redactor(self._secrets())), []

    async def _recorded_models(self, record: RunRecord, workflow: Workflow) -> dict[str, RecordedModel]:
        """The models that a run was started with, by agent, at today's prices."""
        (started,) = await read_events(self.db, record.id, limit=1)
        prices = self._prices()
        own = {agent.name: agent.model for agent in workflow.agents}
        found: dict[str, RecordedModel] = {}
        for agent, name in started["models"].items():
            made = own.get(agent)
            if made is not None and not isinstance(made, str):
                price, language_model = made.price, made.language_model
            else:
                language_model = not name.startswith("function:")
                price = price_of(name, prices) if language_model else FREE
            found[agent] = RecordedModel(name=name, price=price, language_model=language_model)
        return found

    def _secrets(self) -> list[str]:
        """Values that are secret by where they stand: in a server's configuration, under a telling variable name."""
        servers = [value for server in self.settings.servers.values() for value in server.env.values()]
        named = [value for name, value in self.env.items() if _SECRET_NAME.search(name)]
        return [str(value) for value in (*servers, *named)]

    async def find(self, prefix: str) -> RunRecord:
        """One of this principal's runs, by its id or the beginning of it."""
        return await records.find(self.db, prefix, subject=self.principal.key)

    async def execute(self, execution: Execution) -> Outcome:
        async with self.take_over:
            return await self.runs.execute(execution)

    @asynccontextmanager
    async def following(self, execution: Execution, *, after: int = 0) -> AsyncGenerator[AsyncIterator[Line]]:
        """The execution's events from number ``after`` on, beside its execution. See `follow`."""
        with self.runs.bus.listen(execution.run) as queue:
            yield follow(self.db, queue, execution.run, after=after)

    async def equip(self, workflow: Workflow, options: RunOptions, principal: Principal | None = None) -> Equipment:
        """Models chosen and toolsets open. Raises `NoModel`, `Unreachable`, `SignInNeeded`, `ConfigError`."""
        principal = principal or self.principal
        key = (workflow.name, id(workflow), options.library, options.workspace, options.model, principal.key)
        async with self._equipping.setdefault(key[2:4] + key[5:], asyncio.Lock()):  # runs begin side by side
            if key not in self._equipment:
                servers = self.servers(options, principal)
                await servers.prepare(workflow.agents)
                self._equipment[key] = await Equipment.open(
                    workflow.agents, servers.hub, lambda agent: self._model(agent, options)
                )
        return self._equipment[key]

    def servers(self, options: RunOptions, principal: Principal | None = None) -> Servers:
        """The servers that a principal's runs with these options share."""
        principal = principal or self.principal
        key = (options.library, options.workspace, principal.key)
        if key not in self._servers:
            self._servers[key] = Servers(
                self.settings,
                principal,
                library=[Path(p) for p in options.library],
                workspace=Path(options.workspace),
                on_progress=self.on_progress,
                record=self._record,
            )
        return self._servers[key]

    async def _record(self, action: str, body: Mapping[str, Any]) -> None:
        await self.db.write(lambda tx: audit.append(tx, actor=self.principal.key, action=action, body=body))

    def _model(self, agent: Agent, options: RunOptions) -> Model:
        setting = agent.model
        if setting == "auto":
            setting = options.model or self.settings.model
        return choose(setting, function=agent.function, env=self.env, agent=agent.name, prices=self._prices())

    def _prices(self) -> Mapping[str, Price]:
        return read_prices(
            {m: {k: v for k, v in asdict(p).items() if v is not None} for m, p in self.settings.prices.items()}
        )

    def complete(self, workflow: Workflow, options: RunOptions) -> RunOptions:
        """The options with what workflow and configuration add."""
        library = (
            options.library or tuple(map(str, self.settings.library)) or tuple(workflow.options.get("library", ()))
        )
        return replace(
            options,
            target=options.target or workflow.name,
            library=tuple(str(Path(p).expanduser().absolute()) for p in library),
            workspace=str(Path(options.workspace or self.settings.workspace).expanduser().absolute()),
        )

    def budget(self, workflow: Workflow, given: Budget | None) -> Budget:
        """Flag over workflow over configuration, limit by limit."""
        chosen: dict[str, Any] = {k: v for k, v in asdict(self.settings.budget).items() if v is not None}
        for budget in (workflow.budget, given):
            if budget is not None:
                chosen |= {k: v for k, v in budget.to_json().items() if v is not None}
        return Budget(**chosen)

    async def close(self) -> None:
        await self.engine.close()
        await self.runs.close()
        for servers in self._servers.values():
            await servers.close()
        await close_clients()
        await self.db.close()


def open_engine(settings: Settings, command: Sequence[str] = ()) -> Engine:
    """The engine that the configuration names. Nothing is connected yet. Raises `ConfigError`."""
    if settings.engine == "local":
        return LocalEngine(command, logs=settings.state / "background")
    try:
        from retinue.graphs.engine.temporal.engine import TemporalEngine
    except ImportError as error:
        raise ConfigError(
            "Temporal needs a package that is not installed", hint="Install retinue with it: retinue[temporal]."
        ) from error
    from retinue.graphs.engine.temporal.address import Address, parse

    if not is_postgres(settings.database):
        raise ConfigError(
            "workers on several machines share a Postgres database, and `database` is a file",
            hint="Set `database` to a URL that begins with postgresql://.",
        )
    target, namespace = parse(settings.engine)
    there = settings.temporal
    return TemporalEngine(
        Address(
            target=target,
            namespace=namespace,
            queue=there.queue,
            heartbeat=there.heartbeat,
            priority=there.priority,
            tls=there.tls,
            key=None if there.api_key is None else there.api_key.reveal(),
        )
    )


@asynccontextmanager
async def open_host(
    settings: Settings | None = None,
    *,
    principal: Principal | None = None,
    env: Mapping[str, str] | None = None,
    create: bool = True,
    command: Sequence[str] = (),
) -> AsyncGenerator[Host]:
    """Open the database and what runs need. ``create`` makes a database file that is missing; ``command`` is this
    program with its global options, for background processes.

    Raises `ConfigError`, `DatabaseError`.
    """
    settings = settings or load_settings()
    engine = open_engine(settings, command)
    telemetry.disable_langsmith()
    if (notice := telemetry.configure()) is not None:
        log.warning("%s", notice)
    db = await open_database(settings.database, create=create)
    host = Host(
        settings=settings,
        db=db,
        runs=Runs(db, lease_seconds=settings.temporal.heartbeat if engine.elsewhere else LEASE_SECONDS),
        engine=engine,
        principal=principal or local_principal(),
        env=os.environ if env is None else env,
    )
    try:
        yield host
    finally:
        await asyncio.shield(host.close())
        telemetry.shutdown()
