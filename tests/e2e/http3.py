"""HTTP/3 for `httpx`, which has none of its own: enough to ask one server."""

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection, H3Stream
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset
from anyio.from_thread import start_blocking_portal

# Those of a connection, which HTTP/3 does not have (RFC 9114, 4.2), and Host, which is :authority.
NOT_SENT = frozenset({b"connection", b"host", b"transfer-encoding"})


@dataclass
class Answer:
    """What has arrived of a response."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    content: bytes = b""
    fault: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, fault: str = "") -> None:
        """Note that nothing more arrives."""
        if not self.ended.is_set():
            self.fault = fault
            self.ended.set()


class Http3(H3Connection):
    """HTTP/3 that knows of responses without their content: 304, and those to HEAD."""

    def _check_content_length(self, stream: H3Stream) -> None:
        if stream.content_length:
            super()._check_content_length(stream)


class Http3Connection(QuicConnectionProtocol):
    """A connection to a server, with any number of requests at once."""

    def __init__(self, quic: QuicConnection, stream_handler: None = None) -> None:
        super().__init__(quic, stream_handler)
        self.http = Http3(quic)
        self.answers: dict[int, Answer] = {}
        self.fault = ""

    def quic_event_received(self, event: QuicEvent) -> None:
        """Put what has arrived where its request waits for it."""
        if isinstance(event, StreamReset) and event.stream_id in self.answers:
            self.answers[event.stream_id].end(f"stream reset: {event.error_code:#x}")
        elif isinstance(event, ConnectionTerminated):
            self.fault = f"connection closed: {event.error_code:#x}"
            for answer in self.answers.values():
                answer.end(self.fault)
        for each in self.http.handle_event(event):
            self._keep(each)

    def _keep(self, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived | DataReceived):
            return
        answer = self.answers[event.stream_id]
        if isinstance(event, HeadersReceived):
            answer.headers += event.headers
        else:
            answer.content += event.data
        if event.stream_ended:
            answer.end()

    def open(self, headers: list[tuple[bytes, bytes]]) -> int:
        """Begin a request; return the number of its stream."""
        stream_id = self._quic.get_next_available_stream_id()
        self.answers[stream_id] = Answer()
        if self.fault:
            self.answers[stream_id].end(self.fault)
            return stream_id
        self.http.send_headers(stream_id, headers)
        self.transmit()
        return stream_id

    def send(self, stream_id: int, piece: bytes, is_last: bool) -> None:
        """Send a piece of a body, unless the response is there already."""
        if not self.answers[stream_id].ended.is_set():
            self.http.send_data(stream_id, piece, end_stream=is_last)
            self.transmit()

    async def receive(self, stream_id: int, seconds: float | None) -> Answer:
        """Wait for the whole response; leave if that takes too long."""
        answer = self.answers[stream_id]
        try:
            await asyncio.wait_for(answer.ended.wait(), seconds)
        except TimeoutError:
            self._quic.stop_stream(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
            self.transmit()
            raise
        return answer


class Http3Transport(httpx.BaseTransport):
    """Sends all requests of a client to 127.0.0.1 on one connection."""

    def __init__(self, port: int, server_name: str, certificate: Path) -> None:
        configuration = QuicConfiguration(alpn_protocols=H3_ALPN, server_name=server_name)
        configuration.load_verify_locations(str(certificate))
        self._resources = ExitStack()
        self._portal = self._resources.enter_context(start_blocking_portal())
        opened = connect(
            "127.0.0.1", port, configuration=configuration, create_protocol=Http3Connection
        )
        protocol = self._resources.enter_context(self._portal.wrap_async_context_manager(opened))
        assert isinstance(protocol, Http3Connection)
        self._connection = protocol

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and wait for all of its response."""
        headers = [
            (b":method", request.method.encode()),
            (b":scheme", b"https"),
            (b":authority", request.headers["Host"].encode()),
            (b":path", request.url.raw_path),
        ]
        headers += [
            (name.lower(), value)
            for name, value in request.headers.raw
            if name.lower() not in NOT_SENT
        ]
        assert isinstance(request.stream, httpx.SyncByteStream)
        stream_id = self._portal.call(self._connection.open, headers)
        for piece in request.stream:
            self._portal.call(self._connection.send, stream_id, piece, False)
        self._portal.call(self._connection.send, stream_id, b"", True)
        seconds = request.extensions["timeout"]["read"]
        try:
            answer = self._portal.call(self._connection.receive, stream_id, seconds)
        except TimeoutError:
            raise httpx.ReadTimeout("no response", request=request) from None
        if answer.fault:
            raise httpx.RemoteProtocolError(answer.fault, request=request)
        (_, status), *rest = answer.headers
        return httpx.Response(int(status), headers=rest, content=answer.content)

    def close(self) -> None:
        """Close the connection."""
        self._resources.close()
