"""What MkDocs is told beside mkdocs.yml: the order of the pages, and pages made of the repository's other files.

The README is the first page. A link out of docs/ leads to a page that shows the file, so that the site stands alone.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ORDER = [
    "recipes",
    "page",
    "cluster",
    "export",
    "weights",
    "training",
    "runs",
    "api",
    "results",
    "limits",
    "performance",
    "paper",
]
"""Of the pages; those not named here follow by name."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> None:
    names = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
    names.sort(key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    config.nav = [{"Home": "index.md"}, *(f"{name}.md" for name in names), "CONTRIBUTING.md", "SECURITY.md"]


def on_files(files: Files, config: MkDocsConfig) -> None:
    documents = [
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    ]
    linked = {document.parent / link for document in documents for link in LINK.findall(document.read_text())}
    for path in {path.resolve() for path in [*linked, *documents]}:
        if path.is_file() and not path.is_relative_to(ROOT / "docs"):
            text = path.read_text()
            shown = text if path.suffix == ".md" else f"# {path.name}\n\n```{path.suffix[1:]}\n{text}```\n"
            files.append(File.generated(config, page_of(path), content=shown))


def page_of(path: Path) -> str:
    """The page that shows a file of the repository."""
    if path == ROOT / "README.md":
        return "index.md"
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    name = path.relative_to(ROOT).as_posix()
    return name if path.suffix == ".md" else f"{name}.md"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as they are in the repository become links as they are on the site."""
    here = page.file.src_uri
    if "/" in here:
        return markdown  # a file that is shown as it is
    base = ROOT if page.file.generated_by else ROOT / "docs"

    def moved(link: re.Match[str]) -> str:
        return posixpath.relpath(page_of((base / link[0]).resolve()), posixpath.dirname(here) or ".")

    return LINK.sub(moved, markdown)


def on_page_context(context: Any, page: Page, **_: Any) -> Any:
    """No button for editing: the site belongs to no host."""
    page.edit_url = None
    return context
