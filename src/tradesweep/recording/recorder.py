"""The recorder as a Ray actor, and the client that reaches it from any process of a sweep.

The driver creates it before Tune does anything: an actor created inside a trial's placement group dies with
the trial. It needs no CPU, restarts for ever, and no call is retried by Ray: Ray's retries duplicate and
reorder. Writes and control have one thread each, so that `status` or a `hello` never waits behind a queue of
batches.

Errors come back as values. An exception that crosses Ray turns into another type with a traceback, and the
traceback of a failed connection may quote the database's URL. The URL reaches the actor through its
constructor alone: not through the environment, which every worker inherits, nor through runtime_env, which is
logged.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tradesweep.errors import RecorderUnavailable, StoreError, StoreUnavailable, TradesweepError
from tradesweep.home import DatabaseAddress
from tradesweep.names import Answer, Batch
from tradesweep.recording.client import RecorderClient
from tradesweep.recording.service import RecorderService, open_writer_patiently
from tradesweep.recording.stats import RecorderStats

if TYPE_CHECKING:
    from tradesweep.store import Writer

NAMESPACE = "tradesweep"
"""The Ray namespace in which recorders are found by name, whatever the driver's own namespace is."""

LIGHT = "TRADESWEEP_LIGHT_PROCESS"
"""Set in processes that train nothing, for `sweep.warm`: what trials import is more than a recorder's own memory."""

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0

Value = TypeVar("Value")
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Value]):
    """What an actor method gives back: a value, or one of our own exceptions."""

    value: Value | None
    error: TradesweepError | None = None

    def unwrap(self) -> Value:
        """The value, or raise the error."""
        if self.error is not None:
            raise self.error
        return cast("Value", self.value)


def _in_group(name: str) -> Callable[[Method], Method]:
    """Ray's decorator, with a type: the method runs in the thread of that concurrency group."""
    return cast("Callable[[Method], Method]", ray.method(concurrency_group=name))


