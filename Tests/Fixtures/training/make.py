#!/usr/bin/env python3
"""Trains a small transformer with PyTorch and writes its weights, its batches and its losses to run.safetensors.

    Benchmarks/.venv/bin/python Tests/Fixtures/training/make.py

The model: an embedding, two blocks of nn.TransformerEncoderLayer without dropout (the first with norms after its sublayers and ReLU, the
second with norms before them and GELU), a layer norm and a linear layer. It predicts the next of 17 characters. Two runs of 50 steps
begin with the same weights: AdamW with decay, clipped gradients and a cosine schedule; SGD with Nesterov's momentum.
"""

import math
import os

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
VOCABULARY, D, HEADS, INNER, LENGTH, BATCH, STEPS = 17, 16, 4, 32, 12, 4, 50


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, D)
        self.layers = torch.nn.ModuleList([
            torch.nn.TransformerEncoderLayer(D, HEADS, INNER, dropout=0, activation="relu", batch_first=True),
            torch.nn.TransformerEncoderLayer(
                D, HEADS, INNER, dropout=0, activation="gelu", batch_first=True, norm_first=True)])
        self.norm = torch.nn.LayerNorm(D)
        self.head = torch.nn.Linear(D, VOCABULARY)

    def forward(self, tokens):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        return self.head(self.norm(x))


def train(model, tokens, optimizer, schedule):
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        logits = model(tokens[step, :, :-1].long())
        targets = tokens[step, :, 1:].long().clone()
        targets[:, 0] = -100
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def main():
    torch.manual_seed(1)
    model = Model()
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    # Each character follows from the one before it, mostly.
    tokens = torch.randint(0, VOCABULARY, (STEPS, BATCH, LENGTH + 1), dtype=torch.int32)
    for place in range(2, LENGTH + 1):
        rule = (3 * tokens[:, :, place - 1] + 1) % VOCABULARY
        tokens[:, :, place] = torch.where(torch.rand(STEPS, BATCH) < 0.9, rule, tokens[:, :, place])

    def cosine(step):
        return 1e-2 * step / 5 if step < 5 else 1e-2 * 0.5 * (1 + math.cos(math.pi * (step - 5) / (STEPS - 5)))

    adamw = train(model, tokens, torch.optim.AdamW(model.parameters(), weight_decay=0.1), cosine)
    trained = {"trained." + name: value.detach().clone() for name, value in model.named_parameters()}
    model.load_state_dict(weights)
    sgd = train(
        model, tokens, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
        lambda step: 0.1)
    save_file(
        weights | trained | {"tokens": tokens, "losses.adamw": adamw, "losses.sgd": sgd},
        os.path.join(HERE, "run.safetensors"), metadata={"torch": torch.__version__})
    print(f"AdamW {adamw[0]:.4f} to {adamw[-1]:.4f}, SGD {sgd[0]:.4f} to {sgd[-1]:.4f}")


if __name__ == "__main__":
    main()
