"""Transforms of sounds and texts; of one policy they are done in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kacc.augmentation import checks
from kacc.augmentation.checks import Range
from kacc.augmentation.config import Transform
from kacc.core.errors import UsageError


@dataclass(frozen=True)
class TimeShift(Transform):
    """Moves a waveform in time, to later times for positive values.

    It is for waveforms of floats: (batch, time) or (batch, time, channels).

    Args:
        fraction: the farthest way to both sides as a share of the length, or a range.
        wrap: whether what leaves at one end comes in at the other; else silence does.
        probability: the share of waveforms that are moved.

    Example:
        >>> from kacc.augmentation import Policy
        >>> Policy([TimeShift(0.1)]).modality
        'waveform'
    """

    fraction: Range = 0.1
    wrap: bool = False
    probability: float = 1.0
    modality: ClassVar[str] = "waveform"

    def _check(self) -> None:
        limits = {"low": -1, "high": 1}
        self._keep(fraction=checks.interval("`fraction`", self.fraction, **limits))


@dataclass(frozen=True)
class NoiseAtSNR(Transform):
    """Adds white noise, measured by the power of each waveform.

    It is for waveforms of floats: (batch, time) or (batch, time, channels).

    Args:
        snr_db: how much stronger the waveform is than the noise, in decibels of their
            powers: a range, or a number for always the same.
        probability: the share of waveforms with noise.

    Example:
        >>> NoiseAtSNR((10, 30)).snr_db
        (10.0, 30.0)
    """

    snr_db: Range = (10.0, 40.0)
    probability: float = 1.0
    modality: ClassVar[str] = "waveform"

    def _check(self) -> None:
        value = self.snr_db
        ends = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
        self._keep(snr_db=checks.interval("`snr_db`", ends, low=-100, high=200))


@dataclass(frozen=True)
class SpecAugment(Transform):
    """Masks spans of time and of frequency (Park 2019, arXiv:1904.08779).

    It is for spectrograms of floats: (batch, time, frequency) or with one channel more.
    The paper's warp in time, of which it says itself that it matters least, is not
    done. Widths are drawn from 0 on; spans can overlap.

    Args:
        time_masks: spans of time.
        frequency_masks: spans of frequency.
        time_width: the widest span of time: steps, or below 1 a share of all. The
            paper's LD has 2 of 100.
        frequency_width: the widest span of frequency, likewise. The paper's LD has 2 of
            27, of 80 frequencies.
        time_share: no span of time is longer than this share of the spectrogram.
        value: what is put there: 0 where spectrograms are normalized, None for the mean
            of each.
        probability: the share of spectrograms that are masked.

    Example:
        >>> SpecAugment(time_masks=1, time_width=20).frequency_masks
        2
    """

    time_masks: int = 2
    frequency_masks: int = 2
    time_width: float = 0.2
    frequency_width: float = 0.3
    time_share: float = 1.0
    value: float | None = 0.0
    probability: float = 1.0
    modality: ClassVar[str] = "spectrogram"

    def _check(self) -> None:
        for name in ("time_masks", "frequency_masks"):
            self._keep(**{name: checks.whole(f"`{name}`", getattr(self, name), 0, 100)})
        for name in ("time_width", "frequency_width"):
            width = checks.number(f"`{name}`", getattr(self, name), 0)
            if width > 1 and width != int(width):
                raise UsageError(
                    f"`{name}` must be a whole number of steps, or a share below 1",
                    received=width,
                )
            self._keep(**{name: width})
        self._keep(time_share=checks.share("`time_share`", self.time_share))
        if self.value is not None:
            self._keep(value=checks.number("`value`", self.value))


@dataclass(frozen=True)
class TokenDropout(Transform):
    """Replaces tokens of a text at random (word dropout; Iyyer 2015, P15-1162).

    It is for token ids, integers (batch, length).

    Args:
        rate: the share of the tokens that are replaced.
        token: what they become: 0 for padding, or the id of an unknown or masked word.
        keep: ids that are never replaced: padding, begin, end, separators.
        probability: the share of texts in which tokens are replaced.

    Example:
        >>> TokenDropout(0.1, token=103, keep=(0, 101, 102)).modality
        'tokens'
    """

    rate: float = 0.1
    token: int = 0
    keep: Sequence[int] = (0,)
    probability: float = 1.0
    modality: ClassVar[str] = "tokens"

    def _check(self) -> None:
        self._keep(
            rate=checks.share("`rate`", self.rate),
            token=checks.whole("`token`", self.token, 0),
        )
        if not isinstance(self.keep, (tuple, list)):
            raise UsageError(
                "`keep` must be a list of token ids", received=self.keep, fix="Pass [0]"
            )
        self._keep(keep=tuple(checks.whole("`keep`", one, 0) for one in self.keep))
