-- What the report of a refresh tells beside the figures of its result.

-- The first documents of each kind of change that a run made, by name; how many there were stands in its result. They
-- have a table of their own because the record of a run stays under 1 KB, and a run that changed nothing writes none.
create table refresh_change (
    run_id bigint not null references refresh_run on delete cascade,
    -- move: the same content under another key; old_source and old_key say where it was.
    operation text not null check (operation in ('add', 'change', 'move', 'delete')),
    source text not null,
    key text not null,
    old_source text not null default '',
    old_key text not null default '',
    chunks_added integer not null,
    chunks_changed integer not null,
    chunks_deleted integer not null,
    primary key (run_id, source, key)
);

-- Bytes and recall after a run that changed the index, as the task `measure` found them; null after any other.
alter table refresh_run add column measured jsonb;
