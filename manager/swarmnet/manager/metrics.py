"""/metrics, /livez and /readyz, on this host's loopback: for Prometheus and for whoever watches the process.

Threads of their own answer; each asks the event loop for one reading, so a loop that hangs shows as a daemon
that is not live. Nothing in a reading is secret.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from swarmnet.core.errors import FailedPrecondition, SwarmnetError
from swarmnet.manager.lag import LoopLag
from swarmnet.manager.raft.measures import Histogram, Measures
from swarmnet.manager.raft.standing import Standing
from swarmnet.manager.raft.storage import Sizes
from swarmnet.manager.settings import port_of

log = structlog.get_logger()

_ANSWER_S: Final = 4.0
_REQUEST_S: Final = 5.0
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class RaftReading:
    """`reachable`: the other managers by node id, and whether there is a connection."""

    standing: Standing
    sizes: Sizes
    measures: Measures
    reachable: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Reading:
    """`raft`, `lag`: None outside of a swarm, and of a locked manager. `refused`: calls from other hosts, by
    the reason of the error."""

    raft: RaftReading | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    locked: bool = False
    lag: LoopLag | None = None

    def obstacle(self) -> str:
        """Why this manager is not ready; empty when it is."""
        if self.locked:
            return "this manager is locked"
        if self.raft is None:
            return "this manager is not part of a swarm"
        return "" if self.raft.standing.leader_id else "no manager leads"


class MetricsServer:
    """Made on the event loop that `read` belongs to."""

    def __init__(self, read: Callable[[], Awaitable[Reading]]) -> None:
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._server: ThreadingHTTPServer | None = None

    def start(self, address: str) -> None:
        """Answer at host:port. FailedPrecondition when it cannot be listened at."""
        host, port = address.rpartition(":")[0].strip("[]"), port_of(address, 0)
        try:
            self._server = _Server((host, port), _handler(self._reading))
        except OSError as error:
            raise FailedPrecondition(
                f"cannot listen at {address} for metrics: {error.strerror}",
                hint="Give another one on the loopback: --metrics-addr 127.0.0.1:PORT, or '' for none.",
            ) from error
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    async def stop(self) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()

    def _reading(self) -> Reading:
        """On a thread of the server. TimeoutError when the loop does not answer; SwarmnetError."""

        async def read() -> Reading:
            return await self._read()

        pending = asyncio.run_coroutine_threadsafe(read(), self._loop)
        try:
            return pending.result(_ANSWER_S)
        except futures.CancelledError:
            raise TimeoutError from None
        finally:
            pending.cancel()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Without looking up the host's name, which can take long."""
        TCPServer.server_bind(self)


def _handler(read: Callable[[], Reading]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_S

        def do_GET(self) -> None:
            status, kind, body = _answer(self.path, read)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name there
            log.debug("metrics asked for", request=format % args)

    return Handler


def _answer(path: str, read: Callable[[], Reading]) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    if path not in {"/metrics", "/livez", "/readyz"}:
        return 404, _TEXT, b"/metrics, /livez and /readyz are here\n"
    try:
        reading = read()
    except (TimeoutError, SwarmnetError) as error:
        return 503, _TEXT, f"{str(error) or 'the event loop does not answer'}\n".encode()
    if path == "/metrics":
        return 200, CONTENT_TYPE_PLAIN_0_0_4, expose(reading)
    if path == "/readyz" and (obstacle := reading.obstacle()):
        return 503, _TEXT, f"{obstacle}\n".encode()
    return 200, _TEXT, b"ok\n"


def expose(reading: Reading) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Families(reading))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        yield _labelled_counter(
            "swarmnet_refused_calls", "Calls from other hosts that were refused.", self._reading.refused
        )
        if self._reading.lag is not None:
            yield from _of_lag(self._reading.lag)
        if self._reading.raft is not None:
            yield from _of_standing(self._reading.raft.standing)
            yield from _of_disk(self._reading.raft)
            yield from _of_peers(self._reading.raft)
            yield from _of_measures(self._reading.raft.measures)


def _of_lag(lag: LoopLag) -> Iterable[Metric]:
    late_s, working_s = lag.longest_s()
    yield GaugeMetricFamily(
        "swarmnet_event_loop_lag_max_seconds", "The latest tick of the last ten seconds.", value=late_s
    )
    yield GaugeMetricFamily(
        "swarmnet_event_loop_busy_max_seconds",
        "The same, without what the machine gave to other processes.",
        value=working_s,
    )
    yield _histogram("event_loop_lag_seconds", "How late the event loop is, at every tick.", lag.late, of="")


def _of_standing(standing: Standing) -> Iterable[Metric]:
    yield _gauge("term", "Raft's term.", standing.term)
    yield _gauge("is_leader", "1 while this manager leads.", standing.leads)
    yield _gauge("has_leader", "1 while this manager knows who leads.", standing.leader_id is not None)
    yield _gauge("commit_index", "The last entry known to be agreed on.", standing.commit_index)
    yield _gauge("applied_index", "The last entry in this manager's state.", standing.applied_index)
    yield _gauge("last_index", "The last entry in this manager's journal.", standing.last_index)
    yield _gauge("journal_entries", "Entries in the journal.", standing.journal_entries)
    yield _gauge("snapshot_index", "The last entry in the snapshot, 0 without one.", standing.snapshot_index)


def _of_disk(raft: RaftReading) -> Iterable[Metric]:
    yield _gauge("journal_bytes", "Size of the journal on disk.", raft.sizes.journal_bytes)
    yield _gauge("snapshot_bytes", "Size of the snapshot on disk.", raft.sizes.snapshot_bytes)


def _of_peers(raft: RaftReading) -> Iterable[Metric]:
    reachable = GaugeMetricFamily(
        "swarmnet_raft_peer_reachable", "1 with a connection to that manager.", labels=["node"]
    )
    for node_id, up in raft.reachable.items():
        reachable.add_metric([node_id], up)
    yield reachable
    lag = GaugeMetricFamily(
        "swarmnet_raft_peer_lag_entries",
        "Entries that the leader does not know that manager to have; told by the leader only.",
        labels=["node"],
    )
    for node_id, index in raft.standing.matched.items():
        lag.add_metric([node_id], max(0, raft.standing.last_index - index))
    yield lag


def _of_measures(measures: Measures) -> Iterable[Metric]:
    yield _counter("elections", "How often this manager stood for election.", measures.elections)
    yield _counter("leader_changes", "How often this manager saw a new leader.", measures.leader_changes)
    yield _counter("proposals_failed", "Proposals here that failed or were refused.", measures.failed)
    yield _histogram(
        "commit_duration_seconds", "From a proposal to its being applied, on the leader.", measures.commits
    )
    yield _histogram(
        "journal_sync_duration_seconds", "Sealing, writing and syncing the journal.", measures.syncs
    )


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"swarmnet_raft_{name}", help_, value=value)


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(f"swarmnet_raft_{name}", help_, value=value)


def _labelled_counter(name: str, help_: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, help_, labels=["reason"])
    for label, value in sorted(values.items()):
        family.add_metric([label.lower()], value)
    return family


def _histogram(name: str, help_: str, histogram: Histogram, of: str = "raft_") -> Metric:
    counts, total = list(histogram.counts), 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip([*map(str, histogram.bounds_s), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(f"swarmnet_{of}{name}", help_, buckets=buckets, sum_value=histogram.sum_s)
