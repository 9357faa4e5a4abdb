-- How generations take over from one another.

-- building: filled beside the one that answers; active: answers; former: answered before and is kept up to date, so
-- that one statement brings it back; retired: dropped by the next run.
alter table generation
    drop constraint generation_state_check,
    add constraint generation_state_check check (state in ('building', 'active', 'former', 'retired')),
    -- What the gates said when it was to take over, as a list of {name, passed, sentence}.
    add column gates jsonb,
    add column replaced_at timestamptz;
