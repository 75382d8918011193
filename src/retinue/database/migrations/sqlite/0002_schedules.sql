-- What is run again and again: a row says what, the engine says when.
CREATE TABLE schedules (
    name       TEXT PRIMARY KEY,
    workflow   TEXT NOT NULL,
    input      TEXT NOT NULL,                   -- JSON
    settings   TEXT NOT NULL,                   -- JSON: options of its runs
    budget     TEXT NOT NULL,                   -- JSON: the limits of each
    principal  TEXT NOT NULL,                   -- JSON
    subject    TEXT NOT NULL,       -- issuer|tenant|subject: whose it is
    times      TEXT NOT NULL,                   -- when, as it was given
    created_at REAL NOT NULL
);
