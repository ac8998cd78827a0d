"""Examples for the description: what is asked and answered, by operation. Tests hold them to the schemas.

Where a body may be of another type than JSON, or a status has examples of its own, the name goes on with it.
"""

from typing import Any, Final

Examples = dict[str, Any]
"""By a name that says what it shows."""

_EVENT: Final = {
    "to": ["user:alice", "room:orders"], "type": "order.shipped", "data": {"order": 17},
    "id": "order-17-shipped",
}  # fmt: skip
_CLOUD_EVENT: Final = {
    "specversion": "1.0", "source": "https://shop.example/orders", "id": "17-shipped",
    "type": "order.shipped", "subject": "user:alice", "time": "2026-11-24T03:09:43Z", "data": {"order": 17},
}  # fmt: skip
_PROBLEM: Final = {
    "type": "urn:tidings:problem:invalid", "title": "The request is not valid", "status": 422,
    "code": "invalid", "detail": "must have 1 to 128 characters",
    "errors": [{"pointer": "#/type", "detail": "must have 1 to 128 characters"}],
}  # fmt: skip
_ENTRY: Final = {
    "position": 7, "id": "7", "to": "room:orders", "event": "room_message", "data": {"content": "hi"},
    "time": "2026-11-24T03:09:46.555Z", "from": "alice",
}  # fmt: skip
_CONNECTION: Final = {
    "id": "59e6773e2ea14af090e6f9a4128fad1b", "user": "alice", "device": "laptop", "state": "live",
    "written": 16, "acked": 13, "rooms": 0, "info": None,
    "since": "2026-11-24T03:09:46.201937Z", "instance": "bb848aa5f3f44d639c7871f4b98d0a3f",
}  # fmt: skip
_REVOCATION: Final = {
    "id": "7d0e09e8-c37f-47da-958c-f63f351e34a3", "position": 13, "jti": "b-1", "user": None,
    "issued_before": None, "ban": False, "created_at": "2026-11-24T03:09:47.120Z", "created_by": "admin",
}  # fmt: skip
_KEY: Final = {
    "id": "3384a1506e98bf8d", "name": "shop", "scopes": ["publish"], "addresses": ["user:*"],
    "created_at": "2026-11-24T03:09:48.901Z", "expires_at": None, "last_used_at": None,
    "former_until": None, "rate": 50.0, "burst": 1000, "quota": 100_000,
}  # fmt: skip
_CLOSED: Final = {"id": _REVOCATION["id"], "position": 13, "closed": 1, "complete": True}
_JOINED: Final = {"room": "orders", "user": "alice", "member": True, "position": 10}


def _page(*data: Any, next_cursor: str | None = None) -> dict[str, Any]:
    return {"data": list(data), "next_cursor": next_cursor, "has_more": next_cursor is not None}


def _placed(position: int, to: str, event_id: str) -> dict[str, Any]:
    return {"position": position, "to": to, "id": event_id}


ASKED: Final[dict[str, Examples]] = {
    "publishEvent": {
        "one": {"to": "user:alice", "type": "hello", "data": {"text": "It works"}},
        "many": _EVENT,
        "replaced": {"to": "user:alice", "type": "stock", "ttl": 3600, "collapse_key": "stock-17"},
        "ephemeral": {"to": "room:orders", "type": "typing", "ephemeral": True, "exclude": ["bob"]},
    },
    "publishEvent application/cloudevents+json": {"one": _CLOUD_EVENT},
    "publishEvents": {
        "two": {"events": [
            {"to": "user:alice", "type": "hello"}, {"to": "user:bob", "type": "hello", "id": "for-bob"},
        ]},
        "tried": {"events": [{"to": "user:alice", "type": "hello"}], "validate_only": True},
    },
    "mintToken": {"usual": {"user": "alice", "rooms": ["orders.*"], "ttl": 3600}},
    "changeMembers": {"both": {"add": ["carol"], "remove": ["alice"]}},
    "revoke": {
        "one": {"jti": "b-1"},
        "user": {"user": "mallory"},
        "ban": {"user": "mallory", "ban": True},
    },
    "createKey": {
        "producer": {"name": "shop", "scopes": ["publish"], "addresses": ["user:*"]},
        "limited": {"name": "shop", "scopes": ["publish"], "rate": 50, "burst": 1000, "quota": 100_000},
        "admin": {"name": "ops", "scopes": ["admin"], "expires_at": "2027-11-24T00:00:00Z"},
    },
    "rotateKey": {"usual": {}, "at once": {"overlap": 0}},
    "markRead": {"everything": {"up_to": 7}, "some": {"positions": [2, 6]}},
    "acknowledge": {"stream": {"device": "tv", "position": 7}},
}  # fmt: skip

