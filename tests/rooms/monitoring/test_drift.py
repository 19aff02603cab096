"""How often healthy traffic would alarm, and how often a shift is seen, on real digits. Run with ``-s`` for the figures."""

from collections.abc import Callable

import numpy as np
import pytest

from skyloom.rooms.monitoring.model import Feature, Histogram, Profile, Reduction
from skyloom.rooms.monitoring.rules import SIGNIFICANCE, drift
from tests.rooms.monitoring.digits import Digits, count, digits, numbers

pytestmark = pytest.mark.xdist_group("digits")  # one worker trains the classifier
LIMIT, MIN_ROWS = 0.2, 200
Images = np.ndarray  # [n, 784], 0 to 1


def windows(data: Digits, images: Images, num_windows: int, num_rows: Callable[[], int]) -> list[tuple[Histogram, ...]]:
    """Random windows of some images, each image at most once a window."""
    rng, measured = np.random.default_rng(11), numbers(data.model, images)
    picks = [rng.choice(len(images), num_rows(), replace=False) for _ in range(num_windows)]
    return [tuple(count(f, measured[f.name][pick]) for f in data.profile.features) for pick in picks]


def alarms(data: Digits, seen: list[tuple[Histogram, ...]]) -> int:
    return sum(any(row.drifted for row in drift(data.profile, one, limit=LIMIT, min_rows=MIN_ROWS)) for one in seen)


def noisy(strength: float) -> Callable[[Images], Images]:
    rng = np.random.default_rng(13)
    return lambda images: np.clip(images + rng.normal(0, strength, images.shape), 0, 1)


def test_drift_of_healthy_digits_in_2000_random_windows_never_alarms():
    data, sizes = digits(), np.random.default_rng(17)
    healthy = windows(data, data.unseen[1000:], 2_000, lambda: int(sizes.choice([200, 250, 500, 1_000, 1_500])))
    found = alarms(data, healthy)
    print(f"\nhealthy windows: {found} of {len(healthy)} alarmed; by design at most a share of {SIGNIFICANCE:g}")
    assert found == 0


@pytest.mark.parametrize(
    ("shift", "least"),
    [
        pytest.param(noisy(0.3), 1.0, id="strong noise"),
        pytest.param(noisy(0.1), 0.99, id="light noise"),
        pytest.param(lambda images: 1 - images, 1.0, id="inverted"),
        pytest.param(lambda images: images * 0.5, 1.0, id="dark"),
        pytest.param(lambda images: images * 255, 1.0, id="not scaled"),
        pytest.param(lambda images: np.where(np.arange(784) < 392, 0, images), 1.0, id="upper half covered"),
        pytest.param(lambda images: images.reshape(-1, 28, 28)[:, :, ::-1].reshape(-1, 784), 0.99, id="mirrored"),
    ],
)
def test_drift_of_shifted_digits_in_windows_of_200_rows_is_seen(shift: Callable[[Images], Images], least: float):
    data = digits()
    found = alarms(data, windows(data, shift(data.unseen[1000:]), 200, lambda: MIN_ROWS))
    print(f"\n{found} of 200 windows alarmed")
    assert found >= least * 200


def test_drift_to_another_mix_of_classes_is_seen_in_the_predictions():
    data = digits()
    predicted = data.model.predict(data.unseen)
    seen = windows(data, data.unseen[predicted < 3], 1, lambda: 300)[0]
    rows = {row.name: row for row in drift(data.profile, seen, limit=LIMIT, min_rows=MIN_ROWS)}
    assert rows["predicted class"].drifted
    assert rows["predicted class"].is_output


def test_drift_to_missing_values_is_seen():
    data = digits()
    seen = windows(data, data.unseen[1000:], 1, lambda: 400)[0]
    half_gone = tuple(Histogram(counts=tuple(c // 2 for c in one.counts), missing=200) for one in seen)
    worst = drift(data.profile, half_gone, limit=LIMIT, min_rows=MIN_ROWS)[0]
    assert worst.drifted
    assert worst.missing_share > 0.4


def test_drift_with_too_few_rows_or_another_profile_says_nothing():
    data = digits()
    few = windows(data, 1 - data.unseen, 1, lambda: 199)[0]
    assert not any(row.drifted for row in drift(data.profile, few, limit=LIMIT, min_rows=MIN_ROWS))
    assert drift(data.profile, few[:2], limit=LIMIT, min_rows=MIN_ROWS) == ()
    narrow = (Histogram(counts=(5, 5)), *few[1:])
    assert drift(data.profile, narrow, limit=LIMIT, min_rows=MIN_ROWS) == ()


def test_drift_against_a_profile_of_fitted_rows_alarms_on_healthy_traffic_which_is_why_it_is_made_of_others():
    # A score that is all but certain on rows it was fitted on and less so on others, as large networks give.
    rng = np.random.default_rng(23)
    fitted, unseen = rng.beta(60, 1, 4_000), rng.beta(15, 1, 4_000)
    edges = tuple(np.quantile(fitted, np.linspace(0.05, 0.95, 19)).tolist())
    feature = Feature(name="score", tensor="y", is_output=True, reduction=Reduction.MAXIMUM, edges=edges)
    on_fitted = Profile(features=(feature,), histograms=(count(feature, fitted),))
    on_others = Profile(features=(feature,), histograms=(count(feature, unseen[:2_000]),))
    healthy = (count(feature, unseen[2_000:3_000]),)
    assert drift(on_fitted, healthy, limit=LIMIT, min_rows=MIN_ROWS)[0].drifted
    assert not drift(on_others, healthy, limit=LIMIT, min_rows=MIN_ROWS)[0].drifted
