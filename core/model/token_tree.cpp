#include "model/token_tree.h"

#include <algorithm>
#include <limits>

namespace espalier
{

TokenTree::TokenTree(std::vector<int> parents) : m_parents(std::move(parents))
{
    m_positions.reserve(m_parents.size());
    for (const int parent : m_parents)
        m_positions.push_back(parent < 0 ? 0 : m_positions[static_cast<std::size_t>(parent)] + 1);
}

std::int64_t TokenTree::positionCount() const
{
    return m_positions.empty() ? 0 : *std::max_element(m_positions.begin(), m_positions.end()) + 1;
}

const at::Tensor& TokenTree::mask(int window, at::ScalarType compute, c10::Device device) const
{
    at::Tensor& mask = m_masks[window];
    if (mask.defined()) return mask;
    at::Tensor seen = at::full({size(), size()}, -std::numeric_limits<float>::infinity(), at::kFloat);
    auto* row = seen.mutable_data_ptr<float>();
    for (std::int64_t token = 0; token < size(); ++token, row += size()) {
        int left = window > 0 ? window : std::numeric_limits<int>::max();
        for (int at = static_cast<int>(token); at >= 0 && left > 0; at = m_parents[static_cast<std::size_t>(at)], --left)
            row[at] = 0;
    }
    mask = seen.to(compute).to(device);
    return mask;
}

}  // namespace espalier
