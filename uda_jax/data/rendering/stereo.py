"""Disparity of a rectified pair of images by semi-global block matching, in NumPy.

A stand-in for the stereo depth that real cameras come with: it sees two photographs and nothing else, and leaves holes
where they do not say how far something is. The steps and their order are those of the usual matchers:

1. Cost of a candidate disparity: how many comparisons of a pixel with its neighbours come out differently in the two
   images (census transform), summed over a block.
2. Semi-global aggregation along the four axis directions of the image.
3. The cheapest candidate, refined below a pixel from the costs of its neighbours.
4. Tests: the right image agrees, no other candidate is nearly as cheap, the block has texture that matches.
5. A median over the neighbours, and removal of small islands.

Source: H. Hirschmüller, Stereo Processing by Semiglobal Matching and Mutual Information, TPAMI 2008; R. Zabih and
J. Woodfill, Non-parametric Local Transforms for Computing Visual Correspondence, ECCV 1994.
"""

import numpy as np

# Part of the key under which streets stores stereo depth: raise it whenever a disparity of any pair changes.
MATCHER_VERSION = "matcher-1"

# Costs count census bits. `python -m benchmarks.stereo_depth` shows what these constants lead to.
_NEIGHBOURS = (2, 4)  # rows and columns that a pixel is compared with, to either side
_BITS = (2 * _NEIGHBOURS[0] + 1) * (2 * _NEIGHBOURS[1] + 1) - 1
_BLOCK = 1  # pixels to either side that share the cost of a pixel
_BLOCK_AREA = (2 * _BLOCK + 1) ** 2
_SMALL_STEP = 11 * _BLOCK_AREA  # a disparity one more or less than the neighbour's, as on slanted surfaces
_LARGE_STEP = 67 * _BLOCK_AREA  # any other jump
_FAR = np.int16(20_000)  # above every cost, and still an int16 with a step added

_AGREEMENT = 1.0  # pixels by which the match may differ from that of the right image
_UNIQUENESS = 0.85  # cost of the match, at most, as a share of the best cost that is not next to it
_CONTRAST = 0.09 * _BITS * _BLOCK_AREA  # by how much a match must be cheaper than candidates are on average,
_CONTRAST_WINDOW = 4  # in the mean over so many pixels to either side
_SMALLEST = 0.5  # pixels; below it the distance is anyone's guess
_ISLAND = 16  # pixels that a connected region needs at least


def disparity(left: np.ndarray, right: np.ndarray, *, candidates: int) -> np.ndarray:
    """Matches a rectified pair: the point at column x of the left image is at column x - disparity of the right one.

    Args:
      left, right: uint8 `[H, W, 3]`.
      candidates: whole disparities 0, 1 ... that are tried; nearer points stay without a value.

    Returns:
      float32 `[H, W]`, pixels of the left image, 0 = invalid. The same pair gives the same bytes.
    """
    candidates = min(candidates, left.shape[1])
    costs = _block_costs(_census(left), _census(right), candidates)
    paths = _sweeps(costs.transpose(1, 0, 2)).transpose(1, 0, 2)
    paths = paths + _sweeps(costs.transpose(2, 0, 1)).transpose(1, 2, 0)
    best = paths.argmin(0)
    result = _refined(paths, best)
    valid = (best < candidates - 1) & (result >= _SMALLEST)
    valid &= _unique(paths, best) & _contrasted(costs, best) & _agreed(paths, result)
    result = _median(np.where(valid, result, 0))
    return np.where(_islands(result) < _ISLAND, 0, result).astype(np.float32)


def _census(image: np.ndarray) -> np.ndarray:
    """Returns uint64 `[H, W]` of an image `[H, W, 3]`: one bit per neighbour of a pixel, set if it is brighter."""
    brightness = image.sum(-1, dtype=np.int16)
    height, width = brightness.shape
    rows, columns = _NEIGHBOURS
    padded = np.pad(brightness, ((rows, rows), (columns, columns)), "edge")
    result = np.zeros(brightness.shape, np.uint64)
    for row in range(2 * rows + 1):
        for column in range(2 * columns + 1):
            if (row, column) != _NEIGHBOURS:
                result <<= np.uint64(1)
                result |= padded[row : row + height, column : column + width] > brightness
    return result


def _block_costs(left: np.ndarray, right: np.ndarray, candidates: int) -> np.ndarray:
    """Returns int16 `[D, H, W]`: differing census bits per candidate, summed over the block around each pixel."""
    height, width = left.shape
    # What would be matched beyond the edge of the right image differs in every bit.
    bits = np.full((candidates, height, width), _BITS, np.int16)
    for shift in range(candidates):
        bits[shift, :, shift:] = np.bitwise_count(left[:, shift:] ^ right[:, : width - shift])
    return _window_sums(bits, _BLOCK)


