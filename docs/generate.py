"""Write the pages hooks.md, cli.md and metrics.md from the code; `--check` only says which are out of date.

`tests/test_docs.py` holds the pages to what this gives.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

import harness
from harness import hookspecs
from harness.cli.context import AppContext
from harness.cli.main import cli
from harness.interfaces.specs import EvaluatorSpec, MetricSpec
from harness.plugins import Catalogue, Provided, load_catalogue
from harness.results.reliability import FILE, entries, load

DOCS = Path(__file__).resolve().parent
BASELINES = DOCS.parent / "baselines"
WIDTH = 100
"""Columns of the commands' help, whatever the terminal."""
DOCUMENTED = ("sae-harness", "sae-harness-temporal", "sae-harness-hierarchical-unlearning")
"""Distributions whose metrics are documented: a page must not depend on what else is installed."""

_SOURCE = Path(harness.__file__).parent
_MARK = "<!-- Written by docs/generate.py from the code: edit there, then run `make docs`. -->"

HOOKS_INTRO = """\
A plugin is a Python distribution with an entry point in the group `sae_harness`, which names a module:

```toml
[project.entry-points.sae_harness]
my_idea = "sae_harness_my_idea.plugin"
```

The module implements one or more of the hooks below, each marked with `@hookimpl`. The hooks yield frozen specs. A
spec names its class as `"package.module:Class"`; the class is imported on first use, so the plugin module itself must
import no torch. All names come from `harness` (`from harness import TrainerSpec, hookimpl`); a plugin needs nothing
deeper, except `harness.evaluation.metrics` and `harness.training.kernels` where they help.

`sae-harness plugins new NAME` writes such a distribution, `sae-harness check DISTRIBUTION` holds it to its specs. A
plugin that fails to load is left out and told; everything else works on.
"""

EXAMPLES = {
    "register_saes": """\
from harness import SAESpec, hookimpl


@hookimpl
def register_saes():
    yield SAESpec(
        name="gated",
        target="sae_harness_gated.sae:GatedSAE",
        summary="One path decides which latents are on, another how large they are.",
        reference="arXiv:2404.16014",
    )
""",
    "register_trainers": """\
from harness import Preset, TrainerSpec, hookimpl


@hookimpl
def register_trainers():
    # A method of its own: it names the SAE it trains.
    yield TrainerSpec(
        name="gated",
        target="sae_harness_gated.trainer:GatedTrainer",
        sae="gated",
        sparsity="coefficient",
        summary="Squared error and an L1 penalty on the gates.",
        reference="arXiv:2404.16014",
    )
    # A method that adds terms to others: it names them, and the option `base` chooses one.
    yield TrainerSpec(
        name="my_idea",
        target="sae_harness_gated.trainer:MyIdeaTrainer",
        extends=("topk", "relu"),
        sparsity="base",
        needs=frozenset({"pairs"}),
        summary="One more loss term on neighbouring tokens.",
        presets={"off": Preset(options={"weight": 0.0}, control=True, summary="Without the idea.")},
    )
""",
    "register_evaluators": """\
from harness import EvaluatorSpec, MetricSpec, hookimpl


@hookimpl
def register_evaluators():
    yield EvaluatorSpec(
        name="decoder_geometry",
        target="sae_harness_geometry.evaluator:GeometryEvaluator",
        summary="How far the decoder's directions point apart.",
        metrics=(
            MetricSpec(
                name="mean_max_cosine",
                better="lower",
                bounds=(-1.0, 1.0),
                formula="mean over latents of the largest cosine with another latent's decoder direction",
            ),
        ),
    )
""",
    "register_audit_rules": """\
from harness import AuditRuleSpec, hookimpl


@hookimpl
def register_audit_rules():
    yield AuditRuleSpec(
        name="even_seed",
        target="sae_harness_geometry.rules:even_seed",
        severity="warning",
        title="An even seed",
        meaning="Seeds of this laboratory are odd: the record is not one of ours.",
        mend="Ask who made it.",
    )
""",
    "register_analyses": """\
from harness import AnalysisSpec, hookimpl


@hookimpl
def register_analyses():
    yield AnalysisSpec(
        name="decoder_angles",
        target="sae_harness_geometry.angles:DecoderAngles",
        summary="Histogram of the angles between decoder directions.",
    )
""",
    "register_commands": '''\
import click

from harness import hookimpl


@hookimpl
def register_commands(cli):
    @cli.command("geometry", epilog="Example:  sae-harness geometry saes/topk-l0-32-seed-0")
    @click.argument("path")
    def geometry(path):
        """Draw the decoder of the SAE saved in folder PATH."""
        from sae_harness_geometry.drawing import draw  # torch is imported here, not when commands are listed

        draw(path)
''',
}
"""Hook -> a plugin module that implements it; the tests run each."""

