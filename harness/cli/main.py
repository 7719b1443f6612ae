"""The `sae-harness` command: global options, lazily imported commands, plugins' commands, errors as one line."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import HarnessError, UnknownNameError
from .context import AppContext

COMMANDS = {
    "compare": ("compare", "Compare a method with a baseline at matched L0."),
    "leaderboard": ("leaderboard", "Rank all methods of a suite, with ties."),
    "run": ("run", "Train and evaluate a method over a suite."),
    "sweep": ("sweep", "Train and evaluate a grid of methods, presets and options."),
    "evaluate": ("evaluate", "Evaluate any saved SAE."),
    "analyse": ("analyse", "Analyse one SAE: numbers and figures."),
    "unlearn": ("unlearn", "Clamp latents by texts to forget and to retain."),
    "reliability": ("reliability", "Measure how far a suite's metrics can be trusted."),
    "suites": ("suites", "List and show suites."),
    "baselines": ("baselines", "List, show, build, add, sign and verify stored baselines."),
    "reproduce": ("reproduce", "Make a record again and compare every metric."),
    "export": ("export", "Write records as SAEBench's result files."),
    "audit": ("audit", "Find faults in records: ours, SAEBench's, combined ones."),
    "claims": ("claims", "Hold the numbers and comparisons of a text to records."),
    "power": ("power", "Say how many seeds it takes to see a difference."),
    "plugins": ("plugins", "List what is installed; write a new plugin."),
    "check": ("check", "Run the conformance kit on an installed plugin."),
    "cache": ("cache", "Show, verify and clean the cache."),
    "fetch": ("fetch", "Fetch a language model that is not embedded."),
}
"""Command -> module of this room (whose attribute is `command`) and its line in the help."""


_HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click 8.2; before, the help is no error


class UserError(click.ClickException):
    """A user's mistake on its way to the terminal: one line on stderr, exit status 2."""

    exit_code = 2


class LazyGroup(click.Group):
    """Our commands, imported when they are used, and after them the plugins' own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(self._plugin_commands(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __package__).command
            _name_variables(command, f"SAE_HARNESS_{cmd_name.upper()}")
            return command
        return self._plugin_commands(ctx).get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help, without importing our commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        others = self._plugin_commands(ctx)
        if others:
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, others[name].get_short_help_str(90)) for name in sorted(others)])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _told():
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise UnknownNameError.of("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with _told():
            return super().invoke(ctx)

    def _plugin_commands(self, ctx: click.Context) -> Mapping[str, click.Command]:
        """Loaded once an invocation, and only when a name is not ours or the help is asked for."""
        if "plugin commands" not in ctx.meta:
            # In `--help` and completion the callback has not run: then the defaults and the environment hold.
            app = ctx.obj if isinstance(ctx.obj, AppContext) else _app_of(ctx.params)
            found = click.Group()
            app.catalogue.register_commands(found, taken=COMMANDS)
            ctx.meta["plugin commands"] = found.commands
        return ctx.meta["plugin commands"]


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SAE_HARNESS"},
    epilog="Example:  sae-harness compare temporal --baseline topk",
)
@click.option("--cache", type=click.Path(path_type=Path), help="Cache folder [default: the user's cache folder].")
@click.option("--registry", type=click.Path(path_type=Path), help="Your own registry.yaml, merged over the project's.")
@click.option("--baselines", type=click.Path(path_type=Path), help="Folder of stored baselines.")
@click.version_option(__version__, prog_name="sae-harness")
@click.pass_context
def cli(ctx: click.Context, cache: Path | None, registry: Path | None, baselines: Path | None) -> None:
    """Benchmark sparse autoencoders: same LM, same data, matched sparsity, several seeds, a verdict.

    Every option can also be set as SAE_HARNESS_<OPTION> or SAE_HARNESS_<COMMAND>_<OPTION>. SAE_HARNESS_PLUGINS=a,b
    loads only these plugins, SAE_HARNESS_STRICT=1 stops at the first that fails to load.
    """
    ctx.obj = AppContext(cache=cache, registry=registry, baselines=baselines)


_FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 a verdict against, 2 a user's error, 130 interrupted."""
    # Before torch is imported: spinning thread barriers cost a factor of 2 to 5 beside any busy neighbour.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = _show_warning
    cli(prog_name="sae-harness")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except HarnessError as error:
        raise UserError(" ".join(str(error).split())) from error
    except click.UsageError as error:
        if isinstance(error, _HELP):
            raise
        where = f" See `{error.ctx.command_path} --help`." if error.ctx is not None else ""
        raise UserError(" ".join(error.format_message().split()) + where) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(f"No room is left where this was to be written{where}: {error.strerror}.") from error
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        raise click.exceptions.Exit(130) from None


def _name_variables(command: click.Command, prefix: str) -> None:
    """Let each option be set as <PREFIX>_<OPTION>: click would take the name from the Python parameter."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.envvar is None:
            longest = max(parameter.opts, key=len)
            parameter.envvar = f"{prefix}_{longest.lstrip('-').replace('-', '_').upper()}"
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            _name_variables(inner, f"{prefix}_{name.upper()}")


def _app_of(params: dict[str, Any]) -> AppContext:
    return AppContext(**{name: params.get(name) for name in ("cache", "registry", "baselines")})


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning as one line, without the line of code it came from."""
    print(f"Warning: {' '.join(str(message).split())}", file=sys.stderr)
