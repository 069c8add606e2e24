"""Examples and benchmarks call the commands' own functions; a command that moves must not leave them behind."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*(ROOT / "examples").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script__names_commands_that_there_are(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: importlib.import_module(f"sonokit.{alias.name}")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "sonokit"
        for alias in node.names
    }
    used = {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported
    }
    assert [f"{module}.{name}" for module, name in sorted(used) if not hasattr(imported[module], name)] == []
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert named & {"cli", "cli_experts", "cli_store"} <= set(imported)
