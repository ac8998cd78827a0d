"""The command line: run the service, and use one that runs."""

import asyncio
import logging
import sys

import typer

from service.cli import credentials, events, listening, serving
from service.domain.errors import TidingsError
from service.observe.logs import redact

log = logging.getLogger("tidings.cli")

app = typer.Typer(
    name="tidings",
    help=__doc__,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serving.serve)
app.command()(serving.migrate)
app.command()(serving.prune)
app.command("db-url")(serving.db_url)
app.command()(credentials.token)
app.add_typer(credentials.keys, name="key")
app.command()(credentials.revoke)
app.command()(credentials.audit)
app.command()(events.send)
app.command()(listening.listen)
app.command()(events.stats)


def main() -> None:
    """Run the command that the arguments name; errors are told on stderr, a line each."""
    try:
        app()
    except TidingsError as error:
        _leave(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    except Exception as error:
        log.debug("the command failed", exc_info=True)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        _leave(f"{type(error).__name__}: {reason}" if isinstance(error, LookupError) else reason)


def _leave(message: str) -> None:
    for line in redact(message).splitlines():
        typer.echo(f"tidings: {line}", err=True)
    sys.exit(1)
