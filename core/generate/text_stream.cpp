#include "generate/text_stream.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace espalier
{

namespace
{

// Tokens before a piece that are decoded with it: what a tokenizer does at the beginning of a text is done to those.
constexpr std::size_t kContext = 6;
constexpr std::string_view kIncomplete = "\xEF\xBF\xBD";

}  // namespace

TextStream::TextStream(const Tokenizer* tokenizer, std::span<const int> prompt, std::vector<std::string> stop)
    : m_tokenizer(tokenizer), m_stop(std::move(stop))
{
    std::erase(m_stop, "");
    const std::size_t kept = std::min(prompt.size(), kContext);
    m_ids.assign(prompt.end() - static_cast<std::ptrdiff_t>(kept), prompt.end());
    m_done = m_ids.size();
}

std::string TextStream::decoded(bool complete)
{
    const auto text = [this](std::size_t end) { return m_tokenizer->decode(std::span(m_ids).subspan(m_context, end - m_context), true); };
    const std::string before = text(m_done);
    std::string all = text(m_ids.size());
    if (all.size() <= before.size()) return {};
    if (!complete && std::string_view(all).ends_with(kIncomplete)) return {};
    m_context = m_done;
    m_done = m_ids.size();
    return all.substr(before.size());
}

// What of the held text may be given: all up to a stop string, or to where one may begin.
std::string TextStream::settle(bool last)
{
    std::size_t end = m_held.size();
    for (const std::string& stop : m_stop)
        if (const std::size_t found = m_held.find(stop); found != std::string::npos && found <= end) {
            end = found;
            m_stopped = true;
        }
    if (!m_stopped && !last)
        for (const std::string& stop : m_stop)
            for (std::size_t length = std::min(stop.size() - 1, m_held.size()); length > 0; --length)
                if (std::string_view(m_held).ends_with(std::string_view(stop).substr(0, length))) {
                    end = std::min(end, m_held.size() - length);
                    break;
                }
    std::string piece = m_held.substr(0, end);
    m_held.erase(0, m_stopped ? m_held.size() : end);
    m_given += piece;
    return piece;
}

std::string TextStream::add(int id)
{
    if (!m_tokenizer || m_stopped) return {};
    m_ids.push_back(id);
    m_held += decoded(false);
    return settle(false);
}

std::string TextStream::peek(int id) const
{
    if (!m_tokenizer) return {};
    std::vector<int> ids(m_ids.begin() + static_cast<std::ptrdiff_t>(m_context), m_ids.end());
    const std::size_t before = m_tokenizer->decode(ids, false).size();
    ids.push_back(id);
    const std::string all = m_tokenizer->decode(ids, false);
    return all.substr(std::min(before, all.size()));
}

std::string TextStream::finish()
{
    if (!m_tokenizer || m_stopped) return {};
    m_held += decoded(true);
    return settle(true);
}

}  // namespace espalier
