"""The door of ``leora dev``: its own pages and scripts come in, and pages of other sites do not."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from leora_pipeline_tests.acceptance.browser import browse
from leora_pipeline_tests.acceptance.dagster_runs import STEPS
from leora_pipeline_tests.acceptance.kills import Dev
from leora_pipeline_tests.acceptance.servers import REPOSITORY, launch_body

JOB = "preview_account_types"
JSON = {"Content-Type": "application/json"}
FORGED_LAUNCH = (
    "mutation { launchRun(executionParams: {selector: {"
    + ", ".join(f'{name}: "{value}"' for name, value in {**REPOSITORY, "jobName": JOB}.items())
    + "}, runConfigData: {}}) { __typename } }"
)
"""A launch that an address can carry."""
FORGED_ADDRESS = f"/graphql?{urllib.parse.urlencode({'query': FORGED_LAUNCH})}"


def port_of(dev: Dev) -> int:
    port = urllib.parse.urlsplit(dev.server.url).port
    assert port
    return port


def ask(
    dev: Dev, method: str, path: str, headers: dict[str, str], body: str = ""
) -> tuple[int, str]:
    """Sends just these headers, and a Host of its own where none is among them."""
    port = port_of(dev)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {
            "Host": f"127.0.0.1:{port}",
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            connection.putheader(name, value.format(port=port))
        connection.endheaders(body.encode())
        response = connection.getresponse()
        return response.status, response.read().decode()


def launches(dev: Dev) -> int:
    """Returns how many runs of the job there are; nothing but these tests launches it."""
    query = f'{{ runsOrError(filter: {{pipelineName: "{JOB}"}}) {{ ... on Runs {{ count }} }} }}'
    count: int = dev.server.post({"query": query})["runsOrError"]["count"]
    return count


@contextmanager
def nothing_is_launched(dev: Dev) -> Iterator[None]:
    before = launches(dev)
    yield
    assert launches(dev) == before


def assert_refused(answer: tuple[int, str]) -> None:
    status, text = answer
    assert status == 403, text
    assert text.endswith("\n")
    assert text.count("\n") == 1, text


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}",  # A name that its owner lets point to 127.0.0.1.
        "localhost.evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1:{port}, evil.example",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/server_info", "/graphql"])
def test_a_request_for_another_host_is_refused(dev: Dev, host: str, path: str) -> None:
    assert_refused(ask(dev, "GET", path, {"Host": host, "Accept": "text/html"}))


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}"])
def test_each_of_its_own_names_and_pages_comes_in(dev: Dev, host: str) -> None:
    body = json.dumps({"query": "{ version }"})
    for headers in (
        {},  # A script's.
        {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"},  # A page's.
    ):
        status, text = ask(dev, "POST", "/graphql", {"Host": host, **JSON, **headers}, body)
        assert (status, list(json.loads(text))) == (200, ["data"])
    typed = {"Host": host, "Sec-Fetch-Site": "none", "Accept": "text/html"}
    for path in ("/", "/runs", "/graphql"):
        status, text = ask(dev, "GET", path, typed)
        assert (status, "<!doctype html>" in text.lower()) == (200, True), path


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://evil.example:{port}"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:{port}"},  # Itself, but not the one of this Host.
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_what_another_site_sends_is_refused(dev: Dev, headers: dict[str, str]) -> None:
    body = json.dumps(launch_body(JOB, {}))
    with nothing_is_launched(dev):
        assert_refused(ask(dev, "POST", "/graphql", {**JSON, **headers}, body))
        assert_refused(ask(dev, "POST", "/report_asset_materialization/tenants", headers))
        assert_refused(ask(dev, "GET", "/", headers))


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", FORGED_ADDRESS, {}),
        ("GET", FORGED_ADDRESS, {"Accept": "*/*"}),
        ("GET", FORGED_ADDRESS.replace("?", "%0A?"), {}),
        ("POST", FORGED_ADDRESS, {}),
        ("POST", FORGED_ADDRESS, {"Content-Type": "application/x-www-form-urlencoded"}),
        ("POST", FORGED_ADDRESS, {"Content-Type": "text/plain; charset=application/json"}),
    ],
)
def test_an_address_or_a_form_launches_nothing(
    dev: Dev, method: str, path: str, headers: dict[str, str]
) -> None:
    """Not even where a browser would not say which site it comes from."""
    with nothing_is_launched(dev):
        assert_refused(ask(dev, method, path, headers))


def test_the_page_to_type_queries_into_does_not_run_the_one_of_its_address(dev: Dev) -> None:
    with nothing_is_launched(dev):
        status, text = ask(dev, "GET", FORGED_ADDRESS, {"Accept": "text/html"})
        assert (status, "graphiql" in text.lower()) == (200, True)


def handshake(dev: Dev, *, host: str = "127.0.0.1:{port}", origin: str | None = None) -> Any:
    """Opens a WebSocket the way a browser does, and returns the server's first word."""
    port = port_of(dev)
    with (
        socket.create_connection(("127.0.0.1", port)) as stream,
        connect(
            f"ws://{host.format(port=port)}/graphql",
            sock=stream,
            origin=origin and origin.format(port=port),  # type: ignore[arg-type]
            subprotocols=["graphql-ws"],  # type: ignore[list-item]
            proxy=None,
        ) as websocket,
    ):
        websocket.send(json.dumps({"type": "connection_init"}))
        return json.loads(websocket.recv(timeout=30))


