"""Who is connected, on whichever instance; and what each instance holds.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"

# An instance of the version before keeps up its lease as it did, and tells nobody of its connections.
TABLES = """
alter table tidings.instances
    add column started_at timestamptz not null default clock_timestamp(),
    add column version text,
    add column stats json;
comment on column tidings.instances.stats is 'What it held and had done when it was seen';

create table tidings.connections (
    id text primary key,
    instance text not null,
    user_id text not null,
    device text not null,
    info text,
    since timestamptz not null,
    rooms text[],
    gone_at timestamptz
);
comment on table tidings.connections is
    'Who is connected: written behind, and kept for a moment after the connection has ended';
comment on column tidings.connections.rooms is 'Those joined for this connection only; null for none';
create index connections_by_user on tidings.connections (user_id);
create index connections_by_instance on tidings.connections (instance, id);
create index connections_by_room on tidings.connections using gin (rooms) where rooms is not null;
create index connections_gone on tidings.connections (gone_at) where gone_at is not null;
"""

# What others see of users: that they are there (room ''), and the rooms they are in for a connection only. A
# connection that has just ended counts until it is swept, so that who comes back has never been away.
PRESENCE = """
create function tidings.presence_of(_users text[])
returns table (user_id text, room text, info text) language sql stable as $$
    select distinct on (c.user_id, r.room) c.user_id, r.room, c.info
    from tidings.connections c
    cross join lateral (select '' union all select unnest(c.rooms)) as r(room)
    where c.user_id = any (_users)
    order by c.user_id, r.room, c.since desc
$$;
"""

# One call notes what has changed on an instance, and sweeps: what ended longer than ``_linger`` seconds ago,
# and what belongs to instances not seen for ``_lease`` seconds. All calls take one lock, so of two that
# write the first connection of a user, one sees the other's: each statement has a snapshot of its own (READ
# COMMITTED). The answer has what came of it for users, by comparing before and after. ``known`` is false for
# an instance whose lease had been swept: what it had written is gone, too. Planned anew each time, since
# the table may have grown from nothing to 100,000 rows since the last.
NOTE = """
create function tidings.note_connections(
    _instance text, _version text, _uptime double precision, _stats json,
    _ids text[], _users text[], _devices text[], _infos text[], _ages double precision[], _rooms text[],
    _gone text[], _linger double precision, _lease double precision, _limit integer
) returns table (
    known boolean, others text[], lineage bigint, more boolean,
    kinds text[], users text[], rooms text[], infos text[]
) language plpgsql set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
    moment timestamptz;
    dead timestamptz;
    swept text[];
    concerned text[];
    before_users text[];
    before_rooms text[];
    before_infos text[];
begin
    perform set_config('synchronous_commit', 'off', true);
    perform pg_advisory_xact_lock(32766977284925311);
    moment := clock_timestamp();
    dead := moment - make_interval(secs => _lease);

    -- Others may be in the middle of sweeping what was written under a lease that has run out.
    select i.seen_at > dead into known from tidings.instances i where i.id = _instance;
    known := coalesce(known, false);
    update tidings.instances set seen_at = moment, stats = coalesce(_stats, stats) where id = _instance;
    if not found then
        insert into tidings.instances (id, seen_at, started_at, version, stats)
            values (_instance, moment, moment - make_interval(secs => _uptime), _version, _stats);
        -- The version before drops leases without asking what was written under them.
        insert into tidings.instances (id, seen_at)
            select distinct c.instance, timestamptz '-infinity' from tidings.connections c
            on conflict (id) do nothing;
    end if;

    swept := array(
        select s.id from (
            select c.id from tidings.connections c
                where c.gone_at <= moment - make_interval(secs => _linger)
            union all
            select c.id from tidings.instances i join tidings.connections c on c.instance = i.id
                where i.seen_at <= dead and c.gone_at is null
        ) s where s.id <> all (_ids) limit _limit);
    more := cardinality(swept) = _limit;
    concerned := array(
        select u.user_id from unnest(_users) as u(user_id)
        union select c.user_id from tidings.connections c where c.id = any (swept));
    select array_agg(p.user_id), array_agg(p.room), array_agg(p.info)
        into before_users, before_rooms, before_infos from tidings.presence_of(concerned) p;

    insert into tidings.connections as c (id, instance, user_id, device, info, since, rooms)
        select a.id, _instance, a.user_id, a.device, a.info, moment - make_interval(secs => a.age),
               string_to_array(nullif(a.rooms, ''), ',')
        from unnest(_ids, _users, _devices, _infos, _ages, _rooms)
            as a(id, user_id, device, info, age, rooms)
        on conflict (id) do update set info = excluded.info, rooms = excluded.rooms, gone_at = null
            where (c.info, c.rooms, c.gone_at) is distinct from (excluded.info, excluded.rooms, null);
    update tidings.connections c set gone_at = moment where c.id = any (_gone) and c.gone_at is null;
    delete from tidings.connections c where c.id = any (swept);
    delete from tidings.instances i where i.seen_at <= dead
        and not exists (select from tidings.connections c where c.instance = i.id);

    others := array(select i.id from tidings.instances i where i.id <> _instance and i.seen_at > dead);
    lineage := coalesce((select max(l.id) from tidings.lineage l), 0);
    select array_agg(d.kind), array_agg(d.user_id), array_agg(d.room), array_agg(d.info)
        into kinds, users, rooms, infos
        from (
            select case when b.user_id is null then case room when '' then 'connected' else 'joined' end
                        else case room when '' then 'disconnected' else 'left' end end as kind,
                   user_id, nullif(room, '') as room,
                   case when room = '' then coalesce(a.info, b.info) end as info
            from unnest(before_users, before_rooms, before_infos) as b(user_id, room, info)
            full join tidings.presence_of(concerned) a using (user_id, room)
            where (a.user_id is null or b.user_id is null)
              -- Who is a member comes and goes by the log.
              and not exists (
                  select from tidings.memberships m
                  where m.user_id = coalesce(a.user_id, b.user_id)
                    and m.room = coalesce(a.room, b.room) and m.until is null)
        ) d;
    return next;
end $$;
"""

DOWN = """
drop function tidings.note_connections;
drop function tidings.presence_of;
drop table tidings.connections;
alter table tidings.instances drop column started_at, drop column version, drop column stats;
"""


def upgrade() -> None:
    for part in (TABLES, PRESENCE, NOTE):
        _run(part)


def downgrade() -> None:
    _run(DOWN)


def _run(script: str) -> None:
    """Run several statements in the migration's own transaction; a prepared one could hold one only."""
    op.get_bind().connection.dbapi_connection.run_async(lambda driver: driver.execute(script))
