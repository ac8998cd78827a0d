"""What a user has read of their inbox.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLE = """
create table tidings.reads (
    user_id text primary key,
    read int8multirange not null,
    position bigint not null
);
comment on column tidings.reads.read is
    'One range up to the first unread event, and one from each run of them to the next';
comment on column tidings.reads.position is 'The newest entry that tells of it';
"""

# From where on ``everyone`` is the user's. One who has never connected is known from now on.
FIRST_SEEN = """
create function tidings.first_seen(_user text) returns bigint language plpgsql as $$
declare
    known bigint := (select u.first_seen from tidings.users u where u.user_id = _user);
begin
    if known is null then
        insert into tidings.users (user_id, first_seen) values (_user, tidings.head()) on conflict do nothing;
        known := (select u.first_seen from tidings.users u where u.user_id = _user);
    end if;
    return known;
end $$;
"""

# What the user gets, and of one collapse key the newest of that.
SHOWN = """e.kind = 'event' and e.recalled is null and (e.expires_at is null or e.expires_at > at)
                   and (e.exclude is null or not e.exclude::jsonb ? _user)
                   and (e.collapse_key is null or not exists (
                       select from tidings.events n
                       where n.address = e.address and n.collapse_key = e.collapse_key
                         and n.position > e.position and n.kind = 'event' and n.recalled is null
                         and (n.expires_at is null or n.expires_at > at)
                         and (n.exclude is null or not n.exclude::jsonb ? _user)))"""

# Rows compared as a whole fit the index of addresses alone: whatever the statistics say, nobody's events but
# the user's are walked over. A page or a count looks at no more than 1,000 entries, of whatever kind: of each
# address, or in all. It takes each address by itself, in the order of its index. Asked for both at once, the
# planner may walk the whole log by position; and taking every address for an ordinary user's, of a few
# entries, it would rather read and sort all that ``everyone`` ever got. So it may not sort where it need not.
# (Before PostgreSQL 18, what it may not do looks so dear to it that it would be compiled first.)
BOUNDED = "set enable_sort = off set jit = off"

# Events whose type matches, strictly between two positions. The last entry that was looked at comes too, and
# says so: of its address nothing beyond is in the page.
PAGE = f"""
create function tidings.inbox_%(order)s(
    _user text, _first_seen bigint, _after bigint, _before bigint, _limit integer, _exact text, _prefix text
) returns table (at_position bigint, shown boolean, last boolean)
language plpgsql stable rows 100 {BOUNDED} as $$
declare
    most constant integer := 1000;
    at constant timestamptz := clock_timestamp();
begin
    return query
        select e.position, e.shown, e.last
        from tidings.log l
        cross join (values ('user:' || _user, 0), ('everyone', _first_seen)) as a(address, since)
        cross join lateral (
            select e.* from (
                select e.address, e.position,
                   row_number() over (order by e.address %(direction)s, e.position %(direction)s) = most
                       as last,
                   coalesce(e.type = _exact, starts_with(e.type, _prefix)) and
                   {SHOWN} as shown
                from tidings.events e
                where (e.address, e.position) > (a.address, greatest(_after, a.since, l.floor))
                  and (e.address, e.position) < (a.address, _before)
                  and e.position > greatest(_after, a.since, l.floor)
                order by e.address %(direction)s, e.position %(direction)s limit most) e
            where e.shown or e.last
            order by e.address %(direction)s, e.position %(direction)s limit _limit) e
        order by e.position %(direction)s limit _limit;
end $$;
"""

# Events within some ranges, the oldest first. Where the look ended before the ranges did, ``upto`` says
# where. The ranges come in their order, since a lateral join can only be a nested loop.
WITHIN = f"""
create function tidings.inbox_within(
    _user text, _first_seen bigint, _ranges int8multirange, out positions bigint[], out upto bigint
) language plpgsql stable {BOUNDED} as $$
declare
    most constant integer := 1000;
    at constant timestamptz := clock_timestamp();
    looked integer;
begin
    select coalesce(array_agg(e.position order by e.position) filter (where e.shown), '{{}}'),
           count(*), max(e.position)
        into positions, looked, upto
        from (
            select e.position,
                   {SHOWN} as shown
            from tidings.log l
            cross join unnest(_ranges * int8multirange(int8range(l.floor + 1, null))) as r(range)
            cross join lateral (
                select e.*
                from (values ('user:' || _user, 0), ('everyone', _first_seen)) as a(address, since)
                cross join lateral (
                    select e.position, e.kind, e.address, e.exclude, e.expires_at, e.collapse_key,
                           e.recalled
                    from tidings.events e
                    where (e.address, e.position) >= (a.address, greatest(lower(r.range), a.since + 1))
                      and (e.address, e.position)
                          < (a.address, coalesce(upper(r.range), 9223372036854775807))
                      and e.position >= greatest(lower(r.range), a.since + 1)
                    order by e.address, e.position limit most) e
                order by e.position limit most) e
            limit most) e;
    if looked < most then
        upto := null;
    end if;
