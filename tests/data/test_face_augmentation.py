import numpy as np
import pytest
import torch

from affuse import AffuseError
from affuse.data.face_augmentation import FORMER_DFER, MIRRORED, FaceAugmentation, augmented

STILL = {
    "flip": 0.0,
    "rotate": 0.0,
    "shift": 0.0,
    "zoom": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "noise_share": 0.0,
    "blur_share": 0.0,
}
SIZE = 64


def face(t: int = 3) -> np.ndarray:
    """Random pictures that vary slowly over the picture, and over time."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.uniform(20, 235, (t, 3, 6, 6)))
    fine = torch.nn.functional.interpolate(coarse, size=SIZE, mode="bicubic").clamp(0, 255)
    return fine.permute(0, 2, 3, 1).byte().numpy()


def dot(x: float, y: float) -> np.ndarray:
    """One picture with a bright spot at x, y in [-1, 1]."""
    places = (np.arange(SIZE) + 0.5) * 2 / SIZE - 1
    spot = np.exp(-((places[None, :] - x) ** 2 + (places[:, None] - y) ** 2) / (2 * 0.06**2))
    return np.repeat((255 * spot).astype(np.uint8)[None, :, :, None], 3, axis=3)


def spot_of(image: np.ndarray) -> np.ndarray:
    places = (np.arange(SIZE) + 0.5) * 2 / SIZE - 1
    weight = image[..., 0].astype(float)
    return np.array([(weight.sum(0) * places).sum(), (weight.sum(1) * places).sum()]) / weight.sum()


def test_nothing_is_changed_where_nothing_is_asked_for() -> None:
    images, landmarks = face(), np.random.default_rng(0).uniform(-1, 1, (3, 68, 2)).astype(np.float32)
    out, moved = augmented(images, landmarks, FaceAugmentation(**STILL))
    assert np.array_equal(out, images) and moved is not None and np.array_equal(moved, landmarks)


@pytest.mark.parametrize("settings", [FaceAugmentation(), FORMER_DFER])
def test_a_seed_repeats_it_and_another_does_not(settings: FaceAugmentation) -> None:
    def once(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        return augmented(face(), None, settings)[0]

    assert np.array_equal(once(1), once(1)) and not np.array_equal(once(1), once(2))


@pytest.mark.parametrize("change", [{"rotate": 20.0}, {"shift": 0.1}, {"zoom": 0.2}, {"min_crop": 0.6}, {"flip": 1.0}])
def test_landmarks_go_where_the_picture_goes(change: dict[str, float]) -> None:
    x, y = 0.24, -0.31
    landmarks = np.full((1, 68, 2), (x, y), np.float32)
    for seed in range(5):
        torch.manual_seed(seed)
        out, moved = augmented(dot(x, y), landmarks, FaceAugmentation(**{**STILL, **change}))
        assert moved is not None and moved[0, 0] == pytest.approx(spot_of(out[0]), abs=0.02)
        assert np.hypot(*(moved[0, 0] - (x, y))) > 1e-4


def test_a_mirror_image_is_exact_and_left_and_right_change_names() -> None:
    images = face()
    landmarks = np.random.default_rng(0).uniform(-1, 1, (3, 68, 2)).astype(np.float32)
    landmarks[1] = np.nan
    out, moved = augmented(images, landmarks, FaceAugmentation(**{**STILL, "flip": 1.0}))
    assert np.array_equal(out, images[:, :, ::-1]) and moved is not None
    assert np.isnan(moved[1]).all()
    left_eye, right_eye = slice(36, 42), slice(42, 48)
    assert moved[0, left_eye, 0].mean() == pytest.approx(-landmarks[0, right_eye, 0].mean())
    assert moved[0, 8] == pytest.approx(landmarks[0, 8] * (-1, 1))  # the chin is its own mirror image
    assert moved[0, 48] == pytest.approx(landmarks[0, 54] * (-1, 1))  # the corners of the mouth
    assert np.array_equal(MIRRORED[MIRRORED], np.arange(68))


def test_all_frames_of_a_clip_change_alike() -> None:
    torch.manual_seed(3)
    out, _ = augmented(np.repeat(face(1), 4, axis=0), None, FaceAugmentation(noise_share=0.0))
    assert all(np.array_equal(frame, out[0]) for frame in out[1:])


def test_hue_and_saturation_keep_the_luma_and_brightness_does_not() -> None:
    images = 64 + face() // 2  # far from black and white, where nothing is cut off
    luma = np.array([0.299, 0.587, 0.114])
    for seed in range(4):
        torch.manual_seed(seed)
        out, _ = augmented(images, None, FaceAugmentation(**{**STILL, "hue": 0.05, "saturation": 0.2}))
        assert np.abs(out.astype(float) - images).max() > 3
        assert (out @ luma) == pytest.approx(images @ luma, abs=1.5)
    torch.manual_seed(0)
    out, _ = augmented(images, None, FaceAugmentation(**{**STILL, "brightness": 0.5}))
    assert abs((out @ luma).mean() - (images @ luma).mean()) > 3


def test_noise_differs_from_frame_to_frame() -> None:
    torch.manual_seed(0)
    still = np.repeat(face(1), 2, axis=0)
    out, _ = augmented(still, None, FaceAugmentation(**{**STILL, "noise": 0.1, "noise_share": 1.0}))
    assert not np.array_equal(out[0], out[1]) and np.abs(out.astype(float) - still).mean() < 20


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"min_crop": 0.0}, {"hue": 0.7}, {"shift": -0.1}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(AffuseError, match="augment"):
        FaceAugmentation(**wrong)
