"""A whole project in small, shared by the tests of the pipeline and of the command line: LM, text, suite, records."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = ROOT / "tests" / "fixtures" / "distributions"
WORDS = [f"{a}{b}" for a in ("ba", "de", "gi", "lo", "mu", "na", "pe", "ri") for b in ("k", "l", "m", "n", "r", "s")]

REGISTRY = """\
# The project's comment.
methods:
  topk: {{distribution: sae-harness, summary: "k largest"}} # kept
  absent: {{distribution: sae-harness-absent, summary: "not here", install: "pip install absent"}}

suites:
  micro:
    summary: A random LM of two layers.
    claim: "for tests alone"
    lm: {{source: {root}/lm}}
    text:
      source: {root}/text.jsonl
      seq_len: 16
      n_train_tokens: 4096
      n_eval_sequences: 24
      eval_fraction: 0.2
    hookpoint: blocks.0.hook_resid_post
    d_sae: 64 # 2 x d_in 32
    l0_grid: [2, 4, 8]
    seeds: [0, 1, 2]
    n_tokens: 4096
    batch_size: 128
    evaluators: [core, behaviour]
    controls: [identity, random, pca]
    options:
      topk: {{lr: 0.01}}
      relu: {{lr: 0.01}}

# Below: written by the harness.
baselines: {{}}
"""


@dataclass(frozen=True)
class Project:
    """A project folder with its registry, baselines and cache; `invoke` runs the command line on it in-process."""

    root: Path
    plugins: str = "builtin"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def registry(self) -> Path:
        return self.root / "registry.yaml"

    @property
    def baselines(self) -> Path:
        return self.root / "baselines"

    def options(self) -> list[str]:
        return [
            f"--cache={self.cache}",
            f"--registry={self.registry}",
            f"--baselines={self.baselines}",
        ]

    def environ(self, **extra: str) -> dict[str, str]:
        return {"SAE_HARNESS_PLUGINS": self.plugins, "OMP_NUM_THREADS": "1", **extra}

    def invoke(self, *args: str, **environ: str) -> Result:
        from harness.cli.main import cli

        env = self.environ(**environ)
        return CliRunner().invoke(cli, [*self.options(), *args], prog_name="sae-harness", env=env)

    def ok(self, *args: str, **environ: str) -> str:
        """stdout of a command that must succeed."""
        done = self.invoke(*args, **environ)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *args: str, **environ: str):
        return json.loads(self.ok(*args, "--json", **environ))

    def error(self, *args: str, **environ: str) -> str:
        """The last line of stderr of a command that must exit 2, with an empty stdout and no traceback."""
        done = self.invoke(*args, **environ)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert sum(line.startswith("Error: ") for line in done.stderr.splitlines()) == 1, done.stderr
        return done.stderr.splitlines()[-1]

    def script(self, code: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Another process that runs `code` and then the command line."""
        return subprocess.run(self.command(code, *args), **self.process_options(), timeout=300)

    def command(self, code: str, *args: str) -> list[str]:
        return [sys.executable, "-c", f"{code}\nfrom harness.cli.main import main\nmain()", *self.options(), *args]

    def process_options(self) -> dict:
        env = {**os.environ, **self.environ()}
        return {"env": env, "cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def edit_registry(self, old: str, new: str) -> None:
        text = self.registry.read_text()
        assert text.count(old) == 1
        self.registry.write_text(text.replace(old, new))

    @staticmethod
    def stable(records: Iterable[Any]) -> list[dict[str, Any]]:
        """Records (or their JSON) without what two runs of the same may differ in: times, memory, provenance."""
        found = []
        for record in records:
            data = json.loads(json.dumps(record) if isinstance(record, dict) else record.to_json())
            for name in ("wall_seconds", "peak_memory_mib"):
                data["training"].pop(name)
            for entry in data["evaluations"].values():
                entry.pop("wall_seconds")
            found.append({k: v for k, v in data.items() if k != "provenance"})
        return found

    def artefacts(self, kind: str) -> list[Path]:
        """Folders of all artefacts of a kind in the cache."""
        return sorted((self.cache / kind).glob("*/*"))

    def with_own_inputs(self) -> Project:
        """The same project with a copy of LM and text, to be changed."""
        source = self.registry.read_text().split("lm: {source: ")[1].split("/lm}")[0]
        for name in ("lm", "text.jsonl"):
            path = Path(source) / name
            (shutil.copytree if path.is_dir() else shutil.copy)(path, self.root / name)
        self.registry.write_text(self.registry.read_text().replace(f"{source}/", f"{self.root}/"))
        return self


def _save_lm(folder: Path, texts: list[str]) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"]))
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    lm = LlamaForCausalLM(config)
    # A random LM predicts no better with its activations than without: a few steps make the loss metrics defined.
    optimiser = torch.optim.Adam(lm.parameters(), lr=0.01)
    tokens = torch.tensor([backend.encode(text).ids[:60] for text in texts]).view(-1, 20)
    for rows in tokens.split(60):
        optimiser.zero_grad()
        lm(input_ids=rows, labels=rows).loss.backward()
        optimiser.step()
    lm.save_pretrained(folder)


def _texts() -> list[str]:
    """Documents of sixty words; each word makes some of the others likely, and each document has its own stock."""
    dice = random.Random(0)
    texts = []
    for _ in range(500):
        stock = dice.sample(range(len(WORDS)), 12)
        words = [dice.choice(stock)]
        while len(words) < 60:
            words.append((words[-1] * 7 + 3) % len(WORDS) if dice.random() < 0.4 else dice.choice(stock))
        texts.append(" ".join(WORDS[w] for w in words))
    return texts


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with stored baselines of topk and the controls, and own records of relu. Not to be changed."""
    root = tmp_path_factory.mktemp("micro")
    texts = _texts()
    (root / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    _save_lm(root / "lm", texts[:300])
    (root / "baselines").mkdir()
    (root / "registry.yaml").write_text(REGISTRY.format(root=root))
    project = Project(root)
    project.ok("baselines", "build", "topk", "identity", "random", "pca", "--suite", "micro", "--quiet")
    project.ok("run", "relu", "--suite", "micro", "--quiet")
    return project


@pytest.fixture
def project(micro: Project, tmp_path: Path) -> Project:
    """A copy of `micro` to change: what was trained is there, LM and text are shared."""
    root = tmp_path / "project"
    shutil.copytree(micro.root, root, ignore=shutil.ignore_patterns("lm", "text.jsonl"))
    return Project(root)


@pytest.fixture
def fresh(micro: Project, tmp_path: Path) -> Project:
    """The same project with an empty cache and no baselines."""
    root = tmp_path / "fresh"
    (root / "baselines").mkdir(parents=True)
    (root / "registry.yaml").write_text(REGISTRY.format(root=micro.root))
    return Project(root)


@pytest.fixture
def install_methods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Install a copy of the fixture distribution `methods`, which can be edited; returns its package folder."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("fixture_")]:
            del sys.modules[name]

    def install() -> Path:
        site = tmp_path / "site"
        shutil.copytree(DISTRIBUTIONS / "methods", site, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.syspath_prepend(site)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        forget()
        return site / "fixture_methods"

    yield install
    forget()


@pytest.fixture
def reload_methods() -> Callable[[], None]:
    """Forget the imported fixture package, as a new process would."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("fixture_")]:
            del sys.modules[name]

    return forget
