-- What is run again and again: a row says what, the engine says when.
CREATE TABLE schedules (
    name       TEXT COLLATE "C" PRIMARY KEY,
    workflow   TEXT COLLATE "C" NOT NULL,
    input      TEXT NOT NULL,                   -- JSON
    settings   TEXT NOT NULL,                   -- JSON: options of its runs
    budget     TEXT NOT NULL,                   -- JSON: the limits of each
    principal  TEXT NOT NULL,                   -- JSON
    subject    TEXT COLLATE "C" NOT NULL,       -- issuer|tenant|subject: whose it is
    times      TEXT NOT NULL,                   -- when, as it was given
    created_at DOUBLE PRECISION NOT NULL
);
