"""Every error that Retinue raises on purpose.

    RetinueError
    ├── UsageError                your mistake; nothing was done                              exit 2
    │   ├── ConfigError             retinue.toml, an environment variable, a flag
    │   ├── WorkflowNotFound        no such workflow, or it does not import
    │   ├── RunNotFound             no such run (or not yours)
    │   ├── RunExists               the id of a new run is taken
    │   ├── QuestionNotFound        no such open question
    │   ├── AnswerRejected          the answer does not fit the question's schema
    │   ├── AlreadyAnswered         somebody answered first
    │   ├── NotAllowed              this principal may not do that
    │   ├── InvalidInput            the workflow's input does not validate
    │   └── NoModel                 no language model and no function to stand in
    ├── RunError                  the run's own failure                                       exit 1
    │   ├── RunBusy                 another process executes the run
    │   ├── LeaseLost               this process no longer owns the run; it wrote nothing
    │   ├── WorkflowChanged         the paused run was started by a different graph, prompt or tool
    │   ├── BudgetExceeded          refused before the call that would have passed the limit
    │   ├── PolicyDenied            the policy says no
    │   ├── OutputInvalid           an agent's output does not fit its type, after one repair
    │   ├── NotSerializable         a value cannot be kept in a checkpoint or journal
    │   ├── CheckFailed             a workflow's own check refused the result
    │   ├── RunCancelled            ended by request
    │   ├── NodeFailed              a node of the user's raised
    │   └── DatabaseError           the database cannot be used
    │       ├── DatabaseFull          no space left, or the file cannot grow
    │       ├── DatabaseReadOnly      the file or its folder cannot be written
    │       ├── DatabaseCorrupt       the file is damaged, or not a Retinue database
    │       ├── DatabaseBusy          another process holds the write lock for too long
    │       ├── DatabaseUnreachable   its server does not answer, or lets nobody in                exit 4
    │       ├── SchemaTooOld          to be brought up to date first
    │       └── SchemaTooNew          written by a newer Retinue
    └── ExternalError             someone else's failure                                      exit 5
        ├── ModelError              the model's service failed
        │   ├── ModelRateLimited      429 or overloaded, and no time or money to wait
        │   ├── ModelRefused          the model declined to answer
        │   ├── ModelTruncated        the answer was cut at max_tokens
        │   └── ModelContextExceeded  the conversation no longer fits
        ├── ToolFailed              a tool or its server failed
        ├── Unreachable             nothing answered                                          exit 4
        ├── SignInNeeded            a token is missing, expired or lacks a scope              exit 3
        └── Timeout                 the time ran out                                          exit 124

Each class has a stable ``code`` (what programs match on), an ``exit_code``, and a ``hint`` that says what to do next.
A message names what was wrong and where; it never holds a secret, a token or a traceback.
"""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import TypedDict  # pydantic reads it, and needs this one before Python 3.12


class ErrorBody(TypedDict):
    """The JSON form of an error: what ``--json`` prints under ``"error"`` and what a failed run keeps."""

    code: str
    message: str
    hint: str


class RetinueError(Exception):
    """Base of all errors raised on purpose. ``str(error)`` is the message alone."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.details = details
        """JSON-able facts for programs: ids, limits, schema paths. Never content, never a secret."""

    def body(self) -> ErrorBody:
        return {"code": self.code, "message": self.message, "hint": self.hint}


# Your mistake


class UsageError(RetinueError):
    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    code = "config_invalid"
    default_hint = "`retinue config show` lists every setting and where it comes from."


class WorkflowNotFound(UsageError):
    code = "workflow_not_found"
    default_hint = "`retinue workflows` lists the ones that can be run."


class RunNotFound(UsageError):
    code = "run_not_found"
    default_hint = "`retinue runs list` shows the runs in this database."


class RunExists(UsageError):
    code = "run_exists"
    default_hint = "`retinue runs show RUN` tells how it stands. Leave the id out to start another."


class QuestionNotFound(UsageError):
    code = "question_not_found"
    default_hint = "`retinue inbox` shows the open questions."


class AnswerRejected(UsageError):
    code = "answer_rejected"


class AlreadyAnswered(UsageError):
    code = "already_answered"


class NotAllowed(UsageError):
    code = "not_allowed"


class InvalidInput(UsageError):
    code = "invalid_input"


class NoModel(UsageError):
    code = "no_model"
    default_hint = "Set ANTHROPIC_API_KEY (or ANTHROPIC_BASE_URL), pass model=…, or give the agent a function."


# The run's own failure


class RunError(RetinueError):
    code = "run_failed"


class RunBusy(RunError):
    code = "run_busy"
    default_hint = "Follow it with `retinue runs events RUN`, or wait until its process ends."


class LeaseLost(RunError):
    code = "lease_lost"
    default_hint = "Another process may have taken the run over; `retinue runs show RUN` tells."


class WorkflowChanged(RunError):
    code = "workflow_changed"
    default_hint = "Restore the version that started the run, or cancel it and run anew."


class BudgetExceeded(RunError):
    code = "budget_exceeded"
    default_hint = "Start a new run with a larger budget, e.g. `--budget usd=1`."


class PolicyDenied(RunError):
    code = "policy_denied"


class OutputInvalid(RunError):
    code = "output_invalid"


class NotSerializable(RunError):
    code = "not_serializable"
    default_hint = "Keep plain data, pydantic models or dataclasses in the state; put large or live objects elsewhere."


class CheckFailed(RunError):
    code = "check_failed"


class RunCancelled(RunError):
    code = "cancelled"


class NodeFailed(RunError):
    code = "node_failed"


class DatabaseError(RunError):
    code = "database_error"


class DatabaseFull(DatabaseError):
    code = "database_full"
    default_hint = "Free some disk space, then `retinue resume RUN`: nothing that was committed is lost."


class DatabaseReadOnly(DatabaseError):
    code = "database_read_only"
    default_hint = "Check the permissions of the file and its folder, or choose another with --database."


class DatabaseCorrupt(DatabaseError):
    code = "database_corrupt"
    default_hint = "Restore a backup, or choose another file with --database. The file was left as it is."


class DatabaseBusy(DatabaseError):
    code = "database_busy"
    default_hint = "Another process holds the database; try again when it has finished."


class DatabaseUnreachable(DatabaseError):
    code = "database_unreachable"
    exit_code = 4
    default_hint = "Start its server, or correct the address; `retinue recover` then goes on with its runs."


class SchemaTooOld(DatabaseError):
    code = "schema_too_old"
    default_hint = "`retinue db upgrade` brings it up to date."


class SchemaTooNew(DatabaseError):
    code = "schema_too_new"
    default_hint = "Upgrade Retinue, or choose another file with --database."


# Someone else's failure


class ExternalError(RetinueError):
    code = "external"
    exit_code = 5


class ModelError(ExternalError):
    code = "model_failed"


class ModelRateLimited(ModelError):
    code = "model_rate_limited"
    default_hint = "Wait, then `retinue resume RUN`, or raise the limits of your account."


class ModelRefused(ModelError):
    code = "model_refused"


class ModelTruncated(ModelError):
    code = "model_truncated"
    default_hint = "Raise the agent's max_tokens."


class ModelContextExceeded(ModelError):
    code = "model_context_exceeded"


class ToolFailed(ExternalError):
    code = "tool_failed"


class Unreachable(ExternalError):
    code = "unreachable"
    exit_code = 4


class SignInNeeded(ExternalError):
    code = "sign_in_needed"
    exit_code = 3


class Timeout(ExternalError):
    code = "timeout"
    exit_code = 124
