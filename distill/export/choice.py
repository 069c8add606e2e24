"""Which form is the fastest of those that still say what torch says: every form made, compared and timed in turns."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import SonokitError
from .forms import FP32, INT8_FORMS, Int8Form, quantised
from .graphs import INPUT
from .sources import Source

BATCHES = (1, 16)
GAIN = 1.05  # less than that is the clock's noise: of forms so near each other the first in order is taken
_CALIBRATION_INPUTS = 256
_TIMED_INPUTS = 32
_ALLOWED = {"probability": 0.02, "share": 0.02, "pixels": 0.5}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What is asked of a form, and how it is timed.

    Attributes:
        difference: Greatest change of a clip's prediction from torch's that is allowed, in the source's unit; None: .02 of
            probability, .02 of the greatest feature, half a pixel.
        threads: That ONNX Runtime may use while it is timed.
        rounds: Timed passes of each form and batch, in turns.
    """

    difference: float | None = None
    threads: int = 1
    rounds: int = 15

    def __post_init__(self) -> None:
        if self.threads < 1 or self.rounds < 1 or (self.difference is not None and not self.difference > 0):
            raise SonokitError(
                f"threads and rounds must be 1 or more, the allowed difference above 0; got {self.threads}, {self.rounds}, "
                f"{self.difference}"
            )

    def allowed(self, source: Source) -> float:
        """The greatest difference that is allowed."""
        return _ALLOWED[source.unit] if self.difference is None else self.difference


@dataclass(frozen=True)
class Candidate:
    """A form, measured.

    Attributes:
        form: Its name.
        bytes: Of the file.
        difference: Greatest change of a check clip's prediction from torch's; inf where that is not finite, None where the form
            could not be made.
        faithful: Whether that is within the limit.
        latency_ms: Median by batch, {"1": …, "16": …}; empty where it could not be made.
        fault: Why it could not be made, None where it was.
    """

    form: str
    bytes: int
    difference: float | None
    faithful: bool
    latency_ms: dict[str, float]
    fault: str | None = None
    frame_difference: float | None = None  #: of a single frame's prediction; None where only clips have one

    def row(self) -> dict[str, Any]:
        """For ``export.json``; what is not finite is None there."""
        return {**asdict(self), "difference": finite(self.difference), "frame_difference": finite(self.frame_difference)}


def choose_form(
    model: Any,
    source: Source,
    calibration: Sequence[np.ndarray],
    checks: Sequence[np.ndarray],
    limits: Limits,
    forms: str = "auto",
) -> tuple[Any, Candidate, list[Candidate]]:
    """Make the forms, and take the fastest faithful one; of those within 5 % of it the first, so that a rerun takes the same.

    Args:
        model: In fp32, an onnx.ModelProto.
        source: What it was made of.
        calibration: Clips, letterboxed frames uint8 [T, L, L] each, for the ranges of int8.
        checks: Other clips, by which the forms are compared with torch.
        limits: What is asked.
        forms: "auto" all, "fp32" that alone, "int8" the int8 ones (fp32 is measured beside them).

    Returns:
        The chosen onnx.ModelProto, its figures, and those of all forms.

    Raises:
        SonokitError: No form that may be chosen is faithful.
    """
    if forms not in ("auto", "fp32", "int8"):
        raise SonokitError(f"forms must be auto, fp32 or int8, it is {forms!r}")
    models, faults = {FP32: model}, {}
    batches = _calibration_batches(source, calibration) if forms != "fp32" else []
    for form in INT8_FORMS if forms != "fp32" else ():
        try:
            models[form.name] = _checked(quantised(model, form, batches), limits.threads)
        except Exception as fault:  # the quantiser fails on what it does not know in ways of its own
            faults[form.name] = _reason(fault, form)
    sessions = {name: session_of(made, limits.threads) for name, made in models.items()}
    differences = greatest_differences(source, sessions, checks)
    some = np.concatenate([source.inputs(clip) for clip in checks[:_TIMED_INPUTS]])
    some = some[np.linspace(0, len(some) - 1, min(len(some), _TIMED_INPUTS)).astype(np.int64)]
    latencies = timed(sessions, some, limits.rounds)
    allowed = limits.allowed(source)
    rows = []
    for name, made in models.items():
        clip, frame = differences[name]
        rows.append(Candidate(name, made.ByteSize(), clip, clip <= allowed, latencies[name], frame_difference=frame))
    chosen = fastest(rows, forms, allowed)
    rows += [Candidate(name, 0, None, False, {}, fault) for name, fault in faults.items()]
    return models[chosen.form], chosen, rows


