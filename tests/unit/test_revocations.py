"""Which tokens a revocation refuses, and when it may be let go."""

import pytest

from service.domain.claims import Claims
from service.domain.revocations import Revocation, Revocations

NOW = 1_800_000_000


def claims(user: str = "alice", issued_at: float | None = NOW, jti: str | None = None) -> Claims:
    return Claims(user=user, expires_at=NOW + 600, issued_at=issued_at, jti=jti)


@pytest.mark.parametrize(
    ("revocation", "presented", "dead"),
    [
        (Revocation(id="1", jti="a"), claims(jti="a"), True),
        (Revocation(id="1", jti="a"), claims(jti="b"), False),
        (Revocation(id="1", jti="a"), claims(), False),
        (Revocation(id="1", user="alice", issued_before=NOW), claims(), True),
        (Revocation(id="1", user="alice", issued_before=NOW), claims(issued_at=NOW + 0.9), True),
        (Revocation(id="1", user="alice", issued_before=NOW), claims(issued_at=NOW + 1), False),
        (Revocation(id="1", user="alice", issued_before=NOW), claims(issued_at=None), True),
        (Revocation(id="1", user="alice", issued_before=NOW), claims("bob"), False),
        (Revocation(id="1", user="alice", ban=True), claims(issued_at=NOW + 99), True),
    ],
)
def test_what_is_refused(revocation: Revocation, presented: Claims, *, dead: bool) -> None:
    revocations = Revocations()
    revocations.add(revocation, NOW)
    assert revocations.refuse(presented) is dead
    assert revocation.refuses(presented) is dead
    revocations.lift("1")
    assert not revocations.refuse(presented)
    assert len(revocations) == 0


def test_what_no_token_outlives_is_let_go_and_bans_are_kept() -> None:
    revocations = Revocations()
    revocations.add(Revocation(id="old", jti="a"), NOW)
    revocations.add(Revocation(id="later", user="alice", issued_before=NOW + 50), NOW)
    revocations.add(Revocation(id="ban", user="bob", ban=True), NOW)
    revocations.prune(NOW + 10)
    assert not revocations.refuse(claims(jti="a", issued_at=NOW + 60))
    assert revocations.refuse(claims())
    assert revocations.refuse(claims("bob"))
    revocations.prune(NOW + 60)
    assert len(revocations) == 1