SPECS = ("SAESpec", "TrainerSpec", "Preset", "EvaluatorSpec", "MetricSpec", "MetricValue", "AnalysisSpec")
"""What hooks yield and evaluators return: all in interfaces/specs.py."""

CLASSES = {
    "sae": ("SAE", "SparseCodes", "SAEConfig"),
    "trainer": ("Trainer", "TrainerOptions", "TrainState", "LossTerms"),
    "batch": ("ActivationBatch", "SequenceBatch"),
    "evaluator": ("Evaluator", "EvalContext", "EncodedBatch", "NextTokenLosses", "LanguageModelView"),
    "prompts": ("PromptBatch",),
    "truth": ("WorldTruth",),
    "audit": ("AuditRuleSpec", "AuditHit"),
    "analysis": (
        "Analysis",
        "TrainingLog",
        "AnalysisResult",
        "Table",
        "Figure",
        "Panel",
        "Line",
        "Bars",
        "Histogram",
        "HeatMap",
        "Scatter",
        "Dendrogram",
        "Graph",
    ),
}
"""Module of harness/interfaces -> the classes a plugin implements or is given."""

ALIASES = {"Better": "Literal['higher', 'lower', 'none']", "Option": "bool | int | float | str | None"}
"""Names of types as a reader needs them; the tests hold them to the code."""

CLI_INTRO = """\
The help of every command, as `--help` prints it. Tables go to stdout, progress and notes to stderr. Exit status: 0
done, 1 a verdict or check against (`compare --fail-on`, `check`, `verify`, a failed evaluation), 2 a user's error (one
line on stderr), 130 interrupted.
"""

METRICS_INTRO = """\
Every metric of the built-in evaluators and of `sae-harness-temporal`, from the specs the code is held to: an evaluator
returns exactly these, and a value outside its bounds ends the evaluation as failed.

- **better**: which way is good. `-` where the metric describes and nothing can be said: it gets no verdict.
- **bounds**: what the formula allows. **chance**: what an SAE without information scores, where the formula fixes it.
- **version**: raised by every change that can move the number. Values of different versions are never compared.
- **judged**: `no` where the number is matched (`l0`) or told for information; it is shown and gets no verdict.
- **reliability**: what `sae-harness reliability` measured, by suite: `usable` (three seeds tell methods apart), `noisy`
  (they cannot), `blind` (trained SAEs are not above random ones), `misleading` (a trained SAE is above the oracle: it
  ranks nothing). `-` where it was not measured, or says nothing for want of a direction.

All are measured on held-out documents; special tokens are left out. Standard errors in a record are evaluation noise
(over documents); the intervals of a comparison are over training seeds: see [protocol.md](protocol.md).
"""


def pages() -> dict[str, str]:
    """File name -> content of every generated page.

    Raises:
        ConfigError: a documented distribution is not installed, or fails to load.
    """
    return {"hooks.md": hooks_page(), "cli.md": cli_page(), "metrics.md": metrics_page()}