def greatest_differences(
    source: Source, sessions: dict[str, Any], clips: Sequence[np.ndarray]
) -> dict[str, tuple[float, float | None]]:
    """Greatest change from torch's, by session: of a clip's prediction, and of a single frame's where the source says one.

    Args:
        source: What the sessions were made of.
        sessions: Of ONNX Runtime, by name.
        clips: Letterboxed frames uint8 [T, L, L] each, at least one.

    Returns:
        In the source's unit; inf where either side says what is not finite.
    """
    of_clips: dict[str, list[float]] = {name: [] for name in sessions}
    of_frames: dict[str, list[float]] = {name: [] for name in sessions}
    for clip in clips:
        inputs, each = source.inputs(clip), None if source.each is None else source.each(clip)
        expected = source.expected(clip) if each is None else source.pooled(each)
        for name, session in sessions.items():
            found = _first(session, inputs)
            of_clips[name].append(source.difference(expected, source.pooled(found)))
            if each is not None:
                of_frames[name].append(source.difference(each, found))
    return {name: (_greatest(of_clips[name]), _greatest(of_frames[name]) if of_frames[name] else None) for name in sessions}


def finite(value: float | None) -> float | None:
    """The number, None where it is none that JSON can hold."""
    return value if value is not None and np.isfinite(value) else None


def timed(sessions: dict[str, Any], inputs: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each session by batch, in turns, so that a slow moment of the machine meets them all.

    Args:
        sessions: Of ONNX Runtime, by name.
        inputs: Real inputs, uint8 [N, …], repeated where they are too few.
        rounds: Passes that count; two come before.
    """
    times: dict[tuple[str, int], list[float]] = {(name, batch): [] for name in sessions for batch in BATCHES}
    for turn in range(rounds + 2):
        for batch in BATCHES:
            given = np.ascontiguousarray(inputs[np.arange(turn, turn + batch) % len(inputs)])
            for name, session in sessions.items():
                start = time.perf_counter()
                session.run(None, {INPUT: given})
                times[name, batch].append(1000 * (time.perf_counter() - start))
    return {name: {str(b): round(float(np.median(times[name, b][2:])), 4) for b in BATCHES} for name in sessions}


def session_of(model: Any, threads: int) -> Any:
    """ONNX Runtime on a CPU with all of its optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def speed_up(row: Candidate, over: Candidate) -> float:
    """How many times faster a form is than another: the geometric mean over the batches."""
    ratios = [over.latency_ms[str(b)] / row.latency_ms[str(b)] for b in BATCHES]
    return float(np.exp(np.mean(np.log(ratios))))


def fastest(rows: Sequence[Candidate], forms: str, allowed: float) -> Candidate:
    """The fastest faithful form that may be chosen, or the first of ``rows`` that is as fast but for noise; row 0 is fp32."""
    plain = rows[0]
    may = [row for row in rows if row.faithful and (forms != "int8" or row.form != FP32)]
    if not may:
        best = min(rows, key=lambda row: row.difference if row.difference is not None else float("inf"))
        raise SonokitError(
            f"no {'int8 ' if forms == 'int8' else ''}form says what torch says within {allowed:g}; the nearest, "
            f"{best.form}, is off by {best.difference:.3f}: export as --forms auto, or give more calibration clips"
        )
    gains = [speed_up(row, plain) for row in may]
    return next(row for row, gain in zip(may, gains, strict=True) if gain * GAIN >= max(gains))


def _calibration_batches(source: Source, calibration: Sequence[np.ndarray]) -> list[np.ndarray]:
    inputs = np.concatenate([source.inputs(clip) for clip in calibration])
    kept = inputs[np.linspace(0, len(inputs) - 1, min(len(inputs), _CALIBRATION_INPUTS)).astype(np.int64)]
    whole = [kept[start : start + 16] for start in range(0, len(kept), 16)]
    return [batch for batch in whole if len(batch) == len(whole[0])]  # histograms are stacked, and want one shape


def _greatest(values: Sequence[float]) -> float:
    greatest = float(np.max(values))  # a nan among them stays, which Python's max may drop
    return greatest if np.isfinite(greatest) else float("inf")


def _checked(model: Any, threads: int) -> Any:
    session_of(model, threads)
    return model


def _first(session: Any, inputs: np.ndarray) -> np.ndarray:
    return np.asarray(session.run([session.get_outputs()[0].name], {INPUT: np.ascontiguousarray(inputs)})[0])


def _reason(fault: Exception, form: Int8Form) -> str:
    reason = (str(fault).strip() or type(fault).__name__).splitlines()[0][:200]
    _log.debug("%s could not be made: %s", form.name, reason)
    return reason
