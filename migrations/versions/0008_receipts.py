"""Which events a device passed over; who asks it to be forgotten.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"

# Null costs a row nothing, so the cursor's update writes what it wrote before.
TABLES = """
alter table tidings.devices add column skipped int8multirange;
comment on column tidings.devices.skipped is
    'What it passed over by `after`; a range without a beginning stands for more than is remembered';
create index memberships_left on tidings.memberships (room, user_id, until) where until is not null;
"""

# At most 32 ranges: the older ones become one that has no beginning. What retention deleted needs none.
SKIP = """
create function tidings.skip(_skipped int8multirange, _after bigint, _upto bigint)
returns int8multirange language sql stable as $$
    select range_agg(case when s.n < 32 then s.range else int8range(null, upper(s.range)) end)
    from (
        select r.range, row_number() over (order by r.range desc) as n
        from unnest(coalesce(_skipped, '{}') + int8multirange(int8range(_after, _upto, '(]'))) as r(range)
        where upper(r.range) - 1 > (select l.floor from tidings.log l)
    ) s
$$;
"""

# As before, but each address is looked up by the index of addresses, whatever the statistics say: where they
# know a few addresses only, one with nothing in it cost a walk over all of the others' events.
LOOK_UP = """
create or replace function tidings.open_sessions(
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
                            where (e.address, e.position) > (i.address, greatest(s.begun, i.since))
                              and (e.address, e.position) <= (i.address, i.until)
                              and e.position > greatest(s.begun, i.since)
                            order by e.address, e.position limit 1) e)
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

# As before; and a device that asks to start beyond where it is known to be has passed over what lies between.
# ``_known`` are cursors that the database does not know yet, 0 for none. The version without stays for the
# instances of before. The head is read first: whoever asks for more than the sessions know of starts at its
# cursor, and has passed over nothing. Rows are locked in the order in which cursors are moved.
SESSIONS = """
create function tidings.open_sessions(
    _users text[], _devices text[], _afters bigint[], _known bigint[], _max_devices integer, _base bigint
) returns table (
    head bigint, floor bigint, first_seen bigint, "cursor" bigint,
    rooms text[], sources text[], sinces bigint[], untils bigint[], quiet_to bigint
) language plpgsql as $$
declare
    here bigint := tidings.head();
    jump record;
begin
    return query select * from tidings.open_sessions(_users, _devices, _afters, _max_devices, _base);
    for jump in
        select a.* from unnest(_users, _devices, _afters, _known) as a(user_id, device, after, known)
        join tidings.devices d on d.user_id = a.user_id and d.device = a.device
        where a.after > greatest(d.cursor, a.known) and a.after <= here
        order by a.user_id collate "C", a.device collate "C", a.after
    loop
        update tidings.devices d
            set cursor = jump.after,
                skipped = tidings.skip(d.skipped, greatest(d.cursor, jump.known), jump.after)
            where d.user_id = jump.user_id and d.device = jump.device
              and jump.after > greatest(d.cursor, jump.known);
    end loop;
end $$;
"""

FORGET = """
create function tidings.forget_device(_seen bigint, _user text, _device text)
returns bigint language plpgsql as $$
begin
    delete from tidings.devices where user_id = _user and device = _device;
    return case when found then tidings.append_one(_seen, 'forgotten', 'control', _user, _device) end;
end $$;
"""

DOWN = """
drop function tidings.forget_device;
drop function tidings.open_sessions(text[], text[], bigint[], bigint[], integer, bigint);
drop function tidings.skip;
drop index tidings.memberships_left;
alter table tidings.devices drop column skipped;
"""


def upgrade() -> None:
    for part in (TABLES, SKIP, LOOK_UP, SESSIONS, FORGET):
        _run(part)


def downgrade() -> None:
    _run(DOWN)


def _run(script: str) -> None:
    """Run several statements in the migration's own transaction; a prepared one could hold one only."""
    op.get_bind().connection.dbapi_connection.run_async(lambda driver: driver.execute(script))
