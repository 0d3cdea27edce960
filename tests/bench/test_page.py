"""The page says what the results are."""

from __future__ import annotations

from pathlib import Path

from bench.serving import page
from bench.serving.results import Measured, Record, Results


def measured(rps: float) -> Measured:
    return Measured(rps, 1.0, 2.0, 3.0, 100, 0, 50.0, {"gateway": 30.0, "replicas": 20.0}, 5.0)


def results() -> Results:
    ours = Record("modelyard", "Modelyard", "all of it")
    ours.rounds = {"row32": [measured(1000), measured(1200), measured(800)]}
    other = Record("other", "Other", "as it comes", {"other": "1.0"})
    other.rounds = {"row32": [measured(100), None, measured(200)]}
    absent = Record("absent", "Absent", "not at all", problem="can't be installed: no wheel")
    return Results({"cores": "2"}, "2024-05-01", 3, 2.0, [ours, other, absent])


def test_results_come_back_from_their_json() -> None:
    assert Results.from_json(results().to_json()) == results()


def test_ratios_are_taken_round_by_round() -> None:
    text = "\n".join(page.lines(results()))
    assert "| 7.00 (4.00 to 10.00) |" in text
    assert "| Modelyard | 1,000 | 20% | 1.00 | 2.00 | 3.00 | 50 | 0 |" in text
    assert "**Not measured:** can't be installed: no wheel" in text
    assert "CPU µs gateway 30, replicas 20" in text


def test_everything_is_written(tmp_path: Path) -> None:
    page.write(results(), tmp_path)
    written = {each.name for each in tmp_path.iterdir()}
    assert written == {"serving.json", "serving.md", "serving-row32.svg"}
    again = tmp_path / "again"
    page.write(Results.from_json((tmp_path / "serving.json").read_text()), again)
    for name in written:
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()
