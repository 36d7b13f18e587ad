"""Every file imports only what docs/architecture.md allows, and importing the runtime loads nothing heavy."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "tensorrt", "pycuda", "rclpy", "engines"}


def table_rows(heading: str) -> list[list[set[str]]]:
    """The rows of the Markdown table under a heading row, each cell as the set of its `quoted` words."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition(heading)[2].partition("\n\n")[0]
    return [[set(re.findall(r"`([^`]+)`", cell)) for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


ALLOWED = {
    folder: allowed for [folders, _, allowed] in table_rows("| folder | what |") for folder in folders if allowed
}
CONFINED = [(modules, places) for modules, places in table_rows("| import | only in |")]
FILES = [path.relative_to(ROOT).as_posix() for folder in ALLOWED for path in sorted((ROOT / folder).rglob("*.py"))]
FILES = [file for file in FILES if not file.startswith(("ros2_ws/build/", "ros2_ws/install/"))]


def imported_modules(file: str) -> Iterator[str]:
    """Top-level names of everything that a file imports, anywhere in it; of the package itself for `from . import`."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0] if node.level == 0 else file.partition("/")[0]


def imported_names(file: str) -> Iterator[str]:
    """Dotted names of everything of this project that a file imports, each with what is imported from it."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_in_order() -> list[str]:
    """The rooms of ``engines``, each of which may import those before it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    [line] = [line for line in text.splitlines() if line.startswith("`") and " <- " in line]
    return re.findall(r"`([^`]+)`", line)


def room_of(name: str, rooms: Sequence[str]) -> str:
    """The narrowest room that a dotted name below ``engines`` lies in."""
    inside = name.removeprefix("engines.")
    return max((room for room in rooms if f"{inside}.".startswith(f"{room}.")), key=len, default="")


def test_the_tables_are_there_to_be_held_to() -> None:
    assert set(ALLOWED) == {"edge_runtime/", "engines/", "ros2_ws/", "calib_data/"}
    assert "torch" not in ALLOWED["edge_runtime/"]
    assert len(CONFINED) >= 5
    assert len(FILES) > 30


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_what_its_folder_may(file: str) -> None:
    [allowed] = [modules for folder, modules in ALLOWED.items() if file.startswith(folder)]
    assert set(imported_modules(file)) - set(sys.stdlib_module_names) <= allowed


@pytest.mark.parametrize(("modules", "places"), CONFINED, ids=lambda names: "+".join(sorted(names)))
def test_a_heavy_library_is_named_only_where_it_belongs(modules: set[str], places: set[str]) -> None:
    folders = tuple(modules & set(ALLOWED)) or tuple(ALLOWED)  # a row may speak of one folder only
    users = {file for file in FILES if file.startswith(folders) and modules & set(imported_modules(file))}
    assert not {file for file in users if not file.startswith(tuple(places))}


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("engines/")])
def test_a_room_of_the_builder_imports_only_rooms_before_it(file: str) -> None:
    rooms = rooms_in_order()
    name = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    if name == "engines":
        return
    here = room_of(name, rooms)
    assert here, f"{file} lies in no room that docs/architecture.md names"
    others = {room_of(other, rooms) for other in imported_names(file) if other.startswith("engines.")} - {here, ""}
    assert {room for room in others if rooms.index(room) > rooms.index(here)} == set()


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(("engines/reference/", "calib_data/"))])
def test_only_the_reference_models_import_the_renderer(file: str) -> None:
    assert not [name for name in imported_names(file) if name.startswith("engines.reference.renderer")]


@pytest.mark.parametrize(
    "statement", ["import edge_runtime", "import edge_runtime.inspector", "import edge_runtime.cli"]
)
def test_importing_the_runtime_loads_nothing_heavy(statement: str) -> None:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not set(done.stdout.split()) & HEAVY