@pytest.mark.parametrize(
    "arguments",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"host": "evil.example:{port}"},
        {"host": "evil.example:{port}", "origin": "http://evil.example:{port}"},
    ],
)
def test_a_websocket_of_another_site_is_refused(dev: Dev, arguments: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as refused:
        handshake(dev, **arguments)

    response = refused.value.response
    assert_refused((response.status_code, response.body.decode()))


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:{port}"])
def test_its_own_websocket_opens(dev: Dev, origin: str | None) -> None:
    assert handshake(dev, origin=origin) == {"type": "connection_ack"}


def test_a_script_without_an_origin_launches_a_run(dev: Dev) -> None:
    assert dev.server.finished(dev.server.launch(JOB)) == "SUCCESS"
    assert dev.server.finished(dev.server.launch("refresh_account_types")) == "SUCCESS"


def test_a_launch_that_names_a_database_is_refused(dev: Dev) -> None:
    config = {"resources": {"crm": {"config": {"url": "postgresql://evil.example/crm"}}}}

    with nothing_is_launched(dev):
        refused = dev.server.post(launch_body(JOB, config))["launchRun"]

    assert refused["__typename"] == "RunConfigValidationInvalid"
    assert "url" in refused["errors"][0]["message"]


def test_a_person_sees_the_pages_in_a_browser(dev: Dev, chromium: str, tmp_path: Path) -> None:
    run_id = dev.server.launch(JOB)
    assert dev.server.finished(run_id) == "SUCCESS"
    group = "/locations/leora_pipeline/asset-groups/account_types/lineage"

    lineage = browse(chromium, f"{dev.server.url}{group}", tmp_path / "lineage.png")
    shown = browse(chromium, f"{dev.server.url}/runs/{run_id}", tmp_path / "run.png")

    for asset in STEPS:
        assert asset in lineage, f"{asset} is not on the lineage page"
    # The log of a run comes by WebSocket.
    for part in (JOB, "RUN_SUCCESS", run_id[:8]):
        assert part in shown, f"{part} is not on the run's page"


EVIL_PAGE = """<!doctype html><title>A shop</title><ul id="seen"></ul>
<script>
function seen(what) { document.getElementById("seen").innerHTML += `<li>${what}</li>` }
</script>
<img src="URL/ADDRESS" onload="seen('image: loaded')" onerror="seen('image: refused')">
<form action="URL/ADDRESS" method="post" target="hidden"></form>
<iframe name="hidden"></iframe><iframe src="URL/runs"></iframe>
<script>
document.forms[0].submit()
fetch("URL/graphql", {method: "POST", mode: "no-cors", body: BODY})
  .then(() => seen("fetch: sent"), () => seen("fetch: failed"))
const websocket = new WebSocket("WS/graphql", "graphql-ws")
websocket.onopen = () => seen("websocket: open")
websocket.onerror = () => seen("websocket: refused")
</script>"""


def test_a_page_of_another_site_does_nothing_in_a_browser(
    dev: Dev, chromium: str, tmp_path: Path
) -> None:
    """The ways a page has of sending something to another site without being asked first."""
    page = EVIL_PAGE.replace("URL/ADDRESS", dev.server.url + FORGED_ADDRESS.replace('"', "%22"))
    page = page.replace("URL", dev.server.url).replace("WS", f"ws://127.0.0.1:{port_of(dev)}")
    page = page.replace("BODY", json.dumps(json.dumps(launch_body(JOB, {}))))

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            """Keeps quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Evil) as other_site:
        thread = threading.Thread(target=other_site.serve_forever)
        thread.start()
        try:
            with nothing_is_launched(dev):
                shown = browse(
                    chromium,
                    f"http://localhost:{other_site.server_address[1]}/",
                    tmp_path / "evil.png",
                )
        finally:
            other_site.shutdown()
            thread.join()

    for seen in ("image: refused", "fetch: sent", "websocket: refused"):
        assert f"<li>{seen}</li>" in shown
