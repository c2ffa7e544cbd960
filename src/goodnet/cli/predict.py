"""`goodnet predict MODEL IMAGE...`: the label, or N where the image is backdoored."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from goodnet.answers import device_of
from goodnet.cli.exit_codes import DONE
from goodnet.cli.options import add_common, add_input, console_of, load, print_result, specified
from goodnet.data.readers import read_picture
from goodnet.report.tables import predict_table
from goodnet.results import Prediction, PredictResult

HELP = "label pictures; a GoodNet answers N for a backdoored one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    add_input(parser)
    add_common(parser, out=False)


@torch.no_grad()
def run(options: argparse.Namespace) -> int:
    """Label each picture."""
    console = console_of(options)
    model = specified(load(options.model, options), options)
    if not model.specified:
        guess = model.specification.describe()
        console.print(
            f"the file does not say how it wants its input; guessed {guess}"
            ": if that is wrong, so are the answers (see --input-range)"
        )
    predictions = []
    for path in options.images:
        image = read_picture(path, model.specification.size)
        answer = model.network(model.specification.prepare(image).to(device_of(model.network)))
        if model.kind == "goodnet":
            label, scores = answer
        else:
            label, scores = answer.argmax(1), probabilities(answer)
        index = int(label[0])
        backdoored = index == model.classes
        predictions.append(
            Prediction(
                path=str(path),
                label=None if backdoored else index + model.specification.label_offset,
                class_index=index,
                backdoored=backdoored,
                score=round(float(scores[0, index]), 6),
            )
        )
    result = PredictResult(
        str(options.model), asdict(model.specification), model.specified, tuple(predictions)
    )
    print_result(options, result, predict_table(result))
    return DONE


def probabilities(scores: torch.Tensor) -> torch.Tensor:
    """Scores as probabilities; as they are where the network ends in a softmax."""
    sums = scores.sum(1)
    if bool((scores >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return scores
    return scores.softmax(1)
