"""Options several commands share, and how they change a suite."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import click

from ..compute import Compute
from ..config import SuiteConfig
from ..errors import ConfigError
from ..interfaces.specs import Option
from .context import AppContext
from .quantity import SIZE

FORMATS = ("plain", "md", "github", "csv")


def suite_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--suite`."""
    return click.option("--suite", "suite_name", default="tiny", show_default=True, help="The protocol to use.")(
        command
    )


def grid_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--seeds` and `--l0`."""
    command = click.option("--l0", "l0s", metavar="L0,...", help="Target L0s to train [default: the suite's].")(command)
    return click.option(
        "--seeds", "n_seeds", type=int, metavar="N", help="Number of training seeds [default: the suite's]."
    )(command)


def evaluators_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--evaluators`."""
    return click.option(
        "--evaluators",
        "more",
        metavar="NAME,...",
        help="Evaluators to run besides the suite's, or `all` installed ones.",
    )(command)


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--device`."""
    option = click.option(
        "--device", default="cpu", show_default=True, metavar="NAME", help="Where to compute: cpu, cuda or cuda:N."
    )
    return option(command)


def compute_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--device`, `--precision` and `--max-memory` of a command that trains, given to it as `compute`."""

    @functools.wraps(command)
    def wrapped(*args: Any, device: str, precision: Any, max_memory: float | None, **rest: Any) -> Any:
        limit = None if max_memory is None else int(max_memory)
        return command(*args, compute=Compute(device=device, precision=precision, max_memory=limit), **rest)

    precision = click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="Of the matrix products in training; bfloat16 on a GPU only.",
    )
    memory = click.option(
        "--max-memory",
        type=SIZE,
        help="What SAEs that train together may take, such as 8GB [default: 80 % of the machine's or GPU's memory].",
    )
    return device_option(precision(memory(wrapped)))


def table_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json` and `--format`."""
    command = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")(command)
    return click.option(
        "--format", "fmt", type=click.Choice(FORMATS), default="plain", show_default=True, help="Form of the table."
    )(command)


def chosen_suite(app: AppContext, name: str, n_seeds: int | None = None, l0s: str | None = None) -> SuiteConfig:
    """The suite with the caller's seeds and L0 grid.

    Raises:
        ConfigError: a count or an L0 is not a positive whole number.
    """
    suite = app.registry.suite(name)
    if n_seeds is not None:
        if n_seeds < 1:
            raise ConfigError(f"--seeds must be at least 1, got {n_seeds}: it is the number of training seeds.")
        first = suite.seeds[:n_seeds]
        rest = range(max(suite.seeds) + 1, max(suite.seeds) + 1 + n_seeds - len(first))
        suite = suite.replace(seeds=(*first, *rest))
    if l0s is not None:
        suite = suite.replace(l0_grid=_numbers(l0s, suite.d_sae))
    return suite


def with_evaluators(suite: SuiteConfig, app: AppContext, names: str | None) -> SuiteConfig:
    """The suite with these evaluators besides its own; `all` are those that are installed.

    Raises:
        UnknownNameError: there is no such evaluator.
    """
    if names is None:
        return suite
    more = tuple(app.catalogue.evaluators) if names == "all" else chosen_metrics(names)
    for name in more:
        app.catalogue.evaluator(name)
    return suite.replace(evaluators=tuple(dict.fromkeys([*suite.evaluators, *more])))


def _numbers(text: str, d_sae: int) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--l0 must be whole numbers with commas between, such as 8,16,32; got {text!r}.") from None
    if any(not 1 <= n <= d_sae for n in numbers) or len(set(numbers)) != len(numbers):
        raise ConfigError(f"--l0 must be distinct numbers in [1, d_sae = {d_sae}]; got {text!r}.")
    return tuple(sorted(numbers))


def parse_settings(settings: tuple[str, ...]) -> Mapping[str, Option]:
    """`name=value` options of a method, values read as YAML (numbers, true, false, text).

    Raises:
        ConfigError: one is not of that form.
    """
    import yaml

    parsed: dict[str, Option] = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator or not name:
            raise ConfigError(f"--set takes name=value, such as lr=0.001; got {setting!r}.")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {name}: {value!r} cannot be read as a number, true, false or text.") from None
        if not isinstance(read, (bool, int, float, str)):
            raise ConfigError(f"--set {name}: {value!r} is not a number, true, false or text.")
        parsed[name] = number_in(read)
    return parsed


def number_in(value: Any) -> Option:
    """YAML 1.1 reads `1e-3` as text; users mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def chosen_metrics(names: str | None) -> tuple[str, ...]:
    """`--metrics a,b` as names."""
    return tuple(part.strip() for part in names.split(",") if part.strip()) if names else ()
