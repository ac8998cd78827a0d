"""The JavaScript client as npm would have installed it, and what builds pages with it."""

from pathlib import Path

from tests.clients.pages import ROOT
from tests.clients.programs import Programs

PACKAGE = ROOT / "clients/js"


def install(folder: Path) -> Path:
    """Make a folder in which `tidings-client`, and what it is developed with, can be imported; return it."""
    modules = folder / "node_modules"
    modules.mkdir()
    (modules / "tidings-client").symlink_to(PACKAGE)
    for module in (PACKAGE / "node_modules").iterdir():
        (modules / module.name).symlink_to(module)
    return folder


async def bundle(programs: Programs, source: Path, into: Path) -> None:
    """Build one module out of a source and what it imports, as sites do."""
    folder = install(into.parent)
    await _esbuild(programs, folder, source, "--bundle", f"--outfile={into}")


async def check(programs: Programs, source: Path) -> None:
    """Have it read, and nothing done with it."""
    await _esbuild(programs, source.parent, source, "--outfile=/dev/null")


async def _esbuild(programs: Programs, folder: Path, source: Path, *options: str) -> None:
    program = await programs.start(
        PACKAGE / "node_modules/.bin/esbuild", source, "--jsx=automatic", "--format=esm", *options,
        folder=folder, NODE_PATH=str(folder / "node_modules"),
    )  # fmt: skip
    await program.end()
