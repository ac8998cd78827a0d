"""What proves that a message between instances comes from one of them.

Revision ID: 0009
Revises: 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"

# Whoever may read this table is an instance; who may only publish by SQL may not.
SEAL = """
alter table tidings.log add column seal bytea not null
    default uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
"""


def upgrade() -> None:
    op.execute(SEAL)


def downgrade() -> None:
    op.execute("alter table tidings.log drop column seal")
