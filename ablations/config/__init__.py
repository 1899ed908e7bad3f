"""What a run is, what a grid of runs is, the built-in grids and recipes. Imports no other room."""

from ablations.config.builtin_grids import GRIDS
from ablations.config.compute_match import ComputeMatch, Costs, RelativeCost, match_epochs
from ablations.config.grid import MATCHES, Grid, check_match, check_name
from ablations.config.grid_files import find_grid
from ablations.config.grid_overrides import (
    coerce_changes,
    override,
    parse_axes,
    parse_settings,
    parse_spaces,
    shrink,
    with_tuning,
    without_tuning,
)
from ablations.config.labels import Level, count, level_text, name_level, run_label
from ablations.config.model import vit_config
from ablations.config.positions import (
    position_as_given,
    position_description,
    position_label,
    position_sources,
    remember_descriptions,
    remember_sources,
    standard_position,
)
from ablations.config.recipes import RECIPES, Recipe, find_recipe
from ablations.config.run_config import DATASETS, FIELDS, LABELS, POOLS, PRECISIONS, RunConfig, coerce, parse, run_key
from ablations.config.sequential_design import SequentialDesign
from ablations.config.tuning import Range, TuningDesign, compared_axis, pruning_warning

__all__ = [
    "DATASETS",
    "FIELDS",
    "GRIDS",
    "LABELS",
    "MATCHES",
    "POOLS",
    "PRECISIONS",
    "RECIPES",
    "ComputeMatch",
    "Costs",
    "Grid",
    "Level",
    "Range",
    "Recipe",
    "RelativeCost",
    "RunConfig",
    "SequentialDesign",
    "TuningDesign",
    "check_match",
    "check_name",
    "coerce",
    "coerce_changes",
    "compared_axis",
    "count",
    "find_grid",
    "find_recipe",
    "level_text",
    "match_epochs",
    "name_level",
    "override",
    "parse",
    "parse_axes",
    "parse_settings",
    "parse_spaces",
    "position_as_given",
    "position_description",
    "position_label",
    "position_sources",
    "pruning_warning",
    "remember_descriptions",
    "remember_sources",
    "run_key",
    "run_label",
    "shrink",
    "standard_position",
    "vit_config",
    "with_tuning",
    "without_tuning",
]
