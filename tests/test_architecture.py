"""Who may import whom, read from the source; what loads torch, tried in a new process; and how large things may grow.

The order of the rooms is that of the design: an import goes downward only.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
HARNESS = ROOT / "harness"
PLUGINS = ROOT / "plugins"

_FOUNDATION = {"errors"}
_INTERFACES = {"interfaces", *_FOUNDATION}
_ARTEFACTS = {"artefacts", *_INTERFACES}
_RESULTS = {"results", "interfaces.specs", "interfaces.audit", *_FOUNDATION}
_CONFIG = {"config", "interfaces.specs", *_FOUNDATION}
_PLUGINS = {"plugins", "hookspecs", "interfaces.specs", "interfaces.audit", *_FOUNDATION}
_DATA = {"data", *_CONFIG, *_ARTEFACTS}
_ACTIVATIONS = {"activations", *_DATA}
_TRAINING = {"training", "threads", *_ACTIVATIONS}
_EVALUATION = {"evaluation", "threads", *_ACTIVATIONS}
_METHODS = {"methods", "artefacts.key", "plugins", *_INTERFACES}
_REGISTRY = {"registry", "paths", *_CONFIG, *_PLUGINS}
_EXECUTION = {"execution", *_TRAINING, *_EVALUATION}
_COMPUTE = {"compute", *_FOUNDATION}
_BENCH = {"bench", *_COMPUTE, *_ACTIVATIONS, *_EVALUATION, *_TRAINING, *_RESULTS, *_METHODS, *_REGISTRY}
_PIPELINE = {"pipeline", "bench", "compute", "provenance", *_EXECUTION, *_RESULTS, *_METHODS, *_REGISTRY}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "hookspecs": {"interfaces.specs", "interfaces.audit"},
    "interfaces": _INTERFACES,
    "artefacts": _ARTEFACTS,
    "data": _DATA,
    "threads": {"threads"},
    "activations": _ACTIVATIONS,
    "training": _TRAINING,
    "evaluation": _EVALUATION,
    "execution": _EXECUTION,
    "plugins": _PLUGINS,
    "paths": {"paths", *_FOUNDATION},
    "config": _CONFIG,
    "registry": _REGISTRY,
    "methods": _METHODS,
    "provenance": {"results.record", "artefacts.key", *_CONFIG},
    "results": _RESULTS,
    "report": {"report", "interfaces.analysis", *_RESULTS},
    "compute": _COMPUTE,
    "bench": _BENCH,
    "pipeline": _PIPELINE,
    # The kit drives the rooms below the pipeline and draws figures; it knows no built-in and no command.
    "testing": {"testing", "report.figures", *_TRAINING, *_EVALUATION, *_METHODS},
    # `check` and `plugins new` are the commands that need the kit.
    "cli": {"cli", "compute", "report", "testing.checks", "testing.installed", "testing.scaffold", *_PIPELINE},
}
"""Room (a folder or file of harness/) -> what it may import; `a.b` allows that one module."""

_HARNESS_FOR_PLUGINS = (
    "harness",
    "harness.data.worlds",
    "harness.evaluation.absorption",
    "harness.evaluation.absorption_published",
    "harness.evaluation.absorption_words",
    "harness.evaluation.attribute_tasks",
    "harness.evaluation.autointerp",
    "harness.evaluation.concept_ablation",
    "harness.evaluation.geometry",
    "harness.evaluation.interchange",
    "harness.evaluation.interchange_published",
    "harness.evaluation.judge",
    "harness.evaluation.judge_local",
    "harness.evaluation.metrics",
    "harness.evaluation.probing",
    "harness.evaluation.probing_published",
    "harness.evaluation.ravel",
    "harness.evaluation.saebench_core",
    "harness.evaluation.truth",
    "harness.evaluation.unlearning",
    "harness.evaluation.unlearning_draws",
    "harness.evaluation.unlearning_prompts",
    "harness.evaluation.unlearning_sweep",
    "harness.training.active",
    "harness.training.code_distance",
    "harness.training.kernels",
    "harness.training.median",
    "harness.training.relative_scale",
    "harness.training.pair_penalties",
    "harness.training.pairs",
)
_LIGHT = (
    "harness",
    "harness.hookspecs",
    "harness.plugins",
    "harness.registry",
    "harness.config",
    "harness.paths",
    "harness.methods",
    "harness.bench",
    "harness.pipeline",
    "harness.testing",
    "harness.builtin.plugin",
)
_HEAVY = ("torch", "transformers", "datasets", "sklearn", "scipy")

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80


class Import(NamedTuple):
    module: str
    """Absolute name of what is imported: the package or module the names are taken from, or the module itself."""
    names: tuple[str, ...]
    relative: bool
    line: int


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, root: Path) -> Iterator[Import]:
    """All imports of a file, those inside functions and under TYPE_CHECKING too."""
    module = _module_of(path, root)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), False, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            if node.level == 0:
                yield Import(node.module or "", names, False, node.lineno)
                continue
            above = package.split(".")[: len(package.split(".")) - (node.level - 1)]
            yield Import(".".join([*above, *([node.module] if node.module else [])]), names, True, node.lineno)


def _targets(found: Import) -> Iterator[str]:
    """The modules of harness/ that an import names, relative to `harness`: `from .. import hookspecs` is `hookspecs`.

    `from .. import __version__` is free to all: it is a constant of the package itself.
    """
    if found.names == ("__version__",):
        return
    inside = found.module.removeprefix("harness").removeprefix(".")
    submodules = [name for name in found.names if _exists(f"{inside}.{name}".lstrip("."))]
    yield from (f"{inside}.{name}".lstrip(".") for name in submodules)
    if len(submodules) < len(found.names) or not found.names:
        yield inside


def _exists(module: str) -> bool:
    path = HARNESS.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _is_harness(found: Import) -> bool:
    return found.module == "harness" or found.module.startswith("harness.")


def _allowed(target: str, allowed: set[str]) -> bool:
    return any(target == entry or (entry and target.startswith(f"{entry}.")) for entry in allowed)


def _ours(*rooms: str) -> list[Path]:
    """The files of harness/ in these rooms, or in all but built-ins and the plugin template."""
    skipped = ("builtin", "testing/template")
    found = []
    for path in sorted(HARNESS.rglob("*.py")):
        inside = path.relative_to(HARNESS).as_posix()
        in_rooms = not rooms and not inside.startswith(skipped)
        if in_rooms or inside.startswith(tuple(f"{room}/" for room in rooms)) or inside.removesuffix(".py") in rooms:
            found.append(path)
    return found


def _room(path: Path) -> str:
    return path.relative_to(HARNESS).with_suffix("").parts[0]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_reader_sees_relative_imports_and_those_inside_functions():
    """Holds the tests below: what they read is what is there."""
    targets = {
        t for found in _imports(HARNESS / "cli" / "check.py", ROOT) if _is_harness(found) for t in _targets(found)
    }
    assert targets == {"cli.context", "report.tables", "testing.checks", "testing.installed"}
    assert not _allowed("cli.context", MAY_IMPORT["results"])
    assert not _allowed("training.fit", MAY_IMPORT["results"])


def test_every_room_has_its_place_in_the_order():
    rooms = {_room(path) for path in _ours()} - {"__init__"}
    assert rooms <= MAY_IMPORT.keys(), "a new room: say here what it may import"


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_downward_only(room):
    wrong = [
        f"{_name(path)}:{found.line} imports {target}"
        for path in _ours(room)
        for found in _imports(path, ROOT)
        if _is_harness(found)
        for target in _targets(found)
        if not _allowed(target, MAY_IMPORT[room])
    ]
    assert not wrong, "\n".join(wrong)


def test_the_order_has_no_cycle():
    """No room may import one that may import it."""
    rooms = MAY_IMPORT.keys()
    both_ways = [
        (a, b) for a in rooms for b in rooms if a < b and _allowed(b, MAY_IMPORT[a]) and _allowed(a, MAY_IMPORT[b])
    ]
    assert not both_ways


def test_the_package_itself_names_only_what_plugins_may_use():
    targets = {t for found in _imports(HARNESS / "__init__.py", ROOT) if _is_harness(found) for t in _targets(found)}
    assert all(_allowed(target, {"hookspecs", *_INTERFACES}) for target in targets), targets


def test_imports_inside_harness_are_relative():
    wrong = [
        f"{_name(path)}:{found.line}"
        for path in _ours()
        for found in _imports(path, ROOT)
        if _is_harness(found) and not found.relative
    ]
    assert not wrong


def _outsiders() -> list[tuple[Path, Path, str]]:
    """(file, root of its imports, own package) of built-ins and plugins, without their tests."""
    files = [(path, ROOT, "harness.builtin") for path in sorted((HARNESS / "builtin").rglob("*.py"))]
    for package in sorted(PLUGINS.glob("*/sae_harness_*")):
        files += [(path, package.parent, package.name) for path in sorted(package.rglob("*.py"))]
    return files


def test_built_ins_and_plugins_use_public_names_alone():
    wrong = []
    for path, root, own in _outsiders():
        for found in _imports(path, root):
            inside = found.module == own or found.module.startswith(f"{own}.")
            if _is_harness(found) and not inside and found.module not in _HARNESS_FOR_PLUGINS:
                wrong.append(f"{_name(path)}:{found.line} imports {found.module}")
    assert not wrong, "\n".join(wrong)


def test_names_taken_from_harness_are_public():
    import harness

    wrong = [
        f"{_name(path)}:{found.line} imports {name}"
        for path, root, _ in _outsiders()
        for found in _imports(path, root)
        if found.module == "harness" and not found.relative
        for name in found.names
        if name not in harness.__all__
    ]
    assert not wrong, "\n".join(wrong)


def test_plugins_import_no_other_plugin():
    wrong = [
        f"{_name(path)}:{found.line} imports {found.module}"
        for path, root, own in _outsiders()
        for found in _imports(path, root)
        if found.module.startswith("sae_harness_") and found.module.partition(".")[0] != own
    ]
    assert not wrong


def test_nobody_imports_built_ins_or_commands():
    files = [(path, ROOT) for path in _ours()] + [(path, root) for path, root, _ in _outsiders() if root != ROOT]
    wrong = [
        f"{_name(path)}:{found.line} imports {target}"
        for path, root in files
        for found in _imports(path, root)
        if _is_harness(found)
        for target in _targets(found)
        if target.startswith("builtin") or (target.startswith("cli") and _room(path) != "cli")
    ]
    assert not wrong


def test_rooms_have_empty_init_files():
    """But for the two that publish names: `harness`, and `harness.testing` for plugins' tests."""
    public = {HARNESS / "__init__.py", HARNESS / "testing" / "__init__.py"}
    written = [
        _name(path)
        for path in HARNESS.rglob("__init__.py")
        if path not in public and not all(isinstance(node, ast.Expr) for node in _tree(path).body)
    ]
    assert not written


