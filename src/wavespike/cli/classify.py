"""`wavespike classify WAV... --model NAME`: what was said, with a score; `--stream` for raw PCM on stdin, `--data LIST` for the accuracy on a labelled list."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavespike.cli.common import add_engine, note, progress

if TYPE_CHECKING:
    from wavespike.models.sparch import SpArch

DEFAULT = "radlif-commands-16k"


def add_arguments(parser: Any) -> None:
    parser.add_argument("input", nargs="*", type=str, help="audio files, folders or lists (.txt); any rate, stereo is mixed down")
    parser.add_argument("--model", type=str, default=DEFAULT, help="a classifier's name (wavespike models), a folder with a checkpoint, or a hub id")
    parser.add_argument("--window-s", type=float, default=None, help="answer for every window of so many seconds instead of once a file")
    parser.add_argument("--stream", action="store_true", help="read 16-bit mono PCM at the model's rate from stdin; one line every --every-s and one at the end")
    parser.add_argument("--every-s", type=float, default=0.5, help="seconds between the lines of --stream")
    parser.add_argument("--data", type=str, default=None, help="a labelled list (path<TAB>label<TAB>speaker), or an HDF5 file of spike trains: accuracy with its "
                        "95 % interval, firing rate, energy")
    parser.add_argument("--confusion", type=str, default=None, help="with --data: write the confusion matrix as a picture")
    parser.add_argument("--raster", type=str, default=None, help="write the spikes of the first file as a picture")
    add_engine(parser, int8=False)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Any) -> int:
    from wavespike.errors import UsageError
    from wavespike.hub.load import load
    from wavespike.models.base import Classifier

    if not args.input and not args.stream and args.data is None:
        raise UsageError("expected audio files, --data LIST or --stream, got none; try: wavespike classify speech.wav")
    if args.stream and args.input:
        raise UsageError("expected either files or --stream, got both; drop one")
    if args.window_s is not None and not args.window_s > 0:
        raise UsageError(f"--window-s: expected a time above 0, got {args.window_s:g}")
    if args.confusion is not None and args.data is None:
        raise UsageError("--confusion: expected --data LIST with it, got none; a confusion matrix needs labels")
    if args.raster is not None and not args.input:
        raise UsageError("--raster: expected an audio file with it, got none; it draws the spikes of the first file")
    if not args.every_s > 0:
        raise UsageError(f"--every-s: expected a time above 0, got {args.every_s:g}")
    model = load(args.model, engine=args.engine)
    if not isinstance(model, Classifier):
        raise UsageError(f"{args.model}: expected a classifier, got a {model.kind}; `wavespike models` lists what each model is")
    recogniser: Any = model
    if model.sample_rate == 0 and args.data is None:
        raise UsageError(f"{args.model}: expected a model that takes audio, got one that takes spike trains; judge it with --data FILE.h5")
    if args.stream:
        return _stream(args, recogniser)
    if args.data is not None:
        return _judge(args, recogniser)
    return _files(args, recogniser)


def _answer(model: SpArch, audio: Any) -> tuple[str, float]:
    """Mono samples [1, T] at the model's rate -> label and score in 0..1."""
    import torch

    with torch.inference_mode():
        scores = model.probabilities(model.logits(model.features(audio)))[0]
    best = int(scores.argmax())
    return model.labels[best], float(scores[best])


def _mono(path: Path, rate_hz: int) -> Any:
    import torch

    from wavespike.signal.files import read

    samples, _ = read(path, rate_hz)
    return torch.from_numpy(samples).mean(0, keepdim=True)


def _files(args: Any, model: SpArch) -> int:
    from wavespike.errors import WavespikeError
    from wavespike.signal.files import audio_files

    paths = [p for source in args.input for p in audio_files(source)]
    rows: list[dict[str, Any]] = []
    failed = 0
    with progress("recognition", len(paths)) as advance:
        for number, path in enumerate(paths):
            try:
                audio = _mono(path, model.sample_rate)
            except WavespikeError as error:
                if len(paths) == 1:
                    raise
                note(str(error))
                failed += 1
                continue
            size = audio.shape[1] if args.window_s is None else max(1, round(args.window_s * model.sample_rate))
            for start in range(0, audio.shape[1], size):
                label, score = _answer(model, audio[:, start : start + size])
                row: dict[str, Any] = {"file": str(path), "label": label, "score": round(score, 4)}
                if args.window_s is not None:
                    row["start_s"] = round(start / model.sample_rate, 4)
                rows.append(row)
            if number == 0 and args.raster is not None:
                from wavespike.view.recognition import network_raster

                network_raster(model, audio, args.raster)
            advance(1)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            where = row["file"] if "start_s" not in row else f"{row['file']} {row['start_s']:.2f} s"
            print(f"{where}: {row['label']} ({row['score']:.2f})")
    return 1 if failed else 0


def _stream(args: Any, model: SpArch) -> int:
    import numpy as np
    import torch

    block = max(1, round(args.every_s * model.sample_rate))
    heard = 0
    odd = b""

    def line(logits: Any, **more: Any) -> None:
        scores = model.probabilities(logits)[0]
        best = int(scores.argmax())
        row = {"file": "-", "label": model.labels[best], "score": round(float(scores[best]), 4), "time_s": round(heard / model.sample_rate, 4), **more}
        print(json.dumps(row) if args.json else f"{row['time_s']:.2f} s: {row['label']} ({row['score']:.2f}){' end' if more else ''}", flush=True)

    with model.stream() as session:
        while data := sys.stdin.buffer.read(2 * block - len(odd)):
            data = odd + data
            odd = data[len(data) // 2 * 2 :]
            samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768
            if not len(samples):
                continue
            logits = session.push(torch.from_numpy(samples)[None])
            heard += len(samples)
            if session.steps:
                line(logits)
        if heard == 0:
            from wavespike.errors import AudioError

            raise AudioError("stdin: expected 16-bit mono PCM, got no samples; pipe audio into it")
        line(session.flush(), final=True)
    return 0


def _judge(args: Any, model: SpArch) -> int:
    from wavespike.errors import TrainingError
    from wavespike.metrics.recognition import evaluate
    from wavespike.training.speech_datasets import SpikeFile, label_index, read_list

    source: Any
    if model.sample_rate == 0:
        front: Any = model.config.features
        file = SpikeFile(args.data, front.units, front.bins, front.duration_s)
        if len(file) and int(file.labels.max()) >= len(model.labels):
            raise TrainingError(f"{args.data}: expected labels 0..{len(model.labels) - 1}, got {int(file.labels.max())}; is it the model's data set?")
        targets, source = file.labels.tolist(), (file.item(i)[0] for i in range(len(file)))
    else:
        examples = read_list(args.data)
        targets = label_index(examples, model.labels, args.data, complete=False)
        source = (_mono(e.path, model.sample_rate)[0] for e in examples)
    with progress("recognition", len(targets)) as advance:
        def clips() -> Any:
            for clip in source:
                yield clip
                advance(1)

        report = evaluate(model, clips(), targets)
    if args.confusion is not None:
        from wavespike.view.recognition import confusion_picture

        confusion_picture(report.confusion, model.labels, args.confusion)
    row = report.row(args.model, args.data)
    if args.json:
        print(json.dumps({**row, "labels": list(model.labels), "confusion": report.confusion.tolist()}, indent=2))
    else:
        print(report.text())
    return 0
