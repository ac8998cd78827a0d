"""What stands in fences in the how-to pages, to be run."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs/how-to"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: str, language: str, heading: str | None = None) -> list[str]:
    """Return the blocks of a language in a page, or of what stands under one of its headings."""
    text = (HOW_TO / page).read_text()
    if heading is not None:
        _, found, rest = text.partition(f"\n{heading}\n")
        assert found, f"{page} has no {heading!r}"
        text = re.split(r"^#+ ", _FENCE.sub(_hide, rest), maxsplit=1, flags=re.MULTILINE)[0]
        text = rest[: len(text)]
    return [body for kind, body in _FENCE.findall(text) if kind == language]


def _hide(fence: re.Match[str]) -> str:
    """Blank what is fenced, so that a comment in it is no heading."""
    return "`" * len(fence[0])
