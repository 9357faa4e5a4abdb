-- Search: who may read what, the statistics that BM25 ranks by, and the functions that a reader may call.
--
-- A search runs as nightshift_reader. Row-level security shows that role the tenants that the transaction names
-- (nightshift.tenants, a JSON list, as a tenant's name may hold any character) and without them no row at all.
--
-- Under row-level security PostgreSQL takes no index for an operator that it does not trust to keep secrets, and it
-- trusts neither @@ nor @>. So the two look-ups that need a GIN index are functions that run as their owner, name the
-- tenants themselves and return ids; what belongs to the ids is read by the reader, through the policies.

do $$
begin
    if not exists (select from pg_roles where rolname = 'nightshift_reader') then
        begin
            create role nightshift_reader nologin;
        exception
            -- Another database of this server made it just now.
            when duplicate_object or unique_violation then null;
        end;
    end if;
    if exists (select from pg_roles where rolname = 'nightshift_reader' and (rolsuper or rolbypassrls)) then
        raise exception 'the role nightshift_reader must be neither superuser nor bypassrls, or tenants see one another';
    end if;
    if not pg_has_role(current_user, 'nightshift_reader', 'set') then
        execute format('grant nightshift_reader to %I', current_user);
    end if;
exception
    when insufficient_privilege then
        raise exception 'role % may not create nightshift_reader, or not take it on: an administrator must run once: '
            'create role nightshift_reader nologin; grant nightshift_reader to %;', current_user, current_user;
end $$;

create function nightshift_tenants() returns text[] language sql stable parallel safe as $$
    select array(select jsonb_array_elements_text(nullif(current_setting('nightshift.tenants', true), '')::jsonb))
$$;

-- The owner, who fills the tables, sees every row; so do roles that are members of the owner. The policies are not
-- forced on it: PostgreSQL has no COPY into a table whose policies hold for whoever copies.
create function restrict_to_tenants(of_table regclass) returns void language plpgsql as $$
begin
    execute format('alter table %s enable row level security', of_table);
    -- A sub-select is worked out once a statement, not once a row.
    execute format(
        'create policy reader on %s for select to nightshift_reader'
        ' using (tenant = any ((select nightshift_tenants())::text[]))', of_table);
    execute format('grant select on %s to nightshift_reader', of_table);
end $$;

-- Call it where a generation's vector table is made.
create function open_to_search(of_generation integer) returns void language plpgsql as $$
begin
    perform restrict_to_tenants(format('chunk_vector_%s', of_generation)::regclass);
    -- Exact search behind a narrow filter: the vectors of some documents, of tenants that may see them.
    execute format('create index chunk_vector_%1$s_document on chunk_vector_%1$s (tenant, document_id)', of_generation);
end $$;

select restrict_to_tenants('document'), restrict_to_tenants('chunk');
select open_to_search(generation_id) from generation;
grant select on search_index, embedding_model, generation to nightshift_reader;
create index document_tenant on document (index_id, tenant);

-- How texts of a language (ISO 639) become words. English where the text was too short to tell.
create function text_config(language text) returns regconfig language sql immutable parallel safe as $$
    select case language
        when '' then 'pg_catalog.english'
        when 'en' then 'pg_catalog.english'
        when 'de' then 'pg_catalog.german'
        when 'es' then 'pg_catalog.spanish'
        when 'fr' then 'pg_catalog.french'
        when 'it' then 'pg_catalog.italian'
        when 'nl' then 'pg_catalog.dutch'
        when 'pt' then 'pg_catalog.portuguese'
        when 'ru' then 'pg_catalog.russian'
        when 'sv' then 'pg_catalog.swedish'
        else 'pg_catalog.simple'
    end::regconfig
$$;

-- A GIN index has no room for plain columns (without an extension), so generation and tenant are in it as words of
-- their own: a search visits no chunk of another index, generation or tenant. No word of a text holds a space.
create function generation_word(generation_id integer) returns text language sql immutable parallel safe as $$
    select 'generation ' || generation_id::text
$$;

create function tenant_word(tenant text) returns text language sql immutable parallel safe as $$
    select 'tenant ' || md5(tenant)
$$;

alter table chunk drop column search;
alter table chunk add column search tsvector not null generated always as (
    to_tsvector(text_config(language), heading || ' ' || content)
    || array_to_tsvector(array[generation_word(generation_id), tenant_word(tenant)])
) stored;
create index chunk_search on chunk using gin (search);

-- Per tenant, so that no score tells what words another tenant's documents hold.
create table text_statistic (
    generation_id integer not null references generation on delete cascade,
    tenant text not null,
    language text not null,
    chunks bigint not null,
    tokens bigint not null,
    primary key (generation_id, tenant, language)
);

create table word_statistic (
    generation_id integer not null references generation on delete cascade,
    tenant text not null,
    word text collate "C" not null,
    -- In how many chunks it occurs.
    chunks bigint not null,
    primary key (generation_id, tenant, word)
);

-- Chunks that came or went since the statistics were counted, written by whatever transaction did it. Nothing is
-- written before a generation was counted once, so a first load pays nothing.
create table chunk_change (
    generation_id integer not null references generation on delete cascade,
    tenant text not null,
    language text not null,
    tokens integer not null,
    search tsvector not null,
    sign smallint not null
);
create index chunk_change_generation on chunk_change (generation_id);

create function note_chunk_changes() returns trigger language plpgsql as $$
begin
    if tg_op <> 'DELETE' then
        insert into chunk_change select generation_id, tenant, language, tokens, search, 1 from added
        where generation_id in (select generation_id from text_statistic join generation using (generation_id)
                                where state <> 'retired');
    end if;
    if tg_op <> 'INSERT' then
        insert into chunk_change select generation_id, tenant, language, tokens, search, -1 from removed
        where generation_id in (select generation_id from text_statistic join generation using (generation_id)
                                where state <> 'retired');
    end if;
    return null;
end $$;

create trigger chunk_added after insert on chunk
    referencing new table as added for each statement execute function note_chunk_changes();
create trigger chunk_removed after delete on chunk
    referencing old table as removed for each statement execute function note_chunk_changes();

-- The words of a tsvector without the two that stand for generation and tenant. Very long ones (base64, hashes) are
-- not counted: each is rare, and an index entry has a limit.
create function counted_words(search tsvector) returns setof text language sql immutable as $$
    select lexeme from unnest(search) where lexeme !~ ' ' and octet_length(lexeme) <= 200
$$;

-- Bring the statistics of a generation up to date; returns what was done: kept, changed or counted.
-- One that is unchanged costs one look-up. One that was never counted, or whose sums do not agree, is counted anew.
create function refresh_statistics(of_generation integer) returns text language plpgsql as $$
begin
    if exists (select from text_statistic where generation_id = of_generation)
        and not exists (select from chunk_change where generation_id = of_generation) then
        return 'kept';
    end if;
    -- One at a time: two that add the same change would count it twice, or wait in a circle.
    perform pg_advisory_xact_lock(1465139796, of_generation);  -- "WORD"
    perform add_chunk_changes(of_generation);
    if statistics_agree(of_generation) then
        return 'changed';
    end if;
    perform count_words(of_generation);
    return 'counted';
end $$;

create function add_chunk_changes(of_generation integer) returns void language plpgsql as $$
begin
    if not exists (select from text_statistic where generation_id = of_generation) then
        return;
    end if;
    with taken as (
        delete from chunk_change where generation_id = of_generation returning *
    ), texts as (
        insert into text_statistic as s
        select of_generation, tenant, language, sum(sign), sum(sign * tokens) from taken group by tenant, language
        on conflict (generation_id, tenant, language)
        do update set chunks = s.chunks + excluded.chunks, tokens = s.tokens + excluded.tokens
    )
    insert into word_statistic as s
    select of_generation, tenant, word, sum(sign) from taken, counted_words(search) word
    group by tenant, word having sum(sign) <> 0
    on conflict (generation_id, tenant, word) do update set chunks = s.chunks + excluded.chunks;
    delete from word_statistic where generation_id = of_generation and chunks <= 0;
    delete from text_statistic where generation_id = of_generation and chunks <= 0;
end $$;

create function statistics_agree(of_generation integer) returns boolean language plpgsql as $$
declare
    differ boolean;
begin
    execute format($query$
        select exists (
            select from (select tenant, count(*) as n from chunk_vector_%s group by tenant) held
            full join (select tenant, sum(chunks) as n from text_statistic where generation_id = $1 group by tenant)
                counted using (tenant)
            where held.n is distinct from counted.n
        )
    $query$, of_generation) into differ using of_generation;
    return not differ;
end $$;

-- One statement, so one snapshot: a chunk that is published meanwhile is counted here or stays a change, never both.
create function count_words(of_generation integer) returns void language sql as $$
    with gone as (
        delete from chunk_change where generation_id = of_generation
    ), texts as materialized (
        select tenant, language, count(*) as chunks, sum(tokens) as tokens from chunk
        where generation_id = of_generation group by tenant, language
    ), words as materialized (
        select t.tenant, s.word, s.ndoc as chunks
        from (select distinct tenant from texts) t,
            ts_stat(format('select search from chunk where generation_id = %s and tenant = %L',
                           of_generation, t.tenant)) s
        where s.word !~ ' ' and octet_length(s.word) <= 200
    ), old_texts as (
        delete from text_statistic o where generation_id = of_generation
        and not exists (select from texts t where t.tenant = o.tenant and t.language = o.language)
    ), old_words as (
        delete from word_statistic o where generation_id = of_generation
        and not exists (select from words w where w.tenant = o.tenant and w.word = o.word)
    ), new_texts as (
        insert into text_statistic select of_generation, tenant, language, chunks, tokens from texts
        on conflict (generation_id, tenant, language)
        do update set chunks = excluded.chunks, tokens = excluded.tokens
    )
    insert into word_statistic select of_generation, tenant, word, chunks from words
    on conflict (generation_id, tenant, word) do update set chunks = excluded.chunks
    where word_statistic.chunks <> excluded.chunks
$$;

-- The words of a question as the texts of a generation hold them, each once, with the number of chunks that hold it.
-- Stop words of English are none, whatever the language: where texts of several languages meet, they would be rare
-- and weigh much.
create function question_words(of_generation integer, question text, tenants text[])
returns table (word text, query tsquery, chunks bigint) language sql stable as $$
    with asked as (
        select lexeme from unnest(to_tsvector('simple', question)) where to_tsvector('english', lexeme) <> ''
    ), configs as (
        select distinct text_config(language) as config from text_statistic
        where generation_id = of_generation and tenant = any (tenants)
        union select 'pg_catalog.english'::regconfig
    ), words as (
        select distinct u.lexeme as word from asked, configs, unnest(to_tsvector(config, asked.lexeme)) u
    )
    select w.word, ('''' || replace(replace(w.word, '\', '\\'), '''', '''''') || '''')::tsquery,
        coalesce(sum(s.chunks), 0)::bigint
    from words w left join word_statistic s
        on s.generation_id = of_generation and s.tenant = any (tenants) and s.word = w.word collate "C"
    group by w.word
$$;

-- How often a word occurs in a text (255 at most, as PostgreSQL keeps no more places). For one word and equal weights
-- ts_rank is 6 / pi^2 times the sum of 1 / j^2 over j = 1 .. n, and what that lacks to 1 is 6 / pi^2 / (n + 1/2), nearly.
-- Reading the places themselves (unnest) takes five times as long.
create function occurrences(search tsvector, word tsquery) returns double precision language sql immutable as $$
    select round(1 / (1.64493406685 * (1 - ts_rank('{1, 1, 1, 1}', search, word)::float8)) - 0.5)
$$;

-- Chunks of the tenants at hand that hold a word of the question, ranked by Okapi BM25 (k1 1.2, b 0.75; Robertson and
-- Zaragoza 2009; inverse document frequency as in Lucene, never negative).
--
-- Args: only_documents: chunks of these documents, in place of all. most: the rarest words choose about so many chunks;
-- the other words only add to their scores. Exact where the words of a question are in no more chunks than that.
create function bm25(of_generation integer, question text, only_documents bigint[], most integer)
returns table (chunk_id uuid, document_id bigint, score double precision)
language plpgsql stable security definer set plan_cache_mode = force_custom_plan as $$
declare
    tenants constant text[] := nightshift_tenants();
    held record;
    asked record;
    allowed tsquery;
begin
    select coalesce(sum(t.chunks), 0) as chunks, coalesce(sum(t.tokens), 0) / greatest(sum(t.chunks), 1) as mean_tokens
    into held from text_statistic t where t.generation_id = of_generation and t.tenant = any (tenants);
    select array_agg(w.query order by w.word) as queries,
        array_agg(ln(1 + (greatest(held.chunks, w.chunks) - w.chunks + 0.5) / (w.chunks + 0.5)) order by w.word)
            ::double precision[] as weights,
        string_agg(w.query::text, ' | ') filter (where w.before < most)::tsquery as choosing
    into asked from (
        select q.*, coalesce(sum(q.chunks) over (order by q.chunks, q.word rows between unbounded preceding
                                                 and 1 preceding), 0) as before
        from question_words(of_generation, question, tenants) q
    ) w;
    if asked.choosing is null or cardinality(tenants) = 0 then
        return;
    end if;
    select string_agg('''' || tenant_word(t) || '''', ' | ')::tsquery into allowed from unnest(tenants) t;
    allowed := allowed && ('''' || generation_word(of_generation) || '''')::tsquery;
    return query
    select c.chunk_id, c.document_id, (
        select sum(n.weight * 2.2 * n.times
                   / (n.times + 1.2 * (0.25 + 0.75 * c.tokens / greatest(held.mean_tokens, 1)::float8)))
        from (select weight, occurrences(c.search, query) as times
              from unnest(asked.queries, asked.weights) as u (query, weight)) n
    )
    from chunk c
    where c.generation_id = of_generation and c.tenant = any (tenants) and c.search @@ asked.choosing
        and case when only_documents is null then c.search @@ allowed else c.document_id = any (only_documents) end;
end $$;

-- Documents of the tenants at hand whose metadata hold all that `wanted` holds.
create function documents_holding(of_index integer, wanted jsonb) returns setof bigint
language sql stable security definer as $$
    select document_id from document
    where index_id = of_index and metadata @> wanted and tenant = any ((select nightshift_tenants())::text[])
$$;

-- When the index was last brought up to date, and how far its sources had come: {source: watermark}.
create function freshness(of_index integer) returns table (refreshed_at timestamptz, watermarks jsonb)
language sql stable security definer as $$
    select (select finished_at from refresh_run where index_id = of_index and state = 'done' order by run_id desc limit 1),
        (select coalesce(jsonb_object_agg(source, watermark), '{}') from source_state
         where index_id = of_index and watermark <> '')
$$;

-- The words that a question is ranked by, with the number of chunks of the tenants at hand that hold each.
create function words_of(of_generation integer, question text) returns table (word text, chunks bigint)
language sql stable security definer as $$
    select word, chunks from question_words(of_generation, question, nightshift_tenants()) order by chunks, word
$$;

-- What runs as its owner finds our tables first, whatever a caller puts on the path.
do $$
declare
    of_owner regprocedure;
begin
    foreach of_owner in array array['bm25(integer, text, bigint[], integer)', 'documents_holding(integer, jsonb)',
                                    'freshness(integer)', 'words_of(integer, text)']::regprocedure[] loop
        execute format('alter function %s set search_path = pg_catalog, %I, pg_temp', of_owner, current_schema());
        execute format('revoke execute on function %s from public', of_owner);
        execute format('grant execute on function %s to nightshift_reader', of_owner);
    end loop;
end $$;
