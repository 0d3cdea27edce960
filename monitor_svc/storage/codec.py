"""Domain objects as bytes and JSON for the tables; no pickle."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import orjson

from monitor_svc.domain.judging import Finding
from monitor_svc.domain.monitors import DetectorSpec, Following, Monitor, Policy, Response, Severity
from monitor_svc.domain.performance import QualitySketch
from monitor_svc.domain.profiles import CategoricalProfile, NumericProfile, Profile, Reference
from monitor_svc.domain.sketches import CategoricalSketch, Ints, NumericSketch, Sketch

_VERSION = 1
_MICROSECOND = timedelta(microseconds=1)
_FAST = 1


def _pack(document: object) -> bytes:
    payload = orjson.dumps(
        {"v": _VERSION, "d": document},
        option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS,
    )
    return zlib.compress(payload, _FAST)


def _unpack(content: bytes) -> Any:
    document = orjson.loads(zlib.decompress(content))
    if document["v"] != _VERSION:
        raise ValueError("the content was written by another release")
    return document["d"]


def _ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sketch_out(sketch: Sketch) -> dict[str, object]:
    if isinstance(sketch, NumericSketch):
        moments = [sketch.mean, sketch.m2, _finite(sketch.minimum), _finite(sketch.maximum)]
        return {"c": sketch.cells, "n": sketch.missing, "m": moments}
    return {"c": sketch.cells, "n": sketch.missing, "new": dict(sketch.new)}


def _sketch_in(data: Any) -> Sketch:
    if "new" in data:
        return CategoricalSketch(_ints(data["c"]), data["n"], data["new"])
    mean, m2, least, greatest = data["m"]
    return NumericSketch(
        _ints(data["c"]), data["n"], mean, m2,
        math.inf if least is None else least, -math.inf if greatest is None else greatest,
    )  # fmt: skip


def dump_sketches(sketches: Mapping[str, Sketch]) -> bytes:
    """Sketches by feature."""
    return _pack({name: _sketch_out(sketch) for name, sketch in sketches.items()})


def load_sketches(content: bytes) -> dict[str, Sketch]:
    """The inverse of :func:`dump_sketches`."""
    return {name: _sketch_in(data) for name, data in _unpack(content).items()}


def dump_reference(reference: Reference) -> bytes:
    """A reference with its blocks."""
    return _pack(
        {
            "rows": reference.row_count,
            "profiles": {name: _profile_out(p) for name, p in reference.profiles.items()},
            "blocks": [
                {name: _sketch_out(sketch) for name, sketch in block.items()}
                for block in reference.blocks
            ],
        }
    )


def load_reference(content: bytes) -> Reference:
    """The inverse of :func:`dump_reference`."""
    data = _unpack(content)
    blocks = ({n: _sketch_in(s) for n, s in block.items()} for block in data["blocks"])
    profiles = {name: _profile_in(profile) for name, profile in data["profiles"].items()}
    return Reference(profiles, data["rows"], tuple(blocks))


def _profile_out(profile: Profile) -> dict[str, object]:
    if isinstance(profile, NumericProfile):
        return {"edges": profile.edges, "sketch": _sketch_out(profile.sketch)}
    return {
        "categories": profile.categories,
        "rare": profile.rare,
        "sketch": _sketch_out(profile.sketch),
    }


def _profile_in(data: Any) -> Profile:
    sketch = _sketch_in(data["sketch"])
    if isinstance(sketch, NumericSketch):
        return NumericProfile(np.array(data["edges"], dtype=np.float64), sketch)
    return CategoricalProfile(tuple(data["categories"]), tuple(data["rare"]), sketch)


def dump_quality(sketch: QualitySketch) -> bytes:
    """A quality sketch; only cells with something in them are written."""
    used = np.flatnonzero((sketch.positives != 0) | (sketch.negatives != 0))
    return _pack(
        [
            [sketch.rows, sketch.labelled, sketch.binary],
            used,
            sketch.positives[used],
            sketch.negatives[used],
            sketch.score_sums[used],
            sketch.sums,
            len(sketch.positives),
        ]
    )


def load_quality(content: bytes) -> QualitySketch:
    """The inverse of :func:`dump_quality`."""
    (rows, labelled, binary), used, positives, negatives, scores, sums, cells = _unpack(content)
    where = _ints(used)
    arrays = np.zeros((2, cells), dtype=np.int64)
    arrays[0, where], arrays[1, where] = positives, negatives
    score_sums = np.zeros(cells)
    score_sums[where] = scores
    return QualitySketch(
        rows, labelled, binary, arrays[0], arrays[1], np.array(sums, dtype=np.float64), score_sums
    )


def policy_out(policy: Policy) -> dict[str, Any]:
    """A policy as JSON."""
    return asdict(policy) | {
        "severity": int(policy.severity),
        "response": policy.response.value,
        "sink_config": dict(policy.sink_config),
        "cooldown": policy.cooldown // _MICROSECOND,
        "budget_period": policy.budget_period // _MICROSECOND,
    }


def policy_in(data: Mapping[str, Any]) -> Policy:
    """The inverse of :func:`policy_out`."""
    values = dict(data)
    values["severity"] = Severity(values["severity"])
    values["response"] = Response(values["response"])
    values["cooldown"] = values["cooldown"] * _MICROSECOND
    values["budget_period"] = values["budget_period"] * _MICROSECOND
    return Policy(**values)


def settings_out(monitor: Monitor) -> dict[str, Any]:
    """What a person sets of a monitor, as JSON."""
    return {
        "reference_training_set": monitor.reference_training_set,
        "features": list(monitor.features),
        "detectors": [
            {"detector": d.detector, "config": dict(d.config), "features": list(d.features)}
            for d in monitor.detectors
        ],
        "window": monitor.window // _MICROSECOND,
        "allowed_lateness": monitor.allowed_lateness // _MICROSECOND,
        "min_rows": monitor.min_rows,
        "policies": [policy_out(policy) for policy in monitor.policies],
        "false_alarm_rate": monitor.false_alarm_rate,
        "persistence": monitor.persistence,
        "persistence_of": monitor.persistence_of,
        "follow_champion": monitor.follow_champion,
    }


def settings_in(data: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`settings_out`: arguments of `Monitor`."""
    return dict(data) | {
        "features": tuple(data["features"]),
        "detectors": tuple(
            DetectorSpec(d["detector"], d["config"], tuple(d["features"]))
            for d in data["detectors"]
        ),
        "window": data["window"] * _MICROSECOND,
        "allowed_lateness": data["allowed_lateness"] * _MICROSECOND,
        "policies": tuple(policy_in(policy) for policy in data["policies"]),
    }


def following_out(following: Following | None) -> dict[str, Any] | None:
    """A version to be followed as JSON, without when it is due, which is a column."""
    if following is None:
        return None
    names = ("version", "attempts", "reason")
    return {name: getattr(following, name) for name in names}


def following_in(data: Mapping[str, Any] | None, due: datetime | None) -> Following | None:
    """The inverse of :func:`following_out`."""
    return None if data is None else Following(due=due, **data)


def finding_out(finding: Finding) -> dict[str, Any]:
    """A finding as JSON; NaN becomes null."""
    data = asdict(finding)
    return {k: _finite(v) if isinstance(v, float) else v for k, v in data.items()}


def finding_in(data: Mapping[str, Any]) -> Finding:
    """The inverse of :func:`finding_out`."""
    values = dict(data)
    for name in ("score", "threshold"):
        values[name] = math.nan if values[name] is None else values[name]
    return Finding(**values)
