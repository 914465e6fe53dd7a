"""Made-up data, and a terminal to look at, for the tests of the verbs."""

import os
import pty
import re
import subprocess
import sys

import numpy as np
from PIL import Image


def write_images(root, classes=("dark", "light"), count=12, parts=("train",), size=(10, 8), step=150):
    rng = np.random.default_rng(0)
    for part in parts:
        for level, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (*size, 3)) + step * level
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")


def write_table(path, rows=90, target="kind", seed=0, kinds="ab"):
    rng = np.random.default_rng(seed)
    lines = [f"x,colour,{target}"]
    for number in range(rows):
        colour = ("red", "green", "blue")[rng.integers(3)]
        value = kinds[number % len(kinds)] if target == "kind" else f"{100 + 7 * rng.normal():.3f}"
        lines.append(f"{rng.normal() + number % 2:.4f},{colour},{value}")
    path.write_text("\n".join(lines) + "\n")


def on_terminal(cwd, *arguments, term="xterm-256color"):
    """Exit code and text of ``dltrain`` where stdout and stderr are a terminal of the kind ``term``, if any."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "120", "LINES": "60"}
    if term is None:
        del environment["TERM"]
    command = [sys.executable, "-m", "dltrain", *arguments]
    process = subprocess.Popen(command, cwd=cwd, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    return process.wait(timeout=60), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
