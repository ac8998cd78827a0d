"""The log lets go of what is old, and of a user who is erased.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"

# Both take the lock of the appends, so that no append is half way: what a sequence has drawn is committed
# by then or never will be, and no append finds the head by a floor that is older than what is gone.
#
# A floor is the position of an entry, the last one that goes: so ``head()`` is right where all entries have
# gone, and an instance that has read all there was stands at the floor or beyond it. It is raised only where
# nothing lies between it and ``_below``, a partition's end, and nothing can come there any more.
RETENTION = """
create function tidings.raise_floor(_floor bigint, _below bigint) returns boolean language plpgsql as $$
begin
    perform pg_advisory_xact_lock(32766977284925299);
    if (select last_value from tidings.position) < _below - 1
       or exists (select from tidings.events where position > _floor and position < _below)
    then
        return false;
    end if;
    -- Who makes partitions holds the row, and may be waiting: no append waits for that.
    perform from tidings.log for update skip locked;
    if not found then
        return false;
    end if;
    update tidings.log set floor = greatest(floor, _floor);
    return true;
end $$;

create function tidings.close_partition(_start bigint, _end bigint) returns boolean language plpgsql as $$
begin
    perform pg_advisory_xact_lock(32766977284925299);
    if (select last_value from tidings.position) not between _start and _end - 2
       or (select partitioned_to from tidings.log) <= _end
    then
        return false;
    end if;
    perform setval('tidings.position', _end - 1);
    return true;
end $$;
comment on function tidings.close_partition(bigint, bigint) is
    'The next position is _end, where the positions have not left the partition from _start on already';
"""

ERASURE = """
create table tidings.erasures (
    user_id text primary key,
    requested_at timestamptz not null default clock_timestamp(),
    searched_to bigint not null default 0
);
comment on table tidings.erasures is 'Users who are being erased; a row goes when the work is done';
comment on column tidings.erasures.searched_to is 'Up to here the log has been searched for what they wrote';

create function tidings.leave_rooms(_seen bigint, _user text, _limit integer) returns boolean
language plpgsql as $$
declare
    rooms text[];
    n integer;
begin
    select array_agg(m.room), count(*) into rooms, n from (
        select room from tidings.memberships where user_id = _user and until is null limit _limit) m;
    if n > 0 then
        perform tidings.change_members(
            _seen, rooms, array_fill(_user, array[n]), array_fill(false, array[n]), 'api', null);
    end if;
    return n > 0;
end $$;

-- At once: tokens and sockets, and a ``left`` for each room, which is seen before it is erased in its turn.
create function tidings.erase(
    _seen bigint, _user text, _issued_before bigint, _by text, out id text, out "position" bigint
) language plpgsql as $$
begin
    insert into tidings.erasures (user_id) values (_user)
        on conflict (user_id) do update set requested_at = excluded.requested_at;
    select r.id, r.position into id, position
        from tidings.revoke(_seen, null, _user, _issued_before, false, _by) r;
    perform tidings.leave_rooms(_seen, _user, 5000);
end $$;

create function tidings.without(_exclude text, _user text) returns text language sql immutable as $$
    select json_agg(e.who order by e.n)::text
    from jsonb_array_elements_text(_exclude::jsonb) with ordinality as e(who, n)
    where split_part(e.who, E'\\n', 1) <> _user
$$;
comment on function tidings.without is 'Who is left of an ``exclude`` without a user and their devices';

-- Does at most about ``_limit`` rows of the work, and tells whether there is more. What was addressed to the
-- user keeps its position, but not its address: so nobody is ever sent it, also not a user of that name who
-- comes later. What the user wrote to others keeps its address and loses its words. The last step tells the
-- instances to forget what they hold in memory.
create function tidings.erase_some(_seen bigint, _user text, _limit integer) returns boolean
language plpgsql as $$
declare
    searched bigint;
    last bigint;
begin
    if not pg_try_advisory_xact_lock(32766977284925300) then
        return false;
    end if;
    select searched_to into searched from tidings.erasures where user_id = _user;
    if not found then
        return false;
    end if;
    -- As ``mark_read`` does, and like that before the lock of the appends.
    perform pg_advisory_xact_lock(hashtextextended('tidings.reads:' || _user, 0));

    if tidings.leave_rooms(_seen, _user, _limit) then return true; end if;
    delete from tidings.memberships where ctid = any (array(
        select ctid from tidings.memberships where user_id = _user limit _limit));
    if found then return true; end if;

    delete from tidings.users where user_id = _user;
    delete from tidings.devices where user_id = _user;
    delete from tidings.reads where user_id = _user;
    delete from tidings.pending where addresses = array['user:' || _user];
    update tidings.pending
        set addresses = array_remove(addresses, 'user:' || _user), exclude = tidings.without(exclude, _user)
        where 'user:' || _user = any (addresses) or exclude::jsonb ? _user;
    delete from tidings.idempotency_keys where ctid = any (array(
        select ctid from tidings.idempotency_keys where producer = 'user:' || _user limit _limit));
    if found then return true; end if;

    select max(e.position) into last from (
        select position from tidings.events
        where (address, position) > ('user:' || _user, 0)
          and (address, position) <= ('user:' || _user, 9007199254740992)
        order by address, position limit _limit) e;
    if last is not null then
        delete from tidings.callbacks c using tidings.events e
            where e.address = 'user:' || _user and e.position <= last and c.position = e.position;
        update tidings.events set kind = 'event', address = 'erased', type = 'erased', data = 'null',
                                  id = null, sender = null, exclude = null, collapse_key = null
            where address = 'user:' || _user and position <= last;
        return true;
    end if;

    select max(e.position) into last from (
        select position from tidings.events where position > searched order by position limit _limit) e;
    if last is not null then
        update tidings.events set data = 'null', id = null, sender = null, exclude = null,
                                  collapse_key = null
            where position > searched and position <= last and sender = _user;
        update tidings.events set exclude = tidings.without(exclude, _user)
            where position > searched and position <= last and exists (
                select from jsonb_array_elements_text(exclude::jsonb) as e(who)
                where split_part(e.who, E'\\n', 1) = _user);
        update tidings.events set type = '', data = ''
            where position > searched and position <= last and kind = 'forgotten' and type = _user;
        update tidings.erasures set searched_to = last where user_id = _user;
        return true;
    end if;

    delete from tidings.erasures where user_id = _user;
    perform tidings.append_one(_seen, 'erased', 'control', '', '');
    return false;
end $$;
"""

DOWN = """
drop function tidings.erase_some, tidings.without, tidings.erase, tidings.leave_rooms,
    tidings.close_partition, tidings.raise_floor;
drop table tidings.erasures;
"""


def upgrade() -> None:
    _run(RETENTION + ERASURE)


def downgrade() -> None:
    _run(DOWN)


def _run(script: str) -> None:
    """Run several statements in the migration's own transaction; a prepared one could hold one only."""
    op.get_bind().connection.dbapi_connection.run_async(lambda driver: driver.execute(script))
