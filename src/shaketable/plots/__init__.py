"""Tables to figures; nothing is computed here but means over draws."""

from shaketable.plots.ablation import ablation_curves, sparsity_scatter
from shaketable.plots.criticality import criticality_bars, criticality_curve
from shaketable.plots.drawing import FINAL, RAND
from shaketable.plots.estimates import estimate_scatter, plane, ssr_histogram
from shaketable.plots.layer_sets import joint_heatmap, trade_off_curve
from shaketable.plots.linked import cell_diagram, link_heatmap
from shaketable.plots.operators import operator_norm_heatmap, similarity_heatmap, spectrum_curves
from shaketable.plots.pruning import pruning_curves
from shaketable.plots.robustness import (
    DISTANCES,
    QUANTITIES,
    cells,
    distance_heatmap,
    robustness_curves,
    robustness_heatmap,
)
from shaketable.plots.saving import javascript, save
from shaketable.plots.sensitivity import sensitivity_heatmap
from shaketable.plots.training import PANELS, training_history
from shaketable.plots.valleys import path_curves, valley_grid, valley_surface
from shaketable.plots.zoo import TARGETS, measure_scatter, rank_plot, tau_heatmap

__all__ = [
    "DISTANCES",
    "FINAL",
    "PANELS",
    "QUANTITIES",
    "RAND",
    "TARGETS",
    "ablation_curves",
    "cell_diagram",
    "cells",
    "criticality_bars",
    "criticality_curve",
    "distance_heatmap",
    "estimate_scatter",
    "javascript",
    "joint_heatmap",
    "link_heatmap",
    "measure_scatter",
    "operator_norm_heatmap",
    "path_curves",
    "plane",
    "pruning_curves",
    "rank_plot",
    "robustness_curves",
    "robustness_heatmap",
    "save",
    "sensitivity_heatmap",
    "similarity_heatmap",
    "sparsity_scatter",
    "spectrum_curves",
    "ssr_histogram",
    "tau_heatmap",
    "trade_off_curve",
    "training_history",
    "valley_grid",
    "valley_surface",
]