def _all_source() -> list[Path]:
    return [*sorted(HARNESS.rglob("*.py")), *sorted(PLUGINS.rglob("*.py"))]


def test_no_file_is_too_long():
    long = {_name(path): n for path in _all_source() if (n := len(path.read_text().splitlines())) > MAX_FILE_LINES}
    assert not long


def test_no_function_is_too_long():
    long = {
        f"{_name(path)}:{node.name}": length
        for path in _all_source()
        for node in ast.walk(_tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert not long


def test_there_is_no_attic():
    assert not [_name(path) for path in _all_source() if path.stem in ("utils", "util", "helpers", "misc")]


def _light_modules() -> list[str]:
    rooms = [_module_of(path, ROOT) for path in _ours("results", "report", "cli")]
    return sorted({*_LIGHT, *rooms})


def _loaded(modules: list[str]) -> dict[str, list[str]]:
    """For each module, in one new process: the heavy packages it was the first to load."""
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    before = set(sys.modules)\n"
        "    importlib.import_module(name)\n"
        f"    print(name, *[heavy for heavy in {_HEAVY!r} if heavy in set(sys.modules) - before])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: heavy for name, *heavy in lines}


def test_what_answers_at_once_loads_nothing_heavy():
    loaded = _loaded(_light_modules())
    assert len(loaded) >= len(_LIGHT)
    assert not {name: heavy for name, heavy in loaded.items() if heavy}


def test_the_heavy_packages_are_noticed():
    """Holds the test above: a module that does load torch is told."""
    assert "torch" in _loaded(["harness.interfaces.batch"])["harness.interfaces.batch"]