ANSWERED: Final[dict[str, Examples]] = {
    "publishEvent": {
        "many": {"events": [
            _placed(2, "user:alice", "order-17-shipped"), _placed(3, "room:orders", "order-17-shipped"),
        ]},
        "ephemeral": {"events": [{"to": "room:orders"}]},
        "put off": {"events": [{
            "scheduled": "12", "to": "user:alice", "id": "12", "deliver_at": "2026-12-24T18:00:00.000Z",
        }]},
        "received": {
            "events": [_placed(8, "user:alice", "8")],
            "received": {"user": "alice", "device": "laptop", "position": 8, "after_ms": 34},
        },
        "not received": {"events": [_placed(9, "user:bob", "9")], "received": None},
    },
    "publishEvents 200": {"tried": {"events": [{"to": "user:alice"}]}},
    "publishEvents 207": {"partly": {"results": [
        {"status": 202, "events": [_placed(6, "user:alice", "6")]},
        {"status": 422, "problem": _PROBLEM},
    ]}},
    "publishEvents": {"two": {"events": [
        _placed(4, "user:alice", "4"), _placed(5, "user:bob", "for-bob"),
    ]}},
    "mintToken": {"usual": {"token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2ln",
                            "expires_at": 1795493381}},
    "addMember": {"new": [_JOINED], "already": []},
    "removeMember": {"ended": [{**_JOINED, "member": False, "position": 12}]},
    "changeMembers": {"both": [
        {**_JOINED, "user": "carol", "position": 11}, {**_JOINED, "member": False, "position": 12},
    ]},
    "listMembers": {"page": _page({"user": "alice", "source": "api", "since": 10})},
    "listPresence": {"page": _page({
        "user": "alice", "info": {"name": "Alice"}, "devices": 2, "since": "2026-11-24T03:09:46.201937Z",
    })},
    "listRooms": {"page": _page({"room": "orders", "source": "client", "since": 10})},
    "getEvent": {"recalled": {**_ENTRY, "recalled": 9, "collapse_key": "greeting"}},
    "recallEvent": {"taken back": {"position": 9, "recalled": 7}},
    "listDeliveries": {"page": {**_page(
        {"user": "alice", "device": "laptop", "state": "received", "read": True},
        {"user": "alice", "device": "tv", "state": "skipped", "reason": "excluded", "read": True},
    ), "counts": {"received": 1, "pending": 0, "skipped": 1, "unknown": 0}}},
    "listScheduled": {"page": _page({
        "id": "12", "event_id": "12", "to": ["user:alice"], "type": "reminder", "data": {"order": 17},
        "deliver_at": "2026-12-24T18:00:00.000Z", "created_at": "2026-11-24T03:09:49.377Z",
    })},
    "listInbox": {"page": _page(
        {**_ENTRY, "to": "user:alice", "event": "direct_message", "from": "bob", "read": False},
        next_cursor="7",
    )},
    "markRead": {"all": {"unread": 0, "position": 11}, "nothing new": {"unread": 0, "position": None}},
    "countUnread": {
        "counted": {"unread": 3, "position": 17},
        "at least": {"unread": 1000, "more": True, "position": 4017},
    },
    "listDevices": {"page": _page({
        "device": "laptop", "start": 0, "cursor": 13, "lag": 4, "behind": 2,
        "seen_at": "2026-11-24T03:09:47Z", "connected": True,
    })},
    "eraseUser": {"begun": _CLOSED},
    "listErasures": {"page": _page({"user": "alice", "requested_at": "2026-11-25T19:37:58.985836Z"})},
    "rotateKey": {"shown once": {
        "id": _KEY["id"], "key": "tk_3384a1506e98bf8d_another-secret",
        "former_until": "2026-11-25T03:09:48.901Z",
    }},
    "listAudit": {"page": _page({
        "id": 5, "at": "2026-11-25T19:35:40.584144Z", "actor": "admin", "action": "key.rotate",
        "subject": _KEY["id"], "request_id": "fdd3d178ea789cd148c31672d0477efe",
        "detail": {"overlap": 43200},
    }, next_cursor="5")},
    "listEvents": {"page": _page({**_ENTRY, "recalled": 9}, next_cursor="7")},
    "listRoomEvents": {"page": _page(_ENTRY, next_cursor="7")},
    "revoke": {"one": _CLOSED},
    "listRevocations": {"page": _page(_REVOCATION)},
    "listConnections": {"page": _page(
        _CONNECTION,
        {**_CONNECTION, "id": "c2b1a0ad0f9c4cfeb0c6cb2c4c8e7d10", "device": "phone", "state": None,
         "written": None, "acked": 14, "info": {"name": "Alice"},
         "instance": "4be52cf2e4a94d0fb9c8b1a4b3b5a9a1"},
    )},
    "disconnect": {"closed": {**_CLOSED, "id": _CONNECTION["id"]}},
    "createKey": {"shown once": {"id": _KEY["id"], "key": "tk_3384a1506e98bf8d_the-secret"}},
    "listKeys": {"page": _page(_KEY)},
    "alive": {"alive": {"status": "alive"}},
    "ready": {"ready": {"status": "ready", "position": 17}},
    "stats": {"one": {
        "instance": _CONNECTION["instance"],
        "total": {
            "instances": 1, "users": 1, "connections": {"catching_up": 0, "live": 1}, "delivered": 12,
        },
        "instances": [{
            "instance": _CONNECTION["instance"], "version": "0.1.0",
            "started_at": "2026-11-24T03:08:12.004311Z", "seen_at": "2026-11-24T03:09:47.120087Z",
            "stats": {
                "position": 17, "head_confirmed_age": 0.412, "users": 1,
                "connections": {"catching_up": 0, "live": 1}, "delivered": 12, "recent_bytes": 5120,
                "revocations": 1,
            },
        }],
    }},
    "metrics": {"excerpt": "# TYPE tidings_deliveries_total counter\ntidings_deliveries_total 12.0\n"},
}  # fmt: skip

REFUSED: Final = {
    "malformed": "the body is not valid JSON",
    "too_large": "the body must be at most 1048576 bytes",
    "invalid": "an address is user:<id>, room:<name> or everyone",
    "unauthorized": "the API key is not known",
    "forbidden": "the key does not have the scope admin",
    "not_found": "there is no key of this id",
    "conflict": "this service has no key to sign with",
    "unavailable": "the database cannot be reached just now",
}
"""By code."""
