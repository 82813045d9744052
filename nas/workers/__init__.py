"""Pools of training workers: in this process, or in processes of their own.

The owner of a pool submits jobs, receives a message for every epoch, and replies whether the training goes on or stops.
"""

from nas.workers.jobs import (
    EpochMessage,
    FailureMessage,
    FinalMessage,
    Job,
    LogitsJob,
    LogitsMessage,
    Message,
    RunMessage,
    StepMessage,
    TrainJob,
    read_logits,
)
from nas.workers.local import LocalPool
from nas.workers.pool import OnMessage, Pool, default_workers, run_jobs
from nas.workers.processes import ProcessPool
from nas.workers.worker import TRAIN_EVALUATION_IMAGES

__all__ = [
    "TRAIN_EVALUATION_IMAGES",
    "EpochMessage",
    "FailureMessage",
    "FinalMessage",
    "Job",
    "LocalPool",
    "LogitsJob",
    "LogitsMessage",
    "Message",
    "OnMessage",
    "Pool",
    "ProcessPool",
    "RunMessage",
    "StepMessage",
    "TrainJob",
    "default_workers",
    "read_logits",
    "run_jobs",
]
