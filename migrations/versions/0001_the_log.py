"""The log, who reads it, and who may.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
create table tidings.log (
    one boolean primary key default true check (one),
    identity uuid not null default gen_random_uuid(),
    floor bigint not null default 0,
    system_identifier bigint not null,
    timeline text not null,
    partitioned_to bigint not null default 0,
    readable_by integer not null default 1
);
comment on table tidings.log is 'One row: the identity of the log and its bounds';
comment on column tidings.log.floor is 'Retention floor: entries at or below it are gone';
comment on column tidings.log.partitioned_to is 'Positions below it have a partition';
comment on column tidings.log.readable_by is 'The oldest schema version whose code can run on this one';

create table tidings.lineage (
    id bigint generated always as identity primary key,
    lost_from bigint not null,
    lost_to bigint not null,
    system_identifier bigint not null,
    timeline text not null,
    at timestamptz not null default clock_timestamp()
);
comment on table tidings.lineage is
    'Restores and failovers: positions strictly between lost_from and lost_to were lost or never used';

create sequence tidings.position as bigint maxvalue 9007199254740991;

create table tidings.events (
    position bigint not null primary key,
    kind text not null,
    address text not null,
    type text not null,
    data text not null,
    time timestamptz not null,
    lead integer not null,
    id text,
    sender text,
    exclude text,
    batch uuid
) partition by range (position);
create index events_by_address on tidings.events (address, position);
comment on column tidings.events.lead is 'How many entries of the same POST stand before this one';
comment on column tidings.events.id is 'The producer''s; where null, position - lead';
comment on column tidings.events.exclude is 'JSON array of users, or of user LF device, who do not get it';
comment on column tidings.events.batch is 'Of the group commit, on its first entry only';

create table tidings.idempotency_keys (
    producer text not null,
    key text not null,
    position bigint not null,
    entries integer not null,
    created_at timestamptz not null,
    primary key (producer, key)
);
create index idempotency_keys_by_age on tidings.idempotency_keys (created_at);

create table tidings.users (
    user_id text primary key,
    first_seen bigint not null
);
comment on column tidings.users.first_seen is 'Head of the log when the user first connected';

create table tidings.devices (
    user_id text not null,
    device text not null,
    start bigint not null,
    cursor bigint not null,
    seen_at timestamptz not null default clock_timestamp(),
    primary key (user_id, device)
) with (fillfactor = 80);
create index devices_by_age on tidings.devices (seen_at);

create table tidings.memberships (
    user_id text not null,
    room text not null,
    since bigint not null,
    until bigint,
    source text not null check (source in ('api', 'client')),
    primary key (user_id, room, since)
);
create unique index memberships_open on tidings.memberships (user_id, room) where until is null;
create index memberships_by_room on tidings.memberships (room, user_id) where until is null;

create table tidings.revocations (
    id text primary key,
    position bigint not null,
    jti text,
    user_id text,
    issued_before bigint,
    ban boolean not null default false,
    created_at timestamptz not null default clock_timestamp(),
    created_by text not null
);

create table tidings.api_keys (
    id text primary key,
    name text not null,
    secret_hash bytea not null,
    scopes text[] not null,
    addresses text[],
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz,
    last_used_at timestamptz
);

create table tidings.instances (
    id text primary key,
    seen_at timestamptz not null
);
comment on table tidings.instances is 'Leases: who has been seen lately is alive';
"""

# A duty makes partitions ahead; the append does it itself where a leap left it without one.
# CREATE … PARTITION OF would lock out every reader, so a table is made apart and attached.
PARTITIONS = """
create function tidings.ensure_partitions() returns bigint language plpgsql as $$
declare
    size constant bigint := 4194304;
    spare constant bigint := 2;
    reach bigint;
    wanted bigint;
    child text;
begin
    select (last_value / size + 1 + spare) * size into wanted from tidings.position;
    select partitioned_to into reach from tidings.log;
    if reach >= wanted then
        return reach;
    end if;
    select partitioned_to into reach from tidings.log for update;
    reach := greatest(reach, wanted - (1 + spare) * size);
    while reach < wanted loop
        child := 'events_' || reach;
        execute format('create table tidings.%I (like tidings.events including all)', child);
        execute format('alter table tidings.%I add constraint fits check (position >= %s and position < %s)',
                       child, reach, reach + size);
        execute format('alter table tidings.events attach partition tidings.%I for values from (%s) to (%s)',
                       child, reach, reach + size);
        execute format('alter table tidings.%I drop constraint fits', child);
        reach := reach + size;
    end loop;
    update tidings.log set partitioned_to = reach;
    return reach;
end $$;
"""

