"""Making the training step faster without changing what it computes."""

from kacc.acceleration.choice import OptimizerChoice, choose_optimizer
from kacc.acceleration.execution import compile_step, several_steps
from kacc.acceleration.fusion import Fusion, fuse_batch_normalization
from kacc.acceleration.learning import average_weights, set_schedule, warmup_cosine
from kacc.acceleration.memory import (
    Rematerialization,
    accumulate_gradients,
    rematerialize,
)
from kacc.acceleration.model import accelerate, restore
from kacc.acceleration.planning import Plan, plan
from kacc.acceleration.precision import Precision, mixed_precision
from kacc.acceleration.setting import Setting

__all__ = [
    "Fusion",
    "OptimizerChoice",
    "Plan",
    "Precision",
    "Rematerialization",
    "Setting",
    "accelerate",
    "accumulate_gradients",
    "average_weights",
    "choose_optimizer",
    "compile_step",
    "fuse_batch_normalization",
    "mixed_precision",
    "plan",
    "rematerialize",
    "restore",
    "set_schedule",
    "several_steps",
    "warmup_cosine",
]
