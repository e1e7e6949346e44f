"""Who may import whom: the arrows of docs/architecture.md, and no other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import namesake

ROOT = Path(namesake.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Room by room, the rooms of ours that it may import. `errors`, `files` and `machine` are open to all; `sheet` knows no room.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "machine": set(),
    "sheet": set(),
    "edits": set(),
    "data": {"edits"},
    "picturebook": {"data", "edits", "sheet"},
    "backbone": {"edits"},
    "nets": {"edits"},
    "train": {"edits", "backbone", "nets", "data", "sheet"},
    "methods": {"edits", "backbone", "nets", "train", "data"},
    "generate": {"edits", "backbone"},
    "evaluate": {"edits", "backbone", "nets", "data", "train", "generate", "picturebook", "sheet"},
    "export": {"edits", "backbone"},
    "recipes": {"edits", "backbone", "data", "train", "methods", "generate", "evaluate", "picturebook", "sheet"},
    "serve": {"recipes"},
    "cli": {"recipes", "picturebook", "serve"},
    "__main__": {"cli"},
    "": {"backbone", "data", "edits", "recipes", "sheet"},  # the package itself: the public names
}  # fmt: skip
# What the picture book is for others knows none of the machinery; the commands that make and measure its model do.
COMMANDS = {"train", "check", "draw_sheets"}
FOR_COMMANDS = {"backbone", "generate", "train", "edits"}
# Where a room may load one of these at its top, every command that touches the room pays seconds for it.
HEAVY = {"diffusers", "transformers", "accelerate", "peft"}
TORCH = {"edits", "backbone", "nets", "train", "methods", "generate", "evaluate", "export"}
WITHOUT_DIFFUSERS = {"edits": {"torch", "safetensors", "jaxtyping"}}


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports(path: Path) -> list[tuple[str, bool, int]]:
    """Absolute names of the modules that a file imports, whether at its top (when it is loaded), and the line."""
    found: list[tuple[str, bool, int]] = []
    package = ("namesake", *path.relative_to(ROOT).parts[:-1])

    def walk(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((name.name, top, child.lineno) for name in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = ".".join(package[: len(package) - child.level + 1]) if child.level else ""
                module = ".".join(part for part in (base, child.module) if part)
                # `from namesake import x` imports the room x.
                names = [f"namesake.{n.name}" for n in child.names] if module == "namesake" else [module]
                found.extend((name, top, child.lineno) for name in names)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            walk(child, top and not inside and not typing)

    walk(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_allowed_arrows(path):
    here = room(path)
    assert here in ALLOWED, f"{here} is no room of docs/architecture.md; say there what it may import"
    for name, _, line in imports(path):
        parts = name.split(".")
        if parts[0] != "namesake" or len(parts) == 1:
            continue
        there = parts[1]
        if there in (here, "errors", "files", "machine"):
            if here == there == "methods" and len(parts) > 2 and path.stem != "__init__":
                assert parts[2] == path.stem, f"{path.name}:{line}: methods do not import each other"
            continue
        allowed = ALLOWED[here] | (FOR_COMMANDS if here == "picturebook" and path.stem in COMMANDS else set())
        assert there in allowed, f"{path.name}:{line}: {here or 'the package'} imports {there}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_imports_wait_for_the_function_that_needs_them(path):
    here = room(path)
    for name, top, line in imports(path):
        library = name.split(".")[0]
        where = f"{path.name}:{line}: {library}"
        if here in WITHOUT_DIFFUSERS and library not in sys.stdlib_module_names | {"namesake"}:
            assert library in WITHOUT_DIFFUSERS[here], where
        if top and library in HEAVY:
            assert (here, path.stem) in {("picturebook", "train"), ("picturebook", "judge")}, where
        if top and library == "torch":
            assert here in TORCH or here == "picturebook", where
        if top and here == "cli":
            assert library in sys.stdlib_module_names | {"typer", "namesake"}, where
        if top and here in ("cli", "") and library == "namesake":
            assert name == "namesake.errors", where


def test_the_walk_sees_every_form_of_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "edits").mkdir()
    file = tmp_path / "edits" / "a.py"
    file.write_text(
        "import torch.nn as nn\nfrom namesake import cli\nfrom ..backbone import load\nfrom .kinds import Edit\n"
        "def f():\n    import diffusers\nif TYPE_CHECKING:\n    import peft\n"
    )
    names = [(name, top) for name, top, _ in imports(file)]
    assert names == [
        ("torch.nn", True),
        ("namesake.cli", True),
        ("namesake.backbone", True),
        ("namesake.edits.kinds", True),
        ("diffusers", False),
        ("peft", False),
    ]
    with pytest.raises(AssertionError, match="edits imports cli"):
        test_only_the_allowed_arrows(file)


def test_every_public_name_is_there_and_costs_nothing_until_asked_for():
    code = (
        "import sys, namesake; assert not {'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules)\n"
        "for name in namesake.__all__: assert callable(getattr(namesake, name)), name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nonsense"):
        namesake.nonsense  # noqa: B018
