"""Every picture, drawn from toy studies; what has nothing to draw says why."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

import pytest
import torch
import toys
from reports import HOSTILE, searched

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.report import PICTURES, Picture, plot
from nas.searches import FEATURE_NAMES, features

SCHEDULES = ["8vr 9vr 10vr M 12vr 16vr 20vr C G", "8 8+ s8+ M 4 G C", "8v s16v M s24v s24v M s32 s32 G Cb"]


def test_every_picture_is_drawn_from_a_study_with_a_full_run(finished):
    for name, picture in PICTURES.items():
        chart = picture(finished)
        assert chart is not None, name
        assert chart.name == name
        ET.fromstring(Picture(chart=chart).svg)
        assert chart.alt


def test_the_front_cap_finalists_and_the_run_are_in_the_picture_of_parameters(finished):
    chart = PICTURES["parameters"](finished)
    assert [rule.label for rule in chart.rules] == [f"cap {toys.CAP}"]
    titles = " ".join(series.name for series in chart.series)
    for word in ("brief trial", "front", "finalist", "full run"):
        assert word in titles
    front = next(series for series in chart.series if series.name.startswith("front"))
    heights = [point.y for point in front.points]
    assert heights == sorted(heights)


def test_public_designs_stand_beside_mnist_alone(finished):
    chart = PICTURES["parameters"](finished)
    assert "author" not in " ".join(series.name for series in chart.series)


def test_the_best_so_far_never_falls(finished):
    chart = PICTURES["progress"](finished)
    best = next(series for series in chart.series if series.name == "best so far")
    heights = [point.y for point in best.points]
    assert heights == sorted(heights)
    assert max(trial.value for trial in finished.complete) == heights[-1]


def test_pruned_curves_are_dim(finished):
    chart = PICTURES["curves"](finished)
    by_name = {series.name: series for series in chart.series}
    assert sum(trial.state.name == "PRUNED" for trial in finished.trials) == len(by_name["pruned"].parts)
    assert by_name["pruned"].dim
    assert not by_name["complete"].dim


def test_every_generated_schedule_is_a_bar(finished):
    found, chart = finished, PICTURES["schedules"](finished)
    total = found.counts["generated"] + found.counts["tried again"]
    assert sum(row.values[0] for row in chart.rows) == total
    assert "None is unaccounted for" in chart.note


def test_features_have_a_name_each_and_correlations_within_one(finished):
    assert len(FEATURE_NAMES) == len(features(SCHEDULES[0]))
    chart = PICTURES["features"](finished)
    assert {row.label for row in chart.rows} <= set(FEATURE_NAMES)
    assert all(-1 <= value <= 1 for row in chart.rows for value in row.values)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_memory_alive_at_the_layers_peaks_at_the_peak(schedule):
    architecture = Architecture.parse(schedule)
    assert len(architecture.live_activations) == len(architecture.layers)
    assert max(architecture.live_activations) == architecture.peak_activations


def test_the_layers_add_up_and_mark_the_peak(finished):
    chart, architecture = PICTURES["layers"](finished), finished.architecture
    assert sum(row.values[0] for row in chart.rows) == architecture.num_params
    assert sum(row.values[1] for row in chart.rows) == architecture.macs
    peaks = [row for row in chart.rows if row.marked[2]]
    assert peaks
    assert max(row.values[2] for row in chart.rows) == peaks[0].values[2] == architecture.peak_activations * 4 / 1024


def test_the_confusion_matrix_counts_the_validation_images_that_were_held_out(finished):
    found = finished
    chart = PICTURES["confusion"](found)
    training = toys.synthetic()
    assert sum(map(sum, chart.counts)) == len(training.validation) == found.reason.num_validation
    counts = found.validation.labels.bincount(minlength=4).tolist()
    assert [sum(row) for row in chart.counts] == counts
    wrong = sum(map(sum, chart.counts)) - sum(chart.counts[place][place] for place in range(4))
    assert len(PICTURES["misread"](found).tiles) == min(24, wrong)


def test_seeds_of_the_run_are_drawn_and_its_teacher_is_not(finished):
    chart = PICTURES["seeds"](finished)
    assert len(chart.series[0].parts) == 3
    assert min(point.y for point in chart.series[0].points) == 90.0


def test_a_study_without_much_says_what_is_missing(folder):
    toys.run(toys.Pool(), trials=1, finalists=1)
    for name, cause in {"fidelity": "fewer than two", "features": "fewer than 10", "seeds": "no full run"}.items():
        with pytest.raises(UsageError, match=cause):
            plot(name, "toy")
    with pytest.raises(UsageError, match="no picture 'nothing': one of parameters, "):
        plot("nothing", "toy")


def test_images_of_another_data_set_are_not_drawn(finished):
    other = dataclasses.replace(finished, reason=dataclasses.replace(finished.reason, data_hash="another"))
    assert "not those" in other.validation
    assert PICTURES["confusion"](other) is None
    assert PICTURES["augmented"](other) is None


def test_the_threads_of_the_caller_are_as_before(finished):
    before = torch.get_num_threads()
    assert not isinstance(dataclasses.replace(finished).validation, str)
    assert torch.get_num_threads() == before


def test_a_picture_is_saved_and_shown_in_a_notebook(folder, tmp_path):
    searched()
    picture = plot("parameters")  # of the latest study
    assert picture._repr_svg_().startswith("<svg xmlns=")
    for suffix in (".svg", ".html"):
        assert picture.save(tmp_path / f"a{suffix}").read_text(encoding="utf-8").startswith("<")
    with pytest.raises(UsageError, match=r"\.svg, \.png, \.html"):
        picture.save(tmp_path / "a.jpg")


def test_plot_on_the_command_line(folder, tmp_path):
    searched()
    path = tmp_path / "layers.svg"
    code, out, _ = toys.nas("plot", "layers", "--study", "toy", "-o", str(path))
    assert (code, out.strip()) == (0, str(path))
    ET.parse(path)
    code, _, err = toys.nas("plot", HOSTILE.replace("\x00", ""), "-o", str(path))
    assert code == 2
    assert err.startswith("error: no picture")
