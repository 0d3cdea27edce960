"""The SDK: a thin, typed layer over the gateway's REST routes."""

from __future__ import annotations

import base64
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from client.errors import ModelyardError, ProblemError

Json = dict[str, Any]

RETRIED = frozenset({502, 503, 504})
ATTEMPTS = 4


class Client:
    """Talks to a suite through its gateway.

    Every mutating call carries an idempotency key, so that a call repeated after a broken
    connection has its effect once.

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
        body: Json | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Json:
        """Calls a route and returns the answer's JSON.

        Raises:
            ProblemError: The gateway refused the call.
            ModelyardError: The gateway could not be reached.
        """
        headers = {} if method == "GET" else {"idempotency-key": str(uuid.uuid4())}
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                answer = self._http.request(
                    method,
                    path,
                    json=body,
                    params=params,
                    headers=headers,
                    timeout=timeout or self._http.timeout,
                )
            except httpx.TransportError as error:
                if last:
                    raise ModelyardError(
                        f"no answer from {self.url}: is the suite up (`modelyard up`)?"
                    ) from error
            else:
                if answer.is_success:
                    return answer.json() if answer.content else {}
                if answer.status_code not in RETRIED or last:
                    raise problem_of(answer)
            time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def get(self, name: str, **params: Any) -> Json:
        """Gets a resource by its name, for example `models/late-arrival`."""
        return self.call("GET", f"/v1/{name}", params=params)

    def post(self, path: str, body: Json | None = None, *, timeout: float | None = None) -> Json:
        """Posts to a route below `/v1/`, for example `endpoints/late-arrival:deploy`."""
        return self.call("POST", f"/v1/{path}", body or {}, timeout=timeout)

    def create(self, collection: str, resource_id: str, resource: Json) -> Json:
        """Creates a resource, for example `create("endpoints", "late-arrival", {...})`."""
        kind = collection.rpartition("/")[2].removesuffix("s")
        return self.call(
            "POST", f"/v1/{collection}", resource, params={f"{kind}_id": resource_id}
        )

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

    def ingest(self, data_source: str, table: Any, *, request_id: str = "") -> Json:
        """Appends a table (Arrow table or pandas frame) to a data source."""
        body = {"table": arrow_body(table), "request_id": request_id}
        return self.post(f"dataSources/{data_source}:ingest", body)

    def push(self, feature_view: str, table: Any, *, online_only: bool = False) -> Json:
        """Pushes new feature values (Arrow table or pandas frame) to a feature view."""
        body = {"table": arrow_body(table), "online_only": online_only}
        return self.post(f"featureViews/{feature_view}:push", body)

    def predict(
        self,
        endpoint: str,
        instances: Sequence[Mapping[str, Any]],
        *,
        event_times: Sequence[datetime] | None = None,
        return_features: bool = False,
    ) -> Sequence[Json]:
        """Predicts for instances of entity keys and request-time features.

        Returns:
            One prediction an instance: `prediction_id`, `outputs`, `variant`,
            `model_version`, `fallback` and, when asked for, `features`.
        """
        body: Json = {"instances": [dict(each) for each in instances]}
        if event_times is not None:
            body["event_times"] = [each.isoformat() for each in event_times]
        if return_features:
            body["return_features"] = True
        answer: Sequence[Json] = self.post(f"endpoints/{endpoint}:predict", body)["predictions"]
        return answer

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

    def wait(self, name: str, *, until: Iterable[str], timeout: float = 600.0) -> Json:
        """Polls a resource until its `state` is one of `until`.

        Raises:
            ModelyardError: The time is up.
        """
        wanted = set(until)
        deadline = time.monotonic() + timeout
        while True:
            resource = self.get(name)
            if resource.get("state") in wanted:
                return resource
            if time.monotonic() > deadline:
                raise ModelyardError(f"{name} is still {resource.get('state')}")
            time.sleep(0.25)


def problem_of(answer: httpx.Response) -> ProblemError:
    """Makes an error of an unsuccessful answer."""
    try:
        body: Any = answer.json()
    except ValueError:
        body = None
    return ProblemError.from_body(answer.status_code, body)


def arrow_body(table: Any) -> Json:
    """Encodes an Arrow table or a pandas frame as the contract's `Table`."""
    import pyarrow as pa

    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return {"arrow_ipc": base64.b64encode(sink.getvalue()).decode()}


def local_api_key() -> str | None:
    """Reads the admin key of the suite on this machine, if there is one."""
    home = Path(os.environ.get("MODELYARD_HOME", ".modelyard"))
    try:
        return (home / "keys" / "admin.key").read_text().strip()
    except OSError:
        return None
