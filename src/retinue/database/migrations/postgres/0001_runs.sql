-- The tables of sqlite/0001_runs.sql, with what Postgres has of its own: names and ids are compared byte by byte,
-- whatever the locale; rows that change often leave room on their page.

-- One row a run: what was asked, where it stands, who executes it, what it has spent. It is also the run's lock.
CREATE TABLE runs (
    id           TEXT COLLATE "C" PRIMARY KEY,
    workflow     TEXT COLLATE "C" NOT NULL,
    status       TEXT COLLATE "C" NOT NULL,
    input        TEXT NOT NULL,                       -- JSON, kept before the first step so that nothing needs it again
    output       TEXT,                                -- JSON
    error        TEXT,                                -- JSON: code, message, hint
    principal    TEXT NOT NULL,                       -- JSON
    subject      TEXT COLLATE "C" NOT NULL,           -- issuer|tenant|subject: who may see it
    settings     TEXT NOT NULL,                       -- JSON: options of the run that a resume needs
    fingerprint  TEXT NOT NULL,                       -- JSON: what the run was started with
    budget       TEXT NOT NULL,                       -- JSON: the limits
    tokens       BIGINT NOT NULL DEFAULT 0,           -- spent or reserved
    cost         BIGINT NOT NULL DEFAULT 0,           -- spent or reserved, in millionths of a US dollar
    turns        BIGINT NOT NULL DEFAULT 0,           -- model calls begun
    active       DOUBLE PRECISION NOT NULL DEFAULT 0, -- seconds of execution, without waiting for people
    seq          BIGINT NOT NULL DEFAULT 0,           -- the last event's number
    owner        TEXT COLLATE "C",                    -- the lease: who executes it,
    epoch        BIGINT NOT NULL DEFAULT 0,           -- for the how-manyeth time (the fence),
    lease_until  DOUBLE PRECISION,                    -- until when, in database time
    cancelling   BIGINT NOT NULL DEFAULT 0,
    traceparent  TEXT,
    retry_of     TEXT COLLATE "C",
    root         TEXT COLLATE "C",                    -- the run whose lease and budget this one works under; its own if null
    created_at   DOUBLE PRECISION NOT NULL,
    updated_at   DOUBLE PRECISION NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX runs_by_time ON runs (created_at);
CREATE INDEX runs_by_status ON runs (status, created_at);
CREATE INDEX runs_by_root ON runs (root) WHERE root IS NOT NULL;

CREATE TABLE events (
    run  TEXT COLLATE "C" NOT NULL,
    seq  BIGINT NOT NULL,
    ts   DOUBLE PRECISION NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run, seq)
);

-- Facts inside one node, inserted and never replaced.
CREATE TABLE journal (
    run  TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    key  TEXT COLLATE "C" NOT NULL,
    body TEXT NOT NULL,
    ts   DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (run, path, key)
);

CREATE TABLE questions (
    id           TEXT COLLATE "C" PRIMARY KEY,
    run          TEXT COLLATE "C" NOT NULL,
    path         TEXT COLLATE "C" NOT NULL,
    key          TEXT COLLATE "C" NOT NULL,
    kind         TEXT COLLATE "C" NOT NULL,
    body         TEXT NOT NULL,                       -- JSON: what the person is shown
    schema       TEXT NOT NULL,                       -- JSON Schema of the answer
    status       TEXT COLLATE "C" NOT NULL,           -- open, answered, expired, withdrawn
    answer       TEXT,
    answered_by  TEXT COLLATE "C",
    channel      TEXT COLLATE "C",
    interrupt_id TEXT COLLATE "C",                    -- set for a question raised by a user's own interrupt()
    asked_at     DOUBLE PRECISION NOT NULL,
    expires_at   DOUBLE PRECISION,
    answered_at  DOUBLE PRECISION,
    UNIQUE (run, path, key)
);
CREATE INDEX questions_open ON questions (status, asked_at);
CREATE INDEX questions_of_run ON questions (run);

-- LangGraph's state. A checkpoint is a frame of versions; the values are stored once for each version.
CREATE TABLE checkpoints (
    thread   TEXT COLLATE "C" NOT NULL,
    ns       TEXT COLLATE "C" NOT NULL,
    id       TEXT COLLATE "C" NOT NULL,
    seq      BIGINT NOT NULL,                         -- the order of writing within thread and namespace: ids follow the clock
    parent   TEXT COLLATE "C",
    type     TEXT COLLATE "C" NOT NULL,
    body     BYTEA NOT NULL,                          -- the checkpoint without its channel values
    metadata TEXT NOT NULL,                           -- JSON
    run      TEXT COLLATE "C",                        -- LangGraph's run_id in the metadata, if any
    PRIMARY KEY (thread, ns, id)
);
CREATE UNIQUE INDEX checkpoints_in_order ON checkpoints (thread, ns, seq);
CREATE INDEX checkpoints_of_run ON checkpoints (run) WHERE run IS NOT NULL;

CREATE TABLE checkpoint_values (
    thread  TEXT COLLATE "C" NOT NULL,
    ns      TEXT COLLATE "C" NOT NULL,
    channel TEXT COLLATE "C" NOT NULL,
    version DOUBLE PRECISION NOT NULL,
    type    TEXT COLLATE "C" NOT NULL,
    body    BYTEA NOT NULL,
    PRIMARY KEY (thread, ns, channel, version)
);

CREATE TABLE checkpoint_writes (
    thread     TEXT COLLATE "C" NOT NULL,
    ns         TEXT COLLATE "C" NOT NULL,
    checkpoint TEXT COLLATE "C" NOT NULL,
    task       TEXT COLLATE "C" NOT NULL,
    idx        BIGINT NOT NULL,                       -- the position among a task's writes; below zero for error, interrupt, resume
    channel    TEXT COLLATE "C" NOT NULL,
    type       TEXT COLLATE "C" NOT NULL,
    body       BYTEA NOT NULL,
    path       TEXT COLLATE "C" NOT NULL,             -- writes of one superstep are applied in the order of path, task, idx
    PRIMARY KEY (thread, ns, checkpoint, task, idx)
);

CREATE TABLE artifacts (
    run        TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,             -- sha256 of the body
    media_type TEXT NOT NULL,
    body       BYTEA NOT NULL,
    PRIMARY KEY (run, id)
);

-- Append-only; each row's hash covers the one before it.
CREATE TABLE audit (
    id     BIGINT PRIMARY KEY,
    ts     DOUBLE PRECISION NOT NULL,
    run    TEXT COLLATE "C",
    actor  TEXT COLLATE "C" NOT NULL,
    action TEXT COLLATE "C" NOT NULL,
    body   TEXT NOT NULL,
    prev   TEXT COLLATE "C" NOT NULL,
    hash   TEXT COLLATE "C" NOT NULL
);

-- DPoP proofs and client assertions already seen (hashes of their jti), until they expire.
CREATE TABLE proofs_seen (
    id         TEXT COLLATE "C" PRIMARY KEY,
    expires_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX proofs_by_expiry ON proofs_seen (expires_at);

-- The last transaction of each connection that writes: after a connection is lost during a commit, its row tells whether
-- the commit took place.
CREATE TABLE writers (
    id   TEXT COLLATE "C" PRIMARY KEY,
    done BIGINT NOT NULL,                             -- the transaction that was committed
    kept BIGINT NOT NULL,                             -- the transaction that is on the disk, with all before it
    seen DOUBLE PRECISION NOT NULL                    -- rows of connections long gone are removed
) WITH (fillfactor = 50);