def hooks_page() -> str:
    """Each hook with signature, docstring and example, the specs' fields, and the classes a plugin implements."""
    source = ast.parse((_SOURCE / "hookspecs.py").read_text(encoding="utf-8"))
    parts = ["# Hooks", _MARK, HOOKS_INTRO.rstrip()]
    for node in source.body:
        if isinstance(node, ast.FunctionDef) and node.name in hooks():
            parts += [f"## {node.name}", f"```python\n{_signature(node)}\n```", ast.get_docstring(node) or ""]
            parts.append(f"```python\n{EXAMPLES[node.name].rstrip()}\n```")
    specs = _classes(_SOURCE / "interfaces" / "specs.py")
    parts += ["## The specs", "Fields without a default must be given. All are keyword-only."]
    for name in SPECS:
        parts += _class_section(specs[name])
    parts += ["## The classes", "What a spec's target must be a subclass of, and what its methods are given."]
    for module, names in CLASSES.items():
        found = _classes(_SOURCE / "interfaces" / f"{module}.py")
        for name in names:
            parts += _class_section(found[name])
    return "\n\n".join(parts) + "\n"


def hooks() -> tuple[str, ...]:
    """Names of all hooks."""
    return tuple(n for n, f in vars(hookspecs).items() if inspect.isfunction(f) and hasattr(f, "sae_harness_spec"))


def cli_page() -> str:
    """The help of every command, at a fixed width, as it is with the built-in plugin alone."""
    parts = ["# The command line", _MARK, CLI_INTRO.rstrip()]
    for context, command in commands():
        level = "##" if context.parent is None or context.parent.parent is None else "###"
        parts += [f"{level} {context.command_path}", f"```text\n{_help(context, command)}\n```"]
    return "\n\n".join(parts) + "\n"


def _help(context: click.Context, command: click.Command) -> str:
    """The help as click 8.5 prints it; older ones do not mark a subcommand that can be left out."""
    text = command.get_help(context).rstrip()
    if isinstance(command, click.Group) and command.invoke_without_command:
        return text.replace("[OPTIONS] COMMAND [ARGS]", "[OPTIONS] [COMMAND] [ARGS]")
    return text


def commands() -> Iterator[tuple[click.Context, click.Command]]:
    """Every command of our own with a context for its help: the whole, then each command and its subcommands."""
    app = AppContext()
    app.catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": DOCUMENTED[0], "SAE_HARNESS_STRICT": "1"})
    settings = {"terminal_width": WIDTH, "max_content_width": WIDTH, "help_option_names": ["-h", "--help"]}
    top = click.Context(cli, info_name="sae-harness", obj=app, **settings)
    yield top, cli
    yield from _subcommands(top, cli)


