"""FT-SAM: fine-tuning towards a flat minimum, which moves the weights a backdoor sits in.

A backdoor's weights are large and hardly move in plain fine-tuning. Adaptive sharpness-aware
minimisation perturbs each weight by its own size, and so reaches them.

Source: Zhu, Wei, Shen, Fan, Wu 2023, Enhancing Fine-Tuning Based Backdoor Defense with
Sharpness-Aware Minimization.
"""

from __future__ import annotations

from goodnet.defenses.fine_tune import fine_tune
from goodnet.training import Augmentation, Sharpness, TrainingSettings

FT_SAM = TrainingSettings(
    epochs=20,
    batch_size=64,
    learning_rate=0.01,
    patience=20,
    augmentation=Augmentation(),
    sharpness=Sharpness(2.0, adaptive=True),
    optimizer="sgd",
)
"""The paper's rate, momentum and radius.

Departure: it runs 100 epochs at a constant rate; here the rate falls to zero in 20.
"""

# Only how it trains sets it apart.
ft_sam = fine_tune