end $$;
"""

# Marks what is up to a position, or at some positions, as read: the row and the log entry that tells the
# user's devices, with the count of unread events that is right at the entry's own position. Where nothing is
# new, nothing is written, and ``position`` is that of the newest entry.
#
# The count is taken before the append lock, so that nobody waits for it. It stands where nothing has come for
# this user meanwhile; a lock of the user's own keeps other marks away. What is kept is one range up to the
# first unread event, and one from the last of a run of unread events to the first of the next.
MARK = """
create function tidings.mark_read(
    _seen bigint, _user text, _upto bigint, _positions bigint[],
    out unread integer, out more boolean, out "position" bigint
) language plpgsql as $$
declare
    all_ constant int8multirange := '{[0,)}';
    begun constant bigint := tidings.first_seen(_user);
    head bigint;
    known int8multirange;
    new int8multirange;
    marked bigint[];
    rest record;
begin
    perform pg_advisory_xact_lock(hashtextextended('tidings.reads:' || _user, 0));
    head := tidings.head();
    select r.read, r.position into known, position from tidings.reads r where r.user_id = _user;
    known := coalesce(known, '{}');
    if _positions is null then
        _upto := least(_upto, head);
        new := int8multirange(int8range(0, _upto, '[]')) - known;
        rest := tidings.inbox_within(_user, begun, new);
        if cardinality(rest.positions) = 0 and rest.upto is null then
            new := '{}';
        end if;
    else
        select array_agg(e.position order by e.position),
               coalesce(range_agg(int8range(e.position, e.position, '[]')), '{}')
            into marked, new
            from tidings.events e
            where e.position = any (_positions) and e.kind = 'event' and not known @> e.position
              and (e.address = 'user:' || _user or e.address = 'everyone' and e.position > begun)
              and (e.exclude is null or not e.exclude::jsonb ? _user);
    end if;
    rest := tidings.inbox_within(_user, begun, all_ - known - new);
    if isempty(new) then
        unread := cardinality(rest.positions);
        more := rest.upto is not null;
        return;
    end if;
    perform pg_advisory_xact_lock(32766977284925299);
    if exists (select from tidings.events e where e.address = 'user:' || _user and e.position > head)
        or exists (select from tidings.events e where e.address = 'everyone' and e.position > head)
    then
        rest := tidings.inbox_within(_user, begun, all_ - known - new);
    end if;
    unread := cardinality(rest.positions);
    more := rest.upto is not null;
    position := tidings.append_one(_seen, 'read', 'user:' || _user, '', json_strip_nulls(json_build_object(
        'up_to', _upto, 'positions', marked, 'unread', unread, 'more', nullif(more, false)))::text);
    known := known + new + (
        int8multirange(int8range(0, coalesce(rest.upto, position), '[]')) - coalesce((
            select range_agg(k.run) from (
                select int8range(min(u.at), max(u.at), '[]') as run
                from unnest(rest.positions) as u(at)
                join unnest(all_ - known - new) as g(gap) on g.gap @> u.at
                group by g.gap) k), '{}'));
    if (select count(*) from unnest(known)) > 1000 then
        raise exception 'too many unread events between read ones: mark all up to one of them'
            using errcode = 'configuration_limit_exceeded';
    end if;
    insert into tidings.reads as r (user_id, read, position) values (_user, known, mark_read.position)
        on conflict (user_id) do update set read = excluded.read, position = excluded.position;
end $$;
"""


# An instance of the version before would take a ``read`` entry for a membership.
READABLE = "update tidings.log set readable_by = 4"


def upgrade() -> None:
    pages = [
        PAGE % {"order": order, "direction": direction}
        for order, direction in (("newest", "desc"), ("oldest", "asc"))
    ]
    script = "".join([TABLE, FIRST_SEEN, *pages, WITHIN, MARK, READABLE])
    op.get_bind().connection.dbapi_connection.run_async(lambda driver: driver.execute(script))


def downgrade() -> None:
    op.execute(
        "drop function tidings.mark_read, tidings.inbox_within, tidings.inbox_oldest, tidings.inbox_newest,"
        " tidings.first_seen"
    )
    op.execute("drop table tidings.reads")
    op.execute("delete from tidings.events where kind = 'read'")
    op.execute("update tidings.log set readable_by = 3")
