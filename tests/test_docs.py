"""The documentation holds: generated pages are up to date, links and commands exist, and the code on the pages runs."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from harness import hookspecs
from harness.hookspecs import PROJECT
from harness.interfaces import specs
from harness.interfaces.audit import AuditRuleSpec
from harness.testing.scaffold import write_plugin

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "baselines/README.md", "plugins/README.md", "plugins/*/README.md")
    for path in ROOT.glob(pattern)
)
HOOKS = sorted(name for name, f in vars(hookspecs).items() if hasattr(f, f"{PROJECT}_spec"))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_MARKED = re.compile(r"<!-- (file|as written): (\S+) -->\n```\w+\n(.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["hooks", "cli", "metrics"])
def test_a_generated_page_is_up_to_date(generate, page):
    if page == "metrics":
        pytest.importorskip("sae_harness_temporal", reason="the page holds the metrics of plugins/temporal")
    expected = getattr(generate, f"{page}_page")()
    assert (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") == expected, "run `make docs`"


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_exact_signature_and_docstring(name):
    function = getattr(hookspecs, name)
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    signature = f"def {name}{inspect.signature(function)}".replace("'", "")
    assert f"## {name}\n\n```python\n{signature}\n```\n\n{inspect.getdoc(function)}\n" in page


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_of_every_hook_runs_and_yields_what_the_hook_takes(generate, name):
    namespace: dict = {}
    exec(compile(generate.EXAMPLES[name], f"example of {name}", "exec"), namespace)
    hook = namespace[name]
    assert hasattr(hook, f"{PROJECT}_impl")
    if name == "register_commands":
        group = click.Group()
        hook(group)
        assert "Example:" in (group.commands["geometry"].epilog or "")
    else:
        kinds = {"register_saes": specs.SAESpec, "register_trainers": specs.TrainerSpec}
        kinds["register_analyses"] = specs.AnalysisSpec
        kinds["register_audit_rules"] = AuditRuleSpec
        found = list(hook())
        assert found
        assert all(isinstance(spec, kinds.get(name, specs.EvaluatorSpec)) for spec in found)


def test_types_are_shown_as_they_are_defined(generate):
    for name, shown in generate.ALIASES.items():
        assert str(getattr(specs, name)).replace("typing.", "") == shown


def test_every_command_has_an_example_that_begins_with_its_own_name(generate):
    for context, command in generate.commands():
        epilog = command.epilog or ""
        assert epilog.startswith(f"Example:  {context.command_path}"), context.command_path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page):
    for target in _LINK.findall(_without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in {_slug(heading) for heading in headings}, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_on_the_pages_exist_with_their_options(generate, page):
    known = {context.command_path: command for context, command in generate.commands()}
    for line in _command_lines(page.read_text(encoding="utf-8")):
        _check_command(shlex.split(line, comments=True), known, f"{page.name}: {line}")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_make_targets_on_the_pages_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M))
    assert named <= targets


def test_the_readme_shows_make_then_pip_then_a_plugin():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    steps = ["make compare", "make test", "-c constraints.txt", "[project.entry-points.sae_harness]"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    assert re.search(r"<!-- compare:begin -->\n(.*\n)?<!-- compare:end -->", text, re.S)


def test_the_readmes_plugin_passes_the_conformance_kit(installed):
    from harness.plugins import load_catalogue
    from harness.testing import run_checks

    installed("README.md", "few_strong")
    catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": "builtin,few_strong", "SAE_HARNESS_STRICT": "1"})
    results = run_checks("sae-harness-few-strong", catalogue)
    assert {result.spec for result in results} >= {"few_strong"}
    assert [(r.check, r.message) for r in results if not r.passed] == []


def test_the_tutorials_loss_trains_and_its_control_is_the_base_to_the_bit(installed):
    from harness.methods import build, resolve_method
    from harness.plugins import load_catalogue
    from harness.testing import planted_batches
    from harness.training.checkpoint import sae_id
    from harness.training.fit import FitJob, fit

    installed("docs/tutorial.md", "my_idea")
    catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": "builtin,my_idea", "SAE_HARNESS_STRICT": "1"})
    jobs = []
    for name in ("topk", "my_idea", "my_idea@off"):
        method = resolve_method(catalogue, name)
        trainer, sae = build(method, d_in=16, d_sae=64, target_l0=4)
        job = FitJob(label=name, sae=sae, trainer=trainer, seed=0, target_l0=4, sparsity=method.sparsity)
        jobs.append(job)
    topk, idea, off = fit(jobs, planted_batches(), n_steps=40, batch_size=128, dead_after_tokens=1280)
    assert set(idea.final_terms) == {*topk.final_terms, "spread"}
    spread = [row["term/spread"] / 0.3 for row in idea.log]
    assert all(1.0 <= value <= 2.0 for value in spread), "between 1 and sqrt(k)"
    assert spread[-1] < spread[0]
    assert idea.log[-1]["term/sse"] < idea.log[0]["term/sse"]
    assert sae_id(off.sae) == sae_id(topk.sae)
    assert sae_id(idea.sae) != sae_id(topk.sae)


def test_the_tutorials_own_tests_pass(installed):
    folder = installed("docs/tutorial.md", "my_idea")
    namespace: dict = {}
    source = (folder / "tests" / "test_trainer.py").read_text()
    exec(compile(source, "the tutorial's test_trainer.py", "exec"), namespace)
    tests = [f for name, f in namespace.items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test()


def test_what_the_tutorial_shows_of_the_template_is_in_it(tmp_path):
    folder = write_plugin("my_idea", tmp_path)
    shown = [(path, code) for kind, path, code in _marked("docs/tutorial.md") if kind == "as written"]
    assert shown
    for path, code in shown:
        assert code in (folder / path).read_text()


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Iterator:
    """Writes the plugin of a page (the tutorial's over the template) and puts it on the path as pip would."""
    modules: list[str] = []

    def install(page: str, name: str) -> Path:
        folder = write_plugin(name, tmp_path) if page == "docs/tutorial.md" else tmp_path / name
        for kind, path, code in _marked(page):
            if kind == "file":
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(code)
        project = (folder / "pyproject.toml").read_text()
        point = re.search(rf"\[project\.entry-points\.{PROJECT}\]\n(\w+) = \"([\w.]+)\"", project)
        distribution = re.search(r"^name = \"([\w-]+)\"", project, re.M)
        assert point is not None
        assert distribution is not None
        info = folder / f"{distribution[1].replace('-', '_')}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution[1]}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[{PROJECT}]\n{point[1]} = {point[2]}\n")
        monkeypatch.syspath_prepend(folder)
        modules.append(name)
        return folder

    yield install
    for loaded in [m for m in sys.modules if any(name in m for name in modules)]:
        del sys.modules[loaded]


