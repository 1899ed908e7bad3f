"""Estimates, tests, intervals and power for paired runs. Knows nothing of training or reports."""

from ablations.statistics.analysis import Analysis, analyse, outcomes_at_last_look
from ablations.statistics.class_balance import BalancedScores
from ablations.statistics.confusions import Confusion, compare_confusions
from ablations.statistics.contrasts import (
    ALPHA,
    Contrast,
    Interaction,
    all_contrasts,
    baseline_contrasts,
    interactions,
    main_effects,
)
from ablations.statistics.divergence import Divergence
from ablations.statistics.estimates import arm_means, cell_means
from ablations.statistics.families import Mean, joined_family, means_of_arms
from ablations.statistics.intervals import LEVEL, paired_interval, t_interval
from ablations.statistics.mcnemar import ModelComparison, compare_models
from ablations.statistics.measure import ACCURACY, Measure
from ablations.statistics.other_images import OtherImages
from ablations.statistics.outcomes import FloatArray, Outcomes, arrange, diverged_keys, varying_axes
from ablations.statistics.permutation import holm
from ablations.statistics.power import MARGIN, MOST_SEEDS, smallest_p
from ablations.statistics.power_forecast import forecast_power, forecast_sequential_power, least_p, power_warning
from ablations.statistics.ranks import Ranks, rank_arms
from ablations.statistics.sequential.interim import InterimResult
from ablations.statistics.sequential.procedures import FIXED, SEQUENTIAL, GroupSequential, Procedure
from ablations.statistics.sequential.progress import planned_seeds, seeds_to_add
from ablations.statistics.setting_weights import estimate
from ablations.statistics.verdicts import DIFFERENT, Verdict, decided, verdict

__all__ = [
    "ACCURACY",
    "ALPHA",
    "DIFFERENT",
    "FIXED",
    "LEVEL",
    "MARGIN",
    "MOST_SEEDS",
    "SEQUENTIAL",
    "Analysis",
    "BalancedScores",
    "Confusion",
    "Contrast",
    "Divergence",
    "FloatArray",
    "GroupSequential",
    "Interaction",
    "InterimResult",
    "Mean",
    "Measure",
    "ModelComparison",
    "OtherImages",
    "Outcomes",
    "Procedure",
    "Ranks",
    "Verdict",
    "all_contrasts",
    "analyse",
    "arm_means",
    "arrange",
    "baseline_contrasts",
    "cell_means",
    "compare_confusions",
    "compare_models",
    "decided",
    "diverged_keys",
    "estimate",
    "forecast_power",
    "forecast_sequential_power",
    "holm",
    "interactions",
    "joined_family",
    "least_p",
    "main_effects",
    "means_of_arms",
    "outcomes_at_last_look",
    "paired_interval",
    "planned_seeds",
    "power_warning",
    "rank_arms",
    "seeds_to_add",
    "smallest_p",
    "t_interval",
    "varying_axes",
    "verdict",
]