class RecorderActor:
    """The process that owns the database of a sweep."""

    def __init__(self, address: DatabaseAddress, lock_timeout_s: float) -> None:
        def open_writer() -> Writer:
            from tradesweep.store import Writer

            return Writer(address)

        # Opened by the first call, not here: an exception in a constructor ends an actor for good.
        self._service = RecorderService(lambda: open_writer_patiently(open_writer, lock_timeout_s=lock_timeout_s))
        self._address = address

    @_in_group("write")
    def write(self, batch: Batch, sent_at_s: float) -> Outcome[Answer]:
        """Apply a batch; answered after commit."""
        return self._outcome(lambda: self._service.write(batch, sent_at_s))

    @_in_group("write")
    def drain(self) -> Outcome[RecorderStats]:
        """Answered when every write queued before it is."""
        return self._outcome(self._service.stats)

    @_in_group("write")
    def close(self) -> Outcome[None]:
        """Close the Writer after every write queued before."""
        return self._outcome(self._service.close)

    @_in_group("control")
    def open(self) -> Outcome[None]:
        """Open the database now rather than at the first call."""
        return self._outcome(self._service.open)

    @_in_group("control")
    def control(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome[Any]:
        """Anything but a write."""
        return self._outcome(lambda: self._service.control(method, *args, **kwargs))

    def _outcome(self, work: Callable[[], Value]) -> Outcome[Value]:
        try:
            return Outcome(work())
        except TradesweepError as error:
            return Outcome(None, error)
        except Exception as error:
            masked = self._address.mask(f"{type(error).__name__}: {error}")
            logging.getLogger(__name__).error("unexpected in the recorder: %s", masked)
            return Outcome(None, StoreError(f"the recorder failed unexpectedly: {masked}"))


class RemoteReply:
    """The answer of the actor to one batch."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def result(self, timeout_s: float) -> Answer:
        """Wait for the answer. Raises RecorderUnavailable when none comes in time or the actor is gone."""
        return cast("Answer", _await(self._reference, timeout_s))


class RemoteRecorder(RecorderClient):
    """The recorder actor, seen from any process of the sweep.

    A control call that finds the actor restarting, or the database locked, full or away, is made again for up to
    `timeout_s`; all of them may safely run twice. A write is made once: its producer knows what to send again.
    """

    def __init__(self, handle: Any, name: str, *, timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s
        self.name = name

    def write(self, batch: Batch) -> RemoteReply:
        """Hand the batch over; the reply comes after its commit."""
        return RemoteReply(_submit(lambda: self._handle.write.remote(batch, time.time())))

    def control(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Ask, and ask again while the actor restarts or the database is away."""
        return self._persist(
            lambda: self._handle.control.remote(method, args, kwargs),
            self._timeout_s,
            passing=(RecorderUnavailable, StoreUnavailable),
        )

    def open(self) -> None:
        """Have the database opened now. Raises StoreLocked, SchemaMismatch or StoreError."""
        self._persist(lambda: self._handle.open.remote(), self._timeout_s)

    def drain(self, timeout_s: float) -> RecorderStats:
        """Wait until every batch that reached the actor is committed."""
        return cast("RecorderStats", self._persist(lambda: self._handle.drain.remote(), timeout_s))

    def close(self, timeout_s: float) -> None:
        """Drain, close the database, end the actor: Ray runs no exit handler when it ends one."""
        try:
            self._persist(lambda: self._handle.close.remote(), timeout_s)
        finally:
            _end(self.name, self._handle)

    def _persist(
        self,
        call: Callable[[], Any],
        timeout_s: float,
        *,
        passing: tuple[type[TradesweepError], ...] = (RecorderUnavailable,),
    ) -> Any:
        deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
        said: StoreUnavailable | None = None
        while True:
            left_s = max(deadline - time.monotonic(), 0.0)
            try:
                return _await(_submit(call), left_s)
            except passing as error:
                said = error if isinstance(error, StoreUnavailable) else said
                if time.monotonic() + pause_s >= deadline:
                    raise said or error from error  # what the database said counts for more than a silence after it
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def create_recorder(
    database: DatabaseAddress | str, *, name: str, lock_timeout_s: float = 10.0, timeout_s: float = 60.0
) -> RemoteRecorder:
    """Start the recorder of a sweep on this node and open its database.

    Only the driver calls this, before Tune: the actor lives as long as its process, or until it is closed.
    Raises StoreLocked when another process holds the database after `lock_timeout_s`, SchemaMismatch or
    StoreError when it cannot be used; no actor is left then. `timeout_s` bounds each control call.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(**_ACTOR_OPTIONS)(RecorderActor)
    address = database if isinstance(database, DatabaseAddress) else DatabaseAddress(database)
    handle: Any = actor.options(name=name, namespace=NAMESPACE, scheduling_strategy=here).remote(
        address, lock_timeout_s
    )
    recorder = RemoteRecorder(handle, name, timeout_s=timeout_s)
    _OWNED[name] = handle
    try:
        recorder.open()
    except BaseException:
        _end(name, handle)
        raise
    return recorder


def connect_recorder(name: str, *, timeout_s: float = 60.0) -> RemoteRecorder:
    """Find the recorder of a sweep by name. Raises RecorderUnavailable when there is none."""
    try:
        handle = ray.get_actor(name, namespace=NAMESPACE)
    except (ValueError, RayError) as error:
        raise RecorderUnavailable(f"recorder {name!r} must be running, was not found: {error}") from error
    return RemoteRecorder(handle, name, timeout_s=timeout_s)


_ACTOR_OPTIONS: dict[str, Any] = {
    "num_cpus": 0,
    "max_restarts": -1,
    "max_task_retries": 0,
    "concurrency_groups": {"write": 1, "control": 1},
    "runtime_env": {"env_vars": {LIGHT: "1"}},
}


_OWNED: dict[str, Any] = {}
"""Handles of the recorders that this process created: an actor ends with the last handle its creator holds."""


def _end(name: str, handle: Any) -> None:
    _OWNED.pop(name, None)
    ray.kill(handle, no_restart=True)


def _submit(call: Callable[[], Any]) -> Any:
    if not ray.is_initialized():  # a call would start another Ray, from a thread that outlived its sweep
        raise RecorderUnavailable("the recorder is gone: Ray was shut down")
    try:
        return call()
    except RayError as error:
        raise RecorderUnavailable(f"the recorder could not be called: {_short(error)}") from error


def _await(reference: Any, timeout_s: float) -> Any:
    try:
        outcome: Outcome[Any] = ray.get(reference, timeout=timeout_s)
    except GetTimeoutError as error:
        raise RecorderUnavailable(f"the recorder gave no answer within {timeout_s:.3g} s") from error
    except RayError as error:
        raise RecorderUnavailable(f"the recorder is gone or restarting: {_short(error)}") from error
    return outcome.unwrap()


def _short(error: RayError) -> str:
    """The first line: what follows it in Ray's messages is for Ray's developers."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
