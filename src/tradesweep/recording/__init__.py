"""Exactly-once recording: producers send batches, one recorder owns the database and answers after commit."""

from tradesweep.recording.client import PendingReply, RecorderClient
from tradesweep.recording.producer import Producer, ProducerCounts
from tradesweep.recording.recorder import LIGHT, NAMESPACE, RemoteRecorder, connect_recorder, create_recorder
from tradesweep.recording.service import LocalRecorder
from tradesweep.recording.stats import RecorderStats
from tradesweep.recording.wire import (
    MAX_BATCH_ROWS,
    Columns,
    build_batch,
    cut_into_batches,
    decode_batch,
    decode_frame,
    encode_frame,
)

__all__ = [
    "LIGHT",
    "MAX_BATCH_ROWS",
    "NAMESPACE",
    "Columns",
    "LocalRecorder",
    "PendingReply",
    "Producer",
    "ProducerCounts",
    "RecorderClient",
    "RecorderStats",
    "RemoteRecorder",
    "build_batch",
    "connect_recorder",
    "create_recorder",
    "cut_into_batches",
    "decode_batch",
    "decode_frame",
    "encode_frame",
]
