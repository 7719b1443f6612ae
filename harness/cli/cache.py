"""`sae-harness cache`: how large the cache is, whether it is sound, and making room."""

from __future__ import annotations

import json
from typing import Any

import click

from ..artefacts.cache import format_bytes
from ..report.tables import render
from .context import AppContext, pass_app
from .quantity import DURATION, SIZE


@click.group(
    help="Show, verify and clean the cache: activations, trained SAEs, records. All of it can be made again.",
    epilog="Example:  sae-harness cache gc --older-than 30d --max-size 20GB",
)
def command() -> None:
    pass


@command.command("info", epilog="Example:  sae-harness cache info --json")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@pass_app
def info(app: AppContext, as_json: bool) -> None:
    """Show where the cache lies and what is in it, by kind."""
    cache = app.cache
    kinds: dict[str, dict[str, Any]] = {}
    for entry in cache.entries():
        kind = kinds.setdefault(entry.kind, {"entries": 0, "bytes": 0, "last_used": ""})
        kind["entries"] += 1
        kind["bytes"] += entry.bytes
        kind["last_used"] = max(kind["last_used"], entry.last_used.isoformat(timespec="seconds"))
    work = cache.work_bytes()
    total = work + sum(kind["bytes"] for kind in kinds.values())
    if as_json:
        click.echo(json.dumps({"root": str(cache.root), "kinds": kinds, "work_bytes": work, "bytes": total}, indent=1))
        return
    click.echo(f"Cache {cache.root}: {format_bytes(total)}, of it work in progress {format_bytes(work)}", err=True)
    rows = [[name, str(k["entries"]), format_bytes(k["bytes"]), k["last_used"]] for name, k in sorted(kinds.items())]
    click.echo(render(rows, ("kind", "entries", "size", "last used")))


@command.command("verify", epilog="Example:  sae-harness cache verify --quarantine")
@click.option("--quarantine", is_flag=True, help="Set aside what is corrupt; it is made again when it is needed.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@pass_app
@click.pass_context
def verify(ctx: click.Context, app: AppContext, quarantine: bool, as_json: bool) -> None:
    """Compare every file with its manifest's sha256.

    Exit status 1 if one differs."""
    cache = app.cache
    n_entries = sum(1 for _ in cache.entries())
    problems = cache.verify(quarantine=quarantine)
    if as_json:
        listed = [{"kind": p.kind, "key": p.key, "path": str(p.path), "what": p.what} for p in problems]
        click.echo(json.dumps({"entries": n_entries, "problems": listed}, indent=1))
    else:
        click.echo(f"{n_entries} artefacts in {cache.root}: {len(problems)} corrupt", err=True)
        if problems:
            click.echo(
                render([[p.kind, p.key[:12], p.what, str(p.path)] for p in problems], ("kind", "key", "what", "where"))
            )
    if problems:
        ctx.exit(1)


@command.command("gc", epilog="Example:  sae-harness cache gc --older-than 7d --dry-run")
@click.option("--older-than", type=DURATION, help="Remove what was not used for so long, such as 12h or 7d.")
@click.option("--max-size", type=SIZE, help="Then remove the least recently used until this is left, such as 10GB.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would go.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@pass_app
def gc(app: AppContext, older_than: float | None, max_size: float | None, dry_run: bool, as_json: bool) -> None:
    """Make room. Always removes what was set aside as corrupt and what killed processes left half-made."""
    report = app.cache.collect_garbage(
        older_than_s=older_than, max_bytes=None if max_size is None else int(max_size), dry_run=dry_run
    )
    if as_json:
        removed = [{"path": str(r.path), "bytes": r.bytes, "reason": r.reason} for r in report.removed]
        summary = {"dry_run": dry_run, "freed_bytes": report.freed_bytes, "kept_bytes": report.kept_bytes}
        click.echo(json.dumps({**summary, "kept_entries": report.kept_entries, "removed": removed}, indent=1))
        return
    root = app.cache.root
    if report.removed:
        rows = [[str(r.path.relative_to(root)), format_bytes(r.bytes), r.reason] for r in report.removed]
        click.echo(render(rows, ("removed", "size", "why")))
    did = "Would free" if dry_run else "Freed"
    kept = f"{report.kept_entries} artefacts ({format_bytes(report.kept_bytes)}) kept in {root}"
    click.echo(f"{did} {format_bytes(report.freed_bytes)}; {kept}.", err=True)
