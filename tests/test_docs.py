"""What the pages name is there: other pages, and the files of architecture.md's tables."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
FILES = [Path(name) for name in subprocess.check_output(LISTED, cwd=ROOT, text=True).splitlines()]
TEXT = {".md", ".py", ".yaml", ".toml", ".html", ""}


def is_there(name: str, beside: Path = Path()) -> bool:
    """Whether a name, path or pattern, as a page writes it, is some file's."""
    return any(path.match(name) for path in FILES) or (ROOT / beside / name).exists()


def test_every_page_that_is_cited_exists() -> None:
    pages = [path for path in FILES if path.parts[0] != "tests" and path.suffix in TEXT and (ROOT / path).is_file()]
    cited = [
        (str(page), name)
        for page in pages
        for name in re.findall(r"(?<![\w/:.-])[\w./-]+\.md\b", (ROOT / page).read_text(encoding="utf-8"))
    ]

    assert len(cited) > 20
    assert [(page, name) for page, name in cited if not is_there(name, Path(page).parent)] == []


def test_every_file_of_the_architecture_tables_exists() -> None:
    rows = [line for line in (ROOT / "docs/architecture.md").read_text().splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`([\w./*-]+\.(?:py|yaml|html|md))`", row)}

    assert len(named) > 50
    assert sorted(name for name in named if not is_there(name)) == []


def test_no_hint_names_a_package_that_anyone_could_register_under_this_project_s_name() -> None:
    """It is on no package index; what is said to be installed is a checkout, as ``pip install '.[bags]'``."""
    pages = [path for path in FILES if path.suffix in TEXT and path != Path("tests/test_docs.py")]
    wrong = re.compile(r"edge[-_]runtime\[|pip3? install (-\S+ )*['\"]?(edge[-_]runtime|inspection)\b")

    assert [str(path) for path in pages if (ROOT / path).is_file() and wrong.search((ROOT / path).read_text())] == []
