"""Pictures of digits with what a network says of them: in the terminal, and as a PNG."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHADES = " ░▒▓█"
BESIDE = 4  # pictures in a row of the terminal
COLUMNS, SIDE, CAPTION, MARGIN = 10, 64, 16, 8  # of the PNG; in pixels but for the first


def draw_in_terminal(images: np.ndarray, answers: np.ndarray, labels: np.ndarray) -> str:
    """Lines of text.

    Args:
        images: (batch, 8, 8, 1) in 0…1.
        answers: (batch, classes) probabilities.
        labels: (batch,) what is right.
    """
    blocks = [
        ["".join(SHADES[round(float(grey) * 4)] * 2 for grey in row) for row in image[..., 0]]
        + [_caption(answer, label).ljust(16)]
        for image, answer, label in zip(images, answers, labels, strict=True)
    ]
    rows = [blocks[start : start + BESIDE] for start in range(0, len(blocks), BESIDE)]
    lines = ["  ".join(parts) for row in rows for parts in (*zip(*row, strict=True), ("",))]
    return "\n".join(line.rstrip() for line in lines)


def save_png(path: Path, images: np.ndarray, answers: np.ndarray, labels: np.ndarray) -> None:
    """A sheet of images, each with the answer below it: green where it is right, red where it is wrong."""
    cell = SIDE + MARGIN
    height = cell + CAPTION
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * cell + MARGIN, rows * height + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (image, answer, label) in enumerate(zip(images, answers, labels, strict=True)):
        left, top = MARGIN + number % COLUMNS * cell, MARGIN + number // COLUMNS * height
        grey = Image.fromarray((255 - image[..., 0] * 255).astype("uint8"))
        sheet.paste(grey.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
        colour = "green" if answer.argmax() == label else "red"
        pen.rectangle((left - 1, top - 1, left + SIDE, top + SIDE), outline=colour)
        pen.text((left, top + SIDE + 2), _caption(answer, label), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _caption(answer: np.ndarray, label: int) -> str:
    said = f"{answer.argmax()} ({answer.max():.0%})"
    return said if answer.argmax() == label else f"{said}, is {label}"