def _subcommands(context: click.Context, group: click.Group) -> Iterator[tuple[click.Context, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, "a listed command exists"
        inner = click.Context(command, info_name=name, parent=context)
        yield inner, command
        if isinstance(command, click.Group):
            yield from _subcommands(inner, command)


def metrics_page() -> str:
    """Every metric of the documented distributions."""
    parts = ["# Metrics", _MARK, METRICS_INTRO.rstrip()]
    for provided in documented_evaluators():
        parts += _evaluator_section(provided)
    return "\n\n".join(parts) + "\n"


def documented_evaluators() -> list[Provided[EvaluatorSpec]]:
    """Evaluators of the documented distributions, ours first.

    Raises:
        PluginError: one of them is not installed, or fails to load.
    """
    catalogue: Catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": ",".join(DOCUMENTED), "SAE_HARNESS_STRICT": "1"})
    return sorted(catalogue.evaluators.values(), key=lambda p: (DOCUMENTED.index(p.distribution), p.spec.name))


def _evaluator_section(provided: Provided[EvaluatorSpec]) -> list[str]:
    spec = provided.spec
    runs = "in every suite" if spec.default else "where a suite lists it, and on the methods of its own plugin"
    needs = ", ".join(sorted(need.replace("_", " ") for need in spec.needs)) or "activations alone"
    told = f"{spec.summary}\n\nFrom `{provided.distribution}`. Runs {runs}. Needs: {needs}."
    if spec.reference:
        told += f" Reference: {spec.reference}."
    rows = [
        f"| `{m.name}` | {'-' if m.better == 'none' else m.better} | {_cell(m.unit)} | {_bounds(m)} | "
        f"{'-' if m.chance is None else f'{m.chance:g}'} | {m.version} | {'yes' if _judged(m) else 'no'} | "
        f"{_reliability(m)} |"
        for m in spec.metrics
    ]
    header = [
        "| metric | better | unit | bounds | chance | version | judged | reliability |",
        "|---|---|---|---|---|---|---|---|",
    ]
    formulas = [f"- `{m.name}`: {_prose(m.formula)}.{_reference(m)}" for m in spec.metrics]
    return [f"## {spec.name}", told, "\n".join([*header, *rows]), "\n".join(formulas)]


def _reliability(metric: MetricSpec) -> str:
    """The stored labels of the metric's present version, by suite."""
    found = []
    for path in sorted(BASELINES.glob(f"*/{FILE}")):
        entry = entries(load(BASELINES, path.parent.name)).get(metric.name)
        if entry is not None and entry.version == metric.version and entry.label != "unknown":
            found.append(f"{path.parent.name}: {entry.label}")
    return "; ".join(found) or "-"


def _judged(metric: MetricSpec) -> bool:
    return metric.compared and metric.better != "none"


def _reference(metric: MetricSpec) -> str:
    return f" Reference: {metric.reference}." if metric.reference else ""


def _bounds(metric: MetricSpec) -> str:
    low, high = metric.bounds
    if low is None and high is None:
        return "-"
    return f"{'(-∞' if low is None else f'[{low:g}'}, {'∞)' if high is None else f'{high:g}]'}"


def _classes(path: Path) -> dict[str, ast.ClassDef]:
    module = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}


def _class_section(node: ast.ClassDef) -> list[str]:
    """A class: its docstring, its fields as a table, its public methods."""
    parts = [f"### {node.name}", inspect.cleandoc(ast.get_docstring(node) or "")]
    fields = list(_fields(node))
    if fields:
        rows = [
            f"| `{name}` | `{_cell(type_)}` | {f'`{_cell(default)}`' if default else '-'} | {doc} |"
            for name, type_, default, doc in fields
        ]
        parts.append("\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows]))
    methods = [_method(child) for child in node.body if isinstance(child, ast.FunctionDef) and child.name[0] != "_"]
    return [*parts, *(["\n".join(methods)] if methods else [])]


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning (the string below it) of each annotated field."""
    for child, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            doc = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            type_ = ALIASES.get(ast.unparse(child.annotation), ast.unparse(child.annotation))
            default = _default(child.value)
            yield child.target.id, type_, default, _prose(" ".join(str(doc).split()).replace("|", "\\|"))


def _default(value: ast.expr | None) -> str:
    """A default as written, `field(default_factory=dict)` as `{}`."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        return "{}"
    return "" if value is None else ast.unparse(value)


def _method(node: ast.FunctionDef) -> str:
    """One line: signature, whether it must be implemented, and the docstring's first paragraph."""
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    must = "**Required.** " if "abstractmethod" in decorators else ""
    doc = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    signature = f"{node.name}: {_returns(node)}" if "property" in decorators else _signature(node).removeprefix("def ")
    return f"- `{signature}`: {must}{_prose(doc)}"


def _signature(node: ast.FunctionDef) -> str:
    """`def name(arguments) -> result`, without `self`."""
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    return f"def {node.name}({arguments}) -> {_returns(node)}"


def _returns(node: ast.FunctionDef) -> str:
    return "None" if node.returns is None else ast.unparse(node.returns)


def _cell(text: str) -> str:
    """Text that cannot end a table's cell."""
    return text.replace("|", "\\|")


def _prose(text: str) -> str:
    """Text in which stars are no emphasis; what is between backticks stays."""
    parts = text.split("`")
    return "`".join(part if i % 2 else part.replace("*", "\\*") for i, part in enumerate(parts))


def main() -> int:
    """Exit status: 0 written or up to date, 1 with `--check` where a page is out of date."""
    parser = argparse.ArgumentParser(description="Generate the pages hooks.md, cli.md and metrics.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args().check
    stale = []
    for name, content in pages().items():
        path = DOCS / name
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            stale.append(name)
            if not check:
                path.write_text(content, encoding="utf-8")
    if stale:
        print(f"{'Out of date' if check else 'Written'}: {', '.join(stale)}.")
    else:
        print("All generated pages are up to date.")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
