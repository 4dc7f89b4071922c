"""A simulated world: users, items and what makes a user want an item.

Every user and every item has a few latent factors. A user's wish for an item is the sum of a shared part, which is the
same function of the factors for everybody, and a segment's own part: a taste for factors that its users share, and a
rotation of each user's factors before they meet the item's. No single function of the factors fits all segments, which
is what conditional composition is for. Content (category, tags, a content vector) is made from the item's factors, so
that vectors known beforehand foretell preference, which is what a pre-trained tower is for.

The latent-factor form follows Koren et al., "Matrix Factorization Techniques for Recommender Systems" (2009), with one
bilinear form per segment added; popularity follows Zipf's law with exponent 1.
"""

import datetime
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import UsageError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

SEGMENTS = ("students", "commuters", "families", "collectors")
"""Segments of the default world and of `data/schemas/simulated.yaml`, from the largest to the smallest."""

FACTORS = 8
CATEGORIES, ARCHETYPES, TAGS, MOST_TAGS = 12, 24, 48, 4
CONTENT_WIDTH = 32
_BASE_LOGIT = -1.2  # about two clicks in five impressions, as popular items are better than others
_QUALITY_STRENGTH, _PRICE_STRENGTH, _DISCOUNT_STRENGTH, _SEGMENT_BIAS = 0.35, 0.3, 0.3, 0.2
_COLD_FROM = 0.6  # cold users and items appear only after this share of the days


