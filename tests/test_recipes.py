"""The recipes in examples/pretrain are options of ``sonokit pretrain``, and make sense together."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from sonokit.backbones.build import build_backbone
from sonokit.cli import main
from sonokit.pretrain.objectives.build import OBJECTIVES, build_objective
from sonokit.pretrain.settings import PretrainSettings

RECIPES = sorted((Path(__file__).parents[1] / "examples" / "pretrain").glob("*.yaml"))
NAMES = {field.name for field in dataclasses.fields(PretrainSettings)}

pytestmark = pytest.mark.skipif(not RECIPES, reason="the examples are not beside these tests")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_recipe__is_what_pretrain_takes(recipe, capsys):
    with pytest.raises(SystemExit) as end:
        main(["pretrain", "manifest.csv", "--out", "backbone", "--config", str(recipe), "--print_config"])
    assert end.value.code == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert {name: resolved[name] for name in written} == written
    settings = PretrainSettings(**{name: value for name, value in resolved.items() if name in NAMES})
    settings.check()
    build_objective(settings.method, build_backbone("test_resnet"), classes=2 * (settings.label is not None))
    assert (settings.label is not None) == (recipe.stem == "uscl_labels")


def test_recipes__every_objective_has_one():
    named = {yaml.safe_load(recipe.read_text(encoding="utf-8"))["objective"] for recipe in RECIPES}
    assert named == set(OBJECTIVES)
