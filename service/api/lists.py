"""Lists come in pages: ``{"data": […], "next_cursor", "has_more"}``."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict

from service.domain.recent import FOREVER

Limit = Annotated[int, Query(ge=1, le=1000)]
# PostgreSQL's text has no NUL; other controls a cursor may have.
After = Annotated[
    str, Query(max_length=512, pattern=r"^[^\x00]*$", description="`next_cursor` of the page before")
]
Edge = Annotated[int | None, Query(ge=0, le=FOREVER)]
"""A position or number that a list goes up to, or on from; it is not in it."""
Row = TypeVar("Row")
Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """A page; `next_cursor` is what the next one is asked for with, as `after`."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    data: list[Item]
    next_cursor: str | None = None
    has_more: bool = False


def listed(
    rows: Sequence[Row],
    limit: int,
    shown: Callable[[Row], dict[str, Any]],
    cursor: Callable[[Row], str],
) -> Page[Any]:
    """Make a page of at most ``limit`` out of rows, of which one more was read."""
    page = rows[:limit]
    more = len(rows) > limit
    return Page[Any](
        data=[shown(row) for row in page],
        next_cursor=cursor(page[-1]) if more else None,
        has_more=more,
    )
