-- Several sources an index, what is known of each without reading it, documents that failed, and tenants.

-- What a listing said of a container (a file, a page, a row, one side of a dataset) when it was last read. Equal
-- stamps (size and time, etag, row version) only mean that it is not read again: hashes decide what changed.
create table source_container (
    index_id integer not null references search_index,
    source text not null,
    container text not null,
    stamp text not null,
    primary key (index_id, source, container)
);

create table source_state (
    index_id integer not null references search_index,
    source text not null,
    -- Of the last finished run. Another digest of the settings: all is read again.
    settings bytea,
    -- Digest of all stamps: an equal one means nothing to do. Null where the next run must look closer.
    manifest bytea,
    -- Where the next incremental listing begins; moved by the closing transaction only.
    watermark text not null default '',
    runs_since_rehash integer not null default 0,
    -- The run that moved it last; an older run that ends later leaves it alone.
    run_id bigint not null default 0,
    primary key (index_id, source)
);

-- What a run found out about its sources; the closing transaction moves it to the two tables above.
create table refresh_source (
    run_id bigint not null references refresh_run on delete cascade,
    source text not null,
    settings bytea not null,
    manifest bytea,
    watermark text not null,
    rehashed boolean not null,
    -- The config no longer names it.
    removed boolean not null default false,
    primary key (run_id, source)
);

create table refresh_container (
    run_id bigint not null references refresh_run on delete cascade,
    source text not null,
    container text not null,
    -- Null: it is gone.
    stamp text
);

alter table document
    add column container text not null default '',
    add column tenant text not null default 'public',
    add column language text not null default '',
    add column title text not null default '',
    add column metadata jsonb not null default '{}',
    add column updated_at timestamptz;
-- The one source of an index was called so before sources had names.
update document set container = key, source = 'documents';
insert into source_state (index_id, source) select distinct index_id, source from document;
create index document_container on document (index_id, source, container);
create index document_metadata on document using gin (metadata jsonb_path_ops);

-- Row-level security needs the tenant in every table that a search reads.
alter table chunk add column tenant text not null default 'public', add column language text not null default '';
do $$
declare
    found integer;
begin
    for found in select generation_id from generation loop
        execute format('alter table chunk_vector_%s add column tenant text not null default ''public''', found);
    end loop;
end $$;

-- Documents that could not be read, cut or embedded. What the index holds of them goes on being served.
create table document_failure (
    index_id integer not null references search_index,
    source text not null,
    key text not null,
    container text not null,
    content_hash bytea,
    attempts integer not null,
    -- Null: quarantined; only a changed document is tried again.
    next_try_at timestamptz,
    error_class text not null,
    error text not null,
    first_failed_at timestamptz not null default now(),
    -- The run that failed on it last.
    run_id bigint not null,
    primary key (index_id, source, key)
);

-- The day on which a vector was made or its text last left an index: unused ones are kept for some days from then.
alter table embedding_cache rename column created_on to used_on;

-- What is unchanged is counted when a run ends. Tokens as the model reads them, of the texts that it encoded.
alter table refresh_run
    drop column documents_unchanged,
    add column tokens_embedded bigint not null default 0;

-- What a provider was paid, in the currency of the config; each shard may spend its part of the limit.
create table refresh_cost (
    run_id bigint not null references refresh_run on delete cascade,
    shard integer not null,
    cost double precision not null,
    primary key (run_id, shard)
);

-- A run may fill two generations: the one that answers and the one that is built beside it.
alter table refresh_plan
    add column generation_id integer,
    add column container text not null default '',
    add column error_class text not null default '',
    drop constraint refresh_plan_outcome_check,
    -- stranded: the generation's own model is not there any more
    add check (outcome in ('published', 'superseded', 'vanished', 'refused', 'stranded'));
update refresh_plan p set generation_id = r.generation_id, source = 'documents', container = key
    from refresh_run r where r.run_id = p.run_id;
alter table refresh_plan
    alter column generation_id set not null,
    drop constraint refresh_plan_pkey,
    add primary key (run_id, generation_id, source, key);
