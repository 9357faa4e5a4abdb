-- Documents, chunks, vectors and the state of their refresh: one database, so one commit covers all of it.
--
--   search_index 1-n document 1-n document_state n-1 generation n-1 embedding_model 1-n embedding_cache
--                                      1-n chunk 1-1 chunk_vector_<generation_id>
--
-- A generation is what one embedding model and one chunker make of an index. Its vectors live in a table of
-- their own, chunk_vector_<generation_id> (chunk_id, document_id, embedding), made when the generation is:
-- dimensions differ, and dropping a table is free where deleting from an HNSW index is not. Vector rows are
-- inserted and deleted, never updated.

create table search_index (
    index_id integer generated always as identity primary key,
    name text not null unique
);

create table embedding_model (
    model_id integer generated always as identity primary key,
    -- Digest of everything that changes a vector: weights, tokenizer, pooling, precision, prefixes, length.
    fingerprint text not null unique,
    -- What builds the same embedder again, for queries.
    settings jsonb not null,
    dimensions integer not null check (dimensions > 0)
);

create table generation (
    generation_id integer generated always as identity primary key,
    index_id integer not null references search_index,
    model_id integer not null references embedding_model,
    chunker_fingerprint text not null,
    chunker jsonb not null,
    state text not null default 'building' check (state in ('building', 'active', 'retired')),
    created_at timestamptz not null default now(),
    activated_at timestamptz,
    -- Churn since the HNSW index was built: decides when a rebuild is cheaper than its upkeep.
    vectors_at_build bigint,
    inserted_since_build bigint not null default 0,
    deleted_since_build bigint not null default 0,
    unique (index_id, model_id, chunker_fingerprint)
);

create unique index generation_one_active on generation (index_id) where state = 'active';

create table document (
    document_id bigint generated always as identity primary key,
    index_id integer not null references search_index,
    -- Name of the source inside the index, and the document's path or URL inside the source.
    source text not null,
    key text not null,
    unique (index_id, source, key)
);

-- What of a document a generation holds. The plan compares content_hash with the source's listing.
create table document_state (
    generation_id integer not null references generation,
    document_id bigint not null references document,
    content_hash bytea not null check (length(content_hash) = 32),
    indexed_at timestamptz not null default now(),
    primary key (generation_id, document_id)
);

create index document_state_document on document_state (document_id);

-- chunk_id comes from the content (generation, document, heading, text, occurrence), so an insertion above
-- leaves the ids and vectors of all other chunks alone; only ordinal and offsets move. None of these three
-- is in an index, and the fill factor leaves room: PostgreSQL then updates in place (HOT).
create table chunk (
    chunk_id uuid primary key,
    generation_id integer not null,
    document_id bigint not null,
    ordinal integer not null,
    -- Characters (code points) of the document's text, end exclusive.
    start_char integer not null,
    end_char integer not null,
    heading text not null,
    content text not null,
    -- SHA-256 of the text that was embedded: prefix, heading and content.
    text_hash bytea not null check (length(text_hash) = 32),
    tokens integer not null,
    search tsvector not null generated always as (to_tsvector('english', heading || ' ' || content)) stored,
    foreign key (generation_id, document_id) references document_state
) with (fillfactor = 85);

create index chunk_document on chunk (generation_id, document_id);
create index chunk_text_hash on chunk (text_hash);
create index chunk_search on chunk using gin (search);

-- Every vector that was ever paid for, by content. Moved, copied and reverted texts cost nothing.
create table embedding_cache (
    model_id integer not null references embedding_model,
    text_hash bytea not null check (length(text_hash) = 32),
    embedding vector not null,
    created_on date not null default current_date,
    primary key (model_id, text_hash)
);

create table refresh_run (
    run_id bigint generated always as identity primary key,
    index_id integer not null references search_index,
    generation_id integer not null,
    state text not null default 'planned' check (state in ('planned', 'done')),
    dag_id text not null,
    dag_run_id text not null,
    code_version text not null,
    documents_unchanged integer not null,
    -- Texts that the model encoded; added to in the transaction that caches their vectors.
    texts_embedded bigint not null default 0,
    result jsonb,
    started_at timestamptz not null default now(),
    finished_at timestamptz
);

create index refresh_run_index on refresh_run (index_id, run_id);

-- One row per document that differs; gone when the run is done.
create table refresh_plan (
    run_id bigint not null references refresh_run on delete cascade,
    shard integer not null,
    source text not null,
    key text not null,
    operation text not null check (operation in ('add', 'change', 'delete')),
    content_hash bytea,
    previous_hash bytea,
    -- published, superseded (another run was there first), vanished (gone since the plan), refused (see reason)
    outcome text check (outcome in ('published', 'superseded', 'vanished', 'refused')),
    reason text not null default '',
    chunks_added integer not null default 0,
    chunks_changed integer not null default 0,
    chunks_deleted integer not null default 0,
    chunks_unchanged integer not null default 0,
    primary key (run_id, source, key)
);

create index refresh_plan_open on refresh_plan (run_id, shard) where outcome is null;
