"""What the example asks of the suite: features, pipeline, endpoint and monitor, as JSON bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from examples.flights.features import MODEL_FEATURES, TABLES, TableSpec

Json = dict[str, Any]

NAME = "late-arrival"
"""Id of the model, its pipeline, its endpoint and its monitor."""
MODEL, PIPELINE, ENDPOINT, MONITOR = (
    f"models/{NAME}",
    f"pipelines/{NAME}",
    f"endpoints/{NAME}",
    f"monitors/{NAME}",
)
FEATURE_SERVICE = "late_arrival"
LABEL_SOURCE = "flights_labelled"
INPUTS_OF_REQUEST = ("hour", "weekday", "distance")
"""Request-time features that the model reads."""
OWNER = "flight-operations"

ENTITIES: Mapping[str, str] = {
    "carrier": "Airline, by its two-letter IATA code.",
    "route": "Origin and destination, by their IATA codes: `JFK-LAX`.",
    "origin": "Airport of departure, by its IATA code.",
    "tailnum": "Aircraft, by its tail number.",
}

VIEWS: Mapping[str, str] = {
    "carrier_delays": "How late the carrier's flights of the last 7 days landed.",
    "route_delays": "How late the route's flights of the last 30 days landed.",
    "origin_delays": "How late the origin's flights of the last hours landed.",
    "origin_weather": "The last public weather report of the origin.",
    "tail_history": "The aircraft's last landing, its age and size.",
}

MEANINGS: Mapping[str, str] = {
    "mean_delay_7d": "Mean arrival delay of the landings of 7 days, minutes; 0 without one.",
    "flights_7d": "Number of landings of 7 days.",
    "late_share_7d": "Share of the landings of 7 days that were over 15 minutes late.",
    "mean_delay_30d": "Mean arrival delay of the landings of 30 days, minutes; 0 without one.",
    "flights_30d": "Number of landings of 30 days.",
    "mean_delay_6h": "Mean arrival delay of the landings of 6 hours, minutes; 0 without one.",
    "flights_6h": "Number of landings of 6 hours.",
    "mean_delay_2h": "Mean arrival delay of the landings of 2 hours, minutes; 0 without one.",
    "temp": "Temperature, °F.",
    "dewp": "Dew point, °F.",
    "humid": "Relative humidity, %.",
    "wind_speed": "Wind, miles per hour.",
    "wind_gust": "Gusts, miles per hour.",
    "precip": "Rain of the last hour, inches.",
    "pressure": "Sea level pressure, mbar.",
    "visib": "Visibility, miles.",
    "last_arrival_delay": "Arrival delay of the last landing, minutes; 0 before the first.",
    "plane_age": "Age in 2013, years.",
    "seats": "Seats.",
    "flight_id": "Carrier, number and hour of departure of the flight.",
    "hour": "Hour of the scheduled departure in New York, 0 to 23.",
    "weekday": "Weekday of the scheduled departure in New York, Monday is 0.",
    "distance": "Distance to the destination, miles.",
    "dest": "Airport of arrival, by its IATA code.",
    "late": "1 when it landed more than 15 minutes late, else 0.",
    "event_timestamp": "When the row became known.",
    "label_timestamp": "When the flight landed.",
}

# Weather reports and aircraft registers have gaps in real life: the model takes NaN there.
OPTIONAL_FEATURES = (*TABLES["origin_weather"].features, *TABLES["tail_history"].features)


@dataclass(frozen=True)
class Pace:
    """How much evidence each decision of the story takes.

    Attributes:
        persistence: Weeks in which a feature must drift before it is alerted; of one week more.
        cooldown: Least event time between two retrainings, and between two notices of a drift.
        budget: Most retrainings in 120 days of event time.
        step_samples: Labelled predictions of each step of a rollout.
        max_samples: Labelled predictions after which an undecided rollout is rolled back.
    """

    persistence: int = 3
    cooldown: timedelta = timedelta(days=28)
    budget: int = 4
    step_samples: int = 300
    max_samples: int = 5_000


def feature_definitions() -> Json:
    """Entities, data sources, feature views and the feature service of the model."""
    return {
        "entities": [
            {
                "name": f"entities/{key}",
                "join_key": key,
                "type": "VALUE_TYPE_STRING",
                "description": text,
            }
            for key, text in ENTITIES.items()
        ],
        "data_sources": [*(_source(spec) for spec in TABLES.values()), _label_source()],
        "feature_views": [_view(spec) for spec in TABLES.values()],
        "feature_services": [
            {
                "name": f"featureServices/{FEATURE_SERVICE}",
                "features": [
                    f"{spec.name}:{feature}"
                    for spec in TABLES.values()
                    for feature in spec.features
                    if feature in MODEL_FEATURES
                ],
                "description": "What is known about a flight when it is due to leave.",
                "owner": OWNER,
            }
        ],
    }


def _source(spec: TableSpec) -> Json:
    return {
        "name": f"dataSources/{spec.name}",
        "fields": [_text(spec.key), *map(_number, spec.features), _instant("event_timestamp")],
        "timestamp_field": "event_timestamp",
        "description": VIEWS[spec.name],
    }


def _label_source() -> Json:
    return {
        "name": f"dataSources/{LABEL_SOURCE}",
        "fields": [
            *map(_text, ("flight_id", *ENTITIES)),
            _instant("event_timestamp"),
            *({**_number(name), "type": "VALUE_TYPE_INT64"} for name in INPUTS_OF_REQUEST),
            _text("dest"),
            {**_number("late"), "type": "VALUE_TYPE_INT64"},
            _instant("label_timestamp"),
        ],
        "timestamp_field": "event_timestamp",
        "description": "Flights that arrived: what was known at departure, and the label.",
    }


def _view(spec: TableSpec) -> Json:
    return {
        "name": f"featureViews/{spec.name}",
        "entities": [f"entities/{spec.key}"],
        "data_source": f"dataSources/{spec.name}",
        "features": [_number(name) for name in spec.features],
        "owner": OWNER,
        "description": VIEWS[spec.name],
        "freshness_sla": "172800s" if spec.name == "route_delays" else "86400s",
    }


def _text(name: str) -> Json:
    meaning = ENTITIES.get(name) or MEANINGS[name]
    return {"name": name, "type": "VALUE_TYPE_STRING", "description": meaning}


def _number(name: str) -> Json:
    kind = "INT64" if name.startswith("flights_") else "DOUBLE"
    return {"name": name, "type": f"VALUE_TYPE_{kind}", "description": MEANINGS[name]}


def _instant(name: str) -> Json:
    return {"name": name, "type": "VALUE_TYPE_TIMESTAMP", "description": MEANINGS[name]}


def strategy(pace: Pace) -> Json:
    """How a version is rolled out: shadow, then 5, 25, 50 and 100 % of the traffic."""
    return {
        "steps": [5, 25, 50, 100],
        "shadow_percent": 100,
        "primary_metric": "brier",
        "step_min_samples": str(pace.step_samples),
        "max_samples": str(pace.max_samples),
        "alpha": 0.05,
        # Everything shares two cores here, so that latencies scatter.
        "max_latency_ratio": 5,
        "timeout": "1800s",
        "interval": "0.5s",
    }


def pipeline(pace: Pace) -> Json:
    """How the model is made: from labelled flights to a rollout."""
    return {
        "description": "Will a flight land more than 15 minutes late?",
        "model": MODEL,
        "data": {
            "label_source": f"dataSources/{LABEL_SOURCE}",
            "label_column": "late",
            "label_time_column": "label_timestamp",
            "feature_service": f"featureServices/{FEATURE_SERVICE}",
            "request_features": list(INPUTS_OF_REQUEST),
            "optional_features": [name for name in OPTIONAL_FEATURES if name in MODEL_FEATURES],
        },
        "checks": [
            {"validator": "row_count", "config": {"min": 10_000}},
            {"validator": "label_ratio", "column": "late", "config": {"min": 0.1, "max": 0.4}},
            {"validator": "null_share", "column": "label_timestamp", "config": {"max": 0}},
            {
                "validator": "value_range",
                "column": "distance",
                "config": {"min": 10, "max": 6000},
            },
            {"validator": "null_share", "column": "mean_delay_6h", "config": {"max": 0}},
            {"validator": "null_share", "column": "temp", "config": {"max": 0.01}},
        ],
        "trainer": {
            "trainer": "lightgbm",
            "config": {
                "num_iterations": 200,
                "num_leaves": 31,
                "learning_rate": 0.05,
                "min_data_in_leaf": 100,
                "feature_fraction": 0.7,
                "lambda_l2": 1.0,
            },
        },
        "evaluation": {
            "primary_metric": "pr_auc",
            "holdout": _seconds(timedelta(days=14)),
            "segments": ["origin"],
            "refit": True,
        },
        "gate": {
            "min_gain": 0.0,
            "max_segment_loss": 0.03,
            "bounds": [{"metric": "model_bytes", "maximum": 16 * 2**20}],
        },
        "release": {"endpoint": ENDPOINT, "strategy": strategy(pace)},
        "seed": "2013",
    }


def endpoint() -> Json:
    """The address that the model is asked at; a flight's delay doesn't depend on who predicts."""
    return {
        "model": MODEL,
        "description": "Chance that a flight lands more than 15 minutes late.",
        "routing_key": "tailnum",
        "outcome_independent": True,
        "deadline": "5s",
    }


def monitor(training_set: str, pace: Pace) -> Json:
    """What is watched: the inputs by week, against what the version that answers learned from."""
    return {
        "endpoint": ENDPOINT,
        "reference_training_set": training_set,
        "follow_champion": True,
        "features": list(MODEL_FEATURES),
        "detectors": [{"detector": "psi"}, {"detector": "ks", "config": {"threshold": 0.2}}],
        "window": _seconds(timedelta(days=7)),
        "min_rows": "200",
        "false_alarm_rate": 0.01,
        "persistence": pace.persistence,
        "persistence_of": pace.persistence + 1,
        "policies": [
            {
                "severity": "SEVERITY_WARNING",
                "response": "RESPONSE_NOTIFY",
                "sink": "log",
                "cooldown": _seconds(pace.cooldown),
            },
            {
                "severity": "SEVERITY_CRITICAL",
                "response": "RESPONSE_EVALUATE",
                "cooldown": _seconds(pace.cooldown),
            },
            {
                "severity": "SEVERITY_CRITICAL",
                "response": "RESPONSE_RETRAIN",
                "pipeline": PIPELINE,
                "cooldown": _seconds(pace.cooldown),
                "budget": pace.budget,
                "budget_period": _seconds(timedelta(days=120)),
            },
        ],
    }


def _seconds(span: timedelta) -> str:
    return f"{int(span.total_seconds())}s"
