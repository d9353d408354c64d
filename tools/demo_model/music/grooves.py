"""Drum patterns: one bar of sixteenths a lane, X accented, x struck, - soft, . silent.

Invariant: every lane of a groove has one character a sixteenth, 16 or, in three, 12.
"""

from __future__ import annotations

from collections.abc import Mapping

GROOVES: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "four on the floor": (
        {
            "k": "X...X...X...X...",
            "c": "....x.......x...",
            "h": "..-...-...-...-.",
            "o": "..x...x...x...x.",
        },
        {"k": "X...X...X...X..-", "c": "....x.......x...", "h": "x-x-x-x-x-x-x-x-"},
    ),
    "techno": (
        {"k": "X...X...X...X...", "h": "..x...x...x...x.", "p": "...x..x....x..x."},
        {
            "k": "X...X...X...X...",
            "h": "x-x-x-x-x-x-x-x-",
            "c": "....x.......x...",
            "t": "...........-..-.",
        },
    ),
    "rock": (
        {"k": "X.......X.x.....", "s": "....X.......X...", "h": "x.x.x.x.x.x.x.x."},
        {"k": "X..x....x.x.....", "s": "....X.......X..-", "h": "x.x.x.x.x.x.x.x."},
        {"k": "X.x.....X.......", "s": "....X.......X...", "o": "x...x...x...x..."},
    ),
    "metal": (
        {"k": "X.xxX.xxX.xxX.xx", "s": "....X.......X...", "o": "x...x...x...x..."},
        {"k": "X.X.X.X.X.X.X.X.", "s": "....X.......X...", "h": "x.x.x.x.x.x.x.x."},
    ),
    "funk": (
        {"k": "X.x....-..x..x..", "s": "....X..-.-..X..-", "h": "x-x-x-x-x-x-x-x-"},
        {
            "k": "X..x..x...x.....",
            "s": "....X..-.-.-X...",
            "h": "x.x-x.x-x.x-x.x-",
            "o": "..............x.",
        },
    ),
    "hip hop": (
        {"k": "X......x..x.....", "s": "....X.......X...", "h": "x.x.x.x.x.x.x.x."},
        {"k": "X.x....x.x......", "s": "....X.......X..-", "h": "x.x-x.x.x.x-x.x."},
    ),
    "trap": (
        {"k": "X......x..x...x.", "c": "........X.......", "h": "x.x.x.xxx.x.xxxx"},
        {
            "k": "X..x......x.....",
            "c": "........X.......",
            "h": "x.x.x.x.x.xxx.x.",
            "o": "..............x.",
        },
    ),
    "break": (
        {"k": "X.x.......x.....", "s": "....X..-.-..X..-", "h": "x.x.x.x.x.x.x.x."},
        {"k": "X.........x..x..", "s": "....X..-....X.-.", "h": "x.xxx.x.x.xxx.x."},
    ),
    "swing": (
        {
            "o": "x...x.x.x...x.x.",
            "h": "....x.......x...",
            "k": "x.........-.....",
            "s": "......-.........",
        },
        {
            "o": "x...x.x.x...x.x.",
            "h": "....x.......x...",
            "k": "x.......-.......",
            "s": "..-...........-.",
        },
    ),
    "shuffle": (
        {"k": "X.......X.....x.", "s": "....X.......X...", "h": "x.x.x.x.x.x.x.x."},
        {"k": "X.....x.X.......", "s": "....X.......X.-.", "h": "x.x.x.x.x.x.x.x."},
    ),
    "one drop": (
        {
            "k": "........X.......",
            "c": "........x.......",
            "h": "x.x.x.x.x.x.x.x.",
            "p": "..............-.",
        },
        {"k": "........X.....-.", "s": "........x.......", "h": "x-x.x-x.x-x.x-x."},
    ),
    "latin": (
        {
            "k": "X..x....X..x....",
            "c": "x..x..x...x.x...",
            "h": "x-x-x-x-x-x-x-x-",
            "p": "..x...xx..x...xx",
        },
        {
            "k": "X.....x.X.....x.",
            "c": "..x.x...x..x..x.",
            "p": "x.xx.xx.x.xx.xx.",
            "t": "......x.......x.",
        },
    ),
    "bossa": (
        {"k": "x..-x..-x..-x..-", "c": "x..x..x...x..x..", "h": "x-x-x-x-x-x-x-x-"},
        {"k": "x..-x..-x..-x..-", "c": "..x..x..x..x..x.", "p": "x-x-x-x-x-x-x-x-"},
    ),
    "tribal": (
        {"k": "X...X...X...X...", "t": "..x..x..x..x.x..", "p": "x.xx.xx.x.xx.xx."},
        {"k": "X..x..x.X..x..x.", "t": "....x..x....x.xx", "p": "x-x-x-x-x-x-x-x-"},
    ),
    "march": (
        {"k": "X.......X.......", "s": "..x.x.xx..x.x-x-", "x": "................"},
        {"k": "X...x...X...x...", "s": "x.xxx.x.x.xxxxxx", "x": "................"},
    ),
    "waltz": (
        {"k": "x...........", "c": "....x...x...", "h": "x...x...x..."},
        {"k": "x.........-.", "s": "....-...-...", "o": "x...x...x.-."},
    ),
    "brushes": (
        {"s": "-...x...-...x...", "k": "x.......-.......", "h": "....-.......-..."},
        {"s": "-.-.x.-.-.-.x.-.", "k": "x.......x.......", "p": "..-...-...-...-."},
    ),
    "sparse": (
        {"k": "x...............", "c": "........x.......", "h": "....-.......-..."},
        {"k": "x.........-.....", "c": "........x.......", "p": "..-...-...-...-."},
    ),
}

# The last bar of a phrase: from its second half on these replace the groove's snare and toms.
FILLS: tuple[Mapping[str, str], ...] = (
    {"s": "........x.x.xxxx"},
    {"t": "........x..x..x.", "s": "........-.x.-.xX"},
    {"s": "............xxxX"},
    {"t": "............xx.x", "k": "........X...x..."},
)
FILL_FROM = 8  # sixteenths; a bar of three has its fill a beat earlier

STRENGTH: Mapping[str, int] = {"X": 1, "x": 0, "-": -1}
