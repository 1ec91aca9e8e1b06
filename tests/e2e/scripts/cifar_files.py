"""Writes files in CIFAR-10's binary form, of generated images: each class has a colour and a direction of stripes."""

import os
import random


def write(folder, images_per_file=150, files=2):
    """data_batch_1.bin …, and test_batch.bin."""
    chance = random.Random(3)
    names = ["data_batch_%d.bin" % (number + 1) for number in range(files)] + ["test_batch.bin"]
    for name in names:
        with open(os.path.join(folder, name), "wb") as file:
            for number in range(images_per_file):
                file.write(record(number % 10, chance))
    return folder


def record(label, chance):
    """One image: the label's stripes with noise."""
    planes = bytearray([label])
    for channel in range(3):
        brightness = 60 + 60 * ((label >> channel) & 1)
        for row in range(32):
            for column in range(32):
                stripe = 60 if (row if label % 2 else column) // 4 % 2 else 0
                planes.append(max(0, min(255, brightness + stripe + chance.randint(-20, 20))))
    return bytes(planes)
