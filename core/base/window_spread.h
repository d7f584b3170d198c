// Which windows of a text stand for all of it: a few, spread evenly, so that no part of the text decides alone.
#pragma once

#include <vector>

namespace espalier
{

// The middles of `wanted` equal parts of the windows 0 .. count - 1, ascending; all of them where no more are there.
std::vector<int> spreadWindows(int count, int wanted);

}  // namespace espalier
