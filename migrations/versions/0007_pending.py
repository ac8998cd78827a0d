"""Events for later get into the log, and transactions of others can publish.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"

# What ``tidings.publish`` goes by; the instances keep it as their settings say.
SETTINGS = """
alter table tidings.log
    add column max_data integer not null default 32768,
    add column schedule_horizon double precision not null default 7776000,
    add column callbacks boolean not null default false,
    add column sql_notify boolean not null default true;
comment on column tidings.log.max_data is 'Bytes of data that tidings.publish takes';
comment on column tidings.log.schedule_horizon is 'Seconds that an event may be put off';
comment on column tidings.log.callbacks is 'Whether a producer can be called back';
comment on column tidings.log.sql_notify is 'Whether tidings.publish wakes the instances';
"""

# Moves what is due into the log, by (due_at, id): at most ``_entries`` entries and ``_bytes`` bytes, but at
# least one event. Nothing is locked where nothing is due. One instance moves at a time, else groups of
# one transaction could overtake each other; it claims first and takes the append's lock then, never the
# other way round. ``wait`` is when the next is due, in seconds, negative where it has been; with nothing
# moved it says that another instance is at it.
#
# With ``_back`` only what has been due for less than that is looked at. While any transaction is open, what
# is moved cannot be vacuumed away, and would be walked over again each time, from the oldest on.
#
# Of a key that was used within ``_window``, or stands in the group twice, only the first is appended.
# An event that the log refuses raises; where it stands alone, it is marked, and named in ``failed``.
RELEASE = """
create function tidings.release(
    _seen bigint, _window interval, _entries integer, _bytes integer, _back interval,
    out wait double precision, out moved integer, out repeated integer, out head bigint,
    out failed bigint, out reason text
) language plpgsql as $$
declare
    clock timestamptz := clock_timestamp();
    since timestamptz := coalesce(clock - _back, '-infinity');
    due timestamptz;
    claimed bigint[];
    kept bigint[];
    appended record;
begin
    select p.due_at into due from tidings.pending p
        where p.failed is null and p.due_at >= since order by p.due_at, p.id limit 1;
    wait := extract(epoch from due - clock);
    moved := 0;
    repeated := 0;
    if due is null or due > clock or not pg_try_advisory_xact_lock(32766977284925307) then
        return;
    end if;
    select array_agg(c.id order by c.n) into claimed
        from (select d.id, row_number() over w as n, sum(d.entries) over w as entries,
                     sum(d.entries * d.bytes) over w as bytes
              from (select p.id, p.due_at, greatest(cardinality(p.addresses), 1) as entries,
                           octet_length(p.data) + coalesce(octet_length(p.exclude), 0)::bigint as bytes
                    from tidings.pending p where p.failed is null and p.due_at between since and clock
                    order by p.due_at, p.id limit _entries for update skip locked) d
              window w as (order by d.due_at, d.id)) c
        where c.n = 1 or (c.entries <= _entries and c.bytes <= _bytes);
    if claimed is null then
        return;
    end if;
    select array_agg(u.id order by u.n) into kept
        from (select c.n, p.id, p.key, row_number() over (partition by p.producer, p.key order by c.n) as use
              from unnest(claimed) with ordinality as c(id, n) join tidings.pending p using (id)) u
        where u.key is null or u.use = 1;
    begin
        with units as materialized (
            select k.n::integer, p.*,
                   (sum(cardinality(p.addresses)) over (order by k.n)
                    - cardinality(p.addresses))::integer as at
            from unnest(kept) with ordinality as k(id, n) join tidings.pending p using (id)
        ), entries as materialized (
            select u.*, a.address, (a.n - 1)::integer as lead, (u.at + a.n - 1)::integer as entry
            from units u cross join unnest(u.addresses) with ordinality as a(address, n)
        ), log as (
            select coalesce(array_agg(e.n order by e.entry), '{}') as n,
                   coalesce(array_agg(e.address order by e.entry), '{}') as address,
                   coalesce(array_agg(e.type order by e.entry), '{}') as type,
                   coalesce(array_agg(e.data order by e.entry), '{}') as data,
                   array_agg(e.lead order by e.entry) as lead,
                   array_agg(coalesce(e.event_id, e.id::text) order by e.entry) as id,
                   array_agg(e.exclude order by e.entry) as exclude,
                   array_agg(e.lifetime order by e.entry) as lifetime,
                   array_agg(e.collapse_key order by e.entry) as collapse_key,
                   json_agg(json_build_object('entry', e.entry, 'after', e.undelivered_after,
                                              'unless_read', coalesce(e.unless_read, false)))
                       filter (where e.undelivered_after is not null and e.address like 'user:%') as watched
            from entries e
        ), keyed as (
            select coalesce(array_agg(u.n order by u.n), '{}') as n,
                   array_agg(u.producer order by u.n) as producer,
                   array_agg(u.key order by u.n) as key, array_agg(u.at order by u.n) as at,
                   array_agg(cardinality(u.addresses) order by u.n) as entries
            from units u where u.key is not null
        )
        select a.first, a.last, coalesce(json_array_length(a.repeats::json), 0) as repeats into appended
            from log l, keyed k, tidings.append(
                gen_random_uuid(), _seen, false, _window,
                l.n, '{}', l.address, l.type, l.data, l.lead, l.id, '{}', l.exclude,
                l.lifetime, l.collapse_key,
                k.n, k.n, k.producer, k.key, array_fill(null::bytea, array[cardinality(k.n)]), k.at,
                k.entries, null, l.watched::text) a;
    exception when data_exception or integrity_constraint_violation then
        if cardinality(claimed) > 1 or sqlerrm like '%no partition%' then
            raise;
        end if;
        failed := claimed[1];
        reason := sqlerrm;
        update tidings.pending p set failed = reason where p.id = release.failed;
        return;
    end;
    -- Whoever repeats the id of an event that was put off is told from now on where it stands.
    update tidings.idempotency_keys i set position = appended.first + m.at, entries = m.entries
        from (select p.id, p.event_id, p.key, cardinality(p.addresses) as entries,
                     sum(cardinality(p.addresses)) over (order by c.n) - cardinality(p.addresses) as at
              from unnest(kept) with ordinality as c(id, n) join tidings.pending p using (id)) m
        where i.pending[1] = m.id and i.fingerprint is null and i.pending is not null
          and m.event_id is not null and m.key is null;
    delete from tidings.pending p where p.id = any (claimed);
    repeated := cardinality(claimed) - cardinality(kept) + appended.repeats;
    moved := cardinality(claimed) - repeated;
    head := appended.last;