@dataclass(frozen=True)
class World:
    """What is simulated. Strengths are standard deviations of the logit that an effect accounts for.

    Equal `world_seed` (and users, items, days, segments) is the same world: the same people, goods and tastes. Another
    `seed` draws other rows in it; another `world_seed` is another world, with nothing in common but its size.

    Attributes:
        rows: impressions in all, spread evenly over the days.
        days: UTC days from `start`. The last tenth is the test split, the tenth before it validation.
        shared_strength: the part of a preference that is one function for all segments.
        segment_strength: the part that each segment has for itself; 0 makes all segments alike.
        personal_share: of that part's variance: what the segment makes of each user's own factors. The rest is a taste
            that its users share, which is known of a user without a past too.
        drift: by how many quarter turns the segments' tastes turn from the first to the last day.
        cold_share: of the users, and of the items, that appear only in the last four tenths of the days.
        content_noise: standard deviation of the noise in content vectors, where the signal's is 1.
        start: the first day, as YYYY-MM-DD.

    >>> world = World(rows=1000, users=50, items=20, days=10, seed=0, world_seed=0)
    >>> world.split_of_day(7), world.split_of_day(8), world.split_of_day(9)
    ('train', 'validation', 'test')
    """

    rows: int
    users: int
    items: int
    days: int
    seed: int
    world_seed: int
    segments: tuple[str, ...] = SEGMENTS
    shared_strength: float = 0.6
    segment_strength: float = 1.0
    personal_share: float = 0.5
    drift: float = 0.3
    cold_share: float = 0.15
    content_noise: float = 0.5
    start: str = "2025-01-01"

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("users", 1), ("items", 1), ("days", 3), ("seed", 0), ("world_seed", 0)):
            if (found := getattr(self, name)) < least:
                raise UsageError(f"Simulated world: {name} is {found}; expected at least {least}.")
        for name in ("shared_strength", "segment_strength", "drift", "content_noise"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise UsageError(f"Simulated world: {name} is {value}; expected a finite number from 0 up.")
        if not 0 <= self.personal_share <= 1:
            raise UsageError(f"Simulated world: personal_share is {self.personal_share}; expected from 0 to 1.")
        if not 0 <= self.cold_share < 1:
            raise UsageError(f"Simulated world: cold_share is {self.cold_share}; expected from 0 to below 1.")
        if not self.segments or len(set(self.segments)) < len(self.segments):
            raise UsageError(f"Simulated world: segments are {list(self.segments)}; expected at least one, none twice.")
        try:
            datetime.date.fromisoformat(self.start)
        except ValueError as error:
            raise UsageError(f"Simulated world: start is {self.start!r}; expected a date as YYYY-MM-DD.") from error

    def split_of_day(self, day: int) -> str:
        """The split of the day with that number, counted from 0."""
        part = max(1, self.days // 10)
        if day < self.days - 2 * part:
            return "train"
        return "validation" if day < self.days - part else "test"

    def date_of_day(self, day: int) -> datetime.date:
        """The UTC date of the day with that number, counted from 0."""
        return datetime.date.fromisoformat(self.start) + datetime.timedelta(days=day)

    def to_document(self) -> dict[str, Any]:
        """Return plain values that `from_document` reads back."""
        return {**asdict(self), "segments": list(self.segments)}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "World":
        """Read what `to_document` wrote; TypeError for an unknown or missing key."""
        return cls(**{**document, "segments": tuple(document["segments"])})


class People:
    """Users and items of a world, drawn from `world_seed` alone. U users, I items, S segments, D factors.

    Attributes:
        user_segment: (U,) position in `world.segments`; user_arrival: (U,) first day; user_weight: (U,) activity.
        user_factors: (U, D); item_factors: (I, D); each factor has mean 0 and variance 1.
        item_category: (I,) in [0, CATEGORIES); item_tags: (I, MOST_TAGS), the first `item_tag_count` of a row hold.
        item_price: (I,) in euro; item_weight: (I,) popularity; item_arrival: (I,) first day.
        content: (I, CONTENT_WIDTH), the item's factors seen through a random lens, with noise, at unit length.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._draw_users(np.random.default_rng([world.world_seed, 1]))
        self._draw_items(np.random.default_rng([world.world_seed, 2]))
        self._draw_tastes(np.random.default_rng([world.world_seed, 3]))

    def _draw_users(self, generator: np.random.Generator) -> None:
        count, segments = self._world.users, len(self._world.segments)
        shares = np.arange(segments + 1, 1, -1, dtype=np.float64)  # four segments: 5, 4, 3 and 2 parts in 14
        self.user_segment = generator.choice(segments, size=count, p=shares / shares.sum()).astype(np.int64)
        archetypes = _normal(generator, ARCHETYPES, FACTORS)
        chosen = generator.integers(ARCHETYPES, size=count)
        self.user_factors = _blend(archetypes[chosen], _normal(generator, count, FACTORS))
        self.user_weight = np.exp(0.8 * generator.standard_normal(count))
        self.user_arrival = _arrivals(generator, count, self._world)

    def _draw_items(self, generator: np.random.Generator) -> None:
        count = self._world.items
        self.item_category = generator.integers(CATEGORIES, size=count)
        centres = _normal(generator, CATEGORIES, FACTORS)
        self.item_factors = _blend(centres[self.item_category], _normal(generator, count, FACTORS))
        rank = generator.permutation(count)
        self.item_weight = 1.0 / (rank + 1.0)
        self.item_arrival = _arrivals(generator, count, self._world)
        # Good items are shown more often, but popularity alone is a poor guide to preference.
        self.item_quality = 0.5 * _standardised(-np.log(rank + 1.0)) + 0.75**0.5 * _normal(generator, count, 1)[:, 0]
        self.item_log_price = _normal(generator, count, 1)[:, 0]
        self.item_price = np.round(np.exp(2.5 + 0.6 * self.item_log_price), 2).astype(np.float32)
        affinity = self.item_factors @ _normal(generator, FACTORS, TAGS) / math.sqrt(FACTORS)
        noisy = affinity + 0.5 * _normal(generator, count, TAGS)
        self.item_tags = np.argsort(-noisy, axis=1)[:, :MOST_TAGS]
        self.item_tag_count = generator.integers(1, MOST_TAGS + 1, size=count)
        lens = _normal(generator, FACTORS, CONTENT_WIDTH) / math.sqrt(FACTORS)
        noise = self._world.content_noise * _normal(generator, count, CONTENT_WIDTH)
        content = self.item_factors @ lens + noise
        self.content: Floats = content / np.linalg.norm(content, axis=1, keepdims=True)

    def _draw_tastes(self, generator: np.random.Generator) -> None:
        world, segments = self._world, len(self._world.segments)
        self._taste_from, self._taste_to = _normal(generator, 2, segments, FACTORS)
        rotations, _ = np.linalg.qr(generator.standard_normal((segments, FACTORS, FACTORS)))
        personal = world.segment_strength * math.sqrt(world.personal_share)
        turned = np.einsum("ud,ude->ue", self.user_factors, rotations[self.user_segment].astype(np.float32))
        preference = world.shared_strength * self.user_factors + personal * turned
        self.user_preference: Floats = preference.astype(np.float32)
        self._taste_strength = world.segment_strength * math.sqrt(1 - world.personal_share)
        # Zero where segments are to be alike: then nothing in a logit depends on the segment.
        size = 1.0 if world.segment_strength else 0.0
        self.segment_bias: Floats = size * _SEGMENT_BIAS * _normal(generator, segments, 1)[:, 0]
        self.price_slope: Floats = _PRICE_STRENGTH * (size * _normal(generator, segments, 1)[:, 0] + size - 1)
        self.discount_slope: Floats = _DISCOUNT_STRENGTH * (1 + size * _normal(generator, segments, 1)[:, 0])
        self._quality_drift: Floats = _normal(generator, world.items, 1)[:, 0]

    def segment_tastes(self, day: int) -> Floats:
        """(S, D): what every segment likes on that day."""
        angle = 0.5 * math.pi * self._world.drift * day / max(1, self._world.days - 1)
        return self._taste_strength * (math.cos(angle) * self._taste_from + math.sin(angle) * self._taste_to)

    def item_base(self, day: int) -> Floats:
        """(I,): the part of the logit that is the item's alone on that day."""
        passed = day / max(1, self._world.days - 1) - 0.5
        quality = self.item_quality + self._world.drift * passed * self._quality_drift
        return (_BASE_LOGIT + _QUALITY_STRENGTH * quality).astype(np.float32)

    def logit(self, day: int, user: Integers, item: Integers, discount: Floats) -> Floats:
        """The true logit of a click, (n,), for n pairs of positions and the discount (0 to 0.5) that is offered."""
        segment = self.user_segment[user]
        wish = self.user_preference[user] + self.segment_tastes(day)[segment]  # (n, D)
        # Divided by the root of D: a product of D pairs of unit variance then has unit variance itself.
        preference = np.einsum("nd,nd->n", wish, self.item_factors[item]) / np.float32(math.sqrt(FACTORS))
        price = self.price_slope[segment] * self.item_log_price[item]
        offer = self.discount_slope[segment] * (discount * 4 - 1)
        return preference + self.item_base(day)[item] + self.segment_bias[segment] + price + offer


def _normal(generator: np.random.Generator, *shape: int) -> Floats:
    return generator.standard_normal(shape, dtype=np.float32)


def _blend(centres: Floats, noise: Floats) -> Floats:
    """Six parts group, four parts individual; variance 1 over many groups."""
    return np.float32(math.sqrt(0.6)) * centres + np.float32(math.sqrt(0.4)) * noise


def _standardised(values: npt.NDArray[np.float64]) -> Floats:
    return ((values - values.mean()) / max(float(values.std()), 1e-9)).astype(np.float32)


def _arrivals(generator: np.random.Generator, count: int, world: World) -> Integers:
    """First days: 0, but for the cold share, which arrives evenly over the late days. One is always there."""
    late = generator.integers(math.ceil(_COLD_FROM * world.days), world.days, size=count)
    arrivals = np.where(generator.random(count) < world.cold_share, late, 0)
    arrivals[0] = 0
    return arrivals