HEAD = """
create function tidings.head() returns bigint language sql stable as $$
    select greatest(
        (select position from tidings.events order by position desc limit 1),
        (select floor from tidings.log)
    )
$$;
comment on function tidings.head() is 'The last committed position; a sequence would count rolled-back ones';
"""

# Positions are never used twice: after a restore or a failover the sequence may stand where it has
# stood before, so it leaps past everything that anyone can have seen.
LINEAGE = """
create function tidings.check_lineage(head bigint, seen bigint) returns boolean language plpgsql as $$
declare
    leap constant bigint := 4294967296;
    here tidings.log;
    server bigint := (select system_identifier from pg_control_system());
    branch text := left(pg_walfile_name(pg_current_wal_lsn()), 8);
    drawn bigint;
begin
    select * into here from tidings.log;
    select last_value into drawn from tidings.position;
    if here.system_identifier = server and here.timeline = branch and drawn >= seen then
        return false;
    end if;
    drawn := greatest(drawn, seen) + leap;
    perform setval('tidings.position', drawn);
    update tidings.log set system_identifier = server, timeline = branch;
    insert into tidings.lineage (lost_from, lost_to, system_identifier, timeline)
        values (head, drawn, server, branch);
    return true;
end $$;
"""

# For an instance that finds the log behind what it has seen: nobody may draw those numbers again.
KEEP_AHEAD = """
create function tidings.keep_ahead(_seen bigint) returns boolean language plpgsql as $$
begin
    perform pg_advisory_xact_lock(32766977284925299);
    return tidings.check_lineage(tidings.head(), _seen);
end $$;
"""

# Appends one group and says where it went. ``_units`` numbers the request of each entry; the arrays
# that begin with ``_keyed`` describe the units that have a key: its producer, the key, the index of
# its first entry and how many it has. A unit whose key was used within ``_window`` is left out and
# named in ``replayed`` with its original position; its entries leave a gap in the positions.
APPEND = """
create function tidings.append(
    _batch uuid, _seen bigint, _retry boolean, _window interval,
    _units integer[], _kinds text[], _addresses text[], _types text[], _data text[],
    _leads integer[], _ids text[], _senders text[], _excludes text[],
    _keyed integer[], _keyed_producers text[], _keyed_keys text[],
    _keyed_at integer[], _keyed_entries integer[],
    out after bigint, out first bigint, out last bigint, out at timestamptz,
    out replayed integer[], out originals bigint[], out originals_entries integer[]
) language plpgsql as $$
declare
    begins integer := 1;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'tidings.append needs READ COMMITTED: an older snapshot would not see the head'
            using errcode = 'invalid_transaction_state';
    end if;
    if current_setting('synchronous_commit') = 'off' then
        perform set_config('synchronous_commit', 'on', true);
    end if;
    perform pg_advisory_xact_lock(32766977284925299);
    after := tidings.head();
    replayed := '{}';
    if _retry then
        select e.position, e.time into first, at from tidings.events e
            where e.position > _seen and e.batch = _batch order by e.position limit 1;
        if found then
            after := coalesce((select e.position from tidings.events e where e.position < first
                               order by e.position desc limit 1), _seen);
        end if;
    end if;
    if cardinality(_keyed) > 0 then
        select coalesce(array_agg(k.unit), '{}'), array_agg(i.position), array_agg(i.entries)
            into replayed, originals, originals_entries
            from unnest(_keyed, _keyed_producers, _keyed_keys) as k(unit, producer, key)
            join tidings.idempotency_keys i using (producer, key)
            where i.created_at > clock_timestamp() - _window
            and (first is null or i.position < first);
        select min(u.n) into begins from unnest(_units) with ordinality as u(unit, n)
            where u.unit <> all (replayed);
        if begins is null then
            return;
        end if;
    end if;
    if first is not null then
        first := first - (begins - 1);
        last := first + cardinality(_units) - 1;
        return;
    end if;
    perform tidings.check_lineage(after, _seen);
    first := nextval('tidings.position');
    last := first + cardinality(_units) - 1;
    if last > first then
        perform setval('tidings.position', last);
    end if;
    if last >= (select partitioned_to from tidings.log) then
        perform tidings.ensure_partitions();
    end if;
    at := date_trunc('milliseconds', clock_timestamp());
    insert into tidings.events
            (position, kind, address, type, data, time, lead, id, sender, exclude, batch)
        select first + e.n - 1, e.kind, e.address, e.type, e.data, at, e.lead, e.id, e.sender, e.exclude,
               case when e.n = begins then _batch end
        from unnest(_units, _kinds, _addresses, _types, _data, _leads, _ids, _senders, _excludes)
            with ordinality as e(unit, kind, address, type, data, lead, id, sender, exclude, n)
        where e.unit <> all (replayed);
    insert into tidings.idempotency_keys (producer, key, position, entries, created_at)
        select k.producer, k.key, first + k.index, k.entries, at
        from unnest(_keyed, _keyed_producers, _keyed_keys, _keyed_at, _keyed_entries)
            as k(unit, producer, key, index, entries)
        where k.unit <> all (replayed)
        on conflict (producer, key) do update
            set position = excluded.position, entries = excluded.entries, created_at = excluded.created_at;
end $$;

create function tidings.append_one(_seen bigint, _kind text, _address text, _type text, _data text)
returns bigint language sql as $$
    select first from tidings.append(
        gen_random_uuid(), _seen, false, '0', '{0}', array[_kind], array[_address], array[_type],
        array[_data], '{0}', '{null}', '{null}', '{null}', '{}', '{}', '{}', '{}', '{}')
$$;
"""

