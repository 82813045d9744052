"""The full run on the test split: its plan, the run, evaluation, comparison of two; and predictions for files."""

from nas.final.compare import Comparison, compare_runs, comparison_summary, resample
from nas.final.evaluate import TOLERANCE, Evaluation, evaluate_run, evaluation_summary
from nas.final.grid import GRID_IMAGES, write_grid
from nas.final.locate import FoundNetwork, find_network, find_predictor, locate_network
from nas.final.plan import FullRunPlan, locate_run
from nas.final.predict import Prediction, PredictionBatch, UnreadFile, predict_files
from nas.final.run import FullRun, SeedResult, full_run, run_result
from nas.study import OPENINGS

__all__ = [
    "GRID_IMAGES",
    "OPENINGS",
    "TOLERANCE",
    "Comparison",
    "Evaluation",
    "FoundNetwork",
    "FullRun",
    "FullRunPlan",
    "Prediction",
    "PredictionBatch",
    "SeedResult",
    "UnreadFile",
    "compare_runs",
    "comparison_summary",
    "evaluate_run",
    "evaluation_summary",
    "find_network",
    "find_predictor",
    "full_run",
    "locate_network",
    "locate_run",
    "predict_files",
    "resample",
    "run_result",
    "write_grid",
]
