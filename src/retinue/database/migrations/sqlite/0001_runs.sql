-- One row a run: what was asked, where it stands, who executes it, what it has spent.
CREATE TABLE runs (
    id           TEXT PRIMARY KEY,
    workflow     TEXT NOT NULL,
    status       TEXT NOT NULL,
    input        TEXT NOT NULL,              -- JSON, kept before the first step so that nothing needs it again
    output       TEXT,                       -- JSON
    error        TEXT,                       -- JSON: code, message, hint
    principal    TEXT NOT NULL,              -- JSON
    subject      TEXT NOT NULL,              -- issuer|tenant|subject: who may see it
    settings     TEXT NOT NULL,              -- JSON: options of the run that a resume needs
    fingerprint  TEXT NOT NULL,              -- JSON: what the run was started with
    budget       TEXT NOT NULL,              -- JSON: the limits
    tokens       INTEGER NOT NULL DEFAULT 0, -- spent or reserved
    cost         INTEGER NOT NULL DEFAULT 0, -- spent or reserved, in millionths of a US dollar
    turns        INTEGER NOT NULL DEFAULT 0, -- model calls begun
    active       REAL NOT NULL DEFAULT 0,    -- seconds of execution, without waiting for people
    seq          INTEGER NOT NULL DEFAULT 0, -- the last event's number
    owner        TEXT,                       -- the lease: who executes it,
    epoch        INTEGER NOT NULL DEFAULT 0, -- for the how-manyeth time (the fence),
    lease_until  REAL,                       -- until when, in database time
    cancelling   INTEGER NOT NULL DEFAULT 0,
    traceparent  TEXT,
    retry_of     TEXT,
    root         TEXT,                       -- the run whose lease and budget this one works under; its own if null
    created_at   REAL NOT NULL,
    updated_at   REAL NOT NULL
);
CREATE INDEX runs_by_time ON runs (created_at);
CREATE INDEX runs_by_status ON runs (status, created_at);
CREATE INDEX runs_by_root ON runs (root);

CREATE TABLE events (
    run  TEXT NOT NULL,
    seq  INTEGER NOT NULL,
    ts   REAL NOT NULL,
    type TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) WITHOUT ROWID;

-- Facts inside one node, inserted and never replaced.
CREATE TABLE journal (
    run  TEXT NOT NULL,
    path TEXT NOT NULL,
    key  TEXT NOT NULL,
    body TEXT NOT NULL,
    ts   REAL NOT NULL,
    PRIMARY KEY (run, path, key)
) WITHOUT ROWID;

CREATE TABLE questions (
    id           TEXT PRIMARY KEY,
    run          TEXT NOT NULL,
    path         TEXT NOT NULL,
    key          TEXT NOT NULL,
    kind         TEXT NOT NULL,
    body         TEXT NOT NULL,              -- JSON: what the person is shown
    schema       TEXT NOT NULL,              -- JSON Schema of the answer
    status       TEXT NOT NULL,              -- open, answered, expired, withdrawn
    answer       TEXT,
    answered_by  TEXT,
    channel      TEXT,
    interrupt_id TEXT,                       -- set for a question raised by a user's own interrupt()
    asked_at     REAL NOT NULL,
    expires_at   REAL,
    answered_at  REAL,
    UNIQUE (run, path, key)
);
CREATE INDEX questions_open ON questions (status, asked_at);
CREATE INDEX questions_of_run ON questions (run);

-- LangGraph's state. A checkpoint is a frame of versions; the values are stored once for each version.
CREATE TABLE checkpoints (
    thread   TEXT NOT NULL,
    ns       TEXT NOT NULL,
    id       TEXT NOT NULL,
    seq      INTEGER NOT NULL,               -- the order of writing within thread and namespace: ids follow the clock
    parent   TEXT,
    type     TEXT NOT NULL,
    body     BLOB NOT NULL,                  -- the checkpoint without its channel values
    metadata TEXT NOT NULL,                  -- JSON
    run      TEXT,                           -- LangGraph's run_id in the metadata, if any
    PRIMARY KEY (thread, ns, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX checkpoints_in_order ON checkpoints (thread, ns, seq);
CREATE INDEX checkpoints_of_run ON checkpoints (run) WHERE run IS NOT NULL;

CREATE TABLE checkpoint_values (
    thread  TEXT NOT NULL,
    ns      TEXT NOT NULL,
    channel TEXT NOT NULL,
    version DOUBLE PRECISION NOT NULL,
    type    TEXT NOT NULL,
    body    BLOB NOT NULL,
    PRIMARY KEY (thread, ns, channel, version)
) WITHOUT ROWID;

CREATE TABLE checkpoint_writes (
    thread     TEXT NOT NULL,
    ns         TEXT NOT NULL,
    checkpoint TEXT NOT NULL,
    task       TEXT NOT NULL,
    idx        INTEGER NOT NULL,             -- the position among a task's writes; below zero for error, interrupt, resume
    channel    TEXT NOT NULL,
    type       TEXT NOT NULL,
    body       BLOB NOT NULL,
    path       TEXT NOT NULL,                -- writes of one superstep are applied in the order of path, task, idx
    PRIMARY KEY (thread, ns, checkpoint, task, idx)
) WITHOUT ROWID;

CREATE TABLE artifacts (
    run        TEXT NOT NULL,
    id         TEXT NOT NULL,                -- sha256 of the body
    media_type TEXT NOT NULL,
    body       BLOB NOT NULL,
    PRIMARY KEY (run, id)
);

-- Append-only; each row's hash covers the one before it.
CREATE TABLE audit (
    id     INTEGER PRIMARY KEY,
    ts     REAL NOT NULL,
    run    TEXT,
    actor  TEXT NOT NULL,
    action TEXT NOT NULL,
    body   TEXT NOT NULL,
    prev   TEXT NOT NULL,
    hash   TEXT NOT NULL
);

-- DPoP proofs and client assertions already seen (hashes of their jti), until they expire.
CREATE TABLE proofs_seen (
    id         TEXT PRIMARY KEY,
    expires_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX proofs_by_expiry ON proofs_seen (expires_at);
