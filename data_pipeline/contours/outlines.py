"""The polygons around a mask's pixels."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

Step = tuple[int, int, int]
"""From corner (row, column) one pixel side on in a direction, an index of `_MOVES`."""

# Right, down, left, up: each is a right turn from the one before, and has that one's direction on its left hand.
_MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0))
# Where a pixel's top, right, bottom and left side start when walked in these directions, from its top left corner.
_STARTS = ((0, 0), (0, 1), (1, 1), (1, 0))


def outlines(mask: Bool[np.ndarray, "height width"]) -> list[Float[np.ndarray, "points 2"]]:
    """The closed polygons along the edges of a mask's pixels, one for each island of edge-connected pixels.

    Holes are joined to their island's outer boundary by a keyhole, a channel of no width that is walked in and out
    (PS3.3 C.8.8.6.3): then readers that unite contours and readers that subtract inner ones see the same mask.

    Every pixel side with background beyond it is a step that keeps the pixel on its right hand, and a channel is steps
    both ways. A walk that always takes the rightmost step then runs once around each island, its holes included:

        1─────2,8───────9     1 → 2 along the top, down the channel to 3, around the hole by 4, 5 and 6 to 7 (where 3
        │      │        │     is, too), up the channel to 8, and on to 9, 10 and 11.
        │     3,7──6    │
        │      │   │    │
        │      4───5    │
        11─────────────10

    Args:
        mask: one slice.

    Returns:
        Corner points (row, column) in pixels, clockwise as seen with rows downward; whole numbers are pixel centres, so
        that corners are at halves. The first point is not repeated at the end, and none is within a straight side.
    """
    inside = np.pad(mask.astype(bool), 1)
    steps = _channels(inside)
    for direction, (down, right) in enumerate(_STARTS):
        outward = _MOVES[direction - 1]
        beyond = np.roll(inside, (-outward[0], -outward[1]), axis=(0, 1))
        steps.update((row + down, column + right, direction) for row, column in np.argwhere(inside & ~beyond).tolist())
    # Corner (row, column) is the top left one of that pixel in the padded plane.
    return [np.array(_walk(step, steps), dtype=float) - 1.5 for step in sorted(steps) if step in steps]


def _channels(inside: Bool[np.ndarray, "height width"]) -> set[Step]:
    """Steps both ways between every hole's highest corner and the next boundary straight above it.

    That boundary is the same island's (only its pixels are on both sides of the channel), and it begins higher up than
    the hole: from hole to hole the channels lead outside, never in a circle.
    """
    background = np.empty(inside.shape, np.int32)
    ndimage.label(~inside, structure=np.ones((3, 3)), output=background)
    regions, first_pixels = np.unique(background, return_index=True)  # in raster order: the highest row's leftmost
    holes = first_pixels[(regions != 0) & (regions != background[0, 0])]  # neither the mask nor the outside
    steps: set[Step] = set()
    for row, column in np.column_stack(np.unravel_index(holes, inside.shape)).tolist():
        while True:
            steps |= {(row - 1, column, 1), (row, column, 3)}
            row -= 1
            if not inside[row - 1 : row + 1, column - 1 : column + 1].all():
                break
    return steps


def _walk(start: Step, steps: set[Step]) -> list[tuple[int, int]]:
    """Take the closed walk that begins with `start` out of `steps`; returns the corners where it turns."""
    corners = []
    step = start
    while True:
        steps.remove(step)
        row, column, direction = step
        row, column = row + _MOVES[direction][0], column + _MOVES[direction][1]
        turns = ((row, column, (direction + turn) % 4) for turn in (1, 0, -1))
        step = next(turn for turn in turns if turn in steps or turn == start)
        if step[2] != direction:
            corners.append((row, column))
        if step == start:
            return corners
