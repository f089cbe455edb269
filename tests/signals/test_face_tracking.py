"""One face is followed: not another one, through a gap, and not beyond its end."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from affuse.signals.face_detection import FaceBox
from affuse.signals.face_tracking import FaceTrack, track_face_step


@dataclass
class Squares:
    """Finds bright squares; `blind` finds nothing."""

    blind: bool = False
    side: int = 10_000
    face: int = 40
    needs_eyes: bool = False

    def boxes(self, picture: NDArray[np.uint8], smallest: int, largest: int) -> list[FaceBox]:
        if self.blind:
            return []
        _, _, stats, _ = cv2.connectedComponentsWithStats((picture[..., 0] > 128).astype(np.uint8))
        found = [FaceBox(*(float(value) for value in row[:4])) for row in stats[1:]]
        return [box for box in found if smallest <= box.width <= largest and box.height > 0.7 * box.width]


def scene(*squares: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Squares (left, top, side) on a dark ground, each with its own dark mark, so that it looks like itself."""
    frame = np.full((240, 320, 3), 20, np.uint8)
    for left, top, side in squares:
        frame[top : top + side, left : left + side] = 220
        frame[top + side // 4 : top + side // 2, left + side // 4 : left + side // 2] = 140
    return frame


def centres(track: FaceTrack) -> tuple[float, float]:
    assert track.box is not None
    return track.box.centre


def test_the_largest_face_is_taken_and_the_others_are_counted() -> None:
    track = track_face_step(scene((20, 20, 30), (150, 80, 50), (250, 20, 40)), FaceTrack(), Squares())
    assert centres(track) == (175, 105) and track.faces == 3


def test_a_larger_face_that_comes_later_does_not_take_over() -> None:
    track = FaceTrack()
    for step in range(40):
        others = [(200, 60, 90)] if step >= 5 else []
        track = track_face_step(scene((40 + step, 100, 50), *others), track, Squares())
        assert abs(centres(track)[0] - (65 + step)) < 8
    assert track.faces == 2 and track.age == 39  # the other one was noticed


def test_two_faces_that_pass_each_other_are_not_exchanged_by_size() -> None:
    track = FaceTrack()
    for step in range(60):
        track = track_face_step(scene((20 + 3 * step, 20, 50), (220 - 3 * step, 130, 70)), track, Squares())
        assert centres(track)[1] > 150
    assert track.age == 59


def test_a_face_that_is_not_found_holds_while_it_looks_the_same_then_is_given_up() -> None:
    frame, seeing, blind = scene((100, 80, 60)), Squares(), Squares(blind=True)
    track = track_face_step(frame, FaceTrack(), seeing)
    held = []
    for _ in range(5):
        track = track_face_step(frame, track, blind, patience=3)
        held.append(track.box is not None)
    assert held == [True, True, True, False, False] and track == FaceTrack()


def test_a_found_face_has_its_whole_patience_again() -> None:
    frame, track = scene((100, 80, 60)), FaceTrack()
    for blind in (False, True, True, False, True, True):
        track = track_face_step(frame, track, Squares(blind=blind), patience=2)
    assert track.box is not None and track.missed == 2


def test_a_cut_of_the_film_ends_the_face_at_once() -> None:
    track = track_face_step(scene((100, 80, 60)), FaceTrack(), Squares())
    assert track_face_step(scene(), track, Squares(), patience=50) == FaceTrack()
    elsewhere = track_face_step(scene((10, 10, 60)), track, Squares(), patience=50)
    assert centres(elsewhere) == (40, 40) and elsewhere.age == 0  # another face, not the old one that jumped


def test_a_face_of_quite_another_size_in_its_place_is_another_face() -> None:
    track = track_face_step(scene((100, 80, 40)), FaceTrack(), Squares())
    assert track_face_step(scene((70, 50, 100)), track, Squares(), patience=0).age == 0


def test_the_box_trembles_less_than_what_is_found() -> None:
    random = np.random.default_rng(0)
    places = 100 + random.integers(-4, 5, (40, 2))
    track, seen = FaceTrack(), []
    for x, y in places.tolist():
        track = track_face_step(scene((x, y, 60)), track, Squares(), smoothing=0.7)
        seen.append(centres(track))
    assert np.std(np.array(seen[5:]), 0).max() < 0.6 * places[5:].std(0).min()
    assert np.allclose(np.mean(seen[5:], 0), places[5:].mean(0) + 30, atol=1.5)
