"""The site builds without warnings and loads nothing from elsewhere; what it claims is in the repository."""

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from pages import PAGES, ROOT, Block, blocks

sys.path.insert(0, str(ROOT / "tools"))
EXTERNAL = re.compile(r"https://[a-z0-9.-]+\.[a-z]+(/[\w./~+-]*)?(#[\w-]+)?")
LARGE = shutil.ignore_patterns("exp", "exp_*", "dump", "data", "downloads", "utils")  # not part of the site
RESULT = re.compile(r"(?P<wer>\d+\.\d(?: ± \d+\.\d)?)(?: \((?P<errors>\d+)\))?")


def build(checkout: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site as `make docs` does; with --quiet, --strict would let warnings pass."""
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: `make install` does")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=checkout,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = build(ROOT, folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "--quiet" not in (ROOT / "Makefile").read_text().partition("docs:")[2].partition("\n\n")[0]
    return folder


@pytest.mark.parametrize("link", ["concepts.md#no-such-heading", "no_such_page.md"])
def test_a_broken_link_between_pages_is_an_error(link: str, tmp_path: Path) -> None:
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docs", "tools", "egs", "bench/rnnt"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=LARGE)
    page = tmp_path / "docs" / "quickstart.md"
    page.write_text(f"{page.read_text()}\n[broken]({link})\n")
    result = build(tmp_path, tmp_path / "site")
    assert result.returncode != 0 and link.rpartition("#")[2] in result.stderr


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        html = page.read_text()
        loaded = re.findall(r"<(?:script|img|link|iframe|source|object|use)\b[^>]*>", html)
        assert not [tag for tag in loaded if re.search(r"""["'(](?:https?:)?//""", tag)], page
        assert "arithmatex" not in html, f"{page}: a formula was not set"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text()), sheet


def test_every_page_is_found_by_the_menu_and_the_search(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text()
    home = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs").with_suffix(".html"))
        assert f'href="{name}"' in home and f'"{name}"' in index, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if target.startswith("http"):
            assert EXTERNAL.fullmatch(target), target
        elif not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_tables_are_those_of_the_code(page: Path) -> None:
    from doc_tables import with_tables

    assert with_tables(page.read_text()) == page.read_text(), "run `make docs`"


def test_every_criterion_is_explained() -> None:
    """Its formula, what a reader must know before he takes it, and its keys."""
    from espnet_kd.criteria import CRITERIA
    from espnet_kd.rnnt.kinds import Kind

    sections = re.split(r"^## ", (ROOT / "docs/criteria.md").read_text(), flags=re.M)[1:]
    found = {text.partition("\n")[0]: text for text in sections}
    assert found.keys() == CRITERIA.keys() | {"Schemes without code"}
    keys = (ROOT / "docs/configuration.md").read_text()
    assert sorted(re.findall(r"^<!-- begin criterion (\w+) -->$", keys, re.M)) == sorted(CRITERIA)
    for name in CRITERIA.keys() - {"transducer"}:
        parts = re.findall(r"^- \*(\w+)\.\*", found[name], re.M)
        assert parts == ["Paper", "Verified", "Use", "Trained"], name
        assert "$" in found[name].partition("- *Paper")[0] or name == "mvq"
    kinds = re.findall(r"^\| `(\w+)` \|", found["transducer"], re.M)
    assert set(kinds) == set(get_args(Kind))


def test_options_of_kd_sh_are_those_of_its_help() -> None:
    recipe = ROOT / "egs" / "csj" / "kd1"
    help_ = subprocess.run(["./run.sh", "--help"], cwd=recipe, capture_output=True, text=True).stdout
    listed = re.findall(r"^\| `--(\w+)` \|", (ROOT / "docs" / "stages.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"^  --(\w+)", help_, re.MULTILINE)) <= set(listed)


def links(page: Path, text: str) -> list[Path]:
    """Return the files of results that a text of a page links to."""
    found = re.findall(r"\]\(((?:\.\./)*egs/[\w/]*(?:RESULTS|results/\w+)\.md)", text)
    return [page.parent / link for link in found]


def results(page: Path) -> list[tuple[list[Path], list[str]]]:
    """Rows of tables of error rates: files that the row, or the next paragraph, links to; its cells."""
    paragraphs = page.read_text().split("\n\n")
    found = []
    for table, text in zip(paragraphs, [*paragraphs[1:], ""], strict=True):
        if table.startswith("|"):
            rows = table.split("\n")
            found += [(links(page, row) or links(page, text), row.split("|")[2:]) for row in rows]
    return [(files, cells) for files, cells in found if files]


def has_errors(cell: str, errors: str) -> bool:
    """Say whether a cell has this number of errors: one number, or S/D/I."""
    if not re.fullmatch(r"\d+(/\d+){1,2}", cell):
        return False
    numbers = [int(number) for number in cell.split("/")]
    return (sum(numbers) if len(numbers) == 3 else numbers[0]) == int(errors)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_error_rates_are_those_of_the_results(page: Path) -> None:
    for files, cells in results(page):
        rows = [line for file in files for line in file.read_text().split("\n") if line.startswith("|")]
        texts = [[cell.strip() for cell in row.split("|")] for row in rows]
        for cell in cells:
            match = RESULT.fullmatch(cell.strip())
            if not match or not ("±" in cell or match["errors"]):  # sizes and times are such numbers, too
                continue
            fitting = [row for row in texts if match["wer"] in row]
            if errors := match["errors"]:
                fitting = [row for row in fitting if any(has_errors(c, errors) for c in row)]
            assert fitting, f"{cell.strip()} is not in {', '.join(map(str, files))}"


@cache
def templates() -> list[str]:
    """Messages of the code as regular expressions: what varies matches anything."""
    found = []
    for file in (ROOT / "espnet_kd").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr | ast.Constant):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts = [p.value if isinstance(p, ast.Constant) else None for p in parts]
                found.append("".join(".+?" if t is None else re.escape(str(t)) for t in texts))
    for file in (ROOT / "egs/TEMPLATE/kd1").rglob("*.sh"):
        for text in re.findall(r'error "((?:[^"$]|\$\{[^}]*\}|\$\d|\$\([^)]*\))*)"', file.read_text()):
            found.append(re.sub(r"\\\$(?:\\\{.*?\\\}|\d|\\\(.*?\\\))", ".*?", re.escape(text)))
    return found


def fixed(template: str) -> int:
    """Characters of a message that do not vary."""
    return len(re.sub(r"\.[+*]\?|\\", "", template))


MESSAGES = [b for b in blocks("text") if b.page.name == "faq.md"]


@pytest.mark.parametrize("block", MESSAGES, ids=str)
def test_a_message_of_the_faq_is_one_of_the_code(block: Block) -> None:
    message = re.sub(r"^[\w.-]+: error: ", "", block.text.strip())
    fitting = [t for t in templates() if fixed(t) >= min(20, len(message) // 3)]  # not only names and numbers
    assert any(re.fullmatch(template, message) for template in fitting)


def test_the_readme_fits_on_a_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90
    assert len(MESSAGES) >= 15
