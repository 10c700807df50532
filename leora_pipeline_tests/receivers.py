"""Receivers of alerts: a mail server and a webhook, real ones, on ports that the system chooses.

What does not belong here: anything that knows what the pipeline is to tell.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class Webhook:
    """What a webhook has received, and how it answers.

    Attributes:
        url: Its Apprise URL, which holds a secret.
        received: The messages that it took, oldest first: ``title``, ``message``, ``type``.
        calls: How often it was called, whatever it answered.
        status: What it answers; a message counts as received where that is 200.
        on_call: Called before each answer.
    """

    def __init__(self, port: int) -> None:
        self.url = f"json://leora:s3cret-word@127.0.0.1:{port}/t0ken-in-path/"
        self.received: list[dict[str, Any]] = []
        self.calls = 0
        self.status = 200
        self.on_call: Callable[[], object] = lambda: None

    @property
    def titles(self) -> list[str]:
        """The titles of the messages received."""
        return [message["title"] for message in self.received]


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Runs a webhook."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hook.calls += 1
            if hook.status == 200:
                hook.received.append(payload)
            hook.on_call()
            self.send_response(hook.status)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Says nothing on the tests' standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hook = Webhook(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hook
        finally:
            server.shutdown()
            thread.join()


class Mailbox:
    """The mail that a server has taken.

    Attributes:
        url: Its Apprise URL.
        mails: The mails, oldest first.
    """

    def __init__(self, port: int) -> None:
        self.url = (
            f"mailto://leora@localhost:{port}?smtp=127.0.0.1&mode=insecure"
            "&from=leora@example.com&to=sales@example.com"
        )
        self.mails: list[EmailMessage] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Takes a mail."""
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 OK"

    @property
    def subjects(self) -> list[str]:
        """The subjects of the mails."""
        return [mail["Subject"] for mail in self.mails]


class _OnSocket(Controller):
    """A mail server on a socket that is already bound, so that nobody else gets the port."""

    def __init__(self, mailbox: Mailbox, bound: socket.socket) -> None:
        super().__init__(mailbox, hostname="127.0.0.1", port=bound.getsockname()[1])
        self._bound = bound

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._bound)


@contextmanager
def mail_server() -> Iterator[Mailbox]:
    """Runs a mail server."""
    bound = socket.create_server(("127.0.0.1", 0))
    mailbox = Mailbox(bound.getsockname()[1])
    controller = _OnSocket(mailbox, bound)
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()


@contextmanager
def bad_receiver(manner: str) -> Iterator[str]:
    """Runs a webhook that never answers as it should, and yields its Apprise URL.

    Args:
        manner: ``drips`` its answer byte by byte, ``hangs``, ``hangs up``, or ``refuses`` to be
            connected to.
    """
    ended = threading.Event()

    def serve(server: socket.socket) -> None:
        while not ended.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                while manner != "hangs up" and not ended.wait(0.05):
                    if manner == "drips":
                        try:
                            connection.send(b"H")
                        except OSError:
                            break

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        url = f"json://127.0.0.1:{server.getsockname()[1]}/"
        if manner == "refuses":
            server.close()
            yield url
            return
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield url
        finally:
            ended.set()
            thread.join()