def _window_sums(values: np.ndarray, reach: int) -> np.ndarray:
    """Returns `[..., H, W]` sums over the square of 2 * reach + 1 pixels around each; the image's edge is repeated."""
    height, width = values.shape[-2:]
    padded = np.pad(values, [(0, 0)] * (values.ndim - 2) + [(reach, reach)] * 2, "edge")
    columns = sum(padded[..., k : k + width] for k in range(2 * reach + 1))
    return sum(columns[..., k : k + height, :] for k in range(2 * reach + 1))


def _sweeps(costs: np.ndarray) -> np.ndarray:
    """Aggregates costs `[N, D, L]` along N, forwards and backwards, on L lines side by side; returns the sum."""
    costs = np.ascontiguousarray(costs)
    total = np.zeros_like(costs)
    for order in (range(len(costs)), range(len(costs) - 1, -1, -1)):
        # The candidates of the pixel before, between two that nothing reaches.
        before = np.full((costs.shape[1] + 2, costs.shape[2]), _FAR)
        before[1:-1] = 0
        for k in order:
            same = before[1:-1]
            lowest = same.min(0)
            path = np.minimum(before[:-2], before[2:]) + np.int16(_SMALL_STEP)
            np.minimum(path, same, out=path)
            np.minimum(path, lowest + np.int16(_LARGE_STEP), out=path)
            path += costs[k]
            # Without this the sums would grow along the line.
            path -= lowest
            total[k] += path
            before[1:-1] = path
    return total


def _at(costs: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Returns the costs `[D, H, W]` of one candidate per pixel `[H, W]`, as float32."""
    return np.take_along_axis(costs, candidate[None], 0)[0].astype(np.float32)


def _refined(costs: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Returns `best` moved to the tip of the V through its cost and those of its two neighbours.

    Counts of differing bits rise at once on either side of a match. A parabola, flat there, measures worse.
    """
    last = len(costs) - 1
    low, middle, high = (_at(costs, np.clip(best + step, 0, last)) for step in (-1, 0, 1))
    rise = np.maximum(low, high) - middle
    # At either end of the range there is but one neighbour.
    inner = (best > 0) & (best < last) & (rise > 0)
    offset = np.divide(low - high, 2 * rise, out=np.zeros_like(rise), where=inner)
    return best.astype(np.float32) + offset


def _unique(costs: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Returns which pixels have no other candidate, but those next to the best, of nearly the same cost."""
    others = costs.copy()
    for step in (-1, 0, 1):
        np.put_along_axis(others, np.clip(best + step, 0, len(costs) - 1)[None], _FAR, 0)
    return _at(costs, best) <= _UNIQUENESS * others.min(0)


def _contrasted(costs: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Returns which pixels lie in texture that matches better than chance: blank surfaces and noise do not."""
    width = costs.shape[2]
    # Candidates beyond the edge of the right image would raise the average.
    inside = np.arange(len(costs))[:, None] <= np.arange(width)
    average = np.where(inside[:, None], costs, 0).sum(0) / inside.sum(0)
    window = (2 * _CONTRAST_WINDOW + 1) ** 2
    return _window_sums(average - _at(costs, best), _CONTRAST_WINDOW) >= _CONTRAST * window


def _agreed(costs: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Returns which pixels' matches the right image would choose, too: occluded points have none."""
    candidates, height, width = costs.shape
    # Column x of the right image sees candidate d at column x + d of the left one.
    mirrored = np.full_like(costs, _FAR)
    for shift in range(candidates):
        mirrored[shift, :, : width - shift] = costs[shift, :, shift:]
    chosen = mirrored.argmin(0)
    column = np.rint(np.arange(width) - result).astype(np.intp)
    opposite = np.take_along_axis(chosen, np.maximum(column, 0), 1)
    return (column >= 0) & (np.abs(opposite - result) <= _AGREEMENT)


def _median(result: np.ndarray) -> np.ndarray:
    """Replaces valid values by the median of the valid ones among 3x3."""
    height, width = result.shape
    padded = np.pad(np.where(result > 0, result, np.nan), 1, constant_values=np.nan)
    # Sorting puts NaN last.
    stack = np.sort([padded[row : row + height, column : column + width] for row in range(3) for column in range(3)], 0)
    count = np.isfinite(stack).sum(0)
    middles = (np.take_along_axis(stack, np.maximum(k, 0)[None], 0)[0] for k in ((count - 1) // 2, count // 2))
    return np.where(result > 0, sum(middles) / 2, 0)


def _islands(result: np.ndarray) -> np.ndarray:
    """Returns per pixel the size of its region: neighbours belong together that differ by at most a pixel."""
    index = np.arange(result.size).reshape(result.shape)
    joined = [], []
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        close = (result[one] > 0) & (result[other] > 0) & (np.abs(result[one] - result[other]) <= 1)
        joined[0].append(index[one][close])
        joined[1].append(index[other][close])
    first, second = map(np.concatenate, joined)
    # Every pixel points at one of its region that comes earlier, in the end all at the very first.
    root = index.ravel()
    while (root[first] != root[second]).any():
        a, b = root[first], root[second]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]
    return np.bincount(root, minlength=result.size)[root].reshape(result.shape)