def _marked(page: str) -> list[tuple[str, str, str]]:
    """(kind, path in the plugin's folder, content) of each code block that is marked with a file."""
    return _MARKED.findall((ROOT / page).read_text(encoding="utf-8"))


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _command_lines(text: str) -> Iterator[str]:
    """Lines of blocks and pieces of inline code that call sae-harness, but for blocks of printed text."""
    for language, block in _FENCE.findall(text):
        if language != "text":
            yield from (line.strip() for line in block.splitlines() if line.strip().startswith("sae-harness "))
    plain = _FENCE.sub("", text)
    yield from (line.strip() for line in plain.splitlines() if line.startswith("    sae-harness "))
    yield from re.findall(r"`(sae-harness [^`\n]+)`", plain)


def _check_command(words: list[str], known: dict[str, click.Command], where: str) -> None:
    path, rest = words[0], words[1:]
    while rest and isinstance(known[path], click.Group) and not rest[0].startswith("-"):
        path = f"{path} {rest.pop(0)}"
        assert path in known, where
    command = known[path]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    if isinstance(command, click.Group):
        assert rest or command.invoke_without_command, f"{where}: a subcommand is missing"
    for word in rest:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, where


def test_no_figure_of_the_findings_has_drifted_from_the_records(tmp_path):
    from click.testing import CliRunner

    from harness.cli.main import cli

    filled = tmp_path / "findings.md"
    template, records = str(ROOT / "docs" / "findings.md.in"), str(ROOT / "baselines")
    args = ["claims", template, "--records", records, "--fill", str(filled), "--strict"]
    done = CliRunner().invoke(cli, args, prog_name="sae-harness")
    assert done.exit_code == 0, done.output
    assert filled.read_text() == (ROOT / "docs" / "findings.md").read_text(), "run the command that findings.md names"