# One round trip for a connect: knows the user and the device afterwards, and says what is due.
# The last statement has one snapshot, so ``head`` and the memberships belong together.
SESSION = """
create function tidings.open_session(
    _user text, _device text, _after bigint, _max_devices integer,
    out head bigint, out floor bigint, out first_seen bigint, out cursor bigint,
    out rooms text[], out sources text[], out sinces bigint[], out untils bigint[]
) language plpgsql as $$
begin
    select d.cursor into cursor from tidings.devices d where d.user_id = _user and d.device = _device;
    if not found then
        insert into tidings.users as u (user_id, first_seen) values (_user, tidings.head())
            on conflict do nothing;
        if (select count(*) >= _max_devices from tidings.devices d where d.user_id = _user) then
            raise exception 'this user has % devices already', _max_devices
                using errcode = 'configuration_limit_exceeded';
        end if;
        insert into tidings.devices as d (user_id, device, start, cursor)
            select _user, _device, begun, begun from (
                select coalesce(max(o.cursor), (select l.floor from tidings.log l)) as begun
                from tidings.devices o where o.user_id = _user) as others
            on conflict do nothing;
        select d.cursor into cursor from tidings.devices d where d.user_id = _user and d.device = _device;
    end if;
    if _after > cursor then
        update tidings.devices d set cursor = _after
            where d.user_id = _user and d.device = _device and _after <= tidings.head();
    end if;
    select tidings.head(), l.floor, u.first_seen,
           coalesce(m.rooms, '{}'), coalesce(m.sources, '{}'),
           coalesce(m.sinces, '{}'), coalesce(m.untils, '{}')
        into head, floor, first_seen, rooms, sources, sinces, untils
        from tidings.log l, tidings.users u, lateral (
            select array_agg(i.room) as rooms, array_agg(i.source) as sources,
                   array_agg(i.since) as sinces, array_agg(i.until) as untils
            from tidings.memberships i
            where i.user_id = _user and (i.until is null or i.until > least(_after, open_session.cursor))
        ) m
        where u.user_id = _user;
end $$;
"""

