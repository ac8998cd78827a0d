"""Keys are rotated and have limits; what admins do is recorded.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"

TABLES = """
alter table tidings.api_keys
    add former_hash bytea,
    add former_until timestamptz,
    add rate double precision,
    add burst integer,
    add quota bigint;
comment on column tidings.api_keys.former_hash is 'The secret before the last one, good until former_until';
comment on column tidings.api_keys.rate is 'Events a second on the average';
comment on column tidings.api_keys.burst is 'Events at once';
comment on column tidings.api_keys.quota is 'Events a day (UTC)';

create table tidings.usage (
    key_id text not null,
    day date not null,
    events bigint not null,
    primary key (key_id, day)
) with (fillfactor = 80);
comment on table tidings.usage is 'What keys with a quota have sent, by day (UTC)';

create table tidings.audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    action text not null,
    subject text not null,
    request_id text not null,
    detail json not null
);
create index audit_by_age on tidings.audit (at);
comment on column tidings.audit.actor is 'The id of the API key that acted';
"""

# A key as its log entry carries it. The version before reads what it knows of it: until it is replaced it
# believes the new secret only, and limits nothing. ``put_key`` stays for its sake.
KEYS = """
create function tidings.key_record(_key tidings.api_keys) returns json language sql stable as $$
    select json_build_object(
        'id', _key.id, 'name', _key.name, 'secret_hash', encode(_key.secret_hash, 'hex'),
        'scopes', _key.scopes, 'addresses', _key.addresses,
        'expires_at', extract(epoch from _key.expires_at),
        'former_hash', encode(_key.former_hash, 'hex'),
        'former_until', extract(epoch from _key.former_until),
        'rate', _key.rate, 'burst', _key.burst, 'quota', _key.quota)
$$;

create function tidings.create_key(
    _seen bigint, _id text, _name text, _hash bytea, _scopes text[], _addresses text[], _expires timestamptz,
    _rate double precision, _burst integer, _quota bigint
) returns bigint language plpgsql as $$
declare
    made tidings.api_keys;
begin
    insert into tidings.api_keys (id, name, secret_hash, scopes, addresses, expires_at, rate, burst, quota)
        values (_id, _name, _hash, _scopes, _addresses, _expires, _rate, _burst, _quota)
        returning * into made;
    return tidings.append_one(_seen, 'key', 'control', _id, tidings.key_record(made)::text);
end $$;

create function tidings.rotate_key(
    _seen bigint, _id text, _hash bytea, _overlap double precision,
    out "position" bigint, out former_until timestamptz
) language plpgsql as $$
declare
    rotated tidings.api_keys;
begin
    update tidings.api_keys k set secret_hash = _hash,
            former_hash = case when _overlap > 0 then k.secret_hash end,
            former_until = case when _overlap > 0 then clock_timestamp() + make_interval(secs => _overlap) end
        where k.id = _id returning * into rotated;
    if found then
        position := tidings.append_one(_seen, 'key', 'control', _id, tidings.key_record(rotated)::text);
        former_until := rotated.former_until;
    end if;
end $$;
"""

DOWN = """
drop function tidings.rotate_key, tidings.create_key, tidings.key_record;
drop table tidings.audit, tidings.usage;
alter table tidings.api_keys
    drop former_hash, drop former_until, drop rate, drop burst, drop quota;
"""


def upgrade() -> None:
    _run(TABLES + KEYS)


def downgrade() -> None:
    _run(DOWN)


def _run(script: str) -> None:
    """Run several statements in the migration's own transaction; a prepared one could hold one only."""
    op.get_bind().connection.dbapi_connection.run_async(lambda driver: driver.execute(script))
