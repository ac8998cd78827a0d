"""Node programs, with the client's package as npm would have installed it."""

import asyncio
import os
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from tests.clients.pages import ROOT

PACKAGE = ROOT / "clients/js"


def install(folder: Path) -> Path:
    """Make a folder in which `tidings-client`, and what it is developed with, can be imported; return it."""
    modules = folder / "node_modules"
    modules.mkdir()
    (modules / "tidings-client").symlink_to(PACKAGE)
    for module in (PACKAGE / "node_modules").iterdir():
        (modules / module.name).symlink_to(module)
    return folder


async def started(folder: Path, program: str, **environment: str) -> Process:
    # Links stay links: what is linked finds its neighbours here, and not where it is in truth.
    command = ("node", "--preserve-symlinks", program)
    return await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=os.environ | environment, stdout=PIPE, stderr=PIPE
    )


async def run(folder: Path, program: str, **environment: str) -> str:
    """Return what a program printed that ends by itself, and well."""
    process = await started(folder, program, **environment)
    printed, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return printed.decode()


async def bundle(folder: Path, source: Path, into: Path) -> None:
    """Build one module out of a source and what it imports, as sites do."""
    command = (
        PACKAGE / "node_modules/.bin/esbuild", source, "--bundle", "--format=esm", "--jsx=automatic",
        f"--outfile={into}",
    )  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *map(str, command), env=os.environ | {"NODE_PATH": str(folder / "node_modules")}, stderr=PIPE
    )
    _, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