# Joins and leaves: log entry and interval in one statement. What is so already is passed over.
# An API membership stands above a client's: it takes one over, and only the API can end it.
MEMBERS = """
create function tidings.change_members(
    _seen bigint, _rooms text[], _users text[], _joins boolean[], _source text, _max_rooms integer
) returns table (room text, user_id text, joins boolean, "position" bigint) language plpgsql as $$
declare
    rooms text[];
    users text[];
    joining boolean[];
    n integer;
    base bigint;
begin
    perform pg_advisory_xact_lock(32766977284925299);
    if _source = 'client' and exists (
        select from unnest(_rooms, _users, _joins) as a(room, user_id, joins)
        join tidings.memberships m using (room, user_id)
        where not a.joins and m.until is null and m.source = 'api')
    then
        raise exception 'the API made this membership, only the API can end it'
            using errcode = 'TD403';
    end if;
    -- Of several changes of one membership the last one counts, if it changes anything.
    select array_agg(c.room order by c.n), array_agg(c.user_id order by c.n), array_agg(c.joins order by c.n)
        into rooms, users, joining
        from (select distinct on (a.user_id, a.room) a.* from unnest(_rooms, _users, _joins)
                  with ordinality as a(room, user_id, joins, n)
              order by a.user_id, a.room, a.n desc) as c
        left join tidings.memberships m on m.room = c.room and m.user_id = c.user_id and m.until is null
        where case when c.joins then m.source is null or (m.source = 'client' and _source = 'api')
                   else m.source is not null end;
    n := coalesce(cardinality(rooms), 0);
    if n = 0 then
        return;
    end if;
    if exists (
        select from unnest(users, joining) as c(user_id, joins) where c.joins group by c.user_id
        having count(*) + (select count(*) from tidings.memberships m
                           where m.user_id = c.user_id and m.until is null) > _max_rooms)
    then
        raise exception 'this user is in % rooms already', _max_rooms
            using errcode = 'configuration_limit_exceeded';
    end if;
    base := (tidings.append(
        gen_random_uuid(), _seen, false, '0', array_fill(0, array[n]),
        array(select case when j then 'joined' else 'left' end from unnest(joining) j),
        array(select 'user:' || u from unnest(users) u), rooms, array_fill(_source, array[n]),
        array_fill(0, array[n]), array_fill(null::text, array[n]), array_fill(null::text, array[n]),
        array_fill(null::text, array[n]), '{}', '{}', '{}', '{}', '{}')).first - 1;
    update tidings.memberships m set until = base + c.n
        from unnest(rooms, users) with ordinality as c(room, user_id, n)
        where m.user_id = c.user_id and m.room = c.room and m.until is null;
    insert into tidings.memberships (user_id, room, since, source)
        select c.user_id, c.room, base + c.n, _source
        from unnest(rooms, users, joining) with ordinality as c(room, user_id, joins, n) where c.joins;
    return query select c.room, c.user_id, c.joins, base + c.n
        from unnest(rooms, users, joining) with ordinality as c(room, user_id, joins, n);
end $$;
"""

ADMIN = """
create function tidings.revoke(
    _seen bigint, _jti text, _user text, _issued_before bigint, _ban boolean, _by text,
    out id text, out "position" bigint
) language plpgsql as $$
begin
    id := gen_random_uuid();
    position := tidings.append_one(_seen, 'revoked', 'control', id, json_strip_nulls(json_build_object(
        'id', id, 'jti', _jti, 'user', _user, 'issued_before', _issued_before, 'ban', _ban))::text);
    insert into tidings.revocations (id, position, jti, user_id, issued_before, ban, created_by)
        values (revoke.id, revoke.position, _jti, _user, _issued_before, _ban, _by);
end $$;

create function tidings.lift_revocation(_seen bigint, _id text) returns bigint language plpgsql as $$
begin
    delete from tidings.revocations where id = _id;
    return case when found then tidings.append_one(_seen, 'lifted', 'control', _id, '') end;
end $$;

create function tidings.put_key(
    _seen bigint, _id text, _name text, _hash bytea, _scopes text[], _addresses text[], _expires timestamptz
) returns bigint language plpgsql as $$
begin
    insert into tidings.api_keys (id, name, secret_hash, scopes, addresses, expires_at)
        values (_id, _name, _hash, _scopes, _addresses, _expires);
    return tidings.append_one(_seen, 'key', 'control', _id, json_build_object(
        'id', _id, 'name', _name, 'secret_hash', encode(_hash, 'hex'), 'scopes', _scopes,
        'addresses', _addresses, 'expires_at', extract(epoch from _expires))::text);
end $$;

create function tidings.delete_key(_seen bigint, _id text) returns bigint language plpgsql as $$
begin
    delete from tidings.api_keys where id = _id;
    return case when found then tidings.append_one(_seen, 'key_deleted', 'control', _id, '') end;
end $$;
"""

FIRST_ROW = """
insert into tidings.log (system_identifier, timeline)
    select system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8) from pg_control_system();
select tidings.ensure_partitions();
"""

DOWN = """
drop function tidings.delete_key, tidings.put_key, tidings.lift_revocation, tidings.revoke,
    tidings.change_members, tidings.open_session, tidings.append_one, tidings.append,
    tidings.keep_ahead, tidings.check_lineage, tidings.head, tidings.ensure_partitions;
drop table tidings.instances, tidings.api_keys, tidings.revocations, tidings.memberships,
    tidings.devices, tidings.users, tidings.idempotency_keys, tidings.events, tidings.lineage, tidings.log;
drop sequence tidings.position;
"""


def upgrade() -> None:
    for part in (TABLES, PARTITIONS, HEAD, LINEAGE, KEEP_AHEAD, APPEND, SESSION, MEMBERS, ADMIN, FIRST_ROW):
        _run(part)


def downgrade() -> None:
    _run(DOWN)


def _run(script: str) -> None:
    """Run several statements in the migration's own transaction; a prepared one could hold one only."""
    op.get_bind().connection.dbapi_connection.run_async(lambda driver: driver.execute(script))
