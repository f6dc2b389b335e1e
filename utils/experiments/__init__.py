"""Runs, kept safely: benchmark, sweep, ablation, sequence, audits, leaderboard."""

from .ablation import ablation_lines, ablation_table, read_ablation
from .audit_summary import REAL_AUDITS, audit_summary, came_back, read_audits, stored_audit
from .benchmark import read_results, results_at_hand, results_table, run_identity
from .budgets import budget_curves
from .plan import STORED, Plan, face_size, parse_methods, train_config
from .recognisers import two_recognisers
from .sequence import read_sequence, sequence_table
from .tables import by_setting, percent
from .worlds import in_both_worlds

__all__ = [
    "REAL_AUDITS",
    "came_back",
    "stored_audit",
    "Plan",
    "STORED",
    "ablation_lines",
    "ablation_table",
    "budget_curves",
    "by_setting",
    "face_size",
    "in_both_worlds",
    "parse_methods",
    "percent",
    "read_ablation",
    "read_audits",
    "read_results",
    "read_sequence",
    "results_at_hand",
    "results_table",
    "run_identity",
    "sequence_table",
    "train_config",
    "two_recognisers",
    "audit_summary",
]
