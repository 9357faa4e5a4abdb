-- How generations take over from one another.

-- building: filled beside the one that answers; active: answers; former: answered before and is kept up to date, so
-- that one statement brings it back; retired: dropped by the next run.
alter table generation
    drop constraint generation_state_check,
    add constraint generation_state_check check (state in ('building', 'active', 'former', 'retired')),
    -- What the gates said when it was to take over, as a list of {name, passed, sentence}.
    add column gates jsonb,
    -- When it stopped answering, and whether a person sent it away: then it does not come back by itself.
    add column replaced_at timestamptz,
    add column held boolean not null default false,
    -- How its vectors are stored and indexed; another way is another generation.
    add column storage jsonb not null
        default '{"type": "vector", "index": "hnsw", "m": 16, "ef_construction": 64}',
    drop constraint generation_index_id_model_id_chunker_fingerprint_key,
    add unique (index_id, model_id, chunker_fingerprint, storage);
