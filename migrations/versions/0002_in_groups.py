"""Sessions are loaded in groups, and an append says less.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"

# One round trip for all who connect at once. A device that is one too many for its user comes back
# without a cursor, so that it fails nobody else. Rows are made in the order of their keys: two
# instances that make the same ones wait for each other, never in a circle. The last statement has one
# snapshot, so ``head`` and the memberships belong together.
#
# ``quiet_to`` saves most of those who come from before an instance's memory, which begins after ``_base``,
# a second round trip: up to there nothing is due to them, by whatever grants, and no gap has to be told.
# ``open_session`` stays for the instances of the version before.
SESSIONS = """
create function tidings.open_sessions(
    _users text[], _devices text[], _afters bigint[], _max_devices integer, _base bigint
) returns table (
    head bigint, floor bigint, first_seen bigint, "cursor" bigint,
    rooms text[], sources text[], sinces bigint[], untils bigint[], quiet_to bigint
) language plpgsql as $$
#variable_conflict use_column
declare
    here bigint;
begin
    if exists (
        select from unnest(_users, _devices) as a(user_id, device)
        where not exists (select from tidings.devices d where d.user_id = a.user_id and d.device = a.device))
    then
        here := tidings.head();
        insert into tidings.users (user_id, first_seen)
            select distinct a.user_id, here from unnest(_users) as a(user_id) order by 1
            on conflict do nothing;
        with fresh as (
            select distinct a.user_id, a.device from unnest(_users, _devices) as a(user_id, device)
            where not exists (
                select from tidings.devices d where d.user_id = a.user_id and d.device = a.device)
        ), numbered as (
            select f.*, row_number() over (partition by f.user_id order by f.device) as n from fresh f
        )
        insert into tidings.devices (user_id, device, start, cursor)
            select f.user_id, f.device, o.begun, o.begun
            from numbered f cross join lateral (
                select count(*) as known,
                       coalesce(max(d.cursor), (select l.floor from tidings.log l)) as begun
                from tidings.devices d where d.user_id = f.user_id) o
            where o.known + f.n <= _max_devices
            order by 1, 2
            on conflict do nothing;
    end if;
    return query
        with now as materialized (select tidings.head() as head)
        select now.head, l.floor, u.first_seen, d.cursor, m.rooms, m.sources, m.sinces, m.untils,
               case when s.begun >= l.floor and s.begun < s.memory
                    and not exists (
                        select from tidings.lineage i where i.lost_from < s.begun and s.begun < i.lost_to)
                    and not exists (
                        select from (
                            select 'user:' || a.user_id, 0::bigint, s.memory
                            union all select 'everyone', u.first_seen, s.memory
                            union all select 'room:' || r.room, r.since, least(r.until, s.memory)
                                      from unnest(m.rooms, m.sinces, m.untils) as r(room, since, until)
                        ) as i(address, since, until)
                        cross join lateral (
                            select from tidings.events e
                            where e.address = i.address
                              and e.position > greatest(s.begun, i.since) and e.position <= i.until
                            limit 1) e)
                    then s.memory end
        from now
        cross join tidings.log l
        cross join unnest(_users, _devices, _afters) with ordinality as a(user_id, device, after, n)
        left join tidings.users u on u.user_id = a.user_id
        left join tidings.devices d on d.user_id = a.user_id and d.device = a.device
        cross join lateral (
            select case when a.after <= now.head then a.after else least(d.cursor, now.head) end as begun,
                   least(_base, now.head) as memory
        ) s
        cross join lateral (
            select array_agg(i.room) as rooms, array_agg(i.source) as sources,
                   array_agg(i.since) as sinces, array_agg(i.until) as untils
            from tidings.memberships i
            where i.user_id = a.user_id and (i.until is null or i.until > least(a.after, d.cursor))
        ) m
        order by a.n;
end $$;
"""

# The same append, but for two things. Arrays that would say the same of every entry may be empty: ``_kinds``
# where all are events, ``_leads`` where all are 0, ``_units`` where no unit has a key, and the optional ones.
# And a retry goes by the time of the first attempt: a key that was in its window then is so still.
APPEND = """
create or replace function tidings.append(
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
    at := coalesce(at, date_trunc('milliseconds', clock_timestamp()));
    if cardinality(_keyed) > 0 then
        select coalesce(array_agg(k.unit), '{}'), array_agg(i.position), array_agg(i.entries)
            into replayed, originals, originals_entries
            from unnest(_keyed, _keyed_producers, _keyed_keys) as k(unit, producer, key)
            join tidings.idempotency_keys i using (producer, key)
            where i.created_at > at - _window
            and (first is null or i.position < first);
        select min(u.n) into begins from unnest(_units) with ordinality as u(unit, n)
            where u.unit <> all (replayed);
        if begins is null then
            return;
        end if;
    end if;
    if first is not null then
        first := first - (begins - 1);
        last := first + cardinality(_addresses) - 1;
        return;
    end if;
    perform tidings.check_lineage(after, _seen);
    first := nextval('tidings.position');
    last := first + cardinality(_addresses) - 1;
    if last > first then
        perform setval('tidings.position', last);
    end if;
    if last >= (select partitioned_to from tidings.log) then
        perform tidings.ensure_partitions();
    end if;
    insert into tidings.events
            (position, kind, address, type, data, time, lead, id, sender, exclude, batch)
        select first + e.n - 1, coalesce(e.kind, 'event'), e.address, e.type, e.data, at,
               coalesce(e.lead, 0), e.id, e.sender, e.exclude, case when e.n = begins then _batch end
        from unnest(_units, _kinds, _addresses, _types, _data, _leads, _ids, _senders, _excludes)
            with ordinality as e(unit, kind, address, type, data, lead, id, sender, exclude, n)
        where e.unit is null or e.unit <> all (replayed);
    if cardinality(_keyed) > 0 then
        insert into tidings.idempotency_keys (producer, key, position, entries, created_at)
            select k.producer, k.key, first + k.index, k.entries, at
            from unnest(_keyed, _keyed_producers, _keyed_keys, _keyed_at, _keyed_entries)
                as k(unit, producer, key, index, entries)
            where k.unit <> all (replayed)
            on conflict (producer, key) do update
                set position = excluded.position, entries = excluded.entries,
                    created_at = excluded.created_at;
    end if;
end $$;
"""


def upgrade() -> None:
    op.get_bind().connection.dbapi_connection.run_async(lambda driver: driver.execute(SESSIONS + APPEND))


def downgrade() -> None:
    # ``append`` takes full arrays as before, so it can stay.
    op.execute("drop function tidings.open_sessions")
