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
    for part in (TABLES, SKIP, SESSIONS, FORGET):
        _run(part)


def downgrade() -> None:
    _run(DOWN)


def _run(script: str) -> None:
    """Run several statements in the migration's own transaction; a prepared one could hold one only."""
    op.get_bind().connection.dbapi_connection.run_async(lambda driver: driver.execute(script))
