"""Pools of training workers: in this process, in processes of their own, or on a Ray cluster.

The owner of a pool submits jobs, receives a message for every epoch, and replies whether the training goes on or stops.
"""

from nas.workers.cluster import ClusterError, cluster_device, connect, describe_cluster, disconnect
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
from nas.workers.memory import MemoryNeed, fitting_workers
from nas.workers.pool import MAX_DEATHS, OnMessage, Pool, default_workers, run_jobs
from nas.workers.population import PopulationPool
from nas.workers.processes import ProcessPool
from nas.workers.ray_pool import RayPool
from nas.workers.worker import TRAIN_EVALUATION_IMAGES

__all__ = [
    "MAX_DEATHS",
    "TRAIN_EVALUATION_IMAGES",
    "ClusterError",
    "EpochMessage",
    "FailureMessage",
    "FinalMessage",
    "Job",
    "LocalPool",
    "LogitsJob",
    "LogitsMessage",
    "MemoryNeed",
    "Message",
    "OnMessage",
    "Pool",
    "PopulationPool",
    "ProcessPool",
    "RayPool",
    "RunMessage",
    "StepMessage",
    "TrainJob",
    "cluster_device",
    "connect",
    "default_workers",
    "describe_cluster",
    "disconnect",
    "fitting_workers",
    "read_logits",
    "run_jobs",
]
