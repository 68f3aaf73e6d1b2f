"""Training: experiment -> run -> bundle; and the measure of a bundle on pictures kept out."""

from medpipe.training.describe import check_describable
from medpipe.training.evaluation import EvaluationReport, evaluate_bundle
from medpipe.training.export import export_bundle
from medpipe.training.folds import write_folds
from medpipe.training.launch import train
from medpipe.training.trainer import TrainingReport

__all__ = [
    "EvaluationReport",
    "TrainingReport",
    "check_describable",
    "evaluate_bundle",
    "export_bundle",
    "train",
    "write_folds",
]
