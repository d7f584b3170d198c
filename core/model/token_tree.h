// Many sequences with common beginnings as one row: every beginning is there once.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <vector>

namespace espalier
{

// A token of the row follows another one of it, or begins a sequence. It sees itself and what leads to it, at the position it has in its
// sequence. Belongs to one thread.
class TokenTree
{
public:
    // parents [T]: index of the token before, smaller than the token's own; -1 begins a sequence.
    explicit TokenTree(std::vector<int> parents);

    std::int64_t size() const { return static_cast<std::int64_t>(m_positions.size()); }
    const std::vector<int>& positions() const { return m_positions; }  // [T], from 0
    std::int64_t positionCount() const;                                // the largest, plus one
    // What attention adds to its scores, [T,T]: 0 where a token (row) sees another one (column), -infinity elsewhere. window 0: no limit.
    const at::Tensor& mask(int window, at::ScalarType compute, c10::Device device) const;

private:
    std::vector<int> m_parents, m_positions;
    mutable std::map<int, at::Tensor> m_masks;
};

}  // namespace espalier
