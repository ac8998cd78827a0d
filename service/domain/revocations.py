"""Which tokens have been taken back."""

import msgspec

from service.domain.claims import Claims


class Revocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One act of revoking: exactly one of ``jti`` and ``user`` is set.

    A user's revocation refuses every token with ``iat`` at or before ``issued_before`` (whole
    seconds, the issuer's clock) and every token without ``iat``; a ban refuses them all.
    """

    id: str
    jti: str | None = None
    user: str | None = None
    issued_before: int | None = None
    ban: bool = False

    def refuses(self, claims: Claims) -> bool:
        """Tell whether a token with these claims is dead."""
        if self.jti is not None:
            return claims.jti == self.jti
        if claims.user != self.user:
            return False
        if self.ban or claims.issued_at is None:
            return True
        return self.issued_before is not None and int(claims.issued_at) <= self.issued_before


class Revocations:
    """All revocations in force, found by token id and by user."""

    def __init__(self) -> None:
        self._by_id: dict[str, Revocation] = {}
        self._added: dict[str, float] = {}
        self._by_subject: dict[tuple[str | None, str | None], dict[str, Revocation]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, revocation: Revocation, now: float) -> None:
        """Put one in force; adding it again changes nothing."""
        self._added[revocation.id] = max(now, revocation.issued_before or 0)
        self._by_id[revocation.id] = revocation
        subject = (revocation.jti, revocation.user)
        self._by_subject.setdefault(subject, {})[revocation.id] = revocation

    def lift(self, revocation_id: str) -> None:
        """Take one out of force, if it is."""
        revocation = self._by_id.pop(revocation_id, None)
        if revocation is None:
            return
        del self._added[revocation_id]
        subject = (revocation.jti, revocation.user)
        rest = self._by_subject[subject]
        del rest[revocation_id]
        if not rest:
            del self._by_subject[subject]

    def prune(self, before: float) -> None:
        """Let go of those added, or about tokens issued, before a time that no token outlives."""
        for revocation_id in [i for i, at in self._added.items() if at < before]:
            if not self._by_id[revocation_id].ban:
                self.lift(revocation_id)

    def refuse(self, claims: Claims) -> bool:
        """Tell whether a token with these claims is dead."""
        about_user = self._by_subject.get((None, claims.user), {})
        about_token = self._by_subject.get((claims.jti, None), {}) if claims.jti else {}
        return bool(about_token) or any(r.refuses(claims) for r in about_user.values())

    def issued_before(self, user: str) -> int | None:
        """Return the latest ``issued_before`` in force for ``user``: a new token needs a later iat."""
        about = self._by_subject.get((None, user), {})
        times = [r.issued_before for r in about.values() if r.issued_before is not None]
        return max(times, default=None)
