"""The tables, as SQLAlchemy knows them: for composed queries, and to hold the migrations against."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, DOUBLE_PRECISION, INT8MULTIRANGE, TIMESTAMP

metadata = sa.MetaData(schema="tidings")
_instant = TIMESTAMP(timezone=True)
_now = sa.text("clock_timestamp()")

log = sa.Table(
    "log",
    metadata,
    sa.Column("one", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("identity", sa.Uuid, nullable=False, server_default=sa.text("gen_random_uuid()")),
    sa.Column("floor", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("system_identifier", sa.BigInteger, nullable=False),
    sa.Column("timeline", sa.Text, nullable=False),
    sa.Column("partitioned_to", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("readable_by", sa.Integer, nullable=False, server_default="1"),
    sa.Column("max_data", sa.Integer, nullable=False, server_default="32768"),
    sa.Column("schedule_horizon", sa.Double, nullable=False, server_default="7776000"),
    sa.Column("callbacks", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("sql_notify", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column(
        "seal",
        BYTEA,
        nullable=False,
        server_default=sa.text("uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())"),
    ),
    sa.CheckConstraint("one", name="log_one_check"),
)

lineage = sa.Table(
    "lineage",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("lost_from", sa.BigInteger, nullable=False),
    sa.Column("lost_to", sa.BigInteger, nullable=False),
    sa.Column("system_identifier", sa.BigInteger, nullable=False),
    sa.Column("timeline", sa.Text, nullable=False),
    sa.Column("at", _instant, nullable=False, server_default=_now),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("time", _instant, nullable=False),
    sa.Column("lead", sa.Integer, nullable=False),
    sa.Column("id", sa.Text),
    sa.Column("sender", sa.Text),
    sa.Column("exclude", sa.Text),
    sa.Column("batch", sa.Uuid),
    sa.Column("expires_at", _instant),
    sa.Column("collapse_key", sa.Text),
    sa.Column("recalled", sa.BigInteger),
    sa.Index("events_by_address", "address", "position"),
    sa.Index(
        "events_by_collapse_key",
        "address",
        "collapse_key",
        "position",
        postgresql_where=sa.text("collapse_key is not null"),
    ),
    postgresql_partition_by="range (position)",
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("producer", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("entries", sa.Integer, nullable=False),
    sa.Column("created_at", _instant, nullable=False),
    sa.Column("fingerprint", BYTEA),
    sa.Column("pending", ARRAY(sa.BigInteger)),
    sa.Index("idempotency_keys_by_age", "created_at"),
    sa.Index(
        "idempotency_keys_of_pending",
        sa.text("(pending[1])"),
        postgresql_where=sa.text("fingerprint is null and pending is not null"),
    ),
)

pending = sa.Table(
    "pending",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("due_at", _instant, nullable=False),
    sa.Column("producer", sa.Text, nullable=False),
    sa.Column("addresses", ARRAY(sa.Text), nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("event_id", sa.Text),
    sa.Column("key", sa.Text),
    sa.Column("exclude", sa.Text),
    sa.Column("lifetime", sa.Double),
    sa.Column("collapse_key", sa.Text),
    sa.Column("undelivered_after", sa.Double),
    sa.Column("unless_read", sa.Boolean),
    sa.Column("created_at", _instant, nullable=False, server_default=_now),
    sa.Column("failed", sa.Text),
    sa.Index("pending_by_time", "due_at", "id", postgresql_where=sa.text("failed is null")),
    sa.Index("pending_by_producer", "producer", "id"),
)

callbacks = sa.Table(
    "callbacks",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("due_at", _instant, nullable=False),
    sa.Column("unless_read", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed", sa.Text),
    sa.Index("callbacks_by_time", "due_at", postgresql_where=sa.text("failed is null")),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("first_seen", sa.BigInteger, nullable=False),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("cursor", sa.BigInteger, nullable=False),
    sa.Column("seen_at", _instant, nullable=False, server_default=_now),
    sa.Column("skipped", INT8MULTIRANGE),
    sa.Index("devices_by_age", "seen_at"),
    postgresql_with={"fillfactor": 80},
)

memberships = sa.Table(
    "memberships",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("room", sa.Text, primary_key=True),
    sa.Column("since", sa.BigInteger, primary_key=True),
    sa.Column("until", sa.BigInteger),
    sa.Column("source", sa.Text, nullable=False),
    sa.CheckConstraint("source in ('api', 'client')", name="memberships_source_check"),
    sa.Index(
        "memberships_open",
        "user_id",
        "room",
        unique=True,
        postgresql_where=sa.text("until is null"),
    ),
    sa.Index("memberships_by_room", "room", "user_id", postgresql_where=sa.text("until is null")),
    sa.Index("memberships_left", "room", "user_id", "until", postgresql_where=sa.text("until is not null")),
)

reads = sa.Table(
    "reads",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("read", INT8MULTIRANGE, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
)

revocations = sa.Table(
    "revocations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("jti", sa.Text),
    sa.Column("user_id", sa.Text),
    sa.Column("issued_before", sa.BigInteger),
    sa.Column("ban", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", _instant, nullable=False, server_default=_now),
    sa.Column("created_by", sa.Text, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("secret_hash", BYTEA, nullable=False),
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    sa.Column("addresses", ARRAY(sa.Text)),
    sa.Column("created_at", _instant, nullable=False, server_default=_now),
    sa.Column("expires_at", _instant),
    sa.Column("last_used_at", _instant),
    sa.Column("former_hash", BYTEA),
    sa.Column("former_until", _instant),
    sa.Column("rate", DOUBLE_PRECISION),
    sa.Column("burst", sa.Integer),
    sa.Column("quota", sa.BigInteger),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("events", sa.BigInteger, nullable=False),
    postgresql_with={"fillfactor": 80},
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("at", _instant, nullable=False, server_default=_now),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Index("audit_by_age", "at"),
)

erasures = sa.Table(
    "erasures",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("requested_at", _instant, nullable=False, server_default=_now),
    sa.Column("searched_to", sa.BigInteger, nullable=False, server_default="0"),
)

instances = sa.Table(
    "instances",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("seen_at", _instant, nullable=False),
)
