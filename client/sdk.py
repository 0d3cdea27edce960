"""The SDK: a thin, typed layer over the gateway's REST routes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from client.errors import ModelyardError, ProblemError
from client.tables import Json, arrow_body, as_arrow, parts_of

CHUNK = 1 << 20
"""Bytes of an artifact in one message."""

RETRIED = frozenset({502, 503, 504})
ATTEMPTS = 4

_NOT_YET = (404, 503)
"""What the gateway says of a model that it does not know or that has no replica."""


class Client:
    """Talks to a suite through its gateway.

    A call that changes something carries an idempotency key, so that it can be repeated after a
    broken connection and has its effect once. A prediction is asked for again only when nothing
    can have answered it: it would be logged, and judged, twice.

    Args:
        url: Address of the gateway; `MODELYARD_URL` or `http://127.0.0.1:8080` when absent.
        api_key: API key; `MODELYARD_API_KEY` or the key file of the local suite when absent.
        timeout: Longest time for one call, in seconds.
    """

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, timeout: float = 30.0
    ) -> None:
        self.url = (url or os.environ.get("MODELYARD_URL") or "http://127.0.0.1:8080").rstrip("/")
        key = api_key or os.environ.get("MODELYARD_API_KEY") or local_api_key()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        keyed: bool = True,
        repeatable: bool = True,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> Json:
        """Calls a route and returns the answer's JSON.

        Args:
            method: HTTP method.
            path: Path of the route.
            body: JSON body, or the bytes of one with a message on each line.
            params: Query parameters.
            timeout: Longest time for the call, in seconds.
            keyed: False for a call that may be repeated as it is: the server then keeps no record
                of its idempotency key.
            repeatable: False for a call that must not arrive twice and has no key.
            headers: Further headers.

        Raises:
            ProblemError: The gateway refused the call.
            ModelyardError: The gateway could not be reached.
        """
        sent = dict(headers or {})
        if keyed and method != "GET":
            sent[b"idempotency-key"] = str(uuid.uuid4()).encode()
        content: Json = {"content" if isinstance(body, bytes) else "json": body}
        if isinstance(body, bytes):
            sent[b"content-type"] = b"application/x-ndjson"
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                answer = self._http.request(
                    method,
                    path,
                    params=params,
                    headers=sent,
                    timeout=timeout or self._http.timeout,
                    **content,
                )
            except httpx.TransportError as error:
                never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if last or not (repeatable or never_sent):
                    raise ModelyardError(
                        f"no answer from {self.url}: is the suite up (`modelyard up`)?"
                    ) from error
            else:
                if answer.is_success:
                    return answer.json() if answer.content else {}
                if answer.status_code not in RETRIED or last:
                    raise problem_of(answer)
            # Spread, so that callers that failed together don't come back together.
            time.sleep(0.1 * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311
        raise AssertionError("unreachable")

    def get(self, name: str, **params: Any) -> Json:
        """Gets a resource by its name, for example `models/late-arrival`."""
        return self.call("GET", f"/v1/{name}", params=params)

    def post(self, path: str, body: Json | None = None, *, timeout: float | None = None) -> Json:
        """Posts to a route below `/v1/`, for example `endpoints/late-arrival:deploy`."""
        return self.call("POST", f"/v1/{path}", body or {}, timeout=timeout)

    def create(self, collection: str, resource_id: str, resource: Json) -> Json:
        """Creates a resource, for example `create("endpoints", "late-arrival", {...})`."""
        plural = collection.rpartition("/")[2]
        kind = re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", plural.removesuffix("s"))
        return self.call("POST", f"/v1/{collection}", resource, params={f"{kind}_id": resource_id})

    def list(self, path: str, field: str, **params: Any) -> Iterator[Json]:
        """Iterates over all pages of a listing.

        Args:
            path: Route below `/v1/`.
            field: Name of the list in the answer.
            params: Further query parameters.
        """
        token = ""
        while True:
            page = self.call("GET", f"/v1/{path}", params={**params, "page_token": token})
            yield from page.get(field, [])
            token = page.get("next_page_token", "")
            if not token:
                return

    def ingest(self, data_source: str, table: Any, *, timeout: float = 120.0) -> int:
        """Appends a table (Arrow table or pandas frame) to a data source, in parts when large.

        Returns:
            Number of rows appended.
        """
        return sum(
            int(
                self.post(
                    f"dataSources/{data_source}:ingest",
                    {"table": arrow_body(part)},
                    timeout=timeout,
                )["row_count"]
            )
            for part in parts_of(as_arrow(table))
        )

    def push(self, feature_view: str, table: Any, *, online_only: bool = False) -> Json:
        """Pushes new feature values (Arrow table or pandas frame) to a feature view."""
        body = {"table": arrow_body(table), "online_only": online_only}
        path = f"/v1/featureViews/{feature_view}:push"
        # Older values never replace newer ones, so a push to the online store may be repeated.
        return self.call("POST", path, body, keyed=not online_only)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, tuple[str, Sequence[Any]]],
        *,
        event_time: datetime | None = None,
        routing_key: str | None = None,
    ) -> Json:
        """Asks by the Open Inference Protocol (V2).

        Args:
            model: Endpoint.
            inputs: Datatype and values by name, one value a row: `("FP64", [1.0, 2.0])`,
                `("BYTES", ["UA", "DL"])`.
            event_time: When what is predicted about happens; now when absent.
            routing_key: Unit that the traffic split sticks to, in all rows.
        """
        tensors = [
            {"name": name, "datatype": kind, "shape": [len(values)], "data": list(values)}
            for name, (kind, values) in inputs.items()
        ]
        parameters: Json = {}
        if event_time is not None:
            parameters["event_time"] = event_time.isoformat()
        if routing_key is not None:
            parameters["routing_key"] = routing_key
        body: Json = {"inputs": tensors} | ({"parameters": parameters} if parameters else {})
        return self.call("POST", f"/v2/models/{model}/infer", body)

    def predict(
        self,
        endpoint: str,
        instances: Sequence[Mapping[str, Any]],
        *,
        event_times: Sequence[datetime] | None = None,
        return_features: bool = False,
        routing_key: str | None = None,
    ) -> Sequence[Json]:
        """Predicts for instances of entity keys and request-time features.

        Args:
            endpoint: Id of the endpoint.
            instances: One object a row.
            event_times: When the things predicted about happen; now when absent.
            return_features: Whether the inputs come back.
            routing_key: Unit that the traffic split sticks to, in all rows; goes as the header
                `x-routing-key`.

        Returns:
            One prediction an instance: `prediction_id`, `outputs`, `variant`,
            `model_version`, `fallback`, where answers are kept `cached`, and, when asked for,
            `features`.
        """
        body: Json = {"instances": [dict(each) for each in instances]}
        if event_times is not None:
            body["event_times"] = [each.isoformat() for each in event_times]
        if return_features:
            body["return_features"] = True
        path = f"/v1/endpoints/{endpoint}:predict"
        headers = {b"x-routing-key": routing_key.encode()} if routing_key is not None else None
        answer = self.call("POST", path, body, keyed=False, repeatable=False, headers=headers)
        predictions: Sequence[Json] = answer["predictions"]
        return predictions

    def compare_shadows(
        self,
        endpoint: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        threshold: float | None = None,
        tolerance: float | None = None,
    ) -> Json:
        """Holds what shadows scored against what was answered.

        Args:
            endpoint: Id of the endpoint.
            start: Predictions asked for from then on; a day before `end` when absent.
            end: Predictions asked for before then; now when absent.
            threshold: Scores from it on are of the one class; 0.5 when absent.
            tolerance: Greatest difference of scores that count as equal; 1e-6 when absent.

        Returns:
            `comparisons`, one for each shadow and who answered (rows, agreement, differences with
            a 95 % interval, correlations, failures, latencies), the window and whether it was
            `truncated`.
        """
        given = {
            "start_time": start.isoformat() if start else None,
            "end_time": end.isoformat() if end else None,
            "threshold": threshold,
            "tolerance": tolerance,
        }
        params = {name: value for name, value in given.items() if value is not None}
        return self.call("GET", f"/v1/endpoints/{endpoint}:compareShadows", params=params)

    def record_outcomes(self, outcomes: Iterable[tuple[str, float, datetime]]) -> int:
        """Reports what came of predictions.

        Args:
            outcomes: Prediction id, value, and when the value became known.
        """
        listed = [
            {"prediction_id": key, "value": value, "event_time": when.isoformat()}
            for key, value, when in outcomes
        ]
        answer = self.post("outcomes", {"metric": "label", "outcomes": listed})
        return int(answer.get("accepted_count", 0))

    def write_artifact(self, content: bytes, *, timeout: float = 300.0) -> str:
        """Stores content under its hash; gives its name, `artifacts/{sha256}`."""
        digest = hashlib.sha256(content).hexdigest()
        lines = [
            {"chunk": base64.b64encode(content[at : at + CHUNK]).decode()}
            for at in range(0, max(len(content), 1), CHUNK)
        ]
        lines[0]["sha256"] = digest
        body = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        # Writing the same bytes again gives the same artifact.
        stored = self.call("POST", "/v1/artifacts:write", body, timeout=timeout, keyed=False)
        return str(stored["name"])

    def register_model(self, model: str, file: str | Path, sample: Any, **options: Any) -> Json:
        """Registers a model file as a version, converted where that is possible.

        The file and the sample are stored; a conversion makes the file to ONNX and compares both
        on the sample; the version is registered with all files and the report. What no converter
        takes is registered in its own format, and the report says so.

        Args:
            model: Id of the model; created when missing.
            file: The model file; its ending tells its format unless `format` does.
            sample: Rows for the model (Arrow table or pandas frame), a column for each input in the
                model's order. With columns `modelyard.prediction` (what the model says where it was
                trained) and `modelyard.label`, where they are known.
            options: As `client.registering.Registration` has them: `format`, `convert`, `quantize`,
                `tolerance`, `outputs`, `owner`, `version`, ...

        Returns:
            The version.

        Raises:
            ConversionRefused: The converted file answers otherwise, or can't be made at all.
            ProblemError: The registry refuses the version.
        """
        from client.registering import Registration, register

        return register(self, model, Path(file), sample, Registration(**options))

    def wait(self, name: str, *, until: Iterable[str], timeout: float = 600.0) -> Json:
        """Polls a resource until its `state` is one of `until`.

        When an endpoint is ready, the gateway can answer for it, too; of a table that was changed
        since, it may hear a moment later.

        Raises:
            ModelyardError: The time is up.
        """
        wanted = set(until)
        deadline = time.monotonic() + timeout
        while True:
            resource = self.get(name)
            state = resource.get("state")
            if state in wanted and self._in_force(name, state):
                return resource
            if time.monotonic() > deadline:
                late = ", and not yet at the gateway" if state in wanted else ""
                raise ModelyardError(f"{name} is still {state}{late}")
            time.sleep(0.25)

    def _in_force(self, name: str, state: Any) -> bool:
        """Whether the gateway can answer for what is ready, as far as the key may know."""
        kind, _, endpoint = name.partition("/")
        if (kind, state) != ("endpoints", "STATE_READY"):
            return True
        try:
            answer = self._http.get(f"/v2/models/{endpoint}/ready")
        except httpx.TransportError:
            return False
        return answer.status_code not in _NOT_YET


def problem_of(answer: httpx.Response) -> ProblemError:
    """Makes an error of an unsuccessful answer."""
    try:
        body: Any = answer.json()
    except ValueError:
        body = None
    return ProblemError.from_body(answer.status_code, body)


def local_api_key() -> str | None:
    """Reads the admin key of the suite on this machine, if there is one."""
    home = Path(os.environ.get("MODELYARD_HOME", ".modelyard"))
    try:
        return (home / "keys" / "admin.key").read_text().strip()
    except OSError:
        return None
