"""Colours, tables and filters against PIL, whose names and meaning they have."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from kacc import augmentation as aug
from kacc.augmentation import Policy
from kacc.augmentation.apply import augment
from kacc.augmentation.beta import beta_quantile

RNG = np.random.default_rng(5)
# Away from the ends, so that nothing is clipped on the way.
IMAGES = RNG.integers(60, 190, (2, 40, 40, 3)).astype("uint8")


def enhanced(kind, factor):
    return lambda image: getattr(ImageEnhance, kind)(image).enhance(factor)


@pytest.mark.parametrize("engine", ["graph", "host"])
@pytest.mark.parametrize(
    ("transform", "reference", "tolerance"),
    [
        (aug.Brightness((1.2, 1.2)), enhanced("Brightness", 1.2), 1),
        (aug.Contrast((0.6, 0.6)), enhanced("Contrast", 0.6), 1),
        (aug.Saturation((0.4, 0.4)), enhanced("Color", 0.4), 1),
        (aug.Grayscale(1), enhanced("Color", 0), 1),
        (aug.Posterize(3), lambda image: ImageOps.posterize(image, 3), 0),
        (aug.Solarize(0.5), lambda image: ImageOps.solarize(image, 128), 0),
        (aug.Equalize(), ImageOps.equalize, 0),
        (aug.AutoContrast(), ImageOps.autocontrast, 1),
        (aug.Sharpness((1.8, 1.8)), enhanced("Sharpness", 1.8), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_equal_to_pil(engine, transform, reference, tolerance):
    result = augment(Policy([transform]), (1, 2, 3), {"images": IMAGES}, engine)
    for image, changed in zip(IMAGES, result["images"].numpy(), strict=True):
        expected = np.asarray(reference(Image.fromarray(image))).astype(int)
        inner = slice(1, -1)  # PIL leaves the edge alone where it filters
        difference = np.abs(changed.astype(int) - expected)[inner, inner]
        assert difference.max() <= tolerance
        assert not np.array_equal(changed, image)


@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_the_range_of_values_decides_for_floats(low):
    """An image in another range is changed to the same, in that range."""
    policy = [aug.Contrast(0.5), aug.Brightness(0.2), aug.Hue(0.1), aug.Noise(0.02)]
    floats = IMAGES.astype("float32") / 255 * (1 - low) + low
    one = augment(Policy(policy, value_range=(0, 255)), (1, 2, 3), {"images": IMAGES})
    other = augment(Policy(policy, value_range=(low, 1)), (1, 2, 3), {"images": floats})
    scaled = (other["images"].numpy() - low) / (1 - low) * 255
    assert np.abs(scaled - one["images"].numpy()).max() <= 1.01


def test_hue_turns_colours_and_leaves_grey_and_luminance():
    policy = Policy([aug.Hue((1 / 3, 1 / 3))], value_range=(0, 1))
    pixels = np.array([[0.5, 0.4, 0.4], [0.6, 0.6, 0.6]], "float32")
    result = augment(policy, (1, 2, 3), {"images": pixels[None, None]})["images"]
    turned, grey = result.numpy()[0, 0]
    np.testing.assert_allclose(grey, 0.6, atol=1e-4)
    weights = [0.299, 0.587, 0.114]
    assert turned @ weights == pytest.approx(pixels[0] @ weights, abs=1e-4)
    assert turned.argmax() != 0


@pytest.mark.parametrize("engine", ["graph", "host"])
def test_blur_keeps_the_mean_and_has_its_deviation(engine):
    image = np.zeros((1, 33, 33, 1), "float32")
    image[0, 16, 16] = 1000
    policy = Policy([aug.Blur((1.5, 1.5))], value_range=(0, 1000))
    result = augment(policy, (1, 2, 3), {"images": image}, engine)["images"].numpy()
    weights = result[0, :, :, 0].sum(0) / 1000
    assert weights.sum() == pytest.approx(1, abs=1e-4)
    distance = np.arange(33) - 16
    assert np.sqrt((weights * distance**2).sum()) == pytest.approx(1.5, abs=0.05)


def test_noise_and_holes():
    images = np.full((64, 20, 20, 3), 128, "uint8")
    policy = Policy([aug.Noise((0.1, 0.1))])
    noisy = augment(policy, (1, 2, 3), {"images": images})["images"].numpy()
    assert np.std(noisy.astype(float)) == pytest.approx(25.5, rel=0.02)
    policy = Policy([aug.Erasing((0.1, 0.3), value=7, probability=1)])
    holes = augment(policy, (1, 2, 3), {"images": images})["images"].numpy()
    shares = np.mean(holes[..., 0] == 7, (1, 2))
    # The sides are whole pixels.
    assert shares.min() > 0.06
    assert shares.max() < 0.36
    assert set(np.unique(holes)) == {7, 128}


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 3.0])
def test_shares_are_of_the_beta_distribution(alpha):
    from scipy import stats

    uniform = np.linspace(0.001, 0.5, 500).astype("float32")
    values = beta_quantile(alpha, tf.constant(uniform)).numpy()
    mirrored = beta_quantile(alpha, tf.constant(1 - uniform)).numpy()
    np.testing.assert_allclose(mirrored, 1 - values, atol=1e-4)
    # Shares, since quantiles of small alphas are crowded at the ends.
    np.testing.assert_allclose(
        stats.beta(alpha, alpha).cdf(values.astype(float)), uniform, atol=2e-3
    )
