"""Watching a face frame by frame: windows lie where the face is, and what is remembered does not grow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affuse import AffuseError
from affuse.face_windows import Windowing, WindowState, window_end, window_sample, window_step
from affuse.signals.face import FaceState
from affuse.signals.face_input import FaceInput
from affuse.stream import FaceStream, StreamState, Watch, answer_step, stream_end, watch
from affuse.types import Batch

SECOND = 1_000_000


def windows_of(frames, windowing):
    state, found = WindowState(), []
    for one in frames:
        windows, state = window_step(one, state, windowing)
        found += windows
    return found + window_end(state, windowing)


def spans(windows):
    return [(window[0].time_us, window[-1].time_us) for window in windows]


@settings(max_examples=60)
@given(
    there=st.lists(st.booleans(), min_size=1, max_size=120),
    fps=st.sampled_from([5.0, 12.5, 30.0]),
    hop_us=st.sampled_from([200_000, 500_000, 1_500_000]),
    gap_us=st.sampled_from([0, 150_000, 600_000]),
)
def test_windows_begin_and_end_with_a_face_and_span_no_long_absence(made, there, fps, hop_us, gap_us):
    windowing = Windowing(window_us=SECOND, hop_us=hop_us, gap_us=gap_us, least_us=100_000)
    frames = [made.seen(time_us, face) for time_us, face in zip(made.at_fps(fps, len(there)), there, strict=True)]
    for window in windows_of(frames, windowing):
        times = [one.time_us for one in window]
        assert times == sorted(set(times)) and times[-1] - times[0] < SECOND + 1
        with_face = [one.time_us for one in window if one.face.image is not None]
        assert (with_face[0], with_face[-1]) == (times[0], times[-1])
        # A face that is gone for longer than the gap ends the stretch, so that no window reaches over it.
        lost = [one.time_us for one in window if one.face.image is None]
        assert all(moment - max(t for t in with_face if t < moment) <= gap_us for moment in lost)


def test_a_long_face_is_covered_from_its_first_frame_to_its_end(made) -> None:
    windowing = Windowing(window_us=SECOND)
    frames = [made.seen(time_us) for time_us in made.at_fps(20, 62)]
    assert spans(windows_of(frames, windowing)) == [
        (start, start + 950_000) for start in (0, 500_000, 1_000_000, 1_500_000, 2_000_000)
    ]
    # What is left behind the last window is answered too, once it is more than a quarter of a window.
    more = [made.seen(time_us) for time_us in made.at_fps(20, 68)]
    assert spans(windows_of(more, windowing))[-1] == (2_400_000, 3_350_000)


def test_a_clip_that_is_shorter_than_a_window_is_one_window(made) -> None:
    frames = [made.seen(time_us) for time_us in made.at_fps(25, 20)]
    assert spans(windows_of(frames, Windowing())) == [(0, 760_000)]


def test_a_face_that_flickers_up_is_not_answered(made) -> None:
    frames = [made.seen(time_us, number in (10, 11)) for number, time_us in enumerate(made.at_fps(25, 60))]
    assert windows_of(frames, Windowing()) == []


def test_a_clock_that_jumps_ends_the_stretch(made) -> None:
    frames = [made.seen(time_us) for time_us in (*made.at_fps(25, 20), *made.at_fps(25, 20, 10**15))]
    assert spans(windows_of(frames, Windowing())) == [(0, 760_000), (10**15, 10**15 + 760_000)]


def test_a_window_whose_chosen_frames_lack_the_face_is_asked_about_those_that_have_it(made) -> None:
    window = tuple(made.seen(time_us, number in (0, 11)) for number, time_us in enumerate(made.at_fps(25, 12)))
    spec = FaceInput(frames=2, size=48)
    assert spec.chosen(12).tolist() == [3, 9]
    sample = window_sample(window, spec)
    assert sample.times_us["face"].tolist() == [0, 440_000] and bool(sample.inputs["face"].isfinite().all())


@pytest.fixture(scope="module")
def by_window(made, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    return watch(made.write_run(tmp_path_factory.mktemp("runs") / "window"), Windowing(window_us=SECOND))


@pytest.fixture(scope="module")
def by_step(made, tmp_path_factory: pytest.TempPathFactory) -> Watch:
    return watch(
        made.write_run(tmp_path_factory.mktemp("runs") / "step", "--system.causal", "true"), Windowing(step_us=0)
    )


def follow(watching, frames):
    state, answers, said = StreamState(FaceState()), [], []
    for one in frames:
        new, state = answer_step(watching, one, state)
        answers += new
        said.append(state.said)
    return answers + stream_end(watching, state), said, state


def test_a_system_that_is_not_causal_answers_over_windows(made, by_window: Watch, by_step: Watch) -> None:
    assert not by_window.by_step and by_step.by_step


def test_answers_step_by_step_equal_the_whole_clip(made, by_step: Watch) -> None:
    frames = [made.seen(time_us, shade=40 + 9 * number) for number, time_us in enumerate(made.at_fps(25, 12))]
    answers, _, _ = follow(by_step, frames)
    spec = FaceInput(frames=12, size=48)
    with torch.no_grad():
        whole = by_step.system(Batch.collate([window_sample(tuple(frames), spec)], by_step.system.modalities))
    assert len(answers) == 12 - 5  # nothing is said of the first fifth of a second
    last = torch.tensor(list(answers[-1]["probabilities"].values()))
    torch.testing.assert_close(last, whole.logits[0].softmax(-1), atol=2e-6, rtol=0)
    for answer, step in zip(answers, whole.aux["steps"][0, 5:], strict=True):
        said = torch.tensor(list(answer["probabilities"].values()))
        torch.testing.assert_close(said, step.softmax(-1), atol=2e-6, rtol=0)


def test_a_face_that_comes_back_after_a_gap_is_a_new_one(made, by_step: Watch) -> None:
    first = [made.seen(time_us, shade=200) for time_us in made.at_fps(25, 12)]
    nobody = [made.seen(time_us, False) for time_us in made.at_fps(25, 20, first[-1].time_us + 40_000)]
    later = [made.seen(time_us, shade=60) for time_us in made.at_fps(25, 12, nobody[-1].time_us + 40_000)]
    answers, said, _ = follow(by_step, [*first, *nobody, *later])
    alone, _, _ = follow(by_step, later)
    assert answers[-1]["probabilities"] == alone[-1]["probabilities"]
    assert said[11] is not None and said[31] is None


def test_nothing_is_said_any_more_when_the_face_is_gone(made, by_window: Watch) -> None:
    frames = [made.seen(time_us, number < 30) for number, time_us in enumerate(made.at_fps(20, 60))]
    answers, said, _ = follow(by_window, frames)
    assert [answer["stop_us"] for answer in answers] == [950_000, 1_450_000]
    assert said[20] is not None and said[-1] is None


@pytest.mark.parametrize("kind", ["window", "step"])
def test_what_is_remembered_does_not_grow(made, kind: str, by_window: Watch, by_step: Watch) -> None:
    watching = {"window": by_window, "step": by_step}[kind]
    state, sizes = StreamState(FaceState()), []
    for time_us in made.at_fps(20, 90):
        _, state = answer_step(watching, made.seen(time_us), state)
        sizes.append(size_of(state))
    assert len(set(sizes[45:])) == 1


def size_of(state) -> int:
    """Numbers held in a state, however it is nested."""
    if isinstance(state, torch.Tensor):
        return state.numel()
    if isinstance(state, np.ndarray):
        return state.size
    if hasattr(state, "__dict__"):
        return sum(map(size_of, vars(state).values()))
    if isinstance(state, dict):
        return sum(map(size_of, state.values()))
    return sum(map(size_of, state)) if isinstance(state, tuple | list) else 1


def test_frames_must_come_in_order(made, by_window: Watch, tmp_path: Path) -> None:
    stream = FaceStream(made.write_run(tmp_path / "run"))
    grey = np.full((80, 80, 3), 128, np.uint8)
    assert stream.push(grey, 5)["status"] == "no face"
    assert stream.push(None, 6)["status"] == "unreadable"
    with pytest.raises(AffuseError, match="order of time"):
        stream.push(grey, 6)