end $$;
"""

# What is wrong with an event, as over HTTP: each refusal names the argument.
CHECK = """
create function tidings.refuse(_argument text, _message text, _hint text default null) returns void
language plpgsql as $$
begin
    if _hint is null then
        raise exception '%: %', _argument, _message using errcode = 'invalid_parameter_value';
    end if;
    raise exception '%: %', _argument, _message using errcode = 'invalid_parameter_value', hint = _hint;
end $$;

create function tidings.is_text(_text text, _limit integer) returns boolean language sql immutable as $$
    select coalesce(length(_text) between 1 and _limit and _text !~ '[\\u0001-\\u001f\\u007f-\\u009f]', false)
$$;
comment on function tidings.is_text is 'Whether it has 1 to so many characters, and no control characters';

create function tidings.is_address(_address text) returns boolean language sql immutable as $$
    select coalesce(case
        when _address like 'user:%' then tidings.is_text(substr(_address, 6), 256)
        when _address like 'room:%' then substr(_address, 6) ~ '^[A-Za-z0-9_.:-]{1,128}$'
        else _address = 'everyone'
    end, false)
$$;

create function tidings.depth(_data text) returns bigint language sql immutable as $$
    select coalesce(max(d.depth), 0) from (
        select sum(case when b.bracket in ('[', '{') then 1 else -1 end) over (order by b.n) as depth
        from regexp_split_to_table(
            regexp_replace(regexp_replace(_data, '"(\\\\.|[^"\\\\])*"', '', 'g'), '[^][{}]', '', 'g'), '')
            with ordinality as b(bracket, n)
        where b.bracket <> '') d
$$;
comment on function tidings.depth is 'How deep JSON text is nested';
"""

# Within the caller's transaction, and whatever becomes of that: it takes no lock that anybody waits for.
# An id is resolved when it is moved, for the same reason. All of one transaction is due at one instant, its
# start, so that it stays in the order of the ids.
PUBLISH = """
create function tidings.publish(
    address text default null, type text default null, data json default 'null', id text default null,
    ttl double precision default null, collapse_key text default null, exclude text[] default null,
    deliver_at timestamptz default null, undelivered_after double precision default null,
    undelivered_unless text default null, addresses text[] default null
) returns bigint language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    receivers text[] := coalesce(addresses, array[address]);
    body text := coalesce(data::text, 'null');
    size bigint := octet_length(body);
    excluded text := array_to_json(nullif(exclude, '{}'))::text;
    wrong text;
    settings tidings.log;
    pending bigint;
