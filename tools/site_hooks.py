"""Hooks of MkDocs: README.md is the home page, files of the repository that pages link to are part of the
site, and formulas become MathML, which browsers show without a script.

Pages link to files as they do in the repository (``../../egs/an4/kd1/RESULTS.md`` from docs/methods/), so
that the links work there, too.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}  # path in the repository: in the site
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def repository_path(site_path: str) -> str:
    """Return the path in the repository of a page or file of the site."""
    top = {site: repository for repository, site in TOP.items()}
    if site_path in top:
        return top[site_path]
    return site_path if site_path.startswith(("egs/", "bench/")) else f"docs/{site_path}"


def site_path(repository_path: str) -> str:
    """Return the path in the site of a file of the repository."""
    return TOP.get(repository_path, repository_path.removeprefix("docs/"))


def linked_files(text: str, path: str) -> Iterator[str]:
    """Yield the files, as paths in the repository, that a page of the repository links to."""
    for match in LINK.finditer(FENCE.sub("", text)):
        yield posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the home page and every file outside docs/ that is linked to, directly or from such a file."""
    waiting = [*TOP, *(repository_path(file.src_uri) for file in files.documentation_pages())]
    added = set(waiting) - set(TOP)
    while waiting:
        path = waiting.pop()
        file = ROOT / path
        if path not in added and not path.startswith("docs/"):
            if not file.is_file():
                raise PluginError(f"a page links to {path}, which is not a file of the repository")
            files.append(File.generated(config, site_path(path), abs_src_path=str(file)))
        added.add(path)
        if path.endswith(".md") and file.is_file():
            waiting += [other for other in linked_files(file.read_text(), path) if other not in added]
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    uri = page.file.src_uri
    here = repository_path(uri)

    def translated(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[1]))
        start = posixpath.dirname(uri) or "."
        return os.path.relpath(site_path(target), start) + (match[2] or "")

    blocks = FENCE.findall(markdown)
    parts = [LINK.sub(translated, part) for part in FENCE.split(markdown)]
    return "".join(part + block for part, block in zip(parts, [*blocks, ""], strict=True))


def on_page_content(html: str, **_: object) -> str:
    """Convert formulas to MathML."""
    return MATH.sub(
        lambda found: convert(unescape(found[2]), display="block" if found[1] == "div" else "inline"), html
    )
