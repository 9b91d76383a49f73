"""The pages of the documentation and the blocks of code in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of code, with the page and line where it is."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        """Such as docs/faq.md:12, the name of a test."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(kind: str) -> list[Block]:
    """Return the blocks of one kind (yaml, sh, python, text, diff) of all pages."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match[1] == kind:
                found.append(Block(page, text.count("\n", 0, match.start()) + 1, kind, match[2]))
    return found


def prose(page: Path) -> str:
    """Return a page without its blocks and without tables that come from the code."""
    text = re.sub(r"<!-- begin .*?<!-- end -->", "", page.read_text(), flags=re.DOTALL)
    return BLOCK.sub("", text)
