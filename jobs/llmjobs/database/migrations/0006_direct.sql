-- Documents that came by upsert and by no source: kept whole, so that another chunker or model can read them again.
-- The reader's role has no right here; what it may see is in document and chunk.
create table direct_document (
    index_id integer not null references search_index on delete cascade,
    key text not null,
    -- As the refresh hashes it; it is the stamp that says whether the document must be read again.
    stamp text not null,
    document jsonb not null,
    primary key (index_id, key)
);