begin
    select l.* into settings from tidings.log l;
    if getdatabaseencoding() <> 'UTF8' then
        raise exception 'tidings.publish needs a database with the encoding UTF8'
            using errcode = 'feature_not_supported';
    end if;
    if (address is null) = (addresses is null) then
        perform tidings.refuse('address', 'give either address or addresses');
    end if;
    if array_ndims(receivers) is distinct from 1 or cardinality(receivers) > 1000 then
        perform tidings.refuse('addresses', '1 to 1000 addresses', 'Use a room where there are more.');
    end if;
    select a.address into wrong from unnest(receivers) as a(address)
        where not tidings.is_address(a.address) limit 1;
    if found then
        perform tidings.refuse(case when address is null then 'addresses' else 'address' end,
            format('%L is not an address', left(wrong, 300)),
            'An address is user:<id> with 1 to 256 characters and no control characters,'
            ' room:<name> with 1 to 128 out of A-Z a-z 0-9 _ . : -, or everyone.');
    end if;
    select array_agg(f.address order by f.n) into receivers
        from (select a.address, min(a.n) as n from unnest(receivers) with ordinality as a(address, n)
              group by a.address) f;
    if not tidings.is_text(type, 128) then
        perform tidings.refuse('type', 'must have 1 to 128 characters, none of them control characters');
    end if;
    if size > settings.max_data then
        perform tidings.refuse('data', format('must be at most %s bytes', settings.max_data));
    end if;
    if length(translate(body, '[{', '')) < length(body) - 64 and tidings.depth(body) > 64 then
        perform tidings.refuse('data', 'must not be nested deeper than 64');
    end if;
    if id is not null and not tidings.is_text(id, 255) then
        perform tidings.refuse('id', 'must have 1 to 255 characters, none of them control characters');
    end if;
    if not (ttl > 0 and ttl <= 315360000) then
        perform tidings.refuse('ttl', 'must be more than 0 and at most 315360000 seconds');
    end if;
    if collapse_key is not null and not tidings.is_text(collapse_key, 255) then
        perform tidings.refuse('collapse_key',
            'must have 1 to 255 characters, none of them control characters');
    end if;
    if cardinality(exclude) > 0 and array_ndims(exclude) <> 1 or cardinality(exclude) > 100 then
        perform tidings.refuse('exclude', 'at most 100 users');
    end if;
    select e.name into wrong from unnest(exclude) as e(name) where not tidings.is_text(e.name, 256) limit 1;
    if found then
        perform tidings.refuse('exclude', format('%L is not the id of a user', left(wrong, 300)),
            'Give ids as alice, without user:, with 1 to 256 characters and no control characters.');
    end if;
    if deliver_at > now() + make_interval(secs => settings.schedule_horizon) then
        perform tidings.refuse('deliver_at',
            format('must be within %s s from now', settings.schedule_horizon));
    end if;
    if undelivered_after is not null then
        if not (undelivered_after > 0 and undelivered_after <= 2592000) then
            perform tidings.refuse('undelivered_after', 'must be more than 0 and at most 2592000 seconds');
        elsif exists (select from unnest(receivers) as a(address) where a.address not like 'user:%') then
            perform tidings.refuse('undelivered_after', 'only an event to users can be undelivered');
        elsif not settings.callbacks then
            perform tidings.refuse('undelivered_after', 'this service has no endpoint to call back');
        end if;
    elsif undelivered_unless is not null then
        perform tidings.refuse('undelivered_unless', 'goes with undelivered_after');
    end if;
    if undelivered_unless not in ('received', 'read') then
        perform tidings.refuse('undelivered_unless', 'must be received or read');
    end if;
    if (size + coalesce(octet_length(excluded), 0)) * cardinality(receivers) > 8388608 then
        perform tidings.refuse('data', 'data and exclude, once for each address, are more than 8 MiB',
            'Use a room where there are many receivers.');
    end if;
    insert into tidings.pending as p
            (due_at, producer, addresses, type, data, event_id, key, exclude, lifetime, collapse_key,
             undelivered_after, unless_read)
        values (greatest(deliver_at, now()), 'sql:' || session_user, receivers, publish.type, body,
                publish.id, 'id:' || publish.id, excluded, ttl, publish.collapse_key,
                publish.undelivered_after, coalesce(undelivered_unless = 'read', false))
        returning p.id into pending;
    if settings.sql_notify then
        perform pg_notify('tidings.pending', '');
    end if;
    return pending;
end $$;
revoke all on function tidings.publish from public;
comment on function tidings.publish is 'Publish an event, if and when the transaction commits';
"""

DOWN = """
drop function tidings.publish;
drop function tidings.depth, tidings.is_address, tidings.is_text, tidings.refuse;
drop function tidings.release;
alter table tidings.log
    drop column max_data, drop column schedule_horizon, drop column callbacks, drop column sql_notify;
"""


def upgrade() -> None:
    for part in (SETTINGS, RELEASE, CHECK, PUBLISH):
        _run(part)


def downgrade() -> None:
    _run(DOWN)


def _run(script: str) -> None:
    """Run several statements in the migration's own transaction; a prepared one could hold one only."""
    op.get_bind().connection.dbapi_connection.run_async(lambda driver: driver.execute(script))
