"""Tables of single records and of the controls."""

from __future__ import annotations

import csv
import io

import pytest

from harness.errors import ConfigError
from harness.interfaces.specs import MetricSpec, MetricValue
from harness.report.record_tables import controls_table, outcomes_table, records_table
from harness.results.frontier import Window

FVU = MetricSpec(name="fvu", better="lower", formula="a")
RATIO = MetricSpec(name="ratio", better="none", formula="b")
MSE = MetricSpec(name="mse", better="lower", formula="c", compared=False, version=3)
L0 = MetricSpec(name="l0", better="none", formula="d", compared=False)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_is_a_level_with_its_mean_over_seeds(factory):
    values = {(0, 8): 0.3, (1, 8): 0.1, (2, 8): 0.2, (0, 16): 0.1, (1, 16): 0.1, (2, 16): 0.1}
    records = [factory.make_record(seed=s, target_l0=k, values={"fvu": v}) for (s, k), v in values.items()]
    first, second = rows_of(records_table(records, [FVU], "csv"))
    assert (first["method"], first["target L0"], first["seeds"]) == ("topk", "8", "3")
    assert first["fvu"].startswith("0.20")
    assert "±" in first["fvu"]
    assert first["l0"].startswith("8")
    assert second["target L0"] == "16"
    assert first["training s"] == "20.0"


def test_one_seed_has_no_interval_and_a_missing_metric_is_a_dash(factory):
    records = [
        factory.make_record(seed=0, target_l0=8, values={"fvu": 0.25}),
        factory.make_record(seed=0, target_l0=16),
    ]
    first, second = rows_of(records_table(records, [FVU], "csv"))
    assert (first["fvu"], second["fvu"]) == ("0.25", "-")


def test_only_compared_metrics_with_a_direction_are_shown_unless_chosen(factory):
    records = [factory.make_record(values={"fvu": 0.2, "ratio": 1.0, "mse": 3.0})]
    assert {"fvu"} == set(rows_of(records_table(records, [FVU, RATIO, MSE], "csv"))[0]) & {"fvu", "ratio", "mse"}
    chosen = rows_of(records_table(records, [RATIO, MSE], "csv", chosen=True))[0]
    assert (chosen["ratio"], chosen["mse"]) == ("1", "3")


def test_how_many_seeds_reached_their_target_is_shown_where_it_can_be_missed(factory):
    records = [factory.make_record(seed=s, l0_reached=s > 0) for s in range(3)]
    assert rows_of(records_table(records, [FVU], "csv"))[0]["reached"] == "2 of 3"
    assert rows_of(records_table([factory.make_record()], [FVU], "csv"))[0]["reached"] == "-"


def test_presets_and_methods_have_their_own_rows_and_no_target_is_a_dash(factory):
    records = [
        factory.make_record(),
        factory.make_record(preset="abs"),
        factory.make_record("identity", target_l0=None),
    ]
    rows = rows_of(records_table(records, [FVU], "csv"))
    assert [(r["method"], r["target L0"]) for r in rows] == [("topk", "32"), ("topk@abs", "32"), ("identity", "-")]


def test_saes_that_are_worse_than_none_are_named_below_the_table(factory):
    records = [factory.make_record(seed=s, target_l0=8, values={"fvu": v}) for s, v in ((0, 2e10), (1, 0.5), (2, 1.5))]
    labels = {record.key: "topk lr=5" for record in records}
    note = records_table(records, [FVU], labels=labels).split("\n\n")[1]
    assert note == "Worse than predicting the mean: topk lr=5 at L0 8 (fvu 2e+10 of seed 0, 1.5 of seed 2)."
    assert "Worse" not in records_table(records[1:2], [FVU])
    assert "Worse" not in records_table(records, [FVU], "csv")


def test_a_table_that_is_too_wide_goes_on_below_itself(factory):
    specs = [MetricSpec(name=f"metric_of_a_long_name_{n}", better="lower", formula="a") for n in range(9)]
    records = [factory.make_record(target_l0=k, values={s.name: 0.5 for s in specs}) for k in (8, 16)]
    table = records_table(records, specs)
    assert max(map(len, table.splitlines())) <= 120
    blocks = [block.splitlines() for block in table.split("\n\n")]
    assert len(blocks) > 1
    assert all([row.split()[:2] for row in rows] == [["topk", "8"], ["topk", "16"]] for _, *rows in blocks)
    shown = [word for head, *_ in blocks for word in head.split()]
    assert [word for word in shown if word.startswith("metric")] == [s.name for s in specs]
    assert len(records_table(records, specs, "md").split("\n\n")) == 1


def test_what_n_counts_is_named():
    values = {"mse": MetricValue(value=0.1, n=24)}
    [row] = rows_of(outcomes_table(values, [MSE], "csv", units={"mse": "documents"}))
    assert (row["n"], row["of"]) == ("24", "documents")


def test_outcomes_show_value_error_units_and_version():
    values = {"mse": MetricValue(value=0.1234567, n=24, stderr=0.00123), "ratio": MetricValue(value=2.0, n=5)}
    first, second = rows_of(outcomes_table(values, [RATIO, MSE, FVU], "csv"))
    assert first == {
        "metric": "ratio",
        "value": "2",
        "stderr": "-",
        "n": "5",
        "of": "-",
        "better": "-",
        "version": "v1",
    }
    assert second["value"] == "0.12346"
    assert (second["stderr"], second["n"], second["better"], second["version"]) == ("0.0012", "24", "lower", "v3")


def test_controls_have_a_column_each_at_their_l0(factory):
    def side(method: str, value: float, control: bool = True, **changes):
        return factory.make_side(method, lambda seed, l0: value + 0.01 * seed, control=control, **changes)

    identity = [
        factory.make_record("identity", seed=s, target_l0=None, values={"l0": 192.0, "fvu": 0.0}, control=True)
        for s in range(3)
    ]
    table = controls_table(
        Window(16.0, 32.0),
        {"random": side("random", 0.9), "identity": identity},
        [L0, FVU, RATIO],
        "csv",
    )
    [row] = rows_of(table)
    headers = list(row)
    assert row["control"] == "fvu"
    assert "random (L0 16–32)" in headers
    assert "identity (L0 192)" in headers
    assert row["identity (L0 192)"].startswith("0")
    assert next(v for k, v in row.items() if k.startswith("random")).startswith("0.91")


def test_an_unknown_format_is_refused(factory):
    with pytest.raises(ConfigError, match="table format 'pdf'"):
        records_table([factory.make_record()], [FVU], "pdf")
